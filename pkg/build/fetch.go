package build

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/site"
)

// localPocket is the pocket of the site's own .deb files.
const localPocket = "local"

// ArchiveError says that something of the archive could not be had, or is not
// to be trusted.
type ArchiveError struct{ Err error }

func (e *ArchiveError) Error() string { return e.Err.Error() }
func (e *ArchiveError) Unwrap() error { return e.Err }

// fetch returns where the locked files are, by SHA-256.
func fetch(ctx context.Context, o Options, l *lock.Lock) (map[string]string, error) {
	opts := archiveOptions(o)
	files := make(map[string]string, len(l.Packages))
	var items []archive.Item
	for _, p := range l.Packages {
		if p.Pocket == localPocket {
			files[p.SHA256] = filepath.Join(o.Site.DebsPath(), path.Base(p.Path))
			continue
		}
		items = append(items, archive.Item{
			Name: p.Name + " " + p.Version, URLs: []string{strings.TrimRight(baseOf(opts, p.Pocket), "/") + "/" + p.Path},
			SHA256: p.SHA256, Size: p.Size,
		})
	}
	if err := archive.NewFetcher(opts).Fetch(ctx, items); err != nil {
		gone := len(archive.NotFound(err)) > 0
		err = &ArchiveError{err}
		if gone {
			return nil, hint.New(err, "the archive has newer versions by now: run sci-cd lock to renew the lock, or name a mirror that keeps old files")
		}
		return nil, err
	}
	for _, item := range items {
		p, ok := o.Cache.Path(item.SHA256)
		if !ok {
			return nil, fmt.Errorf("cannot find %s in the cache after it was fetched", item.Name)
		}
		files[item.SHA256] = p
	}
	return files, nil
}

// fetchOne fetches a single file and returns its path in the cache.
func fetchOne(ctx context.Context, o Options, item archive.Item) (string, error) {
	if err := archive.NewFetcher(archiveOptions(o)).Fetch(ctx, []archive.Item{item}); err != nil {
		return "", &ArchiveError{err}
	}
	p, ok := o.Cache.Path(item.SHA256)
	if !ok {
		return "", fmt.Errorf("cannot find %s in the cache after it was fetched", item.Name)
	}
	return p, nil
}

// localPackages reads the site's own .deb files, sorted by name. Their
// Filename is the place in the pool.
func localPackages(s *site.Site) ([]*deb.Package, error) {
	dir := s.DebsPath()
	if dir == "" {
		return nil, nil
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, fmt.Errorf("cannot read local packages: %w", err)
	}
	sort.Strings(names)
	var list []*deb.Package
	for _, name := range names {
		p, err := localPackage(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read local package: %w", err)
		}
		if slices.ContainsFunc(list, func(q *deb.Package) bool { return q.Name == p.Name && q.Version == p.Version }) {
			return nil, fmt.Errorf("cannot take local packages: %s %s is there twice", p.Name, p.Version)
		}
		list = append(list, p)
	}
	return list, nil
}

func localPackage(name string) (*deb.Package, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	f, err := deb.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	c, err := f.Control()
	if err != nil {
		return nil, err
	}
	p := stanzaPackage(c)
	if p.Architecture != arch && p.Architecture != "all" {
		return nil, fmt.Errorf("%s is for %s, not for %s", name, p.Architecture, arch)
	}
	p.Size, p.SHA256 = int64(len(data)), digest(data)
	p.Filename = path.Join("pool", "local", filepath.Base(name))
	return p, nil
}
