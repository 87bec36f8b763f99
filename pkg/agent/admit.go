package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/ganeti"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// AdmitOptions is what an admin says on the master: this host may join.
type AdmitOptions struct {
	Host string
	// Medium is the ISO that the host was installed from, if it is not the one
	// that this machine was installed from. Its site file may name more hosts;
	// the cluster takes it over.
	Medium string
	// Window is how long the host may join; 0 means as the site file says.
	Window time.Duration
	Out    io.Writer
}

// Admit lets a host join the cluster: a new one, one that was installed anew,
// or one that was taken for lost. A node that was lost and is as it was is taken
// back at once; a host that is to come has some time to, and the service takes
// it in.
func (n *Node) Admit(ctx context.Context, o AdmitOptions) error {
	var err error
	if n.Site, n.Host, err = n.claimed(); err != nil {
		return err
	}
	if err := n.mustBeMaster(); err != nil {
		return err
	}
	m, err := n.admitMedium(ctx, o)
	if err != nil {
		return err
	}
	h, ok := n.Site.Host(o.Host)
	switch {
	case !ok:
		return hint.New(fmt.Errorf("the site has no host %q", o.Host),
			"its nodes: "+nodeNames(n.Site)+"; a host that a newer site file names: --medium ISO")
	case !inCluster(n.Site, h):
		return fmt.Errorf("host %s is no node of the cluster: its role is %s", h.Name, h.Role)
	case h.Name == n.Host.Name:
		return fmt.Errorf("%s is this machine, the master", h.Name)
	}
	back, err := n.takeBack(ctx, h, o.Out)
	if err != nil || back {
		return err
	}
	return n.openFor(ctx, h, m, o)
}

func (n *Node) mustBeMaster() error {
	master, err := n.ganeti().Master()
	switch {
	case err != nil:
		return err
	case master == "":
		return hint.New(errors.New("this machine is in no cluster"), "see how far it is: sci-agent status")
	case master != n.fqdn():
		return hint.New(errors.New("this machine is not the master"), "the master is "+master)
	}
	return nil
}

func nodeNames(s *site.Site) string {
	var names []string
	for _, h := range s.Nodes() {
		names = append(names, h.Name)
	}
	return strings.Join(names, ", ")
}

// admitMedium reads the medium where it is needed: a newer one for its site
// file, the machine's own copy where the machine has no ledger yet.
func (n *Node) admitMedium(ctx context.Context, o AdmitOptions) (*medium, error) {
	if o.Medium == "" && n.exists(enrol.LedgerFile) {
		return nil, nil
	}
	m, err := n.readMedium(ctx, o.Medium)
	if err != nil {
		return nil, err
	}
	if m.credential == nil {
		return nil, hint.New(fmt.Errorf("the medium has no credential for %s", n.Host.Name), "it must be made from a site file that names this node")
	}
	if o.Medium == "" {
		return m, nil
	}
	if err := n.adopt(ctx, m); err != nil {
		return nil, err
	}
	say(o.Out, "the site file of %s is on all nodes now", o.Medium)
	return m, nil
}

func say(w io.Writer, format string, args ...any) {
	if w != nil {
		_, _ = fmt.Fprintf(w, format+"\n", args...)
	}
}

// adopt makes a newer site file the cluster's, on all nodes that answer. What is
// there already must be in it as it is.
func (n *Node) adopt(ctx context.Context, m *medium) error {
	if err := sameCluster(n.Site, m.site); err != nil {
		return hint.New(fmt.Errorf("the medium is of no use here: %w", err), "make it from this site's file, with the new hosts added")
	}
	cfg, err := n.ganeti().Config()
	if err != nil {
		return err
	}
	h, _ := m.site.Host(n.Host.Name)
	if err := writeFile(n.path(siteFile), m.siteJSON, 0o600); err != nil {
		return err
	}
	n.Site, n.Host = m.site, h
	for _, node := range cfg.Nodes {
		if node.Name == n.fqdn() || node.Offline {
			continue
		}
		// Its agent goes through its plan again: it writes /etc/hosts.
		err := n.ganeti().Send(ctx, node.Name, "/"+siteFile, m.siteJSON)
		if err == nil {
			_, err = n.ganeti().SSH(ctx, node.Name, "systemctl restart --no-block sci-agent.service")
		}
		if err != nil {
			return fmt.Errorf("cannot give %s the new site file: %w", node.Name, err)
		}
	}
	_, err = n.put([]file{{"etc/hosts", n.hosts(n.oldHosts()), 0o644}}, nil)
	return err
}

