package sitetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/installtest"
)

// Scenarios are all that there are, in the order in which they are run.
func Scenarios() []Scenario {
	list := []Scenario{
		{Name: "late", Nodes: 2, Budget: time.Hour, Run: late,
			Shows: "One node comes much later: the first one says for whom it waits, and both form the cluster when it is there."},
		{Name: "order", Nodes: 2, Budget: time.Hour, Run: order,
			Shows: "The nodes are switched on in the wrong order: the second one says for whom it waits, and joins when the first one is there."},
		{Name: "switch-last", Nodes: 2, Budget: time.Hour, Run: switchLast,
			Shows: "No cable is in when the nodes are switched on: both say what they wait for, and form the cluster when the switches come up."},
	}
	for _, victim := range []int{0, 1} {
		name := "first node"
		if victim == 1 {
			name = "second node"
		}
		list = append(list, Scenario{Name: fmt.Sprintf("cut-node%d", victim+1), Nodes: 2, Budget: 2 * time.Hour,
			Shows: fmt.Sprintf("The power of the %s fails at each step of the cluster's plan, one after the other while one cluster forms; the cluster is whole in the end.", name),
			Run:   func(ctx context.Context, s *Site) error { return cuts(ctx, s, victim, clusterSteps()) }})
	}
	list = append(list, []Scenario{
		{Name: "clock", Nodes: 2, Budget: time.Hour, Run: clockOff,
			Shows: "The second node's clock is an hour ahead: both get ready and their clocks agree as far as Ganeti asks for."},
		{Name: "takeover", Nodes: 2, Formed: true, Instances: true, Budget: 3 * time.Hour, Run: takeover,
			Shows: "The master is lost for good, with an instance: the survivor takes over only when told that the other one is off, loses no record, and the lost node stays out until it is let in again."},
		{Name: "backbone-cut", Nodes: 2, Formed: true, Instances: true, Budget: 2 * time.Hour, Run: backboneCut,
			Shows: "The backbone is cut while an instance's disk is first synchronised and the instance writes; when it is mended, both copies become current and the same."},
		{Name: "disk-full", Nodes: 2, Budget: time.Hour, Run: diskFull,
			Shows: "The root file system of the second node is full while the cluster forms: its agent says so and waits, and goes on when there is room."},
		{Name: "thief", Nodes: 2, Budget: 90 * time.Minute, Run: thief,
			Shows: "A machine with a copy of the second node's disk, in its place and at its addresses, asks to join behind it: it is refused on both consoles and gets nothing, and the real one joins."},
		{Name: "three", Nodes: 3, Budget: 2 * time.Hour, Run: three,
			Shows: "Three nodes form a cluster; each can become the master and has its configuration."},
	}...)
	list = append(list, serviceScenarios()...)
	// The same cuts one by one, each while a cluster of its own forms.
	for _, victim := range []int{0, 1} {
		for _, step := range steps()[1:] { // nothing is heard before the first one
			list = append(list, Scenario{Name: fmt.Sprintf("cut-%s-node%d", step, victim+1), Nodes: 2, Asked: true, Budget: time.Hour,
				Shows: fmt.Sprintf("The power of node %d fails at the step %s.", victim+1, step),
				Run:   func(ctx context.Context, s *Site) error { return cuts(ctx, s, victim, []string{step}) }})
		}
	}
	return list
}

// two are the first two nodes: the one that forms the cluster, and the one that
// joins it.
func (s *Site) two() (first, second *node) {
	m := s.members()
	return m[0], m[1]
}

func late(ctx context.Context, s *Site) error {
	first, second := s.two()
	if err := s.on(first, installtest.Power{}); err != nil {
		return err
	}
	if _, err := s.line(ctx, first, time.Time{}, first.host.Name+" says for whom it waits", `^step nodes retry .*waiting for `+second.host.Name+`\b`); err != nil {
		return err
	}
	if err := s.pause(ctx, 30*time.Second, 3*time.Minute, second.host.Name+" is switched on"); err != nil {
		return err
	}
	if err := s.on(second, installtest.Power{}); err != nil {
		return err
	}
	_, err := s.whole(ctx)
	return err
}

