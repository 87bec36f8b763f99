package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/pgp"
)

var when = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// system writes a small installed system.
func system(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "dev/pts", "etc/ssh", "tmp/x", "usr/bin", "usr/lib", "var/log/apt", "var/lib/dpkg", "boot/grub", "lost+found", "run/lock"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	for name, content := range map[string]string{
		"usr/bin/perl": "perl", "usr/lib/big": strings.Repeat("0123456789abcdef", 20000), "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
		"etc/shadow": "root:*:20000:0:99999:7:::\ndaemon:!*:1::::::\n", "etc/machine-id": "0123\n", "etc/hostname": "node1\n",
		"etc/ssh/ssh_host_rsa_key": "secret", "etc/ssh/sshd_config": "Port 22\n", "var/log/btmp": "xx", "var/log/dpkg.log": "x", "var/log/apt/history.log": "x",
		"var/lib/dpkg/status": "base\n", "boot/vmlinuz-6": "kernel", "boot/grub/grub.cfg": "x", "boot/grub/unicode.pf2": "x", "tmp/x/y": "z", "dev/console": "",
		"var/lib/dpkg/gone": "x",
	} {
		must(t, os.WriteFile(filepath.Join(root, name), []byte(content), 0o644))
	}
	must(t, os.Chmod(filepath.Join(root, "usr/bin/perl"), 0o755|fs.ModeSetuid))
	must(t, os.Link(filepath.Join(root, "usr/bin/perl"), filepath.Join(root, "usr/bin/perl5")))
	must(t, os.Symlink("usr/bin", filepath.Join(root, "sbin")))
	must(t, unix.Mkfifo(filepath.Join(root, "var/lib/pipe"), 0o600))
	must(t, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if d.Type() == fs.ModeSymlink {
			return err
		}
		return errors.Join(err, os.Chtimes(name, when, when))
	}))
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func pack(t *testing.T, root string, old Listing) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, Pack(t.Context(), &b, root, old))
	return b.Bytes()
}

func names(t *testing.T, data []byte) []string {
	t.Helper()
	var list []string
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		must(t, err)
		list = append(list, h.Name)
	}
}

func TestPack(t *testing.T) {
	got := names(t, pack(t, system(t), nil))
	want := []string{
		"bin/", "boot/", "boot/grub/", "boot/grub/unicode.pf2", "boot/vmlinuz-6", "dev/", "etc/", "etc/passwd", "etc/shadow", "etc/ssh/", "etc/ssh/sshd_config", "run/", "sbin", "tmp/",
		"usr/", "usr/bin/", "usr/bin/perl", "usr/bin/perl5", "usr/lib/", "usr/lib/big",
		"var/", "var/lib/", "var/lib/dpkg/", "var/lib/dpkg/gone", "var/lib/dpkg/status", "var/lib/pipe", "var/log/", "var/log/apt/", "var/log/btmp",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names differ (-want +got):\n%s", diff)
	}
}

func TestUnpack(t *testing.T) {
	root, target := system(t), t.TempDir()
	// what is in the way of a file is replaced
	must(t, os.MkdirAll(filepath.Join(target, "usr/bin/perl/x"), 0o755))
	must(t, os.WriteFile(filepath.Join(target, "var"), nil, 0o644))
	data := pack(t, root, nil)
	var z bytes.Buffer
	w, err := Compress(&z)
	must(t, err)
	_, err = w.Write(data)
	must(t, errors.Join(err, w.Close()))
	r, err := Decompress(&z)
	must(t, err)
	done := int64(0)
	must(t, Unpack(t.Context(), r, target, UnpackOptions{Progress: func(n int64) { done = n }}))
	if done < int64(len(data))-2048 {
		t.Errorf("progress ended at %d of %d", done, len(data))
	}
	if !bytes.Equal(pack(t, target, nil), data) {
		t.Error("the tree that was unpacked gives another archive")
	}
	info, err := os.Stat(filepath.Join(target, "usr/bin/perl5"))
	must(t, err)
	if info.Mode() != 0o755|fs.ModeSetuid || !info.ModTime().Equal(when) {
		t.Errorf("perl5: %v, %v", info.Mode(), info.ModTime())
	}
}

