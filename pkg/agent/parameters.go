package agent

import (
	"context"
	"errors"
	"regexp"
	"strconv"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/ganeti"
	"github.com/skycover/sci-cd/pkg/run"
	"github.com/skycover/sci-cd/pkg/site"
)

// parametersDone reports whether the cluster's parameters are the site's. Only
// the master looks.
func (n *Node) parametersDone(ctx context.Context) (bool, error) {
	d, err := n.parametersLeft(ctx)
	return err == nil && d.Empty(), err
}

func (n *Node) parametersDo(ctx context.Context) error {
	d, err := n.parametersLeft(ctx)
	if err != nil {
		return err
	}
	return n.ganeti().Modify(ctx, d)
}

// parametersLeft are those that the cluster has otherwise.
func (n *Node) parametersLeft(ctx context.Context) (ganeti.Parameters, error) {
	if master, err := n.master(); !master || err != nil {
		return ganeti.Parameters{}, err
	}
	c, err := n.ganeti().Config()
	if err != nil {
		return ganeti.Parameters{}, err
	}
	cpu := c.KVM["cpu_type"]
	if n.Site.Cluster.CPU != "" || len(c.Instances) == 0 || cpu == "" {
		// Instances that run keep what they were started with, and could not move.
		if cpu, err = n.cpuModel(n.otherFlags()); err != nil {
			return ganeti.Parameters{}, err
		}
	}
	want, err := n.wantParameters(ctx, c, cpu)
	if err != nil {
		return ganeti.Parameters{}, err
	}
	return want.Differ(c), nil
}

// otherFlags are the processor flags of the nodes that have joined.
func (n *Node) otherFlags() [][]string {
	l, err := n.ledger()
	if l == nil || err != nil {
		return nil
	}
	entries, err := l.Entries()
	if err != nil {
		return nil
	}
	var list [][]string
	for _, e := range entries {
		if e.State == enrol.StateJoined && e.Claim != nil {
			list = append(list, e.Claim.Request.CPUFlags)
		}
	}
	return list
}

// wantParameters are the cluster's parameters as the site wants them.
func (n *Node) wantParameters(ctx context.Context, c *ganeti.Config, cpu string) (ganeti.Parameters, error) {
	var machine string
	if c != nil {
		machine = c.KVM["machine_version"] // never changed: the next QEMU's would strand older nodes
	}
	if machine == "" {
		var err error
		if machine, err = n.machineVersion(ctx); err != nil {
			return ganeti.Parameters{}, err
		}
	}
	d := n.Site.Cluster.DRBD
	rate, custom := d.ResyncRate, ""
	if rate == 0 {
		rate = 60 << 20
	}
	if d.SplitBrain == site.Disconnect {
		custom = "--after-sb-0pri=disconnect --after-sb-1pri=disconnect --after-sb-2pri=disconnect"
	}
	return ganeti.Parameters{
		KVM: map[string]string{
			"cpu_type":        cpu,
			"machine_version": machine,
			// Instances bring their own boot loader and kernel.
			"kernel_path": "", "initrd_path": "",
			// The screen is for root of the node, through an SSH tunnel; the serial
			// console for root of the master, through gnt-instance console.
			"vnc_bind_address": "127.0.0.1",
			"serial_console":   "true",
			// MiB/s: a gigabit link's worth. The default, 32, makes a busy instance
			// faster than its migration.
			"migration_bandwidth": "100",
		},
		DRBD: map[string]string{
			"resync-rate": strconv.FormatInt(int64(rate)/1024, 10), // KiB/s
			"net-custom":  custom,
		},
		ReservedLVs: []string{volumeGroup + "/root", volumeGroup + "/swap", volumeGroup + "/system-.*"},
	}, nil
}

var pcAlias = regexp.MustCompile(`(?m)^pc\s.*\(alias of (pc-i440fx-[0-9.]+)\)`)

// machineVersion is the versioned name of this QEMU's PC, which later versions
// of QEMU know too: "pc" alone means another machine after each upgrade.
func (n *Node) machineVersion(ctx context.Context) (string, error) {
	out, err := run.Output(ctx, n.Runner, "/usr/bin/kvm", "-machine", "help")
	if err != nil {
		return "", err
	}
	m := pcAlias.FindStringSubmatch(out)
	if m == nil {
		return "", errors.New("cannot tell the machine version: kvm -machine help names no pc-i440fx")
	}
	return m[1], nil
}
