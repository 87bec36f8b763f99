package resolve

import "slices"

// sweep takes out what nobody asked for and nothing needs: what attempts that
// failed left behind. As with apt, a recommendation or suggestion of something
// that stays is need enough.
func (s *solver) sweep() {
	var queue []*node
	reach := func(n *node) {
		if st := s.at(n); st.install && !st.marked {
			st.marked = true
			queue = append(queue, n)
		}
	}
	s.eachInstalled(func(n *node) {
		if !s.at(n).auto || n.essential || n.important {
			reach(n)
		}
	})
	for len(queue) > 0 {
		n := queue[0]
		queue = queue[1:]
		for _, d := range s.deps(n) {
			if d.kind.negative() {
				continue
			}
			for i := range d.alternatives {
				d.alternatives[i].each(n, false, func(other *node) bool {
					reach(other)
					return true
				})
			}
		}
	}
	for _, n := range slices.Clone(s.u.list) {
		if st := s.at(n); st.install && !st.marked {
			s.remove(n)
		}
	}
}
