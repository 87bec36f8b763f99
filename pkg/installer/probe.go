package installer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"sort"
	"strings"
)

// Finding is one thing that a disk holds.
type Finding struct {
	Where string // "/dev/vda" or "/dev/vda3"
	What  string // "LVM2 physical volume of group xenvg: root, swap"
	// Group is the volume group of a physical volume, else "".
	Group string
	// Unfinished is set for the mark of an installation of ours that did not
	// come to its end: the partitions were made by us and hold nothing else.
	Unfinished bool
}

// magic is one signature. Negative offsets count from the end of the area.
type magic struct {
	what   string
	offset int64
	bytes  string
}

// magics are the signatures that are known, with where their formats put them.
// The list is of what may hold somebody's data; see libblkid for more.
var magics = []magic{
	{"ext2, ext3 or ext4 file system", 1024 + 56, "\x53\xef"},
	{"XFS file system", 0, "XFSB"},
	{"Btrfs file system", 64<<10 + 64, "_BHRfS_M"},
	{"F2FS file system", 1024, "\x10\x20\xf5\xf2"},
	{"ZFS pool member", 128 << 10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
	{"ZFS pool member", 128<<10 + 128<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00"},
	{"NTFS file system", 3, "NTFS    "},
	{"exFAT file system", 3, "EXFAT   "},
	{"FAT file system", 54, "FAT1"},
	{"FAT file system", 82, "FAT32"},
	{"ISO 9660 image", 32<<10 + 1, "CD001"},
	{"swap space", 4096 - 10, "SWAPSPACE2"},
	{"hibernated system", 4096 - 10, "S1SUSPEND"},
	{"LUKS volume", 0, "LUKS\xba\xbe"},
	{"BitLocker volume", 3, "-FVE-FS-"},
	{"bcache device", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca"},
	{"Linux RAID member (1.1)", 0, "\xfc\x4e\x2b\xa9"},
	{"Linux RAID member (1.2)", 4096, "\xfc\x4e\x2b\xa9"},
	{"Ceph OSD", 0, "bluestore block device"},
	{"VMFS volume", 1 << 20, "\x0d\xd0\x01\xc0"},
	{"DRBD metadata", -4096 + 60, "\x83\x74\x02\x6b"}, // drbd 8.4, internal, big endian
	{"DRBD metadata", -4096 + 60, "\x83\x74\x02\x6c"}, // the same, unclean
	{"DRBD metadata", -4096 + 60, "\x83\x74\x02\x6d"}, // drbd 9
}

// ProbeDisk says what a disk and its partitions hold, by reading only. An empty
// disk gives no findings; a partition table counts if it has a partition.
func ProbeDisk(d Disk) ([]Finding, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot examine disk: %w", err)
	}
	defer func() { _ = f.Close() }()
	return probe(f, d)
}

func probe(r io.ReaderAt, d Disk) ([]Finding, error) {
	found, err := probeArea(r, d.Path, 0, d.Size)
	if err != nil {
		return nil, err
	}
	table, err := probeTable(r, d)
	if err != nil {
		return nil, err
	}
	found = append(found, table...)
	for _, p := range d.Partitions {
		more, err := probeArea(r, "/dev/"+strings.ReplaceAll(p.Name, "!", "/"), p.Start, p.Size)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

// probeTable reports GPT and MBR tables that name a partition.
func probeTable(r io.ReaderAt, d Disk) ([]Finding, error) {
	parts, gptErr := readGPT(r, d.Size, d.Sector)
	if gptErr == nil && len(parts) > 0 {
		f := Finding{Where: d.Path, What: fmt.Sprintf("GPT with %d partitions", len(parts))}
		for _, p := range parts {
			if p.Name == unfinishedName {
				f.What, f.Unfinished = "an installation of ours that did not come to its end", true
			}
		}
		return []Finding{f}, nil
	}
	if gptErr != nil && !errors.Is(gptErr, errNoGPT) {
		return []Finding{{Where: d.Path, What: "damaged GPT (" + gptErr.Error() + ")"}}, nil
	}
	mbr, err := readAt(r, 0, 512)
	if err != nil {
		return nil, fmt.Errorf("cannot examine disk %s: %w", d.Path, err)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil, nil
	}
	n := 0
	for e := 446; e < 510; e += 16 {
		if t := mbr[e+4]; t != 0 && t != 0xee {
			n++
		}
	}
	if n == 0 {
		return nil, nil
	}
	return []Finding{{Where: d.Path, What: fmt.Sprintf("MBR partition table with %d partitions", n)}}, nil
}

// probeArea looks for signatures in one area of the disk.
func probeArea(r io.ReaderAt, where string, start, size int64) ([]Finding, error) {
	var found []Finding
	for _, m := range magics {
		off := m.offset
		if off < 0 {
			off += size &^ 4095
		}
		if off < 0 || off+int64(len(m.bytes)) > size {
			continue
		}
		got, err := readAt(r, start+off, len(m.bytes))
		if err != nil {
			return nil, fmt.Errorf("cannot examine %s: %w", where, err)
		}
		if string(got) == m.bytes {
			found = append(found, Finding{Where: where, What: m.what})
		}
	}
	if ok, err := oldRAID(r, start, size); err != nil {
		return nil, fmt.Errorf("cannot examine %s: %w", where, err)
	} else if ok {
		found = append(found, Finding{Where: where, What: "Linux RAID member (0.90 or 1.0)"})
	}
	pv, ok, err := probeLVM(r, start, size)
	if err != nil {
		return nil, fmt.Errorf("cannot examine %s: %w", where, err)
	}
	if ok {
		pv.Where = where
		found = append(found, pv)
	}
	return found, nil
}

// oldRAID looks for md superblocks that lie at the end: 0.90 in the last
// 64 KiB-aligned 64 KiB, 1.0 at least 8 KiB before the end (md(4)).
func oldRAID(r io.ReaderAt, start, size int64) (bool, error) {
	for _, off := range []int64{size&^(64<<10-1) - 64<<10, (size/512 - 16) &^ 7 * 512} {
		if off < 0 || off+4 > size {
			continue
		}
		got, err := readAt(r, start+off, 4)
		if err != nil {
			return false, err
		}
		if binary.LittleEndian.Uint32(got) == 0xa92b4efc || binary.BigEndian.Uint32(got) == 0xa92b4efc {
			return true, nil
		}
	}
	return false, nil
}

// lvmText finds the head of a volume group and its sections in LVM2's text
// metadata (lib/format_text of lvm2).
var (
	lvmGroup  = regexp.MustCompile(`(?m)^([A-Za-z0-9+_.-]{1,128}) \{\nid = "`)
	lvmVolume = regexp.MustCompile(`(?m)^([A-Za-z0-9+_.-]{1,128}) \{\nid = "[^"]*"\nstatus = \[[^\]]*"VISIBLE"`)
)

// probeLVM recognises a physical volume: the label is in one of the first four
// sectors, "LABELONE", and the newest text of the metadata area, which starts
// at 4 KiB, names the group and its volumes.
func probeLVM(r io.ReaderAt, start, size int64) (Finding, bool, error) {
	const metadata = 1 << 20
	n := min(size, metadata)
	if n < 4096 {
		return Finding{}, false, nil
	}
	area, err := readAt(r, start, int(n))
	if err != nil {
		return Finding{}, false, err
	}
	label := false
	for s := range 4 {
		sector := area[s*512:]
		label = label || bytes.HasPrefix(sector, []byte("LABELONE")) && bytes.Equal(sector[24:32], []byte("LVM2 001"))
	}
	if !label {
		return Finding{}, false, nil
	}
	f := Finding{What: "LVM2 physical volume without a group"}
	text := newestLVM(area)
	if m := lvmGroup.FindSubmatch(text); m != nil {
		f.Group = string(m[1])
		var names []string
		if at := bytes.Index(text, []byte("\nlogical_volumes {")); at >= 0 {
			for _, lv := range lvmVolume.FindAllSubmatch(text[at:], 64) {
				names = append(names, string(lv[1]))
			}
		}
		sort.Strings(names)
		f.What = fmt.Sprintf("LVM2 physical volume of group %s: %s", f.Group, orNone(names))
	}
	return f, true, nil
}

// newestLVM is the metadata text that the area's header points to. The header
// is at 4 KiB: checksum, magic, version, start, size, then the raw location
// (offset, size); the area is a ring, so the text may wrap.
func newestLVM(area []byte) []byte {
	const at = 4096
	if len(area) < at+512 || !bytes.Equal(area[at+4:at+20], []byte(" LVM2 x[5A%r0N*>")) {
		return nil
	}
	ring := binary.LittleEndian.Uint64(area[at+32:])
	off, n := binary.LittleEndian.Uint64(area[at+40:]), binary.LittleEndian.Uint64(area[at+48:])
	if n == 0 || n > ring || off < 512 || off >= ring || ring > uint64(len(area))-at {
		return nil
	}
	body := area[at : at+ring]
	if off+n <= ring {
		return tabless(body[off : off+n])
	}
	return tabless(append(bytes.Clone(body[off:]), body[512:512+off+n-ring]...))
}

// tabless drops the indentation, so that the expressions need not know it.
func tabless(text []byte) []byte { return bytes.ReplaceAll(text, []byte("\t"), nil) }

func orNone(names []string) string {
	if len(names) == 0 {
		return "no volumes"
	}
	return strings.Join(names, ", ")
}

func readAt(r io.ReaderAt, off int64, n int) ([]byte, error) {
	buf := make([]byte, n)
	if got, err := r.ReadAt(buf, off); got < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return buf, nil
}
