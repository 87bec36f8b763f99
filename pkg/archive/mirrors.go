package archive

import (
	"bufio"
	"bytes"
	"io"
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/deb"
)

// None in place of a mirror's URL leaves out the pocket.
const None = "none"

// Mirrors are base URLs, those that have dists/ and pool/ below them, of the
// schemes http, https and file.
type Mirrors struct {
	Main     string // empty means the public default
	Security string // empty means the public default, None leaves it out
	Updates  string // empty means Main, None leaves it out
}

// DefaultMirrors returns Debian's public mirrors.
func DefaultMirrors() Mirrors {
	return Mirrors{
		Main:     "http://ftp.debian.org/debian",
		Security: "http://security.debian.org/debian-security",
	}
}

// withDefaults fills what is empty and cuts trailing slashes.
func (m Mirrors) withDefaults() Mirrors {
	if m.Main == "" {
		m.Main = DefaultMirrors().Main
	}
	if m.Security == "" {
		m.Security = DefaultMirrors().Security
	}
	if m.Updates == "" {
		m.Updates = m.Main
	}
	for _, s := range []*string{&m.Main, &m.Security, &m.Updates} {
		*s = strings.TrimRight(*s, "/")
	}
	return m
}

// source is one archive that apt knows: one URI with one suite.
type source struct {
	uri, suite string
	signedBy   string
}

// maxSources bounds one apt sources file, in bytes.
const maxSources = 1 << 20

// AptMirrors returns the Debian mirrors that a machine's own apt sources name,
// one-line and deb822 style (sources.list(5)), with root as that machine's file
// system. Archives of others are passed over, disabled entries too. What is not
// named comes from DefaultMirrors.
func AptMirrors(root fs.FS) Mirrors {
	sources := aptSources(root)
	m := DefaultMirrors()
	updates := best(sources, root, scoreUpdates)
	if uri := best(sources, root, scoreMain); uri != "" {
		m.Main = uri
		if updates != "" && updates != uri {
			m.Updates = updates
		}
	}
	if uri := best(sources, root, scoreSecurity); uri != "" {
		m.Security = uri
	}
	return m
}

// best returns the base URL of the source with the highest score over zero, the
// first of equals.
func best(sources []source, root fs.FS, score func(source, []source) int) string {
	top, uri := 0, ""
	for _, s := range sources {
		resolved, ok := resolveURI(root, s.uri)
		if !ok {
			continue
		}
		if n := score(s, sources); n > top {
			top, uri = n, resolved
		}
	}
	return uri
}

func scoreMain(s source, all []source) int {
	if strings.Contains(s.suite, "-") || strings.Contains(s.suite, "/") {
		return 0
	}
	n := scoreDebian(s, "debian")
	if slices.ContainsFunc(all, func(o source) bool { return o.uri == s.uri && o.suite == s.suite+"-updates" }) {
		n += 2
	}
	return n
}

func scoreUpdates(s source, _ []source) int {
	if !strings.HasSuffix(s.suite, "-updates") || strings.HasSuffix(s.suite, "-proposed-updates") {
		return 0
	}
	return scoreDebian(s, "debian")
}

func scoreSecurity(s source, _ []source) int {
	if !strings.HasSuffix(s.suite, "-security") && !strings.HasSuffix(s.suite, "/updates") {
		return 0
	}
	return scoreDebian(s, "debian-security")
}

// scoreDebian tells how surely a source is Debian's own; dir is the usual last
// element of its path.
func scoreDebian(s source, dir string) int {
	n := 0
	if strings.Contains(s.signedBy, "debian-archive-") {
		n += 4
	}
	u, err := url.Parse(strings.TrimPrefix(s.uri, "mirror+"))
	if err != nil {
		return 0
	}
	if host := u.Hostname(); host == "debian.org" || strings.HasSuffix(host, ".debian.org") {
		n += 4
	}
	if base := path.Base(u.Path); base == dir || base == dir+".list" {
		n++
	}
	return n
}

