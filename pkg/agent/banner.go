package agent

import (
	"context"
	"os"
	"syscall"
)

const (
	isReady = "is ready"
	// bannerLock orders the agent's banners and those of RefreshBanner.
	bannerLock = "run/sci-banner.lock"
)

// RefreshBanner writes the banner of a machine that is ready anew. Who the
// master is and how the disks are changes while no agent runs, and a banner that
// says so of last week is worse than none; so a timer (sci-agent-banner.timer)
// calls this every two minutes. It costs reading some small files, and no
// program is started unless something changed. For the same reason the banner
// has nothing that changes by the minute, as the progress of a synchronisation:
// each change has the consoles written to anew.
//
// Of a machine that is not ready the banner is the agent's.
func RefreshBanner(ctx context.Context, o Options) error {
	n := &Node{Root: o.Root, Runner: o.Runner, Journal: o.Journal}
	s, h, err := n.claimed()
	if err != nil {
		return err
	}
	n.Site, n.Host = s, h
	c := &Console{Node: n, Systemd: o.Systemd}
	changed, err := c.refresh()
	if changed {
		n.reloadPrompts(ctx)
	}
	return err
}

// refresh reads the state under the lock: the agent writes the state first and
// then its banner, so the last one to write the banner is right.
func (c *Console) refresh() (changed bool, err error) {
	defer c.Node.lockBanner()()
	st, err := ReadState(c.Node.path(StateFile))
	if err != nil || st.State != IsReady {
		return false, err
	}
	return c.writeBanner(isReady, c.readyLines()...), nil
}

// readyLines are what stands on the banner of a machine that is ready: its
// addresses, and in a cluster its name, the master and the mirrored disks.
// With the first line and the last two that makes six at most.
func (c *Console) readyLines() []string {
	lines := []string{c.where()}
	n := c.Node
	if n.Host == nil || n.exists(formingFile) {
		return lines
	}
	told, err := n.ganeti().Told()
	if err != nil || told.Name == "" {
		return lines
	}
	line := "cluster " + told.Name + ", master " + told.Master
	if told.Master == n.fqdn() {
		line += " (this machine)"
	}
	lines = append(lines, line)
	if d, err := n.drbd(); err == nil && d != nil {
		lines = append(lines, d.Summary())
	}
	return lines
}

// lockBanner waits for its turn. Where there is no lock to be had, a banner is
// written all the same.
func (n *Node) lockBanner() (unlock func()) {
	f, err := os.OpenFile(n.path(bannerLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return func() {}
	}
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != syscall.EINTR {
			return func() { _ = f.Close() }
		}
	}
}
