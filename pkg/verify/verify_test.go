package verify_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/build/buildtest"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"
	"github.com/skycover/sci-cd/pkg/verify"
)

// medium is a built medium in memory.
type medium struct {
	*testing.T
	data []byte
	key  *pgp.Key
}

// open reads the image that a test has not changed yet.
func (m *medium) open() *iso.Image {
	m.Helper()
	img, err := iso.Open(bytes.NewReader(m.data), int64(len(m.data)))
	if err != nil {
		m.Fatal(err)
	}
	return img
}

// at is the offset of a file's first byte.
func (m *medium) at(name string) int {
	m.Helper()
	e, err := m.open().Extent(name)
	if err != nil {
		m.Fatal(err)
	}
	return int(e[0].LBA) * 2048
}

// find is the offset of some bytes in the image.
func (m *medium) find(b []byte) int {
	m.Helper()
	i := bytes.Index(m.data, b)
	if i < 0 {
		m.Fatalf("no %q in the image", b)
	}
	return i
}

var (
	digests = regexp.MustCompile(`[0-9a-f]{64}`)

	sums = regexp.MustCompile(`[0-9a-f]{16}…`)
	keys = regexp.MustCompile(`[0-9A-F]{16,40}`)
)

// problems examines an image; digests are written as # and keys as KEY.
func problems(t *testing.T, data []byte, o verify.Options) []string {
	t.Helper()
	r, err := verify.Image(t.Context(), bytes.NewReader(data), int64(len(data)), o)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, p := range r.Problems {
		p.Place = digests.ReplaceAllString(p.Place, "SUM")
		list = append(list, keys.ReplaceAllString(sums.ReplaceAllString(p.String(), "#"), "KEY"))
	}
	return list
}

const (
	debianDists = "debian/debian/dists/trixie/"

	ganeti  = "pool/main/g/ganeti/ganeti_1.0-1_amd64.deb"
	damaged = "image: volume descriptors, path tables or directories are damaged: their digest is not the disk id in the first sector"
	altered = "cannot verify signature: signature does not match the content: KEY SCI-CD site lab <root@lab.example>"
)