// TestLayer: what a boot loader's packages change becomes a layer, and the
// tree is as before when the next one is made.
func TestLayer(t *testing.T) {
	root := system(t)
	base := pack(t, root, nil)
	old, err := List(t.Context(), root)
	must(t, err)
	change := func() {
		must(t, os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), []byte("base\ngrub\n"), 0o644))
		must(t, os.MkdirAll(filepath.Join(root, "usr/lib/grub/i386-pc"), 0o755))
		must(t, os.WriteFile(filepath.Join(root, "usr/lib/grub/i386-pc/mod"), []byte("x"), 0o644))
		must(t, os.Remove(filepath.Join(root, "var/lib/dpkg/gone")))
	}
	change()
	layer := pack(t, root, old)
	for _, name := range names(t, layer) {
		if strings.Contains(name, "passwd") || strings.Contains(name, "perl") {
			t.Errorf("the layer holds %s, which has not changed", name)
		}
	}
	removed, err := Removed(root, old)
	must(t, err)
	if diff := cmp.Diff([]string{"var/lib/dpkg/gone"}, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	want := pack(t, root, nil)
	must(t, Restore(t.Context(), bytes.NewReader(base), root, old))
	if !bytes.Equal(pack(t, root, nil), base) {
		t.Error("restoring gives another tree")
	}
	target := t.TempDir()
	must(t, Unpack(t.Context(), bytes.NewReader(base), target, UnpackOptions{}))
	must(t, Remove(target, removed))
	must(t, Unpack(t.Context(), bytes.NewReader(layer), target, UnpackOptions{}))
	if !bytes.Equal(pack(t, target, nil), want) {
		t.Error("base and layer give another tree")
	}
}

func TestUnpackStaysInside(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"up":        {{Name: "../x", Typeflag: tar.TypeReg}},
		"absolute":  {{Name: "/x", Typeflag: tar.TypeReg}},
		"unclean":   {{Name: "a/../../x", Typeflag: tar.TypeReg}},
		"link":      {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, {Name: "a/x", Typeflag: tar.TypeReg}},
		"hard link": {{Name: "a", Typeflag: tar.TypeLink, Linkname: "../x"}},
		"device":    {{Name: "a", Typeflag: tar.TypeChar}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			target := filepath.Join(dir, "target")
			must(t, os.Mkdir(target, 0o755))
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for i := range headers {
				headers[i].Uid, headers[i].Gid = os.Getuid(), os.Getgid()
				must(t, w.WriteHeader(&headers[i]))
			}
			must(t, w.Close())
			if err := Unpack(t.Context(), &b, target, UnpackOptions{}); err == nil {
				t.Error("Unpack took it")
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 1 {
				t.Errorf("something was written outside: %v", entries)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	clean := pack(t, system(t), nil)
	must(t, Check(bytes.NewReader(clean), []string{"node1.lab.example"}))
	for name, test := range map[string]struct{ path, content, want string }{
		"identity":    {"etc/machine-id", "0123\n", "etc/machine-id belongs to one machine"},
		"host key":    {"etc/ssh/ssh_host_ed25519_key", "x", "belongs to one machine"},
		"log":         {"var/log/syslog", "x", "var/log/syslog belongs to one machine"},
		"login":       {"var/log/wtmp", "x", "var/log/wtmp belongs to one machine"},
		"run":         {"run/x", "x", "run/x belongs to one machine"},
		"private key": {"var/lib/x/key.pem", "-----BEGIN EC PRIVATE KEY-----\nMHc", "var/lib/x/key.pem holds a private key"},
		"ssh key":     {"etc/x", "-----BEGIN OPENSSH PRIVATE KEY-----\nMHc", "etc/x holds a private key"},
		"password":    {"etc/shadow", "root:$y$j9T$x:20000::::::\n", "etc/shadow holds the password of root"},
		"old file":    {"etc/shadow-", "root:x1:20000::::::\n", "etc/shadow- holds the password of root"},
		"credential":  {"etc/sci/enrol.json", "x", "etc/sci/enrol.json belongs to one machine"},
		"ledger":      {"var/lib/sci/enrol.ledger.json", "x", "var/lib/sci/enrol.ledger.json belongs to one machine"},
		"a copy":      {"root/node1.json", testCredential(t), "root/node1.json holds a credential for joining a cluster"},
		"trace":       {"etc/mailname", "node1.lab.example\n", `etc/mailname holds "node1.lab.example"`},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			must(t, w.WriteHeader(&tar.Header{Name: test.path, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(test.content))}))
			_, err := io.WriteString(w, test.content)
			must(t, errors.Join(err, w.Close()))
			err = Check(&b, []string{"node1.lab.example", ""})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Check = %v; want %q", err, test.want)
			}
		})
	}
}

