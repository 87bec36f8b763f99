package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/ganeti"
	"github.com/skycover/sci-cd/pkg/run"
)

// Report is what `sci-agent status` shows: the state of the plan, and how the
// cluster looks from this machine now. All of it is cheap to read, no gnt-*
// command among it, and what cannot be read is named in NotRead: a report of a
// machine in trouble is worth more than none. What belongs to a cluster is
// there only on a machine that is in one.
type Report struct {
	State
	Cluster     *ClusterView `json:"cluster,omitempty"`
	Enrolment   []Admission  `json:"enrolment,omitempty"` // on the master: who has not joined yet
	DRBD        *DRBD        `json:"drbd,omitempty"`
	VolumeGroup *VolumeGroup `json:"volumeGroup,omitempty"`
	Clock       *Clock       `json:"clock,omitempty"`
	NotRead     []NotRead    `json:"notRead,omitempty"`
}

// ClusterView is the cluster as this node knows it. A node that was away knows
// what was so before.
type ClusterView struct {
	Name      string     `json:"name"`
	Master    string     `json:"master"` // full name
	Role      string     `json:"role"`   // of this node, as in NodeView; "" if it is not among the nodes
	Serial    int        `json:"serial,omitempty"`
	Instances int        `json:"instances"`
	Nodes     []NodeView `json:"nodes"`
}

// The roles that a node has in a cluster; the first that fits.
const (
	RoleMaster    = "master"
	RoleOffline   = "offline"
	RoleDrained   = "drained" // known on the master and its candidates, to root
	RoleCandidate = "candidate"
	RoleRegular   = "regular"
)

// NodeView is one node of the cluster.
type NodeView struct {
	Name      string `json:"name"`
	Address   string `json:"address,omitempty"`
	Secondary string `json:"secondary,omitempty"` // for replication, where it is another one
	Role      string `json:"role"`
	// Up: its node daemon took a connection. Nil: it was not asked.
	Up      *bool  `json:"up,omitempty"`
	Problem string `json:"problem,omitempty"` // why it is not up
}

// Admission is a host that has not joined the cluster.
type Admission struct {
	Host  string `json:"host"`
	State string `json:"state"` // open, claimed
	// Left is how long the host may still join, in seconds of the master's
	// running; 0: its time is over.
	Left    int64 `json:"leftSeconds"`
	ByAdmin bool  `json:"byAdmin,omitempty"`
}

// VolumeGroup is the volume group of the instances' disks, in bytes.
type VolumeGroup struct {
	Name string `json:"name"`
	Size int64  `json:"sizeBytes"`
	Free int64  `json:"freeBytes"`
}

// Clock is what chrony says of this machine's clock.
type Clock struct {
	Synchronised bool    `json:"synchronised"`
	Source       string  `json:"source,omitempty"`
	Stratum      int     `json:"stratum,omitempty"`
	Offset       float64 `json:"offsetSeconds"` // above 0: this clock is fast
}

