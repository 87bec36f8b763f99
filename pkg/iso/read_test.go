package iso

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/tree"
)

// small is a tree whose image is one MiB, for damage by the byte.
func small(t testing.TB) *tree.Tree {
	t.Helper()
	tr := &tree.Tree{}
	must(t, tr.AddBytes("dir/file", 0o644, []byte("hello")))
	must(t, tr.AddBytes("dir/"+strings.Repeat("n", 200), 0o644, []byte("long")))
	must(t, tr.AddBytes("efi.img", 0o644, make([]byte, 512)))
	must(t, tr.AddLink("link", "dir/file"))
	must(t, tr.AddLink("parent", "dir/../dir"))
	must(t, tr.AddLink("loop", "loop"))
	must(t, tr.AddLink("out", "../x"))
	must(t, tr.AddLink("absolute", "/dir/file"))
	return tr
}

func smallImage(t testing.TB) []byte {
	t.Helper()
	name, _ := writeImage(t, small(t), Options{VolumeID: "SMALL", Time: testTime, UEFI: &UEFIBoot{Image: "efi.img"}})
	b, err := os.ReadFile(name)
	must(t, err)
	return b
}

func openBytes(b []byte) (*Image, error) { return Open(bytes.NewReader(b), int64(len(b))) }

func TestFS(t *testing.T) {
	tr := sample(t)
	tr.Remove("boot") // large and of no interest here
	for _, e := range tr.Entries() {
		if strings.HasPrefix(e.Path, "links/") && e.Path != "links/up" && e.Path != "links/dot" {
			tr.Remove(e.Path) // TestFS opens every link
		}
	}
	name, _ := writeImage(t, tr, Options{VolumeID: "X", Time: testTime})
	must(t, fstest.TestFS(openImage(t, name).FS(), "isolinux/isolinux.cfg", "dists/stable", "a/b/c/d/e/f/g/h/i/j/deep"))
}

func TestLinks(t *testing.T) {
	img, err := openBytes(smallImage(t))
	must(t, err)
	for _, test := range []struct{ name, want string }{
		{"dir/file", "hello"},
		{"link", "hello"},
		{"parent/file", "hello"},
		{"loop", "open loop: too many links"},
		{"out", "open out: link leads out of the image"},
		{"absolute", "open absolute: link leads out of the image"},
		{"link/x", "open link/x: file does not exist"},
		{"nothing", "open nothing: file does not exist"},
		{"../dir", "open ../dir: invalid argument"},
	} {
		got, err := fs.ReadFile(img.FS(), test.name)
		if err != nil {
			got = []byte(err.Error())
		}
		if string(got) != test.want {
			t.Errorf("%s = %q; want %q", test.name, got, test.want)
		}
	}
	if _, err := fs.ReadFile(img.FS(), "nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v is not fs.ErrNotExist", err)
	}
}

func TestExtent(t *testing.T) {
	img, err := openBytes(smallImage(t))
	must(t, err)
	e, err := img.Extent("link")
	must(t, err)
	if len(e) != 1 || e[0].Size != 5 || e[0].LBA < 20 {
		t.Errorf("extents %v", e)
	}
	if _, err := img.Extent("dir"); err == nil || err.Error() != "extent dir: not a regular file" {
		t.Errorf("error %v", err)
	}
}