func order(ctx context.Context, s *Site) error {
	first, second := s.two()
	if err := s.on(second, installtest.Power{}); err != nil {
		return err
	}
	if _, err := s.line(ctx, second, time.Time{}, second.host.Name+" says for whom it waits", `^step cluster retry .*waiting for the master to answer: .*\b`+first.host.Name+`\b`); err != nil {
		return err
	}
	if err := s.pause(ctx, time.Minute, 4*time.Minute, first.host.Name+" is switched on"); err != nil {
		return err
	}
	if err := s.on(first, installtest.Power{}); err != nil {
		return err
	}
	_, err := s.whole(ctx)
	return err
}

func switchLast(ctx context.Context, s *Site) error {
	first, second := s.two()
	for _, n := range s.nodes {
		var none []int
		for i := range n.host.cards(s.o.Site) {
			none = append(none, i)
		}
		if err := s.on(n, installtest.Power{Unplugged: none}); err != nil {
			return err
		}
	}
	if _, err := s.line(ctx, first, time.Time{}, first.host.Name+" says what it waits for", `^step \w+ retry .*waiting for .*\blink\b`); err != nil {
		return err
	}
	if _, err := s.line(ctx, second, time.Time{}, second.host.Name+" says what it waits for", `^step \w+ retry .*waiting for (.*\blink\b|the master to answer)`); err != nil {
		return err
	}
	if err := s.pause(ctx, 0, 2*time.Minute, "the switches come up"); err != nil {
		return err
	}
	for _, n := range s.nodes {
		for _, c := range n.host.cards(s.o.Site) {
			if err := s.link(ctx, n, c.network, true); err != nil {
				return err
			}
		}
	}
	_, err := s.whole(ctx)
	return err
}

// steps are those of a node of a cluster, as the agent names them, but for those
// that a site has only if it asks for them.
func steps() []string {
	return append([]string{"identity", "hostname", "networks", "time", "apt"}, clusterSteps()...)
}

func clusterSteps() []string {
	return []string{"address", "storage", "drbd", "os", "cluster", "nodes", "parameters", "configuration", "verify"}
}

// usual is how long a step takes on two emulated machines on two cores. Those
// that are not listed take a second at most.
func usual(step string, victim int) time.Duration {
	switch step {
	case "networks":
		return 20 * time.Second
	case "address":
		return 8 * time.Second
	}
	if victim != 0 && step != "cluster" {
		return time.Second // the rest is the master's work
	}
	switch step {
	case "cluster":
		if victim != 0 {
			return 220 * time.Second // it waits for the first node to form it
		}
		return 110 * time.Second
	case "nodes":
		return 230 * time.Second
	case "parameters":
		return 17 * time.Second
	case "configuration":
		return 3 * time.Second
	case "verify":
		return 50 * time.Second
	}
	return time.Second
}

// bootTime is how long those machines take from power on to the first step.
const bootTime = 95 * time.Second

// cuts cuts the power of one node at steps of its plan, each time it gets there.
func cuts(ctx context.Context, s *Site, victim int, steps []string) error {
	n := s.members()[victim]
	on := time.Now()
	if err := s.allOn(); err != nil {
		return err
	}
	said, err := s.line(ctx, n, time.Time{}, n.host.Name+" begins", "^step identity ok")
	if err != nil {
		return err
	}
	pace := float64(said.At.Sub(on)) / float64(bootTime) // of this testing machine
	for _, step := range steps {
		if err := s.cutAt(ctx, n, step, time.Duration(pace*float64(usual(step, victim)))); err != nil {
			return err
		}
	}
	_, err = s.whole(ctx)
	return err
}

