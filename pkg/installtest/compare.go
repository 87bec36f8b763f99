package installtest

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Difference is one fact in which two systems do not agree.
type Difference struct {
	Class, Name string
	A, B        string // "" if it is not there at all
	// Expected says why the two may differ in this; empty: they may not.
	Expected string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s %s: %s; there %s", d.Class, d.Name, orNone(d.A), orNone(d.B))
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// expectation is a kind of difference that two installations of one host have
// and may have.
type expectation struct {
	class string
	// name is a path.Match pattern; at its end "/**" is everything below.
	name string
	// same makes of both values what must still agree; nil: nothing must, not
	// even that there is a value on both sides.
	same   func(value string) string
	reason string
}

// expectations are all of them. What is not here is a difference.
//
// Two classes need no line: times of files are not collected, and names that
// only one machine has (UUIDs) count as what they name, see Facts.Identities.
var expectations = []expectation{
	{"content", "/etc/machine-id", anything, "each machine draws its own at first boot, machine-id(5)"},
	{"content", "/etc/ssh/ssh_host_*_key", anything, "each machine makes its own host keys"},
	{"content", "/etc/ssh/ssh_host_*_key.pub", anything, "each machine makes its own host keys"},
	{"content", "/etc/bind/rndc.key", anything, "each machine makes its own key"},
	{"content", "/etc/iscsi/initiatorname.iscsi", anything, "each machine draws its own name"},
	{"content", "/etc/nvme/host*", anything, "each machine draws its own name"},
	{"content", "/etc/ssl/certs/ssl-cert-snakeoil.pem", anything, "each machine makes its own certificate"},
	{"content", "/etc/ssl/private/ssl-cert-snakeoil.key", anything, "each machine makes its own certificate"},
	{"content", "/etc/sci/enrol.json", anything, "each medium carries credentials of its own"},

	{"path", "/etc/lvm/archive/**", nil, "LVM's copy of a layout before a change; random names, UUIDs and times"},
	{"content", "/etc/lvm/archive/*", anything, "LVM's copy of a layout before a change; random names, UUIDs and times"},
	{"content", "/etc/lvm/backup/*", anything, "LVM's copy of the layout: UUIDs and times; the layout itself is compared"},
	{"path", "/etc/lvm/devices/backup/**", nil, "LVM's copies of its list of devices, named by time"},
	{"content", "/etc/lvm/devices/system.devices", anything, "LVM's list of devices: UUIDs and times; the layout itself is compared"},

	{"path", "/etc/.pwd.lock", nil, "an empty file that the first change of an account leaves"},
	{"content", "/etc/ld.so.cache", anything, "ldconfig's cache; made again by any package with a library"},
	{"content", "/etc/.updated", anything, "the time of /usr, systemd-update-done.service(8)"},
	{"content", "/etc/shadow", anything, "salts of passwords and days of changes; compared without them"},
	{"content", "/etc/shadow-", anything, "the file before its last change"},
	{"content", "/etc/gshadow-", anything, "the file before its last change"},
	{"content", "/etc/passwd-", anything, "the file before its last change"},
	{"content", "/etc/group-", anything, "the file before its last change"},
	{"content", "/etc/subuid-", anything, "the file before its last change"},
	{"content", "/etc/subgid-", anything, "the file before its last change"},
	{"shadow", "*", without(`^([^:]*):\d*:`, "$1::"), "the day of the last change is the day of the installation"},

	{"mount", "*", onTmpfs(without(`,(size|nr_inodes)=\w+`, "")), "a part of the memory; named where it is not exactly half of what there is now"},
	{"mount", "*", without(`\b(fd|pgrp|pipe_ino)=\d+`, ""), "numbers of the automounter's process"},
	{"mount", "/proc/sys/fs/binfmt_misc", without(`; binfmt_misc .*$`, ""), "mounted as soon as somebody looks into it"},
	{"block device", "loop*", without(`\b(size|label)=\S+`, ""), "the copy of the medium; the two were installed from different ones"},
}

// hostExpectations hold where two hosts are compared that are not the same one.
var hostExpectations = []expectation{
	{"text", "/etc/host*", anything, "another host"},
	{"text", "/etc/mailname", anything, "another host"},
	{"content", "/etc/sci/host", anything, "another host"},
}

// owned are the files whose content no two machines may share: an image that
// carries them would give the same to all.
var owned = []string{"/etc/machine-id", "/etc/ssh/ssh_host_*_key", "/etc/bind/rndc.key", "/etc/iscsi/initiatorname.iscsi", "/etc/nvme/host*", "/etc/ssl/private/ssl-cert-snakeoil.key"}

func anything(string) string { return "" }

// without takes what matches a pattern out of a value.
func without(pattern, replacement string) func(string) string {
	re := regexp.MustCompile(pattern)
	return func(value string) string { return re.ReplaceAllString(value, replacement) }
}

// onTmpfs applies f to what is mounted from memory.
func onTmpfs(f func(string) string) func(string) string {
	return func(value string) string {
		if fields := strings.Fields(value); len(fields) > 1 && (fields[1] == "tmpfs" || fields[1] == "devtmpfs") {
			return f(value)
		}
		return value
	}
}

func (e expectation) covers(d Difference) bool {
	if e.class != d.Class {
		return false
	}
	if dir, ok := strings.CutSuffix(e.name, "/**"); ok {
		if d.Name != dir && !strings.HasPrefix(d.Name, dir+"/") {
			return false
		}
	} else if ok, _ := path.Match(e.name, d.Name); !ok && e.name != "*" { // a name may hold slashes
		return false
	}
	return e.same == nil || d.A != "" && d.B != "" && e.same(d.A) == e.same(d.B)
}

// Compare lists in what two systems differ, those that are expected included.
func Compare(a, b Facts) []Difference {
	known := expectations
	if a.Host != b.Host {
		known = append(slices.Clone(expectations), hostExpectations...)
	}
	if a.Site == b.Site {
		known = append(slices.Clone(known), expectation{"content", "/etc/sci/site.json", anything, "its key install says how the machine was installed"})
	}
	return compare(a, b, func(d Difference) string { return explain(known, d) })
}

// compare lists all differences, with what reason says of each.
func compare(a, b Facts, reason func(Difference) string) []Difference {
	ownA, ownB := a.own(), b.own()
	ca, cb := a.classes(), b.classes()
	var list []Difference
	for i, class := range ca {
		for _, d := range compareClass(class.name, plain(class.class, ownA), plain(cb[i].class, ownB)) {
			if d.Class == "content" {
				// A file that is not there, or is no file, is a difference of
				// the class path already.
				if d.A == "" || d.B == "" {
					continue
				}
				textA, okA := a.Texts[d.Name]
				textB, okB := b.Texts[d.Name]
				if okA && okB {
					d = compareText(d, ownA.Replace(textA), ownB.Replace(textB))
				}
			}
			if d.Expected == "" {
				d.Expected = reason(d)
			}
			list = append(list, d)
		}
	}
	return append(list, shared(a, b)...)
}

// compareText makes of a difference between two files one between their lines.
func compareText(d Difference, a, b string) Difference {
	if a == b {
		d.Expected = "the same but for UUIDs, each of which names the same thing on its machine"
		return d
	}
	d.Class = "text"
	d.A, d.B = differingLines(a, b)
	return d
}

// explain returns why a difference is expected. Several expectations may be
// needed for one value: what they leave of it must agree together.
func explain(known []expectation, d Difference) string {
	var reasons []string
	rest := d
	for _, e := range known {
		if e.covers(d) {
			return e.reason
		}
		if e.same == nil || d.A == "" || d.B == "" || !e.sameName(d) {
			continue
		}
		if a, b := e.same(rest.A), e.same(rest.B); a != rest.A || b != rest.B {
			rest.A, rest.B = a, b
			reasons = append(reasons, e.reason)
		}
	}
	if len(reasons) > 0 && rest.A == rest.B {
		return strings.Join(reasons, "; ")
	}
	return ""
}

func (e expectation) sameName(d Difference) bool {
	e.same = nil
	return e.covers(d)
}

func compareClass(class string, a, b Class) []Difference {
	names := make([]string, 0, len(a))
	for name := range a {
		names = append(names, name)
	}
	for name := range b {
		if _, both := a[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var list []Difference
	for _, name := range names {
		va, oka := a[name]
		vb, okb := b[name]
		if oka == okb && va == vb {
			continue
		}
		// A name that has no value of its own is there or not.
		if oka && va == "" {
			va = "yes"
		}
		if okb && vb == "" {
			vb = "yes"
		}
		list = append(list, Difference{Class: class, Name: name, A: va, B: vb})
	}
	return list
}

// plain returns a class with the machine's own names replaced.
func plain(c Class, own *strings.Replacer) Class {
	out := make(Class, len(c))
	for name, value := range c {
		set(out, own.Replace(name), own.Replace(value))
	}
	return out
}

// own replaces the names that only this machine has by what they name. In the
// name of a unit each minus is \x2d, systemd-escape(1); in mdadm.conf an array's
// UUID has colons.
func (f *Facts) own() *strings.Replacer {
	ids := make([]string, 0, len(f.Identities))
	for id := range f.Identities {
		ids = append(ids, id)
	}
	// A FAT's, ABCD-1234, may be a part of a longer one.
	slices.SortFunc(ids, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), strings.Compare(a, b))
	})
	var pairs []string
	for _, id := range ids {
		of := "{" + f.Identities[id] + "}"
		pairs = append(pairs, id, of, strings.ReplaceAll(id, "-", `\x2d`), of)
		if array := colonUUID(id); array != "" {
			pairs = append(pairs, array, of)
		}
	}
	return strings.NewReplacer(pairs...)
}

