package installer

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strconv"
	"strings"
)

// Hardware is what the machine says about itself.
type Hardware struct {
	Vendor, Product  string
	Serial, AssetTag string
	UEFI             bool
	NICs             []NIC  // sorted by name
	Disks            []Disk // sorted by name
}

// NIC is a network card that has a device behind it (no bridge, no bond, no
// loopback).
type NIC struct {
	Name, MAC, Driver string
	// Link is "up" or "down" where the kernel knows, else "".
	Link string
}

// Disk is a block device that could hold a system: loop, ram, zram, floppy,
// optical, md and device-mapper devices are not listed.
type Disk struct {
	Name   string // "vda"
	Path   string // "/dev/vda"
	Size   int64  // bytes
	Sector int64  // logical sector size, bytes
	Model  string
	Serial string
	WWN    string

	Removable, ReadOnly, USB bool
	// Medium is set for the disk that the installer was booted from.
	Medium bool
	// InUse says who uses the disk or one of its partitions right now: "md0
	// holds vda2", "vda1 is mounted on /mnt". Empty: nobody.
	InUse []string
	// Partitions are the partitions that the kernel knows, sorted by number.
	Partitions []Part
}

// Part is a partition that the kernel knows.
type Part struct {
	Name   string // "vda1"
	Number int
	Start  int64 // bytes
	Size   int64 // bytes
}

// maxDevices bounds what is read of one class of devices.
const maxDevices = 1024

// Read reads the machine's hardware from sysfs. mounts is /proc/mounts and
// swaps /proc/swaps (either may be empty); medium is the mount point of the
// installation medium.
func Read(sys fs.FS, mounts, swaps, medium string) (Hardware, error) {
	hw := Hardware{
		Vendor:   dmi(sys, "sys_vendor"),
		Product:  dmi(sys, "product_name"),
		Serial:   dmi(sys, "product_serial"),
		AssetTag: dmi(sys, "chassis_asset_tag"),
	}
	if _, err := fs.Stat(sys, "firmware/efi"); err == nil {
		hw.UEFI = true
	}
	var err error
	if hw.NICs, err = readNICs(sys); err != nil {
		return Hardware{}, err
	}
	if hw.Disks, err = readDisks(sys); err != nil {
		return Hardware{}, err
	}
	markUsers(hw.Disks, mounts, swaps, medium)
	return hw, nil
}

// dmi reads one DMI string; what firmware writers leave in unfilled fields is
// read as empty, because it would match every machine of that maker.
func dmi(sys fs.FS, name string) string {
	v := attr(sys, "class/dmi/id/"+name)
	switch strings.ToLower(v) {
	case "none", "not specified", "not available", "to be filled by o.e.m.", "default string",
		"no asset tag", "no asset information", "system serial number", "chassis asset tag", "0", "0123456789", "unknown":
		return ""
	}
	return v
}

// attr reads one attribute, "" if it cannot be read.
func attr(sys fs.FS, name string) string {
	f, err := sys.Open(name)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.ToValidUTF8(strings.TrimRight(string(data), "\x00\n"), "?"))
}

