package iso

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// errLonger says that a source had more bytes than it promised.
var errLonger = errors.New("source is longer than promised")

const (
	// copyChunk is what is copied between two looks at the context.
	copyChunk = 64 << 20
	// sparseFrom is the size from which a source is asked for its holes.
	sparseFrom = 1 << 20
	hashBuffer = 256 << 10
)

// imageWriter fills a file of fixed length in ascending order. What is never
// written reads as zeros.
type imageWriter struct {
	f    *os.File
	size int64
	hash *hasher // nil unless wanted
}

func newImageWriter(f *os.File, size int64, hash bool) (*imageWriter, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is no regular file", f.Name())
	}
	if err := f.Truncate(0); err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	w := &imageWriter{f: f, size: size}
	if hash {
		w.hash = startHasher(f)
	}
	return w, nil
}

// bytes writes b at an offset.
func (w *imageWriter) bytes(at int64, b []byte) error {
	if _, err := w.f.WriteAt(b, at); err != nil {
		return fmt.Errorf("cannot write image: %w", err)
	}
	w.done(at + int64(len(b)))
	return nil
}

// copy writes exactly size bytes of r at an offset. It is an error if r holds
// fewer (io.ErrUnexpectedEOF) or more (errLonger).
func (w *imageWriter) copy(ctx context.Context, at int64, r io.Reader, size int64) error {
	if src, ok := r.(*os.File); ok && size >= sparseFrom {
		if sparse, err := w.copySparse(ctx, at, src, size); sparse || err != nil {
			return err
		}
	}
	if err := w.copyRange(ctx, at, r, size); err != nil {
		return err
	}
	var more [1]byte
	if n, _ := r.Read(more[:]); n > 0 {
		return errLonger
	}
	return nil
}

// copyRange copies the next size bytes of r. Between two files the kernel does
// the work (copy_file_range, by os.File.ReadFrom).
func (w *imageWriter) copyRange(ctx context.Context, at int64, r io.Reader, size int64) error {
	if _, err := w.f.Seek(at, io.SeekStart); err != nil {
		return err
	}
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := min(size, copyChunk)
		n, err := w.f.ReadFrom(&io.LimitedReader{R: r, N: want})
		if err != nil {
			return err
		}
		if n < want {
			return io.ErrUnexpectedEOF
		}
		at += n
		size -= n
		w.done(at)
	}
	return nil
}

// copySparse copies a source that occupies fewer blocks than its length, data
// by data. It reports false, with nothing done, for any other source.
func (w *imageWriter) copySparse(ctx context.Context, at int64, src *os.File, size int64) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &st); err != nil || st.Blocks*512 >= st.Size {
		return false, nil
	}
	start, err := src.Seek(0, io.SeekCurrent)
	if err != nil || start != 0 {
		return false, nil
	}
	if st.Size != size {
		if st.Size > size {
			return true, errLonger
		}
		return true, io.ErrUnexpectedEOF
	}
	for pos := int64(0); pos < size; {
		data, err := src.Seek(pos, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but a hole up to the end
			break
		}
		if err != nil {
			return true, err
		}
		hole, err := src.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return true, err
		}
		if _, err := src.Seek(data, io.SeekStart); err != nil {
			return true, err
		}
		if err := w.copyRange(ctx, at+data, src, min(hole, size)-data); err != nil {
			return true, err
		}
		pos = hole
	}
	w.done(at + size)
	return true, ctx.Err()
}

// done tells the hasher that everything below offset is final.
func (w *imageWriter) done(offset int64) {
	if w.hash != nil {
		w.hash.advance(offset)
	}
}

// finish returns the digest, if one was wanted. A failed write stops it.
func (w *imageWriter) finish(failed error) (string, error) {
	if w.hash == nil {
		return "", nil
	}
	if failed == nil {
		w.hash.advance(w.size)
	} else {
		w.hash.stop()
	}
	return w.hash.wait()
}

// hasher reads back what was written and digests it in a goroutine of its own,
// so that the copying can stay in the kernel. What it reads is in the page
// cache.
type hasher struct {
	offsets chan int64
	result  chan error
	sum     []byte
	closed  bool
}

func startHasher(f io.ReaderAt) *hasher {
	h := &hasher{offsets: make(chan int64, 1), result: make(chan error, 1)}
	go h.run(f)
	return h
}

// advance replaces an offset that was not looked at yet; it never blocks.
func (h *hasher) advance(offset int64) {
	select {
	case <-h.offsets:
	default:
	}
	h.offsets <- offset
}

func (h *hasher) stop() {
	if !h.closed {
		h.closed = true
		close(h.offsets)
	}
}

// wait returns the digest.
func (h *hasher) wait() (string, error) {
	h.stop()
	if err := <-h.result; err != nil {
		return "", fmt.Errorf("cannot hash image: %w", err)
	}
	return hex.EncodeToString(h.sum), nil
}

func (h *hasher) run(f io.ReaderAt) {
	digest := sha256.New()
	buf := make([]byte, hashBuffer)
	pos := int64(0)
	var failed error
	for end := range h.offsets {
		for pos < end && failed == nil {
			n := min(int64(len(buf)), end-pos)
			if _, err := f.ReadAt(buf[:n], pos); err != nil {
				failed = err
			}
			digest.Write(buf[:n])
			pos += n
		}
	}
	h.sum = digest.Sum(nil)
	h.result <- failed
}
