package verify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"

	"github.com/skycover/sci-cd/pkg/iso"
)

// file is a regular file of the medium.
type file struct {
	name    string
	size    int64
	extents []iso.Extent
	sum     string
}

// span is a run of bytes of the image that one or more files are made of.
type span struct {
	from, to int64
	files    []*file
}

const (
	sector    = 2048
	chunkSize = 1 << 20
)

var errMissing = errors.New("is missing")

// bare takes the path out of an error, as the place is said already.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		if errors.Is(p.Err, fs.ErrNotExist) {
			return errMissing
		}
		return p.Err
	}
	return err
}

// digest reads the image from its start to its end and takes the digests of all
// files on the way, and the one of the whole. Files share bytes; files in
// several pieces, or that overlap, don't come from our writer and are read by
// themselves.
func (c *checker) digest(ctx context.Context) error {
	spans, apart := c.spans()
	p := &pass{files: sha256.New(), spans: spans, from: int64(c.img.First()) * sector}
	whole := newHasher()
	defer whole.stop()
	total := c.img.Size()
	for at := int64(0); at < total; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := make([]byte, min(chunkSize, total-at))
		if _, err := io.ReadFull(io.NewSectionReader(c.source, at, int64(len(b))), b); err != nil {
			return fmt.Errorf("cannot read image at byte %d: %w", at, err)
		}
		whole.add(b)
		p.add(at, b)
		at += int64(len(b))
		if c.options.Progress != nil {
			c.options.Progress(at, total)
		}
	}
	c.report.SHA256 = whole.sum()
	for _, f := range apart {
		if err := c.digestApart(ctx, f); err != nil {
			return err
		}
	}
	if p.dirty > 0 {
		c.problem("image", "%d bytes between the files are not zero, the first at byte %d", p.dirty, p.firstDirty)
	}
	return nil
}

// spans sorts the files by their place in the image.
func (c *checker) spans() (list []*span, apart []*file) {
	at := make(map[iso.Extent]*span)
	empty := hex.EncodeToString(sha256.New().Sum(nil))
	for _, name := range c.names {
		f := c.files[name]
		if f.size == 0 {
			f.sum = empty
			continue
		}
		if len(f.extents) != 1 {
			apart = append(apart, f)
			continue
		}
		s := at[f.extents[0]]
		if s == nil {
			from := int64(f.extents[0].LBA) * sector
			s = &span{from: from, to: from + f.extents[0].Size}
			at[f.extents[0]] = s
			list = append(list, s)
		}
		s.files = append(s.files, f)
	}
	slices.SortFunc(list, func(a, b *span) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	kept := list[:0]
	end := int64(0)
	for _, s := range list {
		if s.from < end || s.to > c.img.Size() {
			apart = append(apart, s.files...)
			continue
		}
		end = s.to
		kept = append(kept, s)
	}
	return kept, apart
}

func (c *checker) digestApart(ctx context.Context, f *file) error {
	r, err := c.medium.Open(f.name)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	h, b := sha256.New(), make([]byte, chunkSize)
	for {
		n, err := r.Read(b)
		h.Write(b[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return fmt.Errorf("cannot read image: %q: %w", f.name, err)
		}
	}
	f.sum = hex.EncodeToString(h.Sum(nil))
	return nil
}

// pass goes over the image once.
type pass struct {
	files      hash.Hash // of the span at hand
	spans      []*span   // not yet done
	from       int64     // before it are the writer's own structures
	dirty      int64     // bytes outside of all spans that are not zero
	firstDirty int64
}

// add takes the bytes at a place behind all before.
func (p *pass) add(at int64, b []byte) {
	for len(b) > 0 {
		if len(p.spans) == 0 {
			p.gap(at, b)
			return
		}
		s := p.spans[0]
		if at < s.from {
			n := min(int64(len(b)), s.from-at)
			p.gap(at, b[:n])
			at, b = at+n, b[n:]
			continue
		}
		n := min(int64(len(b)), s.to-at)
		p.files.Write(b[:n])
		at, b = at+n, b[n:]
		if at == s.to {
			sum := hex.EncodeToString(p.files.Sum(nil))
			for _, f := range s.files {
				f.sum = sum
			}
			p.files.Reset()
			p.spans = p.spans[1:]
		}
	}
}

func (p *pass) gap(at int64, b []byte) {
	for i, c := range b {
		if c != 0 && at+int64(i) >= p.from {
			if p.dirty == 0 {
				p.firstDirty = at + int64(i)
			}
			p.dirty++
		}
	}
}

// hasher takes a digest beside the other work.
type hasher struct {
	chunks chan []byte
	done   chan string
	ended  bool
}

func newHasher() *hasher {
	h := &hasher{chunks: make(chan []byte, 2), done: make(chan string, 1)}
	go func() {
		sum := sha256.New()
		for b := range h.chunks {
			sum.Write(b)
		}
		h.done <- hex.EncodeToString(sum.Sum(nil))
	}()
	return h
}

// add takes b; it must not be changed afterwards.
func (h *hasher) add(b []byte) { h.chunks <- b }

func (h *hasher) sum() string {
	h.stop()
	return <-h.done
}

// stop ends the hasher; it may be called again.
func (h *hasher) stop() {
	if !h.ended {
		h.ended = true
		close(h.chunks)
	}
}
