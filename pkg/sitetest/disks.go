package sitetest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/vm"
)

// A directory of kept disks holds a directory for each host, with disk.img as
// the installer left it and the UEFI variables, and diskRecord, which is written
// last.
const (
	diskRecord = "disks.json"
	diskImage  = "disk.img" // as package installtest names it
)

// identity is what diskRecord says the disks were made from.
type identity struct {
	ISO      string      `json:"isoSHA256"`
	Firmware vm.Firmware `json:"firmware"`
	Hosts    []string    `json:"hosts"`
}

// disks looks at the directories that disks are kept in.
func (t *test) disks() error {
	if t.o.KeepDisks == "" && t.o.Disks == "" {
		return nil
	}
	sum, err := digest(t.o.ISO)
	if err != nil {
		return err
	}
	t.identity = identity{ISO: sum, Firmware: t.o.Firmware}
	for _, h := range t.o.Hosts {
		t.identity.Hosts = append(t.identity.Hosts, h.Name)
	}
	if t.o.Disks != "" {
		return t.identity.check(t.o.Disks)
	}
	if _, err := os.Stat(filepath.Join(t.o.KeepDisks, diskRecord)); err == nil {
		return hint.New(fmt.Errorf("cannot keep disks in %q: it holds disks already", t.o.KeepDisks), "start from them with --disks, or name another directory")
	}
	return nil
}

// check says why the disks in dir are not the ones of this test.
func (id identity) check(dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, diskRecord))
	if errors.Is(err, fs.ErrNotExist) {
		return hint.New(fmt.Errorf("cannot start from the disks in %q: it has no %s", dir, diskRecord), "a test with --keep-disks writes it when all hosts are installed")
	}
	var kept identity
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	again := "install again, with --keep-disks"
	switch {
	case err != nil:
		return fmt.Errorf("cannot start from the disks in %q: %w", dir, err)
	case kept.ISO != id.ISO:
		return hint.New(fmt.Errorf("cannot start from the disks in %q: they were installed from another ISO (SHA-256 %.12s…, this one is %.12s…)", dir, kept.ISO, id.ISO), again)
	case kept.Firmware != id.Firmware:
		return hint.New(fmt.Errorf("cannot start from the disks in %q: they were installed with firmware %s", dir, kept.Firmware), "add --firmware "+string(kept.Firmware))
	}
	for _, h := range id.Hosts {
		if !slices.Contains(kept.Hosts, h) {
			return hint.New(fmt.Errorf("cannot start from the disks in %q: there is none of host %s", dir, h), again)
		}
	}
	return nil
}

// place is the directory of a host below another one.
func (h Host) place(dir string) string { return filepath.Join(dir, h.Name) }

// room makes the directory that a host is installed in. What an earlier test
// began to install there is no disk to keep.
func (t *test) room(h Host) (string, error) {
	dir := h.place(t.o.WorkDir)
	if t.o.KeepDisks != "" {
		dir = h.place(t.o.KeepDisks)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot create directory of a disk: %w", err)
	}
	for _, old := range append(variables(dir), filepath.Join(dir, diskImage)) {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("cannot remove old disk: %w", err)
		}
	}
	return dir, nil
}

// copies has the hosts start from copies of the disks in dir.
func (t *test) copies(dir string) error {
	for _, n := range t.nodes {
		from, work := n.host.place(dir), n.host.place(t.o.WorkDir)
		if err := os.MkdirAll(work, 0o755); err != nil {
			return fmt.Errorf("cannot create work directory: %w", err)
		}
		for _, path := range variables(from) {
			if err := copyFile(filepath.Join(work, filepath.Base(path)), path); err != nil {
				return fmt.Errorf("cannot copy UEFI variables: %w", err)
			}
		}
		n.session.StartFrom(filepath.Join(from, diskImage), work)
	}
	return nil
}

// variables are the UEFI variables in dir, see vm.Options.Vars.
func variables(dir string) []string {
	list, _ := filepath.Glob(filepath.Join(dir, "efivars-*.fd")) // no bad pattern
	return list
}

// keep records the installed disks and leaves them alone from now on.
func (t *test) keep() error {
	if t.o.KeepDisks == "" {
		return nil
	}
	data, err := json.MarshalIndent(t.identity, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(t.o.KeepDisks, diskRecord), append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot keep disks: %w", err)
	}
	return t.copies(t.o.KeepDisks)
}

func copyFile(dst, src string) error {
	data, err := os.ReadFile(src) // half a MiB
	if err == nil {
		err = os.WriteFile(dst, data, 0o600)
	}
	return err
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read image: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("cannot read image: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
