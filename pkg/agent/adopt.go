package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

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
	for _, node := range n.peers(cfg) {
		// Its agent goes through its plan again: it writes /etc/hosts.
		err := n.ganeti().Send(ctx, node.Name, "/"+siteFile, m.siteJSON)
		if err == nil {
			err = n.restartAgentOn(ctx, node.Name)
		}
		if err != nil {
			return fmt.Errorf("cannot give %s the new site file: %w", node.Name, err)
		}
	}
	files, err := n.hostnameFiles()
	if err != nil {
		return err
	}
	_, err = n.put(files, nil)
	return err
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
		if !ok || !newer.InCluster(now) {
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
