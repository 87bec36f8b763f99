package kmod

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"
	"strings"
)

// Indexes returns the index files of a directory lib/modules/ABI that holds
// exactly mods, by file name. order is the text of the kernel's modules.order:
// where two modules claim one alias the earlier in it goes first.
func Indexes(mods []Module, order []byte) (map[string][]byte, error) {
	byName := make(Set, len(mods))
	for _, m := range mods {
		if old, ok := byName[m.Name()]; ok {
			return nil, fmt.Errorf("cannot index modules: %q and %q have one name", old.Path, m.Path)
		}
		byName[m.Name()] = m
	}
	sorted := byOrder(mods, order)
	var depText, aliasText, softText, weakText bytes.Buffer
	dep, alias := newTrie(), newTrie()
	for i, m := range sorted {
		deps, err := byName.transitive(m)
		if err != nil {
			return nil, err
		}
		line := m.Path + ":"
		for _, d := range deps {
			line += " " + d
		}
		depText.WriteString(line + "\n")
		dep.add(m.Name(), line, uint32(i))
		for _, a := range m.Aliases {
			norm := normalize(a)
			fmt.Fprintf(&aliasText, "alias %s %s\n", norm, m.Name())
			alias.add(norm, m.Name(), uint32(i))
		}
		for _, s := range m.Softdep {
			fmt.Fprintf(&softText, "softdep %s %s\n", m.Name(), s)
		}
		for _, s := range m.Weakdep {
			fmt.Fprintf(&weakText, "weakdep %s %s\n", m.Name(), s)
		}
	}
	return map[string][]byte{
		"modules.dep":       depText.Bytes(),
		"modules.dep.bin":   dep.bytes(),
		"modules.alias":     aliasText.Bytes(),
		"modules.alias.bin": alias.bytes(),
		"modules.softdep":   softText.Bytes(),
		"modules.weakdep":   weakText.Bytes(),
		"modules.devname":   devname(sorted),
	}, nil
}

// byOrder sorts modules by their place in modules.order, those that it does
// not name last, by path.
func byOrder(mods []Module, order []byte) []Module {
	place := make(map[string]int)
	for i, line := range strings.Split(string(order), "\n") {
		place[Name(line)] = i + 1
	}
	sorted := append([]Module(nil), mods...)
	sort.SliceStable(sorted, func(i, j int) bool {
		a, b := place[sorted[i].Name()], place[sorted[j].Name()]
		if a == 0 {
			a = len(place) + 1
		}
		if b == 0 {
			b = len(place) + 1
		}
		if a != b {
			return a < b
		}
		return sorted[i].Path < sorted[j].Path
	})
	return sorted
}

// transitive returns the paths of everything m depends on, nearest first, so
// that loading them from the last to the first satisfies each.
func (s Set) transitive(m Module) ([]string, error) {
	var out []string
	state := make(map[string]int) // 1: being visited, 2: done
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case 1:
			return fmt.Errorf("cannot index modules: %q depends on itself", name)
		case 2:
			return nil
		}
		state[name] = 1
		mod := s[name]
		deps := append([]string(nil), mod.Depends...)
		sort.Strings(deps)
		for _, d := range deps {
			if _, ok := s[d]; !ok {
				continue // built into the kernel
			}
			if err := visit(d); err != nil {
				return err
			}
		}
		state[name] = 2
		out = append(out, mod.Path)
		return nil
	}
	if err := visit(m.Name()); err != nil {
		return nil, err
	}
	out = out[:len(out)-1] // m itself
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out, nil
}

// normalize turns "-" into "_" outside of brackets, as modprobe does with what
// it is asked for.
func normalize(alias string) string {
	b := []byte(alias)
	depth := 0
	for i, c := range b {
		switch {
		case c == '[':
			depth++
		case c == ']' && depth > 0:
			depth--
		case c == '-' && depth == 0:
			b[i] = '_'
		}
	}
	return string(b)
}

// devname writes modules.devname: static device nodes by "devname:" and
// "char-major-"/"block-major-" aliases.
func devname(mods []Module) []byte {
	var buf bytes.Buffer
	buf.WriteString("# Device nodes to trigger on-demand module loading.\n")
	for _, m := range mods {
		var name, kind string
		var major, minor int
		for _, a := range m.Aliases {
			if n, ok := strings.CutPrefix(a, "devname:"); ok {
				name = n
			} else if _, err := fmt.Sscanf(a, "char-major-%d-%d", &major, &minor); err == nil {
				kind = "c"
			} else if _, err := fmt.Sscanf(a, "block-major-%d-%d", &major, &minor); err == nil {
				kind = "b"
			}
		}
		if name != "" && kind != "" {
			fmt.Fprintf(&buf, "%s %s %s%d:%d\n", m.Name(), name, kind, major, minor)
		}
	}
	return buf.Bytes()
}

// The trie of modules.*.bin: big-endian numbers; a node's offset carries in
// its top bits which parts the node has.
const (
	trieMagic   = 0xB007F457
	trieVersion = 0x00020001
	hasPrefix   = 0x80000000
	hasValues   = 0x40000000
	hasChildren = 0x20000000
)

type trieValue struct {
	text     string
	priority uint32
}

type trieNode struct {
	children map[byte]*trieNode
	values   []trieValue
}

func newTrie() *trieNode { return &trieNode{children: map[byte]*trieNode{}} }

func (n *trieNode) add(key, value string, priority uint32) {
	for i := 0; i < len(key); i++ {
		next := n.children[key[i]&0x7f]
		if next == nil {
			next = newTrie()
			n.children[key[i]&0x7f] = next
		}
		n = next
	}
	for _, v := range n.values {
		if v.text == value {
			return
		}
	}
	n.values = append(n.values, trieValue{value, priority})
}

func (n *trieNode) bytes() []byte {
	out := binary.BigEndian.AppendUint32(nil, trieMagic)
	out = binary.BigEndian.AppendUint32(out, trieVersion)
	out = binary.BigEndian.AppendUint32(out, 0)
	root := n.write(&out)
	binary.BigEndian.PutUint32(out[8:], root)
	return out
}

// write appends the node with all below it, children first, and returns its
// offset and flags. Chains of single children become the node's prefix.
func (n *trieNode) write(out *[]byte) uint32 {
	var prefix []byte
	for len(n.children) == 1 && len(n.values) == 0 {
		for c, child := range n.children {
			prefix, n = append(prefix, c), child
		}
	}
	first, last := 127, 0
	for c := range n.children {
		first, last = min(first, int(c)), max(last, int(c))
	}
	var offsets []uint32
	for c := first; c <= last && len(n.children) > 0; c++ {
		var off uint32
		if child := n.children[byte(c)]; child != nil {
			off = child.write(out)
		}
		offsets = append(offsets, off)
	}
	off := uint32(len(*out))
	if len(prefix) > 0 {
		*out = append(append(*out, prefix...), 0)
		off |= hasPrefix
	}
	if len(offsets) > 0 {
		*out = append(*out, byte(first), byte(last))
		for _, o := range offsets {
			*out = binary.BigEndian.AppendUint32(*out, o)
		}
		off |= hasChildren
	}
	if len(n.values) > 0 {
		sort.SliceStable(n.values, func(i, j int) bool { return n.values[i].priority < n.values[j].priority })
		*out = binary.BigEndian.AppendUint32(*out, uint32(len(n.values)))
		for _, v := range n.values {
			*out = binary.BigEndian.AppendUint32(*out, v.priority)
			*out = append(append(*out, v.text...), 0)
		}
		off |= hasValues
	}
	return off
}