// TestImage flips a byte, or a few, in each kind of place and expects the exact
// complaints.
func TestImage(t *testing.T) {
	built := buildtest.NewMedium(t)
	ring := built.Debian
	original, err := os.ReadFile(built.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("as built", func(t *testing.T) {
		r, err := verify.Image(t.Context(), bytes.NewReader(original), int64(len(original)), verify.Options{Debian: ring})
		if err != nil {
			t.Fatal(err)
		}
		want := &verify.Report{Size: built.Result.Size, SHA256: built.Result.SHA256, Files: r.Files, Packages: r.Packages, Fingerprint: built.Key.Fingerprint(), Debian: []string{"trixie", "trixie-security", "trixie-updates"}, Problems: []verify.Problem{}}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Error(diff)
		}
		if r.Packages < 50 || r.Files < r.Packages {
			t.Errorf("%d files, %d packages", r.Files, r.Packages)
		}
	})
	for _, test := range []struct {
		summary string
		tamper  func(m *medium)
		want    []string
	}{
		{"a package", func(m *medium) { m.data[m.at(ganeti)+200] ^= 1 }, []string{
			"debian/debian/" + ganeti + ": has SHA-256 #, SHA256SUMS says #",
			ganeti + ": has SHA-256 #, SHA256SUMS says #"}},
		{"the kernel", func(m *medium) { m.data[m.at(media.KernelPath)] ^= 1 }, []string{
			media.KernelPath + ": has SHA-256 #, SHA256SUMS says #"}},
		{"the initrd", func(m *medium) { m.data[m.at(media.InitrdPath)+1000] ^= 1 }, []string{
			media.InitrdPath + ": has SHA-256 #, SHA256SUMS says #"}},
		{"the EFI system partition", func(m *medium) { m.data[m.at(media.EFIImage)+5000000] ^= 1 }, []string{
			media.EFIImage + ": has SHA-256 #, SHA256SUMS says #"}},
		{"the boot menu", func(m *medium) { m.data[m.at("boot/grub/grub.cfg")+3] ^= 1 }, []string{
			"boot/grub/grub.cfg: has SHA-256 #, SHA256SUMS says #"}},
		{"md5sum.txt", func(m *medium) { m.data[m.at("md5sum.txt")] ^= 1 }, []string{
			"md5sum.txt: has SHA-256 #, SHA256SUMS says #"}},
		{"a digest in SHA256SUMS", func(m *medium) {
			at := m.at(media.SumsPath)
			if m.data[at]++; m.data[at] == '9'+1 {
				m.data[at] = 'a'
			}
		}, []string{
			"SHA256SUMS: " + altered,
			".disk/base_components: has SHA-256 #, SHA256SUMS says #"}},
		{"a line of SHA256SUMS", func(m *medium) { m.data[m.at(media.SumsPath)+64] = '*' }, []string{
			"SHA256SUMS: " + altered,
			`SHA256SUMS: line 1 is not "SHA-256, two spaces, path"`,
			".disk/base_components: is not in SHA256SUMS"}},
		{"the signature", func(m *medium) { copy(m.data[m.at(media.SumsSigPath)+40:], "AAAA") }, []string{
			"SHA256SUMS: cannot verify signature: malformed signature: openpgp: invalid data: no creation time in signature"}},
		{"InRelease", func(m *medium) { copy(m.data[m.find([]byte("Origin: SCI-CD\nLabel")):], "Origin: SCI-XX") }, []string{
			"dists/trixie/InRelease: has SHA-256 #, SHA256SUMS says #",
			"dists/trixie/InRelease: " + altered}},
		{"Release", func(m *medium) { m.data[m.at("dists/trixie/Release")] ^= 1 }, []string{
			"dists/trixie/Release: has SHA-256 #, SHA256SUMS says #",
			"dists/trixie/Release: is not what InRelease says",
			"dists/trixie/Release: " + altered}},
		{"Packages", func(m *medium) {
			at := m.at("dists/trixie/main/binary-amd64/Packages")
			m.data[at+bytes.Index(m.data[at:], []byte("test package"))] = 'T'
		}, []string{
			"dists/trixie/main/binary-amd64/Packages: has SHA-256 #, SHA256SUMS says #",
			"dists/trixie/main/binary-amd64/Packages.gz: is not Packages compressed"}},
		{"the archive's InRelease", func(m *medium) {
			copy(m.data[m.at(debianDists+"InRelease")+bytes.Index(m.data[m.at(debianDists+"InRelease"):], []byte("Origin: Debian")):], "Origin: DebiaN")
		}, []string{
			debianDists + "InRelease: has SHA-256 #, SHA256SUMS says #",
			debianDists + "InRelease: cannot verify signature: signature does not match the content: KEY Test archive (not for use) <test@example.org>",
			"debian/debian: not examined"}},
		{"the archive's Packages", func(m *medium) { m.data[m.at(debianDists+"main/i18n/Translation-en.gz")+20] ^= 1 }, []string{
			debianDists + "main/i18n/Translation-en.gz: has SHA-256 #, SHA256SUMS says #",
			debianDists + "main/i18n/by-hash/SHA256/SUM: has SHA-256 #, SHA256SUMS says #"}},
		{"the key on the medium", func(m *medium) { copy(m.data[m.at(media.KeyPath)+60:], "AAAA") }, []string{
			"sci/site-key.asc: cannot read keyring: openpgp: invalid data: first packet was not a public/private key",
			"SHA256SUMS: cannot verify signature: signed by a key that is not in the keyring: KEY",
			"sci/site-key.asc: has SHA-256 #, SHA256SUMS says #",
			"dists/trixie/InRelease: cannot verify signature: signed by a key that is not in the keyring: KEY"}},
		{"the manifest", func(m *medium) {
			at := m.at(media.ManifestPath)
			m.data[at+bytes.Index(m.data[at:], []byte(`"isolinuxSHA256": "`))+19] ^= 1
		}, []string{
			"sci/manifest.json: has SHA-256 #, SHA256SUMS says #",
			"isolinux/isolinux.bin: has SHA-256 #, sci/manifest.json says #"}},
		{"code of isolinux.bin", func(m *medium) { m.data[m.at(media.Isolinux)+100] ^= 1 }, []string{
			"isolinux/isolinux.bin: boot info table: checksum of the file is 2425393296, want 2425393297",
			"isolinux/isolinux.bin: has SHA-256 #, sci/manifest.json says #"}},
		{"code of isolinux.bin, its checksum renewed", func(m *medium) {
			at := m.at(media.Isolinux)
			m.data[at+100] ^= 1
			m.data[at+20]++
		}, []string{"isolinux/isolinux.bin: has SHA-256 #, sci/manifest.json says #"}},
		{"isolinux.bin before its table", func(m *medium) { m.data[m.at(media.Isolinux)+3] ^= 1 }, []string{
			"isolinux/isolinux.bin: has SHA-256 #, sci/manifest.json says #"}},
		{"the boot info table", func(m *medium) { m.data[m.at(media.Isolinux)+12]++ }, []string{
			fmt.Sprintf("isolinux/isolinux.bin: boot info table: sector of the file is %d, want %d", 1, 0)}},
		{"what is reserved of it", func(m *medium) { m.data[m.at(media.Isolinux)+60]++ }, []string{
			"isolinux/isolinux.bin: boot info table: the reserved part is not empty"}},
		{"boot code of the first sector", func(m *medium) { m.data[17] ^= 1 }, []string{
			"boot code of the first sector: has SHA-256 #, sci/manifest.json says #"}},
		{"where it loads from", func(m *medium) { m.data[432] += 4 }, []string{
			"image: the boot code of the first sector loads from sector 1; isolinux/isolinux.bin is in sector 0"}},
		{"partition 1", func(m *medium) { m.data[446] = 0 }, []string{
			"image: partition 1 is not the active one that spans the image"}},
		{"partition 2", func(m *medium) { m.data[446+16+8]++ }, []string{
			"image: partition 2 is not an EFI system partition over boot/grub/efi.img"}},
		{"a third partition", func(m *medium) { m.data[446+32+4] = 0x83 }, []string{
			"image: the first sector holds something beside boot code and two partitions"}},
		{"the end of the first sector", func(m *medium) { m.data[511] = 0 }, []string{
			"image: the first sector holds something beside boot code and two partitions"}},
		{"the disk id", func(m *medium) { m.data[441] ^= 1 }, []string{damaged}},
		{"the system area", func(m *medium) { m.data[10000] = 1 }, []string{damaged}},
		{"the volume descriptor", func(m *medium) { m.data[16*2048+120+3]++ }, []string{damaged}},
		{"its own mark", func(m *medium) { m.data[16*2048+3] = 'X' }, []string{
			"image: cannot open image: no ISO 9660 volume descriptor in sector 16"}},
		{"the boot record", func(m *medium) { m.data[17*2048+71]++ }, []string{
			"image: cannot read boot catalog: no validation entry in sector 20"}},
		{"the boot catalog's checksum", func(m *medium) { m.data[19*2048+4]++ }, []string{
			"image: cannot read boot catalog: no validation entry in sector 19"}},
		{"the BIOS entry", func(m *medium) { m.data[19*2048+32+8]++ }, []string{
			"image: boot catalog: BIOS boots from sector 1, which is not isolinux/isolinux.bin", damaged}},
		{"how much the BIOS loads", func(m *medium) { m.data[19*2048+32+6] = 5 }, []string{
			"image: boot catalog: BIOS loads 5 sectors of isolinux/isolinux.bin, want 4", damaged}},
		{"the UEFI entry", func(m *medium) { m.data[19*2048+96] = 0 }, []string{
			"image: boot catalog: no entry for UEFI", damaged}},
		{"the path table", func(m *medium) { m.data[20*2048+2]++ }, []string{damaged}},
		{"a name", func(m *medium) {
			b := []byte("NM\x0b\x01\x00ganeti")
			m.data[m.find(b)+len(b)-1] = 'o'
		}, []string{
			ganeti + ": is missing; SHA256SUMS names it",
			"pool/main/g/ganeto/ganeti_1.0-1_amd64.deb: is not in SHA256SUMS",
			"pool/main/g/ganeto/ganeti_1.0-1_amd64.deb: is in no index of the repository", damaged}},
		{"between two files", func(m *medium) { m.data[m.at(ganeti)-1] = 7 }, []string{
			"image: 1 bytes between the files are not zero, the first at byte 0"}},
		{"behind the last file", func(m *medium) { m.data[len(m.data)-2] = 7 }, []string{
			"image: 1 bytes between the files are not zero, the first at byte 0"}},
		{"the end", func(m *medium) { m.data = m.data[:len(m.data)-1] }, []string{
			"image: cannot open image: volume has 0 bytes, the image only 0: it was cut off"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			m := &medium{T: t, data: bytes.Clone(original), key: built.Key}
			test.tamper(m)
			got, want := withoutNumbers(problems(t, m.data, verify.Options{Debian: ring})), withoutNumbers(test.want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("made anew", func(t *testing.T) { made(t, original, built.Key, ring) })
	t.Run("keys", func(t *testing.T) { keyed(t, original, built.Key, ring) })
	t.Run("every place", func(t *testing.T) { everywhere(t, original, ring) })
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := verify.Image(ctx, bytes.NewReader(original), int64(len(original)), verify.Options{Debian: ring}); !errors.Is(err, context.Canceled) {
			t.Errorf("Image = %v; want context.Canceled", err)
		}
	})
}

// numbers depend on where the writer has put things, not on what is tested.
var numbers = regexp.MustCompile(`(sector|is|want|byte|has|only|says) \d+\b`)

func withoutNumbers(list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, numbers.ReplaceAllString(s, "$1 N"))
	}
	return out
}