// resolveURI returns a usable base URL. The scheme mirror+file, used by
// Debian's cloud images, names a file of URLs (apt-transport-mirror(1)): the
// first one is taken.
func resolveURI(root fs.FS, uri string) (string, bool) {
	if list, ok := strings.CutPrefix(uri, "mirror+file:"); ok {
		list = strings.TrimLeft(list, "/")
		data, err := readBounded(root, list)
		if err != nil {
			return "", false
		}
		uri = ""
		for line := range strings.Lines(string(data)) {
			if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
				uri = words[0]
				break
			}
		}
	}
	if checkBase(uri) != nil {
		return "", false
	}
	return strings.TrimRight(uri, "/"), true
}

// aptSources reads all sources in apt's order. Files that cannot be read or
// parsed are passed over: they are apt's business, not ours.
func aptSources(root fs.FS) []source {
	var sources []source
	if data, err := readBounded(root, "etc/apt/sources.list"); err == nil {
		sources = append(sources, oneLineSources(data)...)
	}
	entries, err := fs.ReadDir(root, "etc/apt/sources.list.d")
	if err != nil {
		return sources
	}
	for _, e := range entries {
		ext := path.Ext(e.Name())
		if ext != ".list" && ext != ".sources" {
			continue
		}
		data, err := readBounded(root, path.Join("etc/apt/sources.list.d", e.Name()))
		if err != nil {
			continue
		}
		if ext == ".list" {
			sources = append(sources, oneLineSources(data)...)
		} else {
			sources = append(sources, deb822Sources(data)...)
		}
	}
	return sources
}

// oneLineSources reads lines "deb [options] uri suite component…".
func oneLineSources(data []byte) []source {
	var sources []source
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		line, _, _ := strings.Cut(sc.Text(), "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || strings.TrimLeft(rest, " \t[") == rest {
			continue
		}
		rest = strings.TrimSpace(rest)
		options := ""
		if strings.HasPrefix(rest, "[") {
			if options, rest, ok = strings.Cut(rest[1:], "]"); !ok {
				continue
			}
		}
		words := strings.Fields(rest)
		if len(words) < 3 || !hasMain(words[2:]) {
			continue
		}
		s := source{uri: words[0], suite: words[1]}
		for _, o := range strings.Fields(options) {
			if v, ok := strings.CutPrefix(o, "signed-by="); ok {
				s.signedBy = v
			}
		}
		sources = append(sources, s)
	}
	return sources
}

func deb822Sources(data []byte) []source {
	// Other than Debian's own deb822 files apt's may hold comments anywhere.
	var plain bytes.Buffer
	for line := range bytes.Lines(data) {
		if !bytes.HasPrefix(line, []byte("#")) {
			plain.Write(line)
		}
	}
	stanzas, err := deb.ParseControls(&plain)
	if err != nil {
		return nil
	}
	var sources []source
	for _, c := range stanzas {
		if !slices.Contains(strings.Fields(c.Get("Types")), "deb") || disabled(c.Get("Enabled")) || !hasMain(strings.Fields(c.Get("Components"))) {
			continue
		}
		for _, uri := range strings.Fields(c.Get("URIs")) {
			for _, suite := range strings.Fields(c.Get("Suites")) {
				sources = append(sources, source{uri: uri, suite: suite, signedBy: c.Get("Signed-By")})
			}
		}
	}
	return sources
}

func hasMain(components []string) bool {
	return slices.Contains(components, "main") || slices.Contains(components, "updates/main")
}

// disabled reads apt's booleans.
func disabled(v string) bool {
	switch strings.ToLower(strings.TrimSpace(v)) {
	case "no", "false", "without", "off", "disable", "0":
		return true
	}
	return false
}

func readBounded(root fs.FS, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxSources+1))
	if err == nil && len(data) > maxSources {
		err = fs.ErrInvalid
	}
	return data, err
}
