package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/ganeti"
)

// authorityDone reports whether all nodes have the key of the challenges by which
// machines enrol at the site's Puppet server, the same one. Only the master
// looks.
func (n *Node) authorityDone(ctx context.Context) (bool, error) {
	if master, err := n.master(); !master || err != nil {
		return err == nil, err
	}
	own, err := n.authority()
	if err != nil || own == nil {
		return false, err
	}
	if ok, err := n.same(file{enrol.ChallengeKeyFile, string(own), 0o600}); !ok || err != nil {
		return false, err
	}
	lacking, err := n.lackAuthority(ctx, own)
	return err == nil && len(lacking) == 0, err
}

// authorityDo makes the key, once for ever: a master that lacks it takes the one
// that the other nodes have, since the service machine knows no other.
func (n *Node) authorityDo(ctx context.Context) error {
	own, err := n.authority()
	if err != nil {
		return err
	}
	if own == nil {
		if own, err = n.findAuthority(ctx); err != nil {
			return err
		}
	}
	if err := n.putAuthority(own); err != nil {
		return err
	}
	lacking, err := n.lackAuthority(ctx, own)
	if err != nil || len(lacking) == 0 {
		return err
	}
	g := n.ganeti()
	for _, node := range lacking {
		if err := g.MakeDir(ctx, node, "/"+path.Dir(enrol.ChallengeKeyFile)); err != nil {
			return err
		}
	}
	if err := g.CopyFile(ctx, "/"+enrol.ChallengeKeyFile, lacking...); err != nil {
		return err
	}
	if lacking, err = n.lackAuthority(ctx, own); err == nil && len(lacking) > 0 {
		return &Waiting{For: "the key of challenges to reach " + strings.Join(lacking, ", ")}
	}
	return err
}

// authority is this node's key file, nil without one. Half a file is none: it
// was being copied when the power went.
func (n *Node) authority() ([]byte, error) {
	data, there, err := n.read(enrol.ChallengeKeyFile)
	if err != nil || !there {
		return nil, err
	}
	if _, err := enrol.ParseChallengeKey(data); err != nil {
		return nil, nil
	}
	return data, nil
}

func (n *Node) putAuthority(data []byte) error {
	if err := os.MkdirAll(n.path(path.Dir(enrol.ChallengeKeyFile)), 0o700); err != nil {
		return err
	}
	_, err := n.put([]file{{enrol.ChallengeKeyFile, string(data), 0o600}}, nil)
	return err
}

// findAuthority is the key that other nodes have, or a new one where all of them
// answered and have none.
func (n *Node) findAuthority(ctx context.Context) ([]byte, error) {
	g := n.ganeti()
	c, err := g.Config()
	if err != nil {
		return nil, err
	}
	var found []byte
	var where []string
	for _, node := range n.peers(c) {
		data, err := g.SecretOf(ctx, node.Name, "/"+enrol.ChallengeKeyFile)
		if err != nil {
			return nil, &Waiting{For: node.Name + " to say whether it has the key of challenges", Err: err}
		}
		if _, err := enrol.ParseChallengeKey(data); err != nil {
			continue
		}
		where = append(where, node.Name)
		if found != nil && !bytes.Equal(found, data) {
			return nil, Stop(fmt.Errorf("this master has no key of challenges, and nodes have different ones: %s", strings.Join(where, ", ")),
				"copy /"+enrol.ChallengeKeyFile+" of the service machine to this one; it is the one that counts")
		}
		found = data
	}
	if found != nil {
		n.note("step authority: the key of challenges is that of %s", where[0])
		return found, nil
	}
	if gone := offline(c); len(gone) > 0 {
		n.note("step authority: a new key of challenges; whether %s had one, nobody can say", strings.Join(gone, ", "))
	}
	k, err := enrol.NewChallengeKey()
	return []byte(k.String() + "\n"), err
}

// lackAuthority are the other nodes without this key.
func (n *Node) lackAuthority(ctx context.Context, own []byte) ([]string, error) {
	g := n.ganeti()
	c, err := g.Config()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(own)
	var list []string
	for _, node := range n.peers(c) {
		digest, err := g.DigestOf(ctx, node.Name, "/"+enrol.ChallengeKeyFile)
		if err != nil {
			return nil, &Waiting{For: node.Name + " to say whether it has the key of challenges", Err: err}
		}
		if digest != hex.EncodeToString(sum[:]) {
			list = append(list, node.Name)
		}
	}
	return list, nil
}

// offline are the nodes that are marked so.
func offline(c *ganeti.Config) []string {
	var list []string
	for _, p := range c.Nodes {
		if p.Offline {
			list = append(list, p.Name)
		}
	}
	slices.Sort(list)
	return list
}
