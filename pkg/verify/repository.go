package verify

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/media"
)

// repository follows the chain that apt follows: InRelease, the indexes by
// their digests, the packages by theirs; and that no package is there which no
// index names.
func (c *checker) repository() {
	if c.about == nil {
		return
	}
	dir := path.Join("dists", c.about.Codename)
	release, ok := c.release(dir)
	if !ok {
		return
	}
	indexed := make(map[string]bool)
	for _, name := range c.indexes(dir, release) {
		c.packages(name, indexed)
	}
	for _, name := range c.names {
		if strings.HasPrefix(name, "pool/") && !indexed[name] {
			c.problem(name, "is in no index of the repository")
		}
	}
	c.report.Packages = len(indexed)
	c.manifestPackages(indexed)
}

// release verifies both forms of the signed Release file.
func (c *checker) release(dir string) (deb.Control, bool) {
	name := path.Join(dir, "InRelease")
	signed, err := c.read(name)
	if err != nil {
		c.problem(name, "%v", err)
		return nil, false
	}
	body, _, err := c.ring.VerifyClearsigned([]byte(signed), time.Time{})
	if err != nil {
		c.problem(name, "%v", err)
		return nil, false
	}
	control, err := deb.ParseControl(body)
	if err != nil {
		c.problem(name, "%v", err)
		return nil, false
	}
	plain, err := c.read(path.Join(dir, "Release"))
	if err == nil && strings.TrimRight(plain, "\n") != strings.TrimRight(string(body), "\n") {
		c.problem(path.Join(dir, "Release"), "is not what InRelease says")
	}
	signature, sigErr := c.read(path.Join(dir, "Release.gpg"))
	if err == nil && sigErr == nil {
		if _, err := c.ring.VerifyDetached(strings.NewReader(plain), []byte(signature), time.Time{}); err != nil {
			c.problem(path.Join(dir, "Release"), "%v", err)
		}
	}
	return control, true
}

// indexes compares the files below dists/ with the Release file and returns the
// lists of packages.
func (c *checker) indexes(dir string, release deb.Control) []string {
	listed := map[string]bool{
		path.Join(dir, "InRelease"): true, path.Join(dir, "Release"): true, path.Join(dir, "Release.gpg"): true,
	}
	var lists []string
	for _, line := range strings.Split(release.Get("SHA256"), "\n") {
		words := strings.Fields(line)
		if len(words) != 3 {
			continue
		}
		name := path.Join(dir, words[2])
		listed[name] = true
		c.compare(name, words[0], "Release")
		f := c.files[name]
		if f == nil {
			continue
		}
		if words[1] != strconv.FormatInt(f.size, 10) {
			c.problem(name, "has %d bytes, Release says %s", f.size, words[1])
		}
		if path.Base(name) == "Packages" {
			lists = append(lists, name)
			c.packed(name)
		}
	}
	if len(lists) == 0 {
		c.problem(dir, "Release names no list of packages")
	}
	for _, name := range c.names {
		if strings.HasPrefix(name, "dists/") && !listed[name] {
			c.problem(name, "is not named by Release")
		}
	}
	return lists
}

// packed checks that the compressed form of an index is the same list.
func (c *checker) packed(index string) {
	name := index + ".gz"
	if c.files[name] == nil {
		return
	}
	f, err := c.medium.Open(name)
	if err != nil {
		c.problem(name, "%v", bare(err))
		return
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	z, err := gzip.NewReader(bufio.NewReader(f))
	if err == nil {
		_, err = io.Copy(h, io.LimitReader(z, maxText))
	}
	switch {
	case err != nil:
		c.problem(name, "%v", err)
	case hex.EncodeToString(h.Sum(nil)) != c.files[index].sum:
		c.problem(name, "is not %s compressed", path.Base(index))
	}
}

// packages compares the packages of an index with the files in the pool.
func (c *checker) packages(index string, indexed map[string]bool) {
	f, err := c.medium.Open(index)
	if err != nil {
		c.problem(index, "%v", bare(err))
		return
	}
	defer func() { _ = f.Close() }()
	err = deb.ScanPackages(f, func(p *deb.Package) error {
		indexed[p.Filename] = true
		c.compare(p.Filename, p.SHA256, index)
		if f := c.files[p.Filename]; f != nil && f.size != p.Size {
			c.problem(p.Filename, "has %d bytes, %s says %d", f.size, index, p.Size)
		}
		return nil
	})
	if err != nil {
		c.problem(index, "%v", err)
	}
}

// manifestPackages compares the manifest's list with the repository's.
func (c *checker) manifestPackages(indexed map[string]bool) {
	listed := make(map[string]bool)
	for _, p := range c.about.Packages {
		listed[p.Path] = true
		c.compare(p.Path, p.SHA256, media.ManifestPath)
	}
	var extra []string
	for name := range indexed {
		if !listed[name] {
			extra = append(extra, name)
		}
	}
	slices.Sort(extra)
	for _, name := range extra {
		c.problem(name, "is not in %s", media.ManifestPath)
	}
}
