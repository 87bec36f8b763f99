package resolve

import (
	"fmt"
	"slices"
)

// chains holds, for each package that will be installed, the shortest way to
// it from a seed.
type chains map[*node]step

// step is the last step to a package: who needs it, and by what dependency.
// It is empty for a seed.
type step struct {
	from *node
	by   *dependency
}

// chains walks from the seeds over the dependencies that are met, breadth
// first, so that the first way found is a shortest one.
func (s *solver) chains(seeds []*node) chains {
	c := make(chains)
	var queue []*node
	for _, n := range seeds {
		if _, ok := c[n]; !ok && s.at(n).install {
			c[n] = step{}
			queue = append(queue, n)
		}
	}
	// Recommends come last: they explain only what nothing else does.
	for _, followed := range [...]func(kind) bool{
		func(k kind) bool { return k == preDepends || k == depends },
		func(k kind) bool { return !k.negative() },
	} {
		s.follow(c, queue, followed)
		queue = queue[:0]
		s.eachInstalled(func(n *node) {
			if _, ok := c[n]; ok {
				queue = append(queue, n)
			}
		})
	}
	return c
}

func (s *solver) follow(c chains, queue []*node, followed func(kind) bool) {
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		deps := s.deps(n)
		for i := range deps {
			d := &deps[i]
			if !followed(d.kind) {
				continue
			}
			for j := range d.alternatives {
				d.alternatives[j].each(n, false, func(to *node) bool {
					if _, ok := c[to]; !ok && s.at(to).install {
						c[to] = step{n, d}
						queue = append(queue, to)
					}
					return true
				})
			}
		}
	}
}

// to writes the way to n. origin tells why a seed is one; without it the
// chain starts with the first dependency.
func (c chains) to(n *node, origin map[string]string) []string {
	var lines []string
	for {
		at, ok := c[n]
		if !ok || at.from == nil {
			if why := origin[n.name]; why != "" {
				lines = append(lines, n.name+": "+why)
			}
			slices.Reverse(lines)
			return lines
		}
		lines = append(lines, line(at.from, at.by, n))
		n = at.from
	}
}

// line writes one step. Where the dependency does not name the package, it is
// said.
func line(from *node, by *dependency, to *node) string {
	text := fmt.Sprintf("%s: %s", from.name, by)
	if to != nil && !slices.ContainsFunc(by.alternatives, func(a alternative) bool { return a.Name == to.name }) {
		text += fmt.Sprintf(" (provided by %s)", to.name)
	}
	return text
}
