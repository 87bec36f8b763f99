package repo

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"
)

// when is the date of the repositories: well before any clock.
var when = time.Date(2025, 8, 9, 10, 0, 0, 0, time.UTC)

func newKey(t *testing.T) *pgp.Key {
	t.Helper()
	k, err := pgp.NewKey("Test site", "", "root@example.org", when)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// pack writes a package and returns it as a part of the pool.
func pack(t *testing.T, name, version string, fields ...deb.Field) Package {
	t.Helper()
	c := deb.Control{
		{Name: "Package", Value: name}, {Name: "Version", Value: version}, {Name: "Architecture", Value: "all"},
		{Name: "Maintainer", Value: "Test <test@example.org>"}, {Name: "Priority", Value: "extra"}, {Name: "Section", Value: "misc"},
		{Name: "Description", Value: "a package"},
	}
	for _, f := range fields {
		c = c.Set(f.Name, f.Value)
	}
	files := &tree.Tree{}
	if err := files.AddBytes("usr/share/"+name+"/data", 0o644, bytes.Repeat([]byte(name), 1000)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := deb.Write(&b, deb.Spec{Control: c, Files: files, Time: when}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name+".deb")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return Package{
		Path: fmt.Sprintf("pool/main/%s/%s_%s_all.deb", name, name, version), File: file,
		SHA256: digest(b.Bytes()), Size: int64(b.Len()), Priority: "optional", Section: c.Get("Section"),
	}
}

func digest(data []byte) string {
	t := &tree.Tree{}
	_ = t.AddBytes("f", 0o644, data)
	e, _ := t.Lookup("f")
	return e.SHA256
}

func options(t *testing.T) Options {
	udeb := pack(t, "parts-udeb", "3", deb.Field{Name: "Section", Value: "debian-installer"})
	udeb.Udeb = true
	return Options{
		Origin: "SCI-CD", Label: "lab", Suite: "stable", Codename: "trixie", Version: "13.7", Description: "what lab needs",
		Arch: "amd64", Key: newKey(t), Time: when,
		Packages: []Package{pack(t, "hello", "1.0-1", deb.Field{Name: "Depends", Value: "world (>= 2)"}), pack(t, "world", "2:2.0"), udeb},
	}
}

func build(t *testing.T, o Options) *tree.Tree {
	t.Helper()
	tr, err := Build(o)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func read(t *testing.T, tr *tree.Tree, name string) string {
	t.Helper()
	e, ok := tr.Lookup(name)
	if !ok {
		t.Fatalf("the repository has no %s", name)
	}
	data, err := e.ReadAll(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLayout(t *testing.T) {
	tr := build(t, options(t))
	var got []string
	for _, e := range tr.Entries() {
		if !e.Mode.IsDir() {
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %v %s", e.Path, e.Mode, e.Link)))
		}
	}
	want := []string{
		"dists/stable Lrwxrwxrwx trixie",
		"dists/trixie/InRelease -rw-r--r--",
		"dists/trixie/Release -rw-r--r--",
		"dists/trixie/Release.gpg -rw-r--r--",
		"dists/trixie/main/binary-amd64/Packages -rw-r--r--",
		"dists/trixie/main/binary-amd64/Packages.gz -rw-r--r--",
		"dists/trixie/main/binary-amd64/Release -rw-r--r--",
		"dists/trixie/main/debian-installer/binary-amd64/Packages -rw-r--r--",
		"dists/trixie/main/debian-installer/binary-amd64/Packages.gz -rw-r--r--",
		"dists/trixie/main/debian-installer/binary-amd64/Release -rw-r--r--",
		"pool/main/hello/hello_1.0-1_all.deb -rw-r--r--",
		"pool/main/parts-udeb/parts-udeb_3_all.deb -rw-r--r--",
		"pool/main/world/world_2:2.0_all.deb -rw-r--r--",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	release := read(t, tr, "dists/trixie/Release")
	head, sums, _ := strings.Cut(release, "SHA256:\n")
	wantHead := `Origin: SCI-CD
Label: lab
Suite: stable
Version: 13.7
Codename: trixie
Date: Sat, 09 Aug 2025 10:00:00 UTC
Architectures: amd64
Components: main
Description: what lab needs
`
	if diff := cmp.Diff(wantHead, head); diff != "" {
		t.Errorf("Release (-want +got):\n%s", diff)
	}
	if n := strings.Count(sums, "\n"); n != 6 {
		t.Errorf("Release names %d indexes; want 6:\n%s", n, sums)
	}
}

// Priority and Section of the archive win over those in the package, and a
// stanza names the file as it stands in the pool.
func TestStanza(t *testing.T) {
	o := options(t)
	p := o.Packages[0]
	index := read(t, build(t, o), "dists/trixie/main/binary-amd64/Packages")
	first, _, _ := strings.Cut(index, "\n\n")
	// Installed-Size is the package's own affair.
	lines := slices.DeleteFunc(strings.Split(first, "\n"), func(l string) bool { return strings.HasPrefix(l, "Installed-Size:") })
	want := []string{
		"Package: hello", "Version: 1.0-1", "Architecture: all", "Maintainer: Test <test@example.org>",
		"Priority: optional", "Section: misc", "Description: a package", "Depends: world (>= 2)",
		"Filename: " + p.Path, fmt.Sprintf("Size: %d", p.Size), "SHA256: " + p.SHA256,
	}
	if diff := cmp.Diff(want, lines, cmp.Transformer("sorted", func(l []string) []string { return slices.Sorted(slices.Values(l)) })); diff != "" {
		t.Errorf("stanza (-want +got):\n%s", diff)
	}
	if strings.Contains(index, "parts-udeb") {
		t.Error("the index of debs names a udeb")
	}
	if udebs := read(t, build(t, o), "dists/trixie/main/debian-installer/binary-amd64/Packages"); strings.Count(udebs, "Package: ") != 1 {
		t.Errorf("the index of udebs is\n%s", udebs)
	}
}

func TestDeterminism(t *testing.T) {
	o := options(t)
	list := func(tr *tree.Tree) (sums []string) {
		for _, e := range tr.Entries() {
			sums = append(sums, e.Path+" "+e.SHA256)
		}
		return sums
	}
	first := list(build(t, o))
	slices.Reverse(o.Packages)
	if diff := cmp.Diff(first, list(build(t, o))); diff != "" {
		t.Errorf("the same packages in another order give another repository:\n%s", diff)
	}
}

func TestFailures(t *testing.T) {
	missing := options(t)
	missing.Packages[0].File = filepath.Join(t.TempDir(), "missing")
	broken := options(t)
	if err := os.WriteFile(broken.Packages[0].File, []byte("no package"), 0o644); err != nil {
		t.Fatal(err)
	}
	twice := options(t)
	twice.Packages = append(twice.Packages, twice.Packages[0])
	for summary, o := range map[string]Options{"missing": missing, "no package": broken, "one path twice": twice} {
		if _, err := Build(o); err == nil || !strings.Contains(err.Error(), o.Packages[0].Path) {
			t.Errorf("%s: Build = %v; want an error that names %s", summary, err, o.Packages[0].Path)
		}
	}
}

// needs skips where a judge is missing, but never in CI.
func needs(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", tool)
		}
		t.Skipf("%s is not installed", tool)
	}
}

// unpack writes the repository and the key to disk.
func unpack(t *testing.T, tr *tree.Tree, key *pgp.Key) string {
	t.Helper()
	dir := t.TempDir()
	for _, e := range tr.Entries() {
		name := filepath.Join(dir, e.Path)
		var err error
		switch e.Mode.Type() {
		case fs.ModeDir:
			err = os.MkdirAll(name, 0o755)
		case fs.ModeSymlink:
			err = os.Symlink(e.Link, name)
		default:
			var r io.ReadCloser
			if r, err = e.Open(); err != nil {
				break
			}
			var data []byte
			data, err = io.ReadAll(r)
			_ = r.Close()
			if err == nil {
				err = os.WriteFile(name, data, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "key.asc"), key.PublicArmor(), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// apt runs apt-get with a configuration of its own, whose only source is the
// repository in dir under the given key.
func apt(t *testing.T, dir, key string, args ...string) (string, error) {
	t.Helper()
	needs(t, "apt-get")
	root := t.TempDir()
	for _, d := range []string{"lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"status":           "",
		"etc/sources.list": "deb [arch=amd64 signed-by=" + key + "] file:" + dir + " trixie main\n",
		"apt.conf": `Dir::State "` + root + `"; Dir::State::status "` + root + `/status"; Dir::Cache "` + root + `/cache";
Dir::Etc "` + root + `/etc"; Dir::Etc::sourcelist "` + root + `/etc/sources.list"; Dir::Etc::sourceparts "-"; Dir::Etc::trustedparts "` + root + `/etc/trusted.gpg.d";
APT::Architecture "amd64"; APT::Architectures "amd64"; APT::Sandbox::User "root"; Debug::NoLocking "true"; Dir::Log "` + root + `";
`,
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var all strings.Builder
	for _, argv := range [][]string{{"update", "-q"}, args} {
		cmd := exec.Command("apt-get", argv...)
		cmd.Dir, cmd.Env = root, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "APT_CONFIG=" + filepath.Join(root, "apt.conf")}
		out, err := cmd.CombinedOutput()
		all.Write(out)
		if err != nil {
			return all.String(), err
		}
	}
	return all.String(), nil
}

func TestAptAccepts(t *testing.T) {
	o := options(t)
	dir := unpack(t, build(t, o), o.Key)
	out, err := apt(t, dir, filepath.Join(dir, "key.asc"), "install", "-y", "-q", "--download-only", "hello")
	if err != nil {
		t.Fatalf("apt: %v\n%s", err, out)
	}
	for _, bad := range []string{"unauthenticated", "WARNING", "W: ", "E: "} {
		if strings.Contains(out, bad) {
			t.Errorf("apt has doubts:\n%s", out)
		}
	}
	if !strings.Contains(out, "hello world") {
		t.Errorf("apt does not install hello and world:\n%s", out)
	}
}

func TestAptRefuses(t *testing.T) {
	o := options(t)
	tr := build(t, o)
	other := filepath.Join(t.TempDir(), "other.asc")
	if err := os.WriteFile(other, newKey(t).PublicArmor(), 0o644); err != nil {
		t.Fatal(err)
	}
	const index = "dists/trixie/main/binary-amd64/Packages"
	tests := []struct {
		summary string
		files   []string // in which one byte changes
		key     string   // empty: the right one
	}{
		{"InRelease was changed", []string{"dists/trixie/InRelease"}, ""},
		{"the index was changed", []string{index, index + ".gz"}, ""},
		{"a package was changed", []string{o.Packages[0].Path}, ""},
		{"another key signed", nil, other},
	}
	for _, test := range tests {
		dir := unpack(t, tr, o.Key)
		for _, name := range test.files {
			file := filepath.Join(dir, name)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		key := test.key
		if key == "" {
			key = filepath.Join(dir, "key.asc")
		}
		if out, err := apt(t, dir, key, "download", "-q", "hello"); err == nil {
			t.Errorf("%s: apt takes it:\n%s", test.summary, out)
		}
	}
}

func TestSignatures(t *testing.T) {
	needs(t, "sqv")
	o := options(t)
	dir := unpack(t, build(t, o), o.Key)
	release := filepath.Join(dir, "dists/trixie/Release")
	verify := func() ([]byte, error) {
		return exec.Command("sqv", "--keyring", filepath.Join(dir, "key.asc"), release+".gpg", release).CombinedOutput()
	}
	if out, err := verify(); err != nil || strings.TrimSpace(string(out)) != o.Key.Fingerprint() {
		t.Errorf("sqv: %v\n%s", err, out)
	}
	if err := os.WriteFile(release, []byte("Origin: nobody\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(); err == nil {
		t.Errorf("sqv accepts another Release: %s", out)
	}
}
