package device

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Disk is a whole disk, as sysfs has it.
type Disk struct {
	Name      string // "sdb"
	Path      string // "/dev/sdb"
	Model     string
	Serial    string
	Size      int64 // bytes; 0 without a medium
	Removable bool
	ReadOnly  bool
	// InUse says who uses the disk or a partition of it: "sdb1 is mounted on
	// /mnt", "md0 holds sdb2". Empty: nobody.
	InUse      []string
	partitions []string // names
}

// String is one line for people.
func (d Disk) String() string {
	return fmt.Sprintf("%s (%s, %.1f GB, serial %q)", d.Path, d.Model, float64(d.Size)/1e9, d.Serial)
}

// notDisks are block devices that no image is written to: what is made of other
// devices or of memory, and optical drives.
var notDisks = [...]string{"loop", "ram", "zram", "fd", "sr", "md", "dm-", "nbd", "drbd", "mtdblock", "zd", "rbd", "bcache"}

// maxDevices bounds how many block devices are looked at.
const maxDevices = 4096

// read returns the disks of the machine whose sys/ and proc/ are in root,
// sorted by name.
func read(root fs.FS) ([]Disk, error) {
	entries, err := fs.ReadDir(root, "sys/block")
	if err != nil {
		return nil, fmt.Errorf("cannot see this machine's disks: %w", err)
	}
	if len(entries) > maxDevices {
		return nil, fmt.Errorf("cannot see this machine's disks: %d devices are more than expected", len(entries))
	}
	var disks []Disk
	for _, e := range entries {
		if isDisk(e.Name()) {
			disks = append(disks, readDisk(root, e.Name()))
		}
	}
	slices.SortFunc(disks, func(a, b Disk) int { return strings.Compare(a.Name, b.Name) })
	if err := markMounts(root, disks); err != nil {
		return nil, err
	}
	return disks, markSwaps(root, disks)
}

func isDisk(name string) bool {
	for _, no := range notDisks {
		if rest, ok := strings.CutPrefix(name, no); ok && strings.Trim(rest, "0123456789") == "" {
			return false
		}
	}
	return true
}

func readDisk(root fs.FS, name string) Disk {
	dir := "sys/block/" + name
	sectors, _ := strconv.ParseInt(attr(root, dir+"/size"), 10, 64)
	d := Disk{
		Name: name, Path: "/dev/" + strings.ReplaceAll(name, "!", "/"),
		Model:     strings.TrimSpace(attr(root, dir+"/device/vendor") + " " + attr(root, dir+"/device/model")),
		Serial:    serial(root, dir),
		Size:      sectors * 512, // whatever the size of the disk's own sectors
		Removable: attr(root, dir+"/removable") == "1",
		ReadOnly:  attr(root, dir+"/ro") == "1",
		InUse:     holders(root, dir, name),
	}
	entries, err := fs.ReadDir(root, dir)
	if err != nil {
		d.InUse = append(d.InUse, name+" cannot be examined")
		return d
	}
	for _, e := range entries {
		if p := dir + "/" + e.Name(); attr(root, p+"/partition") != "" {
			d.partitions = append(d.partitions, e.Name())
			d.InUse = append(d.InUse, holders(root, p, e.Name())...)
		}
	}
	return d
}

// serial reads the serial number where each kind of disk keeps it: virtio in
// the block device, NVMe and MMC in the device, SCSI and SATA in VPD page 0x80
// (SPC-4, 7.8.15: four bytes of header, then ASCII), USB in the device that the
// disk hangs on, some levels up.
func serial(root fs.FS, dir string) string {
	for _, name := range []string{"/serial", "/device/serial"} {
		if s := attr(root, dir+name); s != "" {
			return s
		}
	}
	if page := raw(root, dir+"/device/vpd_pg80"); len(page) > 4 && page[1] == 0x80 {
		if s := strings.TrimSpace(text(page[4:])); s != "" {
			return s
		}
	}
	// A symbolic link: …/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0/block/sdb
	target, err := fs.ReadLink(root, dir)
	if err != nil || !strings.Contains(target, "/usb") {
		return ""
	}
	for at := path.Join("sys/block", target); strings.Contains(at, "/usb"); at = path.Dir(at) {
		if s := attr(root, at+"/serial"); s != "" {
			return s
		}
	}
	return ""
}

// holders names the devices that are made of this one: RAID, LVM, encryption.
func holders(root fs.FS, dir, name string) []string {
	entries, err := fs.ReadDir(root, dir+"/holders")
	if err != nil {
		return nil
	}
	var users []string
	for _, e := range entries {
		holder := e.Name()
		if n := attr(root, "sys/block/"+holder+"/dm/name"); n != "" {
			holder = n
		}
		users = append(users, holder+" holds "+name)
	}
	return users
}

// markMounts reads /proc/self/mountinfo (proc_pid_mountinfo(5)): the device as
// a number, as a name it may be "/dev/root".
func markMounts(root fs.FS, disks []Disk) error {
	data, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("cannot see what is mounted: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		left, right, ok := strings.Cut(line, " - ")
		from, to := strings.Fields(left), strings.Fields(right)
		if !ok || len(from) < 5 || len(to) < 2 {
			continue
		}
		mark(disks, func(dir, name string) bool {
			return attr(root, dir+"/dev") == from[2] || to[1] == "/dev/"+strings.ReplaceAll(name, "!", "/")
		}, "is mounted on "+from[4])
	}
	return nil
}

// markSwaps reads /proc/swaps; a kernel without swap has none.
func markSwaps(root fs.FS, disks []Disk) error {
	data, err := fs.ReadFile(root, "proc/swaps")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) > 1 && strings.HasPrefix(words[0], "/dev/") {
			mark(disks, func(_, name string) bool { return words[0] == "/dev/"+strings.ReplaceAll(name, "!", "/") }, "is swap space")
		}
	}
	return nil
}

// mark adds a use to each disk that itself or in a partition is meant.
func mark(disks []Disk, meant func(dir, name string) bool, use string) {
	for i := range disks {
		d := &disks[i]
		dir := "sys/block/" + d.Name
		if meant(dir, d.Name) {
			d.InUse = append(d.InUse, d.Name+" "+use)
		}
		for _, p := range d.partitions {
			if meant(dir+"/"+p, p) {
				d.InUse = append(d.InUse, p+" "+use)
			}
		}
	}
}

// attr reads one attribute, "" if it cannot be read.
func attr(root fs.FS, name string) string { return text(raw(root, name)) }

func text(b []byte) string {
	return strings.TrimRight(strings.ToValidUTF8(string(b), "?"), "\x00\n ")
}

// raw reads the bytes of an attribute; a page of memory is all that one can have.
func raw(root fs.FS, name string) []byte {
	f, err := root.Open(name)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return nil
	}
	return data
}
