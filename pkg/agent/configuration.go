package agent

import (
	"context"
	"fmt"
	"strings"
)

// configurationDone reports whether every candidate for the master's place has
// the configuration that the master has. Ganeti tells its candidates of each
// change, once: one that did not hear it stays behind, and would lose what it
// does not know of when it becomes the master.
func (n *Node) configurationDone(ctx context.Context) (bool, error) {
	behind, err := n.behind(ctx)
	return err == nil && len(behind) == 0, err
}

func (n *Node) configurationDo(ctx context.Context) error {
	if err := n.ganeti().Redistribute(ctx); err != nil {
		return err
	}
	behind, err := n.behind(ctx)
	if err == nil && len(behind) > 0 {
		return &Waiting{For: "the candidates to have the master's configuration: " + strings.Join(behind, ", ")}
	}
	return err
}

// behind are the candidates with another configuration. Only the master looks.
func (n *Node) behind(ctx context.Context) ([]string, error) {
	if master, err := n.master(); !master || err != nil {
		return nil, err
	}
	g := n.ganeti()
	own, err := g.Config()
	if err != nil {
		return nil, err
	}
	var list []string
	for _, node := range n.peers(own) {
		if !node.Candidate {
			continue
		}
		c, err := g.ConfigOf(ctx, node.Name)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		switch {
		case err != nil:
			list = append(list, fmt.Sprintf("%s (%s)", node.Name, firstLine(err.Error())))
		case c.Serial != own.Serial:
			list = append(list, fmt.Sprintf("%s (serial %d, the master's is %d)", node.Name, c.Serial, own.Serial))
		}
	}
	return list, nil
}
