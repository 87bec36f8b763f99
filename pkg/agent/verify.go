package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// verifyDone reports whether Ganeti has found the cluster without errors since
// this agent started. Only the master looks.
func (n *Node) verifyDone(context.Context) (bool, error) {
	master, err := n.master()
	return err == nil && (!master || n.verified), err
}

func (n *Node) verifyDo(ctx context.Context) error {
	v, err := n.ganeti().Verify(ctx)
	if err != nil {
		return err
	}
	var bad []string
	for _, p := range v.Problems {
		if strings.HasPrefix(p, "ERROR") {
			bad = append(bad, p)
		} else {
			n.note("gnt-cluster verify: %s", p)
		}
	}
	if len(bad) > 0 {
		return errors.New("gnt-cluster verify: " + strings.Join(bad, "\n"))
	}
	n.verified = true
	c, err := n.ganeti().Config()
	if err != nil {
		return err
	}
	n.say("cluster %s ready: %s, verified without errors", n.clusterName(), count(len(c.Nodes), "node"))
	return nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
