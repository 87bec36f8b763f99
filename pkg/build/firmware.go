package build

import (
	"archive/tar"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/tree"
)

// firmware returns the directory firmware/ as d-i's check-missing-firmware
// expects it: the packages again under their plain names (on the disc the same
// extents as in the pool), and Contents-firmware, which maps each file that a
// driver may ask for to its package and component.
func firmware(o Options, l *lock.Lock, files map[string]string) (*tree.Tree, error) {
	t := &tree.Tree{}
	var contents []string
	for _, p := range l.Packages {
		if !inPool(p) || !strings.HasPrefix(p.Section, "non-free-firmware/") {
			continue
		}
		name := path.Base(p.Path)
		list, err := derived(o, "firmware-files", p.SHA256, func() ([]byte, error) { return firmwareFiles(files[p.SHA256]) })
		if err != nil {
			return nil, err
		}
		for _, file := range strings.Fields(string(list)) {
			contents = append(contents, fmt.Sprintf("%s %s non-free-firmware\n", file, name))
		}
		if err := t.AddFile(name, 0o644, files[p.SHA256], p.SHA256); err != nil {
			return nil, err
		}
	}
	sort.Strings(contents)
	return t, t.AddBytes("Contents-firmware", 0o644, []byte(strings.Join(contents, "")))
}

// firmwareFiles lists the files below lib/firmware/ of a package, a line each.
func firmwareFiles(file string) ([]byte, error) {
	f, err := deb.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var b strings.Builder
	err = f.Data(func(h *tar.Header, _ io.Reader) error {
		name, ok := strings.CutPrefix(strings.TrimPrefix(h.Name, "usr/"), "lib/firmware/")
		if ok && name != "" && h.Typeflag != tar.TypeDir && !strings.ContainsAny(name, " \n") {
			b.WriteString("/lib/firmware/" + name + "\n")
		}
		return nil
	})
	return []byte(b.String()), err
}
