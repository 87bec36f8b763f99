package iso

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"
)

// maxContinuations bounds the chain of continuation areas of one record, as
// Linux does.
const maxContinuations = 32

// attributes sets name, mode, owner, time and link of f from its record: by
// Rock Ridge if the image has it, else by ECMA-119 alone.
func (d *directoryReader) attributes(f *file, raw rawRecord) error {
	f.name = strings.TrimSuffix(strings.TrimSuffix(raw.id, ";1"), ".")
	f.mode, f.links = unixRegular|0o444, 1
	if f.dir {
		f.mode = unixDir | 0o555
	}
	if d.ridge {
		if err := d.susp(f, raw.system[min(d.skip, len(raw.system)):]); err != nil {
			return err
		}
	}
	if f.name == "" || f.name == "." || f.name == ".." || strings.ContainsAny(f.name, "/\x00") || !utf8.ValidString(f.name) {
		return fmt.Errorf("bad name %q", f.name)
	}
	kind := f.mode & 0o170000
	switch {
	case kind != unixDir && kind != unixRegular && kind != unixSymlink:
		return fmt.Errorf("unsupported file type %#o", kind)
	case f.dir != (kind == unixDir):
		return errors.New("mode and flags disagree on whether it is a directory")
	case (kind == unixSymlink) != (f.link != ""):
		return errors.New("mode and target disagree on whether it is a link")
	}
	return nil
}

// susp walks the system use entries of one record with their continuations.
func (d *directoryReader) susp(f *file, b []byte) error {
	var p ridgeParser
	for range maxContinuations {
		next, err := p.entries(f, b)
		if err != nil {
			return err
		}
		if next == nil {
			return p.finish(f)
		}
		lba, offset, length := binary.LittleEndian.Uint32(next), binary.LittleEndian.Uint32(next[8:]), binary.LittleEndian.Uint32(next[16:])
		if offset > sectorSize || length > sectorSize-offset {
			return errors.New("continuation area crosses a sector")
		}
		area, err := d.take(lba, int64(offset+length))
		if err != nil {
			return err
		}
		b = area[offset:]
	}
	return fmt.Errorf("more than %d continuation areas", maxContinuations)
}

// ridgeParser holds what may be spread over several entries.
type ridgeParser struct {
	name     strings.Builder
	nameSeen bool
	link     strings.Builder
	linkSeen bool
	joined   bool // the next component continues the last one
}

// entries parses one area. It returns the data of a CE entry if there is one.
func (p *ridgeParser) entries(f *file, b []byte) (next []byte, err error) {
	for len(b) >= 4 {
		n := int(b[2])
		if b[0] == 0 { // padding
			return next, nil
		}
		if n < 4 || n > len(b) {
			return nil, fmt.Errorf("system use entry of %d bytes in %d", n, len(b))
		}
		data := b[4:n]
		switch sig := string(b[:2]); sig {
		case "CE":
			if len(data) < 24 {
				return nil, errors.New("short CE")
			}
			next = data
		case "ST":
			return next, nil
		case "CL", "PL", "RE":
			return nil, errors.New("relocated directories are not supported")
		case "PX", "TF", "NM", "SL":
			if err := p.entry(f, sig, data); err != nil {
				return nil, err
			}
		}
		b = b[n:]
	}
	return next, nil
}

func (p *ridgeParser) entry(f *file, sig string, data []byte) error {
	switch {
	case sig == "PX" && len(data) >= 32:
		f.mode = binary.LittleEndian.Uint32(data)
		f.links = binary.LittleEndian.Uint32(data[8:])
		f.uid = binary.LittleEndian.Uint32(data[16:])
		f.gid = binary.LittleEndian.Uint32(data[24:])
	case sig == "TF" && len(data) >= 1:
		return parseTimes(f, data[0], data[1:])
	case sig == "NM" && len(data) >= 1:
		if data[0]&^1 != 0 {
			return nil // "." and ".." only
		}
		p.nameSeen = true
		p.name.Write(data[1:])
	case sig == "SL" && len(data) >= 1:
		p.linkSeen = true
		return p.components(data[1:])
	default:
		return fmt.Errorf("short %s", sig)
	}
	return nil
}

// parseTimes takes the modification time out of TF (RRIP 4.1.6).
func parseTimes(f *file, flags byte, b []byte) error {
	size := 7
	if flags&0x80 != 0 {
		size = 17
	}
	at := 0
	if flags&0x01 != 0 { // creation comes first
		at = size
	}
	if flags&0x02 == 0 {
		return nil
	}
	if len(b) < at+size {
		return errors.New("short TF")
	}
	if size == 7 {
		f.time = parseShortTime(b[at : at+7])
	} else {
		f.time = parseLongTime(b[at : at+17])
	}
	return nil
}

// components appends the components of one SL entry (RRIP 4.1.3.1).
func (p *ridgeParser) components(b []byte) error {
	for len(b) >= 2 {
		flags, n := b[0], int(b[1])
		if 2+n > len(b) {
			return errors.New("short component in SL")
		}
		if s := p.link.String(); s != "" && s[len(s)-1] != '/' && !p.joined {
			p.link.WriteByte('/')
		}
		switch {
		case flags&slRoot != 0:
			p.link.Reset()
			p.link.WriteByte('/')
		case flags&slParent != 0:
			p.link.WriteString("..")
		case flags&slCurrent != 0:
			p.link.WriteByte('.')
		default:
			p.link.Write(b[2 : 2+n])
		}
		p.joined = flags&slContinue != 0
		b = b[2+n:]
	}
	return nil
}

func (p *ridgeParser) finish(f *file) error {
	if p.nameSeen {
		f.name = p.name.String()
	}
	if p.linkSeen {
		f.link = p.link.String()
		if f.link == "" || strings.ContainsRune(f.link, 0) {
			return fmt.Errorf("bad link target %q", f.link)
		}
	}
	return nil
}

// goMode is the reverse of unixMode.
func goMode(u uint32) fs.FileMode {
	m := fs.FileMode(u & 0o777)
	switch u & 0o170000 {
	case unixDir:
		m |= fs.ModeDir
	case unixSymlink:
		m |= fs.ModeSymlink
	}
	if u&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if u&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if u&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}
