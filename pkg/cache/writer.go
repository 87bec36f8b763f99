package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
)

// SumError says that a whole file was written and is not the one expected.
type SumError struct {
	Want, Have string // hex digests
}

func (e *SumError) Error() string {
	return fmt.Sprintf("SHA-256 is %s, want %s", e.Have, e.Want)
}

// SizeError says that too few or too many bytes came.
type SizeError struct {
	Want, Have int64 // bytes; Have is what came so far, or one over Want
}

func (e *SizeError) Error() string {
	if e.Have > e.Want {
		return fmt.Sprintf("longer than the %d bytes expected", e.Want)
	}
	return fmt.Sprintf("%d bytes, want %d", e.Have, e.Want)
}

// Writer writes one file into the cache. It is for one goroutine.
type Writer struct {
	cache *Cache
	sum   string
	size  int64
	file  *os.File
	hash  hash.Hash
	off   int64
}

// Writer begins or goes on with the file of the given hex digest and size in
// bytes. ErrBusy means that another writer has it; it is given up by that
// writer's Commit, its Close or the end of its process.
func (c *Cache) Writer(sum string, size int64) (*Writer, error) {
	if !validSum(sum) {
		return nil, fmt.Errorf("cannot write into the cache: %q is no SHA-256 digest", sum)
	}
	if size < 0 {
		return nil, fmt.Errorf("cannot write into the cache: size %d", size)
	}
	f, err := openPart(filepath.Join(c.dir, "part", sum+".part"))
	if err != nil {
		return nil, fmt.Errorf("cannot write into the cache: %w", err)
	}
	w := &Writer{cache: c, sum: sum, size: size, file: f, hash: sha256.New()}
	if err := w.takeUp(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot write into the cache: %w", err), f.Close())
	}
	return w, nil
}

// openPart opens and locks a partial file. Its former owner may have renamed
// it between our opening and locking, so the lock counts only if the name
// still leads to the same file.
func openPart(path string) (*os.File, error) {
	for range 10 {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		mine, err := f.Stat()
		if err == nil {
			if named, nerr := os.Lstat(path); nerr == nil && os.SameFile(mine, named) {
				return f, nil
			}
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, ErrBusy
}

// takeUp hashes what an earlier download left.
func (w *Writer) takeUp() error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() > w.size {
		return w.Restart()
	}
	w.off, err = io.Copy(w.hash, w.file)
	return err
}

// Offset returns how many bytes are there already.
func (w *Writer) Offset() int64 { return w.off }

// Write adds p. It fails with a *SizeError, and writes nothing, if that makes
// the file longer than expected.
func (w *Writer) Write(p []byte) (int, error) {
	if w.off+int64(len(p)) > w.size {
		return 0, &SizeError{Want: w.size, Have: w.size + 1}
	}
	n, err := w.file.Write(p)
	w.hash.Write(p[:n])
	w.off += int64(n)
	return n, err
}

// Restart throws away what is there and begins anew.
func (w *Writer) Restart() error {
	if err := w.file.Truncate(0); err != nil {
		return err
	}
	if _, err := w.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	w.hash.Reset()
	w.off = 0
	return nil
}

// Commit puts the file in its place if it is complete and right, and ends the
// writer. A short file (*SizeError) stays as a partial one, a wrong one
// (*SumError) is dropped.
func (w *Writer) Commit() error {
	if w.off != w.size {
		return errors.Join(&SizeError{Want: w.size, Have: w.off}, w.Close())
	}
	if have := hex.EncodeToString(w.hash.Sum(nil)); have != w.sum {
		return errors.Join(&SumError{Want: w.sum, Have: have}, os.Remove(w.file.Name()), w.Close())
	}
	if err := w.finish(); err != nil {
		return errors.Join(fmt.Errorf("cannot put file into the cache: %w", err), w.Close())
	}
	return w.Close()
}

// finish moves the partial file into its place while the lock is still held,
// so that whoever gets the lock next finds the complete file.
func (w *Writer) finish() error {
	if err := w.file.Sync(); err != nil {
		return err
	}
	path := w.cache.path(w.sum)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Rename(w.file.Name(), path); err != nil {
		return err
	}
	return w.file.Chmod(0o444)
}

// Discard ends the writer and throws away what came so far.
func (w *Writer) Discard() error {
	if w.file == nil {
		return nil
	}
	// Removed while it is locked: nobody else can have taken it up.
	return errors.Join(os.Remove(w.file.Name()), w.Close())
}

// Close ends the writer and keeps what came so far. After Commit it does
// nothing.
func (w *Writer) Close() error {
	if w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot close partial file: %w", err)
	}
	return nil
}