// TestDamage changes one thing in a good image.
func TestDamage(t *testing.T) {
	le := binary.LittleEndian
	root := func(b []byte) []byte { return b[int(le.Uint32(b[16*sectorSize+158:]))*sectorSize:] }
	at := func(b []byte, name string) []byte { return root(b)[bytes.Index(root(b), []byte(name))-33:] }
	for _, test := range []struct {
		summary string
		damage  func(b []byte) []byte
		want    string
	}{
		{"empty", func([]byte) []byte { return nil }, "cannot open image: 2048 bytes at sector 16 are outside of the image's 0 bytes"},
		{"zeros", func(b []byte) []byte { clear(b); return b }, "cannot open image: no ISO 9660 volume descriptor in sector 16"},
		{"cut off", func(b []byte) []byte { return b[:len(b)-sectorSize] }, "cannot open image: volume has 1048576 bytes, the image only 1046528: it was cut off"},
		{"block size 512", func(b []byte) []byte { le.PutUint16(b[16*sectorSize+128:], 512); return b }, "cannot open image: block size is 512; want 2048"},
		{"no primary descriptor", func(b []byte) []byte { b[16*sectorSize] = 2; return b }, "cannot open image: no primary volume descriptor"},
		{"no terminator", func(b []byte) []byte {
			for i := 17; i < 100; i++ {
				copy(b[i*sectorSize:], "\x02CD001\x01")
			}
			return b
		}, "cannot open image: no end of the volume descriptors in 64 sectors"},
		{"root outside", func(b []byte) []byte { le.PutUint32(b[16*sectorSize+158:], 1<<31); return b }, `cannot open image: directory ".": 2048 bytes at sector 2147483648 are outside of the image's 1048576 bytes`},
		{"root of 4 GiB", func(b []byte) []byte { le.PutUint32(b[16*sectorSize+166:], 1<<32-1); return b }, `cannot open image: directory ".": directories are larger than 67108864 bytes`},
		{"directory loop", func(b []byte) []byte {
			le.PutUint32(at(b, "DIR")[2:], le.Uint32(b[16*sectorSize+158:]))
			return b
		}, `cannot open image: directory "dir": sector 22 belongs to another directory`},
		{"record across the end", func(b []byte) []byte { le.PutUint32(b[16*sectorSize+166:], 100); return b }, `cannot open image: directory ".": record at byte 0 crosses a sector`},
		{"short record", func(b []byte) []byte { root(b)[0] = 20; return b }, `cannot open image: directory ".": record at byte 0: too short`},
		{"interleaved", func(b []byte) []byte { at(b, "DIR")[26] = 1; return b }, `extended attributes or interleaving are not supported`},
		{"file outside", func(b []byte) []byte { le.PutUint32(at(b, "EFI.IMG;1")[2:], 4000); return b }, `record "EFI.IMG;1": 512 bytes at sector 4000 are outside of the image's 1048576 bytes`},
		{"section missing", func(b []byte) []byte { at(b, "EFI.IMG;1")[25] = 0x80; return b }, `file "efi.img" has no last section`},
		{"device node", func(b []byte) []byte { le.PutUint32(at(b, "EFI.IMG;1")[42+4:], 0o060600); return b }, `record "EFI.IMG;1": unsupported file type 060000`},
		{"a file that is a directory", func(b []byte) []byte { le.PutUint32(at(b, "EFI.IMG;1")[42+4:], 0o040755); return b }, `record "EFI.IMG;1": mode and flags disagree on whether it is a directory`},
		{"slash in name", func(b []byte) []byte { copy(b[bytes.Index(b, []byte("efi.img")):], "efi/img"); return b }, `bad name "efi/img"`},
		{"name ..", func(b []byte) []byte {
			i := bytes.Index(b, []byte("\x09\x01\x00link"))
			b[i] = 7
			copy(b[i+3:], "..\x00\x00")
			return b
		}, `bad name ".."`},
		{"twice the same name", func(b []byte) []byte { copy(b[bytes.Index(b, []byte("\x01\x00loop")):], "\x01\x00link"); return b }, `name "link" occurs twice`},
		{"catalog outside", func(b []byte) []byte { le.PutUint32(b[17*sectorSize+71:], 1<<20); return b }, `cannot read boot catalog: 2048 bytes at sector 1048576 are outside of the image's 1048576 bytes`},
		{"catalog checksum", func(b []byte) []byte { b[19*sectorSize+4] = 'x'; return b }, `cannot read boot catalog: no validation entry in sector 19`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := openBytes(test.damage(smallImage(t)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v; want %q", err, test.want)
			}
		})
	}
}

// TestPlainNames reads an image without Rock Ridge by its ECMA-119 names.
func TestPlainNames(t *testing.T) {
	b := smallImage(t)
	b[bytes.Index(b, []byte("SP\x07\x01"))] = 'x'
	img, err := openBytes(b)
	must(t, err)
	data, err := fs.ReadFile(img.FS(), "DIR/FILE")
	must(t, err)
	if string(data) != "hello" {
		t.Errorf("DIR/FILE = %q", data)
	}
}

func TestTimes(t *testing.T) {
	west := append([]byte("2026112001111250"), 0xdc) // -9 h
	want := testTime.Add(500 * time.Millisecond)
	if got := parseLongTime(west); !got.Equal(want) {
		t.Errorf("parseLongTime = %v; want %v", got, want)
	}
	if got := parseLongTime(longTime(time.Time{})); !got.IsZero() {
		t.Errorf("unset time = %v", got)
	}
	if got := parseShortTime([]byte{126, 11, 20, 1, 11, 12, 0xdc}); !got.Equal(testTime) {
		t.Errorf("parseShortTime = %v; want %v", got, testTime)
	}
}

func TestNames(t *testing.T) {
	n := newNames()
	var got []string
	for _, name := range []string{
		"isolinux.cfg", "ISOLINUX.CFG", "vmlinuz", "initrd.gz", ".profile", "a.b.c", "ldlinux.c32", "é",
		strings.Repeat("x", 40), strings.Repeat("x", 41), "long." + strings.Repeat("e", 40), "+", "~",
	} {
		got = append(got, n.file(name))
	}
	got = append(got, n.dir("install.amd"), n.dir("vmlinuz"), n.dir("grub"))
	want := []string{
		"ISOLINUX.CFG;1", "ISOLINUX_1.CFG;1", "VMLINUZ.;1", "INITRD.GZ;1", "_PROFILE.;1", "A_B.C;1", "LDLINUX.C32;1", "__.;1",
		strings.Repeat("X", 30) + ".;1", strings.Repeat("X", 28) + "_1.;1", "LONG." + strings.Repeat("E", 15) + ";1", "_.;1", "__1.;1",
		"INSTALL_AMD", "VMLINUZ_1", "GRUB",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("names (-want +got):\n%s", d)
	}
}

func FuzzOpen(f *testing.F) {
	b := smallImage(f)
	f.Add(b[16*sectorSize : 40*sectorSize])
	f.Fuzz(func(t *testing.T, data []byte) {
		img, err := openBytes(append(make([]byte, 16*sectorSize), data...))
		if err != nil {
			return
		}
		total := int64(0)
		_ = fs.WalkDir(img.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				t.Fatalf("walk of an opened image: %v", err)
			}
			if !d.Type().IsRegular() || total > 1<<20 {
				return nil
			}
			r, err := img.FS().Open(name)
			if err != nil {
				t.Fatalf("open: %v", err)
			}
			n, _ := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			total += n
			return nil
		})
		if _, err := img.Tree(); err != nil {
			t.Fatalf("tree of an opened image: %v", err)
		}
	})
}
