package media

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

var when = time.Date(2025, 8, 9, 10, 0, 0, 0, time.UTC)

// options are those of a small medium.
func options(t *testing.T) Options {
	t.Helper()
	key, err := pgp.NewKey("Test site", "", "root@example.org", when)
	if err != nil {
		t.Fatal(err)
	}
	var repository, roles, initrd tree.Tree
	for _, err := range []error{
		repository.AddBytes("pool/main/h/hello/hello_1_amd64.deb", 0o644, []byte("a package\n")),
		repository.AddBytes("dists/trixie/Release", 0o644, []byte("Codename: trixie\n")),
		repository.AddLink("dists/stable", "trixie"),
		roles.AddBytes("node/packages", 0o644, []byte("hello\n")),
		initrd.AddBytes("initrd", 0o644, []byte("an initrd")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	entry, _ := initrd.Lookup("initrd")
	isolinux := bytes.Repeat([]byte{0x90}, 3000)
	copy(isolinux[64:], []byte{0xfb, 0xc0, 0x78, 0x70})
	return Options{
		Manifest: Manifest{
			Format: ManifestFormat, Builder: "sci-cd 1.2.3", Site: "lab", Domain: "lab.example", Codename: "trixie", Version: "13.7",
			Arch: "amd64", Kernel: "6.12.0-amd64", Consoles: []string{"tty0", "ttyS0,115200n8"}, Time: when,
			LockSHA256: "00", Fingerprint: key.Fingerprint(),
		},
		Repository: &repository, Roles: &roles, Firmware: &tree.Tree{}, Kernel: []byte("a kernel"), Initrd: entry, Key: key, Time: when,
		Loaders: Loaders{
			Isolinux: isolinux, MBR: bytes.Repeat([]byte{0xf4}, MBRCode),
			Modules: map[string][]byte{"ldlinux.c32": []byte("ldlinux"), "menu.c32": []byte("menu")},
			Shim:    []byte("shim"), Grub: []byte("grub"), MokManage: []byte("MokManager"),
		},
	}
}

func build(t *testing.T, o Options) (*tree.Tree, *iso.Options) {
	t.Helper()
	tr, image, err := Tree(o)
	if err != nil {
		t.Fatal(err)
	}
	return tr, image
}

func read(t *testing.T, tr *tree.Tree, name string) []byte {
	t.Helper()
	e, ok := tr.Lookup(name)
	if !ok {
		t.Fatalf("the medium has no %s", name)
	}
	data, err := e.ReadAll(64 << 20)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestMenus(t *testing.T) {
	for _, unattended := range []bool{false, true} {
		o := options(t)
		o.Manifest.Unattended = unattended
		tr, _ := build(t, o)
		for _, name := range []string{"isolinux/isolinux.cfg", "boot/grub/grub.cfg"} {
			golden := filepath.Join("testdata", filepath.Base(name))
			if unattended {
				golden += ".unattended"
			}
			got := read(t, tr, name)
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("%s, unattended %t (-want +got):\n%s", name, unattended, diff)
			}
		}
	}
}

// A medium whose site does not say "unattended" must wait for a person: this is
// what stands between a forgotten disc and a server's disk.
func TestMenuWaits(t *testing.T) {
	tr, _ := build(t, options(t))
	if cfg := string(read(t, tr, "isolinux/isolinux.cfg")); regexp.MustCompile(`(?mi)^\s*(timeout|ontimeout|totaltimeout|menu autoboot)`).MatchString(cfg) {
		t.Errorf("isolinux.cfg counts down:\n%s", cfg)
	}
	if cfg := string(read(t, tr, "boot/grub/grub.cfg")); !strings.Contains(cfg, "set timeout=-1\n") {
		t.Errorf("grub.cfg counts down:\n%s", cfg)
	}
}

func TestMenuScripts(t *testing.T) {
	needs(t, "grub-script-check")
	tr, _ := build(t, options(t))
	file := filepath.Join(t.TempDir(), "grub.cfg")
	if err := os.WriteFile(file, read(t, tr, "boot/grub/grub.cfg"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("grub-script-check", file).CombinedOutput(); err != nil {
		t.Errorf("grub-script-check: %v\n%s", err, out)
	}
}

func TestTree(t *testing.T) {
	o := options(t)
	tr, image := build(t, o)
	var got []string
	for _, e := range tr.Entries() {
		if !e.Mode.IsDir() {
			got = append(got, regexp.MustCompile(`\.disk/id/.*`).ReplaceAllString(e.Path, ".disk/id/ID"))
		}
	}
	want := []string{
		".disk/base_components", ".disk/base_installable", ".disk/cd_type", ".disk/id/ID", ".disk/info", ".disk/udeb_include",
		"EFI/boot/bootx64.efi", "EFI/boot/grubx64.efi", "EFI/boot/mmx64.efi", "EFI/debian/grub.cfg",
		"SHA256SUMS", "SHA256SUMS.asc", "boot/grub/efi.img", "boot/grub/grub.cfg",
		"dists/stable", "dists/trixie/Release", "install/initrd.gz", "install/vmlinuz",
		"isolinux/isolinux.bin", "isolinux/isolinux.cfg", "isolinux/ldlinux.c32", "isolinux/menu.c32",
		"md5sum.txt", "pool/main/h/hello/hello_1_amd64.deb", "sci/manifest.json", "sci/node/packages", "sci/site-key.asc",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got, want := string(read(t, tr, ".disk/info")), "Debian GNU/Linux 13.7 \"Trixie\" - SCI-CD lab amd64 20250809-10:00\n"; got != want {
		t.Errorf(".disk/info = %q; want %q", got, want)
	}
	if image.VolumeID != "SCI_LAB_TRIXIE" || image.BIOS.Image != Isolinux || image.UEFI.Image != EFIImage || !image.Time.Equal(when) {
		t.Errorf("the image is %+v", image)
	}
}

// GRUB finds the medium by a file whose name no other medium has; the search
// line in the EFI partition must name the file that is there.
func TestMediumID(t *testing.T) {
	o := options(t)
	find := func(o Options) string {
		tr, _ := build(t, o)
		cfg := string(read(t, tr, "EFI/debian/grub.cfg"))
		m := regexp.MustCompile(`search --file --set=root /(\.disk/id/[0-9a-f-]{36})\n`).FindStringSubmatch(cfg)
		if m == nil {
			t.Fatalf("no search line:\n%s", cfg)
		}
		if _, ok := tr.Lookup(m[1]); !ok {
			t.Errorf("GRUB searches for %s, which is not on the medium", m[1])
		}
		return m[1]
	}
	first := find(o)
	if again := find(o); again != first {
		t.Errorf("the same medium has two names: %s, %s", first, again)
	}
	o.Manifest.LockSHA256 = "01"
	if other := find(o); other == first {
		t.Error("a medium of another lock has the same name")
	}
}

func TestVolumeID(t *testing.T) {
	for site, want := range map[string]string{
		"lab": "SCI_LAB_TRIXIE", "branch-office-7": "SCI_BRANCH_OFFICE_7_TRIXIE",
		"a-name-of-thirty-two-characters-": "SCI_A_NAME_OF_THIRTY_TWO_CHARACT",
	} {
		if got := VolumeID(Manifest{Site: site, Codename: "trixie"}); got != want {
			t.Errorf("VolumeID(%q) = %q; want %q", site, got, want)
		}
	}
}

// Every file is in the sums, isolinux.bin apart, which the ISO writer patches.
func TestSums(t *testing.T) {
	tr, _ := build(t, options(t))
	sha, md := make(map[string]string), make(map[string]string)
	for _, line := range strings.Split(strings.TrimSpace(string(read(t, tr, SumsPath))), "\n") {
		sum, name, _ := strings.Cut(line, "  ")
		sha[name] = sum
	}
	for _, line := range strings.Split(strings.TrimSpace(string(read(t, tr, "md5sum.txt"))), "\n") {
		sum, name, _ := strings.Cut(line, "  ./")
		md[name] = sum
	}
	for _, e := range tr.Entries() {
		if !e.Mode.IsRegular() || e.Path == Isolinux || e.Path == SumsPath || e.Path == SumsSigPath {
			continue
		}
		if e.SHA256 == "" || sha[e.Path] != e.SHA256 {
			t.Errorf("%s: %s is %q; want %q", SumsPath, e.Path, sha[e.Path], e.SHA256)
		}
		if e.Path == "md5sum.txt" {
			continue
		}
		sum := md5.Sum(read(t, tr, e.Path))
		if md[e.Path] != hex.EncodeToString(sum[:]) {
			t.Errorf("md5sum.txt: %s is %q", e.Path, md[e.Path])
		}
	}
	if sha[Isolinux] != "" {
		t.Error("the sums name isolinux.bin as it was before the ISO writer patched it")
	}
}

func TestSumsSignature(t *testing.T) {
	needs(t, "sqv")
	o := options(t)
	tr, _ := build(t, o)
	dir := t.TempDir()
	for _, name := range []string{SumsPath, SumsSigPath, KeyPath} {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), read(t, tr, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sums := filepath.Join(dir, SumsPath)
	verify := func() (string, error) {
		out, err := exec.Command("sqv", "--keyring", filepath.Join(dir, filepath.Base(KeyPath)), filepath.Join(dir, SumsSigPath), sums).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := verify(); err != nil || out != o.Key.Fingerprint() {
		t.Errorf("sqv: %v\n%s", err, out)
	}
	data := read(t, tr, SumsPath)
	data[0] ^= 1
	if err := os.WriteFile(sums, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(); err == nil {
		t.Errorf("sqv accepts changed sums: %s", out)
	}
}

// A file of the cache that has rotted since it was verified must not get onto a
// medium under its old digest.
func TestRottenFile(t *testing.T) {
	o := options(t)
	file := filepath.Join(t.TempDir(), "package")
	if err := os.WriteFile(file, []byte("rotten"), 0o644); err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("0", 64)
	if err := o.Repository.AddFile("pool/main/r/rot/rot_1_all.deb", 0o644, file, sum); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Tree(o); err == nil || !strings.Contains(err.Error(), `cannot use "pool/main/r/rot/rot_1_all.deb"`) {
		t.Errorf("Tree = %v", err)
	}
}

func TestPathTaken(t *testing.T) {
	o := options(t)
	if err := o.Repository.AddBytes("install/vmlinuz", 0o644, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Tree(o); err == nil || err.Error() != `cannot add "install/vmlinuz": path is taken` {
		t.Errorf("Tree = %v", err)
	}
}

func TestReadManifest(t *testing.T) {
	o := options(t)
	tr, _ := build(t, o)
	data := read(t, tr, ManifestPath)
	medium := func(data []byte) fs.FS { return fstest.MapFS{ManifestPath: {Data: data}} }
	m, err := ReadManifest(medium(data))
	if err != nil {
		t.Fatal(err)
	}
	if m.Site != "lab" || m.Links["dists/stable"] != "trixie" || m.Boot.Isolinux == "" {
		t.Errorf("the manifest is %+v", m)
	}
	var wrong map[string]any
	if err := json.Unmarshal(data, &wrong); err != nil {
		t.Fatal(err)
	}
	wrong["format"] = ManifestFormat + 1
	future, _ := json.Marshal(wrong) // it was JSON before
	for _, test := range []struct {
		medium fs.FS
		want   string
	}{
		{fstest.MapFS{}, "cannot read manifest: open sci/manifest.json: file does not exist"},
		{medium([]byte("{")), "cannot read manifest: unexpected end of JSON input"},
		{medium(future), fmt.Sprintf("cannot read manifest: format %d is not known, only %d is", ManifestFormat+1, ManifestFormat)},
	} {
		if _, err := ReadManifest(test.medium); err == nil || err.Error() != test.want {
			t.Errorf("ReadManifest = %v; want %s", err, test.want)
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
