package iso

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"sort"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/skycover/sci-cd/pkg/tree"
)

// node is one name in the image.
type node struct {
	entry    tree.Entry
	time     time.Time
	id       string // ECMA-119 identifier
	parent   *node  // the root is its own
	children []*node
	number   int // of a directory in the path table, from 1
	extent   uint32
	size     uint32   // of a directory, continuation areas not counted
	data     *content // of a regular file
}

// content is one run of bytes in the image. Several names may share it.
type content struct {
	entry  tree.Entry
	extent uint32
	// patch replaces the bytes of the entry; its length is that of the entry.
	patch []byte
}

// layout is the whole image before a byte of a file was read.
type layout struct {
	options  Options
	root     *node
	dirs     []*node // in path table order
	contents []*content
	paths    int64 // length of one path table in bytes
	catalog  uint32
	tableL   uint32
	tableM   uint32
	sectors  uint32 // of the image
	payload  int64
	bios     *content
	uefi     *content
}

// alignFrom is the size from which a file starts on a 4 KiB boundary, which is
// what file systems need to share its blocks with the source (reflink). The
// loss is below 2 KiB a file.
const alignFrom = 64 << 10

// newLayout places everything.
func newLayout(t *tree.Tree, o Options) (*layout, error) {
	l := &layout{options: o}
	byPath, err := l.grow(t)
	if err != nil {
		return nil, err
	}
	if err := l.findBoot(byPath); err != nil {
		return nil, err
	}
	if err := l.orderDirs(); err != nil {
		return nil, err
	}
	next, err := l.placeMeta()
	if err != nil {
		return nil, err
	}
	return l, l.placeData(next)
}

// grow turns the sorted entries into linked nodes and gives them identifiers.
func (l *layout) grow(t *tree.Tree) (map[string]*node, error) {
	l.root = &node{entry: tree.Entry{Mode: fs.ModeDir | 0o755}, time: l.options.Time, id: "\x00"}
	l.root.parent = l.root
	nodes := map[string]*node{".": l.root}
	ids := map[*node]*names{l.root: newNames()}
	shared := make(map[string]*content)
	for _, e := range t.Entries() {
		n := &node{entry: e, time: e.ModTime, parent: nodes[path.Dir(e.Path)]}
		if n.time.IsZero() {
			n.time = l.options.Time
		}
		if err := checkEntry(e, n.time); err != nil {
			return nil, fmt.Errorf("cannot place %q: %w", e.Path, err)
		}
		base := path.Base(e.Path)
		if e.Mode.IsDir() {
			n.id = ids[n.parent].dir(base)
			ids[n] = newNames()
		} else {
			n.id = ids[n.parent].file(base)
		}
		if e.Mode.IsRegular() {
			l.payload += e.Size
			n.data = l.share(shared, e)
		}
		n.parent.children = append(n.parent.children, n)
		nodes[e.Path] = n
	}
	return nodes, nil
}

func checkEntry(e tree.Entry, t time.Time) error {
	if e.UID < 0 || e.GID < 0 || e.UID > math.MaxUint32 || e.GID > math.MaxUint32 {
		return fmt.Errorf("owner %d:%d is outside 32 bits", e.UID, e.GID)
	}
	if e.Mode.IsRegular() && e.Size < 0 {
		return fmt.Errorf("size is %d", e.Size)
	}
	if strings.Count(e.Path, "/") >= maxDepth {
		return fmt.Errorf("more than %d levels", maxDepth)
	}
	if !utf8.ValidString(e.Path) {
		return errors.New("name is not UTF-8")
	}
	return checkTime(t)
}

// share returns the content of e: one for all entries of the same digest.
func (l *layout) share(shared map[string]*content, e tree.Entry) *content {
	own := e.SHA256 == "" || e.Size == 0 || l.options.BIOS != nil && e.Path == l.options.BIOS.Image
	key := fmt.Sprint(e.SHA256, " ", e.Size)
	if c, ok := shared[key]; ok && !own {
		return c
	}
	c := &content{entry: e}
	if !own {
		shared[key] = c
	}
	l.contents = append(l.contents, c)
	return c
}

