package resolve

import "github.com/skycover/sci-cd/pkg/deb"

// A dependency is one comma-separated part of a relation field; for Conflicts
// and Breaks it has one alternative.
type dependency struct {
	kind         kind
	alternatives []alternative
}

// alternative is one "name (>= version)".
type alternative struct {
	deb.Relation
	target *node // nil if no package has or provides the name
}

// kind is the field that a dependency stands in.
type kind uint8

// In the order in which apt numbers and walks them.
const (
	preDepends kind = iota
	depends
	conflicts
	breaks
	recommends
	suggests
)

func (k kind) String() string {
	return [...]string{"Pre-Depends", "Depends", "Conflicts", "Breaks", "Recommends", "Suggests"}[k]
}

func (k kind) negative() bool { return k == conflicts || k == breaks }

// critical dependencies have to hold, the others are wishes.
func (k kind) critical() bool { return k <= breaks }

func (d *dependency) String() string {
	as := make(deb.Alternatives, len(d.alternatives))
	for i, a := range d.alternatives {
		as[i] = a.Relation
	}
	return d.kind.String() + ": " + as.String()
}

// dependencies reads the relation fields of a package.
func (u *Universe) dependencies(p *deb.Package) ([]dependency, error) {
	var all []dependency
	for k, field := range [...]string{p.PreDepends, p.Depends, p.Conflicts, p.Breaks, p.Recommends, p.Suggests} {
		if field == "" {
			continue
		}
		groups, err := deb.ParseRelations(field)
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			all = append(all, u.dependency(kind(k), g))
		}
	}
	return all, nil
}

func (u *Universe) dependency(k kind, g deb.Alternatives) dependency {
	d := dependency{k, make([]alternative, len(g))}
	for i, r := range g {
		d.alternatives[i] = alternative{Relation: r, target: u.nodes[u.qualified(r)]}
	}
	return d
}

// metBy tells whether a provider meets a relation.
func (a *alternative) metBy(p provider) bool {
	return a.Op == "" || p.version != "" && a.SatisfiedBy(p.version)
}

// each calls f for every package that has or provides what a names, in a
// version that a takes, and stops when f returns false. The package that
// declares a conflict is never meant by it (policy 7.4).
func (a *alternative) each(parent *node, negative bool, f func(*node) bool) {
	t := a.target
	if t == nil {
		return
	}
	if t.pkg != nil && !(negative && t == parent) && a.SatisfiedBy(t.pkg.Version) && !f(t) {
		return
	}
	for _, p := range t.providers {
		if !(negative && p.owner == parent) && a.metBy(p) && !f(p.owner) {
			return
		}
	}
}
