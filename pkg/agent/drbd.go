package agent

import (
	"context"
	"fmt"
	"strings"

	"github.com/skycover/sci-cd/pkg/ganeti"
)

const (
	drbdOptionsFile = "etc/modprobe.d/drbd.conf"
	drbdLoadFile    = "etc/modules-load.d/sci-drbd.conf"
	// drbdMinors is how many devices there may be: Ganeti takes one a disk.
	drbdMinors = "128"
)

func drbdFiles() []file {
	return []file{
		{drbdOptionsFile, "# From SCI-CD. Must stand here before the module is first loaded.\n" +
			"# minor_count: Ganeti takes one DRBD device a disk, and the default is 32.\n" +
			"# usermode_helper: Ganeti decides what to do on DRBD's events, not drbdadm.\n" +
			"options drbd minor_count=" + drbdMinors + " usermode_helper=" + ganeti.DRBDHelper + "\n", 0o644},
		{drbdLoadFile, rendered("drbd") + "drbd\n", 0o644},
	}
}

// drbdDone reports whether the module is loaded with the options that Ganeti
// needs, and will be at each boot.
func (n *Node) drbdDone(context.Context) (bool, error) {
	if ok, err := n.allSame(drbdFiles(), nil); !ok || err != nil {
		return false, err
	}
	return n.drbdLoaded() == "", nil
}

// drbdLoaded is what is wrong with the loaded module, "" for nothing.
func (n *Node) drbdLoaded() string {
	if !n.exists("sys/module/drbd") {
		return "the module drbd is not loaded"
	}
	for _, p := range []struct{ name, want string }{{"usermode_helper", ganeti.DRBDHelper}, {"minor_count", drbdMinors}} {
		if have := n.oneLine("sys/module/drbd/parameters/" + p.name); have != p.want {
			return fmt.Sprintf("the module drbd was loaded with %s=%s; it must be %s", p.name, have, p.want)
		}
	}
	return ""
}

func (n *Node) drbdDo(ctx context.Context) error {
	if _, err := n.put(drbdFiles(), nil); err != nil {
		return err
	}
	problem := n.drbdLoaded()
	if problem == "" {
		return nil
	}
	if n.exists("sys/module/drbd") {
		// Options count when the module is loaded; one in use stays.
		if strings.Contains(n.oneLine(drbdProc), "cs:") {
			return Stop(fmt.Errorf("%s, and it is in use", problem), "reboot this machine")
		}
		if err := n.command(ctx, "modprobe", "--remove", "drbd"); err != nil {
			return err
		}
	}
	return n.command(ctx, "modprobe", "drbd")
}
