//go:build realmirror

package archive_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/deb"
)

// realOptions opens codename at the mirrors of this machine's apt. The cache is
// kept in SCI_CD_TEST_CACHE if that is set.
func realOptions(t *testing.T, codename string) archive.Options {
	dir := os.Getenv("SCI_CD_TEST_CACHE")
	if dir == "" {
		dir = t.TempDir()
	}
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return archive.Options{Mirrors: archive.AptMirrors(os.DirFS("/")), Codename: codename, Cache: c}
}

// TestRealMirror opens both releases, cold and warm, and fetches the smallest
// package of each pocket and kind.
func TestRealMirror(t *testing.T) {
	for _, codename := range []string{"trixie", "bookworm"} {
		t.Run(codename, func(t *testing.T) {
			o := realOptions(t, codename)
			var a *archive.Archive
			for _, what := range []string{"cold", "warm", "offline"} {
				o.Offline = what == "offline"
				a = open(t, o, what)
			}
			o.Offline = false
			var pockets []string
			for _, r := range a.Releases() {
				if strings.HasPrefix(r.Pocket, codename) {
					pockets = append(pockets, r.Pocket)
				}
			}
			if want := []string{codename, codename + "-updates", codename + "-security"}; !slices.Equal(pockets, want) {
				t.Fatalf("pockets %q, want %q", pockets, want)
			}
			for _, n := range a.Notes() {
				t.Log(n)
			}
			for _, r := range a.Releases() {
				t.Logf("%s: %s %s %s of %s", r.Pocket, r.Suite, r.Version, r.SHA256[:12], r.Date)
			}
			fetchSmallest(t, o, a)
		})
	}
}

func open(t *testing.T, o archive.Options, what string) *archive.Archive {
	t.Helper()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	a, err := archive.Open(context.Background(), o)
	took := time.Since(start)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	runtime.ReadMemStats(&after)
	total := after.TotalAlloc - before.TotalAlloc
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%s: %v for %d packages; %d MiB allocated, %d MiB kept", what, took.Round(time.Millisecond), len(a.Packages()), total>>20, (after.HeapAlloc-before.HeapAlloc)>>20)
	return a
}

// fetchSmallest fetches the smallest file of each pocket and kind. Kernel
// module udebs are missing on some mirrors, so a udeb may be: see FACTS.
func fetchSmallest(t *testing.T, o archive.Options, a *archive.Archive) {
	type class struct {
		pocket string
		kind   archive.Kind
	}
	var classes []class
	smallest := make(map[class]archive.Package)
	for _, p := range a.Packages() {
		c := class{p.Pocket, p.Kind}
		old, ok := smallest[c]
		if !ok {
			classes = append(classes, c)
		}
		if !ok || p.Size < old.Size {
			smallest[c] = p
		}
	}
	f := archive.NewFetcher(o)
	for _, c := range classes {
		p := smallest[c]
		err := f.Fetch(context.Background(), []archive.Item{p.Item()})
		if names := archive.NotFound(err); names != nil && c.kind == archive.Udeb {
			t.Logf("%s %s: %v", c.pocket, c.kind, err)
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", c.pocket, c.kind, err)
			continue
		}
		path, _ := o.Cache.Path(p.SHA256)
		file, err := deb.Open(path)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(p.Filename), err)
			continue
		}
		control, err := file.Control()
		if err != nil || control.Get("Package") != p.Name || control.Get("Version") != p.Version {
			t.Errorf("%s holds %s %s (%v), want %s %s", filepath.Base(p.Filename), control.Get("Package"), control.Get("Version"), err, p.Name, p.Version)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("%s %s: %s %s, %d bytes", c.pocket, c.kind, p.Name, p.Version, p.Size)
	}
}
