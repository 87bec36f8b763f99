package device

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
)

// root is a machine: a stick sdb with two partitions, a system disk nvme0n1
// with LVM in its third partition, a USB disk sdc that is not removable, a card
// reader sdd without a card, a write-protected sde, a loop device, a RAID.
func root() fstest.MapFS {
	m := make(fstest.MapFS)
	text := func(name, s string) { m[name] = &fstest.MapFile{Data: []byte(s), Mode: 0o444} }
	disk := func(dir, name, dev string, sectors int, removable, ro string) {
		for k, v := range map[string]string{"dev": dev, "size": fmt.Sprint(sectors), "removable": removable, "ro": ro} {
			text(dir+"/"+k, v+"\n")
		}
		m[dir+"/holders"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		if target, ok := strings.CutPrefix(dir, "sys/"); ok && dir != "sys/block/"+name {
			m["sys/block/"+name] = &fstest.MapFile{Data: []byte("../" + target), Mode: fs.ModeSymlink | 0o777}
		}
	}
	part := func(dir, name, dev, number string) {
		text(dir+"/"+name+"/partition", number+"\n")
		text(dir+"/"+name+"/dev", dev+"\n")
		m[dir+"/"+name+"/holders"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	}
	const usb = "sys/devices/pci0000:00/0000:00:14.0/usb1/1-2"
	stick := usb + "/1-2:1.0/host6/target6:0:0/6:0:0:0/block/sdb"
	disk(stick, "sdb", "8:16", 15<<21, "1", "0")
	part(stick, "sdb1", "8:17", "1")
	part(stick, "sdb2", "8:18", "2")
	text(stick+"/device/vendor", "SanDisk \n")
	text(stick+"/device/model", "Ultra           \n")
	text(usb+"/serial", "4C530001\n")
	system := "sys/block/nvme0n1"
	disk(system, "nvme0n1", "259:0", 500<<21, "0", "0")
	part(system, "nvme0n1p1", "259:1", "1")
	part(system, "nvme0n1p3", "259:3", "3")
	text(system+"/nvme0n1p3/holders/dm-0/dev", "253:0\n")
	text(system+"/device/serial", "S4EVNX0M\n")
	text(system+"/device/model", "Samsung SSD\n")
	text("sys/block/dm-0/dm/name", "vg-root\n")
	external := "sys/block/sdc"
	disk(external, "sdc", "8:32", 900<<21, "0", "0")
	text(external+"/device/vpd_pg80", "\x00\x80\x00\x08 WX21D36")
	text(external+"/device/model", "My Passport\n")
	disk("sys/block/sdd", "sdd", "8:48", 0, "1", "0")
	disk("sys/block/sde", "sde", "8:64", 15<<21, "1", "1")
	disk("sys/block/loop0", "loop0", "7:0", 15<<21, "1", "0")
	disk("sys/block/md127", "md127", "9:127", 15<<21, "1", "0")
	text("proc/self/mountinfo", "25 1 259:1 / /boot/efi rw,relatime shared:1 - vfat /dev/nvme0n1p1 rw\n26 1 0:32 / /data rw - btrfs /dev/sdx1 rw\n")
	text("proc/swaps", "Filename\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
	return m
}

func TestChoose(t *testing.T) {
	const iso = 500 << 20
	for _, test := range []struct {
		summary      string
		path, serial string
		size         int64
		change       func(m fstest.MapFS)
		want, hint   string // "" is success
	}{
		{summary: "a stick", path: "/dev/sdb"},
		{summary: "a stick by its serial", path: "/dev/sdb", serial: "4C530001"},
		{summary: "another serial", path: "/dev/sdb", serial: "OTHER",
			want: `cannot write to /dev/sdb: its serial number is "4C530001", not "OTHER"`},
		{summary: "a partition", path: "/dev/sdb1",
			want: "cannot write to /dev/sdb1: it is a partition of /dev/sdb",
			hint: "the image brings its own partitions: name the whole disk, /dev/sdb"},
		{summary: "mounted", path: "/dev/sdb",
			change: func(m fstest.MapFS) { add(m, "proc/self/mountinfo", "30 1 8:17 / /mnt rw - vfat /dev/root rw\n") },
			want:   "cannot write to /dev/sdb: it is in use: sdb1 is mounted on /mnt",
			hint:   "unmount it, and stop what uses it; is it the right one?"},
		{summary: "mounted as a whole, by a file system with device numbers of its own", path: "/dev/sdb",
			change: func(m fstest.MapFS) {
				add(m, "proc/self/mountinfo", "30 1 0:40 / /mnt rw shared:2 master:3 - btrfs /dev/sdb rw\n")
			},
			want: "cannot write to /dev/sdb: it is in use: sdb is mounted on /mnt",
			hint: "unmount it, and stop what uses it; is it the right one?"},
		{summary: "swap", path: "/dev/sdb",
			change: func(m fstest.MapFS) { add(m, "proc/swaps", "/dev/sdb2 partition 1000 0 -2\n") },
			want:   "cannot write to /dev/sdb: it is in use: sdb2 is swap space",
			hint:   "unmount it, and stop what uses it; is it the right one?"},
		{summary: "RAID", path: "/dev/sde",
			change: func(m fstest.MapFS) { m["sys/block/sde/holders/md127/dev"] = &fstest.MapFile{} },
			want:   "cannot write to /dev/sde: it is in use: md127 holds sde",
			hint:   "unmount it, and stop what uses it; is it the right one?"},
		{summary: "the system, even by its serial", path: "/dev/nvme0n1", serial: "S4EVNX0M",
			want: "cannot write to /dev/nvme0n1: it is in use: vg-root holds nvme0n1p3, nvme0n1p1 is mounted on /boot/efi",
			hint: "unmount it, and stop what uses it; is it the right one?"},
		{summary: "not removable", path: "/dev/sdc",
			want: `cannot write to /dev/sdc: it is not removable (model "My Passport", serial "WX21D36")`,
			hint: "if it is the right one, and all on it may go: --serial WX21D36"},
		{summary: "not removable, named", path: "/dev/sdc", serial: "WX21D36"},
		{summary: "not removable, nameless", path: "/dev/sdc",
			change: func(m fstest.MapFS) { delete(m, "sys/block/sdc/device/vpd_pg80") },
			want:   "cannot write to /dev/sdc: it is not removable, and has no serial number by which to name it"},
		{summary: "a serial for a disk without", path: "/dev/sde", serial: "X",
			want: `cannot write to /dev/sde: it has no serial number, so it is not "X"`},
		{summary: "no card", path: "/dev/sdd",
			want: "cannot write to /dev/sdd: it has no medium"},
		{summary: "write protection", path: "/dev/sde",
			want: "cannot write to /dev/sde: it is read-only", hint: "is there a switch on it?"},
		{summary: "too small", path: "/dev/sdb", size: 16 << 30,
			want: "cannot write to /dev/sdb: it is too small: it holds 16106127360 bytes, the image has 17179869184"},
		{summary: "no disk", path: "/dev/sdz",
			want: "cannot write to /dev/sdz: it is no disk",
			hint: `removable and free: /dev/sdb (SanDisk Ultra, 16.1 GB, serial "4C530001")`},
		{summary: "no disk, and no stick either", path: "/dev/null",
			change: func(m fstest.MapFS) { delete(m, "sys/block/sdb") },
			want:   "cannot write to /dev/null: it is no disk",
			hint:   "no removable disk that is free was found; plug one in"},
		{summary: "loop device", path: "/dev/loop0",
			want: "cannot write to /dev/loop0: it is no disk",
			hint: `removable and free: /dev/sdb (SanDisk Ultra, 16.1 GB, serial "4C530001")`},
		{summary: "no /proc", path: "/dev/sdb",
			change: func(m fstest.MapFS) { delete(m, "proc/self/mountinfo") },
			want:   "cannot see what is mounted: open proc/self/mountinfo: file does not exist"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			m := root()
			if test.change != nil {
				test.change(m)
			}
			w := Wish{Path: test.path, Size: max(test.size, iso), Serial: test.serial}
			d, err := Choose(m, w)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != test.want || hint.Of(err) != test.hint {
				t.Errorf("Choose = %s\nhint %s\nwant     %s\nhint %s", got, hint.Of(err), test.want, test.hint)
			}
			if err == nil && d.Path != test.path {
				t.Errorf("Choose took %s", d.Path)
			}
		})
	}
}

func add(m fstest.MapFS, name, line string) {
	m[name] = &fstest.MapFile{Data: append(m[name].Data, line...)}
}

// TestThisMachine guards that the real /sys can be read: the disk with the root
// file system, if there is one, is never free.
func TestThisMachine(t *testing.T) {
	if _, err := os.Stat("/sys/block"); err != nil {
		t.Skip("no /sys/block here")
	}
	disks, err := read(os.DirFS("/"))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		t.Logf("%s, removable %v, in use %q", d, d.Removable, d.InUse)
		for _, use := range d.InUse {
			if refuse(&d, Wish{}) == nil {
				t.Errorf("%s is free, but %s", d.Path, use)
			}
		}
	}
}

func TestString(t *testing.T) {
	got := Disk{Path: "/dev/sdb", Model: "X", Size: 2e9, Serial: "1"}.String()
	if diff := cmp.Diff(`/dev/sdb (X, 2.0 GB, serial "1")`, got); diff != "" {
		t.Error(diff)
	}
}
