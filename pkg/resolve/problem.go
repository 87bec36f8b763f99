package resolve

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Kind sorts problems for those who act on them.
type Kind int

// What can be wrong.
const (
	Missing       Kind = iota + 1 // a seed that no index has
	Virtual                       // a seed that several packages provide
	Excluded                      // a seed that is excluded as well
	Unsatisfiable                 // a dependency that nothing can meet
	Conflict                      // two packages that exclude each other
	Unreadable                    // a stanza with a relation field that makes no sense
)

// Problem is one thing that keeps a role from being installable.
type Problem struct {
	Kind    Kind
	Package string // whose problem it is
	Text    string // one line
	// Path leads from a seed to the cause, a line a step.
	Path []string
	// Nearest are names that may have been meant, the nearest first.
	Nearest []string
}

// Error lists everything that is wrong with a role.
type Error struct {
	Role     string
	Problems []Problem
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cannot resolve role %q: ", e.Role)
	if len(e.Problems) > 1 {
		fmt.Fprintf(&b, "%d problems", len(e.Problems))
	}
	for _, p := range e.Problems {
		if len(e.Problems) > 1 {
			b.WriteString("\n  ")
		}
		b.WriteString(p.Text)
		for _, line := range p.Path {
			b.WriteString("\n    " + line)
		}
	}
	return b.String()
}

// advice joins the suggestions of all problems.
func (e *Error) advice() string {
	var lines []string
	for _, p := range e.Problems {
		switch {
		case len(p.Nearest) == 0:
		case p.Kind == Virtual:
			lines = append(lines, fmt.Sprintf("name one of the packages that provide %q: %s", p.Package, list(p.Nearest, 8)))
		default:
			lines = append(lines, fmt.Sprintf("names near to %q: %s", p.Package, list(p.Nearest, 8)))
		}
	}
	return strings.Join(lines, "; ")
}

// list joins names and cuts a long row short.
func list(names []string, most int) string {
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// nearest returns up to three names that differ from name by few letters, or,
// if there are none, that begin with it.
func (u *Universe) nearest(name string) []string {
	type candidate struct {
		name     string
		distance int
	}
	var found []candidate
	most := 1 + len(name)/4
	for _, n := range u.list {
		if n.pkg == nil || len(n.name) > len(name)+most && !strings.HasPrefix(n.name, name) {
			continue
		}
		switch d := distance(name, n.name, most); {
		case d <= most:
			found = append(found, candidate{n.name, d})
		case len(name) > 2 && strings.HasPrefix(n.name, name):
			found = append(found, candidate{n.name, most + len(n.name) - len(name)})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), strings.Compare(a.name, b.name))
	})
	names := make([]string, 0, 3)
	for _, c := range found[:min(3, len(found))] {
		names = append(names, c.name)
	}
	return names
}

// distance counts the letters to insert, delete, change or swap with their
// neighbour to get from a to b. It gives up above most and returns most+1.
func distance(a, b string, most int) int {
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return most + 1
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		least := row[0]
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, last[j+1]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
			least = min(least, row[j+1])
		}
		if least > most+1 {
			return most + 1
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
