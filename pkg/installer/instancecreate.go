package installer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// createInstance is the script create: a Debian of the instance's class on its
// first disk, out of this node's copy of the medium, by the verbs that install
// nodes too. What the disk held is lost; a create that was cut off is repeated.
func createInstance(ctx context.Context, o OSOptions, in *instance) (err error) {
	s, err := nodeSite(o)
	if err != nil {
		return err
	}
	s, h, err := instanceHost(s, in)
	if err != nil {
		return err
	}
	name, err := in.systemDisk()
	if err != nil {
		return err
	}
	say(o.Console, "instance %s, class %s, disk %s", in.name, in.class, name)
	if err := trustMedium(o, h); err != nil {
		return err
	}
	d, err := attach(o, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := seclude(o, d); err != nil {
		return err
	}
	v, err := o.verbs(s, h)
	if err != nil {
		return err
	}
	// A mount that is left would keep the disk in use until our process ends.
	defer func() { err = errors.Join(err, unmountAll(v.Proc, v.Target)) }()
	if err := checkImage(ctx, v, s, h); err != nil {
		return err
	}
	if err := divide(ctx, v, d); err != nil {
		return err
	}
	for _, verb := range []func(context.Context, Options) error{Base, Packages, Boot} {
		if err := verb(ctx, v); err != nil {
			return err
		}
	}
	if err := finishInstance(ctx, o, v, s, h); err != nil {
		return err
	}
	if err := unmountAll(v.Proc, v.Target); err != nil {
		return err
	}
	if err := finishTable(d.node, d.size, sector, diskRecipe(d.size).Partitions[0].Name); err != nil {
		return err
	}
	say(o.Console, "instance %s is made", in.name)
	return nil
}

// verbs are the installer's options for a virtual machine, and its site and host
// where the verbs look for them.
func (o OSOptions) verbs(s *site.Site, h *site.Host) (Options, error) {
	v := Options{
		Console: o.Console, Log: o.Log, Runner: o.Runner,
		Sys:  biosOnly{os.DirFS("/sys")},
		Site: filepath.Join(o.Work, "site.json"), Key: o.path(nodeKeyFile), Medium: o.path(nodeMedium),
		Target: filepath.Join(o.Work, "target"), State: filepath.Join(o.Work, "state"),
		// The node's clock is not ours to set; a signature's own time counts then.
		SetClock: func(time.Time) error { return nil },
	}.withDefaults()
	data, err := s.JSON()
	if err == nil {
		err = writeFile(v.Site, data, 0o600)
	}
	if err == nil {
		err = os.MkdirAll(v.Target, 0o755)
	}
	if err != nil {
		return v, fmt.Errorf("cannot prepare the work: %w", err)
	}
	return v, remember(v, "host", h.Name)
}

// biosOnly is the kernel's sysfs of a machine without UEFI, which the node may
// have and a virtual machine has not.
type biosOnly struct{ fs.FS }

// Open hides the firmware's directory.
func (b biosOnly) Open(name string) (fs.File, error) {
	if name == "firmware/efi" || strings.HasPrefix(name, "firmware/efi/") {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return b.FS.Open(name)
}

// divide divides the disk, makes its file systems and mounts them.
func divide(ctx context.Context, v Options, d *virtualDisk) error {
	say(v.Console, "phase disks")
	layout, err := diskRecipe(d.size).Plan(Disk{Path: d.node, Size: d.size, Sector: sector})
	if err != nil {
		return err
	}
	var parts []gptPart
	for _, p := range layout.Partitions {
		parts = append(parts, gptPart{Number: p.Number, Start: p.Start, Size: p.Size})
	}
	err = Partition(ctx, PartitionOptions{Runner: v.Runner, Log: v.Log, Layout: layout, Dev: v.Dev, Target: v.Target,
		Reread: func(ctx context.Context, _ string, _ []string) error { return d.partitions(ctx, parts) }})
	if err != nil {
		return err
	}
	if err := d.nameByUUID(v); err != nil {
		return err
	}
	return remember(v, "disk", d.node)
}

// nameByUUID makes the links by which grub-mkconfig decides to name the root file
// system by its UUID; udev, which makes them elsewhere, does not work on this disk.
func (d *virtualDisk) nameByUUID(v Options) error {
	ids, err := fstabUUIDs(filepath.Join(v.Target, "etc/fstab"))
	if err != nil {
		return err
	}
	for point, n := range map[string]int{"/": rootPartition, "none": swapPartition} {
		name := filepath.Join(v.Dev, "disk/by-uuid", ids[point])
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink("../../"+filepath.Base(d.part(n)), name); err != nil {
			return err
		}
	}
	return nil
}

// fstabUUIDs are the UUIDs in a fstab by mount point.
func fstabUUIDs(name string) (map[string]string, error) {
	data, err := readBounded(name, 1<<20)
	if err != nil {
		return nil, err
	}
	ids := make(map[string]string)
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Fields(line); len(f) > 1 {
			if id, ok := strings.CutPrefix(f[0], "UUID="); ok {
				ids[f[1]] = id
			}
		}
	}
	return ids, nil
}

// finishInstance is the verb finish of a virtual machine: no copy of the medium,
// and what makes this machine itself.
func finishInstance(ctx context.Context, o OSOptions, v Options, s *site.Site, h *site.Host) error {
	say(v.Console, "phase finish")
	siteJSON, err := readBounded(v.Site, 4<<20)
	if err != nil {
		return err
	}
	return within(ctx, v, func(c *chroot) error {
		if err := c.identity(h, siteJSON); err != nil {
			return err
		}
		if err := c.ownID(); err != nil {
			return err
		}
		if err := c.rootAccount(ctx, s); err != nil {
			return err
		}
		if err := c.challenge(o, s, h); err != nil {
			return err
		}
		if err := c.scripts(ctx, h); err != nil {
			return err
		}
		if h.Role == site.ServiceRole && o.Seed != nil {
			say(v.Console, "phase seed")
			if err := o.Seed(ctx, v.Medium, v.Target); err != nil {
				return err
			}
		}
		return c.tidy(ctx)
	})
}

// ownID gives the system an identity of its own.
func (c *chroot) ownID() error {
	id, err := machineID(rand.Reader)
	if err != nil {
		return err
	}
	return c.write("/etc/machine-id", id+"\n", 0o444)
}

// lendTo lets a group of the new system read a file; where there is no such group
// it stays root's alone.
func (c *chroot) lendTo(group, name string) error {
	data, err := readBounded(filepath.Join(c.o.Target, "etc/group"), 1<<20)
	if err != nil {
		return err
	}
	sc := bufio.NewScanner(bytes.NewReader(data))
	for sc.Scan() {
		f := strings.Split(sc.Text(), ":")
		if len(f) < 3 || f[0] != group {
			continue
		}
		gid, err := strconv.Atoi(f[2])
		if err != nil {
			return fmt.Errorf("group %s has the number %q", group, f[2])
		}
		root, err := os.OpenRoot(c.o.Target)
		if err != nil {
			return err
		}
		defer func() { _ = root.Close() }()
		rel := strings.TrimPrefix(name, "/")
		return errors.Join(root.Lchown(rel, 0, gid), root.Chmod(rel, 0o640))
	}
	return sc.Err()
}

// trustMedium checks by the site's key what is taken from the medium outside of
// its archive: the files of the class. Golden images and packages are checked
// where they are read.
func trustMedium(o OSOptions, h *site.Host) error {
	v := Options{Medium: o.path(nodeMedium), Key: o.path(nodeKeyFile)}.withDefaults()
	ring, err := siteKeys(v)
	if err != nil {
		return err
	}
	if err := believed(v, ring); err != nil {
		return hint.New(fmt.Errorf("cannot believe the copy of the medium at %s: %w", v.Medium, err), "is it mounted? mount "+mediaDir)
	}
	sums, err := readBounded(filepath.Join(v.Medium, "SHA256SUMS"), maxSums)
	if err != nil {
		return err
	}
	want := make(map[string]string)
	for _, line := range strings.Split(string(sums), "\n") {
		if sum, name, ok := strings.Cut(line, "  "); ok {
			want[strings.TrimPrefix(name, "./")] = sum
		}
	}
	dir := roleDir(v, h)
	if _, err := os.Stat(filepath.Join(dir, "packages")); err != nil {
		return fmt.Errorf("the copy of the medium has no class %s: %w", h.Class(), err)
	}
	return filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(name, imageLayer) {
			return err
		}
		rel, err := filepath.Rel(v.Medium, name)
		if err != nil {
			return err
		}
		got, err := fileSum(name)
		if err == nil && got != want[rel] {
			err = fmt.Errorf("cannot believe %s: its digest is %s, and the signed list says %q", name, got, want[rel])
		}
		return err
	})
}

// imageLayer ends the names of a golden image's layers.
const imageLayer = ".tar.zst"

func fileSum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
