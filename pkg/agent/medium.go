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
	"slices"
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
	maxSums       = 16 << 20  // bytes of SHA256SUMS
	maxInitrd     = 1 << 30   // bytes of the initrd, packed
	maxOurs       = 256 << 20 // bytes of what is ours in it, packed
	maxInitrdFile = 4 << 20   // bytes of a file of it that is wanted
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

// ourFiles reads some files out of the parts of the initrd that are ours: Debian's
// own, in gzip, comes first, and behind it, in zstd, the archives that pkg/build
// adds. It reads to the end.
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
	ours, err := io.ReadAll(io.LimitReader(b, maxOurs+1))
	if err != nil {
		return nil, err
	}
	if len(ours) > maxOurs {
		return nil, fmt.Errorf("more than %d bytes of it are ours", maxOurs)
	}
	files := make(map[string][]byte)
	for ours = padded(ours); len(ours) > 0; ours = padded(ours) {
		n, err := frameLen(ours)
		if err == nil {
			err = archiveFiles(ours[:n], files, names)
		}
		if err != nil {
			return nil, err
		}
		ours = ours[n:]
	}
	if files[mediumSite] == nil {
		return nil, fmt.Errorf("it holds no %s", mediumSite)
	}
	return files, nil
}

// padded is what comes behind the padding.
func padded(b []byte) []byte { return bytes.TrimLeft(b, "\x00") }

// frameLen is the length of the zstd frame at the begin of b: RFC 8878, 3.1.1.
func frameLen(b []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return 0, err
	}
	if h.Skippable {
		return 0, errors.New("a zstd frame without an archive")
	}
	n := h.HeaderSize
	for last := false; !last; {
		if len(b)-n < 3 {
			return 0, io.ErrUnexpectedEOF
		}
		head := int(b[n]) | int(b[n+1])<<8 | int(b[n+2])<<16
		size := head >> 3
		if head>>1&3 == 1 { // a byte that is repeated
			size = 1
		}
		n += 3 + size
		last = head&1 != 0
	}
	if h.HasCheckSum {
		n += 4
	}
	if n > len(b) {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

// archiveFiles reads files out of a packed archive. Of the same file in two
// archives the later counts, as it does for the kernel.
func archiveFiles(frame []byte, files map[string][]byte, names []string) error {
	d, err := zstd.NewReader(bytes.NewReader(frame), zstd.WithDecoderMaxMemory(maxInitrd), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer d.Close()
	archive := cpio.NewReader(io.LimitReader(d, maxInitrd))
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !slices.Contains(names, h.Name) {
			continue
		}
		if h.Size > maxInitrdFile {
			return fmt.Errorf("%s has %d bytes", h.Name, h.Size)
		}
		if files[h.Name], err = io.ReadAll(archive); err != nil {
			return err
		}
	}
}
