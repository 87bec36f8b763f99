package agent

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// lent reports whether a file or directory has that group and mode.
func (n *Node) lent(name, group string, mode fs.FileMode) (bool, error) {
	gid, err := n.groupID(group)
	if err != nil {
		return false, err
	}
	info, err := os.Lstat(n.path(name))
	if err != nil || info.Mode() != mode {
		return false, nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Gid) == gid, nil
}

// lend gives a file or directory to a group, with these permissions.
func (n *Node) lend(name, group string, mode fs.FileMode) error {
	gid, err := n.groupID(group)
	if err != nil {
		return err
	}
	if err := os.Chown(n.path(name), -1, gid); err != nil {
		return err
	}
	return os.Chmod(n.path(name), mode)
}

// groupID looks a group of the machine up.
func (n *Node) groupID(group string) (int, error) {
	data, _, err := n.read("etc/group")
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimSpace(l), ":"); len(f) > 2 && f[0] == group {
			return strconv.Atoi(f[2])
		}
	}
	return 0, fmt.Errorf("cannot find the group %s: is its package installed?", group)
}
