package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
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
	credential, err := enrol.ReadCredential(n.path(enrol.File))
	if errors.Is(err, fs.ErrNotExist) {
		return Stop(errors.New("cannot join the cluster: this machine has no credential"),
			"install it anew from a medium that was made with this site file")
	}
	if err != nil {
		return err
	}
	keys, err := n.ganeti().HostKeys()
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
		sleep(ctx, askPause)
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
		asked = append(asked, fmt.Sprintf("%s (%s)", h.Name, at.Addr()))
	}
	return enrol.Reply{}, &Waiting{For: "the master to answer: " + strings.Join(asked, " or ")}
}

// joined lets the master in and waits until it has made this machine a node.
func (n *Node) joined(ctx context.Context, r enrol.Reply) error {
	if r.Cluster != n.clusterName() {
		return Stop(fmt.Errorf("%s belongs to the cluster %s, not to %s", r.Master, r.Cluster, n.clusterName()),
			"this machine was installed for another cluster: correct cluster.name in the site file and install it anew")
	}
	if err := n.letIn(r.RootKeys); err != nil {
		return err
	}
	g := n.ganeti()
	limit := time.Now().Add(5 * time.Minute)
	for time.Now().Before(limit) {
		name, err := g.Name()
		if err != nil {
			return err
		}
		if name != "" {
			if up, err := g.Up(ctx, false); err != nil || up {
				return errors.Join(err, enrol.Retire(n.Root))
			}
		}
		sleep(ctx, 2*time.Second)
		if ctx.Err() != nil {
			break
		}
	}
	return &Waiting{For: r.Master + " to take this machine into the cluster", Err: ctx.Err()}
}

// letIn adds keys to those that root of this machine takes.
func (n *Node) letIn(keys []string) error {
	old, _, err := n.read(authorizedKeys)
	if err != nil {
		return err
	}
	text := string(old)
	for _, k := range keys {
		if hasKey(text, k) {
			continue
		}
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		text += k + "\n"
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
