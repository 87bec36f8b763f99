package deb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxStanza bounds one line, and the sum of the fields kept of one stanza, in
// bytes. The longest line of trixie has 60 KiB.
const maxStanza = 1 << 20

// Package is one stanza of a Packages index: the fields that we need.
// Relations are kept as written; ParseRelations reads them.
type Package struct {
	Name, Version, Architecture, MultiArch, Source, Priority, Section string

	// Essential is "Essential: yes". Important is "Important: yes" or
	// "Protected: yes", which apt takes for the same.
	Essential, Important bool

	PreDepends, Depends, Recommends, Suggests, Conflicts, Breaks, Provides, Replaces, Enhances string

	// KernelVersion is set in udebs that hold kernel modules.
	KernelVersion string

	// Filename is the path below the archive's base URL.
	Filename string
	// Size is the length of the file in bytes.
	Size int64
	// InstalledSize is the packager's estimate in KiB.
	InstalledSize int64
	// SHA256 is the lower case hex digest of the file.
	SHA256 string
}

// The fields of a stanza that Package keeps, as indices into a scanner's spans.
const (
	fieldPackage = iota
	fieldVersion
	fieldArchitecture
	fieldMultiArch
	fieldSource
	fieldPriority
	fieldSection
	fieldPreDepends
	fieldDepends
	fieldRecommends
	fieldSuggests
	fieldConflicts
	fieldBreaks
	fieldProvides
	fieldReplaces
	fieldEnhances
	fieldKernelVersion
	fieldFilename
	fieldSHA256
	fieldsText // the fields above are text, those below are read into other types

	fieldSize = iota - 1
	fieldInstalledSize
	fieldEssential
	fieldImportant
	fieldProtected
	fieldsKept

	fieldOther = -1
)

// fieldOf tells which field name is; names are not case-sensitive (policy 5.1).
func fieldOf(name []byte) int {
	switch string(name) {
	case "Package":
		return fieldPackage
	case "Version":
		return fieldVersion
	case "Architecture":
		return fieldArchitecture
	case "Multi-Arch":
		return fieldMultiArch
	case "Source":
		return fieldSource
	case "Priority":
		return fieldPriority
	case "Section":
		return fieldSection
	case "Pre-Depends":
		return fieldPreDepends
	case "Depends":
		return fieldDepends
	case "Recommends":
		return fieldRecommends
	case "Suggests":
		return fieldSuggests
	case "Conflicts":
		return fieldConflicts
	case "Breaks":
		return fieldBreaks
	case "Provides":
		return fieldProvides
	case "Replaces":
		return fieldReplaces
	case "Enhances":
		return fieldEnhances
	case "Kernel-Version":
		return fieldKernelVersion
	case "Filename":
		return fieldFilename
	case "SHA256":
		return fieldSHA256
	case "Size":
		return fieldSize
	case "Installed-Size":
		return fieldInstalledSize
	case "Essential":
		return fieldEssential
	case "Important":
		return fieldImportant
	case "Protected":
		return fieldProtected
	case "Maintainer", "Description", "Description-md5", "MD5sum", "Homepage", "Tag", "Built-Using":
		return fieldOther // the common case: don't look at the letters again
	}
	return fieldOfOddCase(name)
}

// fieldOfOddCase finds fields written in unusual case, "package" or "PACKAGE".
func fieldOfOddCase(name []byte) int {
	canonical := bytes.ToLower(name)
	if string(canonical) == "sha256" {
		return fieldSHA256
	}
	up := true
	for i, c := range canonical {
		if up && 'a' <= c && c <= 'z' {
			canonical[i] = c - 'a' + 'A'
		}
		up = c == '-'
	}
	if bytes.Equal(canonical, name) {
		return fieldOther
	}
	return fieldOf(canonical)
}

