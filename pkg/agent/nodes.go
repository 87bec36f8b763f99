package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/ganeti"
	"github.com/skycover/sci-cd/pkg/site"
)

// enrolment is the master's side of joining: a server that runs from the first
// try of the step nodes until nobody may join any more.
type enrolment struct {
	ledger  *enrol.Ledger
	claimed chan struct{} // gets a token when a machine was accepted
	cancel  context.CancelFunc
	served  chan error // gets the server's end
	told    bool       // for whom it waits was said once
}

// nodesDone reports whether all nodes of the site are in the cluster, but for
// those whose time to join is over. Only the master looks.
func (n *Node) nodesDone(context.Context) (bool, error) {
	if master, err := n.master(); !master || err != nil {
		return err == nil, err
	}
	l, err := n.ledger()
	if err != nil {
		return false, err
	}
	missing, err := n.missingNodes(l)
	if err != nil {
		return false, err
	}
	if l == nil { // another node formed the cluster; an admin says who joins now
		for _, h := range missing {
			n.note("step nodes: %s is not in the cluster; to let it join: sci-agent join %s", h.Name, h.Name)
		}
		return true, nil
	}
	claims, err := l.Claims()
	if err != nil || len(claims) > 0 {
		return false, err
	}
	pending, err := l.Pending()
	if err != nil {
		return false, err
	}
	for _, h := range missing {
		if slices.Contains(pending, h.Name) {
			return false, nil
		}
		n.say("node %s has not joined within %v of running; when it is there: sci-agent join %s", h.Name, n.joinWindow(), h.Name)
	}
	n.stopEnrolment()
	return true, enrol.Retire(n.Root)
}

// nodesDo serves those that join and takes in each that has proved who it is.
func (n *Node) nodesDo(ctx context.Context) error {
	if err := n.serve(); err != nil {
		return err
	}
	e := n.enrolment
	patience := askFor
	if !e.told {
		patience, e.told = askPause, true // then say for whom it waits
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	for {
		claims, err := e.ledger.Claims()
		if err != nil {
			return err
		}
		for _, c := range claims {
			if err := n.takeIn(ctx, c); err != nil {
				return fmt.Errorf("cannot take %s into the cluster: %w", c.Host, err)
			}
		}
		missing, err := n.missingNodes(e.ledger)
		if err != nil || len(missing) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-e.served:
			n.enrolment = nil
			return err // nil: nobody may join any more
		case <-e.claimed:
		case <-wait.C:
			return n.awaited(missing)
		}
	}
}

// awaited says for whom the cluster waits.
func (n *Node) awaited(missing []*site.Host) error {
	var names []string
	for _, h := range missing {
		names = append(names, fmt.Sprintf("%s (%s)", h.Name, h.Addresses[n.between(h)]))
	}
	return &Waiting{For: strings.Join(names, " and ") + " to join"}
}

// missingNodes are the site's nodes that are not in the cluster, and those that
// an admin lets join once more.
func (n *Node) missingNodes(l *enrol.Ledger) ([]*site.Host, error) {
	c, err := n.ganeti().Config()
	if err != nil {
		return nil, err
	}
	again := make(map[string]bool)
	if l != nil {
		entries, err := l.Entries()
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			again[e.Host] = e.ByAdmin && e.State != enrol.StateJoined && e.Left > 0
		}
	}
	var list []*site.Host
	for _, h := range n.others() {
		if _, in := c.Node(n.Site.FQDN(h.Name)); !in || again[h.Name] {
			list = append(list, h)
		}
	}
	return list, nil
}

func (n *Node) joinWindow() time.Duration {
	if d := time.Duration(n.Site.Cluster.JoinWithin); d != 0 {
		return d
	}
	return enrol.Window
}

// ledger is the master's memory of who may join; nil on a machine that did not
// form the cluster.
func (n *Node) ledger() (*enrol.Ledger, error) {
	if n.enrolment != nil {
		return n.enrolment.ledger, nil
	}
	o := n.ledgerOptions()
	credential, err := enrol.ReadCredential(n.path(enrol.File))
	switch {
	case err == nil:
		o.Credential = &credential
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case !n.exists(enrol.LedgerFile):
		return nil, nil
	}
	return enrol.OpenLedger(n.path(enrol.LedgerFile), o)
}

// ledgerOptions are those of this site's ledger, without a credential.
func (n *Node) ledgerOptions() enrol.LedgerOptions {
	o := enrol.LedgerOptions{Window: n.joinWindow(), Uptime: n.Uptime}
	for i := range n.Site.Hosts {
		h := &n.Site.Hosts[i]
		switch {
		case !n.Site.InCluster(h):
			o.Others = append(o.Others, h.Name)
		case h.Name != n.Host.Name:
			o.Hosts = append(o.Hosts, n.enrolHost(h))
		}
	}
	return o
}