func attrInt(sys fs.FS, name string) int64 {
	n, err := strconv.ParseInt(attr(sys, name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func exists(sys fs.FS, name string) bool {
	_, err := fs.Stat(sys, name)
	return err == nil
}

func readNICs(sys fs.FS) ([]NIC, error) {
	names, err := class(sys, "class/net")
	if err != nil {
		return nil, err
	}
	var nics []NIC
	for _, name := range names {
		dir := "class/net/" + name
		mac := strings.ToLower(attr(sys, dir+"/address"))
		if !exists(sys, dir+"/device") || mac == "" || mac == "00:00:00:00:00:00" {
			continue
		}
		nic := NIC{Name: name, MAC: mac}
		if target, err := fs.ReadLink(sys, dir+"/device/driver"); err == nil {
			nic.Driver = path.Base(target)
		}
		switch attr(sys, dir+"/carrier") { // unreadable while the card is down
		case "1":
			nic.Link = "up"
		case "0":
			nic.Link = "down"
		}
		nics = append(nics, nic)
	}
	return nics, nil
}

// class lists the devices of a directory of sysfs, sorted; none is no error.
func class(sys fs.FS, dir string) ([]string, error) {
	entries, err := fs.ReadDir(sys, dir)
	if err != nil && !exists(sys, dir) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the hardware: %w", err)
	}
	if len(entries) > maxDevices {
		return nil, fmt.Errorf("cannot read the hardware: %d entries in %s", len(entries), dir)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names, nil
}

func readDisks(sys fs.FS) ([]Disk, error) {
	names, err := class(sys, "block")
	if err != nil {
		return nil, err
	}
	var disks []Disk
	for _, name := range names {
		if d, ok, err := readDisk(sys, name); err != nil {
			return nil, err
		} else if ok {
			disks = append(disks, d)
		}
	}
	return disks, nil
}

func readDisk(sys fs.FS, name string) (Disk, bool, error) {
	for _, no := range []string{"loop", "ram", "zram", "fd", "sr", "md", "dm-", "nbd", "drbd", "mtdblock"} {
		if rest, ok := strings.CutPrefix(name, no); ok && strings.Trim(rest, "0123456789") == "" {
			return Disk{}, false, nil
		}
	}
	dir := "block/" + name
	d := Disk{
		Name: name, Path: "/dev/" + strings.ReplaceAll(name, "!", "/"),
		Size:      attrInt(sys, dir+"/size") * 512, // always in units of 512 bytes
		Sector:    attrInt(sys, dir+"/queue/logical_block_size"),
		Model:     attr(sys, dir+"/device/model"),
		Serial:    serial(sys, dir),
		WWN:       first(attr(sys, dir+"/wwid"), attr(sys, dir+"/device/wwid")),
		Removable: attr(sys, dir+"/removable") == "1",
		ReadOnly:  attr(sys, dir+"/ro") == "1",
	}
	if d.Size == 0 || attr(sys, dir+"/hidden") == "1" { // no medium; a path of a multipath NVMe
		return Disk{}, false, nil
	}
	if d.Sector == 0 {
		d.Sector = 512
	}
	if target, err := fs.ReadLink(sys, dir); err == nil {
		d.USB = strings.Contains(target, "/usb")
	}
	d.InUse = holders(sys, dir, name)
	entries, err := class(sys, dir)
	if err != nil {
		return Disk{}, false, err
	}
	for _, e := range entries {
		p := dir + "/" + e
		if n := attrInt(sys, p+"/partition"); n > 0 {
			d.Partitions = append(d.Partitions, Part{
				Name: e, Number: int(n),
				Start: attrInt(sys, p+"/start") * 512, Size: attrInt(sys, p+"/size") * 512,
			})
			d.InUse = append(d.InUse, holders(sys, p, e)...)
		}
	}
	sort.Slice(d.Partitions, func(i, j int) bool { return d.Partitions[i].Number < d.Partitions[j].Number })
	return d, true, nil
}

// serial reads the serial number where each kind of disk keeps it: virtio in
// the block device, NVMe in its controller, SCSI and SATA in VPD page 0x80
// (SPC-4, 7.8.15: four bytes of header, then ASCII).
func serial(sys fs.FS, dir string) string {
	if s := first(attr(sys, dir+"/serial"), attr(sys, dir+"/device/serial")); s != "" {
		return s
	}
	f, err := sys.Open(dir + "/device/vpd_pg80")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	page, err := io.ReadAll(io.LimitReader(f, 260))
	if err != nil || len(page) < 4 || page[1] != 0x80 {
		return ""
	}
	return strings.TrimSpace(strings.ToValidUTF8(strings.TrimRight(string(page[4:]), "\x00"), "?"))
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func holders(sys fs.FS, dir, name string) []string {
	entries, err := class(sys, dir+"/holders")
	if err != nil {
		return []string{name + " cannot be examined"}
	}
	var users []string
	for _, h := range entries {
		if n := attr(sys, "block/"+h+"/dm/name"); n != "" {
			h = n
		}
		users = append(users, h+" holds "+name)
	}
	return users
}

// markUsers marks the disk of the medium, and every disk that is mounted or
// swapped on.
func markUsers(disks []Disk, mounts, swaps, medium string) {
	of := func(dev string) (*Disk, string) {
		name := strings.ReplaceAll(strings.TrimPrefix(dev, "/dev/"), "/", "!")
		for i := range disks {
			if disks[i].Name == name {
				return &disks[i], name
			}
			for _, p := range disks[i].Partitions {
				if p.Name == name {
					return &disks[i], name
				}
			}
		}
		return nil, ""
	}
	for _, line := range strings.Split(mounts, "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		d, name := of(f[0])
		switch {
		case d == nil:
		case f[1] == medium:
			d.Medium = true
		default:
			d.InUse = append(d.InUse, name+" is mounted on "+f[1])
		}
	}
	for _, line := range strings.Split(swaps, "\n") {
		if f := strings.Fields(line); len(f) > 0 {
			if d, name := of(f[0]); d != nil {
				d.InUse = append(d.InUse, name+" is swap space")
			}
		}
	}
}

// Table is what a person is shown where nothing fits: a line a card and a line
// a disk.
func (hw Hardware) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "machine  vendor %q, product %q, serial %q, asset tag %q\n", hw.Vendor, hw.Product, hw.Serial, hw.AssetTag)
	for _, n := range hw.NICs {
		fmt.Fprintf(&b, "card     %-10s %s  driver %s  link %s\n", n.Name, n.MAC, or(n.Driver), or(n.Link))
	}
	if len(hw.NICs) == 0 {
		b.WriteString("card     none\n")
	}
	for _, d := range hw.Disks {
		b.WriteString("disk     " + d.String() + "\n")
	}
	if len(hw.Disks) == 0 {
		b.WriteString("disk     none\n")
	}
	return b.String()
}

// String is one line for people: name, size, model, serial and what is special.
func (d Disk) String() string {
	var notes []string
	for _, n := range []struct {
		set  bool
		text string
	}{{d.Medium, "installation medium"}, {d.Removable, "removable"}, {d.ReadOnly, "read-only"}, {d.USB, "USB"}} {
		if n.set {
			notes = append(notes, n.text)
		}
	}
	notes = append(notes, d.InUse...)
	s := fmt.Sprintf("%-10s %9s  model %q  serial %q", d.Path, size(d.Size), d.Model, d.Serial)
	if len(notes) > 0 {
		s += "  (" + strings.Join(notes, ", ") + ")"
	}
	return s
}

func or(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// size prints bytes in the binary unit that keeps the number readable.
func size(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	default:
		return fmt.Sprintf("%d KiB", n>>10)
	}
}
