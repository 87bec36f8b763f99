package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/tree"
)

// Overlay returns what is laid over the root directory of machines of that
// class (see site.Host.Class): the files below default/ in fsys, then those of
// the role, then those of the class's further profiles. A later file replaces
// an earlier one of the same path. A directory that is missing is empty.
//
// Modes come from a rule, never from the checkout, which the umask of whoever
// made it has changed: directories are 0755; a file is 0755 if it lies in a
// directory named bin or sbin or begins with "#!", else 0644; root owns all.
// Times are left zero.
func Overlay(fsys fs.FS, class string) (*tree.Tree, error) {
	t := new(tree.Tree)
	for _, layer := range append([]string{Default}, strings.Split(class, "+")...) {
		if err := lay(t, fsys, layer); err != nil {
			return nil, fmt.Errorf("cannot read overlay of %q: %w", layer, err)
		}
	}
	return t, nil
}

func lay(t *tree.Tree, fsys fs.FS, layer string) error {
	return fs.WalkDir(fsys, layer, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == layer {
			return fs.SkipAll
		}
		if err != nil || name == layer {
			return err
		}
		target := strings.TrimPrefix(name, layer+"/")
		if d.IsDir() {
			return t.AddDir(target, 0o755)
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%s is neither a file nor a directory", name)
		}
		f, err := fsys.Open(name)
		if err != nil {
			return err
		}
		data, err := readLimited(f, name, extraLimit)
		if err != nil {
			return err
		}
		if old, ok := t.Lookup(target); ok && !old.Mode.IsDir() {
			t.Remove(target)
		}
		return t.AddBytes(target, mode(target, data), data)
	})
}

func mode(target string, data []byte) fs.FileMode {
	dirs := strings.Split(path.Dir(target), "/")
	if slices.Contains(dirs, "bin") || slices.Contains(dirs, "sbin") || bytes.HasPrefix(data, []byte("#!")) {
		return 0o755
	}
	return 0o644
}