// cutAt cuts the power of a node at some moment of a step, which begins where
// the one before it ends, and switches it on again: it must get past that step.
func (s *Site) cutAt(ctx context.Context, n *node, step string, length time.Duration) error {
	all := serviceSteps()
	before := all[max(0, slices.Index(all, step)-1)]
	if _, err := s.line(ctx, n, time.Time{}, fmt.Sprintf("%s comes to the step %s", n.host.Name, step), "^step "+before+" ok"); err != nil {
		return err
	}
	begun := time.Now()
	if err := s.pause(ctx, 0, length, fmt.Sprintf("the power of %s fails, step %s", n.host.Name, step)); err != nil {
		return err
	}
	return s.check(ctx, fmt.Sprintf("power cut of %s at the step %s", n.host.Name, step), "switched on again, it gets past the step", s.o.Limits.Ready,
		func(ctx context.Context) (string, error) {
			n.session.PowerCut()
			out := fmt.Sprintf("cut %.1f s behind the step %s; the last line before: %q\n", time.Since(begun).Seconds(), before, n.session.Last().Text)
			if err := s.on(n, installtest.Power{}); err != nil {
				return out, err
			}
			on := time.Now()
			said, err := n.session.Await(ctx, time.Time{}, regexp.MustCompile("^step "+step+" ok"))
			if err == nil {
				out += fmt.Sprintf("%.0f s behind power on: %q\n", said.At.Sub(on).Seconds(), said.Text)
			}
			return out, err
		})
}

// maxSkew is the difference between clocks from which on Ganeti refuses to work
// (NODE_MAX_CLOCK_SKEW in its constants).
const maxSkew = 150 * time.Second

func clockOff(ctx context.Context, s *Site) error {
	first, second := s.two()
	if err := s.on(first, installtest.Power{}); err != nil {
		return err
	}
	if err := s.on(second, installtest.Power{Clock: time.Hour}); err != nil {
		return err
	}
	if _, err := s.whole(ctx); err != nil {
		return err
	}
	return s.until(ctx, s.name, time.Duration(float64(5*time.Minute)*s.o.hurry), "the clocks agree", fmt.Sprintf("less than %v apart", maxSkew), func(ctx context.Context) (string, error) {
		var clocks []reading
		out := ""
		for _, n := range []*node{first, second} {
			asked := time.Now()
			text, err := n.session.Run(ctx, "date -u +%s")
			if err != nil {
				return out + text, err
			}
			clocks = append(clocks, reading{text, asked, time.Now()})
			out += n.host.Name + ": " + text
		}
		return out, agree(clocks[0], clocks[1])
	})
}

// reading is a machine's clock, asked for between two moments of ours.
type reading struct {
	text       string // seconds since 1970
	from, till time.Time
}

// ahead is how far the clock is ahead of ours, at least and at most.
func (r reading) ahead() (least, most time.Duration, err error) {
	n, err := strconv.ParseInt(strings.TrimSpace(r.text), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot read a clock: %w", err)
	}
	at := time.Unix(n, 0)
	return at.Sub(r.till), at.Add(time.Second).Sub(r.from), nil
}

// agree judges that two clocks cannot be further apart than Ganeti allows.
func agree(a, b reading) error {
	aLeast, aMost, err := a.ahead()
	bLeast, bMost, berr := b.ahead()
	if err := errors.Join(err, berr); err != nil {
		return err
	}
	if apart := max(aMost-bLeast, bMost-aLeast); apart >= maxSkew {
		return fmt.Errorf("they are up to %v apart", apart.Round(time.Second))
	}
	return nil
}

// guest has a running instance whose primary is the master, with its disk in
// sync unless early, which starts it at once.
func (s *Site) guest(ctx context.Context, early bool) (*trial, error) {
	if err := s.allOn(); err != nil {
		return nil, err
	}
	if err := s.ready(ctx, s.nodes...); err != nil {
		return nil, err
	}
	if err := s.shells(ctx, s.nodes...); err != nil {
		return nil, err
	}
	master, err := s.master(ctx)
	if err != nil {
		return nil, err
	}
	tr, err := s.trial(master)
	if err != nil {
		return nil, err
	}
	master.session.Phase("an instance is made")
	do := []func(context.Context) error{
		func(ctx context.Context) error { return tr.bring(ctx, tr.master) },
		func(ctx context.Context) error { return tr.bring(ctx, tr.other) },
		tr.add, tr.blank, tr.sync, tr.start,
	}
	if early {
		do = slices.Delete(do, 4, 5)
	}
	for _, f := range do {
		if err := f(ctx); err != nil {
			return tr, err
		}
	}
	return tr, nil
}

