package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
)

const authorizedKeys = "root/.ssh/authorized_keys"

// join has the master take this machine into the cluster. Who the master is it
// need not know: it asks every other node; the one that answers proves by its
// certificate that it is a node of this site, and lets nobody in unless it is
// the master.
func (n *Node) join(ctx context.Context) error {
	if in, err := n.isIn(); err != nil || in {
		return err
	}
	credential, err := enrol.ReadCredential(n.path(enrol.File))
	if errors.Is(err, fs.ErrNotExist) {
		return Stop(errors.New("cannot join the cluster: this machine has no credential"),
			"install it anew from a medium that was made with this site file")
	}
	if err != nil {
		return err
	}
	// By these the master knows this machine again, after a power cut too.
	keys, err := n.ganeti().OwnKeys()
	if err != nil {
		return err
	}
	flags, err := n.cpuFlags()
	if err != nil {
		return err
	}
	request := enrol.Request{Host: n.Host.Name, HostKeys: keys, CPUFlags: flags, Agent: n.Version}
	limit := time.Now()
	if n.asked {
		limit = limit.Add(askFor)
	}
	n.asked = true // the console has said by now for whom it waits
	for {
		reply, err := n.ask(ctx, credential, request)
		if waits := new(Waiting); err == nil {
			return n.joined(ctx, reply)
		} else if !errors.As(err, &waits) || time.Now().After(limit) || ctx.Err() != nil {
			return err
		}
		n.sleep(ctx, askPause)
	}
}

const (
	askFor   = 5 * time.Minute
	askPause = 3 * time.Second
)

// ask asks every other node once to be taken in.
func (n *Node) ask(ctx context.Context, c enrol.Credential, r enrol.Request) (enrol.Reply, error) {
	var asked []string
	for _, h := range n.others() {
		at := netip.AddrPortFrom(h.Addresses[n.between(h)], enrol.Port)
		reply, err := enrol.Join(ctx, c, n.Site.FQDN(h.Name), at, r)
		if err == nil {
			return reply, nil
		}
		if refused := new(enrol.RefusedError); errors.As(err, &refused) {
			advice := hint.Of(err)
			if advice == "" {
				advice = "on the master: sci-agent join " + n.Host.Name
			}
			return enrol.Reply{}, Stop(fmt.Errorf("%s refuses to let this machine join: %w", h.Name, err), advice)
		}
		if why := err.Error(); why != n.unheard {
			n.unheard = why
			n.note("step cluster: %s", why)
		}
		asked = append(asked, fmt.Sprintf("%s (%s)", h.Name, at.Addr()))
	}
	return enrol.Reply{}, hint.New(&Waiting{For: "the master to answer: " + strings.Join(asked, " or ")},
		"if the cluster runs already, on its master: sci-agent join "+n.Host.Name)
}

// joined lets the master in and waits until this machine is a node.
func (n *Node) joined(ctx context.Context, r enrol.Reply) error {
	if r.Cluster != n.clusterName() {
		return Stop(fmt.Errorf("%s belongs to the cluster %s, not to %s", r.Master, r.Cluster, n.clusterName()),
			"this machine was installed for another cluster: correct cluster.name in the site file and install it anew")
	}
	if err := n.letIn(r.RootKeys); err != nil {
		return err
	}
	for limit := time.Now().Add(askFor); time.Now().Before(limit) && ctx.Err() == nil; {
		if in, err := n.isIn(); err != nil || in {
			return err
		}
		n.sleep(ctx, askPause)
	}
	return &Waiting{For: r.Master + " to take this machine into the cluster", Err: ctx.Err()}
}

// isIn reports whether this machine is in the cluster; if so, its credential has
// done its duty. Ganeti's files are there earlier, half-way through the
// addition, but the list of nodes names this one only when it is in.
func (n *Node) isIn() (bool, error) {
	nodes, err := n.ganeti().Members()
	if err != nil || !slices.Contains(nodes, n.fqdn()) {
		return false, err
	}
	return true, enrol.Retire(n.Root)
}

// letIn adds keys to those that root of this machine takes.
func (n *Node) letIn(keys []string) error {
	old, _, err := n.read(authorizedKeys)
	if err != nil {
		return err
	}
	text := string(old)
	for _, k := range keys {
		if !hasKey(text, k) {
			text = addLine(text, k)
		}
	}
	if text == string(old) {
		return nil
	}
	return writeFile(n.path(authorizedKeys), []byte(text), 0o600)
}

// hasKey reports whether a key, "ssh-rsa AAAA…", stands in authorized_keys,
// whatever its comment is.
func hasKey(text, key string) bool {
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l == key || strings.HasPrefix(l, key+" ") {
			return true
		}
	}
	return false
}
