package sitetest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/installtest"
)

// Scenario is something that goes wrong with a site, and what must come of it.
type Scenario struct {
	Name  string
	Shows string // in one sentence
	// Formed has it begin with a cluster that was shut down cleanly, else it
	// begins with machines that were just installed.
	Formed bool
	Nodes  int // of the site that it is made for
	// Instances says that it needs a QEMU whose machines can run some.
	Instances bool
	// Service says that it looks at the site's service machine.
	Service bool
	// Asked says that it runs only if it is asked for: others show the same.
	Asked  bool
	Budget time.Duration
	// Run does it. installtest.ErrFailed says that the report says why.
	Run func(context.Context, *Site) error
}

// FaultOptions says which scenarios to run.
type FaultOptions struct {
	// Only are names of scenarios or path.Match patterns; none: all that are not
	// Asked.
	Only []string
	// Seed decides when faults come; 0: one is drawn, and told.
	Seed uint64
}

// Select returns the scenarios of these names, in their order here.
func (o FaultOptions) Select(all []Scenario) ([]Scenario, error) {
	if len(o.Only) == 0 {
		return slices.DeleteFunc(slices.Clone(all), func(s Scenario) bool { return s.Asked }), nil
	}
	wanted := make([]bool, len(all))
	for _, pattern := range o.Only {
		found := false
		for i, s := range all {
			if ok, err := path.Match(pattern, s.Name); err != nil {
				return nil, fmt.Errorf("cannot use %q: %w", pattern, err)
			} else if ok {
				wanted[i], found = true, true
			}
		}
		if !found {
			return nil, hint.New(fmt.Errorf("there is no scenario %q", pattern), "there are "+strings.Join(names(all), ", "))
		}
	}
	var list []Scenario
	for i, s := range all {
		if wanted[i] {
			list = append(list, s)
		}
	}
	return list, nil
}

func names(list []Scenario) []string {
	var names []string
	for _, s := range list {
		names = append(names, s.Name)
	}
	return names
}

// Faults installs a site, unless Options.Disks has it, and runs scenarios, several
// at the same time, each on copies of the disks. There is one report for all, a
// section each.
func Faults(ctx context.Context, o Options, f FaultOptions) (*installtest.Report, error) {
	list, err := f.Select(Scenarios())
	if err != nil {
		return nil, err
	}
	if f.Seed == 0 {
		f.Seed = rand.Uint64N(1<<32) + 1 // short enough to be typed
	}
	return with(ctx, o, func(t *test) error {
		t.report.Title += ", faults"
		t.report.Property("Seed", "%d: --seed %d has the faults come at the same moments", f.Seed, f.Seed)
		t.say(fmt.Sprintf("seed %d", f.Seed))
		return t.faults(ctx, list, f.Seed)
	})
}

// faults is the order of a test of scenarios.
func (t *test) faults(ctx context.Context, list []Scenario, seed uint64) error {
	base := t.o.Disks
	if base == "" {
		if t.o.KeepDisks == "" {
			t.o.KeepDisks = filepath.Join(t.o.WorkDir, "installed")
		}
		base = t.o.KeepDisks
		if err := t.installed(ctx); err != nil {
			return err
		}
	}
	if !t.identity.Formed && slices.ContainsFunc(list, func(s Scenario) bool { return s.Formed && t.unfit(s) == "" }) {
		if err := t.together(ctx, []Scenario{form(t.o.nodes())}, base, seed); err != nil {
			return err
		}
	}
	return t.together(ctx, list, base, seed)
}

// together runs scenarios, some at the same time. The report has them in their
// order here.
func (t *test) together(ctx context.Context, list []Scenario, base string, seed uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wait sync.WaitGroup
	free := make(chan struct{}, t.o.together())
	parts := make([]*installtest.Report, len(list))
	for i, s := range list {
		free <- struct{}{} // here, so that they begin in order
		parts[i] = t.report.Part(s.Name, s.Shows)
		wait.Go(func() {
			defer func() { <-free }()
			if err := t.scenario(ctx, s, parts[i], base, seed); err != nil {
				cancel(err)
			}
		})
	}
	wait.Wait()
	for _, p := range parts {
		t.report.Add(p)
	}
	return context.Cause(ctx)
}

// installed installs the site, in a section of its own.
func (t *test) installed(ctx context.Context) error {
	i := *t
	i.report = t.report.Part("install", "The machines of the site are installed from the medium.")
	defer func() { i.report.End(); t.report.Add(i.report) }()
	if err := i.prepare(); err != nil {
		return err
	}
	err := i.install(ctx)
	if err != nil {
		for _, file := range i.logs() {
			i.report.Log(file)
		}
	}
	return err
}

// unfit says why a scenario cannot be run here; empty: it can.
func (t *test) unfit(s Scenario) string {
	switch nodes := t.o.nodes(); {
	case !t.o.Cluster:
		return "the site has no cluster"
	case nodes != s.Nodes:
		return fmt.Sprintf("it is made for a site of %d nodes, this one has %d", s.Nodes, nodes)
	case s.Service && t.o.Service == nil:
		return "the site has no service machine"
	case s.Service && !t.o.inspects():
		return "the service machine is not to be looked at"
	case s.Instances:
		return t.noInstances()
	}
	return ""
}

