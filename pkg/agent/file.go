package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFile bounds the files of the system that a step reads, in bytes.
const maxFile = 4 << 20

// file is one file that a step wants.
type file struct {
	name string // below the root, without a leading slash
	data string
	mode fs.FileMode
}

// writeFile writes beside name, syncs, renames and syncs the directory, so that
// after a power cut there is the old file or the new one. A file left beside it
// by an earlier cut is overwritten.
func writeFile(name string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(dir, "."+filepath.Base(name)+".sci-new")
	if err := writeSync(tmp, data, mode); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}

func writeSync(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// path is where name is under the root directory.
func (n *Node) path(name string) string { return filepath.Join(n.Root, name) }

// read returns a bounded file; a missing one is empty and not there.
func (n *Node) read(name string) (data []byte, there bool, err error) {
	data, err = readBounded(n.path(name), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return data, err == nil, err
}

// readBounded reads a file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("cannot read %s: more than %d bytes", name, limit)
	}
	return data, nil
}

// exists reports whether name is there, links followed.
func (n *Node) exists(name string) bool {
	_, err := os.Stat(n.path(name))
	return err == nil
}

// same reports whether f is in place: a regular file with this content and mode.
func (n *Node) same(f file) (bool, error) {
	info, err := os.Lstat(n.path(f.name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode() != f.mode {
		return false, nil
	}
	data, _, err := n.read(f.name)
	return err == nil && bytes.Equal(data, []byte(f.data)), err
}

// allSame reports whether all files are in place and none of stale is.
func (n *Node) allSame(files []file, stale []string) (bool, error) {
	for _, f := range files {
		if ok, err := n.same(f); !ok || err != nil {
			return false, err
		}
	}
	for _, name := range stale {
		if _, err := os.Lstat(n.path(name)); err == nil {
			return false, nil
		}
	}
	return true, nil
}

// put writes those files that differ, removes stale ones and reports whether
// anything changed.
func (n *Node) put(files []file, stale []string) (changed bool, err error) {
	for _, f := range files {
		ok, err := n.same(f)
		if err != nil {
			return changed, err
		}
		if ok {
			continue
		}
		if err := writeFile(n.path(f.name), []byte(f.data), f.mode); err != nil {
			return changed, fmt.Errorf("cannot write %s: %w", n.path(f.name), err)
		}
		changed = true
	}
	for _, name := range stale {
		switch err := os.Remove(n.path(name)); {
		case err == nil:
			changed = true
		case !errors.Is(err, fs.ErrNotExist):
			return changed, err
		}
	}
	return changed, nil
}

// addLine adds a line to a text whose last one may lack its end.
func addLine(text, line string) string {
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	return text + line + "\n"
}