func takeover(ctx context.Context, s *Site) error {
	if _, err := netip.ParseAddr(s.o.ClusterAddress); err != nil {
		return fmt.Errorf("cannot tell the cluster's address: %w", err)
	}
	tr, err := s.guest(ctx, false)
	if err != nil {
		return s.withLogs(ctx, tr, err)
	}
	lost, survivor := tr.master, tr.other
	err = s.refused(ctx, survivor, lost, tr, "sci-agent takeover is refused while "+lost.host.Name+" lives, whatever one says", " --powered-off '"+lost.host.Name+"'", "is alive")
	if err != nil {
		return err
	}
	before, sum, err := tr.mark(ctx, survivor)
	if err == nil {
		err = s.pause(ctx, 5*time.Second, time.Minute, "the power of "+lost.host.Name+" fails for good")
	}
	if err != nil {
		return err
	}
	last, err := s.lastRecords(ctx, tr, survivor)
	if err != nil {
		return err
	}
	lost.session.PowerCut()
	tr.master, tr.other = survivor, lost
	for _, step := range []func() error{
		func() error { return s.noticed(ctx, survivor) },
		func() error {
			return s.refused(ctx, survivor, lost, tr, "sci-agent takeover is refused as long as nobody says that "+lost.host.Name+" is off", "", "--powered-off")
		},
		func() error { return s.takenOver(ctx, survivor, lost, tr) },
		func() error { return tr.startedAgain(ctx, "takeover", last) },
		func() error { return tr.kept(ctx, "takeover", survivor, before, sum) },
		func() error { return s.keptOut(ctx, survivor, lost, tr, last.Boot+1) },
		func() error { return s.letInAgain(ctx, survivor, lost) },
		func() error { return s.inSync(ctx, survivor) },
		func() error { _, err := s.verified(ctx); return err },
		func() error { return s.same(ctx, tr) },
	} {
		if err := step(); err != nil {
			return s.withLogs(ctx, tr, err)
		}
	}
	return nil
}

// withLogs keeps Ganeti's logs of the machines that are on, beside an error.
func (s *Site) withLogs(ctx context.Context, tr *trial, err error) error {
	if err != nil && tr != nil {
		tr.keepLogs(context.WithoutCancel(ctx), s.name+".ganeti.log")
	}
	return err
}

// lastRecords asks how many records the instance has acknowledged.
func (s *Site) lastRecords(ctx context.Context, tr *trial, from *node) (status, error) {
	var last status
	err := s.ask(ctx, from, installtest.Question{Name: "records that have been acknowledged", Want: "some", Script: tr.get("/status"),
		Judge: func(out string) string {
			var err error
			if last, err = parseStatus(out); err != nil {
				return err.Error()
			}
			return ""
		}})
	return last, err
}

// refused has the survivor take over, as it must not. It must say why, with these
// words.
func (s *Site) refused(ctx context.Context, survivor, lost *node, tr *trial, name, arguments, words string) error {
	survivor.session.Phase("takeover refused")
	return s.ask(ctx, survivor, installtest.Question{
		Name: name, Want: fmt.Sprintf("a status other than 0, a reason (%q), nothing changed", words),
		Script: refusedScript(arguments, tr.name), FailOK: true, Judge: refusal(tr.fqdn(lost), words),
	})
}

// refusedScript prints the status last, behind what must be as it was.
func refusedScript(arguments, instance string) string {
	return fmt.Sprintf(`sci-agent takeover%s 2>&1
status=$?
echo "status: $status"
echo "master: $(cat /var/lib/ganeti/ssconf_master_node)"
echo "instances: $(%s | wc -l)"`, arguments, processes(instance))
}

// refusal judges refusedScript.
func refusal(master, words string) func(string) string {
	return func(out string) string {
		v := fields(out)
		said, _, _ := strings.Cut(out, "status: ")
		switch {
		case v["status"] == "" || v["master"] == "":
			return "it did not come to its end"
		case v["status"] == "0":
			return "the status is 0"
		case !strings.Contains(said, words):
			return fmt.Sprintf("it does not say why: %q is not in what it says", words)
		case v["master"] != master:
			return "the master is " + v["master"] + " now"
		case v["instances"] != "0":
			return "the instance runs"
		}
		return ""
	}
}

// fields reads lines "name: value"; of several the last one counts.
func fields(out string) map[string]string {
	m := make(map[string]string)
	for _, line := range strings.Split(out, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			m[name] = strings.TrimSpace(value)
		} else if name, ok := strings.CutSuffix(strings.TrimSpace(line), ":"); ok {
			m[name] = ""
		}
	}
	return m
}

