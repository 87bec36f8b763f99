// Package verify examines a medium, offline: that every file is there, is the
// one that was built, and is named by a list that the site's key signed; that
// the repository holds together; that what boots is Debian's.
//
// Each byte of an image is under one of these checks:
//
//   - files by SHA256SUMS, that by its signature, and none may be extra;
//   - isolinux.bin and the first sector, into which the ISO writer puts
//     addresses, by digests in the manifest (which stands in SHA256SUMS) over
//     all but those addresses, and the addresses by where the files are;
//   - descriptors, path tables, directories by the disk id that is made of them;
//   - what belongs to no file must be zero.
//
// Somebody who changes a medium can put a key of his own on it and sign anew:
// only a key that comes from elsewhere shows that (Options.Key).
package verify

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// maxText bounds the lists on a medium that are read as a whole, in bytes.
const maxText = 64 << 20

// Options of Image.
type Options struct {
	// Key is what the site's signatures must be made with; the zero value
	// takes the key that is on the medium.
	Key pgp.Keyring
	// Fingerprint, in upper case hex, is what the key on the medium must have;
	// as good as Key.
	Fingerprint string
	// Debian are the keys of Debian's own archive, whose indexes may be on the
	// medium; the zero value takes those that are built in.
	Debian pgp.Keyring
	// Progress is told how many bytes of the image were read; nil is silence.
	Progress func(done, total int64)
}

// Report is what was found.
type Report struct {
	Size        int64  `json:"size"`   // bytes of the image
	SHA256      string `json:"sha256"` // of the whole image
	Files       int    `json:"files"`
	Packages    int    `json:"packages"`
	Fingerprint string `json:"keyFingerprint"` // of the key on the medium
	// Debian are the pockets whose indexes on the medium are signed by Debian and
	// name what stands beside them.
	Debian   []string  `json:"debian,omitempty"`
	Trusted  bool      `json:"trusted"` // the key came from elsewhere
	Problems []Problem `json:"problems"`
}

// Problem is something that is not as it should be.
type Problem struct {
	Place string `json:"place"` // a path on the medium, or "image"
	Text  string `json:"text"`
}

func (p Problem) String() string { return p.Place + ": " + p.Text }

// Image examines an image of size bytes. An error means that it could not be
// examined (it cannot be read, the work was interrupted); what is wrong with it
// is in the report.
func Image(ctx context.Context, r io.ReaderAt, size int64, o Options) (*Report, error) {
	c := &checker{options: o, source: r, told: make(map[string]bool), report: &Report{Problems: []Problem{}, Trusted: o.Key != (pgp.Keyring{}) || o.Fingerprint != ""}}
	img, err := iso.Open(r, size)
	if err != nil {
		c.problem("image", "%v", err)
		return c.report, nil
	}
	c.img, c.medium, c.report.Size = img, img.FS(), img.Size()
	if err := c.walk(); err != nil { // names, modes, where the bytes are
		return nil, err
	}
	if err := c.digest(ctx); err != nil { // reads the image, once
		return nil, err
	}
	c.key()        // the site's key
	c.sums()       // every file
	c.manifest()   // what the medium says of itself
	c.repository() // dists/ and pool/
	c.debian()     // debian/: the chain from Debian's keys
	c.boot()       // what no list of digests can hold
	return c.report, nil
}

// checker is one examination.
type checker struct {
	options Options
	source  io.ReaderAt
	img     *iso.Image
	medium  fs.FS
	report  *Report
	files   map[string]*file
	names   []string          // of files, sorted
	links   map[string]string // of symbolic links
	ring    pgp.Keyring
	about   *media.Manifest // nil if it cannot be read
	told    map[string]bool // name and wanted digest of what was compared
}

func (c *checker) problem(place, format string, args ...any) {
	c.report.Problems = append(c.report.Problems, Problem{place, fmt.Sprintf(format, args...)})
}

// walk notes all names of the medium. The ISO writer's inputs know two modes
// and one owner.
func (c *checker) walk() error {
	c.files, c.links = make(map[string]*file), make(map[string]string)
	return fs.WalkDir(c.medium, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if owner, ok := info.Sys().(iso.Owner); ok && (owner.UID != 0 || owner.GID != 0) {
			c.problem(name, "belongs to %d:%d, not to root", owner.UID, owner.GID)
		}
		bits := info.Mode() &^ fs.ModeType
		switch d.Type() {
		case fs.ModeDir:
			if bits != 0o755 {
				c.problem(name, "mode is %v, want %v", info.Mode(), fs.ModeDir|0o755)
			}
			return nil
		case fs.ModeSymlink:
			c.links[name], err = fs.ReadLink(c.medium, name)
			return err
		case 0:
			if name == media.InitrdPath { // the nodes' credentials are in it
				if bits != 0o600 {
					c.problem(name, "mode is %v, want %v", info.Mode(), fs.FileMode(0o600))
				}
			} else if bits != 0o644 && bits != 0o755 {
				c.problem(name, "mode is %v, want %v or %v", info.Mode(), fs.FileMode(0o644), fs.FileMode(0o755))
			}
		default:
			c.problem(name, "is no file, directory or link")
			return nil
		}
		extents, err := c.img.Extent(name)
		if err != nil {
			return err
		}
		c.files[name] = &file{name: name, size: info.Size(), extents: extents}
		c.names = append(c.names, name)
		return nil
	})
}

