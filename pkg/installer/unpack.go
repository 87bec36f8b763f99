package installer

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

// unpacker writes the entries of a tar below a directory that it cannot leave:
// os.Root refuses every path that leads out, be it through "..", through a
// symbolic link of the archive, or through one that was there before. Existing
// links to directories inside are followed, which is how "lib/x" comes to lie
// in usr/lib of a system with merged /usr.
type unpacker struct {
	root *os.Root
	// skip leaves an entry out; nil leaves out nothing.
	skip func(name string) bool
	// times sets modification times.
	times bool
	// keepDirs leaves directories that are there already as they are.
	keepDirs bool
}

// entry writes one entry. h.Name and the target of hard links are relative and
// clean.
func (u unpacker) entry(h *tar.Header, r io.Reader) error {
	if u.skip != nil && u.skip(h.Name) {
		return nil
	}
	if err := u.write(h, r); err != nil {
		return fmt.Errorf("cannot unpack %q: %w", h.Name, err)
	}
	return nil
}

func (u unpacker) write(h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(h)
	case tar.TypeReg:
		return u.file(h, r)
	case tar.TypeSymlink:
		return u.symlink(h)
	case tar.TypeLink:
		if err := u.clear(h.Name); err != nil {
			return err
		}
		return u.root.Link(h.Linkname, h.Name)
	default:
		return fmt.Errorf("entries of type %q are not supported", h.Typeflag)
	}
}

func (u unpacker) dir(h *tar.Header) error {
	info, err := u.root.Lstat(h.Name)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if info, err = u.root.Stat(h.Name); err == nil && info.IsDir() {
			return nil // /bin of a merged /usr
		}
	}
	if err != nil {
		if err = u.parents(h.Name); err == nil {
			err = u.root.Mkdir(h.Name, 0o755)
		}
		if errors.Is(err, fs.ErrExist) {
			err = nil // another package, unpacked at the same time, brought it just now
		}
	} else if !info.IsDir() {
		return errors.New("something else is there already")
	} else if u.keepDirs {
		return nil
	}
	if err != nil {
		return err
	}
	return u.finish(h)
}

func (u unpacker) file(h *tar.Header, r io.Reader) error {
	if err := u.clear(h.Name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return u.finish(h)
}

func (u unpacker) symlink(h *tar.Header) error {
	if old, err := u.root.Readlink(h.Name); err == nil && old == h.Linkname {
		return nil
	}
	if err := u.clear(h.Name); err != nil {
		return err
	}
	if err := u.root.Symlink(h.Linkname, h.Name); err != nil {
		return err
	}
	return u.root.Lchown(h.Name, h.Uid, h.Gid)
}

// clear makes room for a file: parents exist, and nothing of that name does.
func (u unpacker) clear(name string) error {
	if err := u.parents(name); err != nil {
		return err
	}
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (u unpacker) parents(name string) error {
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	if info, err := u.root.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	return u.root.MkdirAll(dir, 0o755)
}

// finish sets owner, mode and time, in this order: chown clears the setuid bit.
func (u unpacker) finish(h *tar.Header) error {
	if err := u.root.Lchown(h.Name, h.Uid, h.Gid); err != nil {
		return err
	}
	mode := fs.FileMode(h.Mode & 0o777)
	for bit, m := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if h.Mode&bit != 0 {
			mode |= m
		}
	}
	if err := u.root.Chmod(h.Name, mode); err != nil {
		return err
	}
	if !u.times {
		return nil
	}
	return u.root.Chtimes(h.Name, h.ModTime, h.ModTime)
}

// tarball unpacks a tar stream whose names may start with "./".
func (u unpacker) tarball(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = path.Clean(strings.TrimPrefix(h.Name, "./"))
		if h.Name == "." {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = path.Clean(strings.TrimPrefix(h.Linkname, "./"))
		}
		if !fs.ValidPath(h.Name) {
			return fmt.Errorf("the path %q leads out of the archive", h.Name)
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
	}
}

// overlay lays the role's files over the system, with the modes and owners
// that the archive records.
func overlay(o Options, h *site.Host) error {
	name := filepath.Join(roleDir(o, h), "overlay.tar.gz")
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot lay the overlay over the system: %w", err)
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	root, err := os.OpenRoot(o.Target)
	if err != nil {
		return fmt.Errorf("cannot lay the overlay over the system: %w", err)
	}
	defer func() { _ = root.Close() }()
	if err := (unpacker{root: root, times: true, keepDirs: true}).tarball(z); err != nil {
		return fmt.Errorf("cannot lay %s over the system: %w", name, err)
	}
	return nil
}
