// Package profile reads profiles: what to install on a machine of some kind,
// and what to answer and to run while doing so.
//
// File names and meaning are simple-cdd's, so that its profile directories
// work here. For a profile NAME:
//
//	NAME.description  one line for people; lines beginning with # are left out
//	NAME.packages     packages that are installed
//	NAME.downloads    packages that are on the medium only, for the installer or for later
//	NAME.udebs        udebs that the installer loads
//	NAME.excludes     packages that are kept off the medium
//	NAME.preseed      debconf answers, in the format of debconf-set-selections(1)
//	NAME.postinst     script that runs in the installed system, as root, from its root directory
//	NAME.extra        names of files that are put onto the medium, in the directory simple-cdd
//	NAME.conf         shell that simple-cdd sources while building: never read here, only noted
//
// In a list, empty lines and lines beginning with # are left out. Where two
// directories have a file of the same name, the file of the first directory is
// taken and the other one is not read; that goes file by file: a site's
// node.packages replaces ours, and our node.postinst stays. Profiles are
// applied in order, default first.
//
// Beyond simple-cdd: lists may have a suffix with the architecture or with the
// release (NAME.packages.amd64, NAME.packages.trixie), whose names are added to
// those of the plain file; a line may hold several names, and a comment after
// them; a script runs even if its file lost the executable bit, since an
// embedded file has none.
//
// Sources: simple-cdd 0.6.9 as in Debian (README; build-simple-cdd:
// find_profile_files, read_list_file, read_configuration), and of its source
// package debian/simple-cdd-profiles.postinst and debian/14simple-cdd.
package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// Default is the profile that every machine gets.
const Default = "default"

// fileLimit bounds one file of a profile; extraLimit one file that goes onto
// the medium through NAME.extra.
const (
	fileLimit  = 1 << 20
	extraLimit = 64 << 20
)

// Profile is one profile, as read from its files.
type Profile struct {
	Name        string
	Description string
	Packages    []string // in the files' order, each once
	Downloads   []string
	Udebs       []string
	Excludes    []string
	Preseed     string // as it stands in the file
	Postinst    []byte
	Extra       []Extra
	// Origin names where the profile's files are from, sorted: "builtin", and
	// the site's directory.
	Origin string
	// Notes are what a person should know: "profiles/SCI.conf is not read".
	Notes []string
}

// Extra is a file that a profile puts onto the medium.
type Extra struct {
	Name string // on the medium, below simple-cdd/
	Data []byte
}

// layer is one directory with profiles.
type layer struct {
	name string // for messages
	fsys fs.FS
	os   bool // the files are a site's own, beside the site file
}

// source is where profiles are looked up: the first layer that has a file wins.
type source struct {
	layers   []layer
	suffixes []string // of lists: architecture, release
}

