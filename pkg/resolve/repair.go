package resolve

import (
	"cmp"
	"slices"
)

// maxRounds bounds the repair (apt's pkgProblemResolver::MaxCounter).
const maxRounds = 20

// repair takes away what is broken after marking, the lowest score first to
// go, and tries to bring in what seeds lack because of that. It may fail:
// broken packages are left then.
func (s *solver) repair() {
	if !slices.ContainsFunc(s.u.list, s.broken) {
		return
	}
	var order []*node
	for _, n := range s.u.list {
		s.at(n).upgradable = true
		if n.pkg != nil {
			order = append(order, n)
		}
	}
	s.scores()
	slices.SortStableFunc(order, func(x, y *node) int { return cmp.Compare(s.at(y).score, s.at(x).score) })
	for round := range maxRounds {
		change := false
		for _, n := range order {
			if s.broken(n) && s.repairOne(n, round) {
				change = true
			}
		}
		if !change {
			return
		}
	}
}

// repairOne looks at each unmet dependency of n and reports whether it changed
// anything.
func (s *solver) repairOne(n *node, round int) bool {
	f := &fix{solver: s, n: n}
	for i := range s.deps(n) {
		d := &s.at(n).dependencies[i]
		if d.kind.critical() && !s.holds(n, d) && !f.dependency(d) {
			break
		}
	}
	if !s.at(n).install {
		return f.change
	}
	for _, other := range f.kill {
		gone := s.keep(other)
		if (!gone || round > 1) && s.at(n).score > s.at(other).score {
			s.at(other).score = s.at(n).score
			f.change = true
		}
		f.change = f.change || gone
	}
	return f.change
}

// fix is the repair of one package.
type fix struct {
	*solver
	n      *node
	kill   []*node // what n conflicts with and is worth less than n
	change bool
}

// dependency tries to have d met or gives n up. It returns false when the
// other dependencies of n need no look.
func (f *fix) dependency(d *dependency) bool {
	killed, held, installed := len(f.kill), false, f.at(f.n).install
	if len(d.alternatives) == 1 {
		return !f.alternative(d, &d.alternatives[0], &held)
	}
	for i := range d.alternatives {
		if f.holds(f.n, d) {
			return true
		}
		if f.alternative(d, &d.alternatives[i], &held) && installed {
			f.mark(f.n, false, 0, false) // the next alternative may do
		}
	}
	switch {
	case f.holds(f.n, d) || len(f.kill) != killed:
	case held:
		f.keep(f.n)
		f.change = true
	case !f.at(f.n).protected:
		f.remove(f.n)
		f.change = true
	}
	return true
}

// alternative tries one alternative and returns true when n was given up.
func (f *fix) alternative(d *dependency, a *alternative, held *bool) (done bool) {
	n, st := f.n, f.at(f.n)
	found := false
	a.each(n, d.kind.negative(), func(other *node) bool {
		found = true
		if d.kind.negative() && !f.at(other).install {
			return true
		}
		if d.kind.negative() && st.score > f.at(other).score {
			if !f.at(other).protected {
				f.kill = append(f.kill, other)
			}
			return true
		}
		if st.protected {
			if !f.bring(other) {
				return true
			}
			f.at(other).score = min(f.at(other).score, st.score)
			return false
		}
		f.keep(n)
		*held, f.change, done = true, true, true
		return false
	})
	if !found && !st.protected && !d.kind.negative() && len(d.alternatives) == 1 {
		f.change, done = true, true
		f.keep(n)
	}
	return done
}

// bring tries to install a package that a protected one lacks, and what it
// needs itself.
func (s *solver) bring(n *node) bool {
	st := s.at(n)
	if !st.upgradable || !st.candidate || st.seed {
		return false
	}
	st.upgradable = false
	kept := !st.install
	if !s.mark(n, false, 0, false) {
		return false
	}
	for i := range s.deps(n) {
		d := &st.dependencies[i]
		if !d.kind.critical() || s.bringDependency(n, d) {
			continue
		}
		if kept {
			s.keep(n)
		} else {
			s.remove(n)
		}
		return false
	}
	return true
}

