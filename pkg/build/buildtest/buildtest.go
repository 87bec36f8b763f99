// Package buildtest is a small Debian archive, as values, from which a medium
// of the example site can be built in a second: each package that the profiles,
// the installer and the boot loaders ask for is there, with next to nothing in
// it. Its names come from the lists themselves, so that it does not age.
//
// The archive has three pockets, as Debian's: main, updates and security.
package buildtest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/archive/testarchive"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
	"github.com/skycover/sci-cd/pkg/tree"
)

// ABI is the name of the archive's kernel.
const ABI = "6.12.0-test-amd64"

// Upgraded is a package that the security pocket has a newer version of.
const Upgraded = "openssh-server"

// Date is the date of the archive: well before any clock that a test runs by.
func Date() time.Time { return time.Date(2025, 1, 11, 9, 0, 0, 0, time.UTC) }

// Archive returns the archive, to be changed by the test.
func Archive(t testing.TB) *testarchive.Archive {
	t.Helper()
	key, err := pgp.NewKey("Test archive", "not for use", "test@example.org", Date().AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	a := testarchive.New(t)
	a.Key = key
	for _, s := range a.Suites {
		s.Key, s.Date, s.ValidUntil = key, Date(), time.Time{}
		s.Architectures = []string{"all", "amd64"}
		s.Compressions = []string{"", ".gz"}
		s.Packages = nil
	}
	a.Suite("trixie").Packages = packages(t)
	a.Suite("trixie-security").Packages = []*testarchive.Package{testarchive.Deb(Upgraded, "1.0-1+deb13u1", "amd64")}
	return a
}

// packages are all that the example site asks for.
func packages(t testing.TB) []*testarchive.Package {
	var list []*testarchive.Package
	names := make(map[string]bool)
	add := func(name string, fields ...string) *testarchive.Package {
		if names[name] {
			i := slices.IndexFunc(list, func(p *testarchive.Package) bool { return p.Control.Get("Package") == name })
			return list[i]
		}
		names[name] = true
		p := testarchive.Deb(name, "1.0-1", "amd64", fields...)
		list = append(list, p)
		return p
	}
	add("base-files", "Essential", "yes", "Priority", "required")
	add("linux-image-amd64", "Depends", "linux-image-"+ABI)
	kernel(t, add("linux-image-"+ABI))
	put(t, add("debian-installer-13-netboot-amd64"), netboot+"linux", []byte("a kernel\n"))
	put(t, add("debian-installer-13-netboot-amd64"), netboot+"initrd.gz", stockInitrd(t))
	loaders(t, func(name string) *testarchive.Package { return add(name) })
	for _, line := range lines(t, "installer.tools") {
		named, patterns, _ := strings.Cut(line, ":")
		first, _, _ := strings.Cut(named, "|")
		for _, pattern := range strings.Fields(patterns) {
			put(t, add(first), strings.ReplaceAll(pattern, "*", ".9"), []byte("a tool\n"))
		}
	}
	for _, name := range asked(t) {
		add(name)
	}
	for _, name := range strings.Fields(strings.Join(lines(t, "installer.udebs"), " ")) {
		udeb := testarchive.Deb(strings.TrimSuffix(name, "?"), "1.0-1", "amd64") // "?" says that it may be missing
		udeb.Udeb = true
		list = append(list, udeb)
	}
	return list
}

// asked are the packages that the example site's profiles and the agent name.
func asked(t testing.TB) []string {
	s, err := site.Parse("site.yaml", site.Example())
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"systemd", "mount"} // the agent's dependencies
	for _, class := range s.Classes() {
		sel, err := profile.Select(s, class, scicd.Profiles())
		if err != nil {
			t.Fatal(err)
		}
		names = append(append(names, sel.Packages...), sel.Downloads...)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "sci-agent" })
}

// lines reads a list of the installer's, without comments.
func lines(t testing.TB, name string) []string {
	data, err := fs.ReadFile(scicd.Preseed(), name)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, line)
		}
	}
	return list
}

// put adds a file to a package.
func put(t testing.TB, p *testarchive.Package, name string, data []byte) {
	t.Helper()
	if p.Files == nil {
		p.Files = new(tree.Tree)
	}
	if err := p.Files.AddBytes(name, 0o644, data); err != nil {
		t.Fatal(err)
	}
}