// Load reads the profiles of these names, in this order. dirs are looked
// through before builtin, which holds the files at its root and may be nil.
// Lists are read for Arch and the release, a codename. All that is wrong comes
// back in one error (errors.Join).
func Load(builtin fs.FS, dirs, names []string, release string) ([]Profile, error) {
	s := newSource(builtin, dirs, Arch, release)
	var list []Profile
	var faults []error
	for _, name := range names {
		p, err := s.profile(name)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		list = append(list, *p)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return list, nil
}

// Names are the names of all profiles there are, sorted.
func Names(builtin fs.FS, dirs []string) ([]string, error) {
	return newSource(builtin, dirs).names()
}

func newSource(builtin fs.FS, dirs []string, suffixes ...string) source {
	s := source{suffixes: suffixes}
	for _, dir := range dirs {
		s.layers = append(s.layers, layer{dir, os.DirFS(dir), true})
	}
	if builtin != nil {
		s.layers = append(s.layers, layer{"builtin", builtin, false})
	}
	return s
}

// kinds are the file kinds that make a profile.
func kinds() []string {
	return []string{"description", "packages", "downloads", "udebs", "excludes", "preseed", "postinst", "extra", "conf"}
}

func (s source) names() ([]string, error) {
	var names []string
	for _, l := range s.layers {
		entries, err := fs.ReadDir(l.fsys, ".")
		if err != nil {
			return nil, fmt.Errorf("cannot list profiles in %s: %w", l.name, err)
		}
		for _, e := range entries {
			name, kind, ok := strings.Cut(e.Name(), ".")
			kind, _, _ = strings.Cut(kind, ".")
			if ok && !e.IsDir() && slices.Contains(kinds(), kind) && validName(name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func validName(name string) bool {
	return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`).MatchString(name)
}

// file is the content of a profile's file and where it was found.
type file struct {
	path   string // for messages
	origin string
	data   []byte
	layer  layer
}

// open returns the file of the first layer that has it, nil if none does.
func (s source) open(name string) (*file, error) {
	for _, l := range s.layers {
		f, err := l.fsys.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		full := path.Join(l.name, name)
		if err != nil {
			return nil, fmt.Errorf("cannot read profile file: %w", err)
		}
		data, err := readLimited(f, full, fileLimit)
		if err != nil {
			return nil, err
		}
		return &file{full, l.name, data, l}, nil
	}
	return nil, nil
}

func readLimited(f fs.File, name string, limit int64) ([]byte, error) {
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("cannot read %s: larger than %d bytes", name, limit)
	}
	return data, nil
}

// profile reads one profile; all that is wrong in it comes back at once.
func (s source) profile(name string) (*Profile, error) {
	if !validName(name) {
		return nil, fmt.Errorf("cannot read profile %q: no valid name", name)
	}
	r := &reader{source: s, name: name, p: &Profile{Name: name}}
	r.p.Packages = r.list("packages", packageForm)
	r.p.Downloads = r.list("downloads", packageForm)
	r.p.Udebs = r.list("udebs", packageForm)
	r.p.Excludes = r.list("excludes", packageForm)
	r.p.Description = r.description()
	if f := r.file("preseed"); f != nil {
		r.p.Preseed = string(f.data)
		r.checkPreseed(f)
	}
	if f := r.file("postinst"); f != nil {
		r.p.Postinst = f.data
		if !bytes.HasPrefix(f.data, []byte("#!")) {
			r.fault(hint.New(fmt.Errorf("%s:1:1: a script begins with #! and its interpreter", f.path), "write #!/bin/sh into the first line"))
		}
	}
	r.extra()
	if f := r.file("conf"); f != nil {
		r.note(f.path + " is not read: what simple-cdd takes from there stands in the site file")
	}
	if r.found == 0 && len(r.faults) == 0 {
		return nil, s.missing(name)
	}
	slices.Sort(r.origins)
	r.p.Origin = strings.Join(slices.Compact(r.origins), ", ")
	return r.p, errors.Join(r.faults...)
}

// missing is the error for a profile without any file.
func (s source) missing(name string) error {
	known, err := s.names()
	if err != nil {
		return err
	}
	advice := "profiles that exist: " + strings.Join(known, ", ")
	if near := site.Nearest(name, known); near != "" {
		advice = fmt.Sprintf("did you mean %q?", near)
	}
	return hint.New(&NotFoundError{name}, advice)
}

// NotFoundError says that no file of a profile exists.
type NotFoundError struct{ Name string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("profile %q does not exist", e.Name) }

// packageForm is Debian Policy 5.6.1.
const packageForm = `^[a-z0-9][a-z0-9+.-]+$`

// reader collects one profile.
type reader struct {
	source
	name    string
	p       *Profile
	found   int
	origins []string
	faults  []error
}

func (r *reader) fault(err error)  { r.faults = append(r.faults, err) }
func (r *reader) note(text string) { r.p.Notes = append(r.p.Notes, text) }

func (r *reader) file(kind string) *file {
	f, err := r.open(r.name + "." + kind)
	if err != nil {
		r.fault(err)
		return nil
	}
	if f != nil {
		r.found++
		r.origins = append(r.origins, f.origin)
	}
	return f
}

// list reads NAME.kind, NAME.kind.ARCH and NAME.kind.RELEASE.
func (r *reader) list(kind, form string) []string {
	var names []string
	files := []string{kind}
	for _, suffix := range r.suffixes {
		if validName(suffix) { // a site file may name nonsense, which is said elsewhere
			files = append(files, kind+"."+suffix)
		}
	}
	for _, name := range files {
		f := r.file(name)
		if f == nil {
			continue
		}
		for _, w := range words(f.data) {
			if !regexp.MustCompile(form).MatchString(w.text) {
				r.fault(hint.New(fmt.Errorf("%s:%d:%d: %q is no package name", f.path, w.line, w.column, w.text), "a Debian package name has lower-case letters, digits, +, - and ."))
			} else if w.text == "simple-cdd-profiles" {
				r.note(f.path + " names simple-cdd-profiles, which is not needed here")
			} else if !slices.Contains(names, w.text) {
				names = append(names, w.text)
			}
		}
	}
	return names
}

// word is one word of a list and its place.
type word struct {
	text         string
	line, column int
}

// words splits a list: a # begins a comment where a word could begin.
func words(data []byte) []word {
	var list []word
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		column := 0
		for rest := strings.TrimRight(line, "\r\n"); ; {
			trimmed := strings.TrimLeft(rest, " \t")
			column += len(rest) - len(trimmed)
			if trimmed == "" || trimmed[0] == '#' {
				break
			}
			end := strings.IndexAny(trimmed, " \t")
			if end < 0 {
				end = len(trimmed)
			}
			list = append(list, word{trimmed[:end], n, column + 1})
			column += end
			rest = trimmed[end:]
		}
	}
	return list
}

func (r *reader) description() string {
	f := r.file("description")
	if f == nil {
		return ""
	}
	var parts []string
	for line := range strings.Lines(string(f.data)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			parts = append(parts, line)
		}
	}
	return strings.Join(parts, " ")
}

// checkPreseed looks at the form only: OWNER QUESTION TYPE [VALUE], with lines
// continued by a backslash, as debconf-set-selections(1) reads them.
func (r *reader) checkPreseed(f *file) {
	continued := false
	n := 0
	for line := range strings.Lines(string(f.data)) {
		n++
		text := strings.TrimSpace(line)
		first := !continued
		if first && (text == "" || text[0] == '#') {
			continue
		}
		continued = strings.HasSuffix(text, "\\")
		if words := strings.Fields(text); first && !continued && len(words) < 3 {
			r.fault(hint.New(fmt.Errorf("%s:%d:1: no debconf answer", f.path, n), "a line is: OWNER QUESTION TYPE VALUE"))
		}
	}
}

// extra reads the files that NAME.extra names. In a site's directory a name is
// relative to the directory above the profiles, as in simple-cdd.
func (r *reader) extra() {
	f := r.file("extra")
	if f == nil {
		return
	}
	for _, w := range words(f.data) {
		at := fmt.Sprintf("%s:%d:%d", f.path, w.line, w.column)
		data, err := readExtra(f.layer, w.text)
		if err != nil {
			r.fault(hint.New(fmt.Errorf("%s: %w", at, err), "a name is relative to the directory that holds the profile directory"))
			continue
		}
		name := path.Base(w.text)
		if i := slices.IndexFunc(r.p.Extra, func(e Extra) bool { return e.Name == name }); i >= 0 {
			r.fault(fmt.Errorf("%s: another file is named %q on the medium", at, name))
			continue
		}
		r.p.Extra = append(r.p.Extra, Extra{name, data})
	}
}

func readExtra(l layer, name string) ([]byte, error) {
	fsys := l.fsys
	if l.os {
		fsys = os.DirFS(path.Join(l.name, ".."))
	}
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("%q lies outside the site's folder", name)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	return readLimited(f, name, extraLimit)
}
