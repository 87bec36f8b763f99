// Package tree is the currency between the steps of a build: a list of files,
// directories and symbolic links with the bytes behind them. Every step hands
// over entries; the ISO writer, the cpio writer and the tests read them.
//
// A tree is a set of paths. It never holds two entries for one path, parents
// exist implicitly (mode 0755, owner 0:0), and Entries returns everything in
// the byte order of the paths, so that a tree has one serialisation only.
package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"
	"time"
)

// Entry is one file, directory or symbolic link.
type Entry struct {
	// Path is relative and slash-separated, without "." or ".." elements.
	Path string
	// Mode holds the type (regular, fs.ModeDir or fs.ModeSymlink) and the
	// twelve permission bits (fs.ModeSetuid, fs.ModeSetgid, fs.ModeSticky and
	// fs.ModePerm).
	Mode     fs.FileMode
	UID, GID int
	// ModTime is the modification time; zero means the time of the tree's
	// consumer (the source date of a build).
	ModTime time.Time
	// Size is the length of a regular file in bytes.
	Size int64
	// Link is the target of a symbolic link.
	Link string
	// SHA256 is the hex digest of a regular file where it is known already,
	// else empty. Entries of one digest may share their bytes on a medium.
	SHA256 string
	// Open returns the bytes of a regular file. It may be called repeatedly.
	Open func() (io.ReadCloser, error)
}

// Tree is a set of entries. The zero value is an empty tree.
type Tree struct {
	entries map[string]Entry
}

// Add puts e into the tree. It is an error if the path is taken by anything
// but a directory that e repeats, or lies below something that is no directory.
func (t *Tree) Add(e Entry) error {
	if e.Path == "" || path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path || e.Path == "." || strings.HasPrefix(e.Path, "../") || e.Path == ".." {
		return fmt.Errorf("cannot add %q: not a clean relative path", e.Path)
	}
	if strings.ContainsRune(e.Path, 0) {
		return fmt.Errorf("cannot add %q: NUL in path", e.Path)
	}
	switch e.Mode.Type() {
	case 0:
		if e.Open == nil {
			return fmt.Errorf("cannot add %q: regular file without a source", e.Path)
		}
	case fs.ModeDir, fs.ModeSymlink:
	default:
		return fmt.Errorf("cannot add %q: unsupported type %v", e.Path, e.Mode.Type())
	}
	if old, ok := t.entries[e.Path]; ok && (!old.Mode.IsDir() || !e.Mode.IsDir()) {
		return fmt.Errorf("cannot add %q: path is taken", e.Path)
	}
	if t.entries == nil {
		t.entries = make(map[string]Entry)
	}
	var parents []string // that are missing
	for dir := path.Dir(e.Path); dir != "."; dir = path.Dir(dir) {
		p, ok := t.entries[dir]
		if ok && !p.Mode.IsDir() {
			return fmt.Errorf("cannot add %q: %q is no directory", e.Path, dir)
		}
		if !ok {
			parents = append(parents, dir)
		}
	}
	for _, dir := range parents {
		t.entries[dir] = Entry{Path: dir, Mode: fs.ModeDir | 0o755}
	}
	t.entries[e.Path] = e
	return nil
}

// AddBytes adds a regular file with the given content, owned by root.
func (t *Tree) AddBytes(name string, mode fs.FileMode, data []byte) error {
	sum := sha256.Sum256(data)
	return t.Add(Entry{
		Path: name, Mode: mode, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:]),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	})
}

// AddFile adds the regular file at osPath, owned by root. sum is its SHA-256
// if the caller knows it, else empty.
func (t *Tree) AddFile(name string, mode fs.FileMode, osPath, sum string) error {
	info, err := os.Stat(osPath)
	if err != nil {
		return fmt.Errorf("cannot add %q: %w", name, err)
	}
	return t.Add(Entry{
		Path: name, Mode: mode, Size: info.Size(), SHA256: sum,
		Open: func() (io.ReadCloser, error) { return os.Open(osPath) },
	})
}

// AddLink adds a symbolic link.
func (t *Tree) AddLink(name, target string) error {
	return t.Add(Entry{Path: name, Mode: fs.ModeSymlink | 0o777, Link: target})
}

// AddDir adds a directory, owned by root.
func (t *Tree) AddDir(name string, mode fs.FileMode) error {
	return t.Add(Entry{Path: name, Mode: fs.ModeDir | mode.Perm()})
}

// Remove takes the entry at name out of the tree; what lies below a directory
// goes with it.
func (t *Tree) Remove(name string) {
	delete(t.entries, name)
	for p := range t.entries {
		if strings.HasPrefix(p, name+"/") {
			delete(t.entries, p)
		}
	}
}

// Lookup returns the entry at name.
func (t *Tree) Lookup(name string) (Entry, bool) {
	e, ok := t.entries[name]
	return e, ok
}

// Len is the number of entries, implicit parents counted.
func (t *Tree) Len() int { return len(t.entries) }

// Entries returns all entries in the byte order of their paths. A directory
// comes before what it holds.
func (t *Tree) Entries() []Entry {
	list := make([]Entry, 0, len(t.entries))
	for _, e := range t.entries {
		list = append(list, e)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	return list
}

// Merge adds every entry of other below dir ("" for the root).
func (t *Tree) Merge(dir string, other *Tree) error {
	for _, e := range other.Entries() {
		e.Path = path.Join(dir, e.Path)
		if err := t.Add(e); err != nil {
			return err
		}
	}
	return nil
}

// ReadAll returns the bytes of a regular file, at most limit of them.
func (e Entry) ReadAll(limit int64) ([]byte, error) {
	if e.Size > limit {
		return nil, fmt.Errorf("cannot read %q: %d bytes are more than the limit of %d", e.Path, e.Size, limit)
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return io.ReadAll(io.LimitReader(r, limit))
}
