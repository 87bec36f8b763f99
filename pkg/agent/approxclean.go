package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The package cache, and what the medium has put there: the same names as in
// package installer, whose Seed writes them.
const (
	approxCache  = "var/cache/approx"
	approxSeed   = "var/lib/sci/approx-seed"
	maxSeed      = 16 << 20             // bytes of the list
	seedRefresh  = 180 * 24 * time.Hour // Debian's clean-up takes what is 365 days old
	cacheLow     = 10                   // per cent of the file system: less free space starts a clean-up
	cacheEnough  = 15                   // and it ends at this
	maxCacheWalk = 2_000_000            // files that are looked at
)

// CleanApprox keeps the package cache in bounds. The weekly clean-up of Debian's
// package deletes what was not changed for a year, what came from the medium
// too: that is marked as changed twice a year. And where the disk is nearly full
// it deletes the oldest packages that did not come from the medium; they are
// fetched again when somebody asks. It belongs run as the user approx, who owns
// the cache and nothing else.
func CleanApprox(ctx context.Context, root string, journal io.Writer) error {
	c := &cleaner{root: filepath.Join(root, approxCache), now: time.Now(), seed: make(map[string]bool), free: freeSpace}
	data, err := readBounded(filepath.Join(root, approxSeed), maxSeed)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i, l := range strings.Split(strings.TrimRight(string(data), "\n"), "\n") {
		if i > 0 && fs.ValidPath(l) { // the first line is the medium's digest
			c.seed[l] = true
		}
	}
	refreshed, err := c.refresh(ctx)
	if err != nil {
		return fmt.Errorf("cannot keep the package cache's seed: %w", err)
	}
	deleted, bytes, err := c.shrink(ctx)
	if refreshed > 0 || deleted > 0 {
		_, _ = fmt.Fprintf(journal, "package cache: marked %d files of the medium as in use, deleted %d packages (%d MB)\n", refreshed, deleted, bytes>>20)
	}
	if err != nil {
		return fmt.Errorf("cannot clean up the package cache: %w", err)
	}
	return nil
}

type cleaner struct {
	root string
	now  time.Time
	seed map[string]bool
	free func(dir string) (free, total int64, err error)
}

// freeSpace of the file system that holds dir, in bytes.
func freeSpace(dir string) (free, total int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

func changed(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix())
	}
	return info.ModTime()
}

// refresh renews the time of change of the medium's files, which is what a chmod
// to the mode that they have does.
func (c *cleaner) refresh(ctx context.Context) (count int, err error) {
	for name := range c.seed {
		if err := ctx.Err(); err != nil {
			return count, err
		}
		name = filepath.Join(c.root, name)
		info, err := os.Lstat(name)
		if err != nil || !info.Mode().IsRegular() || c.now.Sub(changed(info)) < seedRefresh {
			continue // replaced or deleted by somebody: that is no trouble of ours
		}
		if err := os.Chmod(name, info.Mode().Perm()); err != nil {
			return count, err
		}
		count++
	}
	return count, nil
}

// old is a package that may go.
type old struct {
	name string
	size int64
	at   time.Time
}

// shrink deletes packages, the oldest first, while there is too little space.
func (c *cleaner) shrink(ctx context.Context) (count int, bytes int64, err error) {
	free, total, err := c.free(c.root)
	if err != nil || free >= total/100*cacheLow {
		return 0, 0, err
	}
	list, err := c.packages(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, o := range list {
		if free+bytes >= total/100*cacheEnough {
			break
		}
		if err := os.Remove(o.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return count, bytes, err
		}
		count, bytes = count+1, bytes+o.size
	}
	return count, bytes, nil
}

// packages are those in the cache that did not come from the medium. Indexes
// stay: without them apt cannot even say what is missing.
func (c *cleaner) packages(ctx context.Context) ([]old, error) {
	var list []old
	looked := 0
	err := filepath.WalkDir(c.root, func(name string, d fs.DirEntry, err error) error {
		if looked++; looked > maxCacheWalk {
			return filepath.SkipAll
		}
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(c.root, name)
		if err != nil || c.seed[rel] || !strings.Contains(rel, "/pool/") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		list = append(list, old{name, info.Size(), changed(info)})
		return nil
	})
	slices.SortFunc(list, func(a, b old) int { return a.at.Compare(b.at) })
	return list, err
}
