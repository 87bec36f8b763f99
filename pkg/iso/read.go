package iso

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	// maxDescriptors, maxMeta and maxEntries bound what Open reads and keeps:
	// a Debian DVD has some 5000 entries and 2 MiB of directories.
	maxDescriptors = 64
	maxMeta        = 64 << 20
	maxEntries     = 300_000
	// maxDepth bounds the levels of directories on both sides.
	maxDepth = 100
)

// Image is an opened image. It reads from its source on demand and is safe for
// use by several goroutines if the source is.
type Image struct {
	source  io.ReaderAt
	size    int64 // of the source
	blocks  uint32
	volume  string
	created time.Time
	boot    []BootEntry
	root    *file
}

// BootEntry is one bootable entry of the El Torito catalog.
type BootEntry struct {
	Platform string // "BIOS", "UEFI" or the number as "0x01"
	LBA      uint32 // sector of 2048 bytes
	Sectors  uint16 // loaded by the firmware, in units of 512 bytes
	Path     string // of the file that begins there, "" if none does
}

// Extent is a run of bytes of a file.
type Extent struct {
	LBA  uint32 // first sector of 2048 bytes
	Size int64
}

// Open reads the volume descriptors, the boot catalog and all directories of an
// image of size bytes. It takes what Write writes and what other tools write in
// the same formats; relocated or interleaved files, device nodes, names that are
// not UTF-8 and whatever points outside of the image are errors.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	img := &Image{source: r, size: size}
	root, catalog, err := img.descriptors()
	if err != nil {
		return nil, fmt.Errorf("cannot open image: %w", err)
	}
	d := directoryReader{img: img, left: maxMeta, seen: make(map[uint32]bool)}
	if img.root, err = d.tree(root); err != nil {
		return nil, fmt.Errorf("cannot open image: %w", err)
	}
	if catalog != 0 {
		if err := img.readCatalog(catalog); err != nil {
			return nil, fmt.Errorf("cannot read boot catalog: %w", err)
		}
	}
	return img, nil
}

// VolumeID is the volume's name.
func (img *Image) VolumeID() string { return img.volume }

// Time is the volume's creation time; zero if it has none.
func (img *Image) Time() time.Time { return img.created }

// Size is the length of the image in bytes as its volume descriptor has it: as
// much as must be read from a disk to get the whole image.
func (img *Image) Size() int64 { return int64(img.blocks) * sectorSize }

// Boot lists the bootable entries of the catalog.
func (img *Image) Boot() []BootEntry { return append([]BootEntry(nil), img.boot...) }

