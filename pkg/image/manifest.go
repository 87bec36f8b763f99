package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// Format is the version of the manifest.
const Format = 1

// Files of an image.
const (
	ManifestFile  = "image.json"
	SignatureFile = "image.json.asc"
)

// Names of layers.
const (
	Base = "base"
	BIOS = "bios"
	UEFI = "uefi"
)

// maxManifest bounds image.json, in bytes.
const maxManifest = 4 << 20

// Manifest says what an image is.
type Manifest struct {
	Format   int    `json:"format"`
	Class    string `json:"class"`
	Codename string `json:"codename"`
	Arch     string `json:"arch"`
	Kernel   string `json:"kernel"`
	// Inputs is a digest of everything that the image was made from: a build
	// whose inputs are others refuses it.
	Inputs   string    `json:"inputs"`
	Time     time.Time `json:"time"`
	Packages []Package `json:"packages"`
	Layers   []Layer   `json:"layers"`
}

// Package is an installed package.
type Package struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
}

// Layer is one archive of an image.
type Layer struct {
	Name     string   `json:"name"`
	Size     int64    `json:"size"`     // of the file, bytes
	SHA256   string   `json:"sha256"`   // of the file
	Unpacked int64    `json:"unpacked"` // bytes of the tar
	Removed  []string `json:"removed,omitempty"`
}

// File is the layer's file name.
func (l Layer) File() string { return l.Name + ".tar.zst" }

// Layer returns the layer of a name.
func (m *Manifest) Layer(name string) (Layer, bool) {
	i := slices.IndexFunc(m.Layers, func(l Layer) bool { return l.Name == name })
	if i < 0 {
		return Layer{}, false
	}
	return m.Layers[i], true
}

// Bytes is the manifest as it is signed.
func (m *Manifest) Bytes() ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ")
	return append(data, '\n'), err
}

// Parse reads a manifest and checks its form.
func Parse(data []byte) (*Manifest, error) {
	if len(data) > maxManifest {
		return nil, fmt.Errorf("larger than %d MiB", maxManifest>>20)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, err
	}
	if m.Format != Format {
		return nil, fmt.Errorf("format %d is not known to this program, which reads %d", m.Format, Format)
	}
	seen := make(map[string]bool)
	for _, l := range m.Layers {
		sum, err := hex.DecodeString(l.SHA256)
		switch {
		case l.Name != Base && l.Name != BIOS && l.Name != UEFI || seen[l.Name]:
			return nil, fmt.Errorf("layer %q is unknown or there twice", l.Name)
		case err != nil || len(sum) != sha256.Size || l.Size <= 0 || l.Unpacked < 0:
			return nil, fmt.Errorf("layer %q has no digest or no size", l.Name)
		}
		seen[l.Name] = true
		for _, name := range l.Removed {
			if !validName(name) {
				return nil, fmt.Errorf("layer %q removes %q, which is no path", l.Name, name)
			}
		}
	}
	if !seen[Base] {
		return nil, errors.New("there is no layer base")
	}
	return &m, nil
}

// Open reads the manifest of the image in a directory and believes it by the
// site key's signature.
func Open(dir string, keys pgp.Keyring) (*Manifest, error) {
	data, err := readBounded(filepath.Join(dir, ManifestFile), maxManifest)
	if err != nil {
		return nil, fmt.Errorf("cannot read image: %w", err)
	}
	signature, err := readBounded(filepath.Join(dir, SignatureFile), 64<<10)
	if err != nil {
		return nil, fmt.Errorf("cannot read image: %w", err)
	}
	// The machine's clock may be anywhere: the signature's own time counts.
	if _, err := keys.VerifyDetached(bytes.NewReader(data), signature, time.Time{}); err != nil {
		return nil, fmt.Errorf("cannot trust image %s: %w", filepath.Join(dir, ManifestFile), err)
	}
	m, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read image %s: %w", filepath.Join(dir, ManifestFile), err)
	}
	return m, nil
}

// Verify compares the file of a layer with its digest.
func (l Layer) Verify(ctx context.Context, dir string) error {
	name := filepath.Join(dir, l.File())
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot read image: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, &reader{ctx, io.LimitReader(f, l.Size+1)})
	if err != nil {
		return fmt.Errorf("cannot read image %s: %w", name, err)
	}
	if n != l.Size || hex.EncodeToString(h.Sum(nil)) != l.SHA256 {
		return hint.New(fmt.Errorf("cannot trust image %s: its content is not what %s says", name, ManifestFile),
			"the medium is damaged: write it anew and compare its SHA-256")
	}
	return nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// readBounded reads a file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, err
}

// validName reports whether a path of an image is clean, relative and stays
// inside.
func validName(name string) bool {
	return name != "" && name != "." && filepath.IsLocal(name) && filepath.Clean(name) == name && !strings.ContainsRune(name, 0)
}
