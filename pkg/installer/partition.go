package installer

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

// unfinishedName is the GPT name of the first partition until the verb finish
// has run: a disk that bears it may be divided anew without asking.
const unfinishedName = "sci-unfinished"

// Disks is the verb disks.
func Disks(ctx context.Context, o Options) error {
	o = o.withDefaults()
	say(o.Console, "phase disks")
	s, h, err := currentHost(o)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.Medium, ".disk/info")); err != nil {
		return fmt.Errorf("the installation medium is not mounted on %s, so that its disk cannot be told from the others: %w", o.Medium, err)
	}
	data, err := readBounded(o.Recipe, 1<<20)
	if err != nil {
		return fmt.Errorf("cannot read the disk recipe: %w", err)
	}
	recipe, err := ParseRecipe(o.Recipe, data)
	if err != nil {
		return err
	}
	if err := unmountAll(o.Proc, o.Target); err != nil { // the verb may be repeated
		return err
	}
	hw, err := releaseGroups(ctx, o, recipe.Groups())
	if err != nil {
		return err
	}
	d, err := ChooseDisk(h, hw, recipe.Groups(), ProbeDisk)
	if err != nil {
		return err
	}
	layout, err := recipe.Plan(d)
	if err != nil {
		return err
	}
	if err := checkImage(ctx, o, s, h); err != nil {
		return err
	}
	say(o.Console, "disk %s", d)
	p := PartitionOptions{Runner: o.Runner, Log: o.Log, Layout: layout, Groups: recipe.Groups(), Dev: o.Dev, Target: o.Target}
	if err := Partition(ctx, p); err != nil {
		return err
	}
	if err := remember(o, "partition", layout.Partitions[0].Name); err != nil {
		return err
	}
	return remember(o, "disk", d.Path)
}

// releaseGroups reads the hardware; where volumes of the groups that we make
// are active, left by this verb when it failed the last time, it deactivates
// them first. LVM refuses that for volumes that anybody uses, and nothing on
// the disk changes.
func releaseGroups(ctx context.Context, o Options, groups []string) (Hardware, error) {
	hw, err := readHardware(o)
	if err != nil {
		return hw, err
	}
	active := false
	for _, g := range groups {
		for _, d := range hw.Disks {
			for _, user := range d.InUse {
				if strings.HasPrefix(user, g+"-") {
					active = true
				}
			}
		}
		if active {
			// If it fails the disk stays in use, and that is what is reported.
			_, _ = o.Runner.Run(ctx, run.Cmd{Argv: []string{"vgchange", "--config", lvmConfig, "-an", g}, Env: lvmEnv(), Log: o.Log})
		}
	}
	if !active {
		return hw, nil
	}
	return readHardware(o)
}

// readHardware reads what Read wants from the options' places.
func readHardware(o Options) (Hardware, error) {
	mounts, err := readBounded(filepath.Join(o.Proc, "mounts"), 4<<20)
	if err != nil {
		return Hardware{}, fmt.Errorf("cannot read the hardware: %w", err)
	}
	swaps, err := readBounded(filepath.Join(o.Proc, "swaps"), 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Hardware{}, fmt.Errorf("cannot read the hardware: %w", err)
	}
	return Read(o.Sys, string(mounts), string(swaps), o.Medium)
}

// PartitionOptions are the inputs of Partition.
type PartitionOptions struct {
	Runner run.Runner
	Log    io.Writer // what the commands print
	Layout *Layout
	Groups []string // volume groups, each on the partition that names it
	Dev    string   // "/dev"
	Target string   // "/target"
	// Rand is the source of GUIDs and UUIDs; nil is crypto/rand.
	Rand io.Reader
	// Reread makes the kernel read the new table and waits for the partitions'
	// nodes; nil does it by ioctl.
	Reread func(ctx context.Context, disk string, partitions []string) error
	// Mount mounts a file system; nil is mount(2).
	Mount func(device, point, filesystem, options string) error
}

// Partition divides the disk, makes the volume groups, volumes and file
// systems, mounts them below the target and writes the target's fstab. It
// loses what the disk held: ChooseDisk says whether it may.
func Partition(ctx context.Context, o PartitionOptions) error {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Reread == nil {
		o.Reread = reread
	}
	if o.Mount == nil {
		o.Mount = mountFS
	}
	if err := writeTable(o); err != nil {
		return err
	}
	var nodes []string
	for _, p := range o.Layout.Partitions {
		nodes = append(nodes, partitionNode(o.Layout.Disk, p.Number))
	}
	if err := o.Reread(ctx, o.Layout.Disk, nodes); err != nil {
		return err
	}
	if err := makeGroups(ctx, o); err != nil {
		return err
	}
	areas, err := makeFilesystems(ctx, o)
	if err != nil {
		return err
	}
	return mountTarget(o, areas)
}

// partitionNode is the name of a partition: a p stands between a disk's name
// that ends in a digit and the number (nvme0n1p1, sda1).
func partitionNode(disk string, n int) string {
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		disk += "p"
	}
	return disk + strconv.Itoa(n)
}

