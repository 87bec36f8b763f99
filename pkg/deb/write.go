package deb

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/skycover/sci-cd/pkg/tree"
)

// Spec is a package to be written.
type Spec struct {
	// Control must have Package, Version, Architecture, Maintainer and
	// Description. Installed-Size is set by Write.
	Control Control
	// Files is what the package installs; nil is nothing. Modification times
	// later than Time are clamped to it, as are missing ones.
	Files *tree.Tree
	// Scripts are the other members of control.tar by name: preinst, postinst,
	// prerm, postrm, config (mode 0755), templates, triggers and so on (0644).
	Scripts map[string][]byte
	// Conffiles are absolute paths of regular files in Files.
	Conffiles []string
	// Time stamps everything; whole seconds.
	Time time.Time
}

// Write writes a .deb, the same bytes for the same Spec. Members are packed by
// gzip, which dpkg has read for 25 years, and held in memory until their length
// is known: it is meant for packages of some megabytes, our own.
//
// Tar entries are in GNU format, as deb(5) wants (pax headers are refused by
// dpkg), owned by the numbers in Files; md5sums are written as dh_md5sums does,
// without conffiles, and not for udebs (Section debian-installer).
func Write(w io.Writer, s Spec) error {
	name := s.Control.Get("Package")
	if err := s.check(); err != nil {
		return fmt.Errorf("cannot write package %q: %w", name, err)
	}
	data, sums, err := s.data()
	if err != nil {
		return fmt.Errorf("cannot write package %q: %w", name, err)
	}
	control, err := s.control(sums)
	if err != nil {
		return fmt.Errorf("cannot write package %q: %w", name, err)
	}
	if _, err := io.WriteString(w, arMagic); err != nil {
		return fmt.Errorf("cannot write package %q: %w", name, err)
	}
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", control}, {"data.tar.gz", data}} {
		out := slices.Concat([]byte(arMemberHeader(m.name, s.Time.Unix(), int64(len(m.data)))), m.data)
		if len(m.data)%2 == 1 {
			out = append(out, '\n')
		}
		if _, err := w.Write(out); err != nil {
			return fmt.Errorf("cannot write package %q: %w", name, err)
		}
	}
	return nil
}

