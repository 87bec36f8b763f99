package iso

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/tree"
)

// padding is what an image's length is a multiple of: one cylinder of the
// geometry in its MBR, which some BIOSes insist on.
const padding = 1 << 20

// Options says what an image is and how it boots.
type Options struct {
	// VolumeID is the volume's name, at most 32 printable ASCII characters.
	// As Debian's own discs do, it may hold lower case and spaces.
	VolumeID string
	// Publisher and Application are at most 128 printable ASCII characters;
	// empty is fine.
	Publisher   string
	Application string
	// Time is the creation time of the volume and the modification time of
	// every entry that has none. It must not be zero.
	Time time.Time
	// BIOS and UEFI may each be nil: no such boot entry.
	BIOS *BIOSBoot
	UEFI *UEFIBoot
	// Hash asks for Result.SHA256. The bytes are read back beside the writing;
	// the file must be open for reading too.
	Hash bool
}

// Result describes a written image.
type Result struct {
	Size    int64  // bytes of the image
	SHA256  string // hex digest of the image, "" unless Options.Hash
	Payload int64  // bytes of all regular files, shared ones counted each time
}

// Write writes the tree as an image into f, which must be a regular file, from
// its start; what was there is lost. After an error f holds rubbish: write
// beside the final name and rename.
func Write(ctx context.Context, f *os.File, t *tree.Tree, o Options) (*Result, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("cannot write image: %w", err)
	}
	l, err := newLayout(t, o)
	if err != nil {
		return nil, err
	}
	if err := l.patchBIOS(); err != nil {
		return nil, err
	}
	w, err := newImageWriter(f, l.size(), o.Hash)
	if err != nil {
		return nil, fmt.Errorf("cannot write image: %w", err)
	}
	err = l.write(ctx, w)
	sum, hashErr := w.finish(err)
	if err == nil {
		err = hashErr
	}
	if err != nil {
		return nil, err
	}
	return &Result{Size: l.size(), SHA256: sum, Payload: l.payload}, nil
}

func (o Options) check() error {
	for _, s := range []struct {
		what, value string
		limit       int
	}{
		{"volume ID", o.VolumeID, 32}, {"publisher", o.Publisher, 128}, {"application", o.Application, 128},
	} {
		if len(s.value) > s.limit {
			return fmt.Errorf("%s %q is longer than %d characters", s.what, s.value, s.limit)
		}
		if strings.ContainsFunc(s.value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("%s %q is not printable ASCII", s.what, s.value)
		}
	}
	if o.VolumeID == "" {
		return errors.New("empty volume ID")
	}
	if o.Time.IsZero() {
		return errors.New("no time given")
	}
	if err := checkTime(o.Time); err != nil {
		return err
	}
	if o.UEFI != nil && o.UEFI.Image == "" {
		return errors.New("UEFI boot without an image")
	}
	return checkBIOS(o.BIOS)
}

func (l *layout) size() int64 { return int64(l.sectors) * sectorSize }

// write puts everything where the layout says, from the start to the end.
func (l *layout) write(ctx context.Context, w *imageWriter) error {
	meta, err := l.metadata()
	if err != nil {
		return err
	}
	if l.bootsDisk() || l.uefi != nil {
		copy(meta, l.masterBootRecord(diskID(meta)))
	}
	if err := w.bytes(0, meta); err != nil {
		return err
	}
	for _, c := range l.contents {
		if err := c.write(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// metadata renders everything before the first file.
func (l *layout) metadata() ([]byte, error) {
	b := make([]byte, 16*sectorSize)
	b = append(b, l.primaryDescriptor()...)
	if l.bootable() {
		b = append(b, bootRecord(l.catalog)...)
	}
	end := make([]byte, sectorSize)
	copy(end, "\xffCD001\x01")
	b = append(b, end...)
	if l.bootable() {
		b = append(b, l.bootCatalog()...)
	}
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		table := l.pathTable(order)
		b = append(append(b, table...), make([]byte, sectors(l.paths)*sectorSize-l.paths)...)
	}
	for _, d := range l.dirs {
		if int64(len(b)) != int64(d.extent)*sectorSize {
			return nil, fmt.Errorf("cannot write directory %q: internal error: at %d, want sector %d", d.entry.Path, len(b), d.extent)
		}
		records, more, err := l.directory(d)
		if err != nil {
			return nil, err
		}
		b = append(append(b, records...), more...)
	}
	return b, nil
}

// primaryDescriptor is ECMA-119 8.4.
func (l *layout) primaryDescriptor() []byte {
	b := make([]byte, sectorSize)
	text := func(at, n int, s string) { copy(b[at:at+n], s+strings.Repeat(" ", n)) }
	copy(b, "\x01CD001\x01")
	text(8, 32, "")
	text(40, 32, l.options.VolumeID)
	both32(b[80:], l.sectors)
	both16(b[120:], 1)
	both16(b[124:], 1)
	both16(b[128:], sectorSize)
	both32(b[132:], uint32(l.paths))
	binary.LittleEndian.PutUint32(b[140:], l.tableL)
	binary.BigEndian.PutUint32(b[148:], l.tableM)
	root := record{id: "\x00", extent: l.root.extent, size: l.root.size, flags: flagDirectory, time: l.root.time}
	copy(b[156:190], root.append(nil))
	text(190, 128, "")
	text(318, 128, l.options.Publisher)
	text(446, 128, "SCI-CD")
	text(574, 128, l.options.Application)
	text(702, 111, "")
	copy(b[813:], longTime(l.options.Time))
	copy(b[830:], longTime(l.options.Time))
	copy(b[847:], longTime(time.Time{}))
	copy(b[864:], longTime(time.Time{}))
	b[881] = 1
	return b
}

// write copies one file to its place.
func (c *content) write(ctx context.Context, w *imageWriter) error {
	at := int64(c.extent) * sectorSize
	if c.patch != nil {
		return w.bytes(at, c.patch)
	}
	if c.entry.Size == 0 {
		return nil
	}
	r, err := c.entry.Open()
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", c.entry.Path, err)
	}
	err = w.copy(ctx, at, r, c.entry.Size)
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("cannot copy %q: shorter than its %d bytes", c.entry.Path, c.entry.Size)
	}
	if errors.Is(err, errLonger) {
		return fmt.Errorf("cannot copy %q: longer than its %d bytes", c.entry.Path, c.entry.Size)
	}
	if err != nil {
		return fmt.Errorf("cannot copy %q: %w", c.entry.Path, err)
	}
	return nil
}
