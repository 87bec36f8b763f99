package ganeti

import (
	"path/filepath"
	"strings"
)

// hostKeys are the public SSH host keys of a machine without their comments,
// "ssh-ed25519 AAAA…".
func hostKeys(root string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(root, "etc/ssh/ssh_host_*_key.pub"))
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

// HostKeys are the public SSH host keys of this machine, "ssh-ed25519 AAAA…".
func (c *Cluster) HostKeys() ([]string, error) { return hostKeys(c.Root) }
