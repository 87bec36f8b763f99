package enrol

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// writeFile writes beside name, syncs, renames and syncs the directory: after a
// power cut there is the old file or the new one. What an earlier cut left
// beside it is overwritten.
func writeFile(name string, data []byte, mode fs.FileMode) error {
	tmp := name + ".sci-new"
	if err := writeSync(tmp, data, mode); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(name))
}

func writeSync(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	err = f.Chmod(mode) // before there is anything to read
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
