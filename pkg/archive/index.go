package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
)

// maxIndex bounds an index in bytes, compressed or not. trixie's main has 57 MB.
const maxIndex = 1 << 30

// reader opens an archive.
type reader struct {
	o Options
	f *Fetcher
}

// contents is what a pocket holds.
type contents struct {
	releases []Release // one, or two as in withOlderUdebs
	packages []Package
	notes    []string
}

// index is one Packages file.
type index struct {
	component string
	kind      Kind
	path      string // below the pocket, without a compression's suffix
}

// changes is how often a pocket is read anew when the mirror turns out to have
// changed between the Release file and an index.
const changes = 2

// readPocket reads one pocket's Release file and all its indexes.
func (r *reader) readPocket(ctx context.Context, p pocket) (contents, error) {
	for try := 0; ; try++ {
		c, err := r.readPocketOnce(ctx, p)
		if err == nil || !r.o.Offline && !lookChanged(err) {
			return c, err
		}
		if r.o.Offline || try == changes {
			return r.withOlderUdebs(ctx, p, err)
		}
		if err := sleep(ctx, min(r.o.Backoff<<try, maxPause)); err != nil {
			return c, err
		}
	}
}

// withOlderUdebs reads a pocket whose debs are what its Release file names, and
// whose udebs are not: partial mirrors look after debian-installer last, if at
// all. The udebs then come from the state before, where the mirror still has it
// whole under the suite's other name (trixie is stable): signed too, of the same
// codename, and recorded beside the other Release file. Debs never do. It
// returns the given error where that is no way.
func (r *reader) withOlderUdebs(ctx context.Context, p pocket, cause error) (contents, error) {
	if !slices.Equal(p.kinds, []Kind{Deb, Udeb}) {
		return contents{}, cause
	}
	debs, udebs := p, p
	debs.kinds, udebs.kinds = []Kind{Deb}, []Kind{Udeb}
	c, err := r.readPocketOnce(ctx, debs)
	if err != nil {
		return contents{}, cause
	}
	now := c.releases[0]
	if !isName(now.Suite) || now.Suite == p.name {
		return contents{}, cause
	}
	udebs.dir = now.Suite
	older, err := r.readPocketOnce(ctx, udebs)
	if err != nil {
		return contents{}, cause
	}
	then := older.releases[0]
	c.releases = append(c.releases, then)
	c.packages = append(c.packages, older.packages...)
	c.notes = append(c.notes, fmt.Sprintf("the mirror does not have the installer's packages of %s %s; taken as of %s %s, which it has as %q",
		p.name, now.Version, p.name, then.Version, udebs.dir))
	return c, nil
}

// lookChanged tells whether an index is gone or another one, as when a mirror
// is updated while we read it.
func lookChanged(err error) bool {
	var wrong *WrongFileError
	return errors.As(err, &wrong) || isNotFound(err)
}

func (r *reader) readPocketOnce(ctx context.Context, p pocket) (contents, error) {
	rel, err := r.readRelease(ctx, p)
	if err != nil {
		return contents{}, err
	}
	indexes, err := r.indexes(p, rel)
	if err != nil {
		return contents{}, fmt.Errorf("%s: %w", show(rel.url), err)
	}
	found := make([][]deb.Package, len(indexes))
	errs := make([]error, len(indexes))
	done := make(chan struct{})
	for i, x := range indexes {
		go func() {
			found[i], errs[i] = r.readIndex(ctx, p, rel, x.path)
			done <- struct{}{}
		}()
	}
	for range indexes {
		<-done
	}
	if err := joinErrors(errs); err != nil {
		return contents{}, err
	}
	c := contents{releases: []Release{{
		Pocket: p.directory(), Suite: rel.suite, Codename: rel.codename, Version: rel.version,
		SHA256: rel.sum, Date: rel.date, ValidUntil: rel.validUntil, URL: rel.url, Size: rel.size, Indexes: r.wanted(rel),
	}}}
	for i, x := range indexes {
		c.packages = slices.Grow(c.packages, len(found[i]))
		for j := range found[i] {
			c.packages = append(c.packages, Package{&found[i][j], p.directory(), x.kind, p.base})
		}
	}
	return c, nil
}

