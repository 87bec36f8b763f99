package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/run"
	"github.com/skycover/sci-cd/pkg/site"
)

// Node is the machine that the agent works on.
type Node struct {
	// Root is where the machine's files are: "/" in life.
	Root string
	// Runner runs commands on the machine.
	Runner run.Runner
	// Journal gets a line for whoever reads the journal; nil drops them.
	Journal io.Writer
	// Addresses are the addresses of a network interface; nil asks the kernel.
	Addresses func(iface string) ([]netip.Prefix, error)
	// Dial connects to another machine over TCP; nil is the network's own.
	Dial func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	// Probe asks a network for the machine that has an address, see probeARP; nil
	// is that.
	Probe func(ctx context.Context, bridge string, a netip.Addr) (mac string, err error)
	// Ask sends a DNS query over UDP and returns the reply; nil is the network's own.
	Ask func(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error)
	// Uptime is the boot and how long it has lasted; nil asks the kernel.
	Uptime func() (boot string, up time.Duration, err error)
	// Version is the agent's.
	Version string
	// Say tells a person before the console something; nil drops it.
	Say func(text string)
	// Pause is the one between two questions to another machine; 0 is as long as
	// is right for the question.
	Pause time.Duration
	// Settle is how long the network may take to become what was written,
	// 0 means 1 min.
	Settle time.Duration

	// Site and Host are known once the step identity is done.
	Site *site.Site
	Host *site.Host

	firstLook time.Time  // for the host's network card, zero before
	enrolment *enrolment // on the master, while nodes may join
	unheard   string     // why nobody was heard last, to note it once
	asked     bool       // a master to take this machine in
	verified  bool       // gnt-cluster verify was without errors
}

// Steps is the plan of a machine, in the order of work. Each needs those before
// it: nothing is changed on a machine that is not the one the site file means.
func (n *Node) Steps() []Step {
	steps := []Step{
		{Name: "identity", Done: n.identityDone, Do: n.identityDo},
		{Name: "hostname", Done: n.hostnameDone, Do: n.hostnameDo},
		{Name: "networks", Done: n.networksDone, Do: n.networksDo},
		{Name: "time", Done: n.timeDone, Do: n.timeDo},
		{Name: "apt", Done: n.aptDone, Do: n.aptDo},
	}
	// Who it is said to be decides on the plan, who it is the first step.
	s, h, err := n.claimed()
	if err != nil {
		return steps
	}
	if n.metricsPlanned(s) {
		steps = append(steps, Step{Name: "metrics", Done: n.metricsDone, Do: n.metricsDo})
	}
	if s.InCluster(h) {
		steps = append(steps, n.clusterSteps()...)
	}
	return steps
}

// Options is what Run needs.
type Options struct {
	Root    string     // "/" in life
	Runner  run.Runner // run.Host{} in life
	Journal io.Writer  // standard error
	Version string     // of the agent, for the state file
	Systemd bool       // Journal is the journal: lines get its priorities
	// Until is the last step to do, for tests; "" and what is not in the plan
	// mean all.
	Until string
}

// Run is the agent's work from start to ready. Only one agent works at a time.
func Run(ctx context.Context, o Options) error {
	n := &Node{Root: o.Root, Runner: o.Runner, Journal: o.Journal, Version: o.Version}
	return n.run(ctx, o)
}

func (n *Node) run(ctx context.Context, o Options) error {
	release, err := n.lock()
	if err != nil {
		return err
	}
	defer release()
	defer n.stopEnrolment()
	c := &Console{Node: n, Systemd: o.Systemd}
	n.Say = c.Say
	p := Plan{
		Steps: until(n.Steps(), o.Until),
		File:  n.path(StateFile),
		Tell:  func(e Event) { c.Tell(ctx, e) },
		About: func(st *State) {
			st.Version, st.Boot = o.Version, n.bootID()
			if n.Host != nil {
				st.Host, st.Role = n.fqdn(), n.Host.Role
			}
		},
	}
	return p.Run(ctx)
}

// until cuts a plan behind a step.
func until(steps []Step, name string) []Step {
	i := slices.IndexFunc(steps, func(s Step) bool { return s.Name == name })
	if i < 0 {
		return steps
	}
	return steps[:i+1]
}

func (n *Node) fqdn() string { return n.Site.FQDN(n.Host.Name) }

// oneLine reads a file of one line, as /proc and /sys have them; "" if missing.
func (n *Node) oneLine(name string) string {
	data, _, _ := n.read(name)
	return strings.TrimSpace(string(data))
}

func (n *Node) bootID() string { return n.oneLine("proc/sys/kernel/random/boot_id") }

// note writes a line to the journal.
func (n *Node) note(format string, args ...any) {
	if n.Journal != nil {
		_, _ = fmt.Fprintf(n.Journal, format+"\n", args...)
	}
}

// sleep pauses; tests do not sleep long.
func (n *Node) sleep(ctx context.Context, d time.Duration) {
	if n.Pause > 0 {
		d = n.Pause
	}
	sleep(ctx, d)
}

// say writes a line to the console and the journal.
func (n *Node) say(format string, args ...any) {
	if n.Say != nil {
		n.Say(fmt.Sprintf(format, args...))
	}
}

// command runs argv for its effect.
func (n *Node) command(ctx context.Context, argv ...string) error {
	_, err := n.Runner.Run(ctx, run.Cmd{Argv: argv, Log: n.Journal})
	return err
}

// addresses of iface, from the kernel unless a test says otherwise.
func (n *Node) addresses(iface string) ([]netip.Prefix, error) {
	if n.Addresses != nil {
		return n.Addresses(iface)
	}
	ifc, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, err
	}
	addrs, err := ifc.Addrs()
	if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			list = append(list, p)
		}
	}
	return list, nil
}

// rendered is the first line of every file that the agent writes.
func rendered(step string) string {
	return "# Written by sci-agent (step " + step + ") from /etc/sci/site.json. Changes here are undone at the next boot.\n"
}

// glob lists names below the root that match pattern, sorted.
func (n *Node) glob(pattern string) []string {
	list, _ := filepath.Glob(n.path(pattern)) // the pattern is ours
	for i, name := range list {
		list[i], _ = filepath.Rel(n.Root, name)
	}
	return list
}
