package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// xattrRecord is the pax record of an extended attribute, as GNU tar, bsdtar
// and star write it.
const xattrRecord = "SCHILY.xattr."

// file is what is compared and archived of a file.
type file struct {
	mode     fs.FileMode
	uid, gid int
	size     int64
	time     int64 // seconds; 0 for symbolic links
	link     string

	dev, inode uint64
	links      uint64
}

func stat(name string) (file, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return file{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return file{}, errors.New("no owner is known")
	}
	f := file{
		mode: info.Mode(), uid: int(st.Uid), gid: int(st.Gid), time: info.ModTime().Unix(),
		dev: uint64(st.Dev), inode: st.Ino, links: uint64(st.Nlink), //nolint:unconvert // other widths on other architectures
	}
	switch f.mode.Type() {
	case 0:
		f.size = info.Size()
	case fs.ModeSymlink:
		f.time = 0
		f.link, err = os.Readlink(name)
	}
	return f, err
}

// same reports whether nothing of a file has changed that an archive holds.
func (f file) same(old file) bool {
	return f.mode == old.mode && f.uid == old.uid && f.gid == old.gid && f.size == old.size && f.time == old.time && f.link == old.link
}

// Listing is a tree at one moment: what Changed and Restore compare with.
type Listing map[string]file

// List lists what General lets into an image of the tree below root.
func List(ctx context.Context, root string) (Listing, error) {
	l := make(Listing)
	err := walk(ctx, root, func(name string, f file, _ Part) error {
		l[name] = f
		return nil
	})
	return l, err
}

// walk calls each for every file below root that goes into an image.
func walk(ctx context.Context, root string, each func(name string, f file, part Part) error) error {
	return filepath.WalkDir(root, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(root, full)
		if err != nil || name == "." {
			return err
		}
		part := General(name, d.Type())
		if part == None {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		f, err := stat(full)
		if err != nil {
			return err
		}
		if err := each(name, f, part); err != nil {
			return fmt.Errorf("cannot archive %q: %w", name, err)
		}
		if part == Empty && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// Pack writes the tree below root as a tar: what General lets through, and of
// that what is not in old with the same content. A nil old packs everything.
func Pack(ctx context.Context, w io.Writer, root string, old Listing) error {
	p := &packer{root: root, tar: tar.NewWriter(w), linked: make(map[[2]uint64]string)}
	err := walk(ctx, root, func(name string, f file, part Part) error {
		if before, ok := old[name]; ok && f.same(before) {
			return nil
		}
		return p.add(name, f, part)
	})
	return errors.Join(err, p.tar.Close())
}

// Removed are the paths of old that are not there any more, those below a
// removed directory left out.
func Removed(root string, old Listing) ([]string, error) {
	var gone []string
	for name := range old {
		if _, err := os.Lstat(filepath.Join(root, name)); errors.Is(err, fs.ErrNotExist) {
			gone = append(gone, name)
		} else if err != nil {
			return nil, err
		}
	}
	return topmost(gone), nil
}

// topmost sorts paths and drops those below another one of them.
func topmost(names []string) []string {
	slices.Sort(names)
	var top []string
	for _, name := range names {
		if len(top) == 0 || !strings.HasPrefix(name, top[len(top)-1]+"/") {
			top = append(top, name)
		}
	}
	return top
}

type packer struct {
	root   string
	tar    *tar.Writer
	linked map[[2]uint64]string // the first name of a file with several
}

func (p *packer) add(name string, f file, part Part) error {
	full := filepath.Join(p.root, name)
	h := &tar.Header{Name: name, Mode: modeBits(f.mode), Uid: f.uid, Gid: f.gid, ModTime: time.Unix(f.time, 0), Format: tar.FormatPAX}
	switch f.mode.Type() {
	case fs.ModeDir:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.link
		return p.tar.WriteHeader(h)
	case fs.ModeNamedPipe:
		h.Typeflag = tar.TypeFifo
		return p.tar.WriteHeader(h)
	case fs.ModeSocket:
		return nil // nothing listens on it
	case 0:
		h.Typeflag, h.Size = tar.TypeReg, f.size
		if part == Empty {
			h.Size = 0
		}
		id := [2]uint64{f.dev, f.inode}
		if first := p.linked[id]; first != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.tar.WriteHeader(h)
		}
		if f.links > 1 {
			p.linked[id] = name
		}
	default:
		return fmt.Errorf("files of type %v have no place in an image", f.mode.Type())
	}
	if err := attributes(full, h); err != nil {
		return err
	}
	if err := p.tar.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg || h.Size == 0 {
		return err
	}
	in, err := os.Open(full)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	_, err = io.CopyN(p.tar, in, h.Size)
	return err
}

// attributes adds the extended attributes: file capabilities and access
// control lists.
func attributes(name string, h *tar.Header) error {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(name, names)
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for _, attr := range strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(name, attr, value)
		if err != nil {
			return fmt.Errorf("attribute %s: %w", attr, err)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[xattrRecord+attr] = string(value[:n])
	}
	return nil
}

// modeBits are a mode as tar has it.
func modeBits(m fs.FileMode) int64 {
	bits := int64(m.Perm())
	for _, b := range specialBits {
		if m&b.mode != 0 {
			bits |= b.bit
		}
	}
	return bits
}

var specialBits = [...]struct {
	bit  int64
	mode fs.FileMode
}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}}

// fileMode is tar's mode as os has it.
func fileMode(bits int64) fs.FileMode {
	m := fs.FileMode(bits & 0o777)
	for _, b := range specialBits {
		if bits&b.bit != 0 {
			m |= b.mode
		}
	}
	return m
}