func (n *Node) oldHosts() []byte {
	data, _, _ := n.read("etc/hosts")
	return data
}

// sameCluster says in what a newer site file contradicts the one in use.
func sameCluster(old, newer *site.Site) error {
	if newer.Name != old.Name || newer.Domain != old.Domain {
		return fmt.Errorf("it is of the site %s (%s), and this is %s (%s)", newer.Name, newer.Domain, old.Name, old.Domain)
	}
	if newer.Cluster == nil || newer.Cluster.Name != old.Cluster.Name || newer.Cluster.Address != old.Cluster.Address {
		return errors.New("its cluster has another name or address")
	}
	for _, h := range old.Nodes() {
		now, ok := newer.Host(h.Name)
		if !ok || !inCluster(newer, now) {
			return fmt.Errorf("it lacks the node %s", h.Name)
		}
		for network, a := range h.Addresses {
			if now.Addresses[network] != a {
				return fmt.Errorf("it gives %s another address in %s", h.Name, network)
			}
		}
	}
	return nil
}

// takeBack takes a node back that the cluster knows and that has all that it
// had: it was off, or cut off, and no machine in its place.
func (n *Node) takeBack(ctx context.Context, h *site.Host, out io.Writer) (bool, error) {
	g := n.ganeti()
	cfg, err := g.Config()
	if err != nil {
		return false, err
	}
	node, in := cfg.Node(n.Site.FQDN(h.Name))
	if !in {
		return false, nil
	}
	// Only a node that is as it was lets the cluster's root in.
	if _, err := g.SSH(ctx, node.Name, "test -s /"+ganeti.DataDir+"/ssconf_cluster_name"); err != nil {
		n.note("%s does not let the cluster in: %v", node.Name, err)
		return false, nil
	}
	if !node.Offline {
		say(out, "%s is in the cluster, and answers", h.Name)
		return true, nil
	}
	say(out, "taking %s back", h.Name)
	if err := g.AddNode(ctx, ganeti.AddOptions{Name: node.Name, Readd: true}); err != nil {
		return false, fmt.Errorf("cannot take %s back: %w", h.Name, err)
	}
	if err := n.mirror(ctx, node.Name); err != nil {
		return false, err
	}
	if _, err := g.SSH(ctx, node.Name, "systemctl restart --no-block sci-agent.service"); err != nil {
		return false, err
	}
	say(out, "%s is in the cluster again; its disks are being brought up to date: sci-agent status", h.Name)
	return true, n.restartAgent(ctx)
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

// openFor lets a host join for some time, and has the service take it in.
func (n *Node) openFor(ctx context.Context, h *site.Host, m *medium, o AdmitOptions) error {
	window := o.Window
	if window == 0 {
		window = n.joinWindow()
	}
	options := n.ledgerOptions()
	var newer *enrol.Credential
	if m != nil {
		newer = m.credential
		if !n.exists(enrol.LedgerFile) {
			options.Credential, newer = m.credential, nil
		}
	}
	l, err := enrol.OpenLedger(n.path(enrol.LedgerFile), options)
	if err != nil {
		return err
	}
	if err := l.Open(h.Name, window, newer); err != nil {
		return err
	}
	say(o.Out, "%s may join within %v of running; switch it on. This machine's console says when it is in", h.Name, window)
	return n.restartAgent(ctx)
}

// restartAgent has the service go through its plan again, unless it is at it.
func (n *Node) restartAgent(ctx context.Context) error {
	release, err := n.lock()
	if err != nil {
		n.note("the service is at work: %v", err)
		return nil
	}
	release()
	return n.command(ctx, "systemctl", "restart", "--no-block", "sci-agent.service")
}

// ledgerOptions are those of this site's ledger, without a credential.
func (n *Node) ledgerOptions() enrol.LedgerOptions {
	o := enrol.LedgerOptions{Window: n.joinWindow(), Uptime: n.Uptime}
	for i := range n.Site.Hosts {
		h := &n.Site.Hosts[i]
		switch {
		case !inCluster(n.Site, h):
			o.Others = append(o.Others, h.Name)
		case h.Name != n.Host.Name:
			o.Hosts = append(o.Hosts, n.enrolHost(h))
		}
	}
	return o
}