// writeTable erases the ends of the disk and of every partition to be, so that
// no old signature comes back to life, and writes the partition table.
func writeTable(o PartitionOptions) (err error) {
	f, err := openExclusive(o.Layout.Disk)
	if err != nil {
		return fmt.Errorf("cannot divide disk %s: %w", o.Layout.Disk, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	disk, err := newGUID(o.Rand)
	if err != nil {
		return err
	}
	areas := [][2]int64{{0, o.Layout.Size}}
	parts := make([]gptPart, 0, len(o.Layout.Partitions))
	for i, p := range o.Layout.Partitions {
		text, ok := partitionType(p.Type)
		if !ok {
			return fmt.Errorf("cannot divide disk %s: unknown type %q", o.Layout.Disk, p.Type)
		}
		g := gptPart{Number: p.Number, Start: p.Start, Size: p.Size, Name: p.Name}
		if i == 0 {
			g.Name = unfinishedName
		}
		if g.Type, err = parseGUID(text); err != nil {
			return err
		}
		if g.ID, err = newGUID(o.Rand); err != nil {
			return err
		}
		parts = append(parts, g)
		areas = append(areas, [2]int64{p.Start, p.Size})
	}
	for _, a := range areas {
		if err := eraseEnds(f, a[0], a[1]); err != nil {
			return fmt.Errorf("cannot erase disk %s: %w", o.Layout.Disk, err)
		}
	}
	if err := writeGPT(f, o.Layout.Size, o.Layout.Sector, disk, parts); err != nil {
		return fmt.Errorf("disk %s: %w", o.Layout.Disk, err)
	}
	return f.Sync()
}

// eraseEnds writes zeros over the first and the last MiB of an area, where
// every signature that we know has its place.
func eraseEnds(w io.WriterAt, start, size int64) error {
	zero := make([]byte, min(mib, size))
	if _, err := w.WriteAt(zero, start); err != nil {
		return err
	}
	_, err := w.WriteAt(zero, start+size-int64(len(zero)))
	return err
}

// finishTable gives the first partition its own name.
func finishTable(disk string, size, sector int64, name string) (err error) {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot finish the partition table: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	id, parts, err := readGPTDisk(f, size, sector)
	if err != nil {
		return fmt.Errorf("cannot finish the partition table of %s: %w", disk, err)
	}
	for i := range parts {
		if parts[i].Name == unfinishedName {
			parts[i].Name = name
		}
	}
	boot, err := readAt(f, 0, 440) // GRUB's code, by now
	if err != nil {
		return fmt.Errorf("cannot finish the partition table of %s: %w", disk, err)
	}
	if err := writeGPT(keepBoot{f, boot}, size, sector, id, parts); err != nil {
		return fmt.Errorf("disk %s: %w", disk, err)
	}
	return f.Sync()
}

// keepBoot writes the boot code back into sector 0.
type keepBoot struct {
	w    io.WriterAt
	boot []byte
}

func (k keepBoot) WriteAt(p []byte, off int64) (int, error) {
	if off == 0 {
		copy(p, k.boot)
	}
	return k.w.WriteAt(p, off)
}

// lvmConfig makes LVM create its nodes itself: the installer's udev has not
// the rules that LVM otherwise waits for, and its own list of devices is the
// truth.
const lvmConfig = "activation { udev_sync=0 udev_rules=0 } devices { obtain_device_list_from_udev=0 external_device_info_source=\"none\" use_devicesfile=0 } backup { backup=0 archive=0 }"

// lvmEnv spares the log LVM's warnings of the descriptors that d-i left open.
func lvmEnv() []string { return append(os.Environ(), "LVM_SUPPRESS_FD_WARNINGS=1") }

func makeGroups(ctx context.Context, o PartitionOptions) error {
	if len(o.Groups) > 0 {
		// Built in or loaded already: then modprobe fails and LVM works.
		_, _ = o.Runner.Run(ctx, run.Cmd{Argv: []string{"modprobe", "dm-mod"}, Log: o.Log})
	}
	var commands [][]string
	for _, p := range o.Layout.Partitions {
		if p.Group == "" {
			continue
		}
		dev := partitionNode(o.Layout.Disk, p.Number)
		commands = append(commands,
			[]string{"pvcreate", "--config", lvmConfig, "-ff", "-y", dev},
			[]string{"vgcreate", "--config", lvmConfig, "-y", p.Group, dev})
	}
	for _, v := range o.Layout.Volumes {
		commands = append(commands, []string{"lvcreate", "--config", lvmConfig, "-y", "-W", "y", "-Z", "y",
			"-l", strconv.FormatInt(v.Size/extent, 10), "-n", v.Name, v.Group})
	}
	for _, argv := range commands {
		if _, err := o.Runner.Run(ctx, run.Cmd{Argv: argv, Env: lvmEnv(), Log: o.Log}); err != nil {
			return fmt.Errorf("cannot make the volume groups: %w", err)
		}
	}
	return nil
}

// area is one partition or volume with a file system.
type area struct {
	device     string // to open now
	source     string // in the fstab
	what       string // for the fstab's comment
	filesystem string
	mount      string
	options    string
}

// makeFilesystems makes every file system and says how the new system will
// find it: partitions by the UUID that we give them, volumes by their name,
// because a snapshot of a volume has the same UUID.
func makeFilesystems(ctx context.Context, o PartitionOptions) ([]area, error) {
	var areas []area
	for _, p := range o.Layout.Partitions {
		if p.Filesystem == "" {
			continue
		}
		a := area{device: partitionNode(o.Layout.Disk, p.Number), filesystem: p.Filesystem,
			mount: p.Mount, options: p.MountOptions, what: "partition " + p.Name}
		id, err := makeFilesystem(ctx, o, a, p.Name)
		if err != nil {
			return nil, err
		}
		a.source = "UUID=" + id
		areas = append(areas, a)
	}
	for _, v := range o.Layout.Volumes {
		name := filepath.Join("mapper", v.Group+"-"+v.Name)
		a := area{device: filepath.Join(o.Dev, name), source: "/dev/" + name, filesystem: v.Filesystem,
			mount: v.Mount, options: v.MountOptions, what: "volume " + v.Group + "/" + v.Name}
		if _, err := makeFilesystem(ctx, o, a, v.Name); err != nil {
			return nil, err
		}
		areas = append(areas, a)
	}
	return areas, nil
}

// makeFilesystem makes one file system and returns its UUID.
func makeFilesystem(ctx context.Context, o PartitionOptions, a area, label string) (string, error) {
	id, err := newGUID(o.Rand)
	if err != nil {
		return "", err
	}
	id[6], id[7] = id[7], id[6] // the order of RFC 9562, not of the GPT
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", id[0:4], id[4:6], id[6:8], id[8:10], id[10:16])
	var argv []string
	switch a.filesystem {
	case "ext4":
		argv = []string{"mkfs.ext4", "-q", "-F", "-U", uuid, "-L", label, a.device}
	case "vfat":
		serial := binary.BigEndian.Uint32(id[:])
		uuid = fmt.Sprintf("%04X-%04X", serial>>16, serial&0xffff)
		argv = []string{"mkfs.fat", "-F", "32", "-n", strings.ToUpper(label), "-i", fmt.Sprintf("%08x", serial), a.device}
	case "swap":
		if err := makeSwap(a.device, id, label); err != nil {
			return "", fmt.Errorf("cannot make swap space on %s: %w", a.device, err)
		}
		return uuid, nil
	default:
		return "", fmt.Errorf("cannot make a file system on %s: unknown type %q", a.device, a.filesystem)
	}
	if _, err := o.Runner.Run(ctx, run.Cmd{Argv: argv, Log: o.Log}); err != nil {
		return "", fmt.Errorf("cannot make a file system on %s: %w", a.device, err)
	}
	return uuid, nil
}

// makeSwap writes the header that mkswap(8) writes (union swap_header of
// linux/swap.h): busybox's mkswap takes no UUID.
func makeSwap(device string, id guid, label string) (err error) {
	const page = 4096
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if n < 10*page {
		return fmt.Errorf("%d bytes are too few", n)
	}
	h := make([]byte, page)
	binary.LittleEndian.PutUint32(h[1024:], 1)
	binary.LittleEndian.PutUint32(h[1028:], uint32(n/page-1))
	copy(h[1036:1052], id[:])
	copy(h[1052:1067], label)
	copy(h[page-10:], "SWAPSPACE2")
	if _, err := f.WriteAt(h, 0); err != nil {
		return err
	}
	return f.Sync()
}

// mountTarget mounts everything below the target, outer directories first,
// and writes the fstab.
func mountTarget(o PartitionOptions, areas []area) error {
	sort.SliceStable(areas, func(i, j int) bool { return areas[i].mount < areas[j].mount })
	var b strings.Builder
	b.WriteString("# /etc/fstab: written by the installer of SCI-CD (sci-agent), see fstab(5).\n" +
		"# Partitions are named by UUID, logical volumes by name.\n")
	for _, a := range areas {
		options, pass, point := a.options, "2", a.mount
		if options == "" {
			options = "defaults"
		}
		switch {
		case a.filesystem == "swap":
			options, pass, point = "sw", "0", "none"
		case a.mount == "":
			continue
		case a.mount == "/":
			pass = "1"
		}
		if a.mount != "" {
			dir := filepath.Join(o.Target, a.mount)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("cannot mount %s: %w", a.device, err)
			}
			if err := o.Mount(a.device, dir, a.filesystem, a.options); err != nil {
				return fmt.Errorf("cannot mount %s on %s: %w", a.device, dir, err)
			}
		}
		fmt.Fprintf(&b, "# %s\n%s %s %s %s 0 %s\n", a.what, a.source, point, a.filesystem, options, pass)
	}
	return writeFile(filepath.Join(o.Target, "etc/fstab"), []byte(b.String()), 0o644)
}

// waitFor waits until every file is there.
func waitFor(ctx context.Context, names []string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, name := range names {
		for {
			if _, err := os.Stat(name); err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return hint.New(fmt.Errorf("%s did not appear within %v", name, limit), "look at dmesg for what the kernel says of the disk")
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}
