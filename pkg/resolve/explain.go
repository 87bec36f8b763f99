package resolve

import (
	"fmt"
	"slices"
	"strings"
)

// maxExplain bounds the depth of an explanation.
const maxExplain = 12

// explain lists what is left broken after all attempts.
func (s *solver) explain(seeds []*node) []Problem {
	problems := s.parseErr
	x := &explainer{solver: s, ways: s.chains(seeds), said: make(map[string]bool)}
	var broken []*node
	s.eachInstalled(func(n *node) {
		if s.broken(n) {
			broken = append(broken, n)
		}
	})
	slices.SortFunc(broken, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	for _, n := range broken {
		for i := range s.deps(n) {
			d := &s.at(n).dependencies[i]
			if d.kind.critical() && !s.holds(n, d) {
				problems = x.unmet(problems, n, d)
			}
		}
	}
	if len(problems) == 0 {
		return x.missingSeeds(seeds)
	}
	return problems
}

type explainer struct {
	*solver
	ways chains
	said map[string]bool // texts of problems that are listed already
}

// missingSeeds lists seeds that were given up. None should be, as they are
// protected; this makes sure of it.
func (x *explainer) missingSeeds(seeds []*node) (problems []Problem) {
	for _, n := range seeds {
		if !x.at(n).install {
			problems = append(problems, Problem{Kind: Unsatisfiable, Package: n.name, Text: fmt.Sprintf("package %q cannot be installed", n.name)})
		}
	}
	return problems
}

// unmet adds the problem that d of n is not met.
func (x *explainer) unmet(problems []Problem, n *node, d *dependency) []Problem {
	p := Problem{Kind: Unsatisfiable, Package: n.name, Path: x.ways.to(n, nil)}
	if d.kind.negative() {
		var other *node
		d.alternatives[0].each(n, true, func(o *node) bool {
			other = o
			return !x.at(o).install
		})
		return x.add(problems, x.conflict(p, n, d, other))
	}
	x.cause(&p, n, d, make(map[*node]bool))
	return x.add(problems, p)
}

func (x *explainer) add(problems []Problem, p Problem) []Problem {
	if x.said[p.Text] {
		return problems
	}
	x.said[p.Text] = true
	return append(problems, p)
}

// conflict completes p: n, to which p.Path leads, excludes other by d.
func (x *explainer) conflict(p Problem, n *node, d *dependency, other *node) Problem {
	p.Kind = Conflict
	p.Text = exclude(n, other)
	p.Path = append(p.Path, line(n, d, other))
	if way := x.ways.to(other, nil); len(way) > 0 {
		p.Path = append(append(p.Path, "and"), way...)
	}
	return p
}

// exclude says the same whichever of the two declares it.
func exclude(a, b *node) string {
	return fmt.Sprintf("packages %q and %q exclude each other", min(a.name, b.name), max(a.name, b.name))
}

// cause completes p with the reason why d of n cannot be met. Of several
// alternatives the first one that exists is followed.
func (x *explainer) cause(p *Problem, n *node, d *dependency, visited map[*node]bool) {
	p.Path = append(p.Path, line(n, d, nil))
	var other *node
	for i := range d.alternatives {
		d.alternatives[i].each(n, false, func(o *node) bool {
			if !visited[o] {
				other = o
			}
			return other == nil
		})
		if other != nil {
			break
		}
	}
	if other == nil || len(visited) > maxExplain {
		p.Text = fmt.Sprintf("%s needs %s", n.name, x.missing(p, d))
		return
	}
	visited[other] = true
	x.whyNot(p, other, visited)
}

// missing says what the archive has instead of what d wants.
func (x *explainer) missing(p *Problem, d *dependency) string {
	var wants []string
	for _, a := range d.alternatives {
		want := a.Relation.String()
		switch {
		case a.target != nil && a.target.pkg != nil:
			want += ", the archive has " + a.target.pkg.Version
		case a.target == nil || len(a.target.providers) == 0:
			want += ", which the archive does not have"
			if len(d.alternatives) == 1 {
				p.Nearest = x.u.nearest(a.Name)
				p.Package = a.Name
			}
		default:
			want += ", which is virtual and provided in another version only"
		}
		wants = append(wants, want)
	}
	return strings.Join(wants, ", or ")
}

// whyNot completes p with the reason why a package that exists is not
// installed.
func (x *explainer) whyNot(p *Problem, n *node, visited map[*node]bool) {
	for i := range x.deps(n) {
		d := &x.at(n).dependencies[i]
		if !d.kind.critical() || x.holds(n, d) {
			continue
		}
		if d.kind.negative() {
			if other := x.opponent(n, d); other != nil {
				*p = x.conflict(*p, n, d, other)
				return
			}
			continue
		}
		if !slices.ContainsFunc(d.alternatives, func(a alternative) bool { return x.couldHold(n, d, &a) }) {
			x.cause(p, n, d, visited)
			return
		}
	}
	if by, d := x.enemy(n); by != nil {
		p.Kind = Conflict
		p.Text = exclude(by, n)
		p.Path = append(append(append(p.Path, "and"), x.ways.to(by, nil)...), line(by, d, n))
		return
	}
	if !x.at(n).candidate && len(x.deps(n)) == 0 || x.excluded(n) {
		p.Text = fmt.Sprintf("package %q is needed and excluded", n.name)
		p.Kind = Excluded
		return
	}
	p.Text = fmt.Sprintf("package %q cannot be installed beside the others", n.name)
}

// excluded tells whether n was never a candidate.
func (x *explainer) excluded(n *node) bool {
	return !x.at(n).candidate && x.at(n).dropped == 0
}

// opponent is a package to be installed that d of n excludes.
func (x *explainer) opponent(n *node, d *dependency) (other *node) {
	d.alternatives[0].each(n, true, func(o *node) bool {
		if x.at(o).install {
			other = o
		}
		return other == nil
	})
	return other
}

// enemy is a package to be installed that excludes n.
func (x *explainer) enemy(n *node) (by *node, with *dependency) {
	x.eachInstalled(func(o *node) {
		for i := range x.deps(o) {
			d := &x.at(o).dependencies[i]
			if by != nil || !d.kind.negative() {
				continue
			}
			d.alternatives[0].each(o, true, func(hit *node) bool {
				if hit == n {
					by, with = o, d
				}
				return hit != n
			})
		}
	})
	return by, with
}
