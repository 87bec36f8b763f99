package deb

import (
	"fmt"
	"strings"
)

// Relation is one package that a relation field names (policy 7.1), such as
// "libc6:any (>= 2.36) [amd64 i386]".
type Relation struct {
	Name string
	// Arch is what follows the name after a colon: "any", "native", an
	// architecture, or empty.
	Arch string
	// Op is one of "<<", "<=", "=", ">=", ">>", and empty if any version will
	// do. The old "<" and ">" are read as "<=" and ">=", which is what they
	// mean.
	Op string
	// Version is empty if Op is.
	Version string
	// Archs is the restriction in brackets, "!" kept; binary packages have none.
	Archs []string
}

// Alternatives are relations of which one has to hold: "a | b".
type Alternatives []Relation

// ParseRelations reads the value of Depends, Conflicts, Provides and so on:
// groups separated by commas that have to hold all. The strings returned share
// the memory of s.
func ParseRelations(s string) ([]Alternatives, error) {
	p := relationParser{s: s}
	groups, err := p.parse()
	if err != nil {
		return nil, fmt.Errorf("cannot read relations: byte %d of %.80q: %w", p.i, s, err)
	}
	return groups, nil
}

// relationParser is a position in a field.
type relationParser struct {
	s string
	i int
}

func (p *relationParser) parse() ([]Alternatives, error) {
	commas, bars := strings.Count(p.s, ","), strings.Count(p.s, "|")
	groups := make([]Alternatives, 0, commas+1)
	backing := make([]Relation, 0, commas+bars+1)
	for {
		p.space()
		if p.i == len(p.s) {
			return groups, nil // empty field, or a comma at the end, which dpkg takes as well
		}
		if p.take(',') {
			continue
		}
		start := len(backing)
		for {
			r, err := p.relation()
			if err != nil {
				return nil, err
			}
			backing = append(backing, r)
			if !p.take('|') {
				break
			}
		}
		groups = append(groups, Alternatives(backing[start:len(backing):len(backing)]))
		if p.i < len(p.s) && !p.take(',') {
			return nil, fmt.Errorf("unexpected %q", p.s[p.i])
		}
	}
}

// relation reads up to the next "|" or ",".
func (p *relationParser) relation() (Relation, error) {
	var r Relation
	p.space()
	if r.Name = p.word(); r.Name == "" {
		return r, fmt.Errorf("no package name")
	}
	if err := checkName(r.Name); err != nil {
		return r, err
	}
	if p.take(':') {
		if r.Arch = p.word(); r.Arch == "" {
			return r, fmt.Errorf("no architecture after the colon")
		}
	}
	p.space()
	if p.take('(') {
		if err := p.version(&r); err != nil {
			return r, err
		}
		p.space()
	}
	if p.take('[') {
		end := strings.IndexByte(p.s[p.i:], ']')
		if end < 0 {
			return r, fmt.Errorf("bracket is not closed")
		}
		r.Archs = strings.Fields(p.s[p.i : p.i+end])
		p.i += end + 1
		p.space()
	}
	return r, nil
}

// version reads "op version )".
func (p *relationParser) version(r *Relation) error {
	p.space()
	start := p.i
	for p.i < len(p.s) && (p.s[p.i] == '<' || p.s[p.i] == '>' || p.s[p.i] == '=') {
		p.i++
	}
	switch op := p.s[start:p.i]; op {
	case "<<", "<=", "=", ">=", ">>":
		r.Op = op
	case "<", ">":
		r.Op = op + "="
	default:
		return fmt.Errorf("%q is no comparison", op)
	}
	p.space()
	start = p.i
	for p.i < len(p.s) && p.s[p.i] != ')' && !isSpace(p.s[p.i]) {
		p.i++
	}
	r.Version = p.s[start:p.i]
	p.space()
	if r.Version == "" {
		return fmt.Errorf("no version after %q", r.Op)
	}
	if !p.take(')') {
		return fmt.Errorf("parenthesis is not closed")
	}
	return nil
}

// word reads letters, digits, and the signs "+-._~", which is every character
// of names and architectures.
func (p *relationParser) word() string {
	start := p.i
	for p.i < len(p.s) {
		c := p.s[p.i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' ||
			c == '+' || c == '-' || c == '.' || c == '_') {
			break
		}
		p.i++
	}
	return p.s[start:p.i]
}

func (p *relationParser) space() {
	for p.i < len(p.s) && isSpace(p.s[p.i]) {
		p.i++
	}
}

func (p *relationParser) take(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// checkName is dpkg's rule for package names, which is policy 5.6.1 with
// underscores and upper case let pass: udebs and old packages have them.
func checkName(name string) error {
	c := name[0]
	if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') {
		return fmt.Errorf("%.40q is no package name", name)
	}
	return nil
}

// SatisfiedBy tells whether a package of the given version meets the relation;
// the name and the architecture are the caller's business.
func (r Relation) SatisfiedBy(version string) bool {
	switch r.Op {
	case "":
		return true
	case "<<":
		return Compare(version, r.Version) < 0
	case "<=":
		return Compare(version, r.Version) <= 0
	case "=":
		return Compare(version, r.Version) == 0
	case ">=":
		return Compare(version, r.Version) >= 0
	case ">>":
		return Compare(version, r.Version) > 0
	}
	return false
}

// String writes the relation as Debian does.
func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	if len(r.Archs) > 0 {
		s += " [" + strings.Join(r.Archs, " ") + "]"
	}
	return s
}

// String writes the alternatives with "|" between them.
func (a Alternatives) String() string {
	parts := make([]string, len(a))
	for i, r := range a {
		parts[i] = r.String()
	}
	return strings.Join(parts, " | ")
}