// made changes the tree of a medium and writes it anew, as somebody would who
// has our tools but not the key.
func made(t *testing.T, original []byte, key *pgp.Key, ring pgp.Keyring) {
	file := func(name, text string) tree.Entry {
		e := &tree.Tree{}
		if err := e.AddBytes(name, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
		list := e.Entries()
		return list[len(list)-1]
	}
	mode := func(e tree.Entry, m fs.FileMode, uid int) tree.Entry {
		e.Mode, e.UID = m, uid
		return e
	}
	for _, test := range []struct {
		summary string
		tamper  func(m *tree.Tree) error
		want    []string
	}{
		{"nothing", func(*tree.Tree) error { return nil }, nil},
		{"a file more", func(m *tree.Tree) error { return m.Add(file("autorun.sh", "#!/bin/sh\n")) }, []string{
			"autorun.sh: is not in SHA256SUMS"}},
		{"a file less", func(m *tree.Tree) error { m.Remove("sci/node/packages"); return nil }, []string{
			"sci/node/packages: is missing; SHA256SUMS names it"}},
		{"a link more", func(m *tree.Tree) error { return m.AddLink("sci/extra", "node") }, []string{
			"sci/extra: is a link that sci/manifest.json does not name"}},
		{"a link elsewhere", func(m *tree.Tree) error { m.Remove("dists/stable"); return m.AddLink("dists/stable", "../sci") }, []string{
			`dists/stable: is a link to "../sci", sci/manifest.json says "trixie"`}},
		{"a link less", func(m *tree.Tree) error { m.Remove("dists/stable"); return nil }, []string{
			`dists/stable: is missing: a link to "trixie"`}},
		{"modes and owners", func(m *tree.Tree) error {
			e, _ := m.Lookup("sci/node/packages")
			m.Remove(e.Path)
			return m.Add(mode(e, 0o644|fs.ModeSetuid, 1000))
		}, []string{
			"sci/node/packages: belongs to 1000:0, not to root",
			"sci/node/packages: mode is urw-r--r--, want -rw-r--r-- or -rwxr-xr-x"}},
		{"no sums", func(m *tree.Tree) error { m.Remove(media.SumsPath); return nil }, []string{
			"SHA256SUMS: is missing"}},
		{"no signature", func(m *tree.Tree) error { m.Remove(media.SumsSigPath); return nil }, []string{
			"SHA256SUMS.asc: is missing"}},
		{"no manifest", func(m *tree.Tree) error { m.Remove(media.ManifestPath); return nil }, []string{
			"sci/manifest.json: is missing; SHA256SUMS names it", "sci/manifest.json: is missing"}},
		{"a package more, in signed sums", func(m *tree.Tree) error {
			if err := m.Add(file("pool/main/x/x_1_amd64.deb", "!<arch>\n")); err != nil {
				return err
			}
			return resign(m, key)
		}, []string{"pool/main/x/x_1_amd64.deb: is in no index of the repository"}},
		{"an index more, in signed sums", func(m *tree.Tree) error {
			if err := m.Add(file("dists/trixie/main/binary-amd64/Packages.xz", "x")); err != nil {
				return err
			}
			return resign(m, key)
		}, []string{"dists/trixie/main/binary-amd64/Packages.xz: is not named by Release"}},
		{"another package in the archive's paths, in signed sums", func(m *tree.Tree) error {
			m.Remove("debian/debian/" + ganeti)
			if err := m.Add(file("debian/debian/"+ganeti, "!<arch>\n")); err != nil {
				return err
			}
			return resign(m, key)
		}, []string{"debian/debian/" + ganeti + ": has SHA-256 #, " + debianDists + "main/binary-amd64/Packages.gz says #"}},
		{"something more in the archive's paths, in signed sums", func(m *tree.Tree) error {
			if err := m.Add(file("debian/debian/pool/main/x/x_1_amd64.deb", "!<arch>\n")); err != nil {
				return err
			}
			return resign(m, key)
		}, []string{"debian/debian/pool/main/x/x_1_amd64.deb: is not named by Debian's signed indexes"}},
		{"an index of the archive less, in signed sums", func(m *tree.Tree) error {
			m.Remove(debianDists + "main/i18n/Translation-en.gz")
			return resign(m, key)
		}, []string{"debian/debian/dists/trixie: holds 4 of the files that InRelease names and itself, sci/manifest.json says 5",
			debianDists + "main/i18n/by-hash/SHA256/SUM: is not named by Debian's signed indexes"}},
		{"another package, in signed sums", func(m *tree.Tree) error {
			m.Remove(ganeti)
			if err := m.Add(file(ganeti, "!<arch>\n")); err != nil {
				return err
			}
			return resign(m, key)
		}, []string{
			ganeti + ": has SHA-256 #, dists/trixie/main/binary-amd64/Packages says #",
			ganeti + ": has 8 bytes, dists/trixie/main/binary-amd64/Packages says 1"}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			got := withoutNumbers(problems(t, rewrite(t, original, test.tamper), verify.Options{Debian: ring}))
			if diff := cmp.Diff(withoutNumbers(test.want), got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// rewrite writes a medium with another tree.
func rewrite(t *testing.T, original []byte, tamper func(*tree.Tree) error) []byte {
	t.Helper()
	img, err := iso.Open(bytes.NewReader(original), int64(len(original)))
	if err != nil {
		t.Fatal(err)
	}
	content, err := img.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if err := tamper(content); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "other.iso"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	_, err = iso.Write(t.Context(), f, content, iso.Options{
		VolumeID: img.VolumeID(), Time: img.Time(),
		BIOS: &iso.BIOSBoot{Image: media.Isolinux, MBR: original[:media.MBRCode]}, UEFI: &iso.UEFIBoot{Image: media.EFIImage},
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// resign makes SHA256SUMS anew.
func resign(m *tree.Tree, key *pgp.Key) error {
	m.Remove(media.SumsPath)
	m.Remove(media.SumsSigPath)
	var text strings.Builder
	for _, e := range m.Entries() {
		if !e.Mode.IsRegular() || e.Path == media.Isolinux {
			continue
		}
		data, err := e.ReadAll(1 << 30)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%x  %s\n", sha256.Sum256(data), e.Path)
	}
	signature, err := key.DetachSign(strings.NewReader(text.String()), buildtest.Date(), true)
	if err != nil {
		return err
	}
	return errors.Join(m.AddBytes(media.SumsPath, 0o644, []byte(text.String())), m.AddBytes(media.SumsSigPath, 0o644, signature))
}

// keyed verifies with keys from elsewhere.
func keyed(t *testing.T, original []byte, key *pgp.Key, ring pgp.Keyring) {
	stranger, err := pgp.NewKey("Somebody else", "", "", buildtest.Date())
	if err != nil {
		t.Fatal(err)
	}
	if got := problems(t, original, verify.Options{Debian: ring, Fingerprint: key.Fingerprint()}); got != nil {
		t.Errorf("the right fingerprint: %q", got)
	}
	want := []string{"sci/site-key.asc: is the key KEY, not the given one, KEY"}
	if diff := cmp.Diff(want, problems(t, original, verify.Options{Debian: ring, Fingerprint: stranger.Fingerprint()})); diff != "" {
		t.Errorf("another fingerprint: problems (-want +got):\n%s", diff)
	}
	for _, test := range []struct {
		summary string
		key     *pgp.Key
		want    []string
	}{
		{"the right one", key, nil},
		{"another one", stranger, []string{
			"sci/site-key.asc: is the key KEY, not the given one, KEY",
			"SHA256SUMS: cannot verify signature: signed by a key that is not in the keyring: KEY",
			"dists/trixie/InRelease: cannot verify signature: signed by a key that is not in the keyring: KEY"}},
	} {
		own, err := test.key.Keyring()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, problems(t, original, verify.Options{Debian: ring, Key: own})); diff != "" {
			t.Errorf("%s: problems (-want +got):\n%s", test.summary, diff)
		}
	}
}

// everywhere flips single bytes all over the image: none may stay unnoticed.
func everywhere(t *testing.T, original []byte, ring pgp.Keyring) {
	var at []int
	for i := 0; i < 512; i += 13 {
		at = append(at, i)
	}
	first := int(binary.LittleEndian.Uint32(original[432:])) / 4 * 2048 // isolinux.bin
	for i := 512; i < first+3000; i += first/60 + 1 {
		at = append(at, i)
	}
	for i := first; i < len(original); i += len(original)/40 + 7 {
		at = append(at, i)
	}
	data := bytes.Clone(original)
	for _, i := range at {
		data[i] ^= 0x10
		if len(problems(t, data, verify.Options{Debian: ring})) == 0 {
			t.Errorf("a changed byte %d stays unnoticed", i)
		}
		data[i] ^= 0x10
	}
	t.Logf("%d places", len(at))
}
