package installtest

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/vm"
)

// FactsFile is the name of the facts in a report's directory.
const FactsFile = "system.facts.json"

// factsFormat is written into the file and asked for when one is read.
const factsFormat = 1

// maxFacts bounds what the machine prints, unpacked, in bytes.
const maxFacts = 64 << 20

// Facts is what an installed system is made of, as far as two installations of
// one host should agree in it. Each class maps a name to a value that people
// can read. Times of files are not among them: no two installations share any.
// Nor are passwords and their hashes.
type Facts struct {
	Format int    `json:"format"`
	Host   string `json:"host"`
	// Site is the SHA-256 of the agent's site file without its key install.
	Site string `json:"site"`
	// Identities are the names that only this machine has, UUIDs mostly, and
	// what each of them names: two machines agree where both name the same.
	Identities map[string]string `json:"identities"`

	Packages     Class `json:"packages"`     // name:architecture → version, status
	Manual       Class `json:"manual"`       // packages that apt takes for wanted
	Verify       Class `json:"verify"`       // path → what dpkg --verify says of it
	Conffiles    Class `json:"conffiles"`    // path → MD5 as dpkg knows it, package
	Diversions   Class `json:"diversions"`   // dpkg-divert's lines
	Overrides    Class `json:"overrides"`    // path → owner and mode, dpkg-statoverride
	Alternatives Class `json:"alternatives"` // name → auto or manual, path
	Debconf      Class `json:"debconf"`      // question → value, flags; no passwords
	Users        Class `json:"users"`        // getent passwd
	Groups       Class `json:"groups"`       // getent group
	Shadow       Class `json:"shadow"`       // user → kind of password, ages
	GShadow      Class `json:"gshadow"`      // group → kind of password, members
	Units        Class `json:"units"`        // unit file → state, preset
	Etc          Class `json:"etc"`          // path → type, mode, owner, link
	Content      Class `json:"content"`      // path of a file in /etc → SHA-256
	Texts        Class `json:"texts"`        // path of a file in /etc → its text
	Other        Class `json:"other"`        // as Etc: /boot, /home, /opt, /root, /srv, /usr/local
	Privileged   Class `json:"privileged"`   // as Etc: setuid and setgid files below /usr
	Capabilities Class `json:"capabilities"` // path below /usr → capabilities
	Kernel       Class `json:"kernel"`       // parameters of the command line
	Mounts       Class `json:"mounts"`       // target → source, type, options
	Blocks       Class `json:"blocks"`       // block device → what it is
	LVM          Class `json:"lvm"`          // physical volume, volume group, logical volume → what it is
}

// Class is one class of facts.
type Class map[string]string

// namedClass is a class as a report calls it.
type namedClass struct {
	name  string
	class Class
}

// classes lists all of them in the order of a report, Texts aside: they stand
// for the content of their files.
func (f *Facts) classes() []namedClass {
	return []namedClass{
		{"package", f.Packages}, {"manually installed", f.Manual}, {"dpkg --verify", f.Verify},
		{"conffile", f.Conffiles}, {"diversion", f.Diversions}, {"stat override", f.Overrides},
		{"alternative", f.Alternatives}, {"debconf", f.Debconf}, {"user", f.Users}, {"group", f.Groups},
		{"shadow", f.Shadow}, {"gshadow", f.GShadow}, {"unit", f.Units}, {"path", f.Etc}, {"content", f.Content},
		{"other path", f.Other}, {"setuid", f.Privileged}, {"capabilities", f.Capabilities},
		{"kernel command line", f.Kernel}, {"mount", f.Mounts}, {"block device", f.Blocks}, {"LVM", f.LVM},
	}
}

//go:embed facts.sh
var factsTemplate string

// texts are the files that name the machine's disks and itself, and no secret:
// they are compared as text, with names of the machine's own left out.
var texts = []string{
	"/etc/crypttab", "/etc/fstab", "/etc/hostname", "/etc/hosts", "/etc/initramfs-tools/conf.d/resume",
	"/etc/mailname", "/etc/mdadm/mdadm.conf",
}

