package media

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
)

// ManifestFormat is the version of the manifest that this package writes and
// reads.
const ManifestFormat = 1

// maxManifest bounds the manifest, in bytes: a package takes some 400.
const maxManifest = 64 << 20

// ReadManifest reads the manifest of a medium.
func ReadManifest(medium fs.FS) (*Manifest, error) {
	f, err := medium.Open(ManifestPath)
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("cannot read manifest: more than %d bytes", maxManifest)
	}
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	if m.Format != ManifestFormat {
		return nil, fmt.Errorf("cannot read manifest: format %d is not known, only %d is", m.Format, ManifestFormat)
	}
	return &m, nil
}
