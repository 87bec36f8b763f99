package resolve

import (
	"slices"
	"strings"
	"sync"

	"github.com/skycover/sci-cd/pkg/deb"
)

// Universe is all packages that may be chosen from. It does not change once
// made and may be used by several goroutines.
type Universe struct {
	arch  string
	nodes map[string]*node
	list  []*node // by node.index
	all   []*deb.Package

	rankOnce sync.Once
	ranks    map[string]int
}

// node is a name that a relation can point to: a package, a virtual package,
// or "name:any".
type node struct {
	index     int
	name      string
	pkg       *deb.Package // the candidate; nil if only provided
	providers []provider   // who provides name, in the order of the indexes
	essential bool         // to apt's mind, see newNode
	important bool
}

// provider is one entry of a Provides field.
type provider struct {
	owner   *node
	version string // empty if unversioned
}

// NewUniverse takes the stanzas of all pockets, in the order of the indexes,
// for one architecture ("amd64"; packages of architecture "all" belong to it,
// others are left out).
func NewUniverse(arch string, pkgs []*deb.Package) *Universe {
	u := &Universe{arch: arch, nodes: make(map[string]*node, len(pkgs)), all: make([]*deb.Package, 0, len(pkgs))}
	for _, p := range pkgs {
		if p.Architecture != arch && p.Architecture != "all" {
			continue
		}
		u.all = append(u.all, p)
		n := u.node(p.Name)
		if n.pkg == nil || deb.Compare(p.Version, n.pkg.Version) > 0 {
			n.pkg = p
		}
		// apt counts itself as essential, whatever its stanza says
		// (pkgCacheGen::ForceEssential).
		n.essential = n.essential || p.Essential || p.Name == "apt"
		n.important = n.important || p.Important || p.Name == "apt"
	}
	for _, n := range slices.Clone(u.list) {
		if n.pkg != nil {
			u.provide(n)
		}
	}
	return u
}

// node returns the node of a name and makes it if need be.
func (u *Universe) node(name string) *node {
	n := u.nodes[name]
	if n == nil {
		n = &node{index: len(u.list), name: name}
		u.nodes[name] = n
		u.list = append(u.list, n)
	}
	return n
}

// provide enters what the candidate of n provides, "n:any" included.
func (u *Universe) provide(n *node) {
	anyArch := n.pkg.MultiArch == "allowed"
	if n.pkg.Provides != "" {
		// A field that cannot be read provides nothing; apt stops at it.
		groups, _ := deb.ParseRelations(n.pkg.Provides)
		for _, g := range groups {
			r := g[0]
			if r.Op != "" && r.Op != "=" || r.Name == n.name && (r.Op == "" || r.Version == n.pkg.Version) {
				continue
			}
			u.enter(n, r, anyArch)
		}
	}
	if anyArch {
		v := u.node(n.name + ":any")
		v.providers = append(v.providers, provider{n, n.pkg.Version})
	}
}

func (u *Universe) enter(n *node, r deb.Relation, anyArch bool) {
	name := r.Name
	if r.Arch != "" {
		if name = u.qualified(r); name == "" {
			return
		}
	} else if anyArch {
		v := u.node(name + ":any")
		v.providers = append(v.providers, provider{n, r.Version})
	}
	v := u.node(name)
	v.providers = append(v.providers, provider{n, r.Version})
}

// qualified returns the name of the node that a relation points to, "" for a
// package of another architecture.
func (u *Universe) qualified(r deb.Relation) string {
	switch r.Arch {
	case "", "native", u.arch:
		return r.Name
	case "any":
		return r.Name + ":any"
	}
	return ""
}

// rank is the place at which the indexes mention a name for the first time,
// in a Package field or in a relation. It decides between providers that are
// equal otherwise.
func (u *Universe) rank(name string) int {
	u.rankOnce.Do(u.rankAll)
	return u.ranks[name]
}

func (u *Universe) rankAll() {
	u.ranks = make(map[string]int, len(u.nodes))
	mention := func(name string) {
		if _, ok := u.ranks[name]; !ok {
			u.ranks[name] = len(u.ranks)
		}
	}
	for _, p := range u.all {
		mention(p.Name)
		for _, field := range [...]string{
			p.PreDepends, p.Depends, p.Conflicts, p.Breaks, p.Recommends, p.Suggests, p.Replaces, p.Enhances, p.Provides,
		} {
			eachName(field, mention)
		}
	}
}

// eachName calls f for every name in a relation field; it only looks at the
// beginning of each part, as 600,000 relations go through it.
func eachName(field string, f func(string)) {
	for i := 0; i < len(field); {
		for i < len(field) && (field[i] == ' ' || field[i] == ',' || field[i] == '|') {
			i++
		}
		start := i
		for i < len(field) && field[i] != ' ' && field[i] != ',' && field[i] != '|' && field[i] != '(' && field[i] != ':' && field[i] != '[' {
			i++
		}
		if start < i {
			f(field[start:i])
		}
		next := strings.IndexAny(field[i:], ",|")
		if next < 0 {
			return
		}
		i += next
	}
}
