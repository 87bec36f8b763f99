// Package testarchive is a Debian archive as values, for tests. A test makes
// one, changes a field, renders it again and looks at what its reader says:
//
//	a := testarchive.New(t)
//	a.Suite("trixie-security").ValidUntil = yesterday
//	url := a.Serve(t)
//
// Everything is rendered from the fields: real .deb files, Packages indexes in
// all compressions, Release files signed by a key of the test. The same fields
// and the same key give the same bytes. The layout is that of the Debian wiki's
// DebianRepository/Format.
package testarchive

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"
)

// Archive is what lies below one base URL.
type Archive struct {
	Suites []*Suite
	// Key is what New signed the suites with.
	Key *pgp.Key
}

// Suite is one directory below dists/.
type Suite struct {
	Dir                      string // "trixie-updates"
	Suite, Codename, Version string
	Date                     time.Time
	ValidUntil               time.Time // zero leaves the field out
	ByHash                   bool      // Acquire-By-Hash, and the files of it
	Architectures            []string
	AllApart                 bool     // packages for all have their own index, binary-all
	Components               []string // listed even when they are empty
	Compressions             []string // of "", ".gz", ".xz": listed and there
	Listed                   []string // of the same: listed, but not there
	Packages                 []*Package

	Key      *pgp.Key  // nil leaves the suite unsigned: Release alone
	SignedAt time.Time // zero means Date
	Detached bool      // Release and Release.gpg in place of InRelease

	// The tampering hooks get a file's content and return what to put in its
	// place; nil changes nothing. Index and Release come before sums and
	// signature are made, Final after, with the path below the archive.
	Index   func(path string, text string) string
	Release func(text string) string
	Final   func(path string, data []byte) []byte
}

// Package is one package, in the pool and in an index.
type Package struct {
	Component string      // empty means main
	Udeb      bool        // for the installer
	Control   deb.Control // as in the package; Maintainer and Description may be left out
	Files     *tree.Tree
	Scripts   map[string][]byte
	Data      []byte // the file, if it is not to be made from the above
	// Stanza holds fields of the index to replace or add: a false SHA256, say.
	Stanza deb.Control
	Absent bool // the index names it, but it is not there
}

// Date is the date of the archives that New makes.
func Date() time.Time { return time.Date(2026, 9, 12, 7, 55, 41, 0, time.UTC) }

