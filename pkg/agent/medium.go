package agent

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/site"
)

const (
	mediumInitrd  = "install/initrd.gz"
	maxSums       = 16 << 20 // bytes of SHA256SUMS
	maxInitrd     = 1 << 30  // bytes of the initrd, packed
	maxInitrdFile = 4 << 20  // bytes of a file of it that is wanted
	mediumSite    = "sci/site.json"
)

// medium is what an installation medium knows of the site.
type medium struct {
	site       *site.Site
	siteJSON   []byte
	credential *enrol.Credential // this machine's; nil if it has none there
}

// readMedium reads a medium: an ISO file, or "" for the copy that every machine
// has. It is believed by the site's signature alone.
func (n *Node) readMedium(ctx context.Context, file string) (*medium, error) {
	dir := "/" + mediumDir
	if file != "" {
		var err error
		if dir, err = os.MkdirTemp(n.path("run"), "sci-medium-"); err != nil {
			return nil, err
		}
		defer func() { _ = os.Remove(dir) }()
		if err := n.command(ctx, "mount", "-o", "ro,loop", "-t", "iso9660", file, dir); err != nil {
			return nil, hint.New(fmt.Errorf("cannot read the medium: %w", err), "name an ISO that sci-cd build made")
		}
		defer func() { _ = n.command(context.WithoutCancel(ctx), "umount", dir) }()
		dir = strings.TrimPrefix(dir, filepath.Clean(n.Root))
	}
	m, err := n.mediumAt(n.path(dir))
	if err != nil {
		return nil, fmt.Errorf("cannot believe the medium: %w", err)
	}
	return m, nil
}

func (n *Node) mediumAt(dir string) (*medium, error) {
	ring, err := pgp.LoadPublic(n.path(mediumKeyring))
	if err != nil {
		return nil, err
	}
	sums, err := readBounded(filepath.Join(dir, "SHA256SUMS"), maxSums)
	if err != nil {
		return nil, err
	}
	signature, err := readBounded(filepath.Join(dir, "SHA256SUMS.asc"), 64<<10)
	if err != nil {
		return nil, err
	}
	// The machine's clock may be anywhere: the signature's own time counts.
	if _, err := ring.VerifyDetached(bytes.NewReader(sums), signature, time.Time{}); err != nil {
		return nil, err
	}
	want, ok := sumOf(sums, mediumInitrd)
	if !ok {
		return nil, fmt.Errorf("SHA256SUMS does not name %s", mediumInitrd)
	}
	f, err := os.Open(filepath.Join(dir, mediumInitrd))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	own := path.Join(enrol.MediumDir, n.Host.Name+".json")
	h := sha256.New()
	files, err := ourFiles(io.TeeReader(io.LimitReader(f, maxInitrd), h), mediumSite, own)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mediumInitrd, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return nil, fmt.Errorf("%s has the digest %s, and the signed list says %s", mediumInitrd, got, want)
	}
	m := &medium{siteJSON: files[mediumSite]}
	if m.site, err = site.FromJSON(m.siteJSON); err != nil {
		return nil, err
	}
	if data, ok := files[own]; ok {
		c, err := enrol.ParseCredential(data)
		if err != nil {
			return nil, err
		}
		m.credential = &c
	}
	return m, nil
}

// sumOf is the digest of a file in a list as sha256sum writes it.
func sumOf(sums []byte, name string) (string, bool) {
	for l := range bytes.Lines(sums) {
		sum, file, ok := strings.Cut(strings.TrimRight(string(l), "\n"), "  ")
		if ok && strings.TrimPrefix(file, "./") == name {
			return sum, true
		}
	}
	return "", false
}

// ourFiles reads some files out of the part of the initrd that is ours: Debian's
// own, in gzip, comes first, and behind it, in zstd, what pkg/initrd adds. It
// reads to the end.
func ourFiles(r io.Reader, names ...string) (map[string][]byte, error) {
	b := bufio.NewReader(r)
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	if _, err := io.Copy(io.Discard, io.LimitReader(z, maxInitrd)); err != nil { //nolint:gosec // bounded, and signed
		return nil, err
	}
	for { // padding
		c, err := b.Peek(1)
		if err != nil {
			return nil, fmt.Errorf("nothing of ours is in it: %w", err)
		}
		if c[0] != 0 {
			break
		}
		_, _ = b.Discard(1)
	}
	d, err := zstd.NewReader(b, zstd.WithDecoderMaxMemory(maxInitrd), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	files := make(map[string][]byte)
	archive := cpio.NewReader(io.LimitReader(d, maxInitrd))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if h.Name != name {
				continue
			}
			if h.Size > maxInitrdFile {
				return nil, fmt.Errorf("%s has %d bytes", name, h.Size)
			}
			if files[name], err = io.ReadAll(archive); err != nil {
				return nil, err
			}
		}
	}
	if files[mediumSite] == nil {
		return nil, fmt.Errorf("it holds no %s", mediumSite)
	}
	_, err = io.Copy(io.Discard, b) // for the digest
	return files, err
}
