package site

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// position is a place in a site file: line and column from 1.
type position struct{ line, column int }

// positions are the places of values by path: "hosts[0].match.mac[1]". The
// place of a key is kept under its path and "#".
type positions map[string]position

// decoder fills Go values from YAML's syntax tree and goes on after an error,
// so that one run shows all of them.
type decoder struct {
	file     string
	pos      positions
	bad      map[string]bool // paths that have a problem already
	problems Problems
}

func (d *decoder) at(path string, p position, message, hint string) {
	d.bad[path] = true
	d.problems = append(d.problems, Problem{File: d.file, Line: p.line, Column: p.column, Message: message, Hint: hint})
}

// parse returns the one mapping that a site file consists of, or nil and a
// problem. The parser is a stranger's code: a panic in it is a syntax error.
func (d *decoder) parse(data []byte) (root *ast.MappingNode) {
	defer func() {
		if r := recover(); r != nil {
			d.at("", position{1, 1}, "cannot be read as YAML", "the YAML parser gave up on this file")
			root = nil
		}
	}()
	if !d.plausible(data) {
		return nil
	}
	file, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(data, err)
		return nil
	}
	var bodies []ast.Node
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.DirectiveType {
			bodies = append(bodies, doc.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		d.at("", position{1, 1}, "the file is empty", "write an example with: sci-cd init")
		return nil
	case len(bodies) > 1:
		d.at("", start(bodies[1]), "a second document begins here", "one file describes one site: remove the --- line")
		return nil
	}
	root = mapping(bodies[0])
	if root == nil {
		d.at("", start(bodies[0]), "the file must be a mapping, not "+kind(bodies[0]), "write an example with: sci-cd init")
	}
	return root
}

// colonLimit and depthLimit keep the parser's time within bounds: it grows with
// the square of the number of keys and of the depth (50,000 keys took 54 s,
// 100,000 open brackets two minutes; a thousand hosts take 0.1 s). A site file
// has about 25 colons a host and is 6 levels deep.
const (
	colonLimit = 40_000
	depthLimit = 100
)

// plausible refuses what is no site file before the parser sees it. Brackets
// are counted outside of comments only; those inside quotes count as well,
// which takes a hundred unbalanced ones to matter.
func (d *decoder) plausible(data []byte) bool {
	if bytes.Count(data, []byte(":")) > colonLimit {
		d.at("", position{1, 1}, fmt.Sprintf("the file has more than %d keys", colonLimit), "one file describes one site")
		return false
	}
	depth, n := 0, 0
	for line := range bytes.Lines(data) {
		n++
		if i := bytes.IndexByte(line, 0); i >= 0 {
			d.at("", position{n, i + 1}, "cannot be read as YAML: NUL byte in the file", "a site file is plain text in UTF-8")
			return false
		}
		text := line
		if i := bytes.Index(line, []byte(" #")); i >= 0 {
			text = line[:i]
		}
		for _, c := range text {
			switch c {
			case '[', '{':
				depth++
			case ']', '}':
				depth = max(depth-1, 0)
			}
		}
		indent := len(line) - len(bytes.TrimLeft(line, " -?"))
		if depth > depthLimit || indent > 2*depthLimit {
			d.at("", position{n, 1}, fmt.Sprintf("values are nested more than %d deep", depthLimit), "a bracket may not be closed")
			return false
		}
	}
	return true
}

func (d *decoder) syntax(data []byte, err error) {
	p, cause := position{1, 1}, "not well-formed"
	var syntax yaml.Error
	if errors.As(err, &syntax) {
		cause = syntax.GetMessage()
		if tk := syntax.GetToken(); tk != nil && tk.Position != nil {
			p = position{max(tk.Position.Line, 1), max(tk.Position.Column, 1)}
		}
	}
	hint := ""
	line := nthLine(data, p.line)
	switch {
	case strings.Contains(string(line), "assword"):
		cause = "not well-formed" // the parser's words may hold the value
		hint = "look for a quote or a space that is missing"
	case strings.Contains(cause, "tab") || strings.Contains(cause, "\t"):
		cause, hint = "a tab stands where YAML allows none", "indent with spaces"
	case strings.Contains(cause, "mapping value is not allowed"):
		hint = "put a value that holds \": \" into quotes"
	}
	d.at("", p, "cannot be read as YAML: "+cause, hint)
}

