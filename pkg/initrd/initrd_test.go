package initrd

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/tree"
)

const abi = "6.12.0-test-amd64"

var when = time.Date(2025, 8, 9, 10, 0, 0, 0, time.UTC)

// file is an entry of a made-up archive; one that ends in "/" is a directory,
// one with a link a symbolic link.
type file struct{ name, text, link string }

const stockStatus = `Package: anna
Status: install ok unpacked
Version: 1

Package: main-menu
Status: install ok unpacked
Version: 1.2
Depends: cdebconf-udeb, libc6
Provides: cdebconf-udeb
`

// stockFiles is a little installer, with merged /usr or without.
func stockFiles(merged bool) []file {
	lib := "lib/"
	list := []file{{"lib/", "", ""}, {"sbin/", "", ""}}
	if merged {
		lib = "usr/lib/"
		list = []file{{"usr/", "", ""}, {"usr/lib/", "", ""}, {"usr/sbin/", "", ""}, {"lib", "", "usr/lib"}, {"sbin", "", "usr/sbin"}}
	}
	return append(list,
		file{lib + "libc.so.6", "a library", ""},
		file{lib + "modules/" + abi + "/kernel/fs/stock.ko", "a module", ""},
		file{lib + "modules/" + abi + "/modules.builtin", "kernel/fs/builtin.ko\n", ""},
		file{"var/lib/dpkg/status", stockStatus, ""},
	)
}

// archive packs files as cpio.
func archive(t testing.TB, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	for i, f := range files {
		h := &cpio.Header{Name: strings.TrimSuffix(f.name, "/"), Mode: cpio.TypeReg | 0o644, Size: int64(len(f.text)), ModTime: when, Inode: int64(i + 1), Links: 1}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Mode = cpio.TypeDir | 0o755
		case f.link != "":
			h.Mode, h.Size, f.text = cpio.TypeSymlink|0o777, int64(len(f.link)), f.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packed(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readStock(t *testing.T, files []file) *Stock {
	t.Helper()
	s, err := ReadStock(bytes.NewReader(packed(t, archive(t, files))))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReadStock(t *testing.T) {
	for _, merged := range []bool{false, true} {
		s := readStock(t, stockFiles(merged))
		if s.ABI != abi || s.Merged != merged || len(s.Status) != 2 || !slices.Equal(s.Modules, []string{"kernel/fs/stock.ko"}) || !s.builtin()["builtin"] {
			t.Errorf("merged %t: ReadStock = %+v", merged, s)
		}
		want := "lib/modules"
		if merged {
			want = "usr/lib/modules"
		}
		if got := s.Place("lib/modules"); got != want {
			t.Errorf("merged %t: Place(lib/modules) = %q; want %q", merged, got, want)
		}
		if got := s.Place("library/x"); got != "library/x" {
			t.Errorf("merged %t: Place(library/x) = %q", merged, got)
		}
	}
}

func TestReadStockRefuses(t *testing.T) {
	files := stockFiles(true)
	tests := []struct {
		summary string
		data    []byte
		want    string
	}{
		{"not packed", []byte("070701"), "cannot read stock initrd: "},
		{"cut short", packed(t, archive(t, files)[:600]), "cannot read stock initrd: "},
		{"no modules", packed(t, archive(t, files[len(files)-1:])), "cannot use stock initrd: it holds no kernel modules or no dpkg status, so it is not the debian-installer's"},
		{"no status", packed(t, archive(t, files[:len(files)-1])), "cannot use stock initrd: it holds no kernel modules or no dpkg status, so it is not the debian-installer's"},
		{"two kernels", packed(t, archive(t, append(stockFiles(true), file{"lib/modules/6.1.0/a.ko", "", ""}))), `cannot read stock initrd: "lib/modules/6.1.0/a.ko": modules of two kernels: 6.12.0-test-amd64 and 6.1.0`},
	}
	for _, test := range tests {
		if _, err := ReadStock(bytes.NewReader(test.data)); err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%s: ReadStock = %v; want %s", test.summary, err, test.want)
		}
	}
}

// pack writes a package; names that end in "*" are executable.
func pack(t *testing.T, name string, files map[string][]byte, scripts map[string][]byte, fields ...string) string {
	t.Helper()
	c := deb.Control{
		{Name: "Package", Value: name}, {Name: "Version", Value: "1"}, {Name: "Architecture", Value: "amd64"},
		{Name: "Maintainer", Value: "Test <test@example.org>"}, {Name: "Description", Value: "a package\n with more to say"},
	}
	for i := 0; i < len(fields); i += 2 {
		c = c.Set(fields[i], fields[i+1])
	}
	var tr tree.Tree
	for name, data := range files {
		plain, executable := strings.CutSuffix(name, "*")
		mode := fs.FileMode(0o644)
		if executable {
			mode = 0o755
		}
		if err := tr.AddBytes(plain, mode, data); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := deb.Write(&b, deb.Spec{Control: c, Files: &tr, Scripts: scripts, Time: when}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name+".deb")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func module(abi, depends string) []byte {
	return elfFile([]byte("depends=" + depends + "\x00vermagic=" + abi + " SMP\x00"))
}

// elfFile is a little ELF-64 file for x86-64 with a section .modinfo.
func elfFile(modinfo []byte) []byte {
	const names = "\x00.modinfo\x00.shstrtab\x00"
	namesAt := uint64(64 + len(modinfo))
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v) // into memory
		}
	}
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Shoff: namesAt + uint64(len(names)), Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	})
	put(modinfo, []byte(names), elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(modinfo))})
	put(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names))})
	return b.Bytes()
}