var plainUUID = regexp.MustCompile(`^([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})([0-9a-f]{8})$`)

// colonUUID is the UUID of an array as mdadm(8) writes it, or nothing.
func colonUUID(id string) string {
	m := plainUUID.FindStringSubmatch(id)
	if m == nil {
		return ""
	}
	return m[1] + ":" + m[2] + m[3] + ":" + m[4] + m[5] + ":" + m[6]
}

// differingLines returns the lines of each text that the other one has not; of
// two texts that differ in the order of their lines only, all of them.
func differingLines(a, b string) (onlyA, onlyB string) {
	la, lb := strings.Split(strings.TrimSpace(a), "\n"), strings.Split(strings.TrimSpace(b), "\n")
	lacks := func(of, in []string) string {
		var out []string
		for _, line := range of {
			if !slices.Contains(in, line) {
				out = append(out, line)
			}
		}
		return strings.Join(out, "\n")
	}
	onlyA, onlyB = lacks(la, lb), lacks(lb, la)
	if onlyA == "" && onlyB == "" {
		return a, b
	}
	return onlyA, onlyB
}

// shared lists what each machine should have of its own and both have the same.
func shared(a, b Facts) []Difference {
	var list []Difference
	for name, sum := range a.Content {
		if b.Content[name] != sum {
			continue
		}
		for _, pattern := range owned {
			if ok, _ := path.Match(pattern, name); ok {
				list = append(list, Difference{Class: "the same on both machines", Name: name, A: sum, B: sum})
			}
		}
	}
	slices.SortFunc(list, func(a, b Difference) int { return strings.Compare(a.Name, b.Name) })
	return list
}
