package iso

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/skycover/sci-cd/pkg/tree"
)

// The FAT image is FAT16 as Microsoft's "FAT: General Overview of On-Disk
// Format" 1.03 has it, which UEFI 2.10 section 13.3 refers to. It is written
// here because go-diskfs writes a reproducible one only with SOURCE_DATE_EPOCH
// in the environment of the process, and 1 KiB clusters make FAT16 right for
// everything from 8 to 31 MiB.
const (
	fatSector      = 512
	fatCluster     = 1024
	fatRootEntries = 512
	fatMinSize     = 8 << 20
	fatMaxSize     = 31 << 20 // El Torito counts sectors in 16 bits
	fatMaxEntries  = 4096

	fatAttrDir    = 0x10
	fatAttrVolume = 0x08
	fatAttrLong   = 0x0f
	fatLower8     = 0x08 // byte 12: base name in lower case
	fatLower3     = 0x10 // byte 12: extension in lower case
)

// FAT renders the tree as a FAT16 file system of 8 to 31 MiB, whole MiB, with at
// least 64 KiB free. Owners and modes are lost, links are refused. label has at
// most 11 characters; tm, in UTC, stands for entries without a time.
func FAT(t *tree.Tree, label string, serial uint32, tm time.Time) ([]byte, error) {
	if len(label) > 11 || strings.ContainsFunc(label, func(r rune) bool { return !fatShortChar(r) && r != ' ' }) {
		return nil, fmt.Errorf("cannot write FAT image: label %q is not at most 11 of A-Z, 0-9, space and !#$%%&'()-@^_`{}~", label)
	}
	root, err := fatTree(t, tm)
	if err != nil {
		return nil, fmt.Errorf("cannot write FAT image: %w", err)
	}
	v, err := newFATVolume(root)
	if err != nil {
		return nil, fmt.Errorf("cannot write FAT image: %w", err)
	}
	v.boot(label, serial)
	if err := v.write(root, label, tm); err != nil {
		return nil, fmt.Errorf("cannot write FAT image: %w", err)
	}
	return v.image, nil
}

// fatNode is a file or directory.
type fatNode struct {
	entry    tree.Entry
	name     string
	short    [11]byte
	lower    byte
	long     bool // needs long name entries
	time     time.Time
	parent   *fatNode
	children []*fatNode
	cluster  int
	clusters int
}

// fatTree links the entries and gives each its short name.
func fatTree(t *tree.Tree, tm time.Time) (*fatNode, error) {
	if t.Len() > fatMaxEntries {
		return nil, fmt.Errorf("%d entries are more than %d", t.Len(), fatMaxEntries)
	}
	root := &fatNode{}
	nodes := map[string]*fatNode{".": root}
	for _, e := range t.Entries() {
		if e.Mode.Type() != 0 && !e.Mode.IsDir() {
			return nil, fmt.Errorf("%q is neither a file nor a directory", e.Path)
		}
		if e.Size < 0 || e.Size > fatMaxSize {
			return nil, fmt.Errorf("%q has %d bytes; want at most %d", e.Path, e.Size, fatMaxSize)
		}
		n := &fatNode{entry: e, name: path.Base(e.Path), time: e.ModTime, parent: nodes[path.Dir(e.Path)]}
		if n.time.IsZero() {
			n.time = tm
		}
		if y := n.time.UTC().Year(); y < 1980 || y > 2107 {
			return nil, fmt.Errorf("%q: year %d is outside 1980 to 2107", e.Path, y)
		}
		if err := n.nameAmong(n.parent.children); err != nil {
			return nil, fmt.Errorf("%q: %w", e.Path, err)
		}
		n.parent.children = append(n.parent.children, n)
		nodes[e.Path] = n
	}
	return root, nil
}

// nameAmong chooses the short name. A name in 8.3 form of one case per part
// keeps itself, by the two case bits of byte 12; any other gets a long name and
// a short one with a number.
func (n *fatNode) nameAmong(siblings []*fatNode) error {
	if strings.ContainsAny(n.name, "\\/:*?\"<>|") || strings.HasSuffix(n.name, ".") || strings.HasSuffix(n.name, " ") ||
		strings.ContainsFunc(n.name, func(r rune) bool { return r < ' ' || r == 0xfffd }) || len(utf16.Encode([]rune(n.name))) > 255 {
		return errors.New("not a name that FAT can hold")
	}
	for _, s := range siblings {
		if strings.EqualFold(s.name, n.name) {
			return fmt.Errorf("differs from %q by case only", s.name)
		}
	}
	stem, ext := n.name, ""
	if i := strings.LastIndexByte(n.name, '.'); i > 0 {
		stem, ext = n.name[:i], n.name[i+1:]
	}
	stem8, stemLower, ok1 := fatPart(stem, 8)
	ext3, extLower, ok2 := fatPart(ext, 3)
	n.long = !ok1 || !ok2
	n.short = fatShort(stem8, ext3)
	if !n.long {
		if stemLower {
			n.lower |= fatLower8
		}
		if extLower {
			n.lower |= fatLower3
		}
	}
	for i := 1; n.long || fatTaken(siblings, n.short); i++ {
		tail := fmt.Sprintf("~%d", i)
		short := fatShort(stem8[:min(len(stem8), 8-len(tail))]+tail, ext3)
		if !fatTaken(siblings, short) {
			n.short, n.lower, n.long = short, 0, true
			break
		}
	}
	return nil
}

