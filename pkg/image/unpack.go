package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// window bounds the memory of whoever unpacks, in bytes.
const window = 8 << 20

// Decompress returns the tar in a layer.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

// Compress returns a writer that makes a layer of a tar.
func Compress(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithWindowSize(window), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
}

// UnpackOptions say how a layer is laid out.
type UnpackOptions struct {
	// Only restricts it to some names; nil takes all.
	Only func(name string) bool
	// Progress is told the bytes of the tar that are done.
	Progress func(done int64)
}

// Unpack lays a tar out below root, which it cannot leave: os.Root refuses
// every path that leads out, be it through a link of the archive or one that
// was there before. What is in the way of a file is replaced.
func Unpack(ctx context.Context, r io.Reader, root string, o UnpackOptions) error {
	top, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("cannot unpack image: %w", err)
	}
	defer func() { _ = top.Close() }()
	u := &unpacker{root: top, dir: ".", here: top}
	defer u.leave()
	count := &counter{r: &reader{ctx, r}}
	t := tar.NewReader(count)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot unpack image: %w", err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if !validName(name) || h.Typeflag == tar.TypeLink && !validName(h.Linkname) {
			return fmt.Errorf("cannot unpack image: %q leads out of it", h.Name)
		}
		if o.Only == nil || o.Only(name) {
			if err := u.entry(name, h, t); err != nil {
				return fmt.Errorf("cannot unpack %q: %w", name, err)
			}
		}
		if o.Progress != nil {
			o.Progress(count.n)
		}
	}
	// The decoder checks the frame's checksum at the very end.
	if _, err := io.Copy(io.Discard, count); err != nil {
		return fmt.Errorf("cannot unpack image: %w", err)
	}
	if err := u.setTimes(); err != nil {
		return fmt.Errorf("cannot unpack image: %w", err)
	}
	return nil
}

// Remove removes what a layer says is gone.
func Remove(root string, names []string) error {
	top, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("cannot unpack image: %w", err)
	}
	defer func() { _ = top.Close() }()
	for _, name := range names {
		if err := top.RemoveAll(name); err != nil {
			return fmt.Errorf("cannot unpack image: %w", err)
		}
	}
	return nil
}

// Restore brings the tree below root back to what it was when old was listed
// and base, a tar of the whole of it, was packed.
func Restore(ctx context.Context, base io.Reader, root string, old Listing) error {
	now, err := List(ctx, root)
	if err != nil {
		return err
	}
	var added []string
	changed := make(map[string]bool)
	for name, f := range now {
		if before, ok := old[name]; !ok {
			added = append(added, name)
		} else if !f.same(before) {
			changed[name] = true
		}
	}
	for name := range old {
		if _, ok := now[name]; !ok {
			changed[name] = true
		}
	}
	if err := Remove(root, topmost(added)); err != nil {
		return err
	}
	return Unpack(ctx, base, root, UnpackOptions{Only: func(name string) bool { return changed[name] }})
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// unpacker keeps the directory open that the last entry was in: an archive goes
// through directories one after the other.
type unpacker struct {
	root  *os.Root
	dir   string // of here, relative to root
	here  *os.Root
	times []dirTime
}

// dirTime is set when everything is in its place: what is put into a directory
// changes its time.
type dirTime struct {
	name string
	time time.Time
}

func (u *unpacker) leave() {
	if u.here != u.root {
		_ = u.here.Close()
	}
	u.here, u.dir = u.root, "."
}

// enter opens the directory of an entry, and makes it where it is missing.
func (u *unpacker) enter(dir string) error {
	if dir == u.dir {
		return nil
	}
	u.leave()
	if dir == "." {
		return nil
	}
	here, err := u.root.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = u.root.MkdirAll(dir, 0o755); err == nil {
			here, err = u.root.OpenRoot(dir)
		}
	}
	if err != nil {
		return err
	}
	u.here, u.dir = here, dir
	return nil
}

func (u *unpacker) entry(name string, h *tar.Header, r io.Reader) error {
	if err := u.enter(path.Dir(name)); err != nil {
		return err
	}
	base := path.Base(name)
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(name, base, h)
	case tar.TypeReg:
		return u.file(base, h, r)
	case tar.TypeLink:
		if err := u.clear(base); err != nil {
			return err
		}
		return u.root.Link(h.Linkname, name)
	case tar.TypeSymlink:
		if err := u.clear(base); err != nil {
			return err
		}
		if err := u.here.Symlink(h.Linkname, base); err != nil {
			return err
		}
		return u.here.Lchown(base, h.Uid, h.Gid)
	case tar.TypeFifo:
		return u.fifo(base, h)
	}
	return fmt.Errorf("entries of type %q are not supported", h.Typeflag)
}

// clear removes a file, or a directory with all that is in it.
func (u *unpacker) clear(base string) error { return u.here.RemoveAll(base) }

func (u *unpacker) directory(name, base string, h *tar.Header) error {
	err := u.here.Mkdir(base, 0o700)
	if errors.Is(err, fs.ErrExist) {
		var info fs.FileInfo
		if info, err = u.here.Lstat(base); err == nil && !info.IsDir() {
			if err = u.clear(base); err == nil {
				err = u.here.Mkdir(base, 0o700)
			}
		}
	}
	if err != nil {
		return err
	}
	d, err := u.here.Open(base)
	if err != nil {
		return err
	}
	u.times = append(u.times, dirTime{name, h.ModTime})
	return errors.Join(attributesOf(d, h), d.Close())
}

func (u *unpacker) file(base string, h *tar.Header, r io.Reader) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := u.here.OpenFile(base, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := u.clear(base); err != nil {
			return err
		}
		f, err = u.here.OpenFile(base, flags, 0o600)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = attributesOf(f, h)
	}
	if err == nil {
		t := unix.NsecToTimeval(h.ModTime.UnixNano())
		err = unix.Futimes(int(f.Fd()), []unix.Timeval{t, t})
	}
	return errors.Join(err, f.Close())
}

func (u *unpacker) fifo(base string, h *tar.Header) error {
	if err := u.clear(base); err != nil {
		return err
	}
	d, err := u.here.Open(".")
	if err != nil {
		return err
	}
	err = unix.Mkfifoat(int(d.Fd()), base, uint32(h.Mode&0o777))
	if err = errors.Join(err, d.Close()); err != nil {
		return err
	}
	return errors.Join(u.here.Lchown(base, h.Uid, h.Gid), u.here.Chmod(base, fileMode(h.Mode)), u.here.Chtimes(base, h.ModTime, h.ModTime))
}

// attributesOf sets owner, mode and extended attributes, in this order: chown
// clears the setuid bit and file capabilities.
func attributesOf(f *os.File, h *tar.Header) error {
	if err := f.Chown(h.Uid, h.Gid); err != nil {
		return err
	}
	if err := f.Chmod(fileMode(h.Mode)); err != nil {
		return err
	}
	for key, value := range h.PAXRecords {
		attr, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
		if err := unix.Fsetxattr(int(f.Fd()), attr, []byte(value), 0); err != nil {
			return fmt.Errorf("attribute %s: %w", attr, err)
		}
	}
	return nil
}

func (u *unpacker) setTimes() error {
	for i := len(u.times) - 1; i >= 0; i-- {
		t := u.times[i]
		if err := u.root.Chtimes(filepath.FromSlash(t.name), t.time, t.time); err != nil {
			return err
		}
	}
	return nil
}
