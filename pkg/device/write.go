package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Target is a disk or a file that is written to and read back.
type Target interface {
	io.WriterAt
	// Sync returns when everything is on the medium.
	Sync() error
	// Reread returns a reader whose bytes come from the medium, not from the
	// kernel's memory. Its reads must be aligned to, and in whole, blocks of
	// 4096 bytes in memory that Buffer made.
	Reread() (io.ReaderAt, error)
	Close() error
}

// Options of Write.
type Options struct {
	// Image is read twice: once to write it, once to compare.
	Image io.ReaderAt
	Size  int64 // of the image in bytes
	// Progress is told of each part's bytes as they go; nil is silence.
	Progress func(part string, done, total int64)
}

// The parts of the work, for Progress.
const (
	Writing   = "write"
	Comparing = "compare"
)

const (
	// head is what makes a disk bootable and partitioned. It is wiped first and
	// written last, so that a disk with half an image is an empty disk to
	// firmware and kernel.
	head  = 1 << 20
	chunk = 4 << 20
	block = 4096
)

// DifferentError says that what was read back is not what was written.
type DifferentError struct{ Offset int64 }

func (e *DifferentError) Error() string {
	return fmt.Sprintf("what is on it differs from the image at byte %d: the medium is faulty, or not as large as it says", e.Offset)
}

// Write writes an image to a target and compares. The length is rounded up to
// whole blocks of 4096 bytes.
func Write(ctx context.Context, t Target, o Options) error {
	if err := write(ctx, t, o); err != nil {
		return fmt.Errorf("cannot write image: %w", err)
	}
	if err := compare(ctx, t, o); err != nil {
		return fmt.Errorf("cannot use what was written: %w", err)
	}
	return nil
}

func write(ctx context.Context, t Target, o Options) error {
	if _, err := t.WriteAt(Buffer(head), 0); err != nil {
		return err
	}
	if err := t.Sync(); err != nil {
		return err
	}
	for at := int64(head); at < o.Size; at += chunk {
		if err := o.copy(t, at, chunk); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// Without it the kernel takes all of it at once, and the progress
		// means nothing.
		if err := t.Sync(); err != nil {
			return err
		}
		o.progress(Writing, min(at+chunk, o.Size)-head)
	}
	if err := o.copy(t, 0, head); err != nil {
		return err
	}
	o.progress(Writing, o.Size)
	return t.Sync()
}

// copy writes n bytes of the image at a place, the end padded to a block.
func (o Options) copy(t io.WriterAt, at int64, n int64) error {
	b, err := o.read(at, n)
	if err != nil {
		return err
	}
	_, err = t.WriteAt(b, at)
	return err
}

// read reads up to n bytes of the image, padded to whole blocks.
func (o Options) read(at, n int64) ([]byte, error) {
	n = min(n, o.Size-at)
	b := Buffer(int((n + block - 1) / block * block))
	if _, err := o.Image.ReadAt(b[:n], at); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read the image: %w", err)
	} else if err != nil && at+n > o.Size {
		return nil, fmt.Errorf("cannot read the image: %w", io.ErrUnexpectedEOF)
	}
	return b, nil
}

func (o Options) progress(part string, done int64) {
	if o.Progress != nil {
		o.Progress(part, done, o.Size)
	}
}

func compare(ctx context.Context, t Target, o Options) error {
	r, err := t.Reread()
	if err != nil {
		return err
	}
	got := Buffer(chunk)
	for at := int64(0); at < o.Size; at += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		want, err := o.read(at, chunk)
		if err != nil {
			return err
		}
		if n, err := r.ReadAt(got[:len(want)], at); n < len(want) {
			return fmt.Errorf("cannot read byte %d: %w", at+int64(n), err)
		}
		if !bytes.Equal(got[:len(want)], want) {
			i := 0
			for got[i] == want[i] {
				i++
			}
			return &DifferentError{at + int64(i)}
		}
		o.progress(Comparing, min(at+chunk, o.Size))
	}
	return nil
}

// Buffer returns zeroed memory that begins at a multiple of 4096 bytes, as
// direct I/O asks for (open(2), O_DIRECT).
func Buffer(n int) []byte {
	b := make([]byte, n+block)
	skip := (block - addressOf(b)%block) % block
	return b[skip : skip+n : skip+n]
}

// file is a target on this machine.
type file struct {
	*os.File
	path string
	made bool // by OpenFile
	read *os.File
}

// Discard takes away a file that OpenFile made for an image that could not be
// written. A disk stays as it is: empty, see head.
func Discard(t Target) error {
	if f, ok := t.(*file); ok && f.made {
		return os.Remove(f.path)
	}
	return nil
}

func (f *file) Close() error {
	var err error
	if f.read != nil {
		err = f.read.Close()
	}
	return errors.Join(f.File.Close(), err)
}
