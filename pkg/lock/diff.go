package lock

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/deb"
)

// Change is one package that differs between two locks.
type Change struct {
	Old, New *Package // nil where the package is missing
}

// Diff lists what changed from a to b, by kind and name. A nil lock is empty.
// Packages that differ in nothing but in pocket, path, priority or section are
// the same.
func Diff(a, b *Lock) []Change {
	before, after := byName(a), byName(b)
	var changes []Change
	for _, key := range keys(before, after) {
		changes = append(changes, pair(before[key], after[key])...)
	}
	return changes
}

// pair sets the versions of one name against each other.
func pair(before, after []Package) []Change {
	before, after = slices.Clone(before), slices.Clone(after)
	for i := 0; i < len(before); i++ {
		j := slices.IndexFunc(after, func(p Package) bool { return same(before[i], p) })
		if j >= 0 {
			before, after = slices.Delete(before, i, i+1), slices.Delete(after, j, j+1)
			i--
		}
	}
	if len(before) == 1 && len(after) == 1 {
		return []Change{{&before[0], &after[0]}}
	}
	var changes []Change
	for i := range before {
		changes = append(changes, Change{Old: &before[i]})
	}
	for i := range after {
		changes = append(changes, Change{New: &after[i]})
	}
	return changes
}

func same(a, b Package) bool {
	return a.Version == b.Version && a.Architecture == b.Architecture && a.SHA256 == b.SHA256 && slices.Equal(a.Uses, b.Uses)
}

// byName groups the packages of a lock by kind and name.
func byName(l *Lock) map[[2]string][]Package {
	groups := make(map[[2]string][]Package)
	if l == nil {
		return groups
	}
	for _, p := range l.Packages {
		key := [2]string{p.Kind, p.Name}
		groups[key] = append(groups[key], p)
	}
	for _, g := range groups {
		slices.SortFunc(g, order)
	}
	return groups
}

func keys(a, b map[[2]string][]Package) [][2]string {
	var all [][2]string
	for key := range a {
		all = append(all, key)
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			all = append(all, key)
		}
	}
	slices.SortFunc(all, func(x, y [2]string) int {
		return cmp.Or(strings.Compare(x[0], y[0]), strings.Compare(x[1], y[1]))
	})
	return all
}

// Verb says what happened: "added", "removed", "upgraded", "downgraded",
// "replaced" (other bytes under the same version) or "used" (the uses changed).
func (c Change) Verb() string {
	switch {
	case c.Old == nil:
		return "added"
	case c.New == nil:
		return "removed"
	}
	switch order := deb.Compare(c.Old.Version, c.New.Version); {
	case order < 0:
		return "upgraded"
	case order > 0:
		return "downgraded"
	case c.Old.SHA256 != c.New.SHA256 || c.Old.Architecture != c.New.Architecture:
		return "replaced"
	}
	return "used"
}

// String writes the change as a line, "upgraded lvm2 2.03.1 to 2.03.2 (node)".
func (c Change) String() string {
	p := c.New
	if p == nil {
		p = c.Old
	}
	name := p.Name
	if p.Kind != "deb" {
		name = p.Kind + " " + name
	}
	uses := strings.Join(p.Uses, ", ")
	switch verb := c.Verb(); verb {
	case "upgraded", "downgraded":
		return fmt.Sprintf("%s %s %s to %s (%s)", verb, name, c.Old.Version, c.New.Version, uses)
	case "used":
		return fmt.Sprintf("%s %s %s by %s instead of %s", verb, name, p.Version, uses, strings.Join(c.Old.Uses, ", "))
	default:
		return fmt.Sprintf("%s %s %s (%s)", verb, name, p.Version, uses)
	}
}