// testCredential is a credential as pkg/enrol writes it.
func testCredential(t *testing.T) string {
	t.Helper()
	issued, err := enrol.Issue(make([]byte, 32), []enrol.Host{{Name: "node1", FQDN: "node1.lab.example"}})
	must(t, err)
	return string(issued["node1"].Bytes())
}

func testDisk(t *testing.T, traces ...string) (*os.File, DiskHead) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	must(t, f.Truncate(64<<20))
	d, err := NewDiskWriter(f)
	must(t, err)
	root := system(t)
	for _, name := range []string{Base, BIOS} {
		must(t, d.Layer(name, nil, func(w io.Writer) error { return Pack(t.Context(), w, root, nil) }))
	}
	head := DiskHead{Class: "node", Kernel: "6.12", Packages: []Package{{"dpkg", "1", "amd64"}}, Traces: traces}
	must(t, d.Commit(head))
	return f, head
}

func TestMake(t *testing.T) {
	key, err := pgp.NewKey("lab", "test", "root@lab.example", when.Add(-time.Hour))
	must(t, err)
	keys, err := key.Keyring()
	must(t, err)
	f, _ := testDisk(t, "0815")
	dir := filepath.Join(t.TempDir(), "images", "node")
	o := MakeOptions{Disk: f, DiskSize: 64 << 20, Key: key, Dir: dir, Manifest: Manifest{Class: "node", Codename: "trixie", Arch: "amd64", Inputs: "x", Time: when}}
	for range 2 { // the second one replaces the first
		_, err = Make(t.Context(), o)
		must(t, err)
	}
	m, err := Open(dir, keys)
	must(t, err)
	if m.Kernel != "6.12" || len(m.Packages) != 1 || len(m.Layers) != 2 {
		t.Errorf("manifest: %+v", m)
	}
	for _, l := range m.Layers {
		must(t, l.Verify(t.Context(), dir))
	}
	left, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	base := filepath.Join(dir, "base.tar.zst")
	data, err := os.ReadFile(base)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.WriteFile(base, data, 0o644))
	if err := m.Layers[0].Verify(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "is not what image.json says") {
		t.Errorf("Verify of a flipped bit = %v", err)
	}
	must(t, os.WriteFile(base, append(data, 0), 0o644))
	if err := m.Layers[0].Verify(t.Context(), dir); err == nil {
		t.Error("Verify takes a file that is longer")
	}
	text, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, ManifestFile), bytes.Replace(text, []byte("trixie"), []byte("sid   "), 1), 0o644))
	if _, err := Open(dir, keys); err == nil || !strings.Contains(err.Error(), "cannot trust image") {
		t.Errorf("Open of a changed manifest = %v", err)
	}

	f, _ = testDisk(t, "kernel") // which boot/vmlinuz-6 holds
	o.Disk = f
	if _, err := Make(t.Context(), o); err == nil || !strings.Contains(err.Error(), "not free of the machine") {
		t.Errorf("Make with a trace = %v", err)
	}
	o.Manifest.Class = "service"
	if _, err := Make(t.Context(), o); err == nil {
		t.Error("Make takes another class's disk")
	}
}

func TestReadDiskErrors(t *testing.T) {
	for name, data := range map[string]string{
		"empty":      "",
		"unfinished": strings.Repeat("\x00", 8192),
		"no JSON":    diskMagic + "{",
		"outside":    diskMagic + `{"layers":[{"name":"base","offset":4194304,"size":9999999}]}` + "\x00",
		"overflow":   diskMagic + `{"layers":[{"name":"base","offset":4194304,"size":9223372036854775807}]}` + "\x00",
		"in header":  diskMagic + `{"layers":[{"name":"base","offset":0,"size":1}]}` + "\x00",
		"name":       diskMagic + `{"layers":[{"name":"../x","offset":4194304,"size":1}]}` + "\x00",
	} {
		if _, err := ReadDisk(strings.NewReader(data), 5<<20); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	m := Manifest{Format: Format, Class: "node", Layers: []Layer{{Name: Base, Size: 1, SHA256: strings.Repeat("0", 64), Removed: []string{"a"}}}}
	data, err := m.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			return
		}
		for _, l := range m.Layers {
			if strings.ContainsAny(l.File(), "/\x00") {
				t.Errorf("file %q", l.File())
			}
			for _, name := range l.Removed {
				if !filepath.IsLocal(name) {
					t.Errorf("removes %q", name)
				}
			}
		}
	})
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		target := filepath.Join(dir, "target")
		must(t, os.Mkdir(target, 0o755))
		_ = Unpack(t.Context(), bytes.NewReader(data), target, UnpackOptions{})
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("something was written outside: %v", entries)
		}
	})
}