// kernel adds a module that the installer wants, one that this one needs, and
// one that nobody wants.
func kernel(t testing.TB, p *testarchive.Package) {
	dir := "usr/lib/modules/" + ABI + "/kernel/"
	put(t, p, dir+"drivers/ata/fake_ata.ko", module("depends=fake_lib", "alias=pci:v00008086d*"))
	put(t, p, dir+"lib/fake_lib.ko", module("depends="))
	put(t, p, dir+"sound/fake_sound.ko", module("depends="))
}

func module(info ...string) []byte {
	return ELF([]byte(strings.Join(append(info, "vermagic="+ABI+" SMP"), "\x00") + "\x00"))
}

const netboot = "usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64/"

// stockInitrd is the netboot image's initrd: merged-usr, one module, a status
// file.
func stockInitrd(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := cpio.NewWriter(z)
	for i, f := range []struct {
		name string
		mode cpio.FileMode
		text string
	}{
		{"usr", cpio.TypeDir | 0o755, ""},
		{"usr/lib", cpio.TypeDir | 0o755, ""},
		{"lib", cpio.TypeSymlink | 0o777, "usr/lib"},
		{"bin", cpio.TypeSymlink | 0o777, "usr/bin"},
		{"sbin", cpio.TypeSymlink | 0o777, "usr/sbin"},
		{"usr/lib/modules/" + ABI + "/kernel/fs/stock.ko", cpio.TypeReg | 0o644, "a module\n"},
		{"usr/lib/modules/" + ABI + "/modules.builtin", cpio.TypeReg | 0o644, "kernel/fs/builtin.ko\n"},
		{"var/lib/dpkg/status", cpio.TypeReg | 0o644, "Package: anna\nStatus: install ok unpacked\nVersion: 1\n\nPackage: main-menu\nStatus: install ok unpacked\nVersion: 1\n\n"},
	} {
		h := &cpio.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), ModTime: Date(), Inode: int64(i + 1), Links: 1}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// loaders adds what boots the medium. isolinux.bin has the mark by which the
// boot code of a disk knows it.
func loaders(t testing.TB, pkg func(name string) *testarchive.Package) {
	isolinux := bytes.Repeat([]byte{0x90}, 3000)
	copy(isolinux[64:], []byte{0xfb, 0xc0, 0x78, 0x70})
	put(t, pkg("isolinux"), "usr/lib/ISOLINUX/isolinux.bin", isolinux)
	put(t, pkg("isolinux"), "usr/lib/ISOLINUX/isohdpfx.bin", bytes.Repeat([]byte{0xf4}, 432))
	for _, name := range []string{"ldlinux.c32", "libcom32.c32", "libutil.c32", "menu.c32"} {
		put(t, pkg("syslinux-common"), "usr/lib/syslinux/modules/bios/"+name, []byte(name+"\n"))
	}
	put(t, pkg("shim-signed"), "usr/lib/shim/shimx64.efi.signed", []byte("shim\n"))
	put(t, pkg("shim-helpers-amd64-signed"), "usr/lib/shim/mmx64.efi.signed", []byte("MokManager\n"))
	put(t, pkg("grub-efi-amd64-signed"), "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", []byte("grub\n"))
}

// Agent is a file that passes for the agent's binary: a static program for
// amd64 that cannot run.
func Agent() []byte { return ELF(nil) }

// ELF returns a little ELF-64 file for x86-64 with a section .modinfo (System V
// ABI, "Object Files").
func ELF(modinfo []byte) []byte {
	const header, entry = 64, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	var b bytes.Buffer
	le := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v) // into memory
		}
	}
	at := uint64(header + len(modinfo) + len(names))
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	le(uint16(2), uint16(62), uint32(1), uint64(0), uint64(0), at, uint32(0), uint16(header), uint16(56), uint16(0), uint16(entry), uint16(3), uint16(2))
	b.Write(modinfo)
	b.WriteString(names)
	b.Write(make([]byte, entry))
	section := func(name, kind uint32, from, size int) {
		le(name, kind, uint64(0), uint64(0), uint64(from), uint64(size), uint32(0), uint32(0), uint64(1), uint64(0))
	}
	section(1, 1, header, len(modinfo))
	section(10, 3, header+len(modinfo), len(names))
	return b.Bytes()
}
