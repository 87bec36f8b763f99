package iso

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/tree"
)

var testTime = time.Date(2026, 11, 20, 10, 11, 12, 0, time.UTC)

// fakeIsolinux looks like isolinux.bin to the writer.
func fakeIsolinux() []byte {
	b := bytes.Repeat([]byte{1, 2, 3, 4, 5}, 8001)
	copy(b[64:], "\xfb\xc0\x78\x70")
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sample is a tree with one of everything that the format treats in its own way.
func sample(t testing.TB) *tree.Tree {
	t.Helper()
	tr := &tree.Tree{}
	esp := &tree.Tree{}
	must(t, esp.AddBytes("EFI/BOOT/BOOTX64.EFI", 0o644, []byte("not really a loader")))
	img, err := FAT(esp, "SCI ESP", 0x5c1cd, testTime)
	must(t, err)
	must(t, tr.AddBytes("boot/grub/efi.img", 0o644, img))
	must(t, tr.AddBytes("isolinux/isolinux.bin", 0o644, fakeIsolinux()))
	must(t, tr.AddBytes("isolinux/isolinux.cfg", 0o644, []byte("default x\n")))
	must(t, tr.AddBytes("copy/of/isolinux.bin", 0o644, fakeIsolinux()))
	must(t, tr.AddBytes(".disk/info", 0o644, []byte("SCI\n")))
	must(t, tr.AddBytes(".disk/udeb_include", 0o644, nil))
	must(t, tr.AddBytes(".disk/base_installable", 0o600, nil))
	must(t, tr.AddBytes("pool/main/l/linux/linux-image-6.12.107+deb13-amd64_6.12.107-1_amd64.deb", 0o644, bytes.Repeat([]byte("k"), 70001)))
	must(t, tr.AddBytes("pool/main/l/linux/linux-image-6.12.107+deb13-amd64_6.12.107-2_amd64.deb", 0o644, bytes.Repeat([]byte("k"), 70001)))
	must(t, tr.AddBytes("pool/main/l/linux/linux-image-6.12.107+deb13-amd64_6.12.107-3_amd64.deb", 0o644, []byte("other")))
	must(t, tr.AddBytes("names/"+strings.Repeat("n", maxName), 0o644, []byte("n")))
	must(t, tr.AddBytes("names/"+strings.Repeat("ü", 100)+".txt", 0o644, []byte("ü")))
	must(t, tr.AddBytes("names/with space & \"quotes\"", fs.ModeSetuid|0o755, []byte("q")))
	must(t, tr.AddBytes("a/b/c/d/e/f/g/h/i/j/deep", 0o755, []byte("deep")))
	must(t, tr.AddLink("dists/stable", "trixie"))
	must(t, tr.AddBytes("dists/trixie/Release", 0o644, []byte("Codename: trixie\n")))
	must(t, tr.AddLink("links/up", "../dists/./trixie/../stable/Release"))
	must(t, tr.AddLink("links/absolute", "/etc/fstab"))
	must(t, tr.AddLink("links/root", "/"))
	must(t, tr.AddLink("links/dot", "."))
	must(t, tr.AddLink("links/"+strings.Repeat("l", 200), strings.Repeat("0123456789/", 60)+strings.Repeat("x", 255)+"/../"+strings.Repeat("y", 104)))
	must(t, tr.AddLink("links/"+strings.Repeat("m", maxName), strings.Repeat("a/", maxTarget/2)+"b"))
	must(t, tr.Add(tree.Entry{Path: "private", Mode: fs.ModeDir | fs.ModeSticky | 0o700, UID: 1000, GID: 100000, ModTime: time.Date(2001, 2, 3, 4, 5, 6, 7, time.FixedZone("", 3600))}))
	for i := range 90 {
		must(t, tr.AddBytes(fmt.Sprintf("many/file number %d", i), 0o640, []byte{byte(i)}))
	}
	return tr
}

func bootOptions() Options {
	return Options{
		VolumeID: "SCI trixie amd64", Publisher: "Lab", Application: "SCI-CD 1", Time: testTime,
		BIOS: &BIOSBoot{Image: "isolinux/isolinux.bin", MBR: bytes.Repeat([]byte{0x90}, 432)},
		UEFI: &UEFIBoot{Image: "boot/grub/efi.img"},
	}
}

func writeImage(t testing.TB, files *tree.Tree, o Options) (string, *Result) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "test.iso")
	f, err := os.Create(name)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	res, err := Write(t.Context(), f, files, o)
	must(t, err)
	return name, res
}