func factsScript() string {
	return strings.Replace(factsTemplate, "TEXTS", strings.Join(texts, " "), 1)
}

// CollectFacts asks the running system. It changes nothing there.
func CollectFacts(ctx context.Context, sh *vm.Shell) (Facts, error) {
	out, err := sh.Run(ctx, factsScript())
	// systemd answers within 25 s or not at all, which an emulated machine on a
	// busy one does not always manage.
	for range 2 {
		if e := new(vm.ExitError); !errors.As(err, &e) {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Second):
			out, err = sh.Run(ctx, factsScript())
		}
	}
	if err != nil {
		return Facts{}, fmt.Errorf("cannot collect the facts of the system: %w", err)
	}
	f, err := parseFacts([]byte(out))
	if err != nil {
		return Facts{}, fmt.Errorf("cannot collect the facts of the system: %w", err)
	}
	return f, nil
}

// ReadFacts reads the facts in the directory of a report.
func ReadFacts(dir string) (Facts, error) {
	path := filepath.Join(dir, FactsFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Facts{}, hint.New(fmt.Errorf("cannot read facts: %w", err), "a report has them when its run came to the checks of the system")
	}
	if err != nil {
		return Facts{}, fmt.Errorf("cannot read facts: %w", err)
	}
	var f Facts
	if err := json.Unmarshal(data, &f); err != nil {
		return Facts{}, fmt.Errorf("cannot read facts: %s: %w", path, err)
	}
	if f.Format != factsFormat {
		return Facts{}, hint.New(fmt.Errorf("cannot read facts: %s has format %d; want %d", path, f.Format, factsFormat), "run the test that wrote it again")
	}
	return f, nil
}

// Write writes what ReadFacts reads into a directory that exists.
func (f *Facts) Write(dir string) error {
	data, err := json.MarshalIndent(f, "", "  ") // sorts the keys of maps
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, FactsFile), append(data, '\n'))
}

// parseFacts reads what the script printed. Whatever it does not know is an
// error: a fact that is not understood must not count as equal.
func parseFacts(packed []byte) (Facts, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return Facts{}, fmt.Errorf("%w: %q", err, packed[:min(len(packed), 200)])
	}
	data, err := io.ReadAll(io.LimitReader(z, maxFacts))
	if err != nil {
		return Facts{}, err
	}
	parts, err := splitParts(data)
	if err != nil {
		return Facts{}, err
	}
	p := &factsParser{parts: parts}
	f := Facts{
		Format: factsFormat, Host: strings.TrimSpace(p.take("host")), Site: strings.TrimRight(p.take("site"), " -\n"),
		Packages:     p.lines("packages", 3, 1),
		Manual:       p.lines("manual", 1, 1),
		Verify:       p.verify("verify"),
		Conffiles:    p.conffiles("conffiles"),
		Diversions:   p.whole("diversions"),
		Overrides:    p.overrides("overrides"),
		Alternatives: p.lines("alternatives", 3, 1),
		Debconf:      p.debconf("debconf"),
		Users:        p.colons("users", 7), Groups: p.colons("groups", 4),
		Shadow: p.colons("shadow", 9), GShadow: p.colons("gshadow", 4),
		Units: p.units("units"),
		Etc:   p.paths("etc"), Content: p.sums("sums"), Other: p.paths("other"), Privileged: p.paths("privileged"),
		Capabilities: p.capabilities("capabilities"),
		Kernel:       p.words("cmdline"),
		Mounts:       p.mounts("mounts"),
		Texts:        p.texts(),
	}
	f.Identities = make(map[string]string)
	f.Blocks = p.blocks("blocks", f.Identities)
	f.LVM = p.lvm(f.Identities)
	for name := range p.parts {
		p.fail(name, "not expected")
	}
	slices.SortFunc(p.problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return f, errors.Join(p.problems...)
}

