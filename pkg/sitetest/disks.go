package sitetest

import (
	"context"
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
	"syscall"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/vm"
)

// A directory of kept disks holds a directory for each host, with disk.img as
// the installer left it and the UEFI variables, and diskRecord, which is written
// last. When the site has become a cluster, each host has formedImage as well,
// what differs from disk.img since then, and diskRecord says so.
const (
	diskRecord  = "disks.json"
	diskImage   = "disk.img" // as package installtest names it
	formedImage = "formed.qcow2"
)

// identity is what diskRecord says the disks were made from.
type identity struct {
	ISO      string      `json:"isoSHA256"`
	Firmware vm.Firmware `json:"firmware"`
	Hosts    []string    `json:"hosts"`
	// Formed says that there are disks of the cluster.
	Formed bool `json:"formed,omitempty"`
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
		t.identity.Formed, err = t.identity.check(t.o.Disks)
		return err
	}
	if _, err := os.Stat(filepath.Join(t.o.KeepDisks, diskRecord)); err == nil {
		return hint.New(fmt.Errorf("cannot keep disks in %q: it holds disks already", t.o.KeepDisks), "start from them with --disks, or name another directory")
	}
	return nil
}

// check says why the disks in dir are not the ones of this test, or whether
// there are those of a cluster.
func (id identity) check(dir string) (formed bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, diskRecord))
	if errors.Is(err, fs.ErrNotExist) {
		return false, hint.New(fmt.Errorf("cannot start from the disks in %q: it has no %s", dir, diskRecord), "a test with --keep-disks writes it when all hosts are installed")
	}
	var kept identity
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	again := "install again, with --keep-disks"
	switch {
	case err != nil:
		return false, fmt.Errorf("cannot start from the disks in %q: %w", dir, err)
	case kept.ISO != id.ISO:
		return false, hint.New(fmt.Errorf("cannot start from the disks in %q: they were installed from another ISO (SHA-256 %.12s…, this one is %.12s…)", dir, kept.ISO, id.ISO), again)
	case kept.Firmware != id.Firmware:
		return false, hint.New(fmt.Errorf("cannot start from the disks in %q: they were installed with firmware %s", dir, kept.Firmware), "add --firmware "+string(kept.Firmware))
	}
	for _, h := range id.Hosts {
		if !slices.Contains(kept.Hosts, h) {
			return false, hint.New(fmt.Errorf("cannot start from the disks in %q: there is none of host %s", dir, h), again)
		}
	}
	return kept.Formed, nil
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

// copies has the hosts start from copies of the disks in dir, which are images of
// that name.
func (t *test) copies(dir, image string) error {
	for _, n := range t.nodes {
		if err := n.startFrom(n.host.place(dir), image, n.host.place(t.o.WorkDir)); err != nil {
			return err
		}
	}
	return nil
}

// startFrom has a machine start from a copy of an image in the directory from,
// and of the UEFI variables there. The copies are in work, which is created.
func (n *node) startFrom(from, image, work string) error {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return fmt.Errorf("cannot create work directory: %w", err)
	}
	for _, path := range variables(from) {
		if err := copyFile(filepath.Join(work, filepath.Base(path)), path); err != nil {
			return fmt.Errorf("cannot copy UEFI variables: %w", err)
		}
	}
	n.session.StartFrom(filepath.Join(from, image), work)
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
	if err := t.identity.write(t.o.KeepDisks); err != nil {
		return err
	}
	return t.copies(t.o.KeepDisks, diskImage)
}

func (id identity) write(dir string) error {
	data, err := json.MarshalIndent(id, "", "  ")
	path := filepath.Join(dir, diskRecord)
	if err == nil {
		err = os.WriteFile(path+".new", append(data, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("cannot keep disks: %w", err)
	}
	return nil
}

// keepFormed adds the disks of the cluster, whose machines have been shut down,
// to the installed ones that they began as. A cluster that something is wrong
// with is none to start from.
func (t *test) keepFormed(ctx context.Context) error {
	dir := t.o.Disks
	if dir == "" {
		dir = t.o.KeepDisks
	}
	if dir == "" || t.identity.Formed || !t.o.Cluster || len(t.report.Failed()) > 0 {
		return nil
	}
	for _, n := range t.nodes {
		n.session.Close()
		to := filepath.Join(n.host.place(dir), formedImage)
		if err := move(to, n.session.Disk()); err != nil {
			return fmt.Errorf("cannot keep disks: %w", err)
		}
		// By a name beside it, so that the directory may be moved.
		if err := vm.Rebase(ctx, t.o.QEMURoot, to, diskImage); err != nil {
			return err
		}
	}
	t.identity.Formed = true
	return t.identity.write(dir)
}

// move renames a file, to another file system too.
func move(dst, src string) error {
	err := os.Rename(src, dst)
	if err == nil || !errors.Is(err, syscall.EXDEV) {
		return err
	}
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(), os.Remove(src))
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