func kernel(t *testing.T, abi, magic string) string {
	dir := "usr/lib/modules/" + abi + "/kernel/"
	return pack(t, "linux-image-"+abi, map[string][]byte{
		dir + "drivers/ata/wanted.ko":     module(magic, "helper,builtin"),
		dir + "lib/helper.ko":             module(magic, ""),
		dir + "fs/stock.ko":               module(magic, ""), // in the stock initrd
		dir + "sound/unwanted.ko":         module(magic, ""),
		"boot/vmlinuz-" + abi:             []byte("a kernel"),
		"usr/share/doc/linux/changelog":   []byte("news"),
		"usr/lib/modules/" + abi + "/x.y": []byte("no module"),
	}, nil)
}

func options(t *testing.T, stock *Stock) Options {
	udeb := pack(t, "cdrom-detect", map[string][]byte{
		"lib/detect/detect*": []byte("#!/bin/sh\n"), "usr/share/detect/data": []byte("data"),
	}, map[string][]byte{"postinst": []byte("#!/bin/sh\nexit 0\n"), "templates": []byte("Template: a/b\nType: text\nDescription: b\n")},
		"Section", "debian-installer", "Depends", "cdebconf-udeb (>= 1), nic-modules, fat-modules | vfat-modules", "Installer-Menu-Item", "1500")
	tool := pack(t, "e2fsprogs", map[string][]byte{"usr/sbin/mke2fs*": []byte("#!/bin/sh\n"), "etc/mke2fs.conf": []byte("[defaults]\n"), "usr/sbin/other*": nil}, nil)
	return Options{
		Stock: stock, Kernel: kernel(t, abi, abi), Udebs: []string{udeb}, Remove: []string{"anna"},
		Tools: []Tool{{Deb: tool, Files: []string{"sbin/mke2fs", "etc/*.conf"}}},
		Menu:  []MenuItem{{Name: "sci-disks", Number: 4200, Description: "Partition the disk", Provides: "partitioned-harddrives", Postinst: "#!/bin/sh\n"}},
	}
}

