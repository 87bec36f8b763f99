package deb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxControls bounds the sum of what ParseControls reads, in bytes.
const maxControls = 256 << 20

// Field is one field of a stanza. Value keeps its continuation lines as
// written, each after a newline and with its leading white space.
type Field struct{ Name, Value string }

// Control is a stanza with its fields in the order of the file.
type Control []Field

// ParseControl reads data that holds exactly one stanza: a control file or a
// Release file.
func ParseControl(data []byte) (Control, error) {
	all, err := ParseControls(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("cannot read control data: %d stanzas, want one", len(all))
	}
	return all[0], nil
}

// ParseControls reads any number of stanzas that blank lines separate. It is
// strict: field names as policy 5.1 has them, no field twice in one stanza, no
// comments, and no OpenPGP armour (pkg/pgp takes that off).
func ParseControls(r io.Reader) ([]Control, error) {
	var all []Control
	var c *controlParser
	limited := &io.LimitedReader{R: r, N: maxControls + 1}
	br := bufio.NewReaderSize(limited, maxStanza)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			if errors.Is(err, bufio.ErrBufferFull) {
				err = fmt.Errorf("line longer than %d bytes", maxStanza)
			}
			return nil, fmt.Errorf("cannot read control data: line %d: %w", n, err)
		}
		if limited.N == 0 {
			return nil, fmt.Errorf("cannot read control data: more than %d bytes", maxControls)
		}
		line = trimRight(line)
		if len(line) > 0 {
			if c == nil {
				c = &controlParser{names: make(map[string]bool)}
			}
			if err := c.add(line); err != nil {
				return nil, fmt.Errorf("cannot read control data: line %d: %w", n, err)
			}
		}
		if c != nil && (len(line) == 0 || last) {
			all = append(all, c.finish())
			c = nil
		}
		if last {
			return all, nil
		}
	}
}

// controlParser collects one stanza.
type controlParser struct {
	fields Control
	names  map[string]bool // lower case
	value  strings.Builder // of the last field
}

func (p *controlParser) add(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		if len(p.fields) == 0 {
			return errors.New("continuation line outside a field")
		}
		p.value.WriteByte('\n')
		p.value.Write(line)
		return nil
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return fmt.Errorf("no field name in %.40q", line)
	}
	name := string(line[:colon])
	if err := checkFieldName(name); err != nil {
		return err
	}
	if p.names[strings.ToLower(name)] {
		return fmt.Errorf("second field %s in one stanza", name)
	}
	p.names[strings.ToLower(name)] = true
	p.flush()
	p.fields = append(p.fields, Field{Name: name})
	p.value.Write(bytes.TrimLeft(line[colon+1:], " \t"))
	return nil
}

// flush moves the collected value into the last field.
func (p *controlParser) flush() {
	if len(p.fields) > 0 {
		p.fields[len(p.fields)-1].Value = p.value.String()
	}
	p.value.Reset()
}

func (p *controlParser) finish() Control {
	p.flush()
	return p.fields
}

// checkFieldName is policy 5.1: US-ASCII without control characters, space and
// colon, and not starting with "#" or "-".
func checkFieldName(name string) error {
	if name == "" || name[0] == '#' || name[0] == '-' {
		return fmt.Errorf("%.40q is no field name", name)
	}
	for i := 0; i < len(name); i++ {
		if name[i] <= ' ' || name[i] >= 0x7f || name[i] == ':' {
			return fmt.Errorf("%.40q is no field name", name)
		}
	}
	return nil
}

// Get returns the value of a field, "" when there is none. Names are not
// case-sensitive.
func (c Control) Get(name string) string {
	for _, f := range c {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// Has tells whether the stanza has the field, be it empty.
func (c Control) Has(name string) bool {
	for _, f := range c {
		if strings.EqualFold(f.Name, name) {
			return true
		}
	}
	return false
}

// Set returns the stanza with the field set: in its place if it is there, else
// at the end. The receiver is left as it was.
func (c Control) Set(name, value string) Control {
	out := append(make(Control, 0, len(c)+1), c...)
	for i := range out {
		if strings.EqualFold(out[i].Name, name) {
			out[i].Value = value
			return out
		}
	}
	return append(out, Field{name, value})
}

// Delete returns the stanza without the field.
func (c Control) Delete(name string) Control {
	out := make(Control, 0, len(c))
	for _, f := range c {
		if !strings.EqualFold(f.Name, name) {
			out = append(out, f)
		}
	}
	return out
}

// String is the stanza as text, without the blank line that ends it.
func (c Control) String() string {
	var b strings.Builder
	for _, f := range c {
		b.WriteString(f.Name)
		b.WriteByte(':')
		if f.Value != "" && f.Value[0] != '\n' {
			b.WriteByte(' ')
		}
		b.WriteString(f.Value)
		b.WriteByte('\n')
	}
	return b.String()
}

// WriteTo writes what String returns.
func (c Control) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, c.String())
	return int64(n), err
}

// Check tells why a stanza could not be read back as it is: a field name that
// is none, a field twice, or a value whose lines are no continuation lines.
func (c Control) Check() error {
	names := make(map[string]bool, len(c))
	for _, f := range c {
		if err := checkFieldName(f.Name); err != nil {
			return err
		}
		if names[strings.ToLower(f.Name)] {
			return fmt.Errorf("second field %s in one stanza", f.Name)
		}
		names[strings.ToLower(f.Name)] = true
		first, rest, more := strings.Cut(f.Value, "\n")
		if first != strings.TrimSpace(first) {
			return fmt.Errorf("field %s: white space around %.40q", f.Name, first)
		}
		for more {
			first, rest, more = strings.Cut(rest, "\n")
			if strings.TrimSpace(first) == "" || (first[0] != ' ' && first[0] != '\t') {
				return fmt.Errorf("field %s: %.40q is no continuation line", f.Name, first)
			}
		}
	}
	return nil
}
