// Package cache keeps files by their SHA-256. Whatever lies in it under a
// digest had that digest when it was put there: a file is written beside its
// place, hashed on the way, synced, and renamed only if digest and size match.
//
// The layout below the cache's directory, with DIGEST in 64 hex digits:
//
//	sha256/DI/DIGEST     complete files, read-only
//	part/DIGEST.part     downloads under way or broken off
//	tmp/                 files of unknown digest while they are written
//	index/KIND/DIGEST    small notes "KEY was made into DIGEST"
//
// Any number of processes may share a cache. A partial file belongs to whoever
// holds its lock (flock(2)), which the kernel drops with the process; the
// others get ErrBusy. Everything in a cache can be had again: deleting it while
// nothing runs is always right.
package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrBusy says that another writer, of this process or another one, holds the
// partial file of a digest.
var ErrBusy = errors.New("another download of the same file is under way")

// Cache is a directory of files by digest. Its methods may be called from
// several goroutines.
type Cache struct {
	dir string
}

// Default returns the cache's usual place: sci-cd below $XDG_CACHE_HOME, or
// below ~/.cache where that is not set (XDG Base Directory Specification).
func Default() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the cache directory: %w", err)
	}
	return filepath.Join(base, "sci-cd"), nil
}

// Open opens the cache in dir and makes it if needed. An empty dir means
// Default.
func Open(dir string) (*Cache, error) {
	if dir == "" {
		var err error
		if dir, err = Default(); err != nil {
			return nil, err
		}
	}
	for _, sub := range []string{"sha256", "part", "tmp", "index"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("cannot open cache: %w", err)
		}
	}
	return &Cache{dir}, nil
}

// Dir returns the directory of the cache.
func (c *Cache) Dir() string { return c.dir }

// Path returns where the file with the hex digest sum lies, and whether it
// does.
func (c *Cache) Path(sum string) (path string, ok bool) {
	if !validSum(sum) {
		return "", false
	}
	if _, ok := c.Size(sum); !ok {
		return "", false
	}
	return c.path(sum), true
}

// Size returns how many bytes the file with the hex digest sum has, and whether
// it is there. It looks at the disk: damage may have changed it.
func (c *Cache) Size(sum string) (size int64, ok bool) {
	if !validSum(sum) {
		return 0, false
	}
	info, err := os.Lstat(c.path(sum))
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// Open opens the file with the hex digest sum. The error of a missing file
// wraps fs.ErrNotExist.
func (c *Cache) Open(sum string) (*os.File, error) {
	if !validSum(sum) {
		return nil, fmt.Errorf("cannot open cached file: %q is no SHA-256 digest", sum)
	}
	f, err := os.Open(c.path(sum))
	if err != nil {
		return nil, fmt.Errorf("cannot open cached file: %w", err)
	}
	return f, nil
}

// ReadFile returns the file with the hex digest sum if it is there, no longer
// than limit bytes, and still has that digest. A damaged file is removed.
func (c *Cache) ReadFile(sum string, limit int64) ([]byte, error) {
	text, err := c.ReadText(sum, limit)
	return []byte(text), err
}

// ReadText is ReadFile for those who want a string, and want it without a copy.
func (c *Cache) ReadText(sum string, limit int64) (string, error) {
	f, err := c.Open(sum)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("cannot read cached file: %w", err)
	}
	if info.Size() > limit {
		return "", fmt.Errorf("cannot read cached file %s: %d bytes are over the limit of %d", sum, info.Size(), limit)
	}
	var text strings.Builder
	text.Grow(int(info.Size()))
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(&text, h), io.LimitReader(f, info.Size())); err != nil {
		return "", fmt.Errorf("cannot read cached file: %w", err)
	}
	if err := c.compare(sum, h); err != nil {
		return "", err
	}
	return text.String(), nil
}

// compare removes the file with the digest sum if its bytes made another one.
func (c *Cache) compare(sum string, h hash.Hash) error {
	have := hex.EncodeToString(h.Sum(nil))
	if have == sum {
		return nil
	}
	return errors.Join(fmt.Errorf("cached file %s was damaged: its digest is %s now", sum, have), c.Drop(sum))
}

// Verify reads the whole file with the hex digest sum. If it changed since it
// was put there it is removed and an error returned.
func (c *Cache) Verify(sum string) error {
	f, err := c.Open(sum)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("cannot read cached file: %w", err)
	}
	return c.compare(sum, h)
}

// Drop removes the file with the hex digest sum. A missing file is no error.
func (c *Cache) Drop(sum string) error {
	if !validSum(sum) {
		return fmt.Errorf("cannot drop cached file: %q is no SHA-256 digest", sum)
	}
	if err := os.Remove(c.path(sum)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot drop cached file: %w", err)
	}
	return nil
}

// PutBytes keeps data and returns its hex digest.
func (c *Cache) PutBytes(data []byte) (sum string, err error) {
	sum = sumOf(data)
	if size, ok := c.Size(sum); ok && size == int64(len(data)) {
		return sum, nil
	}
	if err := c.place(c.path(sum), data, 0o444); err != nil {
		return "", fmt.Errorf("cannot put file into the cache: %w", err)
	}
	return sum, nil
}

// Record notes that key, of the given kind, was made into the cached file with
// the hex digest sum: a parsed index from its source, say. Kinds are short
// words in lower case. A later note replaces an earlier one.
func (c *Cache) Record(kind, key, sum string) error {
	path, err := c.notePath(kind, key)
	if err != nil {
		return fmt.Errorf("cannot record %q in the cache: %w", key, err)
	}
	if !validSum(sum) {
		return fmt.Errorf("cannot record %q in the cache: %q is no SHA-256 digest", key, sum)
	}
	if err := c.place(path, []byte(sum+" "+key+"\n"), 0o644); err != nil {
		return fmt.Errorf("cannot record %q in the cache: %w", key, err)
	}
	return nil
}

// Lookup returns the digest recorded for key, if the file is there too.
func (c *Cache) Lookup(kind, key string) (sum string, ok bool) {
	path, err := c.notePath(kind, key)
	if err != nil {
		return "", false
	}
	note, err := os.ReadFile(path)
	if err != nil {
		return "", false
	}
	sum, rest, found := strings.Cut(string(note), " ")
	if !found || rest != key+"\n" || !validSum(sum) {
		return "", false
	}
	if _, ok := c.Path(sum); !ok {
		return "", false
	}
	return sum, true
}

func (c *Cache) path(sum string) string {
	return filepath.Join(c.dir, "sha256", sum[:2], sum)
}

func (c *Cache) notePath(kind, key string) (string, error) {
	if kind == "" || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return "", fmt.Errorf("bad kind %q", kind)
	}
	if strings.ContainsRune(key, '\n') {
		return "", errors.New("newline in key")
	}
	return filepath.Join(c.dir, "index", kind, sumOf([]byte(key))), nil
}

// place writes data beside path, syncs and renames it.
func (c *Cache) place(path string, data []byte, perm fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "put-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func validSum(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}