func nthLine(data []byte, n int) []byte {
	lines := bytes.SplitN(data, []byte("\n"), n+1)
	if n < 1 || n > len(lines) {
		return nil
	}
	return lines[n-1]
}

// value decodes n into v; pattern names the form of the texts in it.
func (d *decoder) value(path string, n ast.Node, v reflect.Value, pattern string) {
	n = plain(n)
	if _, ok := d.pos[path]; !ok || start(n) != (position{}) {
		d.pos[path] = start(n)
	}
	if n == nil || n.Type() == ast.NullType {
		return
	}
	switch n.Type() {
	case ast.AliasType, ast.AnchorType, ast.TagType, ast.MergeKeyType:
		d.at(path, start(n), path+": anchors, aliases and tags are not read", "write the value itself")
		return
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, n, text, pattern)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, n, v.Elem(), pattern)
	case reflect.Struct:
		d.structure(path, n, v)
	case reflect.Map:
		d.table(path, n, v, pattern)
	case reflect.Slice:
		d.list(path, n, v, pattern)
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			d.at(path, start(n), fmt.Sprintf("%s must be true or false, not %s", path, kind(n)), "YAML 1.2 knows no yes, no, on and off")
			return
		}
		v.SetBool(b.Value)
	case reflect.String:
		if s, ok := d.scalar(path, n); ok {
			v.SetString(s)
		}
	case reflect.Int:
		d.number(path, n, v)
	}
}

// number reads a whole number from 1; what has the value 0 is not given.
func (d *decoder) number(path string, n ast.Node, v reflect.Value) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		d.at(path, start(n), fmt.Sprintf("%s must be a whole number, not %s", path, kind(n)), "")
		return
	}
	x, err := strconv.ParseInt(i.GetToken().Value, 10, 32)
	if err != nil || x < 1 {
		d.at(path, start(n), fmt.Sprintf("%s: %s is no number from 1", path, i.GetToken().Value), "")
		return
	}
	v.SetInt(x)
}

func (d *decoder) structure(path string, n ast.Node, v reflect.Value) {
	m := mapping(n)
	if m == nil {
		message, hint := fmt.Sprintf("%s must be a mapping, not %s", path, kind(n)), ""
		if v.Type() == reflect.TypeFor[Disk]() {
			hint = diskHint
		}
		d.at(path, start(n), message, hint)
		return
	}
	fields := fieldsOf(v.Type())
	var known []string
	for _, f := range fields {
		known = append(known, f.name)
	}
	for _, e := range d.entries(path, m) {
		i := indexOf(known, e.key)
		if i < 0 {
			d.unknown(path, e, v.Type(), known)
			continue
		}
		d.value(join(path, e.key), e.value, v.Field(fields[i].index), fields[i].pattern)
	}
	for _, f := range fields {
		p := join(path, f.name)
		if !f.need || !v.Field(f.index).IsZero() || d.bad[p] {
			continue
		}
		where, said := d.pos[p+"#"]
		if said {
			d.at(p, where, p+" is empty", "")
		} else {
			d.at(p, start(m), p+" is missing", f.hint())
		}
	}
}

func (d *decoder) unknown(path string, e entry, t reflect.Type, known []string) {
	message := fmt.Sprintf("unknown key %q", e.key)
	if path != "" {
		message += " in " + path
	}
	hint := "known keys: " + strings.Join(known, ", ")
	if near := Nearest(e.key, known); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
		if i := join(path, near); d.pos[i+"#"] == (position{}) {
			d.bad[i] = true // one message for it is enough
		}
	}
	if t == reflect.TypeFor[Root]() && e.key == "password" {
		hint = "give its hash as passwordHash; " + patternHint("hash")
	}
	if t == reflect.TypeFor[Disk]() && indexOf([]string{"path", "device", "dev", "name", "by-id", "disk"}, e.key) >= 0 {
		hint = diskHint
	}
	d.at(join(path, e.key), e.at, message, hint)
}

const diskHint = "/dev names change from boot to boot and from machine to machine: choose the disk by serial, model or minSize"

