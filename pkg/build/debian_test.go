package build_test

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/site"
)

// TestDebianIndexes: a site with a service machine has Debian's own indexes on
// its medium, as the lock names them, and Debian's own paths to the packages of
// the pool, which are stored once.
func TestDebianIndexes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build()
	_, _, img := openISO(t, filepath.Join(b.dir, "out.iso"))
	l, err := lock.Read(filepath.Join(b.dir, "sci.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if l.Format != lock.FormatIndexes || len(l.Indexes) != 15 {
		t.Errorf("format %d, %d indexes; want 2 and 15: InRelease and four more in each of three pockets", l.Format, len(l.Indexes))
	}
	repository := map[string]string{"trixie": "debian", "trixie-updates": "updates", "trixie-security": "security"}
	for _, x := range l.Indexes {
		name := path.Join("debian", repository[x.Pocket], "dists", x.Pocket, x.Path)
		data, err := readISO(img, name)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if want := b.files["dists/"+x.Pocket+"/"+x.Path]; !bytes.Equal(data, want) {
			t.Errorf("%s is not the archive's", name)
		}
	}
	shared := 0
	for _, p := range l.Packages {
		if p.Kind != "deb" || !slices.ContainsFunc(p.Uses, func(u string) bool { return u == "node" || u == "service" }) {
			continue
		}
		own, err := img.Extent(path.Join("debian", repository[p.Pocket], p.Path))
		if err != nil {
			t.Error(err)
			continue
		}
		pool, err := img.Extent(p.Path)
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(pool, own); diff != "" {
			t.Errorf("%s stands twice in the image: %s", p.Path, diff)
		}
		shared++
	}
	if shared < 20 {
		t.Errorf("only %d packages", shared)
	}
}

func has(img *iso.Image, name string) bool {
	_, err := fs.Stat(img.FS(), name)
	return err == nil
}

func readISO(img *iso.Image, name string) ([]byte, error) {
	f, err := img.FS().Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var b bytes.Buffer
	_, err = b.ReadFrom(f)
	return b.Bytes(), err
}

// TestIndexesCost: the image grows by the indexes and the directory entries,
// not by a second pool.
func TestIndexesCost(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	with := b.build().Size
	l, err := lock.Read(filepath.Join(b.dir, "sci.lock"))
	if err != nil {
		t.Fatal(err)
	}
	var indexes, pool int64
	for _, x := range l.Indexes {
		indexes += (x.Size + 2047) / 2048 * 2048
	}
	// The same medium with the files below debian/ only counted.
	_, _, img := openISO(t, filepath.Join(b.dir, "out.iso"))
	names := 0
	for _, p := range l.Packages {
		if _, err := img.Extent(path.Join("debian/debian", p.Path)); err == nil {
			pool += p.Size
			names++
		}
	}
	other := newBench(t)
	text := strings.Replace(string(site.Example()), "    virtual: true\n", "    match: {mac: [\"52:54:00:5c:1c:20\"]}\n", 1)
	text = regexp.MustCompile(`(?m)^    machine:.*\n`).ReplaceAllString(text, "")
	other.write("site.yaml", text)
	without := other.build().Size
	if _, _, img := openISO(t, filepath.Join(other.dir, "out.iso")); has(img, "debian") {
		t.Error("a site whose service machine is no instance has debian/ on its medium")
	}
	// A directory entry with its Rock Ridge fields takes less than 512 bytes,
	// and SHA256SUMS and md5sum.txt name each file once more.
	if limit := indexes + int64(names)*1024 + 1<<17; with-without > limit {
		t.Errorf("the medium grew by %d bytes with indexes of %d and %d names for packages of %d; want at most %d", with-without, indexes, names, pool, limit)
	}
}

// TestIndexesOfLock: the same lock gives the same bytes, from the cache alone,
// in another year, and when the archive has moved on.
func TestIndexesOfLock(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.build()
	for _, s := range b.archive.Suites {
		s.Date = s.Date.AddDate(0, 0, 1)
	}
	b.render()
	o := b.options()
	o.Now = o.Now.AddDate(3, 0, 0)
	o.Offline = true
	again, err := build.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if first.SHA256 != again.SHA256 || again.NewLock {
		t.Errorf("another image from the same lock: %s and %s", first.SHA256, again.SHA256)
	}
}

// TestIndexesMoved: without a cache an archive that has moved on cannot give
// what the lock names, and that is said with advice.
func TestIndexesMoved(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build()
	if err := os.RemoveAll(filepath.Join(b.dir, "cache")); err != nil {
		t.Fatal(err)
	}
	for _, s := range b.archive.Suites {
		s.Release = func(text string) string { return strings.Replace(text, "Label: Debian", "Label: Moved on", 1) }
	}
	b.render()
	_ = os.Remove(filepath.Join(b.dir, "out.iso"))
	b.fails("InRelease", "renew the lock with sci-cd lock")
}

// TestIndexesForged: a lock that names another index than the signed one.
func TestIndexesForged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build()
	name := filepath.Join(b.dir, "sci.lock")
	l, err := lock.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.Indexes {
		if x := &l.Indexes[i]; x.Path == "main/i18n/Translation-en.gz" && x.Pocket == "trixie" {
			other := l.Indexes[slices.IndexFunc(l.Indexes, func(o lock.Index) bool { return o.Pocket == "trixie-updates" && o.Path == x.Path })]
			x.SHA256, x.Size = other.SHA256, other.Size
		}
	}
	if err := l.Write(name); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(b.dir, "out.iso"))
	b.fails("is not the one that the signed InRelease names", "sci-cd lock")
}
