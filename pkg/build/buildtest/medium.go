package buildtest

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/archive/testarchive"
	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
)

// Medium is a built medium of the example site.
type Medium struct {
	Path   string // of the ISO
	Key    *pgp.Key
	Result *build.Result
	Debian pgp.Keyring // of the archive
}

// NewMedium builds the example site from the archive into a directory of the
// test.
func NewMedium(t testing.TB) *Medium {
	t.Helper()
	dir := t.TempDir()
	a := Archive(t)
	files, err := a.Render()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(testarchive.Handler(files))
	defer srv.Close()
	ring := a.Keyring(t)
	file := filepath.Join(dir, "site.yaml")
	if err := os.WriteFile(file, site.Example(), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := profile.LoadSite(file, scicd.Profiles())
	if err != nil {
		t.Fatal(err)
	}
	store, err := cache.Open(filepath.Join(dir, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	m := &Medium{Path: filepath.Join(dir, "medium.iso"), Debian: ring}
	m.Result, err = build.Build(t.Context(), build.Options{
		Site: s, Lock: filepath.Join(dir, "sci.lock"), Key: filepath.Join(dir, "sci.key"), Output: m.Path, Cache: store,
		Mirrors: archive.Mirrors{Main: srv.URL, Security: srv.URL}, Keyring: &ring,
		Agent: Agent(), Version: "1.2.3", Now: Date(),
		Preseed: scicd.Preseed(), Profiles: scicd.Profiles(), Overlay: scicd.Overlay(),
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "sci.key"))
	if err != nil {
		t.Fatal(err)
	}
	if m.Key, err = pgp.ReadKey(data); err != nil {
		t.Fatal(err)
	}
	return m
}