// scenario runs one, fills its part of the report and says how it went. The error
// is for what is no fault of the site's.
func (t *test) scenario(ctx context.Context, s Scenario, part *installtest.Report, base string, seed uint64) error {
	why := t.unfit(s)
	if why == "" && s.Formed && !t.identity.Formed {
		why = "there is no cluster to begin with"
	}
	if why != "" {
		part.SkipPart(why)
		t.say(fmt.Sprintf("skipped %s: %s", s.Name, why))
		return nil
	}
	site, err := t.site(ctx, s, part, base, seed)
	if err == nil {
		err = site.run(ctx, s)
	}
	if err == nil && site.identity.Formed && !t.identity.Formed {
		t.identity = site.identity // by form, beside which no other one runs
	}
	part.End()
	_, line := Verdict(part, part.Sections[0])
	t.say(line)
	return err
}

// Verdict is the result of a scenario: a word, and a line that begins with it.
func Verdict(r *installtest.Report, s *installtest.Section) (word, line string) {
	word = "ok"
	if len(r.FailedIn(s.Name)) > 0 {
		word = "FAILED"
	}
	return word, fmt.Sprintf("%s %s, %.0f seconds", word, s.Name, (s.Until - s.From).Seconds())
}

// Site is the site of one scenario: machines that are off, on copies of the
// disks in Options.Disks, and cables that are in.
type Site struct {
	*test
	name string
	life context.Context // of the machines: a budget that is over leaves them on, so that they can be asked
	rng  *rand.Rand
}

// site makes the site of a scenario, with files of its own.
func (t *test) site(ctx context.Context, s Scenario, part *installtest.Report, base string, seed uint64) (*Site, error) {
	own := *t
	own.nodes, own.report, own.o.KeepDisks, own.o.Disks = nil, part, "", base
	own.o.Progress = func(line string) {
		if t.o.Progress != nil { // a line has the name once
			t.o.Progress(s.Name + ": " + strings.TrimPrefix(line, s.Name+": "))
		}
	}
	own.o.WorkDir = filepath.Join(t.o.WorkDir, s.Name)
	if err := own.prepare(); err != nil {
		return nil, err
	}
	image := diskImage
	if s.Formed {
		image = formedImage
	}
	if err := own.copies(base, image); err != nil {
		return nil, err
	}
	// Each scenario draws its own numbers, whichever ran before it.
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.Name))
	return &Site{test: &own, name: s.Name, life: ctx, rng: rand.New(rand.NewPCG(seed, h.Sum64()))}, nil
}