// takenOver has the survivor take over, told that the lost node is off.
func (s *Site) takenOver(ctx context.Context, survivor, lost *node, tr *trial) error {
	err := s.ask(ctx, survivor, installtest.Question{
		Name: "sci-agent takeover --powered-off " + lost.host.Name, Want: "status 0", Script: "sci-agent takeover --powered-off '" + lost.host.Name + "' 2>&1", Judge: any0,
	})
	if err != nil {
		return err
	}
	return s.ask(ctx, survivor, installtest.Question{
		Name: survivor.host.Name + " is the master", Want: tr.fqdn(survivor), Script: "gnt-cluster getmaster", Judge: installtest.Equal(tr.fqdn(survivor)),
	})
}

// staysOut is what an agent says whose machine is kept out of its cluster.
const staysOut = `^(step (cluster|nodes|parameters|configuration|verify) retry|REFUSED|failed: )`

// keptOut switches the lost node on again and watches it: it believes that it is
// the master and that the instance is its own, and must act on neither.
func (s *Site) keptOut(ctx context.Context, survivor, lost *node, tr *trial, start uint64) error {
	if err := s.on(lost, installtest.Power{}); err != nil {
		return err
	}
	if _, err := s.line(ctx, lost, time.Time{}, lost.host.Name+" comes back and says that it stays out", staysOut); err != nil {
		return err
	}
	if err := s.shells(ctx, lost); err != nil {
		return err
	}
	lost.session.Phase("kept out")
	end := time.Now().Add(s.o.Limits.Out)
	c := s.report.Begin("", s.name, lost.host.Name+" stays out", fmt.Sprintf("for %v: no answer as the master, not the cluster's address, no instance, no primary disk there; %s is the master and runs the instance without a restart", s.o.Limits.Out, survivor.host.Name))
	c.Script = outScript(s.o.ClusterAddress, tr.name)
	seen, records := 0, uint64(0)
	for ; seen == 0 || time.Now().Before(end); seen++ {
		out, err := s.outOnce(ctx, survivor, lost, tr, start, &records)
		c.Output = out
		if err != nil {
			return s.close(c, fmt.Errorf("at look %d: %w", seen+1, err))
		}
		if err := s.sleep(ctx, 15*time.Second); err != nil {
			return s.close(c, err)
		}
	}
	c.Output += fmt.Sprintf("looked at %d times\n", seen)
	return s.close(c, nil)
}

// outOnce looks once at both sides.
func (s *Site) outOnce(ctx context.Context, survivor, lost *node, tr *trial, start uint64, records *uint64) (string, error) {
	said := lost.host.Name + ":\n"
	out, err := lost.session.Run(ctx, outScript(s.o.ClusterAddress, tr.name))
	said += out
	if err != nil {
		return said, err
	}
	if problem := stayedOut(out); problem != "" {
		return said, errors.New(lost.host.Name + ": " + problem)
	}
	out, err = survivor.session.Run(ctx, "gnt-cluster getmaster && "+tr.get("/status"))
	said += survivor.host.Name + ":\n" + out
	if err != nil {
		return said, fmt.Errorf("%s: %w", survivor.host.Name, err)
	}
	*records, err = stillMaster(out, tr.fqdn(survivor), start, *records)
	return said, err
}

// outScript tells what a node does that only the master, or the primary node of
// an instance, does. That a daemon of the master's runs says nothing: it starts
// at each boot, asks the other nodes who the master is, and ends (ganeti-luxid(8),
// ganeti-wconfd(8)); whether it answers does.
func outScript(address, instance string) string {
	return fmt.Sprintf(`echo "answers: $(timeout 120 gnt-node list --no-headers -o name 2>/dev/null | xargs)"
echo "address: $(ip -o -4 addr | grep -Fw '%s' | xargs)"
echo "instances: $(%s | xargs)"
echo "primary: $(grep -o 'ro:Primary' /proc/drbd 2>/dev/null | sort -u | xargs)"`, address, processes(instance))
}

// processes lists those of an instance on a node.
func processes(instance string) string {
	return "pgrep -f '[qk][ev]m.* -name " + instance + "'"
}

