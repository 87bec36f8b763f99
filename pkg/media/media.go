// Package media puts everything into the tree that stands on the disc: boot
// loaders and their menus, kernel and initrd, the repository, the files by
// which the installer knows a Debian disc (.disk/), and the digests over all of
// it.
//
// Layout:
//
//	.disk/                   info, base_installable, id/…: what d-i looks for
//	EFI/boot/                shim, grub, MokManager for firmware that looks here
//	boot/grub/               grub.cfg, efi.img (the FAT image of El Torito)
//	debian/                  Debian's own signed indexes and paths, where the site
//	                         has a service machine (files of pool/ have two names)
//	dists/, pool/            the repository, signed with the site's key
//	firmware/                firmware packages where d-i looks for them
//	install/                 kernel and initrd
//	isolinux/                boot loader for BIOS
//	sci/                     what the agent reads: roles, key, manifest
//	SHA256SUMS{,.asc}        every file, signed; md5sum.txt for old habits
package media

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"
)

// Paths on the medium that other packages read.
const (
	KernelPath   = "install/vmlinuz"
	InitrdPath   = "install/initrd.gz"
	ManifestPath = "sci/manifest.json"
	KeyPath      = "sci/site-key.asc"
	SumsPath     = "SHA256SUMS"
	SumsSigPath  = "SHA256SUMS.asc"
	EFIImage     = "boot/grub/efi.img"
	Isolinux     = "isolinux/isolinux.bin"
	DebianDir    = "debian"
	md5Path      = "md5sum.txt"
)

// Loaders are the boot loaders' files, from Debian's packages.
type Loaders struct {
	Isolinux  []byte            // isolinux.bin
	MBR       []byte            // isohdpfx.bin
	Modules   map[string][]byte // ldlinux.c32, menu.c32 and their libraries
	Shim      []byte            // shimx64.efi.signed
	Grub      []byte            // grubx64.efi.signed
	MokManage []byte            // mmx64.efi.signed
}

// Manifest says what is on the medium, for people and for `sci-cd inspect`.
type Manifest struct {
	Format      int       `json:"format"`
	Builder     string    `json:"builder"`
	Site        string    `json:"site"`
	Domain      string    `json:"domain"`
	Codename    string    `json:"codename"`
	Version     string    `json:"version"`
	Arch        string    `json:"arch"`
	Kernel      string    `json:"kernel"`
	Unattended  bool      `json:"unattended"`
	Consoles    []string  `json:"consoles"`
	Time        time.Time `json:"time"`
	LockSHA256  string    `json:"lockSHA256"`
	Fingerprint string    `json:"keyFingerprint"`
	// Networks are the site's, name to CIDR prefix.
	Networks map[string]string `json:"networks,omitempty"`
	Boot     BootLine          `json:"boot"`
	// Links are the symbolic links of the medium, which SHA256SUMS cannot hold.
	Links    map[string]string `json:"links,omitempty"`
	Hosts    []HostLine        `json:"hosts"`
	Roles    []RoleLine        `json:"roles"`
	Packages []Package         `json:"packages"`
	// Debian are the pockets of Debian's own archive whose signed indexes are on
	// the medium, below DebianDir; none where the site has no service machine.
	Debian []DebianLine `json:"debian,omitempty"`
}

// DebianLine is a pocket whose indexes are on the medium as Debian signed them.
type DebianLine struct {
	Repository string    `json:"repository"` // directory below DebianDir
	Pocket     string    `json:"pocket"`     // "trixie-security"
	Version    string    `json:"version,omitempty"`
	Date       time.Time `json:"date"`    // of its Release file
	Indexes    int       `json:"indexes"` // how many, InRelease among them
}

// Repository is the directory below DebianDir for a pocket, and its name in the
// service machine's package cache. There is none for what is no pocket for
// clients.
func Repository(codename, pocket string) (name string, ok bool) {
	switch pocket {
	case codename:
		return "debian", true
	case codename + "-updates":
		return "updates", true
	case codename + "-security":
		return "security", true
	}
	return "", false
}

// BootLine names what the ISO writer changes on its way, so that SHA256SUMS
// cannot hold it: digests of the parts that stay as Debian made them.
type BootLine struct {
	// Isolinux is the SHA-256 of isolinux.bin, its boot info table (bytes 8 to
	// 63) zeroed.
	Isolinux string `json:"isolinuxSHA256"`
	// MBR is the SHA-256 of the boot code, the first MBRCode bytes of the image.
	MBR string `json:"mbrSHA256"`
}

