package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/ganeti"
	"github.com/skycover/sci-cd/pkg/hint"
)

// TakeOverOptions is what an admin says on a survivor.
type TakeOverOptions struct {
	// PoweredOff are the hosts that the admin has switched off, or has seen dead.
	PoweredOff []string
	Out        io.Writer
}

// TakeOver makes this machine the master in the place of one that is lost, and
// starts here what ran there. Two masters would ruin the cluster, and an
// instance that runs twice its disks; so it does nothing while the old master
// may be alive, and only an admin knows that it is not: nothing that this
// machine can see tells a dead machine from a dead switch.
func (n *Node) TakeOver(ctx context.Context, o TakeOverOptions) error {
	var err error
	if n.Site, n.Host, err = n.claimed(); err != nil {
		return err
	}
	lost, err := n.mustHaveMaster()
	if err != nil {
		return err
	}
	if lost == n.fqdn() {
		return n.goOnAlone(ctx, o)
	}
	if err := n.mayTakeOver(ctx, lost, o); err != nil {
		return err
	}
	cfg, err := n.current(ctx, lost)
	if err != nil {
		return err
	}
	say(o.Out, "becoming the master in the place of %s", lost)
	if err := n.becomeMaster(ctx, len(cfg.Nodes) <= 2); err != nil {
		return err
	}
	return n.takeInstances(ctx, o)
}

// mayTakeOver refuses while the old master may be alive.
func (n *Node) mayTakeOver(ctx context.Context, lost string, o TakeOverOptions) error {
	if err := n.isOff(ctx, lost, o); err != nil {
		return err
	}
	if connected, err := n.mirrorsTo(); err != nil {
		return err
	} else if connected {
		return hint.New(fmt.Errorf("%s is alive: a mirrored disk of this machine is connected to it", lost),
			"look at /proc/drbd; power it off if it hangs")
	}
	return nil
}

// isOff refuses unless a node answers nowhere and the admin says that it is off.
func (n *Node) isOff(ctx context.Context, node string, o TakeOverOptions) error {
	name := strings.TrimSuffix(node, "."+n.Site.Domain)
	h, ok := n.Site.Host(name)
	if !ok {
		return fmt.Errorf("the cluster has a node %s, which the site file does not name", node)
	}
	for network, a := range h.Addresses {
		if n.alive(ctx, a) {
			return hint.New(fmt.Errorf("%s is alive: it answers on %s, %s", name, network, a),
				"while it lives the master's place is given, not taken: gnt-cluster master-failover on this machine")
		}
	}
	if !o.off(node, name) {
		return hint.New(fmt.Errorf("%s does not answer, but that does not mean that it is off: a switch or a cable may be dead, and its instances running", name),
			"switch it off, by its button or its management controller, and then: sci-agent takeover --powered-off "+name)
	}
	return nil
}

// off reports whether the admin has named a node.
func (o TakeOverOptions) off(node, name string) bool {
	return slices.Contains(o.PoweredOff, name) || slices.Contains(o.PoweredOff, node)
}

// goOnAlone serves a master whose other nodes are gone: Ganeti asks them before
// it starts its daemons, and waits for ever.
func (n *Node) goOnAlone(ctx context.Context, o TakeOverOptions) error {
	g := n.ganeti()
	up, err := g.Up(ctx, true)
	if err != nil {
		return err
	}
	say(o.Out, "this machine is the master")
	if up {
		return n.takeInstances(ctx, o)
	}
	if n.takenOver(ctx) {
		return hint.New(errors.New("another node is the master now: the cluster's address is there"), "on it: sci-agent join "+n.Host.Name)
	}
	cfg, err := g.Config()
	if err != nil {
		return err
	}
	for _, node := range n.peers(cfg) {
		if err := n.isOff(ctx, node.Name, o); err != nil {
			return err
		}
	}
	if err := g.StartAlone(ctx); err != nil {
		return err
	}
	return n.takeInstances(ctx, o)
}

