package installer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// The GUID partition table, UEFI specification 2.10 clause 5.3: a protective
// MBR, a header and an array of 128 entries at the start, and both once more at
// the end. We write exactly this and read nothing else.

// guid is a GUID in the byte order of the disk (the first three fields little
// endian).
type guid [16]byte

const (
	gptEntries   = 128
	gptEntrySize = 128
	gptSignature = "EFI PART"
	// mib is the unit of alignment of every partition.
	mib = 1 << 20
)

// Partition types, in text form.
const (
	typeESP      = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeBIOSBoot = "21686148-6449-6e6f-744e-656564454649"
	typeLinux    = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	typeLVM      = "e6d6d379-f507-44c2-a23c-238f2a3df928"
)

var errNoGPT = errors.New("no GPT")

// gptPart is one entry of the table.
type gptPart struct {
	Number int
	Type   guid
	ID     guid
	Start  int64 // bytes
	Size   int64 // bytes
	Name   string
}

func parseGUID(s string) (guid, error) {
	var g guid
	var a uint32
	var b, c uint16
	var d [8]byte
	if n, err := fmt.Sscanf(s, "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		&a, &b, &c, &d[0], &d[1], &d[2], &d[3], &d[4], &d[5], &d[6], &d[7]); n != 11 || err != nil {
		return g, fmt.Errorf("%q is no GUID", s)
	}
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	copy(g[8:], d[:])
	return g, nil
}

// newGUID draws a random GUID (RFC 9562 version 4).
func newGUID(rand io.Reader) (guid, error) {
	var g guid
	if _, err := io.ReadFull(rand, g[:]); err != nil {
		return g, fmt.Errorf("cannot draw a GUID: %w", err)
	}
	g[7] = g[7]&0x0f | 0x40 // the version, in the high byte of a little-endian field
	g[8] = g[8]&0x3f | 0x80
	return g, nil
}

// writeGPT writes both copies of the table and the protective MBR; the boot
// code in the MBR's first 440 bytes is zero until GRUB puts its own there.
func writeGPT(w io.WriterAt, size, sector int64, disk guid, parts []gptPart) error {
	l, err := gptLayout(size, sector)
	if err != nil {
		return err
	}
	array := make([]byte, gptEntries*gptEntrySize)
	for _, p := range parts {
		if p.Number < 1 || p.Number > gptEntries || p.Start%sector != 0 || p.Size%sector != 0 ||
			p.Start/sector < l.first || (p.Start+p.Size)/sector-1 > l.last {
			return fmt.Errorf("cannot write the partition table: partition %d does not fit", p.Number)
		}
		p.encode(array[(p.Number-1)*gptEntrySize:], sector)
	}
	// The backup first: an interrupted write leaves one good copy or none.
	writes := []struct {
		off  int64
		data []byte
	}{
		{l.backupArray * sector, array},
		{l.backup * sector, l.header(disk, array, true)},
		{2 * sector, array},
		{sector, l.header(disk, array, false)},
		{0, l.protectiveMBR()},
	}
	for _, wr := range writes {
		if _, err := w.WriteAt(wr.data, wr.off); err != nil {
			return fmt.Errorf("cannot write the partition table: %w", err)
		}
	}
	return nil
}

// gptGeometry says where everything is, in sectors.
type gptGeometry struct {
	sector, sectors     int64
	backup, backupArray int64
	first, last         int64 // usable
}

func gptLayout(size, sector int64) (gptGeometry, error) {
	if sector != 512 && sector != 4096 {
		return gptGeometry{}, fmt.Errorf("sector size %d is not supported", sector)
	}
	array := (gptEntries*gptEntrySize + sector - 1) / sector
	l := gptGeometry{sector: sector, sectors: size / sector}
	l.backup = l.sectors - 1
	l.backupArray = l.backup - array
	l.first, l.last = 2+array, l.backupArray-1
	if l.last <= l.first {
		return gptGeometry{}, fmt.Errorf("a disk of %d bytes is too small for a partition table", size)
	}
	return l, nil
}

