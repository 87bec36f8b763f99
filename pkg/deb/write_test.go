package deb

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/tree"
)

var built = time.Date(2026, 9, 12, 8, 0, 0, 0, time.UTC)

// longName needs GNU's long-name entry.
var longName = "usr/share/doc/sci-test/" + strings.Repeat("long-", 30) + "name"

// sample is a package with all that ours have.
func sample(t testing.TB, version string) Spec {
	t.Helper()
	files := new(tree.Tree)
	add := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	add(files.AddBytes("usr/sbin/sci-test", 0o755, []byte("#!/bin/sh\nexit 0\n")))
	add(files.AddBytes("etc/sci-test.conf", 0o644, []byte("version "+version+"\n")))
	add(files.AddBytes("usr/lib/sci-test/su", fs.ModeSetuid|0o755, make([]byte, 1500)))
	add(files.AddBytes("usr/lib/sci-test/empty", 0o600, nil))
	add(files.AddBytes("usr/lib/sci-test/name with spaces é", 0o644, []byte("x")))
	add(files.AddBytes(longName, 0o644, []byte("x")))
	add(files.AddLink("usr/lib/sci-test/link", "../../sbin/sci-test"))
	add(files.AddLink("usr/lib/sci-test/long-link", strings.Repeat("../", 60)+"x"))
	add(files.AddDir("var/lib/sci-test", 0o700))
	old := time.Date(2020, 1, 1, 0, 0, 0, 500, time.UTC)
	add(files.Add(tree.Entry{
		Path: "usr/lib/sci-test/old", Mode: 0o644, UID: 1, GID: 2, ModTime: old, Size: 3,
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("old")), nil },
	}))
	return Spec{
		Control: Control{
			{"Package", "sci-test"}, {"Version", version}, {"Architecture", "all"},
			{"Maintainer", "SCI <sci@example.org>"}, {"Depends", "sci-none (>= 1) | sci-nothing"},
			{"Section", "admin"}, {"Priority", "optional"},
			{"Description", "package of a test\n It holds every kind of file that ours hold."},
		},
		Files: files,
		Scripts: map[string][]byte{
			"postinst": []byte("#!/bin/sh\nset -e\necho \"postinst $*\" >>\"$DPKG_ROOT/script.log\"\n"),
			"prerm":    []byte("#!/bin/sh\nset -e\necho \"prerm $*\" >>\"$DPKG_ROOT/script.log\"\n"),
		},
		Conffiles: []string{"/etc/sci-test.conf"},
		Time:      built,
	}
}

