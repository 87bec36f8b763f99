package ganeti

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
)

// hostKeys are the public SSH host keys of this machine without their comments,
// "ssh-ed25519 AAAA…".
func (c *Cluster) hostKeys() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(c.Root, "etc/ssh/ssh_host_*_key.pub"))
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, name := range names {
		data, err := readFile(name)
		if err != nil {
			return nil, err
		}
		if f := strings.Fields(string(data)); len(f) > 1 {
			keys = append(keys, f[0]+" "+f[1])
		}
	}
	return keys, nil
}

// OwnKeys are those of hostKeys that stay this machine's own: of the other kinds
// Ganeti gives all nodes the master's, so that one key stands for the cluster.
func (c *Cluster) OwnKeys() ([]string, error) {
	keys, err := c.hostKeys()
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(k string) bool { return !ownKind(k) })
	if len(keys) == 0 {
		return nil, errors.New("this machine has no SSH host key of type ssh-ed25519: ssh-keygen -A makes one")
	}
	return keys, nil
}

func ownKind(key string) bool { return strings.HasPrefix(key, "ssh-ed25519 ") }