func (d *decoder) table(path string, n ast.Node, v reflect.Value, pattern string) {
	m := mapping(n)
	if m == nil {
		d.at(path, start(n), fmt.Sprintf("%s must be a mapping, not %s", path, kind(n)), "")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for _, e := range d.entries(path, m) {
		elem := reflect.New(v.Type().Elem()).Elem()
		p := join(path, e.key)
		d.value(p, e.value, elem, pattern)
		if plain(e.value).Type() == ast.NullType {
			d.at(p, e.at, p+" is empty", "")
		}
		v.SetMapIndex(reflect.ValueOf(e.key), elem)
	}
}

func (d *decoder) list(path string, n ast.Node, v reflect.Value, pattern string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.at(path, start(n), fmt.Sprintf("%s must be a list, not %s", path, kind(n)), "begin each entry with \"- \", or write [ … ]")
		return
	}
	for i, item := range seq.Values {
		elem := reflect.New(v.Type().Elem()).Elem()
		p := fmt.Sprintf("%s[%d]", path, i)
		d.value(p, item, elem, pattern)
		if elem.IsZero() && !d.bad[p] {
			at := start(plain(item))
			if at == (position{}) {
				at = start(n)
			}
			d.at(p, at, p+" is empty", "")
		}
		v.Set(reflect.Append(v, elem))
	}
}

func (d *decoder) text(path string, n ast.Node, v encoding.TextUnmarshaler, pattern string) {
	s, ok := d.scalar(path, n)
	if !ok || s == "" {
		return
	}
	err := v.UnmarshalText([]byte(s))
	if err == nil {
		return
	}
	what := err.Error()
	switch v.(type) {
	case *netip.Addr:
		what = fmt.Sprintf("%q is no IP address", s)
	case *netip.Prefix:
		what = fmt.Sprintf("%q is no network in CIDR notation", s)
	}
	d.at(path, start(n), path+": "+what, patternHint(pattern))
}

// scalar is the text of a plain value. A number is taken as it is written, so
// that a serial number keeps its leading zeros.
func (d *decoder) scalar(path string, n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.LiteralNode:
		return strings.TrimSpace(v.Value.Value), true
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	}
	hint := ""
	if n.Type() == ast.BoolType {
		hint = "put it into quotes if it is meant as text"
	}
	d.at(path, start(n), fmt.Sprintf("%s must be text, not %s", path, kind(n)), hint)
	return "", false
}

// entry is one line of a mapping.
type entry struct {
	key   string
	at    position
	value ast.Node
}

// entries are the lines of a mapping; what is given twice is a problem.
func (d *decoder) entries(path string, m *ast.MappingNode) []entry {
	var list []entry
	seen := make(map[string]position)
	for _, mv := range m.Values {
		tk := mv.Key.GetToken()
		at := place(tk)
		if _, ok := mv.Key.(*ast.StringNode); !ok {
			d.at(join(path, tk.Value), at, "a key must be plain text, not "+kind(mv.Key), "")
			continue
		}
		key := mv.Key.(*ast.StringNode).Value
		if first, ok := seen[key]; ok {
			d.at(join(path, key), at, fmt.Sprintf("%s is given twice, first in line %d", join(path, key), first.line), "")
			continue
		}
		seen[key] = at
		p := join(path, key)
		d.pos[p+"#"], d.pos[p] = at, at
		list = append(list, entry{key, at, mv.Value})
	}
	return list
}

// plain looks through what adds nothing to a value.
func plain(n ast.Node) ast.Node {
	if n == nil || reflect.ValueOf(n).IsNil() {
		return ast.Null(token.New("null", "null", &token.Position{}))
	}
	return n
}

func mapping(n ast.Node) *ast.MappingNode {
	switch v := n.(type) {
	case *ast.MappingNode:
		return v
	case *ast.MappingValueNode:
		return ast.Mapping(v.Start, false, v)
	}
	return nil
}

// start is where a value begins. A block mapping begins at its first key.
func start(n ast.Node) position {
	if m := mapping(n); m != nil && !m.IsFlowStyle && len(m.Values) > 0 {
		return place(m.Values[0].Key.GetToken())
	}
	return place(n.GetToken())
}

func place(tk *token.Token) position {
	if tk == nil || tk.Position == nil {
		return position{}
	}
	return position{tk.Position.Line, tk.Position.Column}
}

// kind names a node's type for a message; its value is never shown.
func kind(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.BoolNode:
		return "true or false"
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number"
	case *ast.StringNode, *ast.LiteralNode:
		return "text"
	case *ast.NullNode:
		return "nothing"
	}
	return "a " + strings.ToLower(n.Type().String())
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func indexOf(list []string, s string) int {
	for i, x := range list {
		if x == s {
			return i
		}
	}
	return -1
}