func write(t testing.TB, s Spec) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeFile(t testing.TB, dir string, s Spec) string {
	t.Helper()
	path := filepath.Join(dir, s.Control.Get("Package")+"_"+s.Control.Get("Version")+".deb")
	if err := os.WriteFile(path, write(t, s), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWriteDeterministic(t *testing.T) {
	a, b := write(t, sample(t, "1.0")), write(t, sample(t, "1.0"))
	if !bytes.Equal(a, b) {
		t.Error("two packages of one Spec differ")
	}
	// The bytes must not change with the libraries unnoticed: a lock holds them.
	const want = "4770d2ecd9438334cd8875205ceec17c9aaed69ff235ff17f5872115a110e08c"
	if got := fmt.Sprintf("%x", sha256.Sum256(a)); got != want {
		t.Errorf("digest %s; want %s (if a library changed: set the new one)", got, want)
	}
	in := sample(t, "1.0")
	in.Time = built.In(time.FixedZone("X", 7200)).Add(999)
	if !bytes.Equal(a, write(t, in)) {
		t.Error("the time zone or parts of a second show")
	}
}

func TestWriteRead(t *testing.T) {
	data := write(t, sample(t, "1.0"))
	f, err := New("sci-test.deb", bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Control()
	if err != nil {
		t.Fatal(err)
	}
	want := `Package: sci-test
Version: 1.0
Architecture: all
Maintainer: SCI <sci@example.org>
Installed-Size: 20
Depends: sci-none (>= 1) | sci-nothing
Section: admin
Priority: optional
Description: package of a test
 It holds every kind of file that ours hold.
`
	if diff := cmp.Diff(want, c.String()); diff != "" {
		t.Error(diff)
	}
	control, err := f.ControlFiles()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(control["conffiles"]), "/etc/sci-test.conf\n"; got != want {
		t.Errorf("conffiles %q; want %q", got, want)
	}
	if diff := cmp.Diff(strings.Join([]string{
		"drwxr-xr-x 0/0 2026-09-12 etc",
		"-rw-r--r-- 0/0 2026-09-12 etc/sci-test.conf",
		"drwxr-xr-x 0/0 2026-09-12 usr",
		"drwxr-xr-x 0/0 2026-09-12 usr/lib",
		"drwxr-xr-x 0/0 2026-09-12 usr/lib/sci-test",
		"-rw------- 0/0 2026-09-12 usr/lib/sci-test/empty",
		"Lrwxrwxrwx 0/0 2026-09-12 usr/lib/sci-test/link -> ../../sbin/sci-test",
		"Lrwxrwxrwx 0/0 2026-09-12 usr/lib/sci-test/long-link -> " + strings.Repeat("../", 60) + "x",
		"-rw-r--r-- 0/0 2026-09-12 usr/lib/sci-test/name with spaces é",
		"-rw-r--r-- 1/2 2020-01-01 usr/lib/sci-test/old",
		"urwxr-xr-x 0/0 2026-09-12 usr/lib/sci-test/su",
		"drwxr-xr-x 0/0 2026-09-12 usr/sbin",
		"-rwxr-xr-x 0/0 2026-09-12 usr/sbin/sci-test",
		"drwxr-xr-x 0/0 2026-09-12 usr/share",
		"drwxr-xr-x 0/0 2026-09-12 usr/share/doc",
		"drwxr-xr-x 0/0 2026-09-12 usr/share/doc/sci-test",
		"-rw-r--r-- 0/0 2026-09-12 " + longName,
		"drwxr-xr-x 0/0 2026-09-12 var",
		"drwxr-xr-x 0/0 2026-09-12 var/lib",
		"drwx------ 0/0 2026-09-12 var/lib/sci-test",
	}, "\n"), listing(t, f)); diff != "" {
		t.Error(diff)
	}
}

// listing is the content of f, a line an entry.
func listing(t testing.TB, f *File) string {
	t.Helper()
	var lines []string
	err := f.Data(func(h *tar.Header, r io.Reader) error {
		line := fmt.Sprintf("%v %d/%d %s %s", h.FileInfo().Mode(), h.Uid, h.Gid, h.ModTime.UTC().Format("2006-01-02"), h.Name)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func TestWriteErrors(t *testing.T) {
	entry := func(size int64, sum string) *tree.Tree {
		files := new(tree.Tree)
		if err := files.Add(tree.Entry{Path: "f", Size: size, SHA256: sum, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("12345")), nil
		}}); err != nil {
			t.Fatal(err)
		}
		return files
	}
	for _, test := range []struct {
		summary string
		change  func(*Spec)
		want    string
	}{
		{"no version", func(s *Spec) { s.Control = s.Control.Delete("Version") }, `cannot write package "sci-test": no field Version`},
		{"bad version", func(s *Spec) { s.Control = s.Control.Set("Version", "v1") }, `cannot write package "sci-test": "v1" is no version: version number does not start with digit`},
		{"bad name", func(s *Spec) { s.Control = s.Control.Set("Package", "Sci_Test") }, `cannot write package "Sci_Test": "Sci_Test" is no package name`},
		{"bad relation", func(s *Spec) { s.Control = s.Control.Set("Depends", "a b") }, `cannot write package "sci-test": field Depends: cannot read relations: byte 2 of "a b": unexpected 'b'`},
		{"stanza within a field", func(s *Spec) { s.Control = s.Control.Set("Section", "x\n\nPackage: y") }, `cannot write package "sci-test": field Section: "" is no continuation line`},
		{"script out of place", func(s *Spec) { s.Scripts = map[string][]byte{"../x": nil} }, `cannot write package "sci-test": "../x" is no name for a script`},
		{"script named control", func(s *Spec) { s.Scripts = map[string][]byte{"control": nil} }, `cannot write package "sci-test": "control" is no name for a script`},
		{"missing conffile", func(s *Spec) { s.Conffiles = []string{"/etc/none"} }, `cannot write package "sci-test": conffile "/etc/none" is no file of the package`},
		{"relative conffile", func(s *Spec) { s.Conffiles = []string{"etc/sci-test.conf"} }, `cannot write package "sci-test": conffile "etc/sci-test.conf" is no clean absolute path`},
		{"conffile twice", func(s *Spec) { s.Conffiles = append(s.Conffiles, s.Conffiles...) }, `cannot write package "sci-test": conffile "/etc/sci-test.conf" is named twice`},
		{"conffile without files", func(s *Spec) { s.Files = nil }, `cannot write package "sci-test": conffile "/etc/sci-test.conf" is no file of the package`},
		{"time before 1970", func(s *Spec) { s.Time = time.Time{} }, `cannot write package "sci-test": time 0001-01-01T00:00:00Z does not fit a tar header`},
		{"file is longer", func(s *Spec) { s.Conffiles, s.Files = nil, entry(4, "") }, `cannot write package "sci-test": "f": the file has not the 4 bytes that the tree says`},
		{"file is shorter", func(s *Spec) { s.Conffiles, s.Files = nil, entry(6, "") }, `cannot write package "sci-test": "f": the file has not the 6 bytes that the tree says`},
		{"file is another", func(s *Spec) { s.Conffiles, s.Files = nil, entry(5, "00") }, `cannot write package "sci-test": "f": the file has not the digest that the tree says, 00`},
	} {
		s := sample(t, "1.0")
		test.change(&s)
		if err := Write(io.Discard, s); err == nil || err.Error() != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.summary, err, test.want)
		}
	}
}

func TestWriteUdeb(t *testing.T) {
	s := sample(t, "1.0")
	s.Control = s.Control.Set("Section", "debian-installer")
	data := write(t, s)
	f, err := New("x.udeb", bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	files, err := f.ControlFiles()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := files["md5sums"]; ok {
		t.Error("a udeb has md5sums")
	}
}

func TestWriteNothing(t *testing.T) {
	s := sample(t, "1.0")
	s.Files, s.Conffiles, s.Scripts = nil, nil, nil
	path := writeFile(t, t.TempDir(), s)
	if out := judge(t, "dpkg-deb", "--contents", path); !strings.HasSuffix(out, " ./\n") {
		t.Errorf("content %q", out)
	}
}

// dpkg-deb reads what we wrote.
func TestWriteDpkgDeb(t *testing.T) {
	dir := t.TempDir()
	path := writeFile(t, dir, sample(t, "1.0"))
	if got := judge(t, "dpkg-deb", "--showformat=${Package} ${Version} ${Installed-Size}\n", "--show", path); got != "sci-test 1.0 20\n" {
		t.Errorf("dpkg-deb --show: %q", got)
	}
	info := judge(t, "dpkg-deb", "--info", path)
	for _, want := range []string{"new Debian package, version 2.0.", "postinst", "conffiles", "Installed-Size: 20"} {
		if !strings.Contains(info, want) {
			t.Errorf("dpkg-deb --info has no %q:\n%s", want, info)
		}
	}
	judge(t, "dpkg-deb", "--extract", path, filepath.Join(dir, "x"))
	judge(t, "dpkg-deb", "--control", path, filepath.Join(dir, "c"))
	cmd := exec.Command("md5sum", "--check", "--strict", filepath.Join(dir, "c", "md5sums"))
	cmd.Dir = filepath.Join(dir, "x")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("md5sum: %v\n%s", err, out)
	}
	if link, err := os.Readlink(filepath.Join(dir, "x/usr/lib/sci-test/link")); err != nil || link != "../../sbin/sci-test" {
		t.Errorf("link %q, error %v", link, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "x", longName)); err != nil {
		t.Error(err)
	}
}

// dpkg installs, verifies, upgrades and purges what we wrote, in a root of its own.
func TestWriteDpkg(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: dpkg sets owners")
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"info", "updates", "triggers", "parts"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"status", "available"} {
		if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg", f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dpkg := func(args ...string) string {
		return judge(t, append([]string{"dpkg", "--root=" + root, "--log=/dev/null", "--force-depends", "--force-script-chrootless", "--force-confold", "--force-unsafe-io"}, args...)...)
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}

	dpkg("--install", writeFile(t, dir, sample(t, "1.0")))
	if out := dpkg("--verify"); out != "" {
		t.Errorf("dpkg --verify after the installation:\n%s", out)
	}
	info, err := os.Stat(filepath.Join(root, "usr/lib/sci-test/su"))
	if err != nil || info.Mode() != fs.ModeSetuid|0o755 || !info.ModTime().Equal(built) {
		t.Errorf("su has mode %v, time %v, error %v", info.Mode(), info.ModTime(), err)
	}
	if err := os.WriteFile(filepath.Join(root, "usr/sbin/sci-test"), []byte("evil"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command("dpkg", "--root="+root, "--verify").Output() // its exit code tells nothing in old dpkg
	if !strings.Contains(string(out), "/usr/sbin/sci-test") {
		t.Errorf("dpkg --verify says nothing of an altered file: %q", out)
	}
	if err := os.WriteFile(filepath.Join(root, "etc/sci-test.conf"), []byte("mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}

	dpkg("--install", writeFile(t, dir, sample(t, "1.1")))
	if got := read("etc/sci-test.conf"); got != "mine\n" {
		t.Errorf("the upgrade made the conffile %q", got)
	}
	dpkg("--purge", "sci-test")
	if got, want := read("script.log"), "postinst configure \nprerm upgrade 1.1\npostinst configure 1.0\nprerm remove\n"; got != want {
		t.Errorf("scripts ran as %q; want %q", got, want)
	}
	if _, err := os.Stat(filepath.Join(root, "usr")); !os.IsNotExist(err) {
		t.Errorf("files are left after the purge: %v", err)
	}
}

func TestWriteLintian(t *testing.T) {
	needTool(t, "lintian")
	s := sample(t, "1.0")
	files := new(tree.Tree)
	for name, text := range map[string]string{
		"usr/share/sci-test/data": "data\n", "etc/sci-test.conf": "x\n",
	} {
		if err := files.AddBytes(name, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	s.Files, s.Scripts = files, nil
	s.Control = s.Control.Delete("Depends")
	cmd := exec.Command("lintian", "--no-cfg", "--allow-root", "--fail-on=none", "--tag-display-limit=0", writeFile(t, t.TempDir(), s))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("lintian: %v\n%s", err, out)
	}
	// What a package that the archive never sees need not have.
	allowed := []string{"no-changelog", "no-copyright-file", "extended-description-is-probably-too-short"}
	for line := range strings.Lines(string(out)) {
		ok := !strings.HasPrefix(line, "E:") && !strings.HasPrefix(line, "W:")
		for _, tag := range allowed {
			ok = ok || strings.Contains(line, tag)
		}
		if !ok {
			t.Errorf("lintian: %s", line)
		}
	}
}
