package archive

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/skycover/sci-cd/pkg/deb"
)

// indexFormat names the form of a parsed index in the cache. Change the number
// with every change of deb.Package, of deb.ScanPackages, of checkPackage, or of
// the code below: parsed indexes of other numbers are not found and made anew.
const indexFormat = "sci-cd index 2"

// An index is the line indexFormat, the number of packages, and each package:
// all strings of textFields, then the three numbers of the fields that are
// none. A string is its length and its bytes, numbers are uvarints of
// encoding/binary. It is a third of the Packages file, and read back without
// copying a string.

// textFields lists the string fields of a package.
func textFields(p *deb.Package) [19]*string {
	return [...]*string{
		&p.Name, &p.Version, &p.Architecture, &p.MultiArch, &p.Source, &p.Priority, &p.Section,
		&p.PreDepends, &p.Depends, &p.Recommends, &p.Suggests, &p.Conflicts, &p.Breaks, &p.Provides, &p.Replaces, &p.Enhances,
		&p.KernelVersion, &p.Filename, &p.SHA256,
	}
}

const (
	flagEssential = 1 << iota
	flagImportant
)

func encodeIndex(pkgs []deb.Package) []byte {
	b := make([]byte, 0, 64+320*len(pkgs))
	b = append(b, indexFormat+"\n"...)
	b = binary.AppendUvarint(b, uint64(len(pkgs)))
	for i := range pkgs {
		p := &pkgs[i]
		for _, s := range textFields(p) {
			b = binary.AppendUvarint(b, uint64(len(*s)))
			b = append(b, *s...)
		}
		var flags uint64
		if p.Essential {
			flags |= flagEssential
		}
		if p.Important {
			flags |= flagImportant
		}
		b = binary.AppendUvarint(b, uint64(p.Size))
		b = binary.AppendUvarint(b, uint64(p.InstalledSize))
		b = binary.AppendUvarint(b, flags)
	}
	return b
}

var errParsedIndex = errors.New("cannot read parsed index: it is damaged")

// decodeIndex reads what encodeIndex wrote. The strings of the result are parts
// of data.
func decodeIndex(data string) ([]deb.Package, error) {
	rest, ok := strings.CutPrefix(data, indexFormat+"\n")
	if !ok {
		return nil, errParsedIndex
	}
	d := decoder{rest: rest}
	n := d.number()
	if n > uint64(len(rest))/21 { // a package has 21 bytes or more
		return nil, errParsedIndex
	}
	pkgs := make([]deb.Package, n)
	for i := range pkgs {
		p := &pkgs[i]
		for _, s := range textFields(p) {
			*s = d.text()
		}
		p.Size = int64(d.number())
		p.InstalledSize = int64(d.number())
		flags := d.number()
		p.Essential = flags&flagEssential != 0
		p.Important = flags&flagImportant != 0
		if d.bad {
			return nil, errParsedIndex
		}
	}
	if d.bad || d.rest != "" {
		return nil, errParsedIndex
	}
	return pkgs, nil
}

type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) number() uint64 {
	var n uint64
	for i := 0; i < len(d.rest) && i < binary.MaxVarintLen64; i++ {
		c := d.rest[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.rest = d.rest[i+1:]
			return n
		}
	}
	d.bad = true
	return 0
}

func (d *decoder) text() string {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.bad = true
		return ""
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}