// stayedOut judges outScript.
func stayedOut(out string) string {
	v := fields(out)
	for _, p := range []struct{ name, what string }{
		{"answers", "it answers as the master"}, {"address", "it has the cluster's address"},
		{"instances", "it runs the instance"}, {"primary", "it has a disk as its primary"},
	} {
		value, ok := v[p.name]
		if !ok {
			return "it does not say: " + p.name
		}
		if value != "" {
			return p.what + ": " + value
		}
	}
	return ""
}

// stillMaster judges the survivor: the master's name, then the instance's
// status. It returns how many records there are; before is what there were.
func stillMaster(out, want string, start, before uint64) (uint64, error) {
	name, rest, _ := strings.Cut(out, "\n")
	if strings.TrimSpace(name) != want {
		return before, fmt.Errorf("the master is %q; want %q", strings.TrimSpace(name), want)
	}
	st, err := parseStatus(rest)
	switch {
	case err != nil:
		return before, err
	case st.Boot != start:
		return before, fmt.Errorf("the instance was started again: start %d, it was %d", st.Boot, start)
	case st.Records <= before:
		return before, fmt.Errorf("the instance writes no more: %d records, %d before", st.Records, before)
	}
	return st.Records, nil
}

// letInAgain lets the lost node into the cluster.
func (s *Site) letInAgain(ctx context.Context, survivor, lost *node) error {
	begun := time.Now()
	err := s.ask(ctx, survivor, installtest.Question{
		Name: "sci-agent join " + lost.host.Name, Want: "status 0", Script: "sci-agent join '" + lost.host.Name + "' 2>&1", Judge: any0,
	})
	if err != nil {
		return err
	}
	// The agents of both go through their plans again.
	for _, n := range []*node{lost, survivor} {
		if err := s.readySince(ctx, n, begun, n.host.Name+" gets ready again"); err != nil {
			return err
		}
	}
	return nil
}

// inSync waits until each disk of a node has two copies that are the same.
func (s *Site) inSync(ctx context.Context, on *node) error {
	return s.until(ctx, s.name, s.o.Limits.Sync, "both copies of each disk are current", "UpToDate/UpToDate", on.drbd(allUpToDate))
}

// allUpToDate reads /proc/drbd: there is a device, and each one is connected and
// current on both sides.
func allUpToDate(out string) error {
	list := drbdDevice.FindAllStringSubmatch(out, -1)
	if len(list) == 0 {
		return errors.New("there is no device")
	}
	for _, m := range list {
		if err := upToDate(out, m[1]); err != nil {
			return err
		}
	}
	return nil
}

// drbdDevice is the line of a device that is configured.
var drbdDevice = regexp.MustCompile(`(?m)^ *(\d+): cs:(\w+) ro:\S+ ds:(\S+)`)

// same stops the instance and compares both copies of its disk, record by record
// and then byte by byte.
func (s *Site) same(ctx context.Context, tr *trial) error {
	if err := tr.compare(ctx); err != nil {
		return err
	}
	var sums []string
	for _, n := range []*node{tr.master, tr.other} {
		err := s.ask(ctx, n, installtest.Question{Name: "digest of the copy on this node", Want: "SHA-256 of the volume", Script: volumeScript(tr.name) + `sha256sum "/dev/$v"`,
			Judge: func(out string) string {
				sum, _, _ := strings.Cut(out, " ")
				if len(sum) != 64 {
					return "this is no digest"
				}
				sums = append(sums, sum)
				return ""
			}})
		if err != nil {
			return err
		}
	}
	var err error
	if sums[0] != sums[1] {
		err = errors.New("the other one's is " + sums[1])
	}
	return s.close(s.report.Begin("", s.name, "both copies are the same, byte by byte", sums[0]), err)
}

func backboneCut(ctx context.Context, s *Site) error {
	tr, err := s.guest(ctx, true)
	if err == nil {
		err = s.cutBackbone(ctx, tr)
	}
	return s.withLogs(ctx, tr, err)
}