// NotRead is something that a report lacks.
type NotRead struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// ReportOptions say what may be done for a report.
type ReportOptions struct {
	Root string // "/" in life
	// Runner asks LVM and chrony; nil leaves them out.
	Runner run.Runner
	// Ask connects to the other nodes.
	Ask bool
	// Superuser: this process is root's. If not, what only root may read is not
	// tried and named in NotRead.
	Superuser bool
	// Dial and Uptime are as in Node, for tests.
	Dial   func(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	Uptime func() (boot string, up time.Duration, err error)
}

const (
	nodeLimit    = 2 * time.Second // for a node's answer
	commandLimit = 5 * time.Second // for a command's end
	needsRoot    = "only root may read it"
)

// ReadReport looks at everything at once and takes at most some seconds. The
// only error is that of the state file, as of ReadState.
func ReadReport(ctx context.Context, o ReportOptions) (*Report, error) {
	st, err := ReadState(filepath.Join(o.Root, StateFile))
	if err != nil {
		return nil, err
	}
	return report(ctx, o, st), nil
}

func report(ctx context.Context, o ReportOptions, st *State) *Report {
	l := &looker{ReportOptions: o, r: &Report{State: *st}, n: &Node{Root: o.Root, Runner: o.Runner, Dial: o.Dial}}
	l.look(ctx)
	return l.r
}

// looker fills in a report.
type looker struct {
	ReportOptions
	n      *Node
	r      *Report
	me     string         // full name of this machine
	config *ganeti.Config // nil on a node that has none

	mu sync.Mutex // for r.NotRead
}

func (l *looker) look(ctx context.Context) {
	var wait sync.WaitGroup
	if l.Runner != nil && l.n.exists("usr/bin/chronyc") {
		wait.Go(func() { l.r.Clock = part(ctx, l, "clock", l.n.clock) })
	}
	if l.r.Cluster = l.cluster(); l.r.Cluster != nil {
		nodes := l.r.Cluster.Nodes
		for i := range nodes {
			if l.Ask {
				wait.Go(func() { l.n.probe(ctx, &nodes[i]) })
			}
		}
		if l.r.Cluster.Role == RoleMaster {
			l.r.Enrolment = l.enrolment()
		}
		l.r.DRBD = part(ctx, l, "drbd", func(context.Context) (*DRBD, error) { return l.drbd() })
		if l.Runner != nil {
			wait.Go(func() { l.r.VolumeGroup = l.group(ctx) })
		}
	}
	wait.Wait()
	slices.SortFunc(l.r.NotRead, func(a, b NotRead) int { return strings.Compare(a.What, b.What) })
}

func (l *looker) notRead(what, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r.NotRead = append(l.r.NotRead, NotRead{what, firstLine(why)})
}

// part gets one part of the report. It gives up on a command that does not end,
// even if it cannot be killed, as one that waits for a dead disk.
func part[T any](ctx context.Context, l *looker, what string, f func(context.Context) (*T, error)) *T {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	type result struct {
		v   *T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f(ctx)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		if r.err == nil {
			return r.v
		}
		l.notRead(what, brief(r.err))
	case <-ctx.Done():
		l.notRead(what, fmt.Sprintf("no answer within %v", commandLimit))
	}
	return nil
}

// cluster is what this node knows of its cluster, nil if it is in none: from
// Ganeti's configuration, which the master and its candidates have, else from
// what every node was told.
func (l *looker) cluster() *ClusterView {
	if l.n.exists(formingFile) {
		return nil
	}
	told, err := l.n.ganeti().Told()
	if err != nil {
		l.notRead("cluster", err.Error())
	}
	if told.Name == "" {
		return nil
	}
	v := &ClusterView{Name: told.Name, Master: told.Master, Instances: len(told.Instances)}
	nodes := told.Nodes
	if l.me = l.r.Host; l.me == "" {
		l.me = l.n.oneLine("proc/sys/kernel/hostname")
	}
	if slices.Contains(told.Candidates, l.me) || told.Master == l.me {
		if c := l.configuration(); c != nil {
			v.Serial, v.Instances, nodes, l.config = c.Serial, len(c.Instances), c.Nodes, c
			if c.Master != "" {
				v.Master = c.Master
			}
		}
	}
	v.Nodes = []NodeView{}
	for _, node := range nodes {
		nv := NodeView{Name: node.Name, Address: node.Primary, Role: roleOf(node, v.Master)}
		if node.Secondary != node.Primary {
			nv.Secondary = node.Secondary
		}
		if node.Name == l.me {
			v.Role = nv.Role
		}
		v.Nodes = append(v.Nodes, nv)
	}
	return v
}

// configuration is Ganeti's, nil if it cannot be read.
func (l *looker) configuration() *ganeti.Config {
	if !l.Superuser {
		l.notRead("configuration", needsRoot)
		return nil
	}
	c, err := l.n.ganeti().Config()
	if err != nil {
		l.notRead("configuration", err.Error())
		return nil
	}
	return c
}

func roleOf(n ganeti.Node, master string) string {
	switch {
	case n.Name == master:
		return RoleMaster
	case n.Offline:
		return RoleOffline
	case n.Drained:
		return RoleDrained
	case n.Candidate:
		return RoleCandidate
	}
	return RoleRegular
}

// probe connects to the node's daemon. Offline nodes are asked, too: one that
// answers is news.
func (n *Node) probe(ctx context.Context, v *NodeView) {
	ctx, cancel := context.WithTimeout(ctx, nodeLimit)
	defer cancel()
	addr, err := netip.ParseAddr(v.Address)
	if err != nil {
		v.Problem = "its address is not known"
		return
	}
	up := false
	v.Up = &up
	c, err := n.dial(ctx, netip.AddrPortFrom(addr, ganeti.NodedPort))
	if err == nil {
		_ = c.Close()
		up = true
		return
	}
	var errno syscall.Errno
	switch {
	case ctx.Err() != nil:
		v.Problem = fmt.Sprintf("no answer within %v", nodeLimit)
	case errors.As(err, &errno):
		v.Problem = errno.Error()
	default:
		v.Problem = firstLine(err.Error())
	}
}

// enrolment are the hosts that have not joined.
func (l *looker) enrolment() []Admission {
	if !l.Superuser {
		l.notRead("enrolment", needsRoot)
		return nil
	}
	entries, err := enrol.Look(l.n.path(enrol.LedgerFile), l.Uptime)
	if err != nil {
		l.notRead("enrolment", err.Error())
		return nil
	}
	var list []Admission
	for _, e := range entries {
		in := slices.ContainsFunc(l.r.Cluster.Nodes, func(v NodeView) bool { return strings.HasPrefix(v.Name, e.Host+".") })
		// A ledger that an admin opened after a takeover does not know who joined
		// before.
		if over := e.Left <= 0; e.State != enrol.StateJoined && !(in && over) {
			list = append(list, Admission{e.Host, string(e.State), int64(e.Left / time.Second), e.ByAdmin})
		}
	}
	return list
}

// drbd has the instances' names where the configuration is known.
func (l *looker) drbd() (*DRBD, error) {
	d, err := l.n.drbd()
	if err != nil || d == nil || l.config == nil {
		return d, err
	}
	for _, i := range l.config.Instances {
		for _, minor := range i.Minors[l.me] {
			for k := range d.Minors {
				if m := &d.Minors[k]; m.Minor == minor && m.Configured() {
					m.Instance = i.Name
				}
			}
		}
	}
	return d, nil
}

func (l *looker) group(ctx context.Context) *VolumeGroup {
	if !l.Superuser {
		l.notRead("volumeGroup", needsRoot)
		return nil
	}
	return part(ctx, l, "volumeGroup", l.n.group)
}

// group asks LVM without taking its locks: a report waits for nobody.
func (n *Node) group(ctx context.Context) (*VolumeGroup, error) {
	out, err := run.Output(ctx, n.Runner, "vgs", "--readonly", "--noheadings", "--units", "b", "--nosuffix", "-o", "vg_size,vg_free", volumeGroup)
	if err != nil {
		return nil, err
	}
	g := &VolumeGroup{Name: volumeGroup}
	if f := strings.Fields(out); len(f) == 2 {
		size, err1 := strconv.ParseInt(f[0], 10, 64)
		free, err2 := strconv.ParseInt(f[1], 10, 64)
		if err1 == nil && err2 == nil {
			g.Size, g.Free = size, free
			return g, nil
		}
	}
	return nil, fmt.Errorf("vgs says %.80q", out)
}

// clock asks chrony. Its columns are those of chronyc(1), tracking, in order.
func (n *Node) clock(ctx context.Context) (*Clock, error) {
	out, err := run.Output(ctx, n.Runner, "chronyc", "-n", "-c", "tracking")
	if err != nil {
		return nil, err
	}
	return parseTracking(out)
}

func parseTracking(out string) (*Clock, error) {
	f := strings.Split(strings.TrimSpace(out), ",")
	if len(f) != 14 {
		return nil, fmt.Errorf("chronyc says %.80q", out)
	}
	stratum, err1 := strconv.Atoi(f[2])
	slow, err2 := strconv.ParseFloat(f[4], 64) // above 0: behind true time
	if err1 != nil || err2 != nil || slow != slow || slow > 1e18 || slow < -1e18 {
		return nil, fmt.Errorf("chronyc says %.80q", out)
	}
	c := &Clock{Synchronised: f[13] != "Not synchronised"}
	if c.Synchronised {
		c.Source, c.Stratum, c.Offset = printable(f[1]), stratum, 0-slow
	}
	return c, nil
}
