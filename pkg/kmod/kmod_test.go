package kmod

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	m := Module{Path: "kernel/drivers/net/dummy-x.ko.xz"}
	m.parse([]byte("license=GPL\x00depends=a-b,c\x00alias=pci:v0000*\x00softdep=pre: d post: e-f\x00firmware=x/y.bin\x00vermagic=6.12.0 SMP\x00broken\x00"))
	want := Module{
		Path: "kernel/drivers/net/dummy-x.ko.xz", Depends: []string{"a_b", "c"}, Aliases: []string{"pci:v0000*"},
		Softdep: []string{"pre: d post: e-f"}, Firmware: []string{"x/y.bin"}, Vermagic: "6.12.0 SMP",
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("parse (-want +got):\n%s", diff)
	}
	if m.Name() != "dummy_x" || m.ABI() != "6.12.0" {
		t.Errorf("Name, ABI = %q, %q", m.Name(), m.ABI())
	}
}

func sample() []Module {
	return []Module{
		{Path: "kernel/lib/crc.ko"},
		{Path: "kernel/fs/jbd2.ko", Depends: []string{"crc"}},
		{Path: "kernel/fs/ext4.ko", Depends: []string{"jbd2", "crc", "builtin_one"}, Aliases: []string{"fs-ext4", "ext3"}, Softdep: []string{"pre: crc32c"}},
		{Path: "kernel/drivers/loop.ko", Aliases: []string{"devname:loop-control", "char-major-10-237"}},
	}
}

func TestClosure(t *testing.T) {
	set := Set{}
	for _, m := range sample() {
		set[m.Name()] = m
	}
	got, err := set.Closure(map[string]bool{"builtin_one": true}, func(m Module) bool { return m.Name() == "ext4" })
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, m := range got {
		paths = append(paths, m.Path)
	}
	if diff := cmp.Diff([]string{"kernel/fs/ext4.ko", "kernel/fs/jbd2.ko", "kernel/lib/crc.ko"}, paths); diff != "" {
		t.Errorf("Closure (-want +got):\n%s", diff)
	}
	_, err = set.Closure(nil, func(m Module) bool { return m.Name() == "ext4" })
	if want := "cannot find modules: builtin_one (for ext4)"; err == nil || err.Error() != want {
		t.Errorf("Closure = %v; want %s", err, want)
	}
}

func TestIndexTexts(t *testing.T) {
	files, err := Indexes(sample(), []byte("kernel/lib/crc.ko\nkernel/fs/jbd2.ko\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := "kernel/lib/crc.ko:\nkernel/fs/jbd2.ko: kernel/lib/crc.ko\nkernel/drivers/loop.ko:\nkernel/fs/ext4.ko: kernel/fs/jbd2.ko kernel/lib/crc.ko\n"
	if diff := cmp.Diff(want, string(files["modules.dep"])); diff != "" {
		t.Errorf("modules.dep (-want +got):\n%s", diff)
	}
	if got := string(files["modules.devname"]); !strings.HasSuffix(got, "loop loop-control c10:237\n") {
		t.Errorf("modules.devname = %q", got)
	}
	if got := string(files["modules.softdep"]); got != "softdep ext4 pre: crc32c\n" {
		t.Errorf("modules.softdep = %q", got)
	}
}

func TestLoop(t *testing.T) {
	_, err := Indexes([]Module{{Path: "a.ko", Depends: []string{"b"}}, {Path: "b.ko", Depends: []string{"a"}}}, nil)
	if err == nil || !strings.Contains(err.Error(), "depends on itself") {
		t.Errorf("Indexes of a loop = %v", err)
	}
}

// TestModprobe asks the real modprobe, reading nothing but our indexes.
func TestModprobe(t *testing.T) {
	modprobe, err := exec.LookPath("modprobe")
	if err != nil {
		if modprobe = "/sbin/modprobe"; !exists(modprobe) {
			if os.Getenv("CI") == "true" {
				t.Fatal("modprobe is missing: apt-get install kmod")
			}
			t.Skip("modprobe is missing: apt-get install kmod")
		}
	}
	files, err := Indexes(sample(), nil)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules/6.0-test")
	for _, m := range sample() {
		files[m.Path] = []byte("no module")
	}
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ ask, want string }{
		{"fs-ext4", "crc.ko jbd2.ko ext4.ko"},
		{"ext3", "crc.ko jbd2.ko ext4.ko"},
		{"jbd2", "crc.ko jbd2.ko"},
		{"devname:loop-control", "loop.ko"},
	} {
		out, err := exec.Command(modprobe, "-d", root, "-S", "6.0-test", "--show-depends", test.ask).CombinedOutput()
		var names []string
		for _, line := range strings.Fields(string(out)) {
			if strings.HasSuffix(line, ".ko") {
				names = append(names, filepath.Base(line))
			}
		}
		if got := strings.Join(names, " "); err != nil || got != test.want {
			t.Errorf("modprobe --show-depends %s = %q, %v; want %q\n%s", test.ask, got, err, test.want, out)
		}
	}
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

func FuzzRead(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = Read("kernel/a.ko", bytes.NewReader(data))
		new(Module).parse(data)
	})
}