func openImage(t testing.TB, name string) *Image {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	must(t, err)
	img, err := Open(f, info.Size())
	must(t, err)
	return img
}

// lines renders a tree, one readable line an entry.
func lines(t testing.TB, tr *tree.Tree) []string {
	t.Helper()
	var list []string
	for _, e := range tr.Entries() {
		line := fmt.Sprintf("%s %v %d:%d", e.Path, e.Mode, e.UID, e.GID)
		if !e.ModTime.IsZero() {
			line += " " + e.ModTime.UTC().Format(time.RFC3339)
		} else {
			line += " " + testTime.Format(time.RFC3339)
		}
		if e.Link != "" {
			line += " -> " + e.Link
		}
		if e.Mode.IsRegular() {
			data, err := e.ReadAll(64 << 20)
			must(t, err)
			sum := sha256.Sum256(data)
			line += fmt.Sprintf(" %d %x", e.Size, sum[:4])
		}
		list = append(list, line)
	}
	return list
}

func TestRoundTrip(t *testing.T) {
	want := sample(t)
	name, res := writeImage(t, want, bootOptions())
	img := openImage(t, name)
	got, err := img.Tree()
	must(t, err)
	// The boot info table is the one intended difference.
	want.Remove("isolinux/isolinux.bin")
	got.Remove("isolinux/isolinux.bin")
	if d := cmp.Diff(lines(t, want), lines(t, got)); d != "" {
		t.Errorf("tree read back (-want +got):\n%s", d)
	}
	if img.VolumeID() != "SCI trixie amd64" || !img.Time().Equal(testTime) || img.Size() != res.Size {
		t.Errorf("volume %q, time %v, size %d; want SCI trixie amd64, %v, %d", img.VolumeID(), img.Time(), img.Size(), testTime, res.Size)
	}
	if res.Size%padding != 0 {
		t.Errorf("size %d is not a multiple of 1 MiB", res.Size)
	}
	boot := img.Boot()
	if len(boot) != 2 || boot[0].Platform != "BIOS" || boot[0].Path != "isolinux/isolinux.bin" || boot[0].Sectors != 4 ||
		boot[1].Platform != "UEFI" || boot[1].Path != "boot/grub/efi.img" || boot[1].Sectors != 16384 {
		t.Errorf("boot entries %+v", boot)
	}
}

func TestSameTreeSameBytes(t *testing.T) {
	first, r1 := writeImage(t, sample(t), bootOptions())
	o := bootOptions()
	o.Hash = true
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	second, r2 := writeImage(t, sample(t), o)
	a, err := os.ReadFile(first)
	must(t, err)
	b, err := os.ReadFile(second)
	must(t, err)
	if !bytes.Equal(a, b) {
		t.Fatal("two images of one tree differ")
	}
	sum := sha256.Sum256(b)
	if r1.SHA256 != "" || r2.SHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("SHA256 = %q, %q; want none, %x", r1.SHA256, r2.SHA256, sum)
	}
}

// TestDigest pins the bytes: they are the same on any machine, in any year, and
// change only when somebody means it.
func TestDigest(t *testing.T) {
	o := bootOptions()
	o.Hash = true
	_, res := writeImage(t, sample(t), o)
	if want := "c50de824bdc668dd6ce8a47f4bfa79a11c8696f3453f10019bec6458065a9f4e"; res.SHA256 != want {
		t.Errorf("SHA256 = %s; want %s", res.SHA256, want)
	}
}

