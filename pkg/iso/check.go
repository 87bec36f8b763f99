package iso

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/skycover/sci-cd/pkg/tree"
)

// MBR is the first sector of an image as a BIOS and a partitioning tool read
// it. See masterBootRecord for what Write puts there and why.
type MBR struct {
	Code       bool   // there is boot code
	BootLBA    uint32 // sector of 2048 bytes from which the boot code loads
	Active     bool   // a partition is marked active
	Partitions []Partition
}

// Partition is an entry of the partition table that is not all zero.
type Partition struct {
	Number      int // 1 to 4
	Active      bool
	Kind        byte
	Start, Size uint32 // in sectors of 512 bytes
}

// PartitionEFI is the kind of an EFI system partition.
const PartitionEFI = mbrEFI

// ReadMBR reads the first sector. Without the signature at its end the result
// is empty.
func ReadMBR(r io.ReaderAt) (*MBR, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("cannot read the first sector: %w", err)
	}
	m := &MBR{}
	if b[510] != 0x55 || b[511] != 0xaa {
		return m, nil
	}
	for _, c := range b[:432] {
		m.Code = m.Code || c != 0
	}
	if at := binary.LittleEndian.Uint64(b[432:]); at%4 == 0 && at/4 < 1<<32 {
		m.BootLBA = uint32(at / 4)
	}
	for i := range 4 {
		e := b[446+16*i : 446+16*(i+1)]
		if [16]byte(e) == [16]byte{} {
			continue
		}
		p := Partition{
			Number: i + 1, Active: e[0] == 0x80, Kind: e[4],
			Start: binary.LittleEndian.Uint32(e[8:]), Size: binary.LittleEndian.Uint32(e[12:]),
		}
		m.Active = m.Active || p.Active
		m.Partitions = append(m.Partitions, p)
	}
	return m, nil
}

// StartingAt is the path of the file that begins at a sector of 2048 bytes, the
// first in path order; "" if none does.
func (img *Image) StartingAt(lba uint32) string {
	if f := img.root.startingAt(lba); f != nil {
		return f.path()
	}
	return ""
}

// First is the sector of 2048 bytes at which the first file begins; everything
// before it is made by the writer.
func (img *Image) First() uint32 {
	first := img.blocks
	img.root.eachFile(func(f *file) {
		if !f.dir && f.size > 0 {
			first = min(first, f.extents[0].LBA)
		}
	})
	return first
}

func (f *file) eachFile(fn func(*file)) {
	for _, c := range f.children {
		fn(c)
		c.eachFile(fn)
	}
}

// CheckMBR compares the first sector behind the boot code with what Write puts
// there for the given boot files: the address of bios, the partition table with
// uefi. code is the length of the boot code in bytes.
func (img *Image) CheckMBR(bios, uefi string, code int) error {
	got, err := img.sector(0, 512)
	if err != nil {
		return err
	}
	l := &layout{sectors: img.blocks, options: Options{BIOS: &BIOSBoot{MBR: got[:code]}}}
	if l.bios, err = img.content(bios); err != nil {
		return err
	}
	if l.uefi, err = img.content(uefi); err != nil {
		return err
	}
	want := l.masterBootRecord([4]byte(got[440:444]))
	switch {
	case !bytes.Equal(got[432:440], want[432:440]):
		return fmt.Errorf("the boot code of the first sector loads from sector %d; %s is in sector %d", binary.LittleEndian.Uint64(got[432:])/4, bios, l.bios.extent)
	case !bytes.Equal(got[446:462], want[446:462]):
		return errors.New("partition 1 is not the active one that spans the image")
	case !bytes.Equal(got[462:478], want[462:478]):
		return fmt.Errorf("partition 2 is not an EFI system partition over %s", uefi)
	case !bytes.Equal(got[code:], want[code:]):
		return errors.New("the first sector holds something beside boot code and two partitions")
	}
	return nil
}

func (img *Image) content(name string) (*content, error) {
	f, err := imageFS{img}.find("boot", name, false)
	if err != nil {
		return nil, err
	}
	if f.dir || f.size == 0 || len(f.extents) != 1 {
		return nil, fmt.Errorf("%s is no file that can be booted", name)
	}
	return &content{entry: tree.Entry{Path: name, Size: f.size}, extent: f.extents[0].LBA}, nil
}

// CheckID compares the disk id in the first sector with the digest over
// descriptors, boot catalog, path tables and directories that it is made of. It
// tells of damage; whoever changes an image on purpose can change the id.
func (img *Image) CheckID() error {
	first := img.First()
	if int64(first)*sectorSize > maxMeta {
		return fmt.Errorf("%d sectors of directories are more than expected", first)
	}
	b, err := img.sector(0, int(first)*sectorSize)
	if err != nil {
		return err
	}
	id := [4]byte(b[440:444])
	clear(b[:512])
	// One sector may be left free so that a large file begins on 4 KiB.
	for _, end := range []int{len(b), len(b) - sectorSize} {
		if diskID(b[:end]) == id {
			return nil
		}
	}
	return errors.New("volume descriptors, path tables or directories are damaged: their digest is not the disk id in the first sector")
}

// CheckBootInfo checks the boot info table of a boot file that lies at a
// sector of 2048 bytes: see mkisofs(8), -boot-info-table.
func CheckBootInfo(data []byte, lba uint32) error {
	if len(data) < 64 {
		return fmt.Errorf("it has %d bytes, too few for a boot info table", len(data))
	}
	le := binary.LittleEndian
	for _, f := range []struct {
		at   int
		what string
		want uint32
	}{
		{8, "sector of the volume descriptor", 16},
		{12, "sector of the file", lba},
		{16, "length of the file", uint32(len(data))},
		{20, "checksum of the file", wordSum(data[64:])},
	} {
		if got := le.Uint32(data[f.at:]); got != f.want {
			return fmt.Errorf("boot info table: %s is %d, want %d", f.what, got, f.want)
		}
	}
	for _, c := range data[24:64] {
		if c != 0 {
			return errors.New("boot info table: the reserved part is not empty")
		}
	}
	return nil
}
