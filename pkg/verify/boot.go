package verify

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"

	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/media"
)

// maxLoader bounds isolinux.bin, in bytes; it has 40 kB.
const maxLoader = 1 << 20

// boot checks what is executed before any file is looked up by its name.
func (c *checker) boot() {
	c.catalog()
	c.isolinux()
	c.firstSector()
	if err := c.img.CheckID(); err != nil {
		c.problem("image", "%v", err)
	}
}

// catalog checks that El Torito leads to the files that the other lists name.
func (c *checker) catalog() {
	want := map[string]string{"BIOS": media.Isolinux, "UEFI": media.EFIImage}
	seen := make(map[string]bool)
	for _, e := range c.img.Boot() {
		name, known := want[e.Platform]
		switch {
		case !known || seen[e.Platform]:
			c.problem("image", "boot catalog: unexpected entry for platform %s at sector %d", e.Platform, e.LBA)
			continue
		case e.Path != name:
			c.problem("image", "boot catalog: %s boots from sector %d, which is not %s", e.Platform, e.LBA, name)
		default:
			c.loaded(e, name)
		}
		seen[e.Platform] = true
	}
	for _, platform := range sorted(want) {
		if !seen[platform] {
			c.problem("image", "boot catalog: no entry for %s", platform)
		}
	}
}

// loaded checks how much the firmware loads: four sectors of isolinux.bin, which
// loads the rest of itself, and all of the EFI system partition.
func (c *checker) loaded(e iso.BootEntry, name string) {
	want := int64(4)
	if name == media.EFIImage {
		want = c.files[name].size / 512
	}
	if int64(e.Sectors) != want {
		c.problem("image", "boot catalog: %s loads %d sectors of %s, want %d", e.Platform, e.Sectors, name, want)
	}
}

func (c *checker) isolinux() {
	f := c.files[media.Isolinux]
	switch {
	case f == nil:
		c.problem(media.Isolinux, "%v", errMissing)
		return
	case f.size > maxLoader || len(f.extents) != 1:
		c.problem(media.Isolinux, "is no boot loader: %d bytes", f.size)
		return
	}
	data, err := fs.ReadFile(c.medium, media.Isolinux)
	if err != nil {
		c.problem(media.Isolinux, "%v", bare(err))
		return
	}
	if err := iso.CheckBootInfo(data, f.extents[0].LBA); err != nil {
		c.problem(media.Isolinux, "%v", err)
	}
	c.against(media.Isolinux, media.IsolinuxDigest(data), func(b media.BootLine) string { return b.Isolinux })
}

func (c *checker) firstSector() {
	code := make([]byte, media.MBRCode)
	if _, err := c.source.ReadAt(code, 0); err != nil {
		c.problem("image", "cannot read the first sector: %v", err)
		return
	}
	sum := sha256.Sum256(code)
	c.against("boot code of the first sector", hex.EncodeToString(sum[:]), func(b media.BootLine) string { return b.MBR })
	if err := c.img.CheckMBR(media.Isolinux, media.EFIImage, media.MBRCode); err != nil {
		c.problem("image", "%v", bare(err))
	}
}

// against compares a digest with the manifest's.
func (c *checker) against(what, got string, want func(media.BootLine) string) {
	if c.about == nil {
		return
	}
	switch w := want(c.about.Boot); {
	case w == "":
		c.problem(what, "cannot be checked: %s has no digest of it", media.ManifestPath)
	case w != got:
		c.problem(what, "has SHA-256 %.16s…, %s says %.16s…", got, media.ManifestPath, w)
	}
}
