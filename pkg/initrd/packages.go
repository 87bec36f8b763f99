package initrd

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/tree"
)

// maxFile bounds one file of a udeb or tool in memory, in bytes.
const maxFile = 64 << 20

// addUdeb unpacks a udeb and registers it as udpkg would have, its questions in
// the languages of keep.
func addUdeb(t *tree.Tree, status *status, stock *Stock, keep map[string]bool, file string) error {
	f, err := deb.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	control, err := f.Control()
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", file, err)
	}
	name := control.Get("Package")
	if kernel := control.Get("Kernel-Version"); kernel != "" && kernel != stock.ABI {
		return fmt.Errorf("cannot add udeb %s: it is for kernel %s, the installer's is %s", name, kernel, stock.ABI)
	}
	if err := addData(t, stock, f, func(string) bool { return true }); err != nil {
		return fmt.Errorf("cannot unpack udeb %s: %w", name, err)
	}
	members, err := f.ControlFiles()
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", file, err)
	}
	for _, member := range sortedKeys(members) {
		if member == "control" || member == "md5sums" {
			continue
		}
		if member == "templates" {
			members[member] = cutTemplates(members[member], keep)
		}
		mode := fs.FileMode(0o755)
		if member == "templates" || member == "shlibs" || member == "triggers" {
			mode = 0o644
		}
		if err := t.AddBytes(path.Join(infoDir, name+"."+member), mode, members[member]); err != nil {
			return fmt.Errorf("cannot register udeb %s: %w", name, err)
		}
	}
	status.add(control)
	return nil
}

func addTool(t *tree.Tree, stock *Stock, tool Tool) error {
	f, err := deb.Open(tool.Deb)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	found := make(map[string]bool)
	err = addData(t, stock, f, func(name string) bool {
		for _, pattern := range tool.Files {
			if ok, _ := path.Match(pattern, strings.TrimPrefix(name, "usr/")); ok {
				found[pattern] = true
				return !stock.paths[stock.Place(name)]
			}
		}
		return false
	})
	if err != nil {
		return fmt.Errorf("cannot unpack %q: %w", tool.Deb, err)
	}
	for _, pattern := range tool.Files {
		if !found[pattern] {
			return fmt.Errorf("cannot take %q from %q: no such file in the package", pattern, tool.Deb)
		}
	}
	return nil
}

// addData puts the files of a package that want accepts into the tree, where
// the stock initrd has their directories.
func addData(t *tree.Tree, stock *Stock, f *deb.File, want func(name string) bool) error {
	return f.Data(func(h *tar.Header, r io.Reader) error {
		name := stock.Place(h.Name)
		if name == "" || name == "." || !want(h.Name) {
			return nil
		}
		switch h.Typeflag {
		case tar.TypeDir:
			if e, ok := t.Lookup(name); ok && e.Mode.IsDir() {
				return nil
			}
			return t.AddDir(name, fs.FileMode(h.Mode).Perm())
		case tar.TypeSymlink:
			return t.AddLink(name, h.Linkname)
		case tar.TypeLink:
			old, ok := t.Lookup(stock.Place(path.Clean(strings.TrimPrefix(h.Linkname, "./"))))
			if !ok {
				return fmt.Errorf("%q: hard link to %q, which is not there", name, h.Linkname)
			}
			old.Path = name
			return t.Add(old)
		case tar.TypeReg:
			if h.Size > maxFile {
				return fmt.Errorf("%q: %d bytes are more than expected", name, h.Size)
			}
			data, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			return t.AddBytes(name, fs.FileMode(h.Mode).Perm(), data)
		}
		return fmt.Errorf("%q: unsupported type %q", name, h.Typeflag)
	})
}

func addMenuItem(t *tree.Tree, status *status, item MenuItem) error {
	c := deb.Control{
		{Name: "Package", Value: item.Name},
		{Name: "Version", Value: "1"},
		{Name: "Description", Value: item.Description},
	}
	if item.Depends != "" {
		c = c.Set("Depends", item.Depends)
	}
	if item.Provides != "" {
		c = c.Set("Provides", item.Provides)
	}
	if item.Number > 0 {
		c = c.Set("Installer-Menu-Item", strconv.Itoa(item.Number))
		templates := fmt.Sprintf("Template: debian-installer/%s/title\nType: text\nDescription: %s\n", item.Name, item.Description)
		if err := t.AddBytes(path.Join(infoDir, item.Name+".templates"), 0o644, []byte(templates)); err != nil {
			return err
		}
	}
	status.add(c)
	if item.Postinst == "" {
		return nil
	}
	return t.AddBytes(path.Join(infoDir, item.Name+".postinst"), 0o755, []byte(item.Postinst))
}

