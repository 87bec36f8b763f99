package ganeti

import "context"

// TakeOver makes this node the master. alone: do not ask the other nodes, for
// there are not enough left to make a majority; the caller knows that the old
// master is off.
func (c *Cluster) TakeOver(ctx context.Context, alone bool) error {
	argv := []string{"gnt-cluster", "master-failover"}
	if alone {
		argv = append(argv, "--no-voting", "--yes-do-it")
	} else {
		argv = append(argv, "--ignore-offline-nodes")
	}
	_, err := c.command(ctx, argv...)
	return err
}

// StartAlone starts the master's daemons without asking the other nodes whether
// this one is the master; the caller knows that they are off.
func (c *Cluster) StartAlone(ctx context.Context) error {
	const alone = "--no-voting --yes-do-it"
	_, err := c.command(ctx, "env", "EXTRA_WCONFD_ARGS="+alone, "EXTRA_LUXID_ARGS="+alone, daemonUtil, "start-master")
	return err
}

// Offline tells the cluster that a node is off, and lets another become a
// candidate in its place.
func (c *Cluster) Offline(ctx context.Context, node string) error {
	_, err := c.command(ctx, "gnt-node", "modify", "--offline=yes", "--auto-promote", node)
	return err
}

// Failover starts an instance on its other node; the first one is marked offline.
// That is why nothing waits for it, and its copy of the disk may lag behind.
// --ignore-consistency would add a question that -f does not answer. DRBD refuses
// a copy that it knows to be old.
func (c *Cluster) Failover(ctx context.Context, instance string) error {
	_, err := c.command(ctx, "gnt-instance", "failover", "-f", instance)
	return err
}

// ActivateDisks connects both sides of an instance's disks.
func (c *Cluster) ActivateDisks(ctx context.Context, instance string) error {
	_, err := c.command(ctx, "gnt-instance", "activate-disks", instance)
	return err
}

// ReplaceSecondary makes the disks of an instance on its other node anew.
func (c *Cluster) ReplaceSecondary(ctx context.Context, instance string) error {
	_, err := c.command(ctx, "gnt-instance", "replace-disks", "--on-secondary", instance)
	return err
}