// run runs the scenario within its budget and clears up.
func (s *Site) run(ctx context.Context, sc Scenario) error {
	defer func() { _ = os.RemoveAll(s.o.WorkDir) }()
	defer s.each(func(n *node) { n.session.Close() })
	budget := sc.Budget
	if s.o.Service != nil && !sc.Service {
		budget += s.o.Limits.Ready // the machine is made on the way
	}
	limit, cancel := context.WithTimeoutCause(ctx, budget, fmt.Errorf("the scenario's budget of %v is over", budget))
	defer cancel()
	err := sc.Run(limit, s)
	if err != nil && ctx.Err() == nil && !errors.Is(err, installtest.ErrFailed) {
		_ = s.close(s.report.Begin("", s.name, "the scenario comes to its end", "no error"), err) // the report has it
	}
	if len(s.report.FailedIn(s.name)) > 0 {
		s.collect(ctx)
		for _, file := range s.logs() {
			s.report.Log(file)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// collect asks the machines that are on for their logs.
func (s *Site) collect(ctx context.Context) {
	limit, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s.parallel(len(s.nodes), func(n *node) error {
		if n.session.Machine() == nil {
			return nil
		}
		n.session.Phase("logs")
		err := n.session.OpenShell(limit)
		if err == nil {
			n.session.Collect(limit)
		}
		return err
	})
}

// on switches a machine on.
func (s *Site) on(n *node, p installtest.Power) error {
	n.boots++
	p.Name = fmt.Sprintf("%s-%d", s.name, n.boots)
	return n.session.PowerOn(s.life, p)
}

// allOn switches all machines on.
func (s *Site) allOn() error {
	for _, n := range s.nodes {
		if err := s.on(n, installtest.Power{}); err != nil {
			return err
		}
	}
	return nil
}

// card is the number of a host's card in a network; -1: it has none.
func (s *Site) card(n *node, network string) int {
	return slices.IndexFunc(n.host.cards(s.o.Site), func(c card) bool { return c.network == network })
}

// link pulls the cable of a running machine's card, or plugs it in.
func (s *Site) link(ctx context.Context, n *node, network string, up bool) error {
	i := s.card(n, network)
	if i < 0 {
		return fmt.Errorf("%s has no card in the network %s", n.host.Name, network)
	}
	return n.session.Machine().SetLink(ctx, i, up)
}

// cut breaks the network behind the cards, which see a carrier all the same, or
// mends it.
func (s *Site) cut(network string, broken bool) {
	for _, n := range s.nodes {
		if p := n.cables[network]; p != nil {
			p.Cut(broken)
		}
	}
}

// pause waits for a time that the seed draws between two.
func (s *Site) pause(ctx context.Context, least, most time.Duration, what string) error {
	d := least
	if most > least {
		d += time.Duration(s.rng.Int64N(int64(most - least)))
	}
	s.say(fmt.Sprintf("%s: %v until %s", s.name, d.Round(100*time.Millisecond), what))
	return s.sleep(ctx, d)
}

func (s *Site) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(time.Duration(float64(d) * s.o.hurry)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// check notes whether something works out within a time. What it does must not
// be a shell's command that takes long: its shell would be lost.
func (s *Site) check(ctx context.Context, name, want string, limit time.Duration, do func(context.Context) (string, error)) error {
	s.say(s.name + ": " + name)
	c := s.report.Begin("", s.name, name, want)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it was given %v", limit))
	defer cancel()
	out, err := do(ctx)
	c.Output = out
	return s.close(c, err)
}

// line waits for a line of a node's agent, printed at a time or later; zero:
// since it was switched on.
func (s *Site) line(ctx context.Context, n *node, since time.Time, name, pattern string) (installtest.Said, error) {
	var said installtest.Said
	err := s.check(ctx, name, "a line \"sci-agent: "+pattern+"\" of "+n.host.Name, s.o.Limits.Line, func(ctx context.Context) (string, error) {
		var err error
		said, err = n.session.Await(ctx, since, regexp.MustCompile(pattern))
		return said.Text, err
	})
	return said, err
}

// ready waits until the agents have said so since power on.
func (s *Site) ready(ctx context.Context, nodes ...*node) error {
	for _, n := range nodes {
		if err := s.readySince(ctx, n, time.Time{}, n.host.Name+" gets ready"); err != nil {
			return err
		}
	}
	return nil
}

// readySince waits until an agent says so at a time or later, as line does.
func (s *Site) readySince(ctx context.Context, n *node, since time.Time, name string) error {
	return s.check(ctx, name, "a line \"sci-agent: ready\"", s.o.Limits.Ready, func(ctx context.Context) (string, error) {
		said, err := n.session.Await(ctx, since, regexp.MustCompile("^ready"))
		return said.Text, err
	})
}

// shells opens the shells of machines that are on.
func (s *Site) shells(ctx context.Context, nodes ...*node) error {
	for _, n := range nodes {
		if err := n.session.OpenShell(ctx); err != nil {
			return fmt.Errorf("%s: %w", n.host.Name, err)
		}
	}
	return nil
}

// whole waits until all machines are ready and asks what a cluster without any
// fault is asked. It returns the master.
func (s *Site) whole(ctx context.Context) (*node, error) {
	if err := s.ready(ctx, s.nodes...); err != nil {
		return nil, err
	}
	return s.verified(ctx)
}

// verified asks what a cluster without any fault is asked.
func (s *Site) verified(ctx context.Context) (*node, error) {
	if err := s.shells(ctx, s.nodes...); err != nil {
		return nil, err
	}
	failed := len(s.report.Failed())
	s.each(func(n *node) { n.session.Phase("checks") })
	master, err := s.questions(ctx)
	if err == nil && len(s.report.Failed()) > failed {
		err = installtest.ErrFailed
	}
	return master, err
}

// ask asks a node; what does not hold ends the scenario.
func (s *Site) ask(ctx context.Context, n *node, q installtest.Question) error {
	q.Stage = s.name
	return s.test.ask(ctx, n, q)
}

// double makes a machine that cannot be told from a host's by its cards and its
// disk, which is a copy of the host's as it was installed. It is off, and not
// among the site's.
func (s *Site) double(of *node, name string) (*node, error) {
	h := of.host
	h.Name, h.MACs = name, nil
	for _, c := range of.host.cards(s.o.Site) {
		h.MACs = append(h.MACs, c.mac)
	}
	work := h.place(s.o.WorkDir)
	n, err := s.machine(h, work)
	if err != nil {
		return nil, err
	}
	return n, n.startFrom(of.host.place(s.o.Disks), diskImage, work)
}

// form is what comes first where scenarios need a cluster and there is none yet.
func form(nodes int) Scenario {
	return Scenario{
		Name: "form", Shows: "The machines form a cluster without any fault; scenarios that need one begin with its disks.", Nodes: nodes,
		Budget: 2 * time.Hour, Run: func(ctx context.Context, s *Site) error {
			if err := s.allOn(); err != nil {
				return err
			}
			if _, err := s.whole(ctx); err != nil {
				return err
			}
			if err := s.powerdown(ctx); err != nil {
				return err
			}
			return s.keepFormed(ctx)
		},
	}
}