// ScanPackages reads a Packages index and calls each for every stanza, in the
// order of the index. A *Package stays valid after each returns. An error of
// each ends the scan and is returned as it is; all others name the line.
//
// It is built for speed, as the index of trixie's main has 57 MB: one pass
// over the lines, one string for all kept fields of a stanza.
func ScanPackages(r io.Reader, each func(*Package) error) error {
	s := scanner{interned: make(map[string]string)}
	br := bufio.NewReaderSize(r, maxStanza)
	for {
		line, err := br.ReadSlice('\n')
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = fmt.Errorf("line longer than %d bytes", maxStanza)
			}
			return fmt.Errorf("cannot read Packages: line %d: %w", s.line+1, err)
		}
		if len(line) > 0 {
			s.line++
		}
		line = trimRight(line)
		if len(line) > 0 {
			if err := s.add(line); err != nil {
				return fmt.Errorf("cannot read Packages: line %d: %w", s.line, err)
			}
		}
		if (len(line) == 0 || last) && s.open {
			p, err := s.finish()
			if err != nil {
				return fmt.Errorf("cannot read Packages: stanza that ends at line %d: %w", s.line, err)
			}
			if err := each(p); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

// scanner collects one stanza.
type scanner struct {
	line     int
	open     bool                           // a field was seen since the last blank line
	current  int                            // the field that a continuation line belongs to
	seen     uint32                         // bit set of the kept fields seen
	spans    [fieldsKept]struct{ a, b int } // where in text each field is
	text     []byte                         // values of the kept fields, one after the other
	interned map[string]string              // values that many stanzas share
}

// add takes one line that is not blank.
func (s *scanner) add(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		if !s.open {
			return errors.New("continuation line outside a field")
		}
		if s.current == fieldOther {
			return nil
		}
		if len(s.text)+len(line) > maxStanza {
			return fmt.Errorf("stanza longer than %d bytes", maxStanza)
		}
		// A fold is white space (policy 5.1); the kept fields are one-line or folded.
		s.text = append(append(s.text, ' '), bytes.TrimLeft(line, " \t")...)
		s.spans[s.current].b = len(s.text)
		return nil
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return fmt.Errorf("no field name in %.40q", line)
	}
	s.open = true
	s.current = fieldOf(line[:colon])
	if s.current == fieldOther {
		return nil
	}
	if s.seen&(1<<s.current) != 0 {
		return fmt.Errorf("second field %s in one stanza", line[:colon])
	}
	s.seen |= 1 << s.current
	value := bytes.TrimLeft(line[colon+1:], " \t")
	if len(s.text)+len(value) > maxStanza {
		return fmt.Errorf("stanza longer than %d bytes", maxStanza)
	}
	s.spans[s.current].a = len(s.text)
	s.text = append(s.text, value...)
	s.spans[s.current].b = len(s.text)
	return nil
}

// finish turns what was collected into a Package and starts afresh.
func (s *scanner) finish() (*Package, error) {
	p := new(Package)
	// The fields that share values are interned; one string holds the others.
	all := string(s.text)
	for f, dst := range [fieldsText]*string{
		&p.Name, &p.Version, &p.Architecture, &p.MultiArch, &p.Source, &p.Priority, &p.Section,
		&p.PreDepends, &p.Depends, &p.Recommends, &p.Suggests, &p.Conflicts, &p.Breaks, &p.Provides, &p.Replaces, &p.Enhances,
		&p.KernelVersion, &p.Filename, &p.SHA256,
	} {
		span := s.spans[f]
		switch f {
		case fieldArchitecture, fieldMultiArch, fieldPriority, fieldSection:
			*dst = s.intern(s.text[span.a:span.b])
		default:
			*dst = all[span.a:span.b]
		}
	}
	var err error
	if p.Size, err = s.number(fieldSize, "Size"); err != nil {
		return nil, err
	}
	if p.InstalledSize, err = s.number(fieldInstalledSize, "Installed-Size"); err != nil {
		return nil, err
	}
	p.Essential = bytes.EqualFold(s.bytes(fieldEssential), []byte("yes"))
	p.Important = bytes.EqualFold(s.bytes(fieldImportant), []byte("yes")) || bytes.EqualFold(s.bytes(fieldProtected), []byte("yes"))
	if p.Name == "" {
		return nil, errors.New("no Package field")
	}
	s.open, s.seen, s.text, s.spans = false, 0, s.text[:0], [fieldsKept]struct{ a, b int }{}
	return p, nil
}

func (s *scanner) bytes(field int) []byte {
	return s.text[s.spans[field].a:s.spans[field].b]
}

// number reads a field of decimal digits; a missing field is 0.
func (s *scanner) number(field int, name string) (int64, error) {
	if s.seen&(1<<field) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(s.bytes(field)), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s is %.40q, no number", name, s.bytes(field))
	}
	return n, nil
}

func (s *scanner) intern(value []byte) string {
	if v, ok := s.interned[string(value)]; ok {
		return v
	}
	v := string(value)
	if len(s.interned) < 4096 {
		s.interned[v] = v
	}
	return v
}

// trimRight cuts the line end and white space off the end of a line. A line of
// white space only comes back empty: it ends a stanza (policy 5.1).
func trimRight(line []byte) []byte {
	n := len(line)
	for n > 0 && (line[n-1] == '\n' || line[n-1] == ' ' || line[n-1] == '\t' || line[n-1] == '\r') {
		n--
	}
	return line[:n]
}
