package image

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// The disks of the virtual machine that makes an image, by their serial
// numbers: the one that is installed on, and the one that the image is written
// to. No other disk is touched in that mode.
const (
	SystemDisk = "SCI-CAPTURE"
	OutputDisk = "SCI-IMAGE"
)

const (
	// diskMagic begins the output disk when everything is on it.
	diskMagic = "SCI-CD image 1\n"
	// diskStart is where the first tar begins; before it is the header.
	diskStart = 4 << 20
	diskAlign = 1 << 20
)

// DiskHead is what stands at the beginning of the output disk, as JSON behind
// diskMagic, ended by a zero byte.
type DiskHead struct {
	Class    string      `json:"class"`
	Kernel   string      `json:"kernel"`
	Packages []Package   `json:"packages"`
	Layers   []DiskLayer `json:"layers"`
	// Traces are what the machine was called and identified by: none of them
	// may be found in the layers.
	Traces []string `json:"traces"`
}

// DiskLayer is a plain tar on the output disk.
type DiskLayer struct {
	Name    string   `json:"name"`
	Offset  int64    `json:"offset"`
	Size    int64    `json:"size"`
	Removed []string `json:"removed,omitempty"`
}

// DiskWriter writes layers to the output disk, uncompressed: outside of the
// virtual machine compressing takes a tenth of the time.
type DiskWriter struct {
	f      *os.File
	at     int64
	layers []DiskLayer
}

// NewDiskWriter begins with an invalid header, so that a disk that was not
// finished cannot be taken for an image.
func NewDiskWriter(f *os.File) (*DiskWriter, error) {
	if _, err := f.WriteAt(make([]byte, len(diskMagic)), 0); err != nil {
		return nil, fmt.Errorf("cannot write image: %w", err)
	}
	return &DiskWriter{f: f, at: diskStart}, nil
}

// Layer writes a layer.
func (d *DiskWriter) Layer(name string, removed []string, pack func(io.Writer) error) error {
	w := io.NewOffsetWriter(d.f, d.at)
	b := bufio.NewWriterSize(w, 1<<20)
	count := &countWriter{w: b}
	err := pack(count)
	if err == nil {
		err = b.Flush()
	}
	if err != nil {
		return fmt.Errorf("cannot write image: layer %s: %w", name, err)
	}
	d.layers = append(d.layers, DiskLayer{name, d.at, count.n, removed})
	d.at += (count.n + diskAlign - 1) / diskAlign * diskAlign
	return nil
}

// Reader reads a layer that was written.
func (d *DiskWriter) Reader(name string) (io.Reader, error) {
	for _, l := range d.layers {
		if l.Name == name {
			return io.NewSectionReader(d.f, l.Offset, l.Size), nil
		}
	}
	return nil, fmt.Errorf("cannot read image: no layer %s was written", name)
}

// Commit writes the header: from here on it is an image.
func (d *DiskWriter) Commit(head DiskHead) error {
	head.Layers = d.layers
	data, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("cannot write image: %w", err)
	}
	if len(diskMagic)+len(data)+1 > diskStart {
		return errors.New("cannot write image: its header is too long")
	}
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("cannot write image: %w", err)
	}
	text := append([]byte(diskMagic), data...)
	if _, err := d.f.WriteAt(append(text, 0), 0); err != nil {
		return fmt.Errorf("cannot write image: %w", err)
	}
	return d.f.Sync()
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// ReadDisk reads the header of an output disk of size bytes.
func ReadDisk(r io.ReaderAt, size int64) (*DiskHead, error) {
	text := make([]byte, diskStart)
	n, err := r.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read image: %w", err)
	}
	data, ok := bytes.CutPrefix(text[:n], []byte(diskMagic))
	if !ok {
		return nil, errors.New("cannot read image: the virtual machine wrote none")
	}
	data, _, _ = bytes.Cut(data, []byte{0})
	var head DiskHead
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("cannot read image: its header: %w", err)
	}
	for _, l := range head.Layers {
		if l.Offset < diskStart || l.Size < 0 || l.Offset > size || l.Size > size-l.Offset {
			return nil, fmt.Errorf("cannot read image: layer %q lies outside of the disk", l.Name)
		}
		if l.Name != Base && l.Name != BIOS && l.Name != UEFI {
			return nil, fmt.Errorf("cannot read image: unknown layer %q", l.Name)
		}
	}
	return &head, nil
}
