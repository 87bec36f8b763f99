package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/ganeti"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

const (
	volumeGroup = "xenvg" // as preseed/disk.yaml names it
	lan         = "lan"
	backbone    = "backbone"
	// formingFile is there while gnt-cluster init runs: what it left is worth
	// nothing if it was cut off.
	formingFile = "var/lib/sci/cluster.forming"
)

// clusterSteps are those of a node of the cluster. The first node of the site
// forms the cluster, the others join it; from then on Ganeti knows who the
// master is, and the master alone works on what belongs to all.
func (n *Node) clusterSteps() []Step {
	return []Step{
		{Name: "address", Done: n.addressDone, Do: n.addressDo},
		{Name: "storage", Done: n.storageDone, Do: n.storageDo},
		{Name: "drbd", Done: n.drbdDone, Do: n.drbdDo},
		{Name: "os", Done: n.osDone, Do: n.osDo},
		{Name: "cluster", Done: n.clusterDone, Do: n.clusterDo, Timeout: 30 * time.Minute},
		{Name: "nodes", Done: n.nodesDone, Do: n.nodesDo, Timeout: time.Hour},
		{Name: "parameters", Done: n.parametersDone, Do: n.parametersDo},
		{Name: "configuration", Done: n.configurationDone, Do: n.configurationDo},
		{Name: "verify", Done: n.verifyDone, Do: n.verifyDo, Timeout: 30 * time.Minute},
	}
}

func (n *Node) ganeti() *ganeti.Cluster {
	return &ganeti.Cluster{Root: n.Root, Runner: n.Runner, Log: n.Journal}
}

func (n *Node) clusterName() string { return n.Site.FQDN(n.Site.Cluster.Name) }

// mustHaveMaster is the full name of the master; a machine that is in no
// cluster is an error.
func (n *Node) mustHaveMaster() (string, error) {
	name, err := n.ganeti().Master()
	if err == nil && name == "" {
		err = hint.New(errors.New("this machine is in no cluster"), "see how far it is: sci-agent status")
	}
	return name, err
}

// master reports whether this machine is the master of the cluster.
func (n *Node) master() (bool, error) {
	name, err := n.ganeti().Master()
	return name == n.fqdn(), err
}

// first reports whether this machine is the one that forms the cluster.
func (n *Node) first() bool {
	nodes := n.Site.Nodes()
	return len(nodes) > 0 && nodes[0].Name == n.Host.Name
}

// others are the site's other nodes.
func (n *Node) others() []*site.Host {
	var list []*site.Host
	for _, h := range n.Site.Nodes() {
		if h.Name != n.Host.Name {
			list = append(list, h)
		}
	}
	return list
}

// peers are the cluster's other nodes that are not marked offline.
func (n *Node) peers(c *ganeti.Config) []ganeti.Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(p ganeti.Node) bool { return p.Name == n.fqdn() || p.Offline })
}

// between is the network over which this machine speaks to another node before
// they are one cluster: the backbone, where both are on it, since that is a
// cable or a switch of its own, else lan.
func (n *Node) between(h *site.Host) string {
	if n.Host.Addresses[backbone].IsValid() && h.Addresses[backbone].IsValid() {
		return backbone
	}
	return lan
}

// clusterDone reports whether this machine is in the site's cluster and
// Ganeti's daemons run on it.
func (n *Node) clusterDone(ctx context.Context) (bool, error) {
	g := n.ganeti()
	name, err := g.Name()
	if err != nil || name == "" || n.exists(formingFile) {
		return false, err
	}
	if name != n.clusterName() {
		return false, Stop(fmt.Errorf("this machine is a node of another cluster, %s", name),
			"correct cluster.name in the site file; or, if that cluster is gone, install this machine anew")
	}
	master, err := n.master()
	if err != nil || !master && n.exists(enrol.File) { // its addition may have been cut off
		return false, err
	}
	if up, err := g.Up(ctx, master); err != nil || !up {
		return false, err
	}
	if u, err := n.unit(ctx, ganeti.Unit); err != nil || u.failed {
		return false, err
	}
	if !master {
		return true, nil
	}
	return n.holds(n.Site.Cluster.Address)
}

// forgive forgets that the boot's start of Ganeti's daemons failed, once they run:
// a master that was lost and comes back asks in vain for the votes of a cluster
// that has gone on, until systemd gives its start up.
func (n *Node) forgive(ctx context.Context) error {
	u, err := n.unit(ctx, ganeti.Unit)
	if err != nil || !u.failed {
		return err
	}
	n.note("step cluster: the start of %s at boot failed; the daemons run now", ganeti.Unit)
	return n.command(ctx, "systemctl", "reset-failed", ganeti.Unit)
}

