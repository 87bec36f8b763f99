package resolve

import (
	"cmp"
	"slices"
)

// maxDepth bounds the recursion, as apt does.
const maxDepth = 3000

// solver holds the choices made so far for one request.
type solver struct {
	u          *Universe
	recommends bool
	state      []state // by node.index
	clock      int     // counts changes of state
	parseErr   []Problem
}

// state is what the solver knows of a node.
type state struct {
	candidate bool // may be installed
	install   bool // will be installed
	protected bool // the decision must not be changed
	auto      bool // nobody asked for it by name
	seed      bool

	upgradable bool // repair has not tried to install it yet
	score      int
	marked     bool // reached by the sweep

	parsed       bool
	dependencies []dependency

	// When relations to this name and to what it provides were looked at
	// last, and when the candidate was dropped; see couldHold.
	updated, updatedProvides, dropped int
}

func newSolver(u *Universe, r Request) *solver {
	s := &solver{u: u, recommends: r.Recommends, state: make([]state, len(u.list))}
	for i, n := range u.list {
		s.state[i].candidate = n.pkg != nil
	}
	return s
}

func (s *solver) at(n *node) *state { return &s.state[n.index] }

// deps returns the dependencies of the candidate of n.
func (s *solver) deps(n *node) []dependency {
	st := s.at(n)
	if !st.parsed {
		st.parsed = true
		var err error
		if st.dependencies, err = s.u.dependencies(n.pkg); err != nil {
			s.parseErr = append(s.parseErr, Problem{Kind: Unreadable, Package: n.name, Text: n.name + " " + n.pkg.Version + ": " + err.Error()})
		}
	}
	return st.dependencies
}

// important tells whether a kind of dependency counts for this request.
func (s *solver) important(k kind) bool { return k.critical() || k == recommends && s.recommends }

// installed tells whether a package that will be installed meets a.
func (s *solver) installed(parent *node, d *dependency, a *alternative) (found bool) {
	a.each(parent, d.kind.negative(), func(n *node) bool {
		found = s.at(n).install
		return !found
	})
	return found
}

// holds tells whether d is met, or for a conflict, not violated.
func (s *solver) holds(parent *node, d *dependency) bool {
	for i := range d.alternatives {
		if s.installed(parent, d, &d.alternatives[i]) {
			return !d.kind.negative()
		}
	}
	return d.kind.negative()
}

// couldHold tells whether a candidate meets a, by the knowledge that apt has
// at this time: apt remembers the answer, forgets it when a package that a
// points to changes its state, but keeps it when such a package loses its
// candidate.
func (s *solver) couldHold(parent *node, d *dependency, a *alternative) bool {
	now, dropped := false, 0
	a.each(parent, d.kind.negative(), func(n *node) bool {
		st := s.at(n)
		now = st.candidate
		dropped = max(dropped, st.dropped)
		return !now
	})
	if now || dropped == 0 {
		return now
	}
	looked := s.at(a.target).updated
	for _, p := range a.target.providers {
		looked = max(looked, s.at(p.owner).updatedProvides)
	}
	return dropped > looked
}

// broken tells whether n will be installed with an unmet dependency.
func (s *solver) broken(n *node) bool {
	return s.at(n).install && slices.ContainsFunc(s.deps(n), func(d dependency) bool {
		return d.kind.critical() && !s.holds(n, &d)
	})
}

// wanting tells whether n lacks anything, recommendations included.
func (s *solver) wanting(n *node) bool {
	return s.at(n).install && slices.ContainsFunc(s.deps(n), func(d dependency) bool {
		return s.important(d.kind) && !s.holds(n, &d)
	})
}

// changed notes that the state of n is another one.
func (s *solver) changed(n *node) {
	s.clock++
	st := s.at(n)
	st.updated = s.clock
	if st.candidate {
		st.updatedProvides = s.clock
	}
}

// dropCandidate takes the candidate away unless it will be installed.
func (s *solver) dropCandidate(n *node) {
	st := s.at(n)
	if st.candidate && !st.install {
		s.clock++
		st.candidate, st.dropped = false, s.clock
	}
}

// keep takes n out of what will be installed. It fails if n is protected.
func (s *solver) keep(n *node) bool {
	st := s.at(n)
	if !st.install {
		return true
	}
	if st.protected {
		return false
	}
	st.install = false
	s.changed(n)
	return true
}

// remove is keep for packages that nobody asked for and that are not
// essential.
func (s *solver) remove(n *node) bool {
	st := s.at(n)
	if !st.install {
		return !st.protected && !n.essential && !n.important
	}
	if st.protected || n.essential || n.important || !st.auto {
		return false
	}
	return s.keep(n)
}

// undo takes back the installation of n and its candidate.
func (s *solver) undo(n *node) {
	st := s.at(n)
	if !st.install && !st.candidate {
		return
	}
	st.install = false
	s.changed(n)
	s.dropCandidate(n)
}

// set puts n into what will be installed.
func (s *solver) set(n *node, user bool) {
	st := s.at(n)
	if st.protected && st.install {
		return
	}
	st.install, st.auto = true, !user
	s.changed(n)
}