// splitParts cuts the output at the headers of its parts.
func splitParts(data []byte) (map[string]string, error) {
	parts := make(map[string]string)
	for len(data) > 0 {
		head, rest, _ := bytes.Cut(data, []byte("\n"))
		h := strings.Fields(string(head))
		if len(h) != 4 {
			return nil, fmt.Errorf("cannot read header %q", head[:min(len(head), 100)])
		}
		var n [3]int
		for i := range n {
			v, err := strconv.Atoi(h[i+1])
			if err != nil || v < 0 || v > maxFacts {
				return nil, fmt.Errorf("cannot read header %q", head)
			}
			n[i] = v
		}
		status, out, said := n[0], n[1], n[2]
		if out+said > len(rest) {
			return nil, fmt.Errorf("part %q is cut off", h[0])
		}
		if status != 0 {
			return nil, fmt.Errorf("part %q: exit status %d: %s", h[0], status, strings.TrimSpace(string(rest[out:out+said])))
		}
		if _, twice := parts[h[0]]; twice {
			return nil, fmt.Errorf("part %q comes twice", h[0])
		}
		parts[h[0]] = string(rest[:out])
		data = rest[out+said:]
	}
	return parts, nil
}

// factsParser takes one part after the other and keeps what is wrong.
type factsParser struct {
	parts    map[string]string
	problems []error
}

func (p *factsParser) fail(part, format string, args ...any) {
	if len(p.problems) < 20 {
		p.problems = append(p.problems, fmt.Errorf("part %q: %s", part, fmt.Sprintf(format, args...)))
	}
}

func (p *factsParser) take(part string) string {
	text, ok := p.parts[part]
	if !ok {
		p.fail(part, "missing")
	}
	delete(p.parts, part)
	return text
}

// set adds a fact. A name that comes again gets both values.
func set(c Class, name, value string) {
	if old, twice := c[name]; twice {
		value = old + "; " + value
	}
	c[name] = value
}

func splitLines(text string) []string {
	if text = strings.TrimRight(text, "\n"); text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// lines reads lines of n fields; the first key of them are the name.
func (p *factsParser) lines(part string, n, key int) Class {
	c := make(Class)
	for _, line := range splitLines(p.take(part)) {
		f := strings.Fields(line)
		if len(f) != n {
			p.fail(part, "cannot read %q", line)
			continue
		}
		set(c, strings.Join(f[:key], " "), strings.Join(f[key:], " "))
	}
	return c
}

// whole takes each line as a name.
func (p *factsParser) whole(part string) Class {
	c := make(Class)
	for _, line := range splitLines(p.take(part)) {
		set(c, line, "")
	}
	return c
}

// words takes each word as a name, with the value behind "=".
func (p *factsParser) words(part string) Class {
	c := make(Class)
	for _, word := range strings.Fields(p.take(part)) {
		name, value, _ := strings.Cut(word, "=")
		set(c, name, value)
	}
	return c
}

// verify reads "??5??????   c /path" and "missing   c /path (why)", dpkg(1).
func (p *factsParser) verify(part string) Class {
	c := make(Class)
	for _, line := range splitLines(p.take(part)) {
		what, path, ok := strings.Cut(line, "/")
		if !ok {
			p.fail(part, "cannot read %q", line)
			continue
		}
		set(c, "/"+path, strings.Join(strings.Fields(what), " "))
	}
	return c
}

// conffiles reads a package's name, then its files: " /path md5 [flag]".
func (p *factsParser) conffiles(part string) Class {
	c := make(Class)
	owner := ""
	for _, line := range splitLines(p.take(part)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case line[0] != ' ' && len(f) == 1:
			owner = f[0]
		case line[0] == ' ' && owner != "" && len(f) >= 2 && strings.HasPrefix(f[0], "/"):
			set(c, f[0], strings.Join(append(f[1:], owner), " "))
		default:
			p.fail(part, "cannot read %q", line)
		}
	}
	return c
}

// overrides reads "user group mode path".
func (p *factsParser) overrides(part string) Class {
	c := make(Class)
	for _, line := range splitLines(p.take(part)) {
		f := strings.SplitN(line, " ", 4)
		if len(f) != 4 {
			p.fail(part, "cannot read %q", line)
			continue
		}
		set(c, f[3], strings.Join(f[:3], " "))
	}
	return c
}

