// Package lock keeps what a build was resolved to, in the file sci.lock beside
// the site file: the digests of the Release files and, for every package, name,
// version, architecture, pocket, path, size and SHA-256. The same lock gives
// the same image, and with a warm cache a build needs no network.
//
// The format is ours: text, a line a package, sorted, so that a version control
// system shows an update as what it is. Words are separated by white space, "#"
// at the beginning of a line is a comment, "-" stands for an empty word:
//
//	format 2
//	release CODENAME ARCHITECTURE
//	inputs SHA256
//	pocket NAME SUITE VERSION DATE SHA256
//	index POCKET SIZE SHA256 PATH
//	KIND NAME VERSION ARCHITECTURE USES POCKET SIZE SHA256 PRIORITY SECTION PATH
//	end COUNT
//
// KIND is "deb" or "udeb". USES joins with commas what the package is for: role
// names, "installer", "boot". The last line tells how many packages there are:
// without it the file was cut off.
//
// An index is a file below the pocket's directory that goes onto the medium as
// the archive has it, InRelease among them: the service machine's package cache
// is filled with them. A lock without one is written as format 1, which has no
// such line.
//
// A pocket is one of the archive's ("trixie-security") or Local, which has no
// Release file: packages that the site brings itself.
package lock

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Format is the version of the file format of a lock without indexes, and
// FormatIndexes that of one with them. This package writes and reads both.
const (
	Format        = 1
	FormatIndexes = 2
)

// Local is the pocket of packages that come from no archive.
const Local = "local"

// Lock is what a site was resolved to.
type Lock struct {
	Format         int
	Codename, Arch string
	// Inputs is a SHA-256, in hex, over everything that was asked for: when it
	// changes, the lock is stale.
	Inputs   string
	Releases []Release
	Indexes  []Index
	Packages []Package
}

// Index is a file below the directory of a pocket.
type Index struct {
	Pocket string
	Path   string // "InRelease", "main/binary-amd64/Packages.xz"
	SHA256 string
	Size   int64 // in bytes
}

// Release is the InRelease file of one pocket.
type Release struct {
	Pocket, Suite string
	Version       string // "13.7"; only the main pocket has one
	SHA256        string // of the bytes of InRelease
	Date          time.Time
}

// Package is one package of the archive.
type Package struct {
	Name, Version, Architecture string
	Kind                        string // "deb" or "udeb"
	Pocket                      string
	Path                        string // below the base URL of the pocket
	SHA256                      string
	Size                        int64 // in bytes
	Priority, Section           string
	// Uses tells what the package is for, sorted: names of roles ("node"), as
	// it goes into the pool for them; "installer", as files of it go into the
	// initrd; "boot", as boot loaders or netboot images come from it.
	Uses []string
}

// Time is the date of the newest Release: the time of a build from this lock.
func (l *Lock) Time() time.Time {
	var newest time.Time
	for _, r := range l.Releases {
		if r.Date.After(newest) {
			newest = r.Date
		}
	}
	return newest.UTC()
}

// Main is the Release file of the main pocket, the one that the system is
// installed from. There may be one more of it, of the installer's packages.
func (l *Lock) Main() Release {
	for _, r := range l.Releases {
		if r.Pocket == l.Codename {
			return r
		}
	}
	return Release{}
}

// Check returns an error if the lock was made for other inputs.
func (l *Lock) Check(inputs string) error {
	if l.Inputs == inputs {
		return nil
	}
	return hint.New(&StaleError{Lock: l.Inputs, Want: inputs}, "run: sci-cd lock SITE")
}

// StaleError says that a lock was made for other inputs: the site file, a
// profile, a local package or the builder has changed what is asked for.
type StaleError struct{ Lock, Want string }

func (e *StaleError) Error() string {
	return fmt.Sprintf("lock is stale: it was made for inputs %.12s, these are %.12s", e.Lock, e.Want)
}

// ByUse lists the packages with a use, in the order of the lock.
func (l *Lock) ByUse(use string) []Package {
	var found []Package
	for _, p := range l.Packages {
		if slices.Contains(p.Uses, use) {
			found = append(found, p)
		}
	}
	return found
}

// Sort brings the lock into the order in which it is written.
func (l *Lock) Sort() {
	slices.SortFunc(l.Releases, func(a, b Release) int { return strings.Compare(a.Pocket, b.Pocket) })
	slices.SortFunc(l.Indexes, func(a, b Index) int {
		return cmp.Or(strings.Compare(a.Pocket, b.Pocket), strings.Compare(a.Path, b.Path))
	})
	slices.SortFunc(l.Packages, order)
	for i := range l.Packages {
		uses := slices.Clone(l.Packages[i].Uses)
		slices.Sort(uses)
		l.Packages[i].Uses = slices.Compact(uses)
	}
}

// order is by kind, name, version as text, architecture.
func order(a, b Package) int {
	return cmp.Or(
		strings.Compare(a.Kind, b.Kind),
		strings.Compare(a.Name, b.Name),
		strings.Compare(a.Version, b.Version),
		strings.Compare(a.Architecture, b.Architecture),
	)
}