// mark puts n into what will be installed, with its dependencies if deep.
// user is true for what was asked for by name.
func (s *solver) mark(n *node, deep bool, depth int, user bool) bool {
	st := s.at(n)
	switch {
	case depth > maxDepth || n.pkg == nil || !st.candidate:
		return false
	case !user && !st.install && st.protected:
		return false
	case st.install && !st.protected && !s.wanting(n):
		return true
	case deep && !s.installable(n):
		return false
	}
	if user {
		s.set(n, true)
	}
	if !deep {
		if !user {
			s.set(n, false)
		}
		return true
	}
	protected := st.protected
	failEarly := !protected && !user
	wanted, unwanted := s.collect(n, protected)
	ok := s.dropConflicting(n, unwanted, protected, !failEarly)
	if !ok && failEarly {
		return false
	}
	if !user {
		s.set(n, false)
	}
	st.protected = true // so that nothing below takes n away again
	if !s.markDependencies(n, wanted, depth, protected, !failEarly) {
		ok = false
		if failEarly {
			s.undo(n)
		}
	}
	st.protected = protected
	return ok
}

// installable tells whether there are candidates for every dependency of n. If
// not, n stops being a candidate.
func (s *solver) installable(n *node) bool {
	for i := range s.deps(n) {
		d := &s.at(n).dependencies[i]
		if !d.kind.critical() || d.kind.negative() {
			continue
		}
		if slices.ContainsFunc(d.alternatives, func(a alternative) bool {
			return s.installed(n, d, &a) || s.couldHold(n, d, &a)
		}) {
			continue
		}
		if st := s.at(n); !st.protected {
			st.install = false
			s.dropCandidate(n)
		}
		return false
	}
	return true
}

// collect lists the dependencies of n that have to be seen to. Those that hold
// already matter if n is protected, as it hands its protection on and bars what
// it conflicts with.
func (s *solver) collect(n *node, protected bool) (wanted, unwanted []*dependency) {
	deps := s.deps(n)
	for i := range deps {
		d := &deps[i]
		switch {
		case !s.important(d.kind) || !protected && s.holds(n, d):
		case d.kind.negative():
			unwanted = append(unwanted, d)
		default:
			wanted = append(wanted, d)
		}
	}
	return wanted, unwanted
}

// dropConflicting takes away what n conflicts with: from what will be
// installed, and for a protected n, from the candidates. With all it goes on
// after a failure.
func (s *solver) dropConflicting(n *node, unwanted []*dependency, protected, all bool) bool {
	ok := true
	for _, d := range unwanted {
		for _, other := range s.solutions(n, d) {
			st := s.at(other)
			switch {
			case !st.candidate:
			case !s.keep(other):
				if ok = false; !all {
					return false
				}
			case protected:
				s.dropCandidate(other)
				st.protected = true
			}
		}
	}
	return ok
}

// solutions lists the candidates that meet d (or that a conflict is about),
// the preferred first.
func (s *solver) solutions(parent *node, d *dependency) []*node {
	var all []*node
	for i := range d.alternatives {
		a := &d.alternatives[i]
		from := len(all)
		a.each(parent, d.kind.negative(), func(n *node) bool {
			if s.at(n).candidate {
				all = append(all, n)
			}
			return true
		})
		slices.SortFunc(all[from:], func(x, y *node) int { return s.prefer(a.target, x, y) })
	}
	all = slices.Compact(all)
	if d.kind.negative() {
		return all
	}
	return slices.DeleteFunc(all, func(n *node) bool { return s.at(n).protected && !s.at(n).install })
}

// prefer orders packages that meet a relation to target.
func (s *solver) prefer(target, x, y *node) int {
	order := cmp.Or(
		before(s.at(x).protected, s.at(y).protected),
		before(x == target, y == target),
		before(x.essential, y.essential),
		before(x.important, y.important),
		cmp.Compare(priority(x.pkg.Priority), priority(y.pkg.Priority)),
	)
	if order != 0 || x == y {
		return order
	}
	// Ranks are computed at the first use: most requests need none.
	return cmp.Compare(s.u.rank(y.name), s.u.rank(x.name))
}

func before(x, y bool) int {
	switch {
	case x == y:
		return 0
	case x:
		return -1
	}
	return 1
}

// priority is the place of a priority in policy 2.5; a stanza without one
// stands before all, which is what apt makes of it.
func priority(name string) int {
	i := slices.Index([]string{"", "required", "important", "standard", "optional"}, name)
	if i < 0 {
		return 5 // extra, and what nobody knows
	}
	return i
}

// markDependencies sees to the dependencies of n. With all it goes on after a
// failure.
func (s *solver) markDependencies(n *node, wanted []*dependency, depth int, protected, all bool) bool {
	ok := true
	for _, d := range wanted {
		done := false
		if s.holds(n, d) {
			if !protected || !d.kind.critical() {
				continue
			}
			done = s.protectOnly(n, d, depth)
		} else {
			done = s.markOne(n, d, depth, protected)
		}
		if !done && d.kind.critical() {
			if ok = false; !all {
				return false
			}
		}
	}
	return ok
}

// protectOnly protects the package that a dependency rests on if there is no
// other that could carry it.
func (s *solver) protectOnly(n *node, d *dependency, depth int) bool {
	found := s.solutions(n, d)
	for _, other := range found {
		if other != found[0] {
			return true
		}
	}
	if len(found) == 0 || s.at(found[0]).protected {
		return true
	}
	s.at(found[0]).protected = true
	return s.mark(found[0], true, depth+1, false)
}

// markOne installs the first solution of d that works.
func (s *solver) markOne(n *node, d *dependency, depth int, protected bool) bool {
	found := s.solutions(n, d)
	for _, one := range found {
		if !s.at(one).candidate {
			continue
		}
		if protected && d.kind.critical() && len(found) == 1 {
			if !s.mark(one, false, depth+1, false) {
				continue
			}
			s.at(one).protected = true
		}
		if s.mark(one, true, depth+1, false) {
			return true
		}
	}
	return false
}
