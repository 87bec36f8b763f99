package ganeti

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// AddOptions describe a machine that becomes a node.
type AddOptions struct {
	Name      string // full name
	Secondary string // address for replication; "" without such a network
	// Readd takes a node back that the cluster knows: it was installed anew, or
	// its addition was cut off.
	Readd bool
	// HostKeys are the machine's SSH host keys, "ssh-ed25519 AAAA…", which it has
	// proven to be its own: ssh takes no others.
	HostKeys []string
}

// AddNode adds a machine to the cluster, on its master. The machine lets root
// of the master in by SSH.
func (c *Cluster) AddNode(ctx context.Context, o AddOptions) error {
	if err := c.forgetKeys(o.Name); err != nil {
		return err
	}
	if err := c.expectKeys(o.Name, o.HostKeys); err != nil {
		return err
	}
	argv := []string{"gnt-node", "add"}
	if o.Readd {
		argv = append(argv, "--readd")
	} else if o.Secondary != "" {
		argv = append(argv, "--secondary-ip="+o.Secondary)
	}
	_, err := c.command(ctx, append(argv, o.Name)...)
	return err
}

// forgetKeys takes keys out of ganeti_pub_keys that stand under the name of
// the node instead of its UUID: an earlier addition left them there, and verify
// would complain of more than one key. (Ganeti enters the key under the name
// first and replaces the name at the end.)
func (c *Cluster) forgetKeys(node string) error {
	return c.replace("ganeti_pub_keys", node, nil)
}

// expectKeys puts the host keys of a node into Ganeti's known_hosts: its own,
// and those of the cluster, which Ganeti gives it half-way. Ganeti writes the
// file anew when it distributes its configuration.
func (c *Cluster) expectKeys(node string, keys []string) error {
	var lines []string
	own, err := c.hostKeys()
	if err != nil {
		return err
	}
	for _, k := range keys {
		lines = append(lines, node+" "+k)
	}
	for _, k := range own {
		if !ownKind(k) {
			lines = append(lines, node+" "+k)
		}
	}
	return c.replace("known_hosts", node, lines)
}

// replace puts lines into a file in place of those that begin with the name of
// the node; a missing file is empty.
func (c *Cluster) replace(name, node string, lines []string) error {
	old, err := readFile(c.path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(old)) {
		if f := strings.Fields(line); len(f) == 0 || f[0] != node {
			b.WriteString(strings.TrimRight(line, "\n") + "\n")
		}
	}
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	if bytes.Equal(old, b.Bytes()) {
		return nil
	}
	tmp := c.path("." + name + ".sci-new")
	if err := os.WriteFile(tmp, b.Bytes(), 0o600); err != nil {
		return err
	}
	// Ganeti's daemons are several users, and write some of these files.
	if info, err := os.Stat(c.path(name)); err == nil {
		if err := os.Chmod(tmp, info.Mode().Perm()); err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if err := os.Chown(tmp, int(st.Uid), int(st.Gid)); err != nil {
				return err
			}
		}
	}
	return os.Rename(tmp, c.path(name))
}