// sector reads n bytes from the start of a sector.
func (img *Image) sector(lba uint32, n int) ([]byte, error) {
	at := int64(lba) * sectorSize
	if at+int64(n) > img.size {
		return nil, fmt.Errorf("%d bytes at sector %d are outside of the image's %d bytes", n, lba, img.size)
	}
	b := make([]byte, n)
	if _, err := img.source.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// descriptors walks the volume descriptor set (ECMA-119 6.7.1). It returns the
// root directory's record and the sector of the boot catalog, 0 without one.
func (img *Image) descriptors() (root []byte, catalog uint32, err error) {
	for lba := uint32(16); lba < 16+maxDescriptors; lba++ {
		b, err := img.sector(lba, sectorSize)
		if err != nil {
			return nil, 0, err
		}
		if string(b[1:6]) != "CD001" {
			return nil, 0, fmt.Errorf("no ISO 9660 volume descriptor in sector %d", lba)
		}
		switch b[0] {
		case 0:
			if strings.HasPrefix(string(b[7:]), "EL TORITO SPECIFICATION") {
				catalog = binary.LittleEndian.Uint32(b[71:])
			}
		case 1:
			if root == nil {
				root = b[156:190]
				if err := img.primary(b); err != nil {
					return nil, 0, err
				}
			}
		case 255:
			if root == nil {
				return nil, 0, errors.New("no primary volume descriptor")
			}
			return root, catalog, nil
		}
	}
	return nil, 0, fmt.Errorf("no end of the volume descriptors in %d sectors", maxDescriptors)
}

func (img *Image) primary(b []byte) error {
	if n := binary.LittleEndian.Uint16(b[128:]); n != sectorSize {
		return fmt.Errorf("block size is %d; want %d", n, sectorSize)
	}
	img.blocks = binary.LittleEndian.Uint32(b[80:])
	if img.Size() > img.size {
		return fmt.Errorf("volume has %d bytes, the image only %d: it was cut off", img.Size(), img.size)
	}
	img.volume = strings.TrimRight(string(b[40:72]), " \x00")
	img.created = parseLongTime(b[813:830])
	return nil
}

// parseLongTime is the reverse of longTime; what cannot be parsed is zero.
func parseLongTime(b []byte) time.Time {
	t, err := time.Parse("20060102150405", string(b[:14]))
	if err != nil {
		return time.Time{}
	}
	hundredths, err := strconv.Atoi(string(b[14:16]))
	if err != nil || hundredths < 0 {
		return time.Time{}
	}
	t = t.Add(time.Duration(hundredths) * 10 * time.Millisecond)
	return t.Add(-time.Duration(int8(b[16])) * 15 * time.Minute)
}

// parseShortTime is the reverse of shortTime.
func parseShortTime(b []byte) time.Time {
	t := time.Date(1900+int(b[0]), time.Month(b[1]), int(b[2]), int(b[3]), int(b[4]), int(b[5]), 0, time.UTC)
	return t.Add(-time.Duration(int8(b[6])) * 15 * time.Minute)
}

// readCatalog reads the sector of the boot catalog (El Torito 2.0).
func (img *Image) readCatalog(lba uint32) error {
	b, err := img.sector(lba, sectorSize)
	if err != nil {
		return err
	}
	sum := uint16(0)
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(b[i:])
	}
	if b[0] != 1 || b[30] != 0x55 || b[31] != 0xaa || sum != 0 {
		return fmt.Errorf("no validation entry in sector %d", lba)
	}
	platform, section, last := b[1], 1, false
	for b = b[32:]; len(b) >= 32; b = b[32:] {
		switch {
		case section > 0:
			section--
			if b[0] == 0x88 {
				img.addBoot(platform, b)
			}
		case last:
			return nil
		case b[0] == 0x90 || b[0] == 0x91:
			last = b[0] == 0x91
			platform, section = b[1], int(binary.LittleEndian.Uint16(b[2:]))
		default:
			return nil
		}
	}
	return nil
}

func (img *Image) addBoot(platform byte, b []byte) {
	e := BootEntry{
		LBA:     binary.LittleEndian.Uint32(b[8:]),
		Sectors: binary.LittleEndian.Uint16(b[6:]),
	}
	switch platform {
	case platformBIOS:
		e.Platform = "BIOS"
	case platformUEFI:
		e.Platform = "UEFI"
	default:
		e.Platform = fmt.Sprintf("%#02x", platform)
	}
	if f := img.root.startingAt(e.LBA); f != nil {
		e.Path = f.path()
	}
	img.boot = append(img.boot, e)
}

// directoryReader reads all directories with one budget.
type directoryReader struct {
	img     *Image
	left    int64 // bytes that may still be read
	entries int
	seen    map[uint32]bool // first sectors of directories
	skip    int             // SUSP bytes to skip in each record
	ridge   bool
}

// tree reads the root directory and all below it, without recursion.
func (d *directoryReader) tree(record []byte) (*file, error) {
	root := &file{name: ".", mode: unixDir | 0o755, dir: true}
	raw, err := parseRecord(record)
	if err != nil {
		return nil, err
	}
	root.time = raw.time
	root.extents = []Extent{{raw.extent, int64(raw.size)}}
	for list := []*file{root}; len(list) > 0; list = list[1:] {
		dir := list[0]
		if err := d.directory(dir, dir == root); err != nil {
			return nil, fmt.Errorf("directory %q: %w", dir.path(), err)
		}
		for _, c := range dir.children {
			if c.dir {
				list = append(list, c)
			}
		}
	}
	return root, nil
}

// take reads n bytes at a sector out of the budget.
func (d *directoryReader) take(lba uint32, n int64) ([]byte, error) {
	if n > d.left {
		return nil, fmt.Errorf("directories are larger than %d bytes", int64(maxMeta))
	}
	d.left -= n
	return d.img.sector(lba, int(n))
}

