package initrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"github.com/skycover/sci-cd/pkg/tree"
)

// Tool is a Debian package of which some files go into the installer.
type Tool struct {
	// Deb is the path of the .deb file.
	Deb string
	// Files are path.Match patterns of what to take, without a leading
	// "usr/": "sbin/mke2fs".
	Files []string
}

// MenuItem is a step of the installer's main menu that the agent carries out.
type MenuItem struct {
	Name        string // package name: "sci-disks"
	Number      int    // Installer-Menu-Item
	Description string // the menu's text
	Depends     string
	Provides    string
	Postinst    string // shell script
}

// Options are the inputs of Base.
type Options struct {
	Stock *Stock
	// Kernel is the path of the linux-image-*.deb of the stock initrd's ABI.
	Kernel string
	// Udebs are paths of .udeb files to unpack and register.
	Udebs []string
	Tools []Tool
	// Remove names packages that are taken out of the stock dpkg status.
	Remove []string
	Menu   []MenuItem
	// Locale is the site's: of the questions' translations its language alone is
	// kept, beside English. Empty leaves all questions as they are.
	Locale string
}

// Base returns what goes over the stock initrd for every site of a language:
// modules, udebs, tools, menu items, questions, and the dpkg status that lists
// them.
func Base(ctx context.Context, o Options) (*tree.Tree, error) {
	t := &tree.Tree{}
	if err := addModules(ctx, t, o); err != nil {
		return nil, err
	}
	for _, tool := range o.Tools {
		if err := addTool(t, o.Stock, tool); err != nil {
			return nil, err
		}
	}
	status := newStatus(o.Stock.Status, o.Remove)
	keep := o.Stock.languages(o.Locale)
	for _, file := range o.Udebs {
		if err := addUdeb(t, status, o.Stock, keep, file); err != nil {
			return nil, err
		}
	}
	if err := addTemplates(t, o.Stock, keep, o.Remove); err != nil {
		return nil, err
	}
	for _, item := range o.Menu {
		if err := addMenuItem(t, status, item); err != nil {
			return nil, err
		}
	}
	if err := t.AddBytes(statusPath, 0o644, status.bytes()); err != nil {
		return nil, err
	}
	return t, checkLibraries(o.Stock, t)
}

// Write writes the tree as a zstd-compressed cpio archive (newc) that goes
// behind the stock one. Equal trees give equal bytes. Entries without a time
// get tm.
func Write(w io.Writer, stock *Stock, t *tree.Tree, tm time.Time) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	archive := cpio.NewWriter(z)
	for i, e := range t.Entries() {
		if stock.Place(e.Path) != e.Path {
			return fmt.Errorf("cannot write initrd: %q is behind a symbolic link of the stock initrd", e.Path)
		}
		if err := writeEntry(archive, e, int64(i+1), tm); err != nil {
			return fmt.Errorf("cannot write initrd: %q: %w", e.Path, err)
		}
	}
	return errors.Join(archive.Close(), z.Close())
}

func writeEntry(archive *cpio.Writer, e tree.Entry, inode int64, tm time.Time) error {
	if !e.ModTime.IsZero() {
		tm = e.ModTime
	}
	h := &cpio.Header{Name: e.Path, Mode: cpio.FileMode(e.Mode.Perm()), Uid: e.UID, Guid: e.GID, ModTime: tm, Inode: inode, Links: 1}
	switch e.Mode.Type() {
	case fs.ModeDir:
		h.Mode |= cpio.TypeDir
		h.Links = 2
		return archive.WriteHeader(h)
	case fs.ModeSymlink:
		h.Mode |= cpio.TypeSymlink
		h.Size = int64(len(e.Link)) // the target is the file's content
		if err := archive.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.WriteString(archive, e.Link)
		return err
	}
	h.Mode |= cpio.TypeReg
	if e.Mode&fs.ModeSetuid != 0 {
		h.Mode |= cpio.ModeSetuid
	}
	h.Size = e.Size
	if err := archive.WriteHeader(h); err != nil {
		return err
	}
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	n, err := io.Copy(archive, r)
	if err == nil && n != e.Size {
		err = fmt.Errorf("has %d bytes, not %d as announced", n, e.Size)
	}
	return err
}
