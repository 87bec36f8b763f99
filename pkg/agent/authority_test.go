package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

// keyNodes are the nodes of a cluster, as far as the key of challenges goes:
// node1 is the machine that the step runs on.
type keyNodes struct {
	*Node
	t     *testing.T
	log   strings.Builder
	files map[string]string // of the other nodes, by their short name
	deaf  string            // a node that does not answer
	lost  bool              // copies do not arrive
	calls []string
}

func newKeyNodes(t *testing.T, master string, offlineNode string) *keyNodes {
	t.Helper()
	k := &keyNodes{t: t, files: make(map[string]string)}
	k.Node = &Node{Root: t.TempDir(), Runner: k, Journal: &k.log}
	k.write("etc/sci/site.json", strings.Replace(clusterSite, `    {"name": "sci"`,
		`    {"name": "node3", "role": "node", "match": {"mac": ["52:54:00:5c:1c:03"]}, "addresses": {"lan": "127.50.0.13"}},
    {"name": "sci"`, 1))
	s, err := k.loadSite()
	if err != nil {
		t.Fatal(err)
	}
	k.Site = s
	k.Host, _ = s.Host("node1")
	k.write("var/lib/ganeti/ssconf_cluster_name", "cluster.lab.example\n")
	k.write("var/lib/ganeti/ssconf_master_node", master+".lab.example\n")
	node := func(name string) string {
		off := "false"
		if name == offlineNode {
			off = "true"
		}
		return `"u-` + name + `": {"name": "` + name + `.lab.example", "offline": ` + off + `}`
	}
	k.write("var/lib/ganeti/config.data", `{"serial_no": 1, "cluster": {"cluster_name": "cluster.lab.example"}, "nodes": {`+
		node("node1")+","+node("node2")+","+node("node3")+`}}`)
	return k
}

func (k *keyNodes) write(name, data string) {
	k.t.Helper()
	if err := writeFile(k.path(name), []byte(data), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// Run answers as ssh and gnt-cluster copyfile would.
func (k *keyNodes) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv, " ")
	out, err := k.does(c.Argv)
	if c.Log != nil {
		_, _ = c.Log.Write([]byte(out))
	}
	if !strings.Contains(line, "sha256sum") && !strings.Contains(line, "cat ") {
		k.calls = append(k.calls, strings.TrimPrefix(line, "ssh "))
	}
	if err != nil {
		err = &run.Error{Argv: c.Argv, Output: out, Err: err}
	}
	return []byte(out), err
}

func (k *keyNodes) does(argv []string) (string, error) {
	last := argv[len(argv)-1]
	if argv[0] == "gnt-cluster" {
		data, _, err := k.read(strings.TrimPrefix(last, "/"))
		for _, a := range argv[2 : len(argv)-1] {
			if name, ok := strings.CutPrefix(a, "--node="); ok && !k.lost {
				k.files[strings.TrimSuffix(name, ".lab.example")] = string(data)
			}
		}
		return "", err
	}
	name := strings.TrimSuffix(strings.TrimPrefix(argv[len(argv)-2], "root@"), ".lab.example")
	if name == k.deaf {
		return "there\nhalf", errors.New("exit status 255")
	}
	data, there := k.files[name]
	switch {
	case strings.Contains(last, "mkdir"):
		return "", nil
	case !there:
		return "none\n", nil
	case strings.Contains(last, "sha256sum"):
		sum := sha256.Sum256([]byte(data))
		return hex.EncodeToString(sum[:]) + "  -\n", nil
	}
	return "there\n" + data, nil
}

func (k *keyNodes) own() string {
	data, _, err := k.read(enrol.ChallengeKeyFile)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(data)
}

// step runs the step once and tells whether it is done afterwards.
func (k *keyNodes) step() (bool, error) {
	k.t.Helper()
	s := k.authorityStep()
	if done, err := s.Done(k.t.Context()); done || err != nil {
		return done, err
	}
	if err := s.Do(k.t.Context()); err != nil {
		return false, err
	}
	return s.Done(k.t.Context())
}

func someKey(t *testing.T) string {
	t.Helper()
	k, err := enrol.NewChallengeKey()
	if err != nil {
		t.Fatal(err)
	}
	return k.String() + "\n"
}

