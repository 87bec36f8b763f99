package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// MakeOptions are the inputs of Make.
type MakeOptions struct {
	Disk     *os.File // the output disk
	DiskSize int64
	// Manifest says what cannot be read off the disk: class, codename,
	// architecture, inputs, time.
	Manifest Manifest
	Key      *pgp.Key
	Dir      string // of the image, made
}

// Make makes an image of an output disk: it checks, compresses and signs. The
// directory appears when all is done.
func Make(ctx context.Context, o MakeOptions) (*Manifest, error) {
	head, err := ReadDisk(o.Disk, o.DiskSize)
	if err != nil {
		return nil, err
	}
	m := o.Manifest
	if head.Class != m.Class {
		return nil, fmt.Errorf("cannot make image: the disk holds class %q, not %q", head.Class, m.Class)
	}
	m.Format, m.Kernel, m.Packages = Format, head.Kernel, head.Packages
	for _, l := range head.Layers {
		if err := Check(io.NewSectionReader(o.Disk, l.Offset, l.Size), head.Traces); err != nil {
			return nil, hint.New(fmt.Errorf("cannot make image: layer %s is not free of the machine that it was made on:\n%w", l.Name, err),
				"a package or a script of the role made this; install the role with install: packages, or say so to the authors")
		}
	}
	if err := os.MkdirAll(filepath.Dir(o.Dir), 0o755); err != nil {
		return nil, fmt.Errorf("cannot make image: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(o.Dir), "."+filepath.Base(o.Dir)+".*")
	if err != nil {
		return nil, fmt.Errorf("cannot make image: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, l := range head.Layers {
		layer, err := compress(ctx, o.Disk, l, tmp)
		if err != nil {
			return nil, fmt.Errorf("cannot make image: %w", err)
		}
		m.Layers = append(m.Layers, *layer)
	}
	data, err := m.Bytes()
	if err != nil {
		return nil, fmt.Errorf("cannot make image: %w", err)
	}
	if _, err := Parse(data); err != nil {
		return nil, fmt.Errorf("cannot make image: %w", err)
	}
	signature, err := o.Key.DetachSign(bytes.NewReader(data), m.Time, true)
	if err != nil {
		return nil, fmt.Errorf("cannot sign image: %w", err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(tmp, ManifestFile), data, 0o644),
		os.WriteFile(filepath.Join(tmp, SignatureFile), signature, 0o644),
		os.Chmod(tmp, 0o755))
	if err != nil {
		return nil, fmt.Errorf("cannot make image: %w", err)
	}
	return &m, replace(tmp, o.Dir)
}

// replace puts a directory in the place of another one.
func replace(from, to string) error {
	old := from + ".old"
	if err := os.Rename(to, old); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot make image: %w", err)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("cannot make image: %w", err)
	}
	return os.RemoveAll(old)
}

// compress writes a layer's file.
func compress(ctx context.Context, disk io.ReaderAt, l DiskLayer, dir string) (*Layer, error) {
	out := &Layer{Name: l.Name, Unpacked: l.Size, Removed: l.Removed}
	f, err := os.Create(filepath.Join(dir, out.File()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	count := &countWriter{w: io.MultiWriter(f, h)}
	z, err := Compress(count)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(z, &reader{ctx, io.NewSectionReader(disk, l.Offset, l.Size)}); err != nil {
		return nil, err
	}
	if err := errors.Join(z.Close(), f.Sync()); err != nil {
		return nil, err
	}
	out.Size, out.SHA256 = count.n, hex.EncodeToString(h.Sum(nil))
	return out, nil
}
