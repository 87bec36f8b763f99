package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/skycover/sci-cd/pkg/ganeti"
	"github.com/skycover/sci-cd/pkg/site"
)

const (
	// serviceTimeout limits one try of the step service: a mirrored disk and a
	// Debian with a Puppet server take minutes, and in emulation the better part
	// of an hour.
	serviceTimeout = 4 * time.Hour
	// makingTag is on the service machine from its first moment until it is
	// ready. What has it was made by the agent, and may be removed by it.
	makingTag = "sci:making"
	// readyTag is on it from the moment that it first ran. What has it is never
	// removed.
	readyTag = "sci:ready"
	osName   = "sci"
)

func (n *Node) serviceStep() Step {
	return Step{Name: "service", Done: n.serviceDone, Do: n.serviceDo, Timeout: serviceTimeout}
}

// serviceDone reports whether the site's service machine runs, and every candidate
// for the master's place knows of it. Only the master looks. One that an admin has
// shut down is left alone.
func (n *Node) serviceDone(ctx context.Context) (bool, error) {
	h := n.Site.Service()
	if master, err := n.master(); h == nil || !master || err != nil {
		return err == nil, err
	}
	i, err := n.ganeti().Instance(ctx, n.Site.FQDN(h.Name))
	if err != nil || i == nil || !i.Tagged(readyTag) || i.Tagged(makingTag) {
		return false, err
	}
	if i.Up && i.Condition != ganeti.Running {
		return false, nil
	}
	if !i.Up {
		n.note("step service: %s is shut down (%s); to start it: gnt-instance startup %s", i.Name, i.Condition, i.Name)
	}
	behind, err := n.behind(ctx)
	return err == nil && len(behind) == 0, err
}

// serviceDo makes the service machine, or brings what was begun to its end.
func (n *Node) serviceDo(ctx context.Context) error {
	h := n.Site.Service()
	name := n.Site.FQDN(h.Name)
	g := n.ganeti()
	i, err := n.unfinished(ctx, name)
	if err != nil {
		return err
	}
	if i == nil {
		if err := n.makeService(ctx, h); err != nil {
			return err
		}
		if i, err = g.Instance(ctx, name); err != nil {
			return err
		}
		if i == nil {
			return fmt.Errorf("gnt-instance add reported success, and there is no instance %s", name)
		}
	}
	if i.Up && i.Condition != ganeti.Running {
		if err := g.StartInstance(ctx, name); err != nil {
			return &Waiting{For: name + " to run (it is " + i.Condition + ")", Err: err}
		}
	}
	if err := n.markReady(ctx, i); err != nil {
		return err
	}
	return n.configurationDo(ctx)
}

// unfinished is the service machine as it is, nil if it is to be made: what a
// creation left that was cut off is removed. One that is not the agent's, or that
// ran already, is never removed.
func (n *Node) unfinished(ctx context.Context, name string) (*ganeti.Status, error) {
	g := n.ganeti()
	job, err := g.Creation(ctx, name)
	if err != nil {
		return nil, err
	}
	if job != nil && job.Open() {
		n.say("%s is being made, Ganeti's job %s", name, job.ID)
		if err := g.AwaitJob(ctx, job.ID); err != nil {
			return nil, err
		}
		if job, err = g.Creation(ctx, name); err != nil {
			return nil, err
		}
	}
	i, err := g.Instance(ctx, name)
	if err != nil {
		return nil, err
	}
	if i == nil {
		return nil, n.clearVolumes(ctx, name)
	}
	// Ganeti has an instance run only after its system was installed.
	whole := i.Up || i.Condition == ganeti.Running || job != nil && job.Status == "success"
	if !i.Tagged(makingTag) || i.Tagged(readyTag) || whole {
		return i, nil
	}
	n.say("%s was not finished (%s), and is made again", name, i.Condition)
	if err := g.RemoveInstance(ctx, name); err != nil {
		return nil, err
	}
	return nil, n.clearVolumes(ctx, name)
}