func fatTaken(siblings []*fatNode, short [11]byte) bool {
	for _, s := range siblings {
		if s.short == short {
			return true
		}
	}
	return false
}

// fatPart maps a base name or an extension to its short form; ok says that
// nothing but a uniform case is lost.
func fatPart(s string, limit int) (short string, lower, ok bool) {
	ok = len(s) <= limit
	upper := false
	var b []byte
	for _, r := range s {
		switch {
		case 'a' <= r && r <= 'z':
			lower = true
			b = append(b, byte(r)-'a'+'A')
		case fatShortChar(r):
			upper = upper || 'A' <= r && r <= 'Z'
			b = append(b, byte(r))
		default:
			ok = false
			if r != '.' && r != ' ' {
				b = append(b, '_')
			}
		}
	}
	return string(b[:min(len(b), limit)]), lower, ok && !(upper && lower)
}

func fatShortChar(r rune) bool {
	return 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r != 0 && strings.ContainsRune("!#$%&'()-@^_`{}~", r)
}

func fatShort(stem, ext string) [11]byte {
	var b [11]byte
	copy(b[:], "           ")
	copy(b[:8], stem)
	copy(b[8:], ext)
	return b
}

// fatVolume is the image and where its areas begin.
type fatVolume struct {
	image     []byte
	fatStart  int // bytes
	fatSize   int
	rootStart int
	dataStart int
	next      int // first free cluster
}

// newFATVolume measures the tree and makes an empty volume that fits it.
func newFATVolume(root *fatNode) (*fatVolume, error) {
	if n := root.records(); n > fatRootEntries-1 {
		return nil, fmt.Errorf("%d records in the root are more than %d", n, fatRootEntries-1)
	}
	need := int64(64 << 10)
	for list := []*fatNode{root}; len(list) > 0; list = list[1:] {
		n := list[0]
		if n != root {
			n.measure()
			need += int64(n.clusters) * fatCluster
		}
		if need > fatMaxSize {
			break
		}
		list = append(list, n.children...)
	}
	need += fatSector + fatRootEntries*32 + need/fatCluster*4 + 2*fatSector
	size := max((need+1<<20-1)>>20<<20, fatMinSize)
	if size > fatMaxSize {
		return nil, fmt.Errorf("%d bytes do not fit into %d", need, fatMaxSize)
	}
	v := &fatVolume{image: make([]byte, size), next: 2}
	v.fatStart = fatSector
	v.fatSize = (int(size)/fatCluster*2 + fatSector - 1) / fatSector * fatSector
	v.rootStart = v.fatStart + 2*v.fatSize
	v.dataStart = v.rootStart + fatRootEntries*32
	return v, nil
}

// measure sets how many clusters n takes. A directory has two records more.
func (n *fatNode) measure() {
	size := n.entry.Size
	if n.entry.Mode.IsDir() {
		size = int64(n.records()+2) * 32
	}
	n.clusters = int((size + fatCluster - 1) / fatCluster)
}

// records counts the directory records of n's children.
func (n *fatNode) records() int {
	count := 0
	for _, c := range n.children {
		count += 1 + len(c.longRecords())
	}
	return count
}

// boot writes the boot sector with its parameter block and the first two
// entries of both tables.
func (v *fatVolume) boot(label string, serial uint32) {
	b, le := v.image, binary.LittleEndian
	copy(b, "\xeb\x3c\x90SCI-CD  ")
	le.PutUint16(b[11:], fatSector)
	b[13] = fatCluster / fatSector
	le.PutUint16(b[14:], 1) // reserved sectors
	b[16] = 2               // tables
	le.PutUint16(b[17:], fatRootEntries)
	le.PutUint16(b[19:], uint16(len(b)/fatSector))
	b[21] = 0xf8
	le.PutUint16(b[22:], uint16(v.fatSize/fatSector))
	le.PutUint16(b[24:], 32) // sectors of a track and heads, as in the MBR
	le.PutUint16(b[26:], 64)
	b[36], b[38] = 0x80, 0x29
	le.PutUint32(b[39:], serial)
	copy(b[43:54], "NO NAME    ")
	if label != "" {
		copy(b[43:54], label+"           ")
	}
	copy(b[54:62], "FAT16   ")
	copy(b[62:], "\xf4\xeb\xfd") // hlt; jmp: nothing boots from here
	b[510], b[511] = 0x55, 0xaa
	v.link(0, 0xfff8)
	v.link(1, 0xffff)
}

