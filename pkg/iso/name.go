package iso

import (
	"strconv"
	"strings"
)

// maxISOName is the longest file name with its extension, the dot not counted,
// at interchange level 2 (ECMA-119 10.2).
const maxISOName = 30

// names hands out the identifiers of one directory. isolinux and firmware see
// these, never the Rock Ridge names: letters in upper case, digits and "_", one
// dot. Equal ones get a number in the order in which they were asked for.
type names struct {
	taken map[string]bool
	next  map[string]int
}

func newNames() *names {
	return &names{taken: make(map[string]bool), next: make(map[string]int)}
}

// file returns the identifier of a file, version included: "README.TXT;1".
func (n *names) file(name string) string {
	stem, ext := name, ""
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		stem, ext = name[:i], name[i+1:]
	}
	ext = dCharacters(ext)
	ext = ext[:min(len(ext), maxISOName/2)]
	return n.unique(dCharacters(stem), ext) + ";1"
}

// dir returns the identifier of a directory, which has no extension.
func (n *names) dir(name string) string {
	return strings.TrimSuffix(n.unique(dCharacters(name), ""), ".")
}

func (n *names) unique(stem, ext string) string {
	stem = stem[:min(len(stem), maxISOName-len(ext))]
	id := stem + "." + ext
	for n.taken[id] {
		n.next[stem+"."+ext]++
		number := "_" + strconv.Itoa(n.next[stem+"."+ext])
		id = stem[:min(len(stem), maxISOName-len(ext)-len(number))] + number + "." + ext
	}
	n.taken[id] = true
	return id
}

// dCharacters maps s to the characters of ECMA-119 7.4.1.
func dCharacters(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch {
		case 'a' <= c && c <= 'z':
			b[i] = c - 'a' + 'A'
		case 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		default:
			b[i] = '_'
		}
	}
	return string(b)
}

// lessID orders identifiers as ECMA-119 9.3 wants it. Padding with spaces, as
// written there, equals the order of the bytes without the version, because
// the dot comes before every d-character.
func lessID(a, b string) bool {
	return strings.TrimSuffix(a, ";1") < strings.TrimSuffix(b, ";1")
}
