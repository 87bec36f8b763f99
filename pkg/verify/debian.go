package verify

import (
	"io"
	"path"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// maxDebian bounds one of Debian's lists of packages, unpacked. trixie's has
// 57 MB.
const maxDebian = 1 << 30

// debian follows the chain in Debian's own indexes, where they are on the
// medium: InRelease by Debian's keys, the indexes by their digests, the packages
// by theirs; and that nothing else stands there.
func (c *checker) debian() {
	if c.about == nil {
		return
	}
	ring := c.options.Debian
	if ring == (pgp.Keyring{}) {
		var err error
		if ring, err = pgp.Debian(); err != nil {
			c.problem(media.DebianDir, "%v", err)
			return
		}
	}
	known := make(map[string]bool)
	for _, line := range c.about.Debian {
		if name, ok := media.Repository(c.about.Codename, line.Pocket); !ok || name != line.Repository {
			c.problem(media.ManifestPath, "names the pocket %q in %q", line.Pocket, line.Repository)
			continue
		}
		c.debianPocket(ring, line, known)
	}
	for _, name := range c.names {
		if strings.HasPrefix(name, media.DebianDir+"/") && !known[name] {
			c.problem(name, "is not named by Debian's signed indexes")
		}
	}
}

func (c *checker) debianPocket(ring pgp.Keyring, line media.DebianLine, known map[string]bool) {
	base := path.Join(media.DebianDir, line.Repository)
	dir := path.Join(base, "dists", line.Pocket)
	name := path.Join(dir, "InRelease")
	known[name] = true
	release, ok := c.debianRelease(ring, name)
	if !ok {
		c.unexamined(base, known)
		return
	}
	if got := release.Get("Codename"); got != line.Pocket {
		c.problem(name, "is for the codename %q, want %q", got, line.Pocket)
	}
	if got := release.Get("Date"); got != line.Date.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC") {
		c.problem(name, "is of %s, %s says %s", got, media.ManifestPath, line.Date.UTC().Format(time.RFC3339))
	}
	sums, err := deb.ReleaseSums(release.Get("SHA256"))
	if err != nil {
		c.problem(name, "%v", err)
		return
	}
	indexes := 1
	for _, index := range sorted(sums) {
		file := path.Join(dir, index)
		if c.files[file] == nil {
			continue // Debian has many more than apt asks for here
		}
		indexes++
		c.debianIndex(dir, index, sums[index], known)
		if kind, _, _ := strings.Cut(path.Base(file), "."); kind == "Packages" {
			c.debianPackages(base, file, known)
		}
	}
	if indexes != line.Indexes {
		c.problem(dir, "holds %d of the files that InRelease names and itself, %s says %d", indexes, media.ManifestPath, line.Indexes)
	}
	c.report.Debian = append(c.report.Debian, line.Pocket)
}

// unexamined says once that a repository cannot be judged, instead of naming
// each of its files.
func (c *checker) unexamined(base string, known map[string]bool) {
	for _, name := range c.names {
		if strings.HasPrefix(name, base+"/") {
			known[name] = true
		}
	}
	c.problem(base, "not examined")
}

// debianRelease verifies an InRelease as of its own time.
func (c *checker) debianRelease(ring pgp.Keyring, name string) (deb.Control, bool) {
	signed, err := c.read(name)
	if err != nil {
		c.problem(name, "%v", err)
		return nil, false
	}
	body, _, err := ring.VerifyClearsigned([]byte(signed), time.Time{})
	if err != nil {
		c.problem(name, "%v", err)
		return nil, false
	}
	release, err := deb.ParseControl(body)
	if err != nil {
		c.problem(name, "%v", err)
		return nil, false
	}
	return release, true
}

// debianIndex compares an index, by both of its names.
func (c *checker) debianIndex(dir, index string, want deb.Sum, known map[string]bool) {
	for _, name := range []string{path.Join(dir, index), path.Join(dir, path.Dir(index), "by-hash/SHA256", want.SHA256)} {
		if c.files[name] == nil {
			continue
		}
		known[name] = true
		c.compare(name, want.SHA256, "Debian's InRelease")
		if got := c.files[name].size; got != want.Size {
			c.problem(name, "has %d bytes, Debian's InRelease says %d", got, want.Size)
		}
	}
}

// debianPackages compares those packages of an index that are on the medium.
func (c *checker) debianPackages(base, index string, known map[string]bool) {
	f, err := c.medium.Open(index)
	if err != nil {
		c.problem(index, "%v", bare(err))
		return
	}
	defer func() { _ = f.Close() }()
	in, err := unpacked(f, path.Ext(index))
	if err == nil {
		err = deb.ScanPackages(io.LimitReader(in, maxDebian), func(p *deb.Package) error {
			name := path.Join(base, p.Filename)
			if c.files[name] == nil || !strings.HasPrefix(name, base+"/") {
				return nil
			}
			known[name] = true
			c.compare(name, p.SHA256, index)
			return nil
		})
	}
	if err != nil {
		c.problem(index, "%v", err)
	}
}

func unpacked(r io.Reader, ext string) (io.Reader, error) {
	switch ext {
	case ".xz":
		return xz.ReaderConfig{DictCap: 64 << 20}.NewReader(r)
	case ".gz":
		return gzip.NewReader(r)
	}
	return r, nil
}
