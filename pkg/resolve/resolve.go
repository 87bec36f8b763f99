package resolve

import (
	"fmt"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
)

// Request says what a machine of one role shall have.
type Request struct {
	// Name is the role, for messages.
	Name string
	// Seeds are names of packages, or of virtual packages that only one
	// package provides. Their order is that of apt's command line and decides
	// where they compete.
	Seeds []string
	// Excludes are names that may not be chosen. They take precedence over
	// Essential and Priorities; a name that is a seed, too, is an error.
	Excludes []string
	// Priorities makes every package of these priorities a seed: "required",
	// "important", "standard".
	Priorities []string
	// Recommends follows Recommends as well. Default: no.
	Recommends bool
}

// Result is a closure.
type Result struct {
	// Packages is sorted by name.
	Packages []*deb.Package
	// Seeds are the packages asked for: the Essential ones and those of the
	// priorities by name, then Request.Seeds in their order. apt-get install
	// with these arguments on an empty machine installs Packages.
	Seeds []string

	u      *Universe
	state  []state
	origin map[string]string // why a seed is one
}

// Resolve returns the closure of what r asks for. An error holds an *Error
// with everything that is wrong.
func (u *Universe) Resolve(r Request) (*Result, error) {
	s := newSolver(u, r)
	seeds, origin, problems := s.seeds(r)
	if len(problems) > 0 {
		return nil, failure(r.Name, problems)
	}
	for _, n := range seeds {
		st := s.at(n)
		st.seed, st.protected = true, true
		s.mark(n, false, 0, true)
	}
	for _, n := range seeds {
		s.mark(n, true, 0, true)
	}
	s.repair()
	s.sweep()
	if problems := s.explain(seeds); len(problems) > 0 {
		return nil, failure(r.Name, problems)
	}
	return s.result(seeds, origin), nil
}

func (s *solver) result(seeds []*node, origin map[string]string) *Result {
	r := &Result{u: s.u, state: s.state, origin: origin}
	for _, n := range seeds {
		r.Seeds = append(r.Seeds, n.name)
	}
	s.eachInstalled(func(n *node) { r.Packages = append(r.Packages, n.pkg) })
	slices.SortFunc(r.Packages, func(a, b *deb.Package) int { return strings.Compare(a.Name, b.Name) })
	return r
}

// seeds turns a request into packages, each once, with the reason why it is
// a seed.
func (s *solver) seeds(r Request) (all []*node, origin map[string]string, problems []Problem) {
	excluded := make(map[*node]bool)
	for _, name := range r.Excludes {
		if n := s.u.nodes[name]; n != nil {
			excluded[n] = true
			s.at(n).candidate = false
		}
	}
	origin = make(map[string]string)
	add := func(n *node, why string) {
		if origin[n.name] == "" {
			origin[n.name] = why
			all = append(all, n)
		}
	}
	for _, n := range s.u.byName(func(p *deb.Package) bool { return p.Essential }) {
		if !excluded[n] {
			add(n, "Essential")
		}
	}
	for _, priority := range r.Priorities {
		for _, n := range s.u.byName(func(p *deb.Package) bool { return p.Priority == priority }) {
			if !excluded[n] {
				add(n, "Priority: "+priority)
			}
		}
	}
	for _, name := range r.Seeds {
		n, problem := s.seed(name)
		if problem != nil {
			problems = append(problems, *problem)
			continue
		}
		why := "asked for"
		if n.name != name {
			why += " as " + name
		}
		add(n, why)
	}
	return all, origin, problems
}

// seed finds the package that a seed means: that of its name, or the only one
// that provides it, as apt does.
func (s *solver) seed(name string) (*node, *Problem) {
	n := s.u.nodes[name]
	var providers []*node
	if n != nil && n.pkg == nil {
		for _, p := range n.providers {
			if s.at(p.owner).candidate && !slices.Contains(providers, p.owner) {
				providers = append(providers, p.owner)
			}
		}
	}
	switch {
	case n != nil && n.pkg != nil && s.at(n).candidate:
		return n, nil
	case n != nil && n.pkg != nil:
		return nil, &Problem{Kind: Excluded, Package: name, Text: fmt.Sprintf("package %q is asked for and excluded", name)}
	case len(providers) == 1:
		return providers[0], nil
	case len(providers) > 1:
		names := make([]string, len(providers))
		for i, p := range providers {
			names[i] = p.name
		}
		slices.Sort(names)
		return nil, &Problem{Kind: Virtual, Package: name, Nearest: names,
			Text: fmt.Sprintf("package %q is virtual, provided by %s", name, list(names, 8))}
	}
	return nil, &Problem{Kind: Missing, Package: name, Nearest: s.u.nearest(name),
		Text: fmt.Sprintf("package %q is not in the archive", name)}
}

// byName lists the candidates that match, sorted by name.
func (u *Universe) byName(match func(*deb.Package) bool) []*node {
	var found []*node
	for _, n := range u.list {
		if n.pkg != nil && match(n.pkg) {
			found = append(found, n)
		}
	}
	slices.SortFunc(found, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return found
}

func failure(role string, problems []Problem) error {
	e := &Error{Role: role, Problems: problems}
	if advice := e.advice(); advice != "" {
		return hint.New(e, advice)
	}
	return e
}

// Has tells whether a package is part of the closure.
func (r *Result) Has(name string) bool {
	n := r.u.nodes[name]
	return n != nil && r.state[n.index].install
}

// Why returns the shortest chain of reasons from a seed to a package, a line a
// step: first why the seed is one ("ganeti: asked for"), then the dependency
// that each has on the next ("ganeti: Depends: lvm2 (>= 2.02)"). It is nil for
// a package that is not part of the closure.
func (r *Result) Why(name string) []string {
	if !r.Has(name) {
		return nil
	}
	s := &solver{u: r.u, state: slices.Clone(r.state)}
	seeds := make([]*node, len(r.Seeds))
	for i, seed := range r.Seeds {
		seeds[i] = r.u.nodes[seed]
	}
	return s.chains(seeds).to(r.u.nodes[name], r.origin)
}