func (n *Node) clusterDo(ctx context.Context) error {
	g := n.ganeti()
	name, err := g.Name()
	if err != nil {
		return err
	}
	if name != "" && !n.exists(formingFile) {
		master, err := n.master()
		if err != nil {
			return err
		}
		if up, err := g.Up(ctx, master); err != nil || !up {
			return errors.Join(err, n.start(ctx, master))
		}
		if err := n.forgive(ctx); err != nil {
			return err
		}
		if master {
			return n.takeAddress(ctx)
		}
		return n.join(ctx)
	}
	if !n.first() {
		return n.join(ctx)
	}
	if n.oneLine("sys/class/net/"+lan+"/carrier") != "1" {
		return &Waiting{For: "a link on the network " + lan}
	}
	// A first node that was installed anew finds its cluster alive.
	who, err := n.otherCluster(ctx)
	if err != nil {
		return err
	}
	if who != "" {
		n.note("step cluster: %s is in a cluster already, so this machine joins", who)
		return n.join(ctx)
	}
	return n.form(ctx)
}

// start starts Ganeti's daemons. Those of a master ask the other nodes first,
// and stay down where too few of them answer, or another one has taken over.
func (n *Node) start(ctx context.Context, master bool) error {
	if master && n.takenOver(ctx) {
		return Stop(fmt.Errorf("this machine was the master of %s, and another node has taken its place: it stays out", n.clusterName()),
			"to take it back, on the master, ssh root@"+n.clusterName()+": sci-agent join "+n.Host.Name)
	}
	g := n.ganeti()
	if err := g.Start(ctx, master); err != nil || !master {
		return err
	}
	if up, err := g.Up(ctx, true); err != nil || up {
		return err
	}
	return hint.New(&Waiting{For: "enough other nodes to be up: Ganeti starts no master without them"},
		"if they are gone for good: sci-agent takeover --powered-off NODE")
}

// takenOver reports whether the cluster's address is another machine's now.
func (n *Node) takenOver(ctx context.Context) bool {
	if own, err := n.holds(n.Site.Cluster.Address); err != nil || own {
		return false
	}
	return n.answers(ctx, n.Site.Cluster.Address, ganeti.NodedPort)
}

// holds reports whether this machine has an address in lan.
func (n *Node) holds(a netip.Addr) (bool, error) {
	own, err := n.addresses(lan)
	return slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == a }), err
}

// takeAddress sees to it that the master has the cluster's address. Ganeti gives
// it once, when its daemons start, and forgets it if the node daemon was too busy
// to answer.
func (n *Node) takeAddress(ctx context.Context) error {
	for range 20 {
		if own, err := n.holds(n.Site.Cluster.Address); own || err != nil {
			return err
		}
		n.sleep(ctx, 2*time.Second)
	}
	if n.takenOver(ctx) {
		return Stop(fmt.Errorf("another machine has the address of %s, %s", n.clusterName(), n.Site.Cluster.Address),
			"see whether it is the master now: ssh root@"+n.clusterName()+" gnt-cluster getmaster")
	}
	n.note("step cluster: %s has not got the address %s, and is given it", n.Host.Name, n.Site.Cluster.Address)
	return n.ganeti().ActivateAddress(ctx)
}

// dropAddress takes the cluster's address off this machine, where a master that is
// no more has left it: gnt-cluster init wants nobody to answer there.
func (n *Node) dropAddress(ctx context.Context) error {
	own, err := n.addresses(lan)
	if err != nil {
		return err
	}
	for _, p := range own {
		if p.Addr() == n.Site.Cluster.Address {
			if err := n.command(ctx, "ip", "address", "delete", p.String(), "dev", lan); err != nil {
				return err
			}
		}
	}
	return nil
}

// otherCluster is who already answers as a node of a cluster, "" for nobody.
func (n *Node) otherCluster(ctx context.Context) (string, error) {
	for _, h := range n.others() {
		if n.answers(ctx, h.Addresses[lan], ganeti.NodedPort) {
			return h.Name, nil
		}
	}
	if n.answers(ctx, n.Site.Cluster.Address, ganeti.NodedPort) && !n.exists(formingFile) {
		return n.clusterName(), nil
	}
	return "", nil
}

// answers reports whether somebody listens there.
func (n *Node) answers(ctx context.Context, a netip.Addr, port uint16) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := n.dial(ctx, netip.AddrPortFrom(a, port))
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func (n *Node) dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	if n.Dial != nil {
		return n.Dial(ctx, a)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", a.String())
}

// form makes this machine the master of a new cluster.
func (n *Node) form(ctx context.Context) error {
	g := n.ganeti()
	if n.exists(formingFile) {
		n.note("step cluster: an initialisation was cut off; it starts again from nothing")
		if err := g.Reset(ctx); err != nil {
			return err
		}
		if err := n.dropAddress(ctx); err != nil {
			return err
		}
	}
	cpu, err := n.cpuModel(nil)
	if err != nil {
		return err
	}
	parameters, err := n.wantParameters(ctx, nil, cpu)
	if err != nil {
		return err
	}
	o := ganeti.InitOptions{
		Name: n.clusterName(), Netmask: n.Site.Networks[lan].Subnet.Bits(), Interface: lan,
		Group: volumeGroup, Parameters: parameters,
	}
	if a := n.Host.Addresses[backbone]; a.IsValid() {
		o.Secondary = a.String()
	}
	if err := writeFile(n.path(formingFile), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return err
	}
	if err := g.Init(ctx, o); err != nil {
		return err
	}
	if err := os.Remove(n.path(formingFile)); err != nil {
		return err
	}
	return n.takeAddress(ctx)
}