// status is the installer's dpkg status file in the making.
type status struct {
	stanzas map[string]deb.Control
}

// statusFields are what udpkg and main-menu read, in the order of the stock
// file.
var statusFields = []string{"Version", "Provides", "Depends", "Description", "Installer-Menu-Item"}

func newStatus(stock []deb.Control, remove []string) *status {
	s := &status{stanzas: make(map[string]deb.Control)}
	for _, c := range stock {
		s.stanzas[c.Get("Package")] = c
	}
	for _, name := range remove {
		delete(s.stanzas, name)
	}
	return s
}

func (s *status) add(c deb.Control) {
	name := c.Get("Package")
	out := deb.Control{{Name: "Package", Value: name}, {Name: "Status", Value: "install ok unpacked"}}
	for _, field := range statusFields {
		if v := c.Get(field); v != "" {
			first, _, _ := strings.Cut(v, "\n")
			out = append(out, deb.Field{Name: field, Value: first})
		}
	}
	s.stanzas[name] = out
}

// bytes writes the status file. What the stanzas depend on and nothing
// provides is provided by a package "sci-virtual": modules and tools that are
// in the initrd without a udeb of their own.
func (s *status) bytes() []byte {
	provided := make(map[string]bool)
	for name, c := range s.stanzas {
		provided[name] = true
		for _, p := range relationNames(c.Get("Provides")) {
			provided[p] = true
		}
	}
	open := make(map[string]bool)
	for _, c := range s.stanzas {
		for _, d := range relationNames(c.Get("Depends")) {
			if !provided[d] {
				open[d] = true
			}
		}
	}
	if len(open) > 0 {
		s.add(deb.Control{
			{Name: "Package", Value: "sci-virtual"}, {Name: "Version", Value: "1"},
			{Name: "Provides", Value: strings.Join(sortedKeys(open), ", ")},
			{Name: "Description", Value: "Parts of the installer that come without a udeb"},
		})
	}
	var buf bytes.Buffer
	for _, name := range sortedKeys(s.stanzas) {
		buf.WriteString(strings.TrimRight(s.stanzas[name].String(), "\n"))
		buf.WriteString("\n\n")
	}
	return buf.Bytes()
}

// relationNames returns the bare names in a relation field.
func relationNames(field string) []string {
	var names []string
	for _, part := range strings.FieldsFunc(field, func(r rune) bool { return r == ',' || r == '|' }) {
		part, _, _ = strings.Cut(strings.TrimSpace(part), " ")
		part, _, _ = strings.Cut(part, ":")
		part, _, _ = strings.Cut(part, "(")
		if part != "" {
			names = append(names, part)
		}
	}
	return names
}

// checkLibraries makes sure that every program and library which t adds finds
// the shared libraries that it names (ELF DT_NEEDED) in the whole initrd.
func checkLibraries(stock *Stock, t *tree.Tree) error {
	have := make(map[string]bool)
	for p := range stock.paths {
		have[path.Base(p)] = true
	}
	entries := t.Entries()
	for _, e := range entries {
		have[path.Base(e.Path)] = true
	}
	var problems []error
	for _, e := range entries {
		if !e.Mode.IsRegular() || strings.HasPrefix(e.Path, stock.Place(modulesDir)) || e.Size < 64 {
			continue
		}
		data, err := e.ReadAll(maxFile)
		if err != nil {
			return err
		}
		if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
			continue
		}
		f, err := elf.NewFile(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("cannot read %q: %w", e.Path, err)
		}
		libs, err := f.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("cannot read %q: %w", e.Path, err)
		}
		for _, lib := range libs {
			if !have[lib] {
				problems = append(problems, fmt.Errorf("%q needs %s, which is not in the installer", e.Path, lib))
			}
		}
	}
	return errors.Join(problems...)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
