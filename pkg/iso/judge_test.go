package iso

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	diskfile "github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/fat16"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/tree"
)

// judge runs an outside program and returns all it printed. Without the program
// the test is skipped, but never in CI.
func judge(t testing.TB, argv ...string) string {
	t.Helper()
	needs(t, argv[0])
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

func needs(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed", program)
	}
}

func wantAll(t *testing.T, out string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)` + p).MatchString(out) {
			t.Errorf("no match for %q in:\n%s", p, out)
		}
	}
}

func TestXorrisoReport(t *testing.T) {
	name, res := writeImage(t, sample(t), bootOptions())
	out := judge(t, "xorriso", "-indev", name, "-report_el_torito", "plain", "-report_system_area", "plain", "-check_media", "--")
	blocks := res.Size / sectorSize
	wantAll(t, out,
		`^Volume id    : 'SCI trixie amd64'$`,
		`^El Torito catalog  : 19  1$`,
		`^El Torito boot img :   1  BIOS  y   none  0x0000  0x00      4 +\d+$`,
		`^El Torito boot img :   2  UEFI  y   none  0x0000  0x00  16384 +\d+$`,
		`^El Torito img path :   1  /isolinux/isolinux.bin$`,
		`^El Torito img opts :   1  boot-info-table isohybrid-suitable$`,
		`^El Torito img path :   2  /boot/grub/efi.img$`,
		`^System area summary: MBR (isohybrid )?cyl-align-on$`,
		fmt.Sprintf(`^MBR partition      :   1   0x80  0x00            0 +%d$`, blocks*4),
		`^MBR partition      :   2   0x00  0xef +\d+        16384$`,
		`^MBR partition path :   2  /boot/grub/efi.img$`,
		fmt.Sprintf(`^Media region :          0 , +%d , \+ good$`, blocks))
	if strings.Contains(out, "FAILURE") || strings.Contains(out, "WARNING") || strings.Contains(out, "SORRY") {
		t.Errorf("xorriso complains:\n%s", out)
	}
}

// TestXorrisoExtract compares what xorriso unpacks with the tree.
func TestXorrisoExtract(t *testing.T) {
	want := sample(t)
	name, _ := writeImage(t, want, bootOptions())
	dir := filepath.Join(t.TempDir(), "x")
	judge(t, "xorriso", "-osirrox", "on:o_excl_off:strict_acl_off", "-indev", name, "-extract", "/", dir)
	t.Cleanup(func() { _ = exec.Command("chmod", "-R", "u+rwX", dir).Run() })
	want.Remove("isolinux/isolinux.bin")
	got := diskTree(t, dir)
	got.Remove("isolinux/isolinux.bin")
	if os.Getuid() != 0 { // owners need root
		for _, e := range want.Entries() {
			if e.UID != 0 || e.GID != 0 {
				want.Remove(e.Path)
				got.Remove(e.Path)
			}
		}
	}
	if d := cmp.Diff(lines(t, want), lines(t, got)); d != "" {
		t.Errorf("tree unpacked by xorriso (-want +got):\n%s", d)
	}
}

// diskTree reads a directory; owners only where root may have set them.
func diskTree(t *testing.T, dir string) *tree.Tree {
	t.Helper()
	tr := &tree.Tree{}
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		e := tree.Entry{Path: rel, Mode: info.Mode(), ModTime: info.ModTime(), Open: func() (io.ReadCloser, error) { return os.Open(p) }}
		e.UID, e.GID = owner(info)
		if info.Mode().IsRegular() {
			e.Size = info.Size()
		}
		if e.Mode&fs.ModeSymlink != 0 {
			e.ModTime = time.Time{} // xorriso does not restore it
			if e.Link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		return tr.Add(e)
	}))
	return tr
}

func TestIsoinfo(t *testing.T) {
	name, _ := writeImage(t, sample(t), bootOptions())
	out := judge(t, "isoinfo", "-R", "-f", "-i", name)
	for _, e := range sample(t).Entries() {
		if !strings.Contains(out, "/"+e.Path+"\n") {
			t.Errorf("isoinfo -R does not list %q", e.Path)
		}
	}
	wantAll(t, judge(t, "isoinfo", "-f", "-i", name), // what isolinux sees
		`^/ISOLINUX/ISOLINUX.BIN;1$`, `^/ISOLINUX/ISOLINUX.CFG;1$`, `^/_DISK/INFO.;1$`, `^/BOOT/GRUB/EFI.IMG;1$`,
		`^/POOL/MAIN/L/LINUX/LINUX_IMAGE_6_12_107_DEB13_.DEB;1$`, `^/POOL/MAIN/L/LINUX/LINUX_IMAGE_6_12_107_DEB1_1.DEB;1$`)
	wantAll(t, judge(t, "isoinfo", "-d", "-i", name), `^Rock Ridge signatures version 1 found$`, `^El Torito VD version 1 found, boot catalog is in sector 19$`)
}

// TestPartitionView reads the image as a disk.
func TestPartitionView(t *testing.T) {
	name, res := writeImage(t, sample(t), bootOptions())
	img := openImage(t, name)
	var view struct {
		Table struct {
			Label      string
			ID         string
			Partitions []struct {
				Start, Size int64
				Type        string
				Bootable    bool
			}
		} `json:"partitiontable"`
	}
	out := judge(t, "sfdisk", "--json", name)
	must(t, json.Unmarshal([]byte(out), &view))
	p := view.Table.Partitions
	if view.Table.Label != "dos" || view.Table.ID == "0x00000000" || len(p) != 2 {
		t.Fatalf("table %+v", view.Table)
	}
	if p[0].Start != 0 || p[0].Size != res.Size/512 || p[0].Type != "0" || !p[0].Bootable {
		t.Errorf("partition 1 %+v; want the whole image, active, type 0", p[0])
	}
	if p[1].Start != int64(img.Boot()[1].LBA)*4 || p[1].Size != 8<<20/512 || p[1].Type != "ef" {
		t.Errorf("partition 2 %+v; want efi.img, type ef", p[1])
	}
}

// TestPartitionTable has the table for each kind of firmware.
func TestPartitionTable(t *testing.T) {
	for _, test := range []struct {
		summary string
		change  func(*Options)
		want    string
	}{
		{"both", func(*Options) {}, "80 00 ef"},
		{"BIOS only", func(o *Options) { o.UEFI = nil }, "80 17 00"},
		{"UEFI only", func(o *Options) { o.BIOS = nil }, "00 00 ef"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			o := bootOptions()
			test.change(&o)
			name, _ := writeImage(t, sample(t), o)
			b, err := os.ReadFile(name)
			must(t, err)
			if got := fmt.Sprintf("% x", []byte{b[446], b[450], b[466]}); got != test.want || b[510] != 0x55 {
				t.Errorf("active, types = %s; want %s", got, test.want)
			}
			if got := len(openImage(t, name).Boot()); got != strings.Count(test.summary, "only")*-1+2 {
				t.Errorf("%d boot entries", got)
			}
		})
	}
	for _, o := range []Options{{}, {BIOS: &BIOSBoot{Image: "isolinux/isolinux.bin"}}} {
		o.VolumeID, o.Time = "data", testTime
		name, _ := writeImage(t, sample(t), o)
		b, err := os.ReadFile(name)
		must(t, err)
		if !bytes.Equal(b[:16*sectorSize], make([]byte, 16*sectorSize)) {
			t.Errorf("an image that boots from no disk has a boot sector; BIOS %v", o.BIOS)
		}
	}
}

func TestFATByMtools(t *testing.T) {
	tr := &tree.Tree{}
	must(t, tr.AddBytes("EFI/BOOT/BOOTX64.EFI", 0o644, bytes.Repeat([]byte("shim"), 250001)))
	must(t, tr.AddBytes("EFI/BOOT/grubx64.efi", 0o644, bytes.Repeat([]byte("grub"), 600001)))
	must(t, tr.AddBytes("EFI/debian/grub.cfg", 0o644, []byte("configfile x\n")))
	must(t, tr.AddBytes("EFI/debian/A long name.efi.signed", 0o644, []byte("a")))
	must(t, tr.AddBytes("EFI/debian/A long nome.efi.signed", 0o644, []byte("b")))
	must(t, tr.AddBytes("EFI/debian/ünïcode", 0o644, nil))
	for i := range 200 {
		must(t, tr.AddBytes(fmt.Sprintf("many/number %d", i), 0o644, []byte{byte(i)}))
	}
	img, err := FAT(tr, "SCI ESP", 0x20261120, testTime)
	must(t, err)
	again, err := FAT(tr, "SCI ESP", 0x20261120, testTime)
	must(t, err)
	if !bytes.Equal(img, again) {
		t.Error("two FAT images of one tree differ")
	}
	name := filepath.Join(t.TempDir(), "efi.img")
	must(t, os.WriteFile(name, img, 0o644))
	judge(t, "fsck.fat", "-n", name)
	dir := t.TempDir()
	judge(t, "mcopy", "-s", "-n", "-m", "-i", name, "::*", dir)
	for _, e := range tr.Entries() {
		if !e.Mode.IsRegular() || strings.Contains(e.Path, "ü") { // mcopy maps names to the locale
			continue
		}
		want, err := e.ReadAll(8 << 20)
		must(t, err)
		got, err := os.ReadFile(filepath.Join(dir, e.Path))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%q differs", e.Path)
		}
	}
	wantAll(t, judge(t, "mdir", "-i", name, "::EFI/debian"), `Volume in drive : is SCI ESP`, `Serial Number is 2026-1120`, `^grub +cfg +13 2026-11-20  10:11`)
}

// TestGoDiskfs reads our images with an implementation that shares nothing with
// ours. It panics on some links, hence the recover.
func TestGoDiskfs(t *testing.T) {
	want := sample(t)
	want.Remove("links")
	name, res := writeImage(t, want, bootOptions())
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("go-diskfs panics: %v", r)
		}
	}()
	f, err := os.Open(name)
	must(t, err)
	defer func() { _ = f.Close() }()
	fsys, err := iso9660.Read(diskfile.New(f, true), res.Size, 0, sectorSize)
	must(t, err)
	checked := 0
	for _, e := range want.Entries() {
		if !e.Mode.IsRegular() || e.Path == "isolinux/isolinux.bin" {
			continue
		}
		r, err := fsys.OpenFile("/"+e.Path, os.O_RDONLY)
		if err != nil {
			t.Errorf("%q: %v", e.Path, err)
			continue
		}
		got, err := io.ReadAll(r)
		must(t, err)
		data, err := e.ReadAll(64 << 20)
		must(t, err)
		if !bytes.Equal(got, data) {
			t.Errorf("%q has %d bytes; want %d", e.Path, len(got), len(data))
		}
		checked++
	}
	t.Logf("%d files compared", checked)
}

func TestGoDiskfsFAT(t *testing.T) {
	name, _ := writeImage(t, sample(t), bootOptions())
	data, err := fs.ReadFile(openImage(t, name).FS(), "boot/grub/efi.img")
	must(t, err)
	esp := filepath.Join(t.TempDir(), "efi.img")
	must(t, os.WriteFile(esp, data, 0o644))
	f, err := os.Open(esp)
	must(t, err)
	defer func() { _ = f.Close() }()
	fsys, err := fat16.Read(diskfile.New(f, true), int64(len(data)), 0, 512)
	must(t, err)
	r, err := fsys.OpenFile("/EFI/BOOT/BOOTX64.EFI", os.O_RDONLY)
	must(t, err)
	got, err := io.ReadAll(r)
	must(t, err)
	if string(got) != "not really a loader" {
		t.Errorf("loader reads %q", got)
	}
}

// TestReadXorriso reads what another writer wrote.
func TestReadXorriso(t *testing.T) {
	needs(t, "xorriso")
	dir := t.TempDir()
	long := strings.Repeat("n", 200)
	must(t, os.MkdirAll(filepath.Join(dir, "a/b/c/d/e/f/g/h/i"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a/b/c/d/e/f/g/h/i/deep"), []byte("deep"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, long), []byte("long"), 0o600))
	must(t, os.Symlink("../"+strings.Repeat("x/", 300)+long, filepath.Join(dir, "link")))
	name := filepath.Join(t.TempDir(), "x.iso")
	for _, compliance := range []string{"rec_mtime", "rec_mtime:new_rr:aaip_susp_1_10_off"} {
		t.Run(compliance, func(t *testing.T) {
			judge(t, "xorriso", "-compliance", compliance, "-outdev", name, "-blank", "all", "-volid", "OTHER", "-map", dir, "/", "-commit")
			img := openImage(t, name)
			data, err := fs.ReadFile(img.FS(), "a/b/c/d/e/f/g/h/i/deep")
			must(t, err)
			long, err := fs.Stat(img.FS(), long)
			must(t, err)
			link, err := fs.ReadLink(img.FS(), "link")
			must(t, err)
			if string(data) != "deep" || long.Mode() != 0o600 || !strings.HasSuffix(link, "/x/"+long.Name()) || !strings.HasPrefix(link, "../x/x/") {
				t.Errorf("read %q, %v, %q", data, long.Mode(), link)
			}
			if img.VolumeID() != "OTHER" || time.Since(img.Time()).Abs() > 24*time.Hour {
				t.Errorf("volume %q of %v", img.VolumeID(), img.Time())
			}
		})
	}
}

// TestLargeFile has a file of more than 4 GiB, which takes several extents. The
// source is one hole with a few bytes at interesting places.
func TestLargeFile(t *testing.T) {
	const size = 5<<30 + 12345
	marks := map[int64]string{0: "start", maxSection - 3: "across", 1<<32 - 2: "edge", size - 3: "end"}
	src, err := os.Create(filepath.Join(t.TempDir(), "large"))
	must(t, err)
	must(t, src.Truncate(size))
	for at, s := range marks {
		_, err := src.WriteAt([]byte(s)[:min(int64(len(s)), size-at)], at)
		must(t, err)
	}
	must(t, src.Close())
	tr := &tree.Tree{}
	must(t, tr.AddFile("large", 0o644, src.Name(), ""))
	must(t, tr.AddBytes("small", 0o644, []byte("after it")))
	start := time.Now()
	name, res := writeImage(t, tr, Options{VolumeID: "LARGE", Time: testTime})
	t.Logf("written in %v", time.Since(start))
	if used := allocated(t, name); used > 4<<20 {
		t.Errorf("image of %d bytes takes %d bytes of the disk", res.Size, used)
	}
	img := openImage(t, name)
	f, err := img.FS().Open("large")
	must(t, err)
	if info, err := f.Stat(); err != nil || info.Size() != size {
		t.Fatalf("size %v, %v; want %d", info.Size(), err, int64(size))
	}
	for at, s := range marks {
		got := make([]byte, min(int64(len(s)), size-at))
		if _, err := f.(io.ReaderAt).ReadAt(got, at); err != nil && !errors.Is(err, io.EOF) || string(got) != s[:len(got)] {
			t.Errorf("at %d: %q, %v; want %q", at, got, err, s)
		}
	}
	if e, err := img.Extent("large"); err != nil || len(e) != 1 || e[0].Size != size {
		t.Errorf("extents %v, %v; want one, joined", e, err)
	}
	if data, err := fs.ReadFile(img.FS(), "small"); err != nil || string(data) != "after it" {
		t.Errorf("small file %q, %v", data, err)
	}
	wantAll(t, judge(t, "xorriso", "-indev", name, "-find", "/", "-exec", "lsdl"), fmt.Sprintf(` %d Nov 20 10:11 '/large'`, int64(size)))
	wantAll(t, judge(t, "isoinfo", "-l", "-R", "-i", name), `4294965248 Nov 20 2026 \[ +\d+ \w+ large`, `1073756217 Nov 20 2026 \[\d+ 00\]  large`)
}