func TestSharedContent(t *testing.T) {
	name, res := writeImage(t, sample(t), bootOptions())
	img := openImage(t, name)
	extent := func(name string) []Extent {
		e, err := img.Extent(name)
		must(t, err)
		return e
	}
	pool := "pool/main/l/linux/linux-image-6.12.107+deb13-amd64_6.12.107-"
	if d := cmp.Diff(extent(pool+"1_amd64.deb"), extent(pool+"2_amd64.deb")); d != "" {
		t.Errorf("equal files have two extents: %s", d)
	}
	if cmp.Equal(extent("isolinux/isolinux.bin"), extent("copy/of/isolinux.bin")) {
		t.Error("the patched isolinux.bin shares its extent with an unpatched copy")
	}
	if e := extent(pool + "1_amd64.deb"); e[0].LBA%2 != 0 {
		t.Errorf("large file at sector %d is not aligned to 4 KiB", e[0].LBA)
	}
	if res.Payload < 2*70001 {
		t.Errorf("payload %d", res.Payload)
	}
}

func TestBootInfoTable(t *testing.T) {
	name, _ := writeImage(t, sample(t), bootOptions())
	img := openImage(t, name)
	got, err := fs.ReadFile(img.FS(), "isolinux/isolinux.bin")
	must(t, err)
	want := fakeIsolinux()
	clear(want[8:64])
	copy(want[8:], []byte{16, 0, 0, 0, byte(img.Boot()[0].LBA), byte(img.Boot()[0].LBA >> 8), 0, 0})
	copy(want[16:], []byte{0x45, 0x9c, 0, 0}) // 40005
	sum := uint32(0)
	padded := append(bytes.Clone(want[64:]), 0, 0, 0)
	for i := 0; i+4 <= len(padded); i += 4 {
		sum += uint32(padded[i]) | uint32(padded[i+1])<<8 | uint32(padded[i+2])<<16 | uint32(padded[i+3])<<24
	}
	copy(want[20:], []byte{byte(sum), byte(sum >> 8), byte(sum >> 16), byte(sum >> 24)})
	if !bytes.Equal(got, want) {
		t.Errorf("boot info table % x\nwant % x", got[:72], want[:72])
	}
}

// source is a file whose reader may hold more or fewer bytes than it says.
func source(size int64, r func() io.Reader) tree.Entry {
	return tree.Entry{Path: "file", Mode: 0o644, Size: size, Open: func() (io.ReadCloser, error) { return io.NopCloser(r()), nil }}
}