// New returns a small archive of trixie with three pockets, to be changed by
// the test: trixie with hello, libhello1, hello-doc (for all), hello-firmware
// and hello-udeb; trixie-updates with tzdata; trixie-security with a newer
// libhello1.
func New(t testing.TB) *Archive {
	t.Helper()
	key, err := pgp.NewKey("Test archive", "not for use", "test@example.org", Date().AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	suite := func(dir, suite, version string, packages ...*Package) *Suite {
		return &Suite{
			Dir: dir, Suite: suite, Codename: dir, Version: version, Date: Date(), ByHash: true,
			Architectures: []string{"all", "amd64", "arm64"}, Components: []string{"main", "non-free-firmware"},
			Compressions: []string{"", ".gz", ".xz"}, Packages: packages, Key: key,
		}
	}
	firmware := Deb("hello-firmware", "1", "amd64")
	firmware.Component = "non-free-firmware"
	udeb := Deb("hello-udeb", "2.10-5", "amd64")
	udeb.Udeb = true
	a := &Archive{Key: key, Suites: []*Suite{
		suite("trixie", "stable", "13.7",
			Deb("hello", "2.10-5", "amd64", "Depends", "libhello1 (>= 1.0)"),
			Deb("libhello1", "1.0-1", "amd64"),
			Deb("hello-doc", "2.10-5", "all", "Multi-Arch", "foreign"),
			firmware, udeb),
		suite("trixie-updates", "stable-updates", "13-updates", Deb("tzdata", "2026f-0", "all")),
		suite("trixie-security", "stable-security", "13", Deb("libhello1", "1.0-1+deb13u1", "amd64")),
	}}
	for _, s := range a.Suites[1:] {
		s.ValidUntil = Date().AddDate(0, 0, 7)
	}
	return a
}

// Deb returns a package with one file, /usr/share/doc/NAME/copyright, and more
// control fields as pairs of name and value.
func Deb(name, version, arch string, fields ...string) *Package {
	c := deb.Control{{Name: "Package", Value: name}, {Name: "Version", Value: version}, {Name: "Architecture", Value: arch}}
	for i := 0; i+1 < len(fields); i += 2 {
		c = c.Set(fields[i], fields[i+1])
	}
	files := new(tree.Tree)
	if err := files.AddBytes("usr/share/doc/"+name+"/copyright", 0o644, []byte(name+" is free\n")); err != nil {
		panic(err) // a name that is no file name: the test is wrong
	}
	return &Package{Control: c, Files: files}
}

// Suite returns the suite of a directory, nil if there is none.
func (a *Archive) Suite(dir string) *Suite {
	for _, s := range a.Suites {
		if s.Dir == dir {
			return s
		}
	}
	return nil
}

// Package returns the first package of a name, nil if there is none.
func (s *Suite) Package(name string) *Package {
	for _, p := range s.Packages {
		if p.Control.Get("Package") == name {
			return p
		}
	}
	return nil
}

// Keyring returns the keyring that trusts the archive's key.
func (a *Archive) Keyring(t testing.TB) pgp.Keyring {
	t.Helper()
	k, err := pgp.ReadKeyring(bytes.NewReader(a.Key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Serve renders the archive and serves it on the loopback until the test ends.
// It returns the base URL.
func (a *Archive) Serve(t testing.TB) string {
	t.Helper()
	files, err := a.Render()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(Handler(files))
	t.Cleanup(srv.Close)
	return srv.URL
}

// Handler serves files by their paths, ranges included.
func Handler(files map[string][]byte) http.Handler {
	return http.FileServerFS(FS(files))
}

// FS returns the files as a file system.
func FS(files map[string][]byte) fstest.MapFS {
	fsys := make(fstest.MapFS, len(files))
	for name, data := range files {
		fsys[name] = &fstest.MapFile{Data: data, Mode: 0o644, ModTime: Date()}
	}
	return fsys
}

// Render returns all files by their paths below the base URL.
func (a *Archive) Render() (map[string][]byte, error) {
	files := make(map[string][]byte)
	for _, s := range a.Suites {
		own, err := s.render()
		if err != nil {
			return nil, fmt.Errorf("cannot render %s: %w", s.Dir, err)
		}
		for _, name := range slices.Sorted(maps.Keys(own)) {
			data := own[name]
			if s.Final != nil {
				if data = s.Final(name, data); data == nil {
					continue
				}
			}
			files[name] = data
		}
	}
	return files, nil
}

func (s *Suite) render() (map[string][]byte, error) {
	files := make(map[string][]byte)
	indexes := make(map[string]*strings.Builder)
	for _, c := range s.Components {
		for _, arch := range s.Architectures {
			if arch == "all" && !s.AllApart {
				continue
			}
			indexes[c+"/binary-"+arch+"/Packages"] = new(strings.Builder)
			indexes[c+"/debian-installer/binary-"+arch+"/Packages"] = new(strings.Builder)
		}
	}
	for _, c := range s.Components {
		indexes[c+"/i18n/Translation-en"] = new(strings.Builder)
	}
	for _, p := range s.Packages {
		if err := s.renderPackage(p, files, indexes); err != nil {
			return nil, err
		}
	}
	var sums strings.Builder
	for _, name := range slices.Sorted(maps.Keys(indexes)) {
		text := indexes[name].String()
		if s.Index != nil {
			text = s.Index(name, text)
		}
		for _, ext := range []string{"", ".gz", ".xz"} {
			there := slices.Contains(s.Compressions, ext)
			if !there && !slices.Contains(s.Listed, ext) {
				continue
			}
			data, err := compress([]byte(text), ext)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&sums, "\n %s %8d %s", sum(data), len(data), name+ext)
			if there {
				files["dists/"+s.Dir+"/"+name+ext] = data
			}
			if there && s.ByHash {
				files["dists/"+s.Dir+"/"+path.Dir(name)+"/by-hash/SHA256/"+sum(data)] = data
			}
		}
	}
	return files, s.renderRelease(files, sums.String())
}

// renderPackage puts the package into the pool and its stanza into the indexes.
func (s *Suite) renderPackage(p *Package, files map[string][]byte, indexes map[string]*strings.Builder) error {
	data, err := p.file(s.Date)
	if err != nil {
		return err
	}
	component := p.Component
	if component == "" {
		component = "main"
	}
	name, version, arch := p.Control.Get("Package"), p.Control.Get("Version"), p.Control.Get("Architecture")
	ext, dir := ".deb", ""
	if p.Udeb {
		ext, dir = ".udeb", "debian-installer/"
	}
	_, upstream, found := strings.Cut(version, ":")
	if !found {
		upstream = version
	}
	file := fmt.Sprintf("pool/%s/%s/%s/%s_%s_%s%s", component, name[:1], name, name, upstream, arch, ext)
	if !p.Absent {
		files[file] = data
	}
	stanza := p.control().
		Set("Filename", file).
		Set("Size", strconv.Itoa(len(data))).
		Set("SHA256", sum(data))
	for _, f := range p.Stanza {
		stanza = stanza.Set(f.Name, f.Value)
	}
	if b := indexes[component+"/i18n/Translation-en"]; b != nil && !p.Udeb {
		fmt.Fprintf(b, "Package: %s\nDescription-md5: %x\nDescription-en: %s\n\n", name, md5.Sum([]byte(stanza.Get("Description")+"\n")), stanza.Get("Description"))
	}
	for _, a := range s.Architectures {
		if everywhere := arch == "all" && !s.AllApart; a != arch && !everywhere || a == "all" && everywhere {
			continue
		}
		b := indexes[component+"/"+dir+"binary-"+a+"/Packages"]
		if b == nil {
			return fmt.Errorf("package %q: no component %q", name, component)
		}
		b.WriteString(stanza.String() + "\n")
	}
	return nil
}

// control returns the control file with the fields that every package has.
func (p *Package) control() deb.Control {
	c := slices.Clone(p.Control)
	defaults := deb.Control{
		{Name: "Maintainer", Value: "Nobody <nobody@example.org>"},
		{Name: "Description", Value: "test package " + c.Get("Package")},
	}
	for _, f := range defaults {
		if c.Get(f.Name) == "" {
			c = c.Set(f.Name, f.Value)
		}
	}
	if p.Udeb && c.Get("Section") == "" {
		c = c.Set("Section", "debian-installer")
	}
	return c
}

func (p *Package) file(at time.Time) ([]byte, error) {
	if p.Data != nil {
		return p.Data, nil
	}
	var b bytes.Buffer
	err := deb.Write(&b, deb.Spec{Control: p.control(), Files: p.Files, Scripts: p.Scripts, Time: at})
	return b.Bytes(), err
}

// renderRelease writes and signs the Release file.
func (s *Suite) renderRelease(files map[string][]byte, sums string) error {
	const date = "Mon, 02 Jan 2006 15:04:05 UTC"
	c := deb.Control{
		{Name: "Origin", Value: "Debian"},
		{Name: "Label", Value: "Debian"},
		{Name: "Suite", Value: s.Suite},
		{Name: "Version", Value: s.Version},
		{Name: "Codename", Value: s.Codename},
		{Name: "Date", Value: s.Date.UTC().Format(date)},
	}
	if !s.ValidUntil.IsZero() {
		c = c.Set("Valid-Until", s.ValidUntil.UTC().Format(date))
	}
	if s.ByHash {
		c = c.Set("Acquire-By-Hash", "yes")
	}
	if !s.AllApart {
		c = c.Set("No-Support-for-Architecture-all", "Packages")
	}
	text := c.Set("Architectures", strings.Join(s.Architectures, " ")).
		Set("Components", strings.Join(s.Components, " ")).
		Set("SHA256", sums).String()
	if s.Release != nil {
		text = s.Release(text)
	}
	at := s.SignedAt
	if at.IsZero() {
		at = s.Date
	}
	dir := "dists/" + s.Dir + "/"
	switch {
	case s.Key == nil:
		files[dir+"Release"] = []byte(text)
	case s.Detached:
		sig, err := s.Key.DetachSign(strings.NewReader(text), at, true)
		if err != nil {
			return err
		}
		files[dir+"Release"], files[dir+"Release.gpg"] = []byte(text), sig
	default:
		signed, err := s.Key.Clearsign([]byte(text), at)
		if err != nil {
			return err
		}
		files[dir+"InRelease"] = signed
	}
	return nil
}

func compress(data []byte, ext string) ([]byte, error) {
	var b bytes.Buffer
	switch ext {
	case "":
		return data, nil
	case ".gz":
		w := gzip.NewWriter(&b)
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
		err := w.Close()
		return b.Bytes(), err
	case ".xz":
		w, err := xz.WriterConfig{DictCap: 1 << 16}.NewWriter(&b)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
		err = w.Close()
		return b.Bytes(), err
	}
	return nil, fmt.Errorf("unknown compression %q", ext)
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}
