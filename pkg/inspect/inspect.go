// Package inspect says what is on a medium: release, hosts, profiles, packages,
// how it boots. It believes what the medium says of itself; package verify
// doesn't.
package inspect

import (
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/media"
)

// Summary is what a medium holds.
type Summary struct {
	Volume string          `json:"volume"`
	Size   int64           `json:"size"` // bytes of the image
	Boot   []Boot          `json:"boot"`
	Parts  []Part          `json:"parts"`
	About  *media.Manifest `json:"manifest"`
}

// Boot is a way to boot the medium.
type Boot struct {
	Firmware string `json:"firmware"` // "BIOS" or "UEFI"
	Medium   string `json:"medium"`   // "cd" or "usb"
	File     string `json:"file"`     // what is loaded
}

// Part is a sum over files.
type Part struct {
	Name  string `json:"name"`
	Files int    `json:"files"`
	Size  int64  `json:"size"` // bytes; a file at two paths counts twice
}

// Image reads the summary of an image of size bytes.
func Image(r io.ReaderAt, size int64) (*Summary, error) {
	img, err := iso.Open(r, size)
	if err != nil {
		return nil, err
	}
	m, err := media.ReadManifest(img.FS())
	if err != nil {
		return nil, hint.New(err, "is it an image made by sci-cd build?")
	}
	s := &Summary{Volume: img.VolumeID(), Size: img.Size(), About: m}
	if s.Boot, err = boots(r, img); err != nil {
		return nil, err
	}
	s.Parts, err = parts(img.FS())
	return s, err
}

// Built is when the medium was made, as it says.
func (s *Summary) Built() time.Time { return s.About.Time }

// boots lists the ways to boot: the entries of El Torito for a disc, boot code
// and partitions of the first sector for a disk.
func boots(r io.ReaderAt, img *iso.Image) ([]Boot, error) {
	var list []Boot
	for _, e := range img.Boot() {
		list = append(list, Boot{e.Platform, "cd", e.Path})
	}
	record, err := iso.ReadMBR(r)
	if err != nil {
		return nil, err
	}
	if record.Code && record.Active {
		list = append(list, Boot{"BIOS", "usb", img.StartingAt(record.BootLBA)})
	}
	for _, p := range record.Partitions {
		if p.Kind == iso.PartitionEFI && p.Start%4 == 0 {
			list = append(list, Boot{"UEFI", "usb", img.StartingAt(p.Start / 4)})
		}
	}
	return list, nil
}

// parts sums up the files of the medium, largest concerns first.
func parts(medium fs.FS) ([]Part, error) {
	list := []Part{{Name: "packages"}, {Name: "installer"}, {Name: "boot loaders"}, {Name: "site"}, {Name: "indexes"}, {Name: "golden images"}}
	err := fs.WalkDir(medium, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		p := &list[part(name)]
		p.Files++
		p.Size += info.Size()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read image: %w", err)
	}
	if images := len(list) - 1; list[images].Files == 0 {
		list = list[:images] // a site that is installed from packages
	}
	return list, nil
}

// part is the place in the list of parts.
func part(name string) int {
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case "pool":
		return 0
	case "install":
		return 1
	case "EFI", "boot", "isolinux":
		return 2
	case "sci":
		if strings.HasSuffix(name, ".tar.zst") {
			return 5
		}
		return 3
	}
	return 4
}
