package lock

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
)

// Bounds of what is read. A site with everything of FACTS has some 1,500
// packages in 400 KiB.
const (
	maxFile     = 32 << 20 // bytes
	maxLine     = 4 << 10  // bytes
	maxProblems = 20       // reported at once
)

// Parse reads a lock. The error names every bad line as "name:line: message"
// (the first 20 of them).
func Parse(name string, data []byte) (*Lock, error) {
	p := &parser{name: name, l: &Lock{}, seen: make(map[string]int), pockets: map[string]int{Local: 0}}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: lock is longer than %d bytes", name, maxFile)
	}
	for len(data) > 0 && len(p.problems) < maxProblems && !p.foreign {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		data = rest
		p.line++
		p.add(line)
	}
	if len(p.problems) == 0 {
		p.line++
		p.finish()
	}
	if len(p.problems) > 0 {
		return nil, hint.New(errors.Join(p.problems...), p.advice())
	}
	return p.l, nil
}

type parser struct {
	name     string
	line     int
	l        *Lock
	problems []error
	seen     map[string]int // where a package or a keyword stands
	pockets  map[string]int
	ended    bool
	foreign  bool // another version of the format: the rest makes no sense
}

func (p *parser) failf(format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf("%s:%d: %w", p.name, p.line, fmt.Errorf(format, args...)))
}

func (p *parser) advice() string {
	if p.foreign {
		return "this lock was written by another version of sci-cd; use that one, or run: sci-cd lock SITE"
	}
	return "restore the lock from version control, or make a new one: sci-cd lock SITE"
}

// add takes one line.
func (p *parser) add(line []byte) {
	if len(line) > maxLine {
		p.failf("line is longer than %d bytes", maxLine)
		return
	}
	words := strings.Fields(string(line))
	if len(words) == 0 || line[0] == '#' {
		return
	}
	if p.ended {
		p.failf("%q after the end", words[0])
		return
	}
	for _, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return r < '!' || r > '~' }) {
			p.failf("%q is not plain text", w)
			return
		}
	}
	if p.l.Format == 0 && words[0] != "format" {
		p.failf("the first line must be \"format %d\", not %.40q", Format, words[0])
		p.l.Format = Format // said once
	}
	p.keyword(words[0], words[1:])
}

func (p *parser) keyword(keyword string, words []string) {
	want := map[string]int{"format": 1, "release": 2, "inputs": 1, "pocket": 5, "index": 4, "deb": 10, "udeb": 10, "end": 1}[keyword]
	if want == 0 {
		if strings.HasPrefix(keyword, "<<<<<<<") || strings.HasPrefix(keyword, "=======") || strings.HasPrefix(keyword, ">>>>>>>") {
			p.failf("unresolved merge conflict")
			return
		}
		p.failf("unknown keyword %.40q", keyword)
		return
	}
	if len(words) != want {
		p.failf("%s takes %d words, here are %d", keyword, want, len(words))
		return
	}
	for i, w := range words {
		if w == "-" {
			words[i] = ""
		}
	}
	switch keyword {
	case "format":
		p.format(words[0])
	case "release":
		p.once(keyword)
		p.l.Codename, p.l.Arch = p.need("codename", words[0]), p.need("architecture", words[1])
	case "inputs":
		p.once(keyword)
		p.l.Inputs = p.digest(words[0])
	case "pocket":
		p.pocket(words)
	case "index":
		p.index(words)
	case "end":
		p.ended = true
		if n, err := strconv.Atoi(words[0]); err != nil || n != len(p.l.Packages) {
			p.failf("%s packages are announced, there are %d", words[0], len(p.l.Packages))
		}
	default:
		p.pkg(keyword, words)
	}
}

func (p *parser) format(word string) {
	p.once("format")
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 {
		p.failf("format %q is no number", word)
		return
	}
	p.l.Format = n
	if n != Format && n != FormatIndexes {
		p.foreign = true
		p.failf("format %d is not known, only %d and %d are", n, Format, FormatIndexes)
	}
}