func (s *Site) cutBackbone(ctx context.Context, tr *trial) error {
	if err := tr.resync(ctx); err != nil {
		return err
	}
	if err := s.pause(ctx, 0, time.Minute, "the backbone is cut"); err != nil {
		return err
	}
	before, sum, err := tr.mark(ctx, tr.master)
	if err != nil {
		return err
	}
	if err := s.ask(ctx, tr.master, installtest.Question{Name: "the copies of the disk differ yet", Want: "a device that is being synchronised", Script: "cat /proc/drbd", Judge: syncing}); err != nil {
		return err
	}
	s.cut("backbone", true)
	defer s.cut("backbone", false)
	tr.master.session.Phase("the backbone is cut")
	if err := s.noticed(ctx, tr.master); err != nil {
		return err
	}
	if err := s.pause(ctx, 30*time.Second, 2*time.Minute, "the backbone is mended"); err != nil {
		return err
	}
	if err := tr.answers(ctx, "it writes on while the backbone is cut", wroteOnWant(before), wroteOn(before)); err != nil {
		return err
	}
	s.cut("backbone", false)
	tr.master.session.Phase("the backbone is mended")
	if err := tr.pace(ctx, "60M"); err != nil {
		return err
	}
	if err := s.inSync(ctx, tr.master); err != nil {
		return err
	}
	if err := tr.kept(ctx, "cut", tr.master, before, sum); err != nil {
		return err
	}
	if err := s.same(ctx, tr); err != nil {
		return err
	}
	_, err = s.verified(ctx)
	return err
}

// noticed waits until DRBD has noticed that the other side is gone.
func (s *Site) noticed(ctx context.Context, on *node) error {
	return s.until(ctx, s.name, s.o.Limits.Guest, "DRBD notices it", "no device is connected", on.drbd(disconnected))
}

// syncing judges that a device is being synchronised.
func syncing(out string) string {
	for _, m := range drbdDevice.FindAllStringSubmatch(out, -1) {
		if m[2] == "SyncSource" {
			return ""
		}
	}
	return "no device is being synchronised"
}

// disconnected judges that each device has lost the other side.
func disconnected(out string) error {
	list := drbdDevice.FindAllStringSubmatch(out, -1)
	if len(list) == 0 {
		return errors.New("there is no device")
	}
	for _, m := range list {
		if m[2] == "Connected" || strings.HasPrefix(m[2], "Sync") || strings.HasPrefix(m[2], "Paused") {
			return fmt.Errorf("device %s is %s", m[1], m[2])
		}
	}
	return nil
}

func diskFull(ctx context.Context, s *Site) error {
	first, second := s.two()
	// Full before there is a master to join.
	if err := s.on(second, installtest.Power{}); err != nil {
		return err
	}
	if _, err := s.line(ctx, second, time.Time{}, second.host.Name+" comes to the step cluster", "^step os ok"); err != nil {
		return err
	}
	if err := s.shells(ctx, second); err != nil {
		return err
	}
	if err := s.ask(ctx, second, installtest.Question{Name: "the root file system is filled", Want: "nothing fits, of root's neither", Script: fillScript(s.filler()), Judge: full}); err != nil {
		return err
	}
	filled := time.Now()
	if err := s.on(first, installtest.Power{}); err != nil {
		return err
	}
	if _, err := s.line(ctx, second, filled, second.host.Name+" says that its disk is full, and waits", `(?i)^step \w+ retry .*(no space left|disk .*full|full .*disk)`); err != nil {
		return err
	}
	if err := s.pause(ctx, 0, time.Minute, "there is room again"); err != nil {
		return err
	}
	if err := s.ask(ctx, second, installtest.Question{Name: "there is room again", Want: "status 0", Script: "rm -f " + s.filler() + " && sync && df /", Judge: any0}); err != nil {
		return err
	}
	_, err := s.whole(ctx)
	return err
}

// filler is the file that takes all the room.
func (s *Site) filler() string { return s.o.guestDir + ".fill" }

// fillScript takes what is free for all at once, and what is kept for root by
// writing until nothing fits.
func fillScript(filler string) string {
	return fmt.Sprintf(`f=%s
fallocate -l "$(df --output=avail -B1 / | tail -n 1 | tr -d ' ')" "$f" || true
dd if=/dev/zero bs=1M oflag=append conv=notrunc of="$f" 2>/dev/null || true
dd if=/dev/zero bs=4k oflag=append conv=notrunc of="$f" 2>/dev/null || true
sync
echo "free: $(stat -f -c %%f /)"
if cp /bin/ls "$f.more" 2>/dev/null; then echo "fits: yes"; else echo "fits: no"; fi
rm -f "$f.more"`, filler)
}