func TestAuthorityIsMadeOnce(t *testing.T) {
	k := newKeyNodes(t, "node1", "node3")
	if done, err := k.step(); !done || err != nil {
		t.Fatalf("step = %v, %v", done, err)
	}
	key := k.own()
	if _, err := enrol.ParseChallengeKey([]byte(key)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(k.Root, enrol.ChallengeKeyFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("the key's file: %v, %v; want mode 0600", info.Mode(), err)
	}
	if d := cmp.Diff(map[string]string{"node2": key}, k.files); d != "" {
		t.Errorf("the other nodes' keys (-want +got):\n%s", d)
	}
	// The same again changes nothing; a node that comes back gets the key.
	k.calls = nil
	if done, err := k.step(); !done || err != nil || len(k.calls) > 0 {
		t.Errorf("again: step = %v, %v, having run %q", done, err, k.calls)
	}
	k.write("var/lib/ganeti/config.data", strings.Replace(k.text("var/lib/ganeti/config.data"), `"offline": true`, `"offline": false`, 1))
	if done, err := k.step(); !done || err != nil || k.files["node3"] != key || k.own() != key {
		t.Errorf("node3 is back: step = %v, %v", done, err)
	}
	for _, c := range k.calls {
		if strings.Contains(c, "copyfile") && strings.Contains(c, "node2") {
			t.Errorf("node2 has the key and got it again: %s", c)
		}
	}
	k.noSecret(key)
}

func (k *keyNodes) text(name string) string {
	data, _, err := k.read(name)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(data)
}

// noSecret wants the key in no argument and in no log.
func (k *keyNodes) noSecret(key string) {
	k.t.Helper()
	if all := k.log.String() + strings.Join(k.calls, "\n"); strings.Contains(all, strings.TrimSpace(key)) {
		k.t.Errorf("the key stands in a log or an argument:\n%s", all)
	}
}

func TestAuthorityIsTakenOver(t *testing.T) {
	k := newKeyNodes(t, "node1", "")
	key := someKey(t)
	k.files["node2"] = key[:20] // cut off while it was copied
	k.files["node3"] = key
	if done, err := k.step(); !done || err != nil {
		t.Fatalf("step = %v, %v", done, err)
	}
	if k.own() != key || k.files["node2"] != key || k.files["node3"] != key {
		t.Error("the master did not take the key that a node has")
	}
	k.noSecret(key)
}

func TestAuthorityWaits(t *testing.T) {
	key := someKey(t)
	t.Run("for a node that may have the key", func(t *testing.T) {
		k := newKeyNodes(t, "node1", "")
		k.deaf = "node3"
		_, err := k.step()
		if waits := new(Waiting); !errors.As(err, &waits) || !strings.Contains(err.Error(), "node3.lab.example") {
			t.Errorf("step = %v; want it to wait for node3", err)
		}
		if k.exists(enrol.ChallengeKeyFile) || len(k.calls) > 0 {
			t.Errorf("a key was made although node3 may have one; %q", k.calls)
		}
	})
	t.Run("for a copy that did not arrive", func(t *testing.T) {
		k := newKeyNodes(t, "node1", "")
		k.write(enrol.ChallengeKeyFile, key)
		k.lost = true
		_, err := k.step()
		if waits := new(Waiting); !errors.As(err, &waits) || !strings.Contains(err.Error(), "node2.lab.example, node3.lab.example") {
			t.Errorf("step = %v; want it to wait for both", err)
		}
	})
}

func TestAuthorityStops(t *testing.T) {
	k := newKeyNodes(t, "node1", "")
	k.files["node2"], k.files["node3"] = someKey(t), someKey(t)
	_, err := k.step()
	if stop := new(StopError); !errors.As(err, &stop) || hint.Of(err) == "" || k.exists(enrol.ChallengeKeyFile) {
		t.Errorf("step = %v; want a stop", err)
	}
	k.noSecret(k.files["node2"])
}

func TestAuthorityElsewhere(t *testing.T) {
	k := newKeyNodes(t, "node2", "")
	if done, err := k.step(); !done || err != nil || k.exists(enrol.ChallengeKeyFile) {
		t.Errorf("on a node that is not the master: %v, %v", done, err)
	}
	// The master's own key wins, and its mode is mended.
	k = newKeyNodes(t, "node1", "")
	key := someKey(t)
	k.write(enrol.ChallengeKeyFile, key)
	if err := os.Chmod(k.path(enrol.ChallengeKeyFile), 0o644); err != nil {
		t.Fatal(err)
	}
	k.files["node2"], k.files["node3"] = someKey(t), key
	if done, err := k.step(); !done || err != nil || k.own() != key || k.files["node2"] != key {
		t.Errorf("step = %v, %v", done, err)
	}
	if info, _ := os.Stat(k.path(enrol.ChallengeKeyFile)); info.Mode() != 0o600 {
		t.Errorf("the key's file has mode %v", info.Mode())
	}
}
