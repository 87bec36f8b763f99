package agent

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"regexp"
)

// tsigKey is a key by which others prove to named who they are (RFC 8945). It is
// made on the machine and stays there.
type tsigKey struct{ name, file string }

func updateKey() tsigKey { return tsigKey{"sci-update", bindDir + "/update.key"} } // the agent, the admin
func leaseKey() tsigKey  { return tsigKey{"sci-dhcp", bindDir + "/dhcp.key"} }     // Kea

// secret reads the key's secret, base64; "" if there is no good one.
func (n *Node) secret(k tsigKey) (string, error) {
	data, _, err := n.read(k.file)
	if err != nil {
		return "", err
	}
	m := regexp.MustCompile(`(?s)key "` + k.name + `" \{.*algorithm hmac-sha256;.*secret "([A-Za-z0-9+/=]+)";`).FindSubmatch(data)
	if m == nil {
		return "", nil
	}
	if raw, err := base64.StdEncoding.DecodeString(string(m[1])); err != nil || len(raw) < 32 {
		return "", nil
	}
	return string(m[1]), nil
}

// keyThere reports whether the key is good and only root and named can read it.
func (n *Node) keyThere(k tsigKey) (bool, error) {
	secret, err := n.secret(k)
	if err != nil || secret == "" {
		return false, err
	}
	return n.lent(k.file, "bind", 0o640)
}

// makeKey makes the key where there is no good one, and reports whether it did.
func (n *Node) makeKey(k tsigKey) (made bool, err error) {
	secret, err := n.secret(k)
	if err != nil {
		return false, err
	}
	if secret == "" {
		var raw [32]byte
		_, _ = rand.Read(raw[:]) // never fails
		text := "# Made by sci-agent (step dns) on this machine. Remove it and start the agent for another one.\n" +
			fmt.Sprintf("key %q {\n\talgorithm hmac-sha256;\n\tsecret %q;\n};\n", k.name, base64.StdEncoding.EncodeToString(raw[:]))
		if err := writeFile(n.path(k.file), []byte(text), 0o640); err != nil {
			return false, fmt.Errorf("cannot write %s: %w", n.path(k.file), err)
		}
		made = true
	}
	return made, n.lend(k.file, "bind", 0o640)
}