// check refuses what dpkg would refuse, or take and stumble over later.
func (s Spec) check() error {
	c := s.Control
	if err := c.Check(); err != nil {
		return err
	}
	for _, f := range []string{"Package", "Version", "Architecture", "Maintainer", "Description"} {
		if c.Get(f) == "" {
			return fmt.Errorf("no field %s", f)
		}
	}
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`).MatchString(c.Get("Package")) {
		return fmt.Errorf("%q is no package name", c.Get("Package"))
	}
	if err := Valid(c.Get("Version")); err != nil {
		return err
	}
	for _, f := range []string{"Pre-Depends", "Depends", "Recommends", "Suggests", "Enhances", "Conflicts", "Breaks", "Provides", "Replaces"} {
		if _, err := ParseRelations(c.Get(f)); err != nil {
			return fmt.Errorf("field %s: %w", f, err)
		}
	}
	if t := s.Time.Unix(); t < 0 || t > 1<<33-1 {
		return fmt.Errorf("time %s does not fit a tar header", s.Time.UTC().Format(time.RFC3339))
	}
	for name := range s.Scripts {
		if name == "" || path.Base(name) != name || slices.Contains([]string{"control", "md5sums", "conffiles", ".", ".."}, name) {
			return fmt.Errorf("%q is no name for a script", name)
		}
	}
	for i, name := range s.Conffiles {
		e, ok := s.lookup(name)
		switch {
		case path.Clean(name) != name || !path.IsAbs(name):
			return fmt.Errorf("conffile %q is no clean absolute path", name)
		case !ok || !e.Mode.IsRegular():
			return fmt.Errorf("conffile %q is no file of the package", name)
		case slices.Contains(s.Conffiles[:i], name):
			return fmt.Errorf("conffile %q is named twice", name)
		}
	}
	return nil
}

func (s Spec) lookup(name string) (tree.Entry, bool) {
	if s.Files == nil {
		return tree.Entry{}, false
	}
	return s.Files.Lookup(strings.TrimPrefix(name, "/"))
}

// sums is what data learns on its way for control.
type sums struct {
	md5  strings.Builder
	size int64 // KiB
}

// data renders data.tar.gz.
func (s Spec) data() ([]byte, *sums, error) {
	t, err := newTarball(s.Time)
	if err != nil {
		return nil, nil, err
	}
	total := new(sums)
	if s.Files != nil {
		for _, e := range s.Files.Entries() {
			digest := md5.New()
			if err := t.add(e, digest); err != nil {
				return nil, nil, err
			}
			// dpkg-gencontrol(1): files and links in whole KiB, 1 KiB for anything else.
			switch {
			case !e.Mode.IsRegular():
				total.size++
				continue
			default:
				total.size += (e.Size + 1023) / 1024
			}
			if !slices.Contains(s.Conffiles, "/"+e.Path) {
				fmt.Fprintf(&total.md5, "%x  %s\n", digest.Sum(nil), escapeMD5(e.Path))
			}
		}
	}
	data, err := t.finish()
	return data, total, err
}

// escapeMD5 lets names with newlines pass as md5sum(1) does; dpkg has no such
// names and reads no escapes, so it is only a guard for the line format.
func escapeMD5(name string) string { return strings.ReplaceAll(name, "\n", `\n`) }

// control renders control.tar.gz.
func (s Spec) control(total *sums) ([]byte, error) {
	c := s.Control.Delete("Installed-Size")
	at := slices.IndexFunc(c, func(f Field) bool { return strings.EqualFold(f.Name, "Maintainer") }) + 1
	c = slices.Insert(c, at, Field{"Installed-Size", strconv.FormatInt(total.size, 10)})

	files := map[string][]byte{"control": []byte(c.String())}
	for name, data := range s.Scripts {
		files[name] = data
	}
	if total.md5.Len() > 0 && c.Get("Section") != "debian-installer" {
		files["md5sums"] = []byte(total.md5.String())
	}
	if len(s.Conffiles) > 0 {
		files["conffiles"] = []byte(strings.Join(s.Conffiles, "\n") + "\n")
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	sort.Strings(names)

	var list tree.Tree
	for _, name := range names {
		if err := list.AddBytes(name, scriptMode(name), files[name]); err != nil {
			return nil, err
		}
	}
	t, err := newTarball(s.Time)
	if err != nil {
		return nil, err
	}
	for _, e := range list.Entries() {
		if err := t.add(e, io.Discard); err != nil {
			return nil, err
		}
	}
	return t.finish()
}

// scriptMode is 0755 for what dpkg, debconf and the installer run
// (deb-control(5) and the debian-installer internals, "udeb").
func scriptMode(name string) fs.FileMode {
	switch name {
	case "preinst", "postinst", "prerm", "postrm", "config", "isinstallable", "menutest":
		return 0o755
	}
	return 0o644
}

// tarball writes a tar.gz into memory. Its first entry is the root directory.
type tarball struct {
	out  bytes.Buffer
	gz   *gzip.Writer
	tar  *tar.Writer
	time time.Time
}

func newTarball(at time.Time) (*tarball, error) {
	t := &tarball{time: at.UTC().Truncate(time.Second)}
	var err error
	if t.gz, err = gzip.NewWriterLevel(&t.out, gzip.BestCompression); err != nil {
		return nil, err
	}
	t.tar = tar.NewWriter(t.gz)
	return t, t.tar.WriteHeader(t.header("./", tar.TypeDir, 0o755))
}

func (t *tarball) header(name string, typ byte, mode int64) *tar.Header {
	return &tar.Header{
		Name: name, Typeflag: typ, Mode: mode, ModTime: t.time,
		Uname: "root", Gname: "root", Format: tar.FormatGNU,
	}
}

// add writes one entry; the bytes of a regular file go to digest as well.
func (t *tarball) add(e tree.Entry, digest io.Writer) error {
	h := t.header("./"+e.Path, tar.TypeReg, unixMode(e.Mode))
	if !e.ModTime.IsZero() && e.ModTime.Before(t.time) {
		h.ModTime = e.ModTime.UTC().Truncate(time.Second)
	}
	if h.Uid = e.UID; e.UID != 0 {
		h.Uname = ""
	}
	if h.Gid = e.GID; e.GID != 0 {
		h.Gname = ""
	}
	switch {
	case e.Mode.IsDir():
		h.Name, h.Typeflag = h.Name+"/", tar.TypeDir
	case e.Mode.Type() == fs.ModeSymlink:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, e.Link, 0o777
	default:
		h.Size = e.Size
	}
	if err := t.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if err := copyChecked(io.MultiWriter(t.tar, digest), e); err != nil {
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	return nil
}

// copyChecked copies a regular file and compares its length, and its digest if
// the entry has one.
func copyChecked(w io.Writer, e tree.Entry) error {
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	var sum hash.Hash
	if e.SHA256 != "" {
		sum = sha256.New()
		w = io.MultiWriter(w, sum)
	}
	n, err := io.Copy(w, io.LimitReader(r, e.Size))
	if err != nil {
		return err
	}
	if extra, _ := r.Read(make([]byte, 1)); n != e.Size || extra != 0 {
		return fmt.Errorf("the file has not the %d bytes that the tree says", e.Size)
	}
	if sum != nil && hex.EncodeToString(sum.Sum(nil)) != e.SHA256 {
		return fmt.Errorf("the file has not the digest that the tree says, %s", e.SHA256)
	}
	return nil
}

func (t *tarball) finish() ([]byte, error) {
	if err := t.tar.Close(); err != nil {
		return nil, err
	}
	if err := t.gz.Close(); err != nil {
		return nil, err
	}
	return t.out.Bytes(), nil
}

// unixMode is the twelve permission bits as tar has them.
func unixMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		mode |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}