// alive reports whether a machine answers in any way.
func (n *Node) alive(ctx context.Context, a netip.Addr) bool {
	for _, port := range []uint16{ganeti.NodedPort, 22} {
		if n.answers(ctx, a, port) {
			return true
		}
	}
	return n.command(ctx, "ping", "-c", "2", "-W", "2", "-n", a.String()) == nil
}

// mirrorsTo reports whether the kernel is connected to the other side of any
// mirrored disk while there are only two nodes; of more, that tells nothing.
func (n *Node) mirrorsTo() (bool, error) {
	data, _, err := n.read(drbdProc)
	return len(n.Site.Nodes()) == 2 && strings.Contains(string(data), "cs:Connected"), err
}

// current is this machine's configuration, which must be the newest there is:
// what it does not know of would be lost.
func (n *Node) current(ctx context.Context, lost string) (*ganeti.Config, error) {
	g := n.ganeti()
	own, err := g.Config()
	if err != nil {
		return nil, hint.New(fmt.Errorf("this machine cannot become the master: it has no copy of the configuration: %w", err),
			"take over on a candidate: cat /"+ganeti.DataDir+"/ssconf_master_candidates")
	}
	for _, node := range n.peers(own) {
		if node.Name == lost || !node.Candidate {
			continue
		}
		c, err := g.ConfigOf(ctx, node.Name)
		if err != nil {
			n.note("takeover: %s does not tell its configuration: %v", node.Name, err)
			continue
		}
		if c.Serial > own.Serial {
			return nil, hint.New(fmt.Errorf("%s has a newer configuration than this machine: serial %d against %d", node.Name, c.Serial, own.Serial),
				"take over there")
		}
	}
	return own, nil
}

// becomeMaster tries more than once: the first try may fail half-way, with the
// daemons not up in time, and the next one finds the place taken, by itself.
func (n *Node) becomeMaster(ctx context.Context, alone bool) error {
	g := n.ganeti()
	var errs []error
	for range 3 {
		err := g.TakeOver(ctx, alone)
		if err != nil {
			errs = append(errs, err)
		}
		if master, _ := g.Master(); master == n.fqdn() {
			if up, err := g.Up(ctx, true); err != nil || !up {
				errs = append(errs, err, g.Start(ctx, true))
				n.sleep(ctx, askPause)
				continue
			}
			return nil
		}
		n.sleep(ctx, askPause)
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("cannot become the master: %w", errors.Join(errs...))
}

// takeInstances starts here what ran on nodes that are powered off, and keeps
// those out of the cluster until they are taken back.
func (n *Node) takeInstances(ctx context.Context, o TakeOverOptions) error {
	g := n.ganeti()
	cfg, err := g.Config()
	if err != nil {
		return err
	}
	var errs []error
	for _, node := range cfg.Nodes {
		name := strings.TrimSuffix(node.Name, "."+n.Site.Domain)
		if node.Name == n.fqdn() || !o.off(node.Name, name) {
			continue
		}
		if !node.Offline {
			if err := n.isOff(ctx, node.Name, o); err != nil {
				return err
			}
			say(o.Out, "%s is out of the cluster until: sci-agent join %s", node.Name, name)
			if err := g.Offline(ctx, node.Name); err != nil {
				return err
			}
		}
		running, _ := cfg.On(node.Name)
		for _, i := range running {
			if len(i.Secondaries) == 0 {
				say(o.Out, "instance %s has its disk on %s alone: it stays down", i.Name, node.Name)
				continue
			}
			say(o.Out, "instance %s comes to %s", i.Name, i.Secondaries[0])
			if err := g.Failover(ctx, i.Name); err != nil {
				errs = append(errs, fmt.Errorf("cannot fail %s over: %w", i.Name, err))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return hint.New(err, "the others are served; try again, this is harmless: sci-agent takeover --powered-off "+strings.Join(o.PoweredOff, " --powered-off "))
	}
	if err := g.Redistribute(ctx); err != nil {
		return err
	}
	say(o.Out, "%s is the master of %s", n.fqdn(), n.clusterName())
	return n.restartAgent(ctx)
}