func (s *solver) bringDependency(n *node, d *dependency) bool {
	ok := true
	for i := range d.alternatives {
		if s.holds(n, d) {
			return ok
		}
		a := &d.alternatives[i]
		target := smartTarget(n, a)
		switch {
		case target != nil && s.at(target).protected:
			ok = false
		case d.kind.negative():
			return ok // the next round of repair sees to it
		case target != nil && s.couldHold(n, d, a) && s.bring(target):
			return true
		default:
			ok = false
		}
	}
	return ok
}

// smartTarget is the package behind the name of a relation: of virtual
// packages the provider mentioned last that is not n.
func smartTarget(n *node, a *alternative) *node {
	t := a.target
	if t == nil || t.pkg != nil || len(t.providers) == 0 {
		return t
	}
	for _, p := range slices.Backward(t.providers) {
		if p.owner != n {
			return p.owner
		}
	}
	return t
}

// scores values every package: what many and important packages need is worth
// much, what conflicts with many is worth little (pkgProblemResolver::Scores).
func (s *solver) scores() {
	s.baseScores()
	old := make([]int, len(s.state))
	for i := range s.state {
		old[i] = s.state[i].score
	}
	s.eachInstalled(func(n *node) {
		if old[n.index] <= 0 {
			return
		}
		for i := range s.deps(n) {
			d := &s.at(n).dependencies[i]
			if d.kind != preDepends && d.kind != depends && d.kind != recommends {
				continue
			}
			for _, a := range d.alternatives {
				if a.target != nil && s.at(a.target).install {
					s.at(a.target).score += old[n.index]
				}
			}
		}
	})
	for _, n := range s.u.list {
		transfer := s.at(n).score - old[n.index]
		if transfer < 0 {
			transfer = -transfer
		}
		if transfer != 0 {
			s.addToProviders(n.providers, transfer)
		}
	}
	for i, n := range s.u.list {
		if s.state[i].seed {
			s.state[i].score += 10000
		}
		if n.essential || n.important {
			s.state[i].score += 5000
		}
	}
}

func (s *solver) baseScores() {
	weight := [...]int{preDepends: 1, depends: 1, conflicts: -1, breaks: -1, recommends: 1, suggests: 0}
	s.eachInstalled(func(n *node) {
		st := s.at(n)
		if n.essential || n.important {
			st.score += 100
		}
		st.score += [...]int{0, 3, 2, 1, -1, -2}[priority(n.pkg.Priority)]
		for i := range s.deps(n) {
			d := &st.dependencies[i]
			for j := range d.alternatives {
				if weight[d.kind] != 0 {
					s.scoreTarget(n, d, &d.alternatives[j], weight[d.kind])
				}
			}
		}
	})
}

func (s *solver) scoreTarget(n *node, d *dependency, a *alternative, weight int) {
	t := a.target
	if t == nil {
		return
	}
	if !(d.kind.negative() && t == n) {
		if a.Op != "" && !(s.at(t).install && a.SatisfiedBy(t.pkg.Version)) {
			return
		}
		s.at(t).score += weight
	}
	met := slices.DeleteFunc(slices.Clone(t.providers), func(p provider) bool {
		return d.kind.negative() && p.owner == n || !a.metBy(p)
	})
	s.addToProviders(met, weight)
}

// addToProviders adds to the score of each installed provider once.
func (s *solver) addToProviders(providers []provider, add int) {
	seen := make(map[*node]bool, len(providers))
	for _, p := range providers {
		if s.at(p.owner).install && !seen[p.owner] {
			seen[p.owner] = true
			s.at(p.owner).score += add
		}
	}
}

func (s *solver) eachInstalled(f func(*node)) {
	for i, n := range s.u.list {
		if s.state[i].install {
			f(n)
		}
	}
}
