package ganeti

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// CopyFile copies a file of this node, its mode included, to the same place on
// other nodes. Ganeti says nothing of those that it did not reach: ask DigestOf.
func (c *Cluster) CopyFile(ctx context.Context, name string, nodes ...string) error {
	argv := []string{"gnt-cluster", "copyfile"}
	for _, n := range nodes {
		argv = append(argv, "--node="+n)
	}
	_, err := c.command(ctx, append(argv, name)...)
	return err
}

// MakeDir makes a directory that root alone may enter on another node, where it
// is missing.
func (c *Cluster) MakeDir(ctx context.Context, node, name string) error {
	_, err := c.ssh(ctx, node, "test -d "+name+" || mkdir -m 700 "+name, nil)
	return err
}

// DigestOf is the SHA-256 of a file on another node in hexadecimal, "" where it
// is missing or not root's alone (mode 0600).
func (c *Cluster) DigestOf(ctx context.Context, node, name string) (string, error) {
	out, err := c.silent(ctx, node, "if test \"$(stat -c %a:%u "+name+" 2>/dev/null)\" = 600:0; then sha256sum <"+name+"; else echo none; fi")
	if err != nil {
		return "", err
	}
	f := strings.Fields(string(out))
	switch {
	case len(f) == 1 && f[0] == "none":
		return "", nil
	case len(f) == 2 && len(f[0]) == 64:
		return f[0], nil
	}
	return "", fmt.Errorf("cannot tell the digest of %s on %s", name, node)
}

// SecretOf reads a file on another node, nil where it is missing. What it holds
// comes into no log and no error.
func (c *Cluster) SecretOf(ctx context.Context, node, name string) ([]byte, error) {
	out, err := c.silent(ctx, node, "if test -e "+name+"; then echo there; cat "+name+"; else echo none; fi")
	if err != nil {
		return nil, err
	}
	word, data, _ := strings.Cut(string(out), "\n")
	switch word {
	case "there":
		return []byte(data), nil
	case "none":
		return nil, nil
	}
	return nil, fmt.Errorf("cannot read %s on %s", name, node)
}

// silent is SSH whose output nobody sees but the caller.
func (c *Cluster) silent(ctx context.Context, node, command string) ([]byte, error) {
	quiet := *c
	quiet.Log = nil
	out, err := quiet.SSH(ctx, node, command)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil: // it holds what the command said
		return nil, errors.New("cannot reach " + node + " by ssh")
	}
	return out, nil
}
