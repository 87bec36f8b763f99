package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

// sector is what QEMU shows an instance, whatever the disk below has.
const sector = 512

// Partitions of a virtual disk, in this order: root is the last one, so that it
// can grow with the disk. No volume group: the node's own LVM would see it.
const (
	grubPartition = 1 + iota
	swapPartition
	rootPartition
)

// diskRecipe divides a virtual disk.
func diskRecipe(bytes int64) *Recipe {
	swap := min(max(bytes/16/mib, 128), 1024)
	return &Recipe{Partitions: []RecipePartition{
		{Name: "grub", Type: "bios-boot", Size: "1M"},
		{Name: "swap", Type: "linux", Size: strconv.FormatInt(swap, 10) + "M", Filesystem: "swap"},
		{Name: "root", Type: "linux", Size: "rest", Filesystem: "ext4", Mount: "/", Options: "errors=remount-ro"},
	}}
}

// virtualDisk is an instance's disk as a loop device, whose partitions the kernel
// is told of: a DRBD device or a volume can have none of its own, and a file is no
// device. It goes when its last user closes it, however that comes about.
type virtualDisk struct {
	back   *os.File // Ganeti's device or file
	loop   *os.File
	node   string // "/dev/loop0"
	size   int64
	runner run.Runner
	log    io.Writer
}

// openBack opens the disk for us alone.
func openBack(name string) (f *os.File, size int64, err error) {
	flags := os.O_RDWR
	info, err := os.Stat(name)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot open the instance's disk: %w", err)
	}
	if info.Mode()&os.ModeDevice != 0 {
		flags |= unix.O_EXCL // fails while anybody has it mounted or claimed, open(2)
	}
	if f, err = os.OpenFile(name, flags, 0); err != nil {
		return nil, 0, hint.New(fmt.Errorf("cannot open the instance's disk: %w", err), "is it in use? an instance has to be shut down")
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		err = hint.New(fmt.Errorf("cannot lock the instance's disk %s: %w", name, err), "another process works on it; see: gnt-job list --running")
	} else {
		size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

// attach makes a loop device of a disk.
func attach(o OSOptions, name string) (*virtualDisk, error) {
	back, size, err := openBack(name)
	if err != nil {
		return nil, err
	}
	d := &virtualDisk{back: back, size: size, runner: o.Runner, log: o.Log}
	if err := d.configure(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot attach the disk %s: %w", name, err), back.Close())
	}
	return d, nil
}

// configure takes a free loop device. Autoclear frees it when the last user is
// gone, killed or not.
func (d *virtualDisk) configure() error {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }()
	for range 20 { // another process may be faster
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return err
		}
		d.node = "/dev/loop" + strconv.Itoa(n)
		if d.loop, err = os.OpenFile(d.node, os.O_RDWR, 0); err != nil {
			return err
		}
		c := unix.LoopConfig{Fd: uint32(d.back.Fd()), Size: sector} //nolint:gosec // a file descriptor
		c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_PARTSCAN
		// udev leaves a device alone that is locked (systemd, BLOCK_DEVICE_LOCKING).
		if err = unix.Flock(int(d.loop.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			err = unix.IoctlLoopConfigure(int(d.loop.Fd()), &c)
		}
		if err == nil {
			return nil
		}
		err = errors.Join(err, d.loop.Close())
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
	}
	return errors.New("no loop device is free")
}

// close writes everything out and lets the disk go.
func (d *virtualDisk) close() error {
	return errors.Join(d.loop.Sync(), d.loop.Close(), d.back.Sync(), d.back.Close())
}

// part is the device of a partition.
func (d *virtualDisk) part(n int) string { return partitionNode(d.node, n) }

// partitions tells the kernel of partitions: it may lack GPT, or have found those
// of an earlier table. partx(8) reads the table by itself.
func (d *virtualDisk) partitions(ctx context.Context, parts []gptPart) error {
	if _, err := d.runner.Run(ctx, run.Cmd{Argv: []string{"partx", "--update", d.node}, Log: d.log}); err != nil {
		return err
	}
	have, err := d.known()
	if err != nil {
		return err
	}
	for _, p := range parts {
		want := extentOf{p.Start / sector, p.Size / sector}
		if have[p.Number] != want || len(have) != len(parts) {
			return fmt.Errorf("cannot use the partitions of %s: the kernel has %v, want %v as number %d", d.node, have, want, p.Number)
		}
		if err := makeNode(d.part(p.Number)); err != nil {
			return err
		}
	}
	return nil
}

// extentOf is where a partition is, in sectors.
type extentOf struct{ start, length int64 }

// known are the partitions of the disk that the kernel has.
func (d *virtualDisk) known() (map[int]extentOf, error) {
	have := make(map[int]extentOf)
	names, err := filepath.Glob(filepath.Join("/sys/class/block", filepath.Base(d.node)+"p*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range names {
		var e extentOf
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), filepath.Base(d.node)+"p"))
		if err != nil {
			continue
		}
		for name, v := range map[string]*int64{"start": &e.start, "size": &e.length} {
			data, err := readBounded(filepath.Join(dir, name), 64)
			if err != nil {
				return nil, err
			}
			if *v, err = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err != nil {
				return nil, err
			}
		}
		have[n] = e
	}
	return have, nil
}

// makeNode makes the file of a block device that the kernel has.
func makeNode(name string) error {
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	data, err := readBounded(filepath.Join("/sys/class/block", filepath.Base(name), "dev"), 64)
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(data), "%d:%d", &major, &minor); err != nil {
		return fmt.Errorf("cannot make %s: its number is %q", name, data)
	}
	if err := unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil { //nolint:gosec // 64 bits
		return fmt.Errorf("cannot make %s: %w", name, err)
	}
	return nil
}

// open tells the kernel of the partitions that the disk has, and says whether it
// is one of ours: divided as diskRecipe does it, and finished.
func (d *virtualDisk) open(ctx context.Context) (ours bool, err error) {
	parts, err := readGPT(d.loop, d.size, sector)
	if errors.Is(err, errNoGPT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the disk's partitions: %w", err)
	}
	want := diskRecipe(d.size).Partitions
	if len(parts) != len(want) {
		return false, nil
	}
	for i, p := range parts {
		if p.Number != i+1 || p.Name != want[i].Name {
			return false, nil
		}
	}
	return true, d.partitions(ctx, parts)
}