// findBoot finds the boot images and moves them to the front, within reach of
// whatever a BIOS can address.
func (l *layout) findBoot(byPath map[string]*node) error {
	find := func(what, name string) (*content, error) {
		n, ok := byPath[name]
		if !ok || n.data == nil {
			return nil, fmt.Errorf("cannot boot %s: no file %q in the tree", what, name)
		}
		return n.data, nil
	}
	var err error
	if b := l.options.BIOS; b != nil {
		if l.bios, err = find("BIOS", b.Image); err != nil {
			return err
		}
	}
	if u := l.options.UEFI; u != nil {
		if l.uefi, err = find("UEFI", u.Image); err != nil {
			return err
		}
		if n := l.uefi.entry.Size; n == 0 || n%512 != 0 || n/512 > math.MaxUint16 {
			return fmt.Errorf("cannot boot UEFI: %q has %d bytes; want whole 512-byte sectors, at most 65535", u.Image, n)
		}
	}
	rank := func(c *content) int {
		switch c {
		case l.bios:
			return 0
		case l.uefi:
			return 1
		}
		return 2
	}
	sort.SliceStable(l.contents, func(i, j int) bool { return rank(l.contents[i]) < rank(l.contents[j]) })
	return nil
}

// orderDirs sorts the records of each directory (ECMA-119 9.3) and numbers the
// directories as the path table wants them: by level, parent, identifier
// (ECMA-119 6.9.1).
func (l *layout) orderDirs() error {
	l.dirs = []*node{l.root}
	for i := 0; i < len(l.dirs); i++ {
		d := l.dirs[i]
		d.number = i + 1
		sort.Slice(d.children, func(i, j int) bool { return lessID(d.children[i].id, d.children[j].id) })
		for _, c := range d.children {
			if c.entry.Mode.IsDir() {
				l.dirs = append(l.dirs, c)
			}
		}
	}
	if len(l.dirs) > math.MaxUint16 {
		return fmt.Errorf("cannot place %d directories: a path table numbers at most %d", len(l.dirs), math.MaxUint16)
	}
	return nil
}

// placeMeta gives path tables and directories their sectors; it returns the
// first free one.
func (l *layout) placeMeta() (int64, error) {
	next := int64(18)
	if l.bootable() {
		l.catalog = 19
		next = 20
	}
	l.paths = int64(len(l.pathTable(binary.LittleEndian)))
	l.tableL = uint32(next)
	l.tableM = uint32(next + sectors(l.paths))
	next += 2 * sectors(l.paths)
	for _, d := range l.dirs {
		d.extent = uint32(next)
		records, more, err := l.directory(d)
		if err != nil {
			return 0, err
		}
		d.size = uint32(len(records))
		next += sectors(int64(len(records))) + sectors(int64(len(more)))
		if next > math.MaxUint32 {
			return 0, errors.New("cannot place directories: image is larger than 8 TiB")
		}
	}
	return next, nil
}

// placeData gives every content its extent. Empty files share one sector.
func (l *layout) placeData(next int64) error {
	empty := int64(-1)
	for _, c := range l.contents {
		if c.entry.Size == 0 {
			if empty < 0 {
				empty = next
				next++
			}
			c.extent = uint32(empty)
			continue
		}
		if c.entry.Size >= alignFrom {
			next = (next + 1) &^ 1
		}
		c.extent = uint32(next)
		next += sectors(c.entry.Size)
		if next > math.MaxUint32-padding/sectorSize {
			return errors.New("cannot place files: image is larger than 8 TiB")
		}
	}
	l.sectors = uint32((next*sectorSize + padding - 1) / padding * padding / sectorSize)
	return nil
}

func (l *layout) bootable() bool { return l.bios != nil || l.uefi != nil }

// pathTable renders the path table in one byte order (ECMA-119 9.4).
func (l *layout) pathTable(order binary.AppendByteOrder) []byte {
	var b []byte
	for _, d := range l.dirs {
		b = append(b, byte(len(d.id)), 0)
		b = order.AppendUint32(b, d.extent)
		b = order.AppendUint16(b, uint16(d.parent.number))
		b = append(b, d.id...)
		if len(d.id)%2 == 1 {
			b = append(b, 0)
		}
	}
	return b
}

