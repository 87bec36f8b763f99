package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Bounds on what a .deb may unpack to, in bytes. The largest control member of
// trixie is a md5sums of 3 MB, the largest data has 4 GB.
const (
	maxControlMember = 16 << 20
	maxControlTotal  = 64 << 20
	maxData          = 32 << 30
)

// File is an opened .deb or .udeb. Its methods may be called in any order and
// repeatedly, from several goroutines at a time.
type File struct {
	name          string
	control, data member
	close         func() error
}

// Open opens the .deb or .udeb at name. It reads the list of members only; the
// caller has checked the file's digest.
func Open(name string) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot open package: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot open package: %w", err)
	}
	d, err := New(path.Base(name), f, info.Size())
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	d.close = f.Close
	return d, nil
}

// New reads a .deb or .udeb of size bytes from r; name stands in errors.
func New(name string, r io.ReaderAt, size int64) (*File, error) {
	members, err := readAr(r, size)
	if err != nil {
		return nil, fmt.Errorf("cannot open package %s: %w", name, err)
	}
	f := &File{name: name, close: func() error { return nil }}
	if err := f.assign(members); err != nil {
		return nil, fmt.Errorf("cannot open package %s: %w", name, err)
	}
	return f, nil
}

// assign finds the three members. deb(5) wants them in this order; members
// whose names begin with an underscore may stand before data.tar, and anything
// may stand after it.
func (f *File) assign(members []member) error {
	want := []string{"debian-binary", "control.tar", "data.tar"}
	var found []member
	for _, m := range members {
		if len(found) == len(want) || (strings.HasPrefix(m.name, "_") && len(found) > 0) {
			continue
		}
		base := m.name
		if len(found) > 0 && strings.HasPrefix(base, want[len(found)]) {
			base = want[len(found)]
		}
		if base != want[len(found)] {
			return fmt.Errorf("member %q where %s is expected", m.name, want[len(found)])
		}
		found = append(found, m)
	}
	if len(found) < len(want) {
		return fmt.Errorf("no member %s", want[len(found)])
	}
	version := make([]byte, min(found[0].Size(), 64))
	if err := readFullAt(found[0], version, 0); err != nil {
		return err
	}
	if !bytes.HasPrefix(version, []byte("2.")) || !bytes.Contains(version, []byte("\n")) {
		return fmt.Errorf("format version %.20q is not 2.x", version)
	}
	f.control, f.data = found[1], found[2]
	return nil
}

// Close closes the file that Open opened.
func (f *File) Close() error { return f.close() }

// Control returns the stanza that describes the package.
func (f *File) Control() (Control, error) {
	files, err := f.ControlFiles()
	if err != nil {
		return nil, err
	}
	data, ok := files["control"]
	if !ok {
		return nil, fmt.Errorf("cannot read package %s: no control file", f.name)
	}
	c, err := ParseControl(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read package %s: %w", f.name, err)
	}
	for _, name := range []string{"Package", "Version", "Architecture"} {
		if c.Get(name) == "" {
			return nil, fmt.Errorf("cannot read package %s: control has no %s field", f.name, name)
		}
	}
	return c, nil
}

// ControlFiles returns the members of control.tar by name: control, md5sums,
// conffiles, postinst, templates and so on (deb-control(5)).
func (f *File) ControlFiles() (map[string][]byte, error) {
	files := make(map[string][]byte)
	err := walk(f.control, maxControlTotal, func(h *tar.Header, r io.Reader) error {
		if h.Typeflag == tar.TypeDir {
			return nil
		}
		if h.Typeflag != tar.TypeReg || strings.Contains(h.Name, "/") {
			return fmt.Errorf("%q is no plain file", h.Name)
		}
		if h.Size > maxControlMember {
			return fmt.Errorf("%q has more than %d bytes", h.Name, maxControlMember)
		}
		if _, ok := files[h.Name]; ok {
			return fmt.Errorf("%q is there twice", h.Name)
		}
		data, err := io.ReadAll(r)
		files[h.Name] = data
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read package %s: %s: %w", f.name, f.control.name, err)
	}
	return files, nil
}

// Data streams the package's files in the order of data.tar and checks the
// compressor's checksum at the end, so that the files are to be trusted only
// when Data returns nil. Header names are relative and clean, "usr/bin/x" for
// "./usr/bin/x"; so are the targets of hard links. The root directory itself
// is left out. Targets of symbolic links are as written: whoever unpacks must
// not write through them. fn need not read r.
func (f *File) Data(fn func(h *tar.Header, r io.Reader) error) error {
	var fnErr error
	err := walk(f.data, maxData, func(h *tar.Header, r io.Reader) error {
		fnErr = fn(h, r)
		return fnErr
	})
	switch {
	case err == nil:
		return nil
	case fnErr != nil && errors.Is(err, fnErr):
		return fnErr
	}
	return fmt.Errorf("cannot read package %s: %s: %w", f.name, f.data.name, err)
}

// walk calls fn for each entry of a compressed tar but the root.
func walk(m member, limit int64, fn func(*tar.Header, io.Reader) error) error {
	packed := io.NewSectionReader(m, 0, m.Size())
	plain, err := decompress(packed, path.Ext(m.name))
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	bounded := &boundedReader{r: plain, left: limit, limit: limit}
	tr := tar.NewReader(bounded)
	var total int64
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		root, err := cleanHeader(h)
		if err != nil {
			return err
		}
		// A sparse file is longer than its bytes in the archive.
		if h.Size > limit-total {
			return fmt.Errorf("unpacks to more than %d bytes", limit)
		}
		total += h.Size
		if root {
			continue
		}
		if err := fn(h, tr); err != nil {
			return err
		}
	}
	// To the end, so that the decompressor sees its checksum.
	_, err = io.Copy(io.Discard, bounded)
	return err
}

// cleanHeader makes the names of h relative and clean and refuses what has no
// place in a package. It tells whether h is the root directory.
func cleanHeader(h *tar.Header) (root bool, err error) {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return false, fmt.Errorf("%q has the unknown type %q", h.Name, h.Typeflag)
	}
	if h.Name, err = cleanName(h.Name); err != nil {
		return false, err
	}
	if h.Name == "." {
		if h.Typeflag != tar.TypeDir {
			return false, errors.New("the root is no directory")
		}
		return true, nil
	}
	if h.Typeflag == tar.TypeLink {
		if h.Linkname, err = cleanName(h.Linkname); err != nil {
			return false, err
		}
	}
	return false, nil
}

func cleanName(name string) (string, error) {
	if name == "" || name[0] == '/' {
		return "", fmt.Errorf("%q is no relative name", name)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("%q holds a NUL", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q leaves the root", name)
		}
	}
	return path.Clean(name), nil
}

// boundedReader fails, rather than ends, beyond its limit.
type boundedReader struct {
	r           io.Reader
	left, limit int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		// One byte more is too many; the end is not.
		var one [1]byte
		if n, err := b.r.Read(one[:]); n == 0 {
			return 0, err
		}
		return 0, fmt.Errorf("unpacks to more than %d bytes", b.limit)
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
