package deb

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func scan(t testing.TB, data string) []*Package {
	t.Helper()
	var list []*Package
	err := ScanPackages(strings.NewReader(data), func(p *Package) error {
		list = append(list, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestScanPackages(t *testing.T) {
	const index = `Package: libc6
Source: glibc
Version: 2.41-12
Installed-Size: 13000
Maintainer: Somebody <x@example.org>
Architecture: amd64
Replaces: libc6-amd64
Provides: libc6-2.41
Depends: libgcc-s1,
 libcrypt1 (>= 1:4.4),
	libx
Description: library
 folded
 .
 Package: not a field
Multi-Arch: same
Important: no
Essential: yes
Priority: optional
Section: libs
Filename: pool/main/g/glibc/libc6_2.41-12_amd64.deb
Size: 2900000
SHA256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef


package: odd
VERSION: 1:0
pre-depends:	a
sHa256:
Kernel-version: 6.12
installed-SIZE: 7
important: YES
Priority:
 `
	want := []*Package{
		{
			Name: "libc6", Source: "glibc", Version: "2.41-12", InstalledSize: 13000, Architecture: "amd64",
			Replaces: "libc6-amd64", Provides: "libc6-2.41", Depends: "libgcc-s1, libcrypt1 (>= 1:4.4), libx",
			MultiArch: "same", Essential: true, Priority: "optional", Section: "libs",
			Filename: "pool/main/g/glibc/libc6_2.41-12_amd64.deb", Size: 2900000,
			SHA256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		},
		{Name: "odd", Version: "1:0", PreDepends: "a", KernelVersion: "6.12", InstalledSize: 7, Important: true},
	}
	if diff := cmp.Diff(want, scan(t, index)); diff != "" {
		t.Error(diff)
	}
	// The same with other line ends, and without the last newline.
	if diff := cmp.Diff(want, scan(t, strings.ReplaceAll(index, "\n", "\r\n"))); diff != "" {
		t.Errorf("CRLF: %s", diff)
	}
	for _, empty := range []string{"", "\n", "\n \n\t\n\n"} {
		if got := scan(t, empty); len(got) != 0 {
			t.Errorf("%q holds %d packages", empty, len(got))
		}
	}
}

func TestScanPackagesErrors(t *testing.T) {
	for _, test := range []struct{ summary, data, want string }{
		{"page of a captive portal", "<html>\n", `cannot read Packages: line 1: no field name in "<html>"`},
		{"no name", "Version: 1\n", "cannot read Packages: stanza that ends at line 1: no Package field"},
		{"empty name", "Package:\nVersion: 1\n\n", "cannot read Packages: stanza that ends at line 3: no Package field"},
		{"continuation first", "Package: a\n\n b\n", "cannot read Packages: line 3: continuation line outside a field"},
		{"field twice", "Package: a\nSize: 1\nSize: 2\n", "cannot read Packages: line 3: second field Size in one stanza"},
		{"field twice in other case", "Package: a\nsize: 1\nSize: 2\n", "cannot read Packages: line 3: second field Size in one stanza"},
		{"size", "Package: a\nSize: 1k\n", `cannot read Packages: stanza that ends at line 2: Size is "1k", no number`},
		{"negative size", "Package: a\nInstalled-Size: -1\n", `cannot read Packages: stanza that ends at line 2: Installed-Size is "-1", no number`},
		{"huge size", "Package: a\nSize: 99999999999999999999\n", `cannot read Packages: stanza that ends at line 2: Size is "99999999999999999999", no number`},
		{"long line", "Package: a\nX: " + strings.Repeat("x", maxStanza) + "\n", "cannot read Packages: line 2: line longer than 1048576 bytes"},
		{"long stanza", "Package: a\nDepends: a" + strings.Repeat("\n , bbbbbbbbbbbbbbbbbbbbbbbbbbbbb", maxStanza/32+1), "cannot read Packages: line 32770: stanza longer than 1048576 bytes"},
	} {
		err := ScanPackages(strings.NewReader(test.data), func(*Package) error { return nil })
		if err == nil || err.Error() != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.summary, err, test.want)
		}
	}
	stop := errors.New("stop")
	if err := ScanPackages(strings.NewReader("Package: a\n"), func(*Package) error { return stop }); err != stop {
		t.Errorf("error of each: got %v", err)
	}
}

// A package stays as it was while the scanner goes on.
func TestScanPackagesKeeps(t *testing.T) {
	list := scan(t, "Package: aaaa\nDepends: xxxx\n\nPackage: bbbb\nDepends: yyyy\n")
	if list[0].Name != "aaaa" || list[0].Depends != "xxxx" || list[1].Name != "bbbb" {
		t.Errorf("got %+v %+v", list[0], list[1])
	}
}

// bySlowPath reads what ScanPackages reads through ParseControls.
func bySlowPath(c Control) *Package {
	p := new(Package)
	text := func(name string) string {
		lines := strings.Split(c.Get(name), "\n")
		for i, line := range lines[1:] {
			lines[i+1] = strings.TrimLeft(line, " \t")
		}
		return strings.Join(lines, " ")
	}
	for name, dst := range map[string]*string{
		"Package": &p.Name, "Version": &p.Version, "Architecture": &p.Architecture, "Multi-Arch": &p.MultiArch,
		"Source": &p.Source, "Priority": &p.Priority, "Section": &p.Section, "Pre-Depends": &p.PreDepends,
		"Depends": &p.Depends, "Recommends": &p.Recommends, "Suggests": &p.Suggests, "Conflicts": &p.Conflicts,
		"Breaks": &p.Breaks, "Provides": &p.Provides, "Replaces": &p.Replaces, "Enhances": &p.Enhances, "Kernel-Version": &p.KernelVersion,
		"Filename": &p.Filename, "SHA256": &p.SHA256,
	} {
		*dst = text(name)
	}
	p.Size, _ = strconv.ParseInt(c.Get("Size"), 10, 64)
	p.InstalledSize, _ = strconv.ParseInt(c.Get("Installed-Size"), 10, 64)
	p.Essential = strings.EqualFold(text("Essential"), "yes")
	p.Important = strings.EqualFold(text("Important"), "yes") || strings.EqualFold(text("Protected"), "yes")
	return p
}

// Real stanzas, debs and udebs of trixie, through both readers.
func TestScanPackagesOfTrixie(t *testing.T) {
	data, err := os.ReadFile("testdata/Packages")
	if err != nil {
		t.Fatal(err)
	}
	compareReaders(t, data)
}

func compareReaders(t testing.TB, data []byte) int {
	t.Helper()
	fast := scan(t, string(data))
	slow, err := ParseControls(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if len(fast) != len(slow) {
		t.Fatalf("%d packages by the scanner, %d stanzas", len(fast), len(slow))
	}
	for i := range fast {
		if want := bySlowPath(slow[i]); !reflect.DeepEqual(want, fast[i]) {
			t.Errorf("%s: %s", fast[i].Name, cmp.Diff(want, fast[i]))
		}
	}
	return len(fast)
}

func FuzzScanPackages(f *testing.F) {
	data, err := os.ReadFile("testdata/Packages")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:2000])
	f.Add([]byte("Package: a\npre-depends: b,\n c\n\nPackage: c\nSize: 12\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var fast []*Package
		if ScanPackages(bytes.NewReader(data), func(p *Package) error { fast = append(fast, p); return nil }) != nil {
			return
		}
		slow, err := ParseControls(bytes.NewReader(data))
		if err != nil {
			return // stricter
		}
		if len(fast) != len(slow) {
			t.Fatalf("%d packages by the scanner, %d stanzas", len(fast), len(slow))
		}
		for i := range fast {
			if want := bySlowPath(slow[i]); want.Name != fast[i].Name || want.Depends != fast[i].Depends || want.Size != fast[i].Size {
				t.Error(cmp.Diff(want, fast[i]))
			}
		}
	})
}

func BenchmarkScanPackages(b *testing.B) {
	one, err := os.ReadFile("testdata/Packages")
	if err != nil {
		b.Fatal(err)
	}
	data := bytes.Repeat(append(one, '\n'), 1000)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := ScanPackages(bytes.NewReader(data), func(*Package) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