func (p *parser) index(w []string) {
	x := Index{Pocket: p.need("pocket", w[0]), SHA256: p.digest(w[2]), Path: w[3]}
	if p.l.Format < FormatIndexes {
		p.failf("format %d has no index", p.l.Format)
	}
	if line, ok := p.pockets[x.Pocket]; !ok || line == 0 {
		p.failf("pocket %q is not named above", x.Pocket)
	}
	x.Size = p.size(w[1])
	p.below(x.Path, "a pocket")
	p.once("index " + x.Pocket + " " + x.Path)
	p.l.Indexes = append(p.l.Indexes, x)
}

// size reads a number of bytes.
func (p *parser) size(word string) int64 {
	n, err := strconv.ParseInt(word, 10, 64)
	if err != nil || n <= 0 {
		p.failf("size %q is no number above 0", word)
	}
	return n
}

// below refuses a path that leads out of what it is relative to.
func (p *parser) below(name, what string) {
	if name == "" || path.IsAbs(name) || path.Clean(name) != name || name == ".." || strings.HasPrefix(name, "../") {
		p.failf("%q is no path below %s", name, what)
	}
}

func (p *parser) pocket(words []string) {
	r := Release{Pocket: p.need("pocket", words[0]), Suite: words[1], Version: words[2], SHA256: p.digest(words[4])}
	date, err := time.Parse(time.RFC3339, words[3])
	if err != nil || date.Year() < 1993 || date.Nanosecond() != 0 {
		p.failf("%q is no date like 2006-01-02T15:04:05Z", words[3])
	}
	r.Date = date.UTC()
	if p.pockets[r.Pocket] > 0 || r.Pocket == Local {
		p.failf("second pocket %q", r.Pocket)
	}
	p.pockets[r.Pocket] = p.line
	p.l.Releases = append(p.l.Releases, r)
}

func (p *parser) pkg(kind string, w []string) {
	pkg := Package{
		Kind: kind, Name: p.need("name", w[0]), Version: w[1], Architecture: p.need("architecture", w[2]),
		Pocket: w[4], SHA256: p.digest(w[6]), Priority: w[7], Section: w[8], Path: w[9],
	}
	if err := deb.Valid(pkg.Version); err != nil {
		p.failf("%w", err)
	}
	if pkg.Architecture != "all" && p.l.Arch != "" && pkg.Architecture != p.l.Arch {
		p.failf("package %q is for %s, the lock is for %s", pkg.Name, pkg.Architecture, p.l.Arch)
	}
	if pkg.Uses = p.uses(w[3]); len(pkg.Uses) == 0 {
		p.failf("package %q has no use", pkg.Name)
	}
	if _, ok := p.pockets[pkg.Pocket]; !ok {
		p.failf("pocket %q is not named above", pkg.Pocket)
	}
	pkg.Size = p.size(w[5])
	p.below(pkg.Path, "an archive")
	p.once(kind + " " + pkg.Name + " " + pkg.Version + " " + pkg.Architecture)
	p.l.Packages = append(p.l.Packages, pkg)
}

// uses splits a sorted list.
func (p *parser) uses(word string) []string {
	if word == "" {
		return nil
	}
	uses := strings.Split(word, ",")
	for i, use := range uses {
		if use == "" || i > 0 && uses[i-1] >= use {
			p.failf("uses %q are not names in order", word)
			return uses
		}
	}
	return uses
}

// finish checks what has to be there at the end.
func (p *parser) finish() {
	switch {
	case p.l.Format == 0:
		p.failf("lock is empty")
	case !p.ended:
		p.failf("lock is cut off: no \"end\" line")
	case p.seen["release"] == 0:
		p.failf("no \"release\" line")
	case p.seen["inputs"] == 0:
		p.failf("no \"inputs\" line")
	}
}

func (p *parser) once(what string) {
	if first := p.seen[what]; first > 0 {
		p.failf("%s stands in line %d already", what, first)
		return
	}
	p.seen[what] = p.line
}

func (p *parser) need(what, word string) string {
	if word == "" {
		p.failf("%s is missing", what)
	}
	return word
}

func (p *parser) digest(word string) string {
	if len(word) != 64 || strings.Trim(word, "0123456789abcdef") != "" {
		p.failf("%.80q is no SHA-256", word)
	}
	return word
}
