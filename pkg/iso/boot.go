package iso

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// BIOSBoot names what boots on a PC BIOS, from a disc and from a disk.
type BIOSBoot struct {
	// Image is the path of isolinux.bin in the tree. Its boot info table is
	// filled in on the way into the image.
	Image string
	// MBR is isohdpfx.bin of the package isolinux (at most 432 bytes), which
	// loads Image when the image was copied to a disk. Empty: discs only.
	MBR []byte
}

// UEFIBoot names what boots on UEFI firmware.
type UEFIBoot struct {
	// Image is the path of a FAT image (see FAT) in the tree: the EFI system
	// partition.
	Image string
}

const (
	platformBIOS = 0x00 // El Torito 2.1
	platformUEFI = 0xef // UEFI 2.10 section 13.3.2.1

	// maxBootImage bounds what is held in memory to be patched.
	maxBootImage = 1 << 20
)

// bootRecord is the El Torito boot record volume descriptor (section 2.0).
func bootRecord(catalog uint32) []byte {
	b := make([]byte, sectorSize)
	copy(b, "\x00CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(b[71:], catalog)
	return b
}

// bootCatalog holds the validation entry, the default entry and, where both
// firmwares are served, a section for UEFI (El Torito 2.1 to 2.4).
func (l *layout) bootCatalog() []byte {
	b := make([]byte, sectorSize)
	uefi := func(at int) { bootEntry(b[at:], uint16(l.uefi.entry.Size/512), l.uefi.extent) }
	b[0] = 1
	switch {
	case l.bios == nil:
		b[1] = platformUEFI
		uefi(32)
	default:
		b[1] = platformBIOS
		bootEntry(b[32:], 4, l.bios.extent) // isolinux loads the rest of itself
		if l.uefi != nil {
			copy(b[64:], []byte{0x91, platformUEFI, 1, 0})
			uefi(96)
		}
	}
	b[30], b[31] = 0x55, 0xaa
	sum := uint16(0)
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	binary.LittleEndian.PutUint16(b[28:], -sum)
	return b
}

// bootEntry is a bootable image without emulation; count is in 512-byte units.
func bootEntry(b []byte, count uint16, lba uint32) {
	b[0] = 0x88
	binary.LittleEndian.PutUint16(b[6:], count)
	binary.LittleEndian.PutUint32(b[8:], lba)
}

// patchBIOS loads isolinux.bin and fills in its boot info table: where it lies,
// how long it is, and the sum of its words from byte 64 on.
func (l *layout) patchBIOS() error {
	if l.bios == nil {
		return nil
	}
	name := l.bios.entry.Path
	data, err := l.bios.entry.ReadAll(maxBootImage)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", name, err)
	}
	if int64(len(data)) != l.bios.entry.Size || len(data) < 68 {
		return fmt.Errorf("cannot boot BIOS: %q has %d bytes; want %d, at least 68", name, len(data), l.bios.entry.Size)
	}
	if len(l.options.BIOS.MBR) > 0 && !bytes.Equal(data[64:68], []byte{0xfb, 0xc0, 0x78, 0x70}) {
		return fmt.Errorf("cannot boot BIOS from a disk: %q is no isolinux.bin that isohdpfx.bin can load", name)
	}
	clear(data[8:64])
	le := binary.LittleEndian
	le.PutUint32(data[8:], 16)
	le.PutUint32(data[12:], l.bios.extent)
	le.PutUint32(data[16:], uint32(len(data)))
	le.PutUint32(data[20:], wordSum(data[64:]))
	l.bios.patch = data
	return nil
}

// wordSum adds little endian words; the last one is padded with zeros.
func wordSum(b []byte) uint32 {
	sum := uint32(0)
	for len(b) >= 4 {
		sum += binary.LittleEndian.Uint32(b)
		b = b[4:]
	}
	var last [4]byte
	copy(last[:], b)
	return sum + binary.LittleEndian.Uint32(last[:])
}

func checkBIOS(b *BIOSBoot) error {
	if b == nil {
		return nil
	}
	if b.Image == "" {
		return errors.New("BIOS boot without an image")
	}
	if len(b.MBR) > 432 {
		return fmt.Errorf("boot code for the MBR has %d bytes; want at most 432, as isohdpfx.bin", len(b.MBR))
	}
	return nil
}

const (
	mbrHiddenNTFS = 0x17 // what isohybrid has given to images since 2008
	mbrEmpty      = 0x00
	mbrEFI        = 0xef
)

// masterBootRecord is the first 512 bytes. Its table is that of Debian's own
// images, because each other one that was tried breaks something:
//
//   - Entry 1 spans the whole image: d-i's cdrom-detect mounts the partitions of
//     a USB disk before the disk, and whoever copies the medium from there wants
//     all of it. It is active, since some BIOSes refuse a disk without.
//   - Entry 2 is the EFI system partition inside it. EDK2 refuses a table whose
//     entries overlap (PartitionValidMbr) but skips entries of type 0, so entry 1
//     has type 0 when there is a second one. Tried in OVMF with the El Torito
//     record wiped out, which firmware may ignore on a disk: type 0 boots, type
//     17 as isohybrid has it ends in the shell. parted, fdisk and Linux are
//     content; only "sfdisk --verify" mentions the overlap, as with Debian's.
//   - No GPT: EDK2 and Linux look at one only if the MBR has an entry of type EE,
//     which no BIOS boots by itself; without that entry a GPT is dead weight that
//     parted asks about. On a larger stick its backup would lie in the wrong
//     place too.
func (l *layout) masterBootRecord(id [4]byte) []byte {
	b := make([]byte, 512)
	if l.bootsDisk() {
		copy(b, l.options.BIOS.MBR)
		binary.LittleEndian.PutUint64(b[432:], uint64(l.bios.extent)*4)
	}
	copy(b[440:], id[:])
	whole := partition{kind: mbrHiddenNTFS, size: l.sectors * 4}
	if l.uefi != nil {
		whole.kind = mbrEmpty
		esp := partition{kind: mbrEFI, start: l.uefi.extent * 4, size: uint32(l.uefi.entry.Size / 512)}
		esp.put(b[446+16:])
	}
	whole.active = l.bootsDisk()
	whole.put(b[446:])
	b[510], b[511] = 0x55, 0xaa
	return b
}

// bootsDisk says that a BIOS finds boot code in the first sector.
func (l *layout) bootsDisk() bool { return l.bios != nil && len(l.options.BIOS.MBR) > 0 }

type partition struct {
	active      bool
	kind        byte
	start, size uint32 // in 512-byte sectors
}

func (p partition) put(b []byte) {
	if p.active {
		b[0] = 0x80
	}
	first, last := chs(p.start), chs(p.start+p.size-1)
	copy(b[1:], first[:])
	b[4] = p.kind
	copy(b[5:], last[:])
	binary.LittleEndian.PutUint32(b[8:], p.start)
	binary.LittleEndian.PutUint32(b[12:], p.size)
}

// chs is the address in the geometry that isohybrid uses, 64 heads of 32
// sectors; what lies beyond 1024 cylinders is its last address.
func chs(lba uint32) [3]byte {
	cylinder, head, sector := lba/(64*32), lba/32%64, lba%32+1
	if cylinder > 1023 {
		cylinder, head, sector = 1023, 63, 32
	}
	return [3]byte{byte(head), byte(sector | cylinder>>8<<6), byte(cylinder)}
}

// diskID is four bytes that tell two images apart and are never zero.
func diskID(meta []byte) [4]byte {
	sum := sha256.Sum256(meta)
	return [4]byte{sum[0] | 1, sum[1], sum[2], sum[3]}
}
