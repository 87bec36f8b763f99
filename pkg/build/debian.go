package build

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"
)

// inRelease is the name of the signed Release file.
const inRelease = "InRelease"

// maxInRelease bounds an InRelease in bytes.
const maxInRelease = 16 << 20

// wantsIndexes says whether Debian's own indexes go onto the medium: where the
// site has a service machine, whose package cache is filled with them.
func wantsIndexes(o Options) bool { return o.Site.Service() != nil }

// lockIndexes puts what clients of the package cache ask for into the lock, and
// gets it, while the mirror still has it: an archive keeps its packages for
// long, and yesterday's indexes for days at best.
func lockIndexes(ctx context.Context, o Options, a *archive.Archive, l *lock.Lock) error {
	if !wantsIndexes(o) {
		return nil
	}
	for _, r := range a.Releases() {
		if _, ok := media.Repository(l.Codename, r.Pocket); !ok {
			continue // the older one of the installer's packages
		}
		if len(r.Indexes) == 0 {
			return hint.New(&ArchiveError{fmt.Errorf("cannot fill the service machine's package cache: %s has no %s", r.Pocket, inRelease)},
				"name a mirror in the site file that has it, as Debian's own do")
		}
		l.Indexes = append(l.Indexes, lock.Index{Pocket: r.Pocket, Path: inRelease, SHA256: r.SHA256, Size: r.Size})
		for _, x := range r.Indexes {
			l.Indexes = append(l.Indexes, lock.Index{Pocket: r.Pocket, Path: x.Path, SHA256: x.SHA256, Size: x.Size})
		}
	}
	l.Format = lock.FormatIndexes
	_, err := fetchIndexes(ctx, o, l)
	return err
}

// fetchIndexes returns where the locked indexes are, by SHA-256.
func fetchIndexes(ctx context.Context, o Options, l *lock.Lock) (map[string]string, error) {
	opts := archiveOptions(o)
	var items []archive.Item
	for _, x := range l.Indexes {
		dir := strings.TrimRight(baseOf(opts, x.Pocket), "/") + "/dists/" + x.Pocket + "/"
		it := archive.Item{Name: x.Pocket + " " + x.Path, SHA256: x.SHA256, Size: x.Size}
		if x.Path != inRelease {
			it.URLs = append(it.URLs, dir+byHash(x.Path, x.SHA256))
		}
		it.URLs = append(it.URLs, dir+x.Path)
		items = append(items, it)
	}
	if err := archive.NewFetcher(opts).Fetch(ctx, items); err != nil {
		return nil, hint.New(&ArchiveError{err}, "the archive has other indexes by now: renew the lock with sci-cd lock, or name a mirror of that day,"+
			" as https://snapshot.debian.org/archive/debian/YYYYMMDDTHHMMSSZ")
	}
	files := make(map[string]string, len(items))
	for _, it := range items {
		p, ok := o.Cache.Path(it.SHA256)
		if !ok {
			return nil, fmt.Errorf("cannot find %s in the cache after it was fetched", it.Name)
		}
		files[it.SHA256] = p
	}
	return files, nil
}

// byHash is the other path of an index (https://wiki.debian.org/DebianRepository/Format,
// Acquire-By-Hash).
func byHash(index, sum string) string { return path.Dir(index) + "/by-hash/SHA256/" + sum }

// baseOf is the mirror of a pocket.
func baseOf(o archive.Options, pocket string) string {
	switch {
	case strings.HasSuffix(pocket, "-security"):
		return o.Security
	case strings.HasSuffix(pocket, "-updates"):
		return o.Updates
	}
	return o.Main
}