// MBRCode is the length of the boot code in the image's first sector: what
// comes behind it is different on each image.
const MBRCode = 432

// bootLine takes the digests.
func bootLine(l Loaders) BootLine {
	code := make([]byte, MBRCode)
	copy(code, l.MBR)
	return BootLine{Isolinux: IsolinuxDigest(l.Isolinux), MBR: hexSum(code)}
}

// IsolinuxDigest is the SHA-256 of isolinux.bin without its boot info table.
func IsolinuxDigest(data []byte) string {
	plain := bytes.Clone(data)
	clear(plain[min(8, len(plain)):min(64, len(plain))])
	return hexSum(plain)
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// HostLine is a host of the site, without its secrets.
type HostLine struct {
	Name      string            `json:"name"`
	FQDN      string            `json:"fqdn"`
	Role      string            `json:"role"`
	Virtual   bool              `json:"virtual,omitempty"`
	MACs      []string          `json:"macs,omitempty"`
	Serial    string            `json:"serial,omitempty"`
	AssetTag  string            `json:"assetTag,omitempty"`
	Disk      string            `json:"diskSerial,omitempty"`
	MinDisk   int64             `json:"diskMinSize,omitempty"` // bytes
	Addresses map[string]string `json:"addresses"`
}

// RoleLine is a role and what is installed for it.
type RoleLine struct {
	Name     string   `json:"name"`
	Profiles []string `json:"profiles"`
	Packages []string `json:"packages"`
	// Image is the digest of what the role's golden image was made from; empty
	// where the role is installed from packages.
	Image string `json:"imageInputs,omitempty"`
}

// Package is a package in the pool.
type Package struct {
	Name         string   `json:"name"`
	Version      string   `json:"version"`
	Architecture string   `json:"architecture"`
	Kind         string   `json:"kind"`
	Size         int64    `json:"size"`
	SHA256       string   `json:"sha256"`
	Path         string   `json:"path"`
	Uses         []string `json:"uses"`
}

// Options are the inputs of Tree.
type Options struct {
	Manifest   Manifest
	Repository *tree.Tree // pool/ and dists/
	Debian     *tree.Tree // below DebianDir; nil for none
	Kernel     []byte
	Initrd     tree.Entry // Path is set by Tree
	Loaders    Loaders
	Roles      *tree.Tree // below sci/
	Firmware   *tree.Tree // below firmware/
	Key        *pgp.Key
	Time       time.Time
}

// Tree returns the medium's tree and how it boots.
func Tree(o Options) (*tree.Tree, *iso.Options, error) {
	t := &tree.Tree{}
	if err := t.Merge("", o.Repository); err != nil {
		return nil, nil, err
	}
	if o.Debian != nil {
		if err := t.Merge(DebianDir, o.Debian); err != nil {
			return nil, nil, err
		}
	}
	if err := t.Merge("sci", o.Roles); err != nil {
		return nil, nil, err
	}
	if err := t.Merge("firmware", o.Firmware); err != nil {
		return nil, nil, err
	}
	o.Manifest.Boot, o.Manifest.Links = bootLine(o.Loaders), links(t)
	manifest, err := json.MarshalIndent(o.Manifest, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	id := mediumID(o)
	// It holds what only root of a node should read in its copy of the medium.
	o.Initrd.Path, o.Initrd.Mode = InitrdPath, 0o600
	files := &adder{tree: t}
	files.entry(o.Initrd)
	files.bytes(KernelPath, o.Kernel)
	files.bytes(ManifestPath, append(manifest, '\n'))
	files.bytes(KeyPath, o.Key.PublicArmor())
	addDisk(files, o, id)
	addLoaders(files, o, id)
	if files.err != nil {
		return nil, nil, files.err
	}
	if err := addSums(t, o); err != nil {
		return nil, nil, err
	}
	return t, &iso.Options{
		VolumeID:    VolumeID(o.Manifest),
		Publisher:   "SCI-CD",
		Application: o.Manifest.Builder,
		Time:        o.Time,
		BIOS:        &iso.BIOSBoot{Image: Isolinux, MBR: o.Loaders.MBR},
		UEFI:        &iso.UEFIBoot{Image: EFIImage},
	}, nil
}

// VolumeID is the medium's volume identifier: at most 32 characters, from the
// set of ECMA-119 d-characters that every tool shows (upper case, digits, _).
func VolumeID(m Manifest) string {
	id := strings.ToUpper("SCI_" + m.Site + "_" + m.Codename)
	id = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, id)
	return id[:min(len(id), 32)]
}

// mediumID names this medium for GRUB's search: a UUID made from the time of
// the build, the lock and the key, so that two media in one machine differ.
func mediumID(o Options) string {
	sum := sha256.Sum256([]byte(o.Time.UTC().Format(time.RFC3339) + o.Manifest.LockSHA256 + o.Manifest.Fingerprint + o.Initrd.SHA256))
	h := hex.EncodeToString(sum[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32]
}

// addDisk adds what the installer's cdrom-detect and base-installer read.
func addDisk(files *adder, o Options, id string) {
	m := o.Manifest
	info := fmt.Sprintf("Debian GNU/Linux %s %q - SCI-CD %s %s %s\n", m.Version, strings.ToUpper(m.Codename[:1])+m.Codename[1:], m.Site, m.Arch, o.Time.UTC().Format("20060102-15:04"))
	files.bytes(".disk/info", []byte(info))
	files.bytes(".disk/base_installable", nil)
	files.bytes(".disk/base_components", []byte("main\n"))
	files.bytes(".disk/udeb_include", nil)
	files.bytes(".disk/cd_type", []byte("full_cd/single\n"))
	files.bytes(".disk/id/"+id, nil)
}

// adder adds files until one fails.
type adder struct {
	tree *tree.Tree
	err  error
}

func (a *adder) bytes(name string, data []byte) {
	if a.err == nil {
		a.err = a.tree.AddBytes(name, 0o644, data)
	}
}

func (a *adder) entry(e tree.Entry) {
	if a.err == nil {
		a.err = a.tree.Add(e)
	}
}

// links are the symbolic links of a tree.
func links(t *tree.Tree) map[string]string {
	found := make(map[string]string)
	for _, e := range t.Entries() {
		if e.Mode.Type() == fs.ModeSymlink {
			found[e.Path] = e.Link
		}
	}
	return found
}

// addSums adds md5sum.txt and SHA256SUMS over every regular file, the former in
// the latter, and the signature of the latter. Every file is read once more for
// it, which also finds bytes that rotted in the download cache.
func addSums(t *tree.Tree, o Options) error {
	var shas, md5s strings.Builder
	for _, e := range t.Entries() {
		if !e.Mode.IsRegular() || e.Path == Isolinux {
			continue // the ISO writer patches its own addresses into isolinux.bin
		}
		weak, strong, err := digests(e)
		if err != nil {
			return err
		}
		fmt.Fprintf(&shas, "%s  %s\n", strong, e.Path)
		fmt.Fprintf(&md5s, "%s  ./%s\n", weak, e.Path)
	}
	fmt.Fprintf(&shas, "%s  %s\n", hexSum([]byte(md5s.String())), md5Path)
	signature, err := o.Key.DetachSign(strings.NewReader(shas.String()), o.Time, true)
	if err != nil {
		return fmt.Errorf("cannot sign %s: %w", SumsPath, err)
	}
	return errors.Join(
		t.AddBytes(md5Path, 0o644, []byte(md5s.String())),
		t.AddBytes(SumsPath, 0o644, []byte(shas.String())),
		t.AddBytes(SumsSigPath, 0o644, signature))
}

func digests(e tree.Entry) (weak, strong string, err error) {
	r, err := e.Open()
	if err != nil {
		return "", "", err
	}
	defer func() { _ = r.Close() }()
	m, s := md5.New(), sha256.New()
	if _, err := io.Copy(io.MultiWriter(m, s), r); err != nil {
		return "", "", fmt.Errorf("cannot read %q: %w", e.Path, err)
	}
	if e.SHA256 != "" && e.SHA256 != sum(s) {
		return "", "", hint.New(fmt.Errorf("cannot use %q: its bytes have changed since it was verified (SHA-256 is %s, was %s)", e.Path, sum(s), e.SHA256),
			"the download cache is damaged: remove it and build again")
	}
	return sum(m), sum(s), nil
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