// The stock archive and ours are unpacked one over the other by cpio, as the
// kernel does it.
func TestUnpacked(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("cpio is not installed")
		}
		t.Skip("cpio is not installed")
	}
	for _, merged := range []bool{false, true} {
		files := stockFiles(merged)
		stock := readStock(t, files)
		tr, err := Base(t.Context(), options(t, stock))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		for _, data := range [][]byte{archive(t, files), segment(t, stock, tr)} {
			cmd := exec.Command("cpio", "-idmu", "--quiet", "--no-absolute-filenames")
			cmd.Dir, cmd.Stdin = dir, bytes.NewReader(data)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("cpio: %v\n%s", err, out)
			}
		}
		usr := ""
		if merged {
			usr = "usr/"
		}
		modules := usr + "lib/modules/" + abi + "/"
		want := []string{
			"etc/mke2fs.conf -rw-r--r--",
			usr + "lib/detect/detect -rwxr-xr-x",
			usr + "lib/libc.so.6 -rw-r--r--",
			modules + "kernel/drivers/ata/wanted.ko -rw-r--r--",
			modules + "kernel/fs/stock.ko -rw-r--r--",
			modules + "kernel/lib/helper.ko -rw-r--r--",
			modules + "modules.builtin -rw-r--r--",
			modules + "modules.dep -rw-r--r--",
			"usr/sbin/mke2fs -rwxr-xr-x",
			"usr/share/detect/data -rw-r--r--",
			"var/lib/dpkg/info/cdrom-detect.postinst -rwxr-xr-x",
			"var/lib/dpkg/info/cdrom-detect.templates -rw-r--r--",
			"var/lib/dpkg/info/sci-disks.postinst -rwxr-xr-x",
			"var/lib/dpkg/info/sci-disks.templates -rw-r--r--",
			"var/lib/dpkg/status -rw-r--r--",
		}
		if merged {
			want = append(want, "lib Lrwxrwxrwx", "sbin Lrwxrwxrwx")
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, listing(t, dir)); diff != "" {
			t.Errorf("merged %t (-want +got):\n%s", merged, diff)
		}
	}
}

