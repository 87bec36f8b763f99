package ganeti

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/skycover/sci-cd/pkg/run"
)

// DataDir is where Ganeti keeps what it knows, below the root directory.
const DataDir = "var/lib/ganeti"

// NodedPort is where Ganeti's node daemon listens.
const NodedPort = 1811

// Unit starts the daemons at boot.
const Unit = "ganeti.service"

const daemonUtil = "/usr/lib/ganeti/daemon-util"

// Cluster is the cluster as one of its nodes sees it.
type Cluster struct {
	Root   string     // "/" in life
	Runner run.Runner // run.Host{} in life
	Log    io.Writer  // receives what commands print; may be nil
}

func (c *Cluster) path(name string) string { return filepath.Join(c.Root, DataDir, name) }

// command runs argv, with nothing to read: gnt-* commands ask questions
// otherwise.
func (c *Cluster) command(ctx context.Context, argv ...string) ([]byte, error) {
	return c.Runner.Run(ctx, run.Cmd{Argv: argv, Log: c.Log})
}

// ssconf is one of the one-line files that every node has; "" if it is missing.
func (c *Cluster) ssconf(key string) (string, error) {
	data, err := readFile(c.path("ssconf_" + key))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(data)), err
}

// Name is the full name of the cluster that this machine is in, "" if it is in
// none.
func (c *Cluster) Name() (string, error) { return c.ssconf("cluster_name") }

// Master is the full name of the node that this node takes for the master, ""
// if this machine is in no cluster.
func (c *Cluster) Master() (string, error) { return c.ssconf("master_node") }

// Members are the full names of the nodes, as this node was told last.
func (c *Cluster) Members() ([]string, error) {
	list, err := c.ssconf("node_list")
	return strings.Fields(list), err
}

// running reports whether a daemon, such as "ganeti-noded", runs.
func (c *Cluster) running(ctx context.Context, daemon string) (bool, error) {
	_, err := c.command(ctx, daemonUtil, "check", daemon)
	if err == nil {
		return true, nil
	}
	if e := new(run.Error); errors.As(err, &e) && ctx.Err() == nil {
		return false, nil
	}
	return false, err
}