// debconf reads the stanzas of debconf's database, see Debconf::DbDriver::Cache.
// Passwords are in a file of their own, which nobody reads here.
func (p *factsParser) debconf(part string) Class {
	c := make(Class)
	for _, stanza := range strings.Split(p.take(part), "\n\n") {
		name, value, flags := "", "", ""
		for _, line := range splitLines(strings.TrimLeft(stanza, "\n")) {
			if strings.HasPrefix(line, " ") {
				continue // variables, for texts on the screen
			}
			key, rest, ok := strings.Cut(line, ":")
			switch rest = strings.TrimSpace(rest); {
			case !ok:
				p.fail(part, "cannot read %q", line)
			case key == "Name":
				name = rest
			case key == "Value":
				value = rest
			case key == "Flags":
				flags = rest
			}
		}
		switch {
		case name != "":
			set(c, name, strings.TrimSpace(fmt.Sprintf("%q %s", value, flags)))
		case strings.TrimSpace(stanza) != "":
			p.fail(part, "a stanza has no name: %q", stanza[:min(len(stanza), 100)])
		}
	}
	return c
}

// colons reads lines of n fields with colons between them.
func (p *factsParser) colons(part string, n int) Class {
	c := make(Class)
	for _, line := range splitLines(p.take(part)) {
		name, rest, _ := strings.Cut(line, ":")
		if strings.Count(line, ":") != n-1 || name == "" {
			p.fail(part, "cannot read a line of %d fields", strings.Count(line, ":")+1) // it may hold a secret
			continue
		}
		set(c, name, rest)
	}
	return c
}

// units reads "name state preset"; there may be no preset, or "-".
func (p *factsParser) units(part string) Class {
	c := make(Class)
	for _, line := range splitLines(p.take(part)) {
		f := strings.Fields(line)
		if len(f) != 2 && len(f) != 3 {
			p.fail(part, "cannot read %q", line)
			continue
		}
		if len(f) == 2 {
			f = append(f, "-")
		}
		set(c, f[0], f[1]+", preset "+f[2])
	}
	return c
}

// fileTypes are those of find(1), %y.
var fileTypes = map[string]string{
	"f": "file", "d": "dir", "l": "link", "p": "fifo", "s": "socket", "c": "character device", "b": "block device",
}

// paths reads "type mode owner LF link LF path NUL".
func (p *factsParser) paths(part string) Class {
	c := make(Class)
	for _, record := range splitNUL(p.take(part)) {
		f := strings.SplitN(record, "\n", 3)
		if len(f) != 3 {
			p.fail(part, "cannot read %q", record)
			continue
		}
		head := strings.Fields(f[0])
		if len(head) != 3 || fileTypes[head[0]] == "" {
			p.fail(part, "cannot read %q", f[0])
			continue
		}
		value := fmt.Sprintf("%s %04s %s", fileTypes[head[0]], head[1], head[2])
		if head[0] == "l" {
			value = fmt.Sprintf("link %s -> %s", head[2], f[1])
		}
		set(c, f[2], value)
	}
	return c
}

var sumLine = regexp.MustCompile(`(?s)^([0-9a-f]{64})  (/.+)$`)

// sums reads "sha256  path NUL".
func (p *factsParser) sums(part string) Class {
	c := make(Class)
	for _, record := range splitNUL(p.take(part)) {
		m := sumLine.FindStringSubmatch(record)
		if m == nil {
			p.fail(part, "cannot read %q", record)
			continue
		}
		set(c, m[2], m[1])
	}
	return c
}

func splitNUL(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
}

// capabilities reads "path capabilities": getcap(8) escapes no blanks, but the
// capabilities hold none.
func (p *factsParser) capabilities(part string) Class {
	c := make(Class)
	for _, line := range splitLines(p.take(part)) {
		i := strings.LastIndexByte(line, ' ')
		if strings.HasPrefix(line, "/usr unknown") {
			i = len("/usr")
		}
		if i < 0 || line[0] != '/' {
			p.fail(part, "cannot read %q", line)
			continue
		}
		set(c, line[:i], line[i+1:])
	}
	return c
}