// dirOf is where a component has the indexes of a kind.
var dirOf = map[Kind]string{Deb: "", Udeb: "debian-installer/"}

// indexes lists the indexes to read. binary-all is one of them only where the
// archive says that it is not contained in binary-ARCH.
func (r *reader) indexes(p pocket, rel *signed) ([]index, error) {
	var list []index
	archs := []string{r.o.Arch}
	if slices.Contains(rel.archs, "all") && !rel.noAll {
		archs = append(archs, "all")
	}
	for _, component := range r.o.Components {
		for _, kind := range p.kinds {
			n := len(list)
			for _, arch := range archs {
				x := index{component, kind, component + "/" + dirOf[kind] + "binary-" + arch + "/Packages"}
				if rel.lists(x.path) {
					list = append(list, x)
				}
			}
			if n == len(list) && p.required && kind == Deb {
				return nil, hint.New(fmt.Errorf("the archive lists no %s/binary-%s/Packages", component, r.o.Arch), hintMirror)
			}
		}
	}
	// Empty indexes are listed, but not always there.
	return slices.DeleteFunc(list, func(x index) bool {
		f, ok := rel.files[x.path]
		return ok && f.size == 0
	}), nil
}

// preferred is the order in which apt takes compressed indexes, of those that
// Debian's archive has (apt.conf(5), Acquire::CompressionTypes::Order).
var preferred = [...]string{".xz", ".gz", ""}

// wanted lists what apt asks for at an update: the lists of packages of each
// component, and the English descriptions.
func (r *reader) wanted(rel *signed) []Index {
	if path.Base(rel.url) != "InRelease" {
		return nil
	}
	archs := []string{r.o.Arch}
	if slices.Contains(rel.archs, "all") && !rel.noAll {
		archs = append(archs, "all")
	}
	var list []Index
	add := func(name string) {
		for _, ext := range preferred {
			if f, ok := rel.files[name+ext]; ok {
				list = append(list, Index{Path: name + ext, SHA256: f.sum, Size: f.size})
				return
			}
		}
	}
	for _, component := range r.o.Components {
		for _, arch := range archs {
			add(component + "/binary-" + arch + "/Packages")
		}
		add(component + "/i18n/Translation-en")
	}
	return slices.DeleteFunc(list, func(x Index) bool { return x.Size == 0 })
}

// compressions in the order of preference: gzip costs a sixth of xz in CPU for
// a third more bytes.
var compressions = [...]string{".gz", ".xz", ""}

func (s *release) lists(path string) bool {
	return slices.ContainsFunc(compressions[:], func(ext string) bool { _, ok := s.files[path+ext]; return ok })
}