// enrolHost is a node as enrolment knows it: by the address that it calls from.
func (n *Node) enrolHost(h *site.Host) enrol.Host {
	return enrol.Host{Name: h.Name, FQDN: n.Site.FQDN(h.Name), Addresses: []netip.Addr{h.Addresses[n.between(h)]}}
}

// serve starts to listen for nodes, once.
func (n *Node) serve() error {
	if n.enrolment != nil {
		return nil
	}
	l, err := n.ledger()
	if err != nil {
		return err
	}
	if l == nil {
		return Stop(errors.New("cannot let other nodes join: this machine has no credential"), "say who joins: sci-agent join NODE")
	}
	listeners, err := n.listen()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &enrolment{ledger: l, claimed: make(chan struct{}, 1), cancel: cancel, served: make(chan error, len(listeners))}
	s := &enrol.Server{
		Ledger:  l,
		Answer:  n.answer,
		Claimed: func(enrol.Claim) { poke(e.claimed) },
		Trouble: func(err error) { n.note("step nodes: %v", err) },
		Refused: func(host string, addr netip.Addr, why *enrol.RefusedError) {
			if host == "" {
				host = "somebody"
			}
			n.say("REFUSED %s at %s, who wanted to join the cluster: %s", host, addr, why.Message)
		},
	}
	for _, l := range listeners {
		go func() { e.served <- s.Serve(ctx, l) }()
	}
	n.enrolment = e
	return nil
}

func (n *Node) stopEnrolment() {
	if n.enrolment != nil {
		n.enrolment.cancel()
		n.enrolment = nil
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// listen opens a listener on each of this machine's addresses over which other
// nodes come.
func (n *Node) listen() ([]net.Listener, error) {
	var addrs []netip.Addr
	for _, h := range n.others() {
		if a := n.Host.Addresses[n.between(h)]; !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("the site file names no other nodes")
	}
	var list []net.Listener
	for _, a := range addrs {
		l, err := net.Listen("tcp", netip.AddrPortFrom(a, enrol.Port).String())
		if err != nil {
			for _, l := range list {
				_ = l.Close()
			}
			return nil, err
		}
		list = append(list, l)
	}
	return list, nil
}

// answer is what an accepted machine is told.
func (n *Node) answer(context.Context, enrol.Claim) (enrol.Reply, error) {
	root, err := n.rootKeys()
	if err != nil {
		return enrol.Reply{}, err
	}
	return enrol.Reply{Cluster: n.clusterName(), Master: n.fqdn(), RootKeys: root}, nil
}

// rootKeys are the public keys by which root of this machine comes to others;
// gnt-cluster init made them.
func (n *Node) rootKeys() ([]string, error) {
	var keys []string
	for _, name := range n.glob("root/.ssh/id_*.pub") {
		data, _, err := n.read(name)
		if err != nil {
			return nil, err
		}
		if f := strings.Fields(string(data)); len(f) > 1 {
			keys = append(keys, strings.Join(f[:2], " "))
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("root has no SSH key yet")
	}
	return keys, nil
}

// takeIn adds a machine that has proved who it is to the cluster. One that asks
// although the cluster knows it is taken back: its addition was cut off, or it
// was installed anew.
func (n *Node) takeIn(ctx context.Context, c enrol.Claim) error {
	h, ok := n.Site.Host(c.Host)
	if !ok {
		return fmt.Errorf("the site file has no host %s", c.Host)
	}
	g := n.ganeti()
	cfg, err := g.Config()
	if err != nil {
		return err
	}
	o := ganeti.AddOptions{Name: n.Site.FQDN(h.Name), HostKeys: c.Request.HostKeys}
	if a := h.Addresses[backbone]; a.IsValid() && n.Host.Addresses[backbone].IsValid() {
		o.Secondary = a.String()
	}
	_, o.Readd = cfg.Node(o.Name)
	n.say("taking %s into the cluster", h.Name)
	if err := g.AddNode(ctx, o); err != nil {
		return err
	}
	n.say("%s is in the cluster", h.Name)
	if err := n.enrolment.ledger.Joined(h.Name); err != nil {
		return err
	}
	if o.Readd {
		return n.mirror(ctx, o.Name)
	}
	return nil
}

// mirror connects the disks that have their other side on a node again, and
// makes those anew that are not there any more.
func (n *Node) mirror(ctx context.Context, node string) error {
	g := n.ganeti()
	cfg, err := g.Config()
	if err != nil {
		return err
	}
	_, there := cfg.On(node)
	var errs []error
	for _, i := range there {
		if err := g.ActivateDisks(ctx, i.Name); err == nil {
			continue
		}
		if err := g.ReplaceSecondary(ctx, i.Name); err != nil {
			errs = append(errs, fmt.Errorf("cannot mirror the disks of %s on %s: %w", i.Name, node, err))
		}
	}
	return errors.Join(errs...)
}