// debianTree is Debian's own archive as far as it is on the medium: its signed
// indexes, and the packages of the pool once more by Debian's own paths. The
// ISO writer stores a file that has two names once. nil where the site has no
// service machine.
func debianTree(ctx context.Context, o Options, l *lock.Lock, pool map[string]string) (*tree.Tree, []media.DebianLine, error) {
	if !wantsIndexes(o) {
		return nil, nil, nil
	}
	files, err := fetchIndexes(ctx, o, l)
	if err != nil {
		return nil, nil, err
	}
	t := &tree.Tree{}
	var lines []media.DebianLine
	for _, r := range l.Releases {
		repository, ok := media.Repository(l.Codename, r.Pocket)
		if !ok {
			continue
		}
		line, err := addIndexes(o, t, l, r, files)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot put the indexes of %s on the medium: %w", r.Pocket, err)
		}
		line.Repository = repository
		lines = append(lines, line)
	}
	for _, p := range l.Packages {
		repository, ok := media.Repository(l.Codename, p.Pocket)
		if !ok || p.Kind != "deb" || !inPool(p) {
			continue
		}
		if err := t.AddFile(path.Join(repository, p.Path), 0o644, pool[p.SHA256], p.SHA256); err != nil {
			return nil, nil, err
		}
	}
	return t, lines, nil
}

// addIndexes adds the indexes of a pocket, after the chain from the signature to
// each of them was followed once more: a lock is a text file that anybody may
// have edited.
func addIndexes(o Options, t *tree.Tree, l *lock.Lock, r lock.Release, files map[string]string) (media.DebianLine, error) {
	line := media.DebianLine{Pocket: r.Pocket, Version: r.Version, Date: r.Date.UTC()}
	release, err := signedRelease(o, r)
	if err != nil {
		return line, err
	}
	sums, err := deb.ReleaseSums(release.Get("SHA256"))
	if err != nil {
		return line, err
	}
	repository, _ := media.Repository(l.Codename, r.Pocket)
	dir := path.Join(repository, "dists", r.Pocket)
	for _, x := range l.Indexes {
		if x.Pocket != r.Pocket {
			continue
		}
		signed := deb.Sum{SHA256: r.SHA256, Size: x.Size}
		if x.Path != inRelease {
			signed = sums[x.Path]
		}
		if want := (deb.Sum{SHA256: x.SHA256, Size: x.Size}); signed != want {
			return line, hint.New(fmt.Errorf("the lock's %s is not the one that the signed %s names", x.Path, inRelease), "run: sci-cd lock SITE")
		}
		if err := t.AddFile(path.Join(dir, x.Path), 0o644, files[x.SHA256], x.SHA256); err != nil {
			return line, err
		}
		line.Indexes++
		if x.Path == inRelease || release.Get("Acquire-By-Hash") != "yes" {
			continue
		}
		// apt asks by this name first. Empty indexes are one and the same file.
		if name := path.Join(dir, byHash(x.Path, x.SHA256)); !has(t, name) {
			if err := t.AddFile(name, 0o644, files[x.SHA256], x.SHA256); err != nil {
				return line, err
			}
		}
	}
	if !slices.ContainsFunc(l.Indexes, func(x lock.Index) bool { return x.Pocket == r.Pocket && x.Path == inRelease }) {
		return line, hint.New(fmt.Errorf("the lock does not name its %s", inRelease), "run: sci-cd lock SITE")
	}
	return line, nil
}

func has(t *tree.Tree, name string) bool {
	_, ok := t.Lookup(name)
	return ok
}

// signedRelease is what was signed of the locked InRelease. Whether the key has
// expired since does not matter: the lock was made when it had not.
func signedRelease(o Options, r lock.Release) (deb.Control, error) {
	ring := o.Keyring
	if ring == nil {
		debian, err := pgp.Debian()
		if err != nil {
			return nil, err
		}
		ring = &debian
	}
	data, err := o.Cache.ReadFile(r.SHA256, maxInRelease)
	if err != nil {
		return nil, err
	}
	body, _, err := ring.VerifyClearsigned(data, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", inRelease, err)
	}
	return deb.ParseControl(body)
}