func TestWriteErrors(t *testing.T) {
	one := func(e tree.Entry) func(*tree.Tree, *Options) {
		return func(tr *tree.Tree, _ *Options) { must(t, tr.Add(e)) }
	}
	option := func(change func(*Options)) func(*tree.Tree, *Options) {
		return func(_ *tree.Tree, o *Options) { change(o) }
	}
	for _, test := range []struct {
		summary string
		change  func(*tree.Tree, *Options)
		want    string
	}{
		{"source too short", one(source(10, func() io.Reader { return strings.NewReader("short") })), `cannot copy "file": shorter than its 10 bytes`},
		{"source too long", one(source(3, func() io.Reader { return strings.NewReader("long") })), `cannot copy "file": longer than its 3 bytes`},
		{"source fails", one(source(3, func() io.Reader { return io.MultiReader(strings.NewReader("l"), failingReader{}) })), `cannot copy "file": disk on fire`},
		{"source cannot be opened", one(tree.Entry{Path: "file", Size: 1, Open: func() (io.ReadCloser, error) { return nil, errors.New("no") }}), `cannot read "file": no`},
		{"negative size", one(source(-1, nil)), `cannot place "file": size is -1`},
		{"negative owner", one(tree.Entry{Path: "d", Mode: fs.ModeDir, UID: -1}), `cannot place "d": owner -1:0 is outside 32 bits`},
		{"long name", one(tree.Entry{Path: strings.Repeat("x", 251), Mode: fs.ModeDir}), `name is 251 bytes long, the limit is 250`},
		{"name in Latin-1", one(tree.Entry{Path: "\xfc", Mode: fs.ModeDir}), `cannot place "\xfc": name is not UTF-8`},
		{"too deep", one(tree.Entry{Path: strings.Repeat("d/", 100) + "x", Mode: fs.ModeDir}), `more than 100 levels`},
		{"old file", one(tree.Entry{Path: "d", Mode: fs.ModeDir, ModTime: time.Date(1899, 1, 1, 0, 0, 0, 0, time.UTC)}), `cannot place "d": year 1899 is outside 1900 to 2155`},
		{"link without target", one(tree.Entry{Path: "l", Mode: fs.ModeSymlink}), `cannot place "l": empty target or NUL in it`},
		{"long link", one(tree.Entry{Path: "l", Mode: fs.ModeSymlink, Link: strings.Repeat("x", 1024)}), `cannot place "l": target is 1024 bytes long, the limit is 1023`},
		{"no volume ID", option(func(o *Options) { o.VolumeID = "" }), `cannot write image: empty volume ID`},
		{"long volume ID", option(func(o *Options) { o.VolumeID = strings.Repeat("v", 33) }), `is longer than 32 characters`},
		{"volume ID in UTF-8", option(func(o *Options) { o.VolumeID = "ü" }), `cannot write image: volume ID "ü" is not printable ASCII`},
		{"no time", option(func(o *Options) { o.Time = time.Time{} }), `cannot write image: no time given`},
		{"no BIOS image", option(func(o *Options) { o.BIOS = &BIOSBoot{Image: "x"} }), `cannot boot BIOS: no file "x" in the tree`},
		{"no UEFI image", option(func(o *Options) { o.UEFI = &UEFIBoot{Image: "isolinux"} }), `cannot boot UEFI: no file "isolinux" in the tree`},
		{"odd UEFI image", option(func(o *Options) { o.UEFI = &UEFIBoot{Image: "isolinux/isolinux.bin"} }), `want whole 512-byte sectors, at most 65535`},
		{"long MBR", option(func(o *Options) { o.BIOS.MBR = make([]byte, 433) }), `boot code for the MBR has 433 bytes; want at most 432`},
		{"not isolinux", option(func(o *Options) { o.BIOS.Image = "boot/grub/efi.img" }), `are more than the limit of 1048576`},
		{"not isolinux either", option(func(o *Options) {
			o.BIOS.Image = "pool/main/l/linux/linux-image-6.12.107+deb13-amd64_6.12.107-1_amd64.deb"
		}), `is no isolinux.bin that isohdpfx.bin can load`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			tr, o := sample(t), bootOptions()
			o.Hash = true
			test.change(tr, &o)
			f, err := os.Create(filepath.Join(t.TempDir(), "x.iso"))
			must(t, err)
			defer func() { _ = f.Close() }()
			_, err = Write(t.Context(), f, tr, o)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v; want %q", err, test.want)
			}
		})
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

func TestWriteStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tr := &tree.Tree{}
	must(t, tr.Add(source(1<<40, func() io.Reader { cancel(); return zeros{} })))
	f, err := os.Create(filepath.Join(t.TempDir(), "x.iso"))
	must(t, err)
	defer func() { _ = f.Close() }()
	if _, err := Write(ctx, f, tr, Options{VolumeID: "x", Time: testTime, Hash: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v; want %v", err, context.Canceled)
	}
}

func TestWriteWantsRegularFile(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer func() { _, _ = r.Close(), w.Close() }()
	_, err = Write(t.Context(), w, sample(t), bootOptions())
	if err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Errorf("error %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