// key reads the site's key and decides which one to believe.
func (c *checker) key() {
	own, err := c.readKey()
	if err != nil {
		c.problem(media.KeyPath, "%v", err)
	}
	if prints := own.Fingerprints(); len(prints) == 1 {
		c.report.Fingerprint = prints[0]
	} else if err == nil {
		c.problem(media.KeyPath, "holds %d keys, want one", len(prints))
	}
	if c.ring = own; c.report.Trusted {
		given := []string{c.options.Fingerprint}
		if c.options.Fingerprint == "" {
			c.ring = c.options.Key
			given = c.ring.Fingerprints()
		}
		if c.report.Fingerprint != "" && !slices.Contains(given, c.report.Fingerprint) {
			c.problem(media.KeyPath, "is the key %s, not the given one, %s", c.report.Fingerprint, strings.Join(given, ", "))
		}
	}
}

func (c *checker) readKey() (pgp.Keyring, error) {
	f, err := c.medium.Open(media.KeyPath)
	if err != nil {
		return pgp.Keyring{}, bare(err)
	}
	defer func() { _ = f.Close() }()
	return pgp.ReadKeyring(f)
}

// sums compares every file with SHA256SUMS.
func (c *checker) sums() {
	text, err := c.read(media.SumsPath)
	if err != nil {
		c.problem(media.SumsPath, "%v", err)
		return
	}
	signature, err := c.read(media.SumsSigPath)
	if err != nil {
		c.problem(media.SumsSigPath, "%v", err)
	} else if _, err := c.ring.VerifyDetached(strings.NewReader(text), []byte(signature), time.Time{}); err != nil {
		c.problem(media.SumsPath, "%v", err)
	}
	listed := map[string]bool{media.SumsPath: true, media.SumsSigPath: true, media.Isolinux: true}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		want, name, ok := strings.Cut(line, "  ")
		if !ok || len(want) != 64 {
			c.problem(media.SumsPath, "line %d is not \"SHA-256, two spaces, path\"", i+1)
			continue
		}
		if listed[name] {
			c.problem(name, "stands twice in %s, or should not stand there", media.SumsPath)
		}
		listed[name] = true
		c.compare(name, want, media.SumsPath)
	}
	for _, name := range c.names {
		if !listed[name] {
			c.problem(name, "is not in %s", media.SumsPath)
		}
	}
	c.report.Files = len(c.names)
}

// compare says if a file is not the one that a list names. What one list has
// told is not told again because of another.
func (c *checker) compare(name, want, list string) {
	told := name + " " + want
	if c.told[told] {
		return
	}
	c.told[told] = true
	f := c.files[name]
	switch {
	case f == nil:
		c.problem(name, "is missing; %s names it", list)
	case f.sum != want:
		c.problem(name, "has SHA-256 %.16s…, %s says %.16s…", f.sum, list, want)
	}
}

// manifest compares what the medium says of itself with what it holds; its
// packages are compared with the repository.
func (c *checker) manifest() {
	m, err := media.ReadManifest(c.medium)
	if err != nil {
		c.problem(media.ManifestPath, "%v", bare(err))
		return
	}
	c.about = m
	if c.report.Fingerprint != "" && m.Fingerprint != c.report.Fingerprint {
		c.problem(media.ManifestPath, "names the key %s, on the medium is %s", m.Fingerprint, c.report.Fingerprint)
	}
	for _, name := range sorted(m.Links) {
		if got, ok := c.links[name]; !ok {
			c.problem(name, "is missing: a link to %q", m.Links[name])
		} else if got != m.Links[name] {
			c.problem(name, "is a link to %q, %s says %q", got, media.ManifestPath, m.Links[name])
		}
	}
	for _, name := range sorted(c.links) {
		if _, ok := m.Links[name]; !ok {
			c.problem(name, "is a link that %s does not name", media.ManifestPath)
		}
	}
}

// read returns a file as text.
func (c *checker) read(name string) (string, error) {
	f := c.files[name]
	switch {
	case f == nil:
		return "", errMissing
	case f.size > maxText:
		return "", fmt.Errorf("has %d bytes, more than expected", f.size)
	}
	data, err := fs.ReadFile(c.medium, name)
	return string(data), bare(err)
}

func sorted[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
