//go:build realmirror

package profile_test

import (
	"context"
	"os"
	"slices"
	"testing"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/resolve"
	"github.com/skycover/sci-cd/pkg/site"
)

// TestBuiltinLists: in both releases every name in our lists exists, and each
// class can be installed, with the boot loader of either firmware. sci-agent is
// not Debian's.
func TestBuiltinLists(t *testing.T) {
	s, err := site.Parse("example.yaml", site.Example())
	if err != nil {
		t.Fatal(err)
	}
	for _, codename := range []string{"trixie", "bookworm"} {
		t.Run(codename, func(t *testing.T) {
			s.Release = codename
			known := packages(t, codename)
			u := resolve.NewUniverse(profile.Arch, known)
			for _, class := range s.Classes() {
				sel, err := profile.Select(s, class, scicd.Profiles())
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range append(slices.Clone(sel.Packages), sel.Downloads...) {
					if name != "sci-agent" && !slices.ContainsFunc(known, func(p *deb.Package) bool { return p.Name == name }) {
						t.Errorf("%s: %s does not exist in %s", class, name, codename)
					}
				}
				seeds := slices.DeleteFunc(sel.Packages, func(name string) bool { return name == "sci-agent" })
				for _, loader := range [][]string{{"grub-pc"}, {"grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed", "efibootmgr"}} {
					r, err := u.Resolve(resolve.Request{Name: class, Seeds: append(slices.Clone(seeds), loader...), Excludes: sel.Excludes, Priorities: []string{"required"}})
					if err != nil {
						t.Errorf("%s with %s: %v", class, loader[0], err)
						continue
					}
					var size int64
					for _, p := range r.Packages {
						size += p.Size
					}
					t.Logf("%s with %s: %d packages, %d MB", class, loader[0], len(r.Packages), size/1e6)
				}
			}
		})
	}
}

func packages(t *testing.T, codename string) []*deb.Package {
	t.Helper()
	dir := os.Getenv("SCI_CD_TEST_CACHE")
	if dir == "" {
		dir = t.TempDir()
	}
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(context.Background(), archive.Options{Mirrors: archive.AptMirrors(os.DirFS("/")), Codename: codename, Cache: c})
	if err != nil {
		t.Fatal(err)
	}
	var list []*deb.Package
	for _, p := range a.Packages() {
		if p.Kind == "deb" {
			list = append(list, p.Package)
		}
	}
	return list
}