// segment writes the tree and takes the compression off again, which cpio
// knows nothing of.
func segment(t *testing.T, stock *Stock, tr *tree.Tree) []byte {
	t.Helper()
	var b, again bytes.Buffer
	if err := errors.Join(Write(&b, stock, tr, when), Write(&again, stock, tr, when)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("the same tree gives different bytes")
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	data, err := z.DecodeAll(b.Bytes(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// listing is what stands below dir, directories and most of the module indexes
// apart.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		base := filepath.Base(name)
		if err != nil || d.IsDir() || strings.HasPrefix(base, "modules.") && base != "modules.dep" && base != "modules.builtin" {
			return err
		}
		info, err := d.Info()
		name, _ = filepath.Rel(dir, name)
		list = append(list, fmt.Sprintf("%s %v", name, info.Mode()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func TestStatus(t *testing.T) {
	stock := readStock(t, stockFiles(true))
	tr, err := Base(t.Context(), options(t, stock))
	if err != nil {
		t.Fatal(err)
	}
	e, _ := tr.Lookup(statusPath)
	got, err := e.ReadAll(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	want := `Package: cdrom-detect
Status: install ok unpacked
Version: 1
Depends: cdebconf-udeb (>= 1), nic-modules, fat-modules | vfat-modules
Description: a package
Installer-Menu-Item: 1500

Package: main-menu
Status: install ok unpacked
Version: 1.2
Depends: cdebconf-udeb, libc6
Provides: cdebconf-udeb

Package: sci-disks
Status: install ok unpacked
Version: 1
Provides: partitioned-harddrives
Description: Partition the disk
Installer-Menu-Item: 4200

Package: sci-virtual
Status: install ok unpacked
Version: 1
Provides: fat-modules, libc6, nic-modules, vfat-modules
Description: Parts of the installer that come without a udeb

`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestBaseRefuses(t *testing.T) {
	stock := readStock(t, stockFiles(true))
	const other = "6.1.0-9-amd64"
	tests := []struct {
		summary string
		change  func(*Options)
		want    string
	}{
		{"the kernel package is of another ABI", func(o *Options) { o.Kernel = kernel(t, other, other) },
			"it holds no modules for kernel " + abi},
		{"a module is of another ABI", func(o *Options) { o.Kernel = kernel(t, abi, other) },
			`is for kernel "` + other + `", the installer's is "` + abi + `"`},
		{"a udeb is of another ABI", func(o *Options) {
			o.Udebs = append(o.Udebs, pack(t, "ext4-modules-di", nil, nil, "Section", "debian-installer", "Kernel-Version", other))
		}, "cannot add udeb ext4-modules-di: it is for kernel " + other + ", the installer's is " + abi},
		{"a tool has no such file", func(o *Options) { o.Tools[0].Files = append(o.Tools[0].Files, "sbin/fsck.ext9") },
			`cannot take "sbin/fsck.ext9" from `},
		{"a module depends on what is nowhere", func(o *Options) {
			o.Kernel = pack(t, "linux-image", map[string][]byte{"lib/modules/" + abi + "/kernel/drivers/ata/a.ko": module(abi, "nowhere")}, nil)
		}, "cannot find modules: nowhere (for a)"},
		{"a udeb twice", func(o *Options) { o.Udebs = append(o.Udebs, o.Udebs[0]) }, "path is taken"},
		{"no package", func(o *Options) { o.Kernel = filepath.Join(t.TempDir(), "missing.deb") }, "no such file"},
	}
	for _, test := range tests {
		o := options(t, stock)
		test.change(&o)
		if _, err := Base(t.Context(), o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Base = %v; want %s", test.summary, err, test.want)
		}
	}
}

// A program whose library is not in the installer would fail in a server room.
func TestMissingLibrary(t *testing.T) {
	program, libs := dynamicProgram(t)
	for _, have := range []bool{false, true} {
		files := stockFiles(true)
		for _, lib := range libs {
			if have {
				files = append(files, file{"usr/lib/x86_64-linux-gnu/" + lib, "a library", ""})
			}
		}
		stock := readStock(t, slices.DeleteFunc(files, func(f file) bool { return f.name == "usr/lib/libc.so.6" }))
		o := options(t, stock)
		o.Tools = []Tool{{Deb: pack(t, "coreutils", map[string][]byte{"usr/bin/tool*": program}, nil), Files: []string{"bin/tool"}}}
		_, err := Base(t.Context(), o)
		switch want := fmt.Sprintf("%q needs %s, which is not in the installer", "usr/bin/tool", libs[0]); {
		case have && err != nil:
			t.Errorf("all libraries are there: Base = %v", err)
		case !have && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("Base = %v; want %s", err, want)
		}
	}
}

// dynamicProgram is a program of this machine and the libraries it names.
func dynamicProgram(t *testing.T) ([]byte, []string) {
	t.Helper()
	path, err := exec.LookPath("ls")
	if err != nil {
		t.Skip("no ls here")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Skipf("%s is no ELF file: %v", path, err)
	}
	libs, err := f.ImportedLibraries()
	if err != nil || len(libs) == 0 {
		t.Skipf("%s names no libraries: %v", path, err)
	}
	return data, libs
}

// An entry lib/… would replace the symbolic link of the stock initrd, and the
// kernel would find no init.
func TestWriteRefusesLinks(t *testing.T) {
	var tr tree.Tree
	if err := tr.AddBytes("lib/x", 0o644, nil); err != nil {
		t.Fatal(err)
	}
	stock := readStock(t, stockFiles(true))
	err := Write(&bytes.Buffer{}, stock, &tr, when)
	if want := `cannot write initrd: "lib" is behind a symbolic link of the stock initrd`; err == nil || err.Error() != want {
		t.Errorf("Write = %v; want %s", err, want)
	}
	if err := Write(&bytes.Buffer{}, readStock(t, stockFiles(false)), &tr, when); err != nil {
		t.Errorf("Write where /lib is a directory = %v", err)
	}
}

func FuzzReadStock(f *testing.F) {
	f.Add(archive(f, stockFiles(true)))
	f.Add(archive(f, stockFiles(false))[:700])
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ReadStock(bytes.NewReader(packed(t, data)))
		if err == nil && (s.ABI == "" || len(s.Status) == 0) {
			t.Errorf("ReadStock = %+v without an error", s)
		}
	})
}