// full judges fillScript. A file system may keep a few blocks to itself.
func full(out string) string {
	v := fields(out)
	free, err := strconv.Atoi(v["free"])
	switch {
	case err != nil:
		return "cannot read how much is free"
	case v["fits"] != "no":
		return fmt.Sprintf("there is room yet: %d blocks", free)
	}
	return ""
}

func thief(ctx context.Context, s *Site) error {
	first, second := s.two()
	if err := s.allOn(); err != nil {
		return err
	}
	if _, err := s.line(ctx, first, time.Time{}, second.host.Name+" has proved who it is", `^taking `+second.host.Name+` into the cluster`); err != nil {
		return err
	}
	// From here on the master knows the machine by its SSH host keys.
	second.session.PowerCut()
	double, err := s.double(second, "thief")
	if err != nil {
		return err
	}
	s.nodes = append(s.nodes, double)
	begun := time.Now()
	if err := s.on(double, installtest.Power{Credentials: newHostKeys()}); err != nil {
		return err
	}
	if _, err := s.line(ctx, first, begun, "the console of "+first.host.Name+" says that somebody was refused", `^REFUSED `+second.host.Name+`\b`); err != nil {
		return err
	}
	if _, err := s.line(ctx, double, time.Time{}, "the thief's console says so", `^REFUSED|refuses to let this machine join`); err != nil {
		return err
	}
	if err := s.shells(ctx, double, first); err != nil {
		return err
	}
	var key string
	if err := s.ask(ctx, first, installtest.Question{Name: "the master's key", Want: "a key that lets it into other nodes", Script: "cut -d ' ' -f 2 /root/.ssh/id_*.pub | head -n 1",
		Judge: func(out string) string {
			if key = strings.TrimSpace(out); len(key) < 60 {
				return "this is none"
			}
			return ""
		}}); err != nil {
		return err
	}
	if err := s.ask(ctx, double, installtest.Question{Name: "the thief has nothing of the cluster", Want: "no file of Ganeti's, no key of the master's", Script: lootScript(key), Judge: installtest.Empty}); err != nil {
		return err
	}
	double.session.PowerCut()
	s.nodes = slices.DeleteFunc(s.nodes, func(n *node) bool { return n == double })
	if err := s.on(second, installtest.Power{}); err != nil {
		return err
	}
	_, err = s.whole(ctx)
	return err
}

// newHostKeys has systemd make new SSH host keys before the agent starts: what
// remains of the node is its disk, with its credential.
func newHostKeys() map[string]string {
	return map[string]string{
		"systemd.extra-unit.sci-test-thief.service": `[Unit]
Description=New SSH host keys, for a test
DefaultDependencies=no
RequiresMountsFor=/etc/ssh
After=systemd-remount-fs.service systemd-random-seed.service
Before=sci-agent.service ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'rm -f /etc/ssh/ssh_host_*; ssh-keygen -A'
`,
		"systemd.unit-dropin.multi-user.target~sci-test-thief": "[Unit]\nWants=sci-test-thief.service\n",
	}
}

// lootScript names what only a node of the cluster has: Ganeti's files, and the
// key by which the master comes in.
func lootScript(key string) string {
	return fmt.Sprintf(`ls /var/lib/ganeti/*.pem /var/lib/ganeti/ssconf_* /var/lib/ganeti/config.data 2>/dev/null
grep -sF '%s' /root/.ssh/authorized_keys
true`, key)
}

func three(ctx context.Context, s *Site) error {
	if err := s.allOn(); err != nil {
		return err
	}
	master, err := s.whole(ctx)
	if err != nil {
		return err
	}
	return s.ask(ctx, master, installtest.Question{Name: "each node can become the master", Want: "one master, two candidates", Script: nodeList, Judge: candidates(len(s.members()))})
}

// candidates judges nodeList: one master, and all others are candidates.
func candidates(nodes int) func(string) string {
	return func(out string) string {
		count := make(map[string]int)
		for _, l := range nodeLines(out) {
			count[l.role]++
		}
		if count["M"] != 1 || count["C"] != nodes-1 {
			return fmt.Sprintf("there are %d masters and %d candidates", count["M"], count["C"])
		}
		return ""
	}
}