// Up reports whether the daemons of this node run, and the master's if it is
// the master.
func (c *Cluster) Up(ctx context.Context, master bool) (bool, error) {
	daemons := []string{"ganeti-noded"}
	if master {
		daemons = append(daemons, "ganeti-wconfd", "ganeti-luxid")
	}
	for _, d := range daemons {
		if ok, err := c.running(ctx, d); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Start starts the daemons that this node should run. Where the system's own
// start of them came to its end without all of them, they are started anew:
// instances go on meanwhile.
func (c *Cluster) Start(ctx context.Context, master bool) error {
	if _, err := c.command(ctx, "systemctl", "start", Unit); err != nil {
		return err
	}
	if up, err := c.Up(ctx, master); err != nil || up {
		return err
	}
	_, err := c.command(ctx, "systemctl", "restart", Unit)
	return err
}

// InitOptions describe a new cluster.
type InitOptions struct {
	Name      string // full name
	Netmask   int    // prefix length of the cluster's address
	Interface string // bridge of the cluster's address and of instances
	Secondary string // this node's address for replication, "" without such a network
	Group     string // LVM volume group
	Parameters
}

// Init makes this machine the master of a new cluster.
func (c *Cluster) Init(ctx context.Context, o InitOptions) error {
	argv := []string{"gnt-cluster", "init",
		"--enabled-hypervisors=kvm",
		"--enabled-disk-templates=drbd,plain",
		"--vg-name=" + o.Group,
		"--drbd-usermode-helper=" + DRBDHelper,
		"--master-netdev=" + o.Interface,
		fmt.Sprintf("--master-netmask=%d", o.Netmask),
		"--nic-parameters=mode=bridged,link=" + o.Interface,
		"--default-iallocator=hail",
		"--no-etc-hosts", // the agent keeps /etc/hosts
		"--hypervisor-parameters=kvm:" + keyValues(o.KVM),
	}
	if len(o.DRBD) > 0 {
		argv = append(argv, "--disk-parameters=drbd:"+keyValues(o.DRBD))
	}
	if o.Secondary != "" {
		argv = append(argv, "--secondary-ip="+o.Secondary)
	}
	release, err := c.holdWatcher(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := c.awaitBoot(ctx); err != nil {
		return err
	}
	_, err = c.command(ctx, append(argv, o.Name)...)
	return err
}

// awaitBoot waits until the start of the daemons that belongs to the boot is over:
// of what it finds it starts what it can, and a daemon that it started behind our
// back is in the way of gnt-cluster init. Whether it succeeds does not matter here.
func (c *Cluster) awaitBoot(ctx context.Context) error {
	_, _ = c.command(ctx, "systemctl", "start", Unit)
	return ctx.Err()
}

// Reset removes what an initialisation that was cut off left on this machine.
// The caller knows that it was: a cluster of this machine alone, never used.
func (c *Cluster) Reset(ctx context.Context) error {
	if cfg, err := c.Config(); err == nil && (len(cfg.Nodes) > 1 || len(cfg.Instances) > 0) {
		return fmt.Errorf("cannot clear /%s: it holds a cluster of %d nodes and %d instances", DataDir, len(cfg.Nodes), len(cfg.Instances))
	}
	if err := c.awaitBoot(ctx); err != nil {
		return err
	}
	if _, err := c.command(ctx, daemonUtil, "stop-all"); err != nil {
		return err
	}
	// What gnt-cluster init refuses: files in these directories.
	for _, dir := range []string{".", "queue", "queue/archive"} {
		entries, err := os.ReadDir(c.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			if err := os.Remove(c.path(filepath.Join(dir, e.Name()))); err != nil {
				return err
			}
		}
	}
	return nil
}

// ActivateAddress gives the master the cluster's address.
func (c *Cluster) ActivateAddress(ctx context.Context) error {
	_, err := c.command(ctx, "gnt-cluster", "activate-master-ip")
	return err
}

// Redistribute has the master write its configuration to all candidates again.
func (c *Cluster) Redistribute(ctx context.Context) error {
	_, err := c.command(ctx, "gnt-cluster", "redist-conf")
	return err
}

// SSH runs a command on another node of the cluster, as Ganeti does: as root,
// with the cluster's host key.
func (c *Cluster) SSH(ctx context.Context, node, command string) ([]byte, error) {
	return c.ssh(ctx, node, command, nil)
}

// Send writes a file on another node that root alone may read: beside, and
// renamed.
func (c *Cluster) Send(ctx context.Context, node, name string, data []byte) error {
	tmp := name + ".sci-new"
	_, err := c.ssh(ctx, node, "umask 077 && cat >"+tmp+" && sync "+tmp+" && mv "+tmp+" "+name, bytes.NewReader(data))
	return err
}

func (c *Cluster) ssh(ctx context.Context, node, command string, in io.Reader) ([]byte, error) {
	name, err := c.Name()
	if err != nil {
		return nil, err
	}
	argv := []string{"ssh", "-q", "-4", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oConnectTimeout=20",
		"-oGlobalKnownHostsFile=/" + DataDir + "/known_hosts", "-oUserKnownHostsFile=/dev/null", "-oCheckHostIP=no",
		"-oHostKeyAlias=" + name, "root@" + node, command}
	return c.Runner.Run(ctx, run.Cmd{Argv: argv, Log: c.Log, Stdin: in})
}

// maxFile bounds the files that are read here, in bytes. The configuration of
// a hundred nodes and a thousand instances has some 5 MB.
const maxFile = 64 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: more than %d bytes", name, maxFile)
	}
	return data, err
}