// link sets an entry of both tables.
func (v *fatVolume) link(cluster int, value uint16) {
	for i := range 2 {
		binary.LittleEndian.PutUint16(v.image[v.fatStart+i*v.fatSize+2*cluster:], value)
	}
}

// allocate gives n a chain of consecutive clusters.
func (v *fatVolume) allocate(n *fatNode) {
	if n.clusters == 0 {
		return
	}
	n.cluster = v.next
	for range n.clusters {
		v.link(v.next, uint16(v.next+1))
		v.next++
	}
	v.link(v.next-1, 0xffff)
}

func (v *fatVolume) at(n *fatNode) []byte {
	start := v.dataStart + (n.cluster-2)*fatCluster
	return v.image[start : start+n.clusters*fatCluster]
}

// write fills the root directory and all below it, level by level.
func (v *fatVolume) write(root *fatNode, label string, tm time.Time) error {
	var top []byte
	if label != "" {
		volume := fatNode{short: fatShort(label, ""), time: tm}
		copy(volume.short[:], label)
		top = volume.record(fatAttrVolume)
	}
	for list := []*fatNode{root}; len(list) > 0; list = list[1:] {
		n := list[0]
		for _, c := range n.children {
			v.allocate(c)
		}
		switch {
		case n == root:
			copy(v.image[v.rootStart:v.dataStart], append(top, n.listing()...))
		case n.entry.Mode.IsDir():
			self := &fatNode{short: fatShort(".", ""), cluster: n.cluster, time: n.time}
			up := &fatNode{short: fatShort("..", ""), cluster: n.parent.cluster, time: n.time}
			copy(v.at(n), append(append(self.record(fatAttrDir), up.record(fatAttrDir)...), n.listing()...))
		default:
			if err := n.read(v); err != nil {
				return err
			}
		}
		list = append(list, n.children...)
	}
	return nil
}

// read fills in the bytes of a file.
func (n *fatNode) read(v *fatVolume) error {
	r, err := n.entry.Open()
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", n.entry.Path, err)
	}
	defer func() { _ = r.Close() }()
	if n.clusters > 0 {
		if _, err := io.ReadFull(r, v.at(n)[:n.entry.Size]); err != nil {
			return fmt.Errorf("cannot read %q: %w", n.entry.Path, err)
		}
	}
	var more [1]byte
	if count, _ := r.Read(more[:]); count > 0 {
		return fmt.Errorf("cannot read %q: longer than its %d bytes", n.entry.Path, n.entry.Size)
	}
	return nil
}

func (n *fatNode) listing() []byte {
	var b []byte
	for _, c := range n.children {
		for _, long := range c.longRecords() {
			b = append(b, long[:]...)
		}
		attr := byte(0x20) // archive
		if c.entry.Mode.IsDir() {
			attr = fatAttrDir
		}
		b = append(b, c.record(attr)...)
	}
	return b
}

// record is a short directory record.
func (n *fatNode) record(attr byte) []byte {
	b, le := make([]byte, 32), binary.LittleEndian
	copy(b, n.short[:])
	b[11], b[12] = attr, n.lower
	t := n.time.UTC()
	clock := uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
	date := uint16((t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day())
	le.PutUint16(b[14:], clock)
	le.PutUint16(b[16:], date)
	le.PutUint16(b[18:], date)
	le.PutUint16(b[22:], clock)
	le.PutUint16(b[24:], date)
	le.PutUint16(b[26:], uint16(n.cluster))
	if attr&(fatAttrDir|fatAttrVolume) == 0 {
		le.PutUint32(b[28:], uint32(n.entry.Size))
	}
	return b
}

// longRecords are the long name records in the order in which they stand
// before the short one: the last part first.
func (n *fatNode) longRecords() [][32]byte {
	if !n.long {
		return nil
	}
	units := utf16.Encode([]rune(n.name))
	if len(units)%13 != 0 {
		units = append(units, 0)
		for len(units)%13 != 0 {
			units = append(units, 0xffff)
		}
	}
	sum := byte(0)
	for _, c := range n.short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	var list [][32]byte
	for i := len(units)/13 - 1; i >= 0; i-- {
		r := [32]byte{0: byte(i + 1), 11: fatAttrLong, 13: sum}
		if len(list) == 0 {
			r[0] |= 0x40
		}
		for j, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			binary.LittleEndian.PutUint16(r[at:], units[i*13+j])
		}
		list = append(list, r)
	}
	return list
}
