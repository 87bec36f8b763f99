package deb

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// maxWindow bounds the memory of a decompressor, in bytes. xz -9 and zstd -19
// take 64 MiB and 8 MiB, zstd --ultra -22 takes 128 MiB.
const maxWindow = 128 << 20

// decompress returns the plain bytes of r by the extension of a member's name.
func decompress(r io.Reader, ext string) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	switch ext {
	case ".tar":
		return io.NopCloser(br), nil
	case ".gz":
		return gzip.NewReader(br)
	case ".xz":
		if err := checkXZ(br); err != nil {
			return nil, err
		}
		x, err := xz.NewReader(br)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
	case ".zst":
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxData))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("compression %q is not known; gz, xz, zst and none are", ext)
}

// checkXZ looks at the first block's header, where the size of the dictionary
// stands: the reader allocates what it says, up to 4 GiB.
// (The .xz file format 1.2.1, sections 2.1.1, 3.1 and 5.3.1.)
func checkXZ(br *bufio.Reader) error {
	const streamHeader = 12
	h, err := br.Peek(streamHeader + 2)
	if err != nil {
		return fmt.Errorf("xz: %w", noEOF(err))
	}
	if h[streamHeader] == 0 {
		return nil // the index: a stream without blocks
	}
	size := (int(h[streamHeader]) + 1) * 4
	if h, err = br.Peek(streamHeader + size); err != nil {
		return fmt.Errorf("xz: %w", noEOF(err))
	}
	block := h[streamHeader:]
	flags, rest := block[1], block[2:size-4]
	for _, present := range []bool{flags&0x40 != 0, flags&0x80 != 0} { // the two sizes
		for present {
			if len(rest) == 0 {
				return errors.New("xz: block header is cut short")
			}
			present = rest[0]&0x80 != 0
			rest = rest[1:]
		}
	}
	// One filter, LZMA2 (id 21), with one byte of properties: all that the reader knows.
	if len(rest) < 3 || flags&0x3 != 0 || rest[0] != 0x21 || rest[1] != 1 {
		return errors.New("xz: filter other than LZMA2")
	}
	dict, err := lzma.DecodeDictCap(rest[2])
	if err != nil {
		return fmt.Errorf("xz: %w", err)
	}
	if dict > maxWindow {
		return fmt.Errorf("xz: dictionary of %d bytes is larger than %d", dict, maxWindow)
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
