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
	case !n.Site.InCluster(h):
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
	master, err := n.mustHaveMaster()
	if err == nil && master != n.fqdn() {
		err = hint.New(errors.New("this machine is not the master"), "the master is "+master)
	}
	return err
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
	if err := n.restartAgentOn(ctx, node.Name); err != nil {
		return false, err
	}
	say(out, "%s is in the cluster again; its disks are being brought up to date: sci-agent status", h.Name)
	return true, n.restartAgent(ctx)
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

// agentRestart is the command by which an agent goes through its plan again.
const agentRestart = "systemctl restart --no-block sci-agent.service"

// restartAgent has the service go through its plan again, unless it is at it.
func (n *Node) restartAgent(ctx context.Context) error {
	release, err := n.lock()
	if err != nil {
		n.note("the service is at work: %v", err)
		return nil
	}
	release()
	return n.command(ctx, strings.Fields(agentRestart)...)
}

// restartAgentOn has another node's agent go through its plan again.
func (n *Node) restartAgentOn(ctx context.Context, node string) error {
	_, err := n.ganeti().SSH(ctx, node, agentRestart)
	return err
}
