package iso

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/tree"
)

// file is a name in an opened image.
type file struct {
	name     string
	parent   *file // nil at the root
	children []*file
	depth    int // 0 at the root
	dir      bool
	mode     uint32
	links    uint32
	uid, gid uint32
	time     time.Time
	link     string
	size     int64
	extents  []Extent
}

func (f *file) sort() {
	sort.Slice(f.children, func(i, j int) bool { return f.children[i].name < f.children[j].name })
}

func (f *file) path() string {
	if f.parent == nil || f.parent.parent == nil {
		return f.name
	}
	return f.parent.path() + "/" + f.name
}

func (f *file) child(name string) *file {
	i := sort.Search(len(f.children), func(i int) bool { return f.children[i].name >= name })
	if i < len(f.children) && f.children[i].name == name {
		return f.children[i]
	}
	return nil
}

// startingAt finds the file that begins at a sector, the first in path order.
func (f *file) startingAt(lba uint32) *file {
	for _, c := range f.children {
		if c.dir {
			if found := c.startingAt(lba); found != nil {
				return found
			}
		} else if c.size > 0 && c.extents[0].LBA == lba {
			return c
		}
	}
	return nil
}

// Owner is what Sys of a fs.FileInfo in an image holds.
type Owner struct {
	UID, GID uint32
	Links    uint32
}

// FS is the image as a file system by its Rock Ridge names. Links are followed
// as os.Root does it: never out of the image, absolute targets are errors.
// The result implements fs.ReadDirFS, fs.StatFS and fs.ReadLinkFS; its files
// implement io.ReaderAt and io.Seeker.
func (img *Image) FS() fs.FS { return imageFS{img} }

// Extent lists where the bytes of a regular file are.
func (img *Image) Extent(name string) ([]Extent, error) {
	f, err := imageFS{img}.find("extent", name, true)
	if err != nil {
		return nil, err
	}
	if f.mode&0o170000 != unixRegular {
		return nil, &fs.PathError{Op: "extent", Path: name, Err: errors.New("not a regular file")}
	}
	return append([]Extent(nil), f.extents...), nil
}

// Tree is the image as a tree, whose entries read from the image.
func (img *Image) Tree() (*tree.Tree, error) {
	t := &tree.Tree{}
	fsys := imageFS{img}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		f := d.(info).f
		return t.Add(tree.Entry{
			Path: name, Mode: goMode(f.mode), UID: int(f.uid), GID: int(f.gid), ModTime: f.time,
			Size: f.size, Link: f.link,
			Open: func() (io.ReadCloser, error) { return fsys.open(f, f.name), nil },
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read tree of image: %w", err)
	}
	return t, nil
}

type imageFS struct{ img *Image }

const maxLinks = 40

// find resolves a name. The last element is followed only if follow is set.
func (s imageFS) find(op, name string, follow bool) (*file, error) {
	fail := func(err error) (*file, error) { return nil, &fs.PathError{Op: op, Path: name, Err: err} }
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	at, rest, links := s.img.root, name, 0
	for rest != "" {
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		switch {
		case !at.dir:
			return fail(fs.ErrNotExist)
		case element == "." || element == "":
			continue
		case element == "..":
			if at.parent == nil {
				return fail(errors.New("link leads out of the image"))
			}
			at = at.parent
			continue
		}
		next := at.child(element)
		if next == nil {
			return fail(fs.ErrNotExist)
		}
		if next.link == "" || rest == "" && !follow {
			at = next
			continue
		}
		if links++; links > maxLinks || len(rest) > 1<<16 {
			return fail(errors.New("too many links"))
		}
		if next.link[0] == '/' {
			return fail(errors.New("link leads out of the image"))
		}
		rest = next.link + "/" + rest
	}
	return at, nil
}

func (s imageFS) Open(name string) (fs.File, error) {
	f, err := s.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if f.dir {
		return &openDir{info: info{f, path.Base(name)}}, nil
	}
	return s.open(f, path.Base(name)), nil
}

func (s imageFS) open(f *file, name string) *openFile {
	return &openFile{info{f, name}, io.NewSectionReader(sections{s.img.source, f.extents}, 0, f.size)}
}

func (s imageFS) Stat(name string) (fs.FileInfo, error) {
	f, err := s.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return info{f, path.Base(name)}, nil
}

func (s imageFS) Lstat(name string) (fs.FileInfo, error) {
	f, err := s.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return info{f, path.Base(name)}, nil
}

func (s imageFS) ReadLink(name string) (string, error) {
	f, err := s.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if f.link == "" {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return f.link, nil
}

func (s imageFS) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := s.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !f.dir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	return f.entries(), nil
}

func (f *file) entries() []fs.DirEntry {
	list := make([]fs.DirEntry, len(f.children))
	for i, c := range f.children {
		list[i] = info{c, c.name}
	}
	return list
}

// info is a file under the name by which it was asked for.
type info struct {
	f    *file
	name string
}

func (i info) Name() string               { return i.name }
func (i info) Size() int64                { return i.f.size }
func (i info) Mode() fs.FileMode          { return goMode(i.f.mode) }
func (i info) Type() fs.FileMode          { return i.Mode().Type() }
func (i info) ModTime() time.Time         { return i.f.time }
func (i info) IsDir() bool                { return i.f.dir }
func (i info) Sys() any                   { return Owner{i.f.uid, i.f.gid, i.f.links} }
func (i info) Info() (fs.FileInfo, error) { return i, nil }
func (i info) String() string             { return fs.FormatFileInfo(i) }

// openFile is an open regular file.
type openFile struct {
	info
	*io.SectionReader
}

func (o *openFile) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *openFile) Close() error               { return nil }
func (o *openFile) Size() int64                { return o.info.Size() }

// openDir is an open directory.
type openDir struct {
	info
	read int
}

func (o *openDir) Stat() (fs.FileInfo, error) { return o.info, nil }
func (o *openDir) Close() error               { return nil }
func (o *openDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: o.name, Err: errors.New("is a directory")}
}

func (o *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	list := o.f.entries()[o.read:]
	if n > 0 {
		if len(list) == 0 {
			return nil, io.EOF
		}
		list = list[:min(n, len(list))]
	}
	o.read += len(list)
	return list, nil
}

// sections reads extents as one run of bytes.
type sections struct {
	source  io.ReaderAt
	extents []Extent
}

func (s sections) ReadAt(b []byte, at int64) (int, error) {
	done := 0
	for _, e := range s.extents {
		if at >= e.Size {
			at -= e.Size
			continue
		}
		n := int(min(int64(len(b)-done), e.Size-at))
		got, err := s.source.ReadAt(b[done:done+n], int64(e.LBA)*sectorSize+at)
		done += got
		if done == len(b) {
			return done, nil
		}
		if got < n {
			return done, err
		}
		at = 0
	}
	return done, io.EOF
}