// readIndex returns the packages of one index: from its parsed form in the
// cache, or from the index itself.
func (r *reader) readIndex(ctx context.Context, p pocket, rel *signed, name string) ([]deb.Package, error) {
	key, hasKey := indexKey(rel, name)
	if hasKey {
		if pkgs, err := r.parsed(key); err == nil {
			return pkgs, nil
		}
	}
	got, ext, err := r.fetchIndex(ctx, p, rel, name)
	if err != nil {
		return nil, err
	}
	where := show(join(p.base, p.path()+name+ext))
	pkgs, err := r.parse(got, ext, rel, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if !hasKey {
		return pkgs, nil
	}
	sum, err := r.o.Cache.PutBytes(encodeIndex(pkgs))
	if err == nil {
		err = r.o.Cache.Record("index", key, sum)
	}
	return pkgs, err
}

// indexKey names the parsed form of an index. What is in an index follows from
// its digest alone; what we make of it from the version of our code.
func indexKey(rel *signed, name string) (key string, ok bool) {
	f, ok := rel.files[name]
	return indexFormat + " " + f.sum, ok
}

func (r *reader) parsed(key string) ([]deb.Package, error) {
	sum, ok := r.o.Cache.Lookup("index", key)
	if !ok {
		return nil, os.ErrNotExist
	}
	data, err := r.o.Cache.ReadText(sum, maxIndex)
	if err != nil {
		return nil, err
	}
	return decodeIndex(data)
}

// fetchIndex gets the index in the first compression that is listed and that
// the mirror has as it is listed, and tells which. While a mirror is updated one
// may be the old file and another the new one already.
func (r *reader) fetchIndex(ctx context.Context, p pocket, rel *signed, name string) (file, string, error) {
	dir := p.path()
	var said error
	for _, ext := range compressions {
		f, ok := rel.files[name+ext]
		if !ok {
			continue
		}
		if f.size > maxIndex {
			return file{}, "", fmt.Errorf("%s: %s has %d bytes, over the limit of %d", show(rel.url), name+ext, f.size, maxIndex)
		}
		it := Item{Name: p.directory() + " " + name + ext, SHA256: f.sum, Size: f.size}
		if rel.byHash {
			it.URLs = append(it.URLs, join(p.base, dir+path.Dir(name)+"/by-hash/SHA256/"+f.sum))
		}
		it.URLs = append(it.URLs, join(p.base, dir+name+ext))
		err := r.f.Fetch(ctx, []Item{it})
		if err == nil {
			return f, ext, nil
		}
		// A missing file says less than a wrong one.
		if said == nil || isNotFound(said) {
			said = err
		}
		if !lookChanged(err) && !r.o.Offline {
			break
		}
	}
	if isNotFound(said) {
		said = hint.New(said, hintChanged)
	}
	return file{}, "", said
}

// parse unpacks and reads an index. Its bytes are held against the digest of
// the unpacked index too, if that is listed.
func (r *reader) parse(got file, ext string, rel *signed, name string) ([]deb.Package, error) {
	f, err := r.o.Cache.Open(got.sum)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	in, err := decompress(f, ext)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack: %w", err)
	}
	plain, known := rel.files[name]
	limit := int64(maxIndex)
	if known {
		limit = plain.size
	}
	h := sha256.New()
	counted := &io.LimitedReader{R: in, N: limit + 1}
	var pkgs []deb.Package
	err = deb.ScanPackages(io.TeeReader(counted, h), func(pkg *deb.Package) error {
		if err := r.checkPackage(pkg); err != nil {
			return fmt.Errorf("package %q: %w", pkg.Name, err)
		}
		pkgs = append(pkgs, *pkg)
		return nil
	})
	switch {
	case counted.N == 0:
		return nil, fmt.Errorf("unpacks to more than the %d bytes listed", limit)
	case err != nil:
		return nil, err
	case known && hex.EncodeToString(h.Sum(nil)) != plain.sum:
		return nil, fmt.Errorf("unpacked: SHA-256 is %x, want %s", h.Sum(nil), plain.sum)
	}
	return pkgs, nil
}

func decompress(r io.Reader, ext string) (io.Reader, error) {
	switch ext {
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		return xz.ReaderConfig{DictCap: 64 << 20}.NewReader(r)
	}
	return r, nil
}

// checkPackage refuses what could lead astray whoever uses the package's fields
// as a path, a URL or a name. A signed archive is still not a reason to write
// to ../../etc/passwd.
func (r *reader) checkPackage(p *deb.Package) error {
	switch {
	case !isName(p.Name):
		return errors.New("bad name")
	case p.Version == "" || strings.ContainsFunc(p.Version, isOdd):
		return fmt.Errorf("bad Version %q", p.Version)
	case p.Architecture != r.o.Arch && p.Architecture != "all":
		return fmt.Errorf("field Architecture is %q in the index of %q", p.Architecture, r.o.Arch)
	case !isCleanPath(p.Filename):
		return fmt.Errorf("bad Filename %q", p.Filename)
	case p.SHA256 == "":
		return errors.New("no SHA256")
	case !isSum(p.SHA256):
		return fmt.Errorf("bad SHA256 %q", p.SHA256)
	case p.Size <= 0:
		return fmt.Errorf("bad Size %d", p.Size)
	}
	return nil
}

// isName tells whether s is a package name (policy 5.6.7, and one letter or
// more).
func isName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == "" &&
		strings.IndexByte("abcdefghijklmnopqrstuvwxyz0123456789", s[0]) >= 0
}

func isOdd(c rune) bool { return c <= ' ' || c == '/' || c == '\\' || c == 0x7f }

func isCleanPath(s string) bool {
	return s != "" && s != "." && s[0] != '/' && path.Clean(s) == s && s != ".." && !strings.HasPrefix(s, "../") &&
		!strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == '\\' || c == 0x7f })
}