// directory renders the records of d and the continuation areas behind them.
// Lengths do not depend on addresses, so that the same code measures first and
// writes later.
func (l *layout) directory(d *node) (records, more []byte, err error) {
	b := dirBuilder{dir: d}
	sp, er := rootEntries()
	self := attributes(d.entry, d.links(), d.time)
	if d == l.root {
		self = append(append([][]byte{sp}, self...), er)
	}
	err = b.add(record{id: "\x00", extent: d.extent, size: d.size, flags: flagDirectory, time: d.time}, self)
	if err != nil {
		return nil, nil, err
	}
	up := d.parent
	err = b.add(record{id: "\x01", extent: up.extent, size: up.size, flags: flagDirectory, time: up.time},
		attributes(up.entry, up.links(), up.time))
	if err != nil {
		return nil, nil, err
	}
	for _, c := range d.children {
		if err := b.addChild(c); err != nil {
			return nil, nil, fmt.Errorf("cannot place %q: %w", c.entry.Path, err)
		}
	}
	records, more = b.finish()
	return records, more, nil
}

// links is the link count as file systems show it: names of a directory are
// its own two and the ".." of each child.
func (n *node) links() uint32 {
	if !n.entry.Mode.IsDir() {
		return 1
	}
	count := uint32(2)
	for _, c := range n.children {
		if c.entry.Mode.IsDir() {
			count++
		}
	}
	return count
}

// dirBuilder renders one directory.
type dirBuilder struct {
	dir     *node
	records []byte
	more    []byte
}

// add appends a record; none crosses a sector boundary (ECMA-119 6.8.1.1).
func (b *dirBuilder) add(r record, entries [][]byte) error {
	inline, rest, err := split(entries, recordRoom(r.id))
	if err != nil {
		return err
	}
	r.system = inline
	if len(rest) > 0 {
		if left := sectorSize - len(b.more)%sectorSize; left < len(rest) {
			b.more = append(b.more, make([]byte, left)...)
		}
		at := uint32(len(b.more))
		first := b.dir.extent + uint32(sectors(int64(b.dir.size)))
		r.system = append(r.system, continuation(first+at/sectorSize, at%sectorSize, uint32(len(rest)))...)
		b.more = append(b.more, rest...)
	}
	rendered := r.append(nil)
	if left := sectorSize - len(b.records)%sectorSize; left < len(rendered) {
		b.records = append(b.records, make([]byte, left)...)
	}
	b.records = append(b.records, rendered...)
	return nil
}

// addChild appends the records of a name: one for each section of a file.
func (b *dirBuilder) addChild(c *node) error {
	name, err := nameEntry(path.Base(c.entry.Path))
	if err != nil {
		return err
	}
	entries := append(attributes(c.entry, c.links(), c.time), name)
	r := record{id: c.id, time: c.time}
	switch {
	case c.entry.Mode.IsDir():
		r.extent, r.size, r.flags = c.extent, c.size, flagDirectory
		return b.add(r, entries)
	case c.data == nil:
		links, err := linkEntries(c.entry.Link)
		if err != nil {
			return err
		}
		return b.add(r, append(entries, links...))
	}
	r.extent = c.data.extent
	left := c.entry.Size
	for ; left > maxSection; left -= maxSection {
		r.size, r.flags = maxSection, flagMultiExtent
		if err := b.add(r, entries); err != nil {
			return err
		}
		r.extent += maxSection / sectorSize
	}
	r.size, r.flags = uint32(left), 0
	return b.add(r, entries)
}

// finish pads both areas to whole sectors.
func (b *dirBuilder) finish() (records, more []byte) {
	pad := func(p []byte) []byte {
		return append(p, make([]byte, sectors(int64(len(p)))*sectorSize-int64(len(p)))...)
	}
	return pad(b.records), pad(b.more)
}
