// Package repo lays out a Debian repository: pool/ with packages and dists/
// with the indexes of debs and udebs and a Release file that the site's key
// signs (DebianRepository/Format on the Debian wiki). It is accepted by apt,
// by debootstrap and by the installer's anna with verification on.
//
// Stanzas come from the packages' own control files, so that a repository can
// be made from a lock and the files alone, in any year; Priority and Section
// come from the archive, whose overrides are authoritative
// (Debian policy 2.5).
package repo

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"
)

// Package is one file of the pool.
type Package struct {
	// Path is the place in the repository: "pool/main/b/bash/bash_5.2_amd64.deb".
	Path string
	// File is where the bytes are now.
	File   string
	SHA256 string
	Size   int64
	// Udeb puts the package into the installer's index.
	Udeb bool
	// Priority and Section override the control file's where not empty.
	Priority, Section string
}

// Options are the inputs of Build.
type Options struct {
	Origin, Label string
	// Suite is the archive's word ("stable"), Codename its name ("trixie").
	Suite, Codename string
	Version         string // of the distribution: "13.7"; may be empty
	Description     string
	Arch            string
	Packages        []Package
	Key             *pgp.Key
	// Time is the Date of the Release file and of its signature.
	Time time.Time
	// Control returns the control stanza of a package; nil reads the file.
	Control func(Package) (deb.Control, error)
}

// component is the only one: what the site chose is one set, wherever it
// came from.
const component = "main"

// Build returns the repository as a tree with "pool" and "dists" at its top.
func Build(o Options) (*tree.Tree, error) {
	t := &tree.Tree{}
	if o.Control == nil {
		o.Control = ReadControl
	}
	packages := append([]Package(nil), o.Packages...)
	sort.Slice(packages, func(i, j int) bool { return packages[i].Path < packages[j].Path })
	var debs, udebs bytes.Buffer
	for _, p := range packages {
		if err := t.AddFile(p.Path, 0o644, p.File, p.SHA256); err != nil {
			return nil, err
		}
		stanza, err := stanza(o, p)
		if err != nil {
			return nil, err
		}
		index := &debs
		if p.Udeb {
			index = &udebs
		}
		index.WriteString(stanza)
	}
	base := path.Join("dists", o.Codename)
	files := make(map[string][]byte)
	binary := "binary-" + o.Arch
	for _, index := range []struct {
		dir  string
		data []byte
	}{
		{path.Join(component, binary), debs.Bytes()},
		{path.Join(component, "debian-installer", binary), udebs.Bytes()},
	} {
		packed, err := compress(index.data)
		if err != nil {
			return nil, err
		}
		files[path.Join(index.dir, "Packages")] = index.data
		files[path.Join(index.dir, "Packages.gz")] = packed
		files[path.Join(index.dir, "Release")] = []byte(fmt.Sprintf(
			"Archive: %s\nComponent: %s\nOrigin: %s\nLabel: %s\nArchitecture: %s\n", o.Suite, component, o.Origin, o.Label, o.Arch))
	}
	release := releaseFile(o, files)
	inline, err := o.Key.Clearsign(release, o.Time)
	if err != nil {
		return nil, fmt.Errorf("cannot sign Release: %w", err)
	}
	detached, err := o.Key.DetachSign(bytes.NewReader(release), o.Time, true)
	if err != nil {
		return nil, fmt.Errorf("cannot sign Release: %w", err)
	}
	files["Release"], files["InRelease"], files["Release.gpg"] = release, inline, detached
	for name, data := range files {
		if err := t.AddBytes(path.Join(base, name), 0o644, data); err != nil {
			return nil, err
		}
	}
	if o.Suite != "" && o.Suite != o.Codename {
		if err := t.AddLink(path.Join("dists", o.Suite), o.Codename); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// ReadControl reads the control stanza from the package's file.
func ReadControl(p Package) (deb.Control, error) {
	f, err := deb.Open(p.File)
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", p.Path, err)
	}
	defer func() { _ = f.Close() }()
	c, err := f.Control()
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", p.Path, err)
	}
	return c, nil
}

func stanza(o Options, p Package) (string, error) {
	c, err := o.Control(p)
	if err != nil {
		return "", err
	}
	c = append(deb.Control(nil), c...)
	if p.Priority != "" {
		c = c.Set("Priority", p.Priority)
	}
	if p.Section != "" {
		c = c.Set("Section", p.Section)
	}
	c = c.Set("Filename", p.Path).Set("Size", strconv.FormatInt(p.Size, 10)).Set("SHA256", p.SHA256)
	return strings.TrimRight(c.String(), "\n") + "\n\n", nil
}

func releaseFile(o Options, files map[string][]byte) []byte {
	var b bytes.Buffer
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	field("Origin", o.Origin)
	field("Label", o.Label)
	field("Suite", o.Suite)
	field("Version", o.Version)
	field("Codename", o.Codename)
	field("Date", o.Time.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"))
	field("Architectures", o.Arch)
	field("Components", component)
	field("Description", o.Description)
	b.WriteString("SHA256:\n")
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		sum := sha256.Sum256(files[name])
		fmt.Fprintf(&b, " %s %8d %s\n", hex.EncodeToString(sum[:]), len(files[name]), name)
	}
	return b.Bytes()
}

func compress(data []byte) ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