func (l gptGeometry) header(disk guid, array []byte, backup bool) []byte {
	h := make([]byte, l.sector)
	copy(h, gptSignature)
	le := binary.LittleEndian
	le.PutUint32(h[8:], 0x00010000)
	le.PutUint32(h[12:], 92)
	self, other, arrayAt := int64(1), l.backup, int64(2)
	if backup {
		self, other, arrayAt = l.backup, 1, l.backupArray
	}
	le.PutUint64(h[24:], uint64(self))
	le.PutUint64(h[32:], uint64(other))
	le.PutUint64(h[40:], uint64(l.first))
	le.PutUint64(h[48:], uint64(l.last))
	copy(h[56:], disk[:])
	le.PutUint64(h[72:], uint64(arrayAt))
	le.PutUint32(h[80:], gptEntries)
	le.PutUint32(h[84:], gptEntrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	return h
}

// protectiveMBR is one entry of type 0xEE over the whole disk (clause 5.2.3).
// It is marked active as well: some firmware boots no BIOS disk without an
// active partition, and none was seen that minds.
func (l gptGeometry) protectiveMBR() []byte {
	m := make([]byte, 512)
	e := m[446:]
	copy(e, []byte{0x80, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(l.sectors-1, 0xffffffff)))
	m[510], m[511] = 0x55, 0xaa
	return m
}

func (p gptPart) encode(e []byte, sector int64) {
	copy(e, p.Type[:])
	copy(e[16:], p.ID[:])
	binary.LittleEndian.PutUint64(e[32:], uint64(p.Start/sector))
	binary.LittleEndian.PutUint64(e[40:], uint64((p.Start+p.Size)/sector-1))
	for i, c := range utf16.Encode([]rune(p.Name)) {
		if i < 36 {
			binary.LittleEndian.PutUint16(e[56+2*i:], c)
		}
	}
}

// readGPT reads the primary table. errNoGPT says that there is none.
func readGPT(r io.ReaderAt, size, sector int64) ([]gptPart, error) {
	_, parts, err := readGPTDisk(r, size, sector)
	return parts, err
}

func readGPTDisk(r io.ReaderAt, size, sector int64) (guid, []gptPart, error) {
	var disk guid
	if sector < 512 || size < 2*sector {
		return disk, nil, errNoGPT
	}
	h, err := readAt(r, sector, int(sector))
	if err != nil {
		return disk, nil, err
	}
	if !bytes.HasPrefix(h, []byte(gptSignature)) {
		return disk, nil, errNoGPT
	}
	le := binary.LittleEndian
	sum, n := le.Uint32(h[16:]), le.Uint32(h[12:])
	if n < 92 || int64(n) > sector {
		return disk, nil, fmt.Errorf("header of %d bytes", n)
	}
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:n]) != sum {
		return disk, nil, errors.New("header checksum is wrong")
	}
	count, each, at := le.Uint32(h[80:]), le.Uint32(h[84:]), le.Uint64(h[72:])
	if count > 1024 || each < 128 || each > 1024 || at > uint64(size/sector) {
		return disk, nil, fmt.Errorf("%d entries of %d bytes at sector %d", count, each, at)
	}
	array, err := readAt(r, int64(at)*sector, int(count*each))
	if err != nil {
		return disk, nil, err
	}
	if crc32.ChecksumIEEE(array) != le.Uint32(h[88:]) {
		return disk, nil, errors.New("checksum of the entries is wrong")
	}
	copy(disk[:], h[56:72])
	return disk, decodeGPT(array, int(each), sector), nil
}

func decodeGPT(array []byte, each int, sector int64) []gptPart {
	var parts []gptPart
	le := binary.LittleEndian
	for i := 0; i+each <= len(array); i += each {
		e := array[i : i+each]
		var p gptPart
		copy(p.Type[:], e)
		copy(p.ID[:], e[16:])
		if p.Type == (guid{}) {
			continue
		}
		p.Number = i/each + 1
		p.Start = int64(le.Uint64(e[32:])) * sector
		p.Size = (int64(le.Uint64(e[40:]))+1)*sector - p.Start
		var name []uint16
		for c := e[56:128]; len(c) >= 2 && (c[0] != 0 || c[1] != 0); c = c[2:] {
			name = append(name, le.Uint16(c))
		}
		p.Name = string(utf16.Decode(name))
		parts = append(parts, p)
	}
	return parts
}
