package installtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/skycover/sci-cd/pkg/iso"
)

// FlipBit copies an image and changes one bit in the middle of one file of it,
// and nothing else. The file is named by its path in the image or by a pattern
// of path.Match that fits one file. It returns the file's path.
func FlipBit(image, pattern, out string) (string, error) {
	name, at, err := middle(image, pattern)
	if err != nil {
		return "", fmt.Errorf("cannot flip a bit of %q: %w", pattern, err)
	}
	if err := copyImage(image, out); err != nil {
		return "", fmt.Errorf("cannot flip a bit of %q: %w", pattern, err)
	}
	if err := flipAt(out, at); err != nil {
		os.Remove(out)
		return "", fmt.Errorf("cannot flip a bit of %q: %w", pattern, err)
	}
	return name, nil
}

// middle finds the offset in the image of the middle byte of a file.
func middle(image, pattern string) (name string, at int64, err error) {
	f, err := os.Open(image)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	img, err := iso.Open(f, info.Size())
	if err != nil {
		return "", 0, err
	}
	names, err := fs.Glob(img.FS(), pattern)
	switch {
	case err != nil:
		return "", 0, err
	case len(names) == 0:
		return "", 0, errors.New("the image has no such file")
	case len(names) > 1:
		return "", 0, fmt.Errorf("the image has several: %q", names)
	}
	extents, err := img.Extent(names[0])
	if err != nil {
		return "", 0, err
	}
	size := int64(0)
	for _, e := range extents {
		size += e.Size
	}
	if size == 0 {
		return "", 0, errors.New("the file is empty")
	}
	left := size / 2
	for _, e := range extents {
		if left < e.Size {
			const sector = 2048 // ECMA-119, 6.1.1
			return names[0], int64(e.LBA)*sector + left, nil
		}
		left -= e.Size
	}
	return "", 0, errors.New("the file has no middle")
}

// copyImage copies in the kernel where it can.
func copyImage(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(to)
	}
	return err
}

func flipAt(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err = f.ReadAt(b[:], at); err == nil {
		b[0] ^= 1
		_, err = f.WriteAt(b[:], at)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