// directory reads the records of dir into its children.
func (d *directoryReader) directory(dir *file, root bool) error {
	at := dir.extents[0]
	if d.seen[at.LBA] {
		return fmt.Errorf("sector %d belongs to another directory", at.LBA)
	}
	d.seen[at.LBA] = true
	b, err := d.take(at.LBA, at.Size)
	if err != nil {
		return err
	}
	p := childReader{dir: dir, names: make(map[string]bool)}
	for pos, n := 0, 0; pos < len(b); n++ {
		length := int(b[pos])
		if length == 0 { // the rest of the sector is unused
			pos = (pos/sectorSize + 1) * sectorSize
			continue
		}
		if pos+length > len(b) || pos/sectorSize != (pos+length-1)/sectorSize {
			return fmt.Errorf("record at byte %d crosses a sector", pos)
		}
		raw, err := parseRecord(b[pos : pos+length])
		if err != nil {
			return fmt.Errorf("record at byte %d: %w", pos, err)
		}
		pos += length
		if n == 0 && root {
			d.detect(raw.system)
		}
		if err := d.record(&p, raw); err != nil {
			return fmt.Errorf("record %q: %w", raw.id, err)
		}
	}
	if p.open != nil {
		return fmt.Errorf("file %q has no last section", p.open.name)
	}
	dir.sort()
	return nil
}

// detect looks for SP in the "." record of the root (SUSP 5.3).
func (d *directoryReader) detect(system []byte) {
	if len(system) >= 7 && string(system[:2]) == "SP" && system[4] == 0xbe && system[5] == 0xef {
		d.ridge = true
		d.skip = int(system[6])
	}
}

// childReader collects one directory; open is a file whose last section has not
// come yet.
type childReader struct {
	dir    *file
	names  map[string]bool
	open   *file
	openID string
}

// record turns one record into a child of the directory, or adds a section.
func (d *directoryReader) record(p *childReader, raw rawRecord) error {
	if d.entries++; d.entries > maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	if p.open == nil && raw.id == "\x01" {
		return nil
	}
	if p.open == nil && raw.id == "\x00" {
		if p.dir.parent != nil {
			return nil // the parent had the same
		}
		return d.rootAttributes(p.dir, raw)
	}
	at := Extent{raw.extent, int64(raw.size)}
	if raw.size > 0 && int64(at.LBA)*sectorSize+at.Size > d.img.size {
		return fmt.Errorf("%d bytes at sector %d are outside of the image's %d bytes", at.Size, at.LBA, d.img.size)
	}
	if p.open == nil {
		f := &file{parent: p.dir, depth: p.dir.depth + 1, time: raw.time, dir: raw.flags&flagDirectory != 0}
		if f.depth > maxDepth {
			return fmt.Errorf("more than %d levels", maxDepth)
		}
		if err := d.attributes(f, raw); err != nil {
			return err
		}
		if p.names[f.name] {
			return fmt.Errorf("name %q occurs twice", f.name)
		}
		p.names[f.name] = true
		p.dir.children = append(p.dir.children, f)
		p.open, p.openID = f, raw.id
	}
	if raw.id != p.openID {
		return fmt.Errorf("file %q has no last section", p.open.name)
	}
	if p.open.size > math.MaxInt64-at.Size {
		return errors.New("size overflows")
	}
	p.open.extents = appendExtent(p.open.extents, at)
	p.open.size += at.Size
	if raw.flags&flagMultiExtent == 0 {
		p.open = nil
	}
	return nil
}

// rootAttributes takes from the "." record what no parent says of the root.
func (d *directoryReader) rootAttributes(root *file, raw rawRecord) error {
	if !d.ridge {
		return nil
	}
	if err := d.susp(root, raw.system); err != nil {
		return err
	}
	root.name, root.link = ".", ""
	root.mode = root.mode&0o7777 | unixDir
	return nil
}

// appendExtent joins extents that follow each other.
func appendExtent(list []Extent, e Extent) []Extent {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.Size%sectorSize == 0 && int64(last.LBA)+last.Size/sectorSize == int64(e.LBA) {
			last.Size += e.Size
			return list
		}
	}
	return append(list, e)
}

// rawRecord is a directory record as it stands in the image.
type rawRecord struct {
	id     string
	extent uint32
	size   uint32
	flags  byte
	time   time.Time
	system []byte
}

func parseRecord(b []byte) (rawRecord, error) {
	if len(b) < recordFixed+1 || len(b) < recordFixed+int(b[32]) || b[32] == 0 {
		return rawRecord{}, errors.New("too short")
	}
	if b[1] != 0 || b[26] != 0 || b[27] != 0 {
		return rawRecord{}, errors.New("extended attributes or interleaving are not supported")
	}
	r := rawRecord{
		id:     string(b[33 : 33+int(b[32])]),
		extent: binary.LittleEndian.Uint32(b[2:]),
		size:   binary.LittleEndian.Uint32(b[10:]),
		flags:  b[25],
		time:   parseShortTime(b[18:25]),
	}
	if head := recordHead(r.id); head < len(b) {
		r.system = b[head:]
	}
	return r, nil
}