// clearVolumes removes volumes of an instance that the cluster does not have.
func (n *Node) clearVolumes(ctx context.Context, name string) error {
	g := n.ganeti()
	c, err := g.Config()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(c.Instances, func(i ganeti.Instance) bool { return i.Name == name }) {
		return fmt.Errorf("cannot clear what is left of %s: Ganeti's configuration has it still", name)
	}
	nodes := []string{""}
	for _, p := range n.peers(c) {
		nodes = append(nodes, p.Name)
	}
	for _, node := range nodes {
		volumes, err := g.Leftovers(ctx, node, volumeGroup, name)
		if err != nil {
			return err
		}
		if len(volumes) == 0 {
			continue
		}
		n.note("step service: volumes of a %s that was not finished are removed: %v", name, volumes)
		if err := g.RemoveLeftovers(ctx, node, volumeGroup, volumes); err != nil {
			return fmt.Errorf("cannot clear what is left of %s: %w", name, err)
		}
	}
	return nil
}

// makeService makes the service machine and starts it.
func (n *Node) makeService(ctx context.Context, h *site.Host) error {
	nodes, err := n.serviceNodes()
	if err != nil {
		return err
	}
	vm := h.VM()
	o := ganeti.NewInstance{
		Name: n.Site.FQDN(h.Name), OS: osName + "+" + h.Class(), Nodes: nodes,
		Memory: int64(vm.Memory) >> 20, Disk: int64(vm.Disk) >> 20, CPUs: vm.CPUs,
		NICs: n.serviceNICs(h), Tags: []string{makingTag},
	}
	n.say("making the service machine %s: %d MiB of memory, %d MiB of disk on %s", o.Name, o.Memory, o.Disk, count(len(nodes), "node"))
	if err := n.ganeti().AddInstance(ctx, o); err != nil {
		return fmt.Errorf("cannot make the service machine (its log is in /var/log/ganeti/os): %w", err)
	}
	return nil
}

// serviceNodes are the nodes of the service machine: this one, and where the
// cluster has another, the first of them that is there.
func (n *Node) serviceNodes() ([]string, error) {
	c, err := n.ganeti().Config()
	if err != nil {
		return nil, err
	}
	nodes := []string{n.fqdn()}
	if len(c.Nodes) == 1 {
		return nodes, nil
	}
	there := slices.DeleteFunc(n.peers(c), func(p ganeti.Node) bool { return p.Drained })
	if len(there) == 0 {
		return nil, &Waiting{For: "another node to be online: the service machine's disk is on two", Err: errors.New("see: gnt-node list")}
	}
	for _, h := range n.Site.Nodes() { // in the order of the site file
		for _, p := range there {
			if p.Name == n.Site.FQDN(h.Name) {
				return append(nodes, p.Name), nil
			}
		}
	}
	return append(nodes, there[0].Name), nil
}

// serviceNICs are the network cards: lan, then the other networks by name, which
// is the order that the machine itself takes them in, see wantVirtual.
func (n *Node) serviceNICs(h *site.Host) []ganeti.NIC {
	var list []ganeti.NIC
	for _, network := range networksOf(n.Site, h) {
		nic := ganeti.NIC{Link: network, IP: h.Addresses[network].String()}
		if !n.exists("sys/class/net/" + network + "/bridge") { // a node with one card has one bridge
			nic.Link = lan
		}
		list = append(list, nic)
	}
	return list
}

// markReady says in Ganeti that the machine was finished.
func (n *Node) markReady(ctx context.Context, i *ganeti.Status) error {
	g := n.ganeti()
	if !i.Tagged(readyTag) {
		if err := g.TagInstance(ctx, i.Name, readyTag); err != nil {
			return err
		}
		n.say("the service machine %s is made and runs", i.Name)
	}
	if i.Tagged(makingTag) {
		return g.UntagInstance(ctx, i.Name, makingTag)
	}
	return nil
}
