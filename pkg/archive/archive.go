package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// Options say what to open and how. Codename and Cache are required.
type Options struct {
	Mirrors
	Codename   string   // "trixie"; a suite such as "stable" is refused
	Arch       string   // empty means amd64
	Components []string // empty means main and non-free-firmware
	// Keyring verifies the Release files; the zero value means Debian's keys.
	Keyring pgp.Keyring
	Cache   *cache.Cache
	// Now judges Valid-Until and the expiry of keys; zero means the clock.
	Now time.Time

	// Client makes the requests; nil means one that honours http_proxy,
	// https_proxy and no_proxy.
	Client   *http.Client
	Parallel int           // transfers at a time; 0 means 4
	Retries  int           // further tries of a transfer; 0 means 4, negative none
	Backoff  time.Duration // before the first further try, doubled each time; 0 means 500 ms
	Stall    time.Duration // how long a transfer may stand still; 0 means 60 s
	Progress Progress      // nil means nobody listens
	Offline  bool          // take everything from the cache, or fail
}

func (o Options) withDefaults() Options {
	o.Mirrors = o.Mirrors.withDefaults()
	if o.Arch == "" {
		o.Arch = "amd64"
	}
	if len(o.Components) == 0 {
		o.Components = []string{"main", "non-free-firmware"}
	}
	if o.Client == nil {
		o.Client = defaultClient()
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.Retries == 0 {
		o.Retries = 4
	}
	if o.Backoff <= 0 {
		o.Backoff = 500 * time.Millisecond
	}
	if o.Stall <= 0 {
		o.Stall = 60 * time.Second
	}
	return o
}

// Archive is what the verified indexes of one codename's pockets hold.
type Archive struct {
	releases []Release
	packages []Package
	notes    []string
}

// Release is one verified Release file.
type Release struct {
	Pocket   string // the directory below dists/, "trixie-updates"
	Suite    string // "stable-updates"
	Codename string
	Version  string // "13.7", may be empty
	// SHA256 is the hex digest of InRelease, or of Release where the archive
	// has no InRelease.
	SHA256     string
	Date       time.Time
	ValidUntil time.Time // zero if the archive sets no end
	URL        string    // of the file that SHA256 is of
	Size       int64     // of the same, in bytes
	// Indexes are the files that apt asks this pocket for, in the form in which
	// it asks. There are none where the archive has no InRelease.
	Indexes []Index
}

// Index is a file below a pocket's directory that its Release file names.
type Index struct {
	Path   string // "main/binary-amd64/Packages.xz"
	SHA256 string // hex
	Size   int64  // bytes
}

// Kind tells packages for a system from those for the installer.
type Kind string

// The kinds of packages.
const (
	Deb  Kind = "deb"
	Udeb Kind = "udeb"
)

// Package is a package and where it is.
type Package struct {
	*deb.Package
	Pocket string // "trixie-security"
	Kind   Kind
	Base   string // URL of the mirror; Filename is below it
}

// URL returns where the package's file is.
func (p Package) URL() string { return join(p.Base, p.Filename) }

// Item returns the package's file for a Fetcher.
func (p Package) Item() Item {
	return Item{Name: p.Name + " " + p.Version, URLs: []string{p.URL()}, SHA256: p.SHA256, Size: p.Size}
}

// Releases returns the Release files in the order main, updates, security; main
// may be two.
func (a *Archive) Releases() []Release { return a.releases }

// Notes returns what a person should know of the mirrors.
func (a *Archive) Notes() []string { return a.notes }

// Packages returns all packages by pocket, component, kind and place in the
// index. A file that several pockets hold is there once, from the first.
func (a *Archive) Packages() []Package { return a.packages }

// pocket is one directory below dists/ and the mirror that has it.
type pocket struct {
	name, base string
	// dir is the directory, where it is not called by name: a suite's other name.
	dir string
	// required says that all components have to be there. The other pockets
	// of a young release may lack some.
	required bool
	// kinds are the kinds of packages to read. Like d-i we take udebs from the
	// main pocket alone, where they fit the installer's kernel; the ones that
	// the security builds leave behind are not even kept consistent by all
	// mirrors.
	kinds []Kind
}

// path is the pocket's directory on the mirror.
func (p pocket) path() string { return "dists/" + p.directory() + "/" }

func (p pocket) directory() string { return cmp.Or(p.dir, p.name) }

// Open reads and verifies the pockets of one codename: CODENAME,
// CODENAME-updates and CODENAME-security. Udebs come from the first alone.
func Open(ctx context.Context, o Options) (*Archive, error) {
	o = o.withDefaults()
	if o.Now.IsZero() {
		o.Now = time.Now() // judges only, goes into no output
	}
	if o.Keyring == (pgp.Keyring{}) {
		var err error
		if o.Keyring, err = pgp.Debian(); err != nil {
			return nil, err
		}
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("cannot open archive: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &reader{o: o, f: NewFetcher(o)}
	pockets := o.pockets()
	found := make([]contents, len(pockets))
	var wg sync.WaitGroup
	for i, p := range pockets {
		wg.Go(func() {
			var err error
			if found[i], err = r.readPocket(ctx, p); err != nil {
				cancel(fmt.Errorf("cannot open archive %s: %w", p.name, err))
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return assemble(found), nil
}

func (o Options) check() error {
	if o.Cache == nil {
		return errors.New("no cache given")
	}
	for _, s := range append([]string{o.Codename, o.Arch}, o.Components...) {
		if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return fmt.Errorf("bad codename, architecture or component %q", s)
		}
	}
	for _, p := range o.pockets() {
		if err := checkBase(p.base); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) pockets() []pocket {
	list := []pocket{{name: o.Codename, base: o.Main, required: true, kinds: []Kind{Deb, Udeb}}}
	if o.Updates != None {
		list = append(list, pocket{name: o.Codename + "-updates", base: o.Updates, kinds: []Kind{Deb}})
	}
	if o.Security != None {
		list = append(list, pocket{name: o.Codename + "-security", base: o.Security, kinds: []Kind{Deb}})
	}
	return list
}

// assemble puts the pockets together. After a point release the same files are
// in several of them.
func assemble(found []contents) *Archive {
	a := new(Archive)
	n := 0
	for _, c := range found {
		n += len(c.packages)
	}
	a.packages = make([]Package, 0, n)
	first := make(map[string]bool) // by digest: is in an earlier pocket
	for i := len(found) - 1; i > 0; i-- {
		for _, p := range found[i].packages {
			first[p.SHA256] = false
		}
	}
	for _, c := range found {
		a.releases = append(a.releases, c.releases...)
		a.notes = append(a.notes, c.notes...)
		for _, p := range c.packages {
			if had, several := first[p.SHA256]; several {
				if had {
					continue
				}
				first[p.SHA256] = true
			}
			a.packages = append(a.packages, p)
		}
	}
	return a
}
