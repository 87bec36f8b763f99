// Package device writes an image to a disk, a USB stick as a rule, and reads it
// back. It refuses every disk of which it isn't sure: whoever types one letter
// wrong loses somebody's data.
//
// Which disk is what, and who uses it, is read from sysfs and /proc. The kernel
// has the last word: the
// disk is opened with O_EXCL, which fails while anything mounts or holds it
// (open(2)).
package device

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Wish is what Choose is asked for.
type Wish struct {
	// Path is the device's, with links resolved: "/dev/sdb".
	Path string
	// Size is how many bytes it must hold.
	Size int64
	// Serial, where not empty, must be the disk's; with it a disk that is not
	// removable may be taken.
	Serial string
}

// Choose returns the disk at a path if it may be overwritten. root is the file
// system with sys/ and proc/.
func Choose(root fs.FS, w Wish) (*Disk, error) {
	disks, err := read(root)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(disks, func(d Disk) bool { return d.Path == w.Path })
	if i < 0 {
		return nil, fmt.Errorf("cannot write to %s: %w", w.Path, absent(disks, w.Path))
	}
	d := &disks[i]
	if err := refuse(d, w); err != nil {
		return nil, fmt.Errorf("cannot write to %s: %w", w.Path, err)
	}
	return d, nil
}

// absent says why a path is not among the disks.
func absent(disks []Disk, path string) error {
	var fit []string
	for _, d := range disks {
		for _, p := range d.partitions {
			if "/dev/"+p == path {
				return hint.New(fmt.Errorf("it is a partition of %s", d.Path), "the image brings its own partitions: name the whole disk, "+d.Path)
			}
		}
		if d.Size > 0 && refuse(&d, Wish{Path: d.Path}) == nil {
			fit = append(fit, d.String())
		}
	}
	err := errors.New("it is no disk")
	if len(fit) == 0 {
		return hint.New(err, "no removable disk that is free was found; plug one in")
	}
	return hint.New(err, "removable and free: "+strings.Join(fit, "; "))
}

// refuse returns the first reason against a disk.
func refuse(d *Disk, w Wish) error {
	switch {
	case len(d.InUse) > 0:
		return hint.New(fmt.Errorf("it is in use: %s", strings.Join(d.InUse, ", ")), "unmount it, and stop what uses it; is it the right one?")
	case w.Serial != "" && d.Serial == "":
		return fmt.Errorf("it has no serial number, so it is not %q", w.Serial)
	case w.Serial != "" && w.Serial != d.Serial:
		return fmt.Errorf("its serial number is %q, not %q", d.Serial, w.Serial)
	case !d.Removable && w.Serial == "":
		if d.Serial == "" {
			return errors.New("it is not removable, and has no serial number by which to name it")
		}
		return hint.New(fmt.Errorf("it is not removable (model %q, serial %q)", d.Model, d.Serial), "if it is the right one, and all on it may go: --serial "+d.Serial)
	case d.Size == 0:
		return errors.New("it has no medium")
	case d.ReadOnly:
		return hint.New(errors.New("it is read-only"), "is there a switch on it?")
	case d.Size < w.Size:
		return fmt.Errorf("it is too small: it holds %d bytes, the image has %d", d.Size, w.Size)
	}
	return nil
}
