package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// openImage opens an ISO, or a disk with one on it, and says how long it is.
func openImage(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot open image: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = errors.New("it is a directory")
	}
	var size int64
	if err == nil {
		size, err = f.Seek(0, io.SeekEnd) // Stat knows no size of a disk
	}
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("cannot open image %q: %w", path, err), f.Close())
	}
	return f, size, nil
}