func (p *factsParser) texts() Class {
	c := make(Class)
	for _, path := range texts {
		if text, ok := p.parts[path]; ok {
			c[path] = text
			delete(p.parts, path)
		}
	}
	return c
}

var pair = regexp.MustCompile(`^([A-Z_]+)="([^"]*)" ?`)

// pairs reads lines of KEY="value", as findmnt(8) and lsblk(8) print them; a
// quotation mark comes as \x22.
func (p *factsParser) pairs(part string, want ...string) []map[string]string {
	var list []map[string]string
	for _, line := range splitLines(p.take(part)) {
		row := make(map[string]string)
		rest := line
		for m := pair.FindStringSubmatch(rest); m != nil; m = pair.FindStringSubmatch(rest) {
			row[m[1]] = m[2]
			rest = rest[len(m[0]):]
		}
		for _, key := range want {
			if _, ok := row[key]; !ok || rest != "" {
				p.fail(part, "cannot read %q", line)
				break
			}
		}
		list = append(list, row)
	}
	return list
}

func (p *factsParser) mounts(part string) Class {
	c := make(Class)
	for _, row := range p.pairs(part, "TARGET", "SOURCE", "FSTYPE", "OPTIONS") {
		set(c, row["TARGET"], row["SOURCE"]+" "+row["FSTYPE"]+" "+row["OPTIONS"])
	}
	return c
}

// blocks reads lsblk(8) and learns the UUIDs of file systems and partitions.
func (p *factsParser) blocks(part string, identities map[string]string) Class {
	c := make(Class)
	for _, row := range p.pairs(part, "NAME", "TYPE", "SIZE", "FSTYPE", "UUID", "PARTUUID", "PTUUID") {
		name := row["NAME"]
		for _, id := range []struct{ key, of string }{{"UUID", "UUID"}, {"PARTUUID", "PARTUUID"}, {"PTUUID", "partition table"}} {
			if id.key == "PTUUID" && row["TYPE"] != "disk" {
				continue // lsblk repeats the disk's at each partition
			}
			learn(identities, row[id.key], id.of+" of "+name)
		}
		var value []string
		for _, key := range []string{"TYPE", "SIZE", "FSTYPE", "LABEL", "PTTYPE", "PARTTYPE", "PARTLABEL", "MOUNTPOINT"} {
			if row[key] != "" {
				value = append(value, strings.ToLower(key)+"="+row[key])
			}
		}
		// A logical volume on two physical ones comes once below each.
		if text := strings.Join(value, " "); c[name] != text {
			set(c, name, text)
		}
	}
	return c
}

// lvm reads the reports of pvs, vgs and lvs and learns their UUIDs.
func (p *factsParser) lvm(identities map[string]string) Class {
	c := make(Class)
	for _, kind := range []string{"pv", "vg", "lv"} {
		part := kind + "s"
		var r struct {
			Report []map[string][]map[string]string
		}
		if err := json.Unmarshal([]byte(p.take(part)), &r); err != nil {
			p.fail(part, "%v", err)
			continue
		}
		for _, report := range r.Report {
			for _, row := range report[kind] {
				name := row[kind+"_name"]
				if kind == "lv" {
					name = row["vg_name"] + "/" + name
				}
				name = kind + " " + name
				learn(identities, row[kind+"_uuid"], name)
				set(c, name, properties(row, kind+"_name", kind+"_uuid"))
			}
		}
	}
	return c
}

// learn adds an identity. The shortest is a FAT's, ABCD-1234: less would be found
// in words.
func learn(identities map[string]string, id, of string) {
	if len(id) >= len("ABCD-1234") {
		identities[id] = of
	}
}

func properties(row map[string]string, but ...string) string {
	var list []string
	for key, value := range row {
		if !slices.Contains(but, key) && value != "" {
			list = append(list, key+"="+value)
		}
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}
