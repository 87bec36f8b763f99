package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
	"github.com/skycover/sci-cd/pkg/site"
)

// lab is a site of two nodes on the loopback interface: each has a root
// directory, and a runner that does what Ganeti would do to it. What passes
// between the agents is real: TLS over TCP.
type lab struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[string]*labNode
	fail  func(host, line string) error
	calls []string

	credentials map[string]enrol.Credential
}

type labNode struct {
	*Node
	w     *lab
	name  string
	up    map[string]bool // daemons
	said  []string
	muted sync.Mutex
	// deaf: the node daemon did not hear that it is to have the cluster's address.
	deaf bool
	// left: it has the cluster's address of an initialisation that failed.
	left bool
	// startFailed: systemd gave the boot's start of the daemons up.
	startFailed bool
}

// clusterSite has node2 at 127.0.0.1, since the kernel calls from there whatever
// address of the loopback interface is called.
const clusterSite = `{
  "apiVersion": "sci-cd/v1", "name": "lab", "domain": "lab.example", "release": "trixie",
  "networks": {"backbone": {"subnet": "127.0.0.0/24"}, "lan": {"subnet": "127.50.0.0/24"}},
  "cluster": {"name": "cluster", "address": "127.50.0.10"},
  "hosts": [
    {"name": "node1", "role": "node", "match": {"mac": ["52:54:00:5c:1c:01"]}, "addresses": {"lan": "127.50.0.11", "backbone": "127.0.0.11"}},
    {"name": "node2", "role": "node", "match": {"mac": ["52:54:00:5c:1c:02"]}, "addresses": {"lan": "127.50.0.12", "backbone": "127.0.0.1"}},
    {"name": "sci", "role": "service", "virtual": true, "addresses": {"lan": "127.50.0.20"}}
  ]
}`

func newLab(t *testing.T) *lab {
	t.Helper()
	w := &lab{t: t, nodes: make(map[string]*labNode)}
	var hosts []enrol.Host
	for _, name := range []string{"node1", "node2"} {
		hosts = append(hosts, enrol.Host{Name: name, FQDN: name + ".lab.example", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}})
	}
	credentials, err := enrol.Issue([]byte("the site's own secret of 32 byte"), hosts)
	if err != nil {
		t.Fatal(err)
	}
	w.credentials = credentials
	for _, name := range []string{"node1", "node2"} {
		n := &labNode{w: w, name: name, up: make(map[string]bool)}
		n.Node = &Node{Root: t.TempDir(), Runner: n, Version: "test", Say: n.hear, Journal: t.Output(), Pause: 20 * time.Millisecond,
			Probe:  func(context.Context, string, netip.Addr) (string, error) { return "", nil },
			Uptime: func() (string, time.Duration, error) { return "b00t", time.Minute, nil }}
		n.Addresses = n.hasAddresses
		s, err := site.FromJSON([]byte(clusterSite))
		if err != nil {
			t.Fatal(err)
		}
		n.Site = s
		n.Host, _ = s.Host(name)
		n.put("etc/sci/enrol.json", string(credentials[name].Bytes()), 0o600)
		n.put("etc/ssh/ssh_host_ed25519_key.pub", hostKey(name)+" root@"+name+"\n", 0o644)
		n.put("proc/cpuinfo", "processor : 0\nflags : fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 aes pclmulqdq\n", 0o644)
		n.put("run/.keep", "", 0o600)
		n.put("sys/class/net/lan/carrier", "1\n", 0o644)
		w.nodes[name] = n
		t.Cleanup(n.stopEnrolment)
	}
	return w
}

// rootKey is the key that gnt-cluster init makes.
const rootKey = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCyENHczQmg0x25RkSKXSesV0CcYzgbIoIxdxgJxxlnRrSGl4Yi7VuHqCp6itqHX03X6ASS5IZQRgab+e+fy51mrZ83slaoAjx7KJXTBVklt7Xmr7ODHMB1Y6c+PRFp7zsoA/zP+eoS5KMkHJSm8eeqezIu3vhUxQYPA1g59vfNSpfQaetSeH+kUUrAcx1IVjCr4QQHwqCN+xWUHyoSbwWf9e1YnPtL+UflXV93rPwWklId37+8DByJRXN8sJoSel0sh9+gMr2jVdL2G9eqrDK0sYzvGTjq9yuS3Zj0VnbTRdJ4TL84ktery0y+NM3AIoWx3B9gNJvy6T6aiwKYsuR1"

// hostKey is a key of its own for each host.
func hostKey(name string) string {
	if name == "node1" {
		return "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBpfn7MbkQM0lNWIiru/0VIAf8SkO0kez1YwN2+od3kx"
	}
	return "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBOfRjz6kSxxbYiv7nnOTTdk1iikKMsun9e/NjUUd1f9"
}

// hasAddresses are those in lan: the master has the cluster's.
func (n *labNode) hasAddresses(string) ([]netip.Prefix, error) {
	list := []netip.Prefix{netip.PrefixFrom(n.Host.Addresses[lan], 24)}
	if master, err := n.master(); n.left || master && err == nil && !n.deaf {
		list = append(list, netip.PrefixFrom(n.Site.Cluster.Address, 24))
	}
	return list, nil
}

func (n *labNode) hear(text string) {
	n.muted.Lock()
	defer n.muted.Unlock()
	n.said = append(n.said, text)
}

func (n *labNode) heard(part string) bool {
	n.muted.Lock()
	defer n.muted.Unlock()
	return slices.ContainsFunc(n.said, func(s string) bool { return strings.Contains(s, part) })
}

func (n *labNode) put(name, data string, mode os.FileMode) {
	n.w.t.Helper()
	if err := writeFile(n.path(name), []byte(data), mode); err != nil {
		n.w.t.Fatal(err)
	}
}

func (n *labNode) text(name string) string {
	data, _, err := n.read(name)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return string(data)
}

// Run does what the command would do, as far as the agent can see it.
func (n *labNode) Run(ctx context.Context, c run.Cmd) ([]byte, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	line := strings.Join(c.Argv, " ")
	n.w.calls = append(n.w.calls, n.name+": "+line)
	if n.w.fail != nil {
		if err := n.w.fail(n.name, line); err != nil {
			return nil, &run.Error{Argv: c.Argv, Output: "that failed\n", Err: err}
		}
	}
	out, err := n.does(c.Argv)
	if err != nil {
		err = &run.Error{Argv: c.Argv, Err: err}
	}
	return []byte(out), err
}

func (n *labNode) does(argv []string) (string, error) {
	last := argv[len(argv)-1]
	switch argv[0] + " " + argv[1] {
	case "/usr/bin/kvm -machine":
		return "pc                   Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-10.0)\nq35 x (alias of pc-q35-10.0)\n", nil
	case "/usr/lib/ganeti/daemon-util check":
		if !n.up[last] {
			return "", errors.New("exit status 1")
		}
	case "/usr/lib/ganeti/daemon-util stop-all":
		clear(n.up)
	case "systemctl show":
		return "ActiveState=" + map[bool]string{true: "failed", false: "active"}[n.startFailed] + "\n", nil
	case "systemctl reset-failed":
		n.startFailed = false
	case "systemctl start", "systemctl restart":
		if last == "sci-agent.service" {
			break
		}
		if master := n.text("var/lib/ganeti/ssconf_master_node"); master != "" {
			n.startDaemons(master == n.name+".lab.example\n")
		}
	case "ip address":
		n.left = false
	case "gnt-cluster init":
		if n.left {
			return "", errors.New("cluster IP already active")
		}
		n.put("root/.ssh/id_rsa.pub", rootKey+" root@node1\n", 0o644)
		n.put("var/lib/ganeti/ssconf_cluster_name", last+"\n", 0o644)
		n.put("var/lib/ganeti/ssconf_master_node", n.name+".lab.example\n", 0o644)
		n.write(&labConfig{Serial: 1}, argv)
		n.startDaemons(true)
	case "gnt-cluster activate-master-ip":
		n.deaf = false
	case "gnt-cluster modify":
		n.write(n.config(), argv)
	case "gnt-cluster redist-conf":
		for _, o := range n.w.nodes {
			if _, in := n.config().Nodes["u-"+o.name]; in {
				o.put("var/lib/ganeti/config.data", n.text("var/lib/ganeti/config.data"), 0o600)
			}
		}
	case "gnt-cluster verify":
		return "* Verifying global settings\n", nil
	case "gnt-node add":
		return "", n.add(strings.TrimSuffix(last, ".lab.example"))
	case "ssh -q":
		o := n.w.nodes[strings.TrimSuffix(strings.TrimPrefix(argv[len(argv)-2], "root@"), ".lab.example")]
		if !strings.Contains(o.text(authorizedKeys), rootKey) && o.name != "node1" {
			return "", errors.New("permission denied (publickey)")
		}
		return o.text("var/lib/ganeti/config.data"), nil
	case "gnt-cluster master-failover":
		n.put("var/lib/ganeti/ssconf_master_node", n.name+".lab.example\n", 0o644)
		n.startDaemons(true)
	case "env EXTRA_WCONFD_ARGS=--no-voting --yes-do-it":
		n.startDaemons(true)
	case "gnt-node modify", "gnt-instance failover", "gnt-instance activate-disks":
	case "ping -c":
		return "", errors.New("exit status 1")
	default:
		return "", fmt.Errorf("nobody taught the world %q", argv)
	}
	return "", nil
}

func (n *labNode) startDaemons(master bool) {
	n.up["ganeti-noded"] = true
	if master {
		n.up["ganeti-wconfd"], n.up["ganeti-luxid"] = true, true
	}
}

// add comes to the other machine as the master's root.
func (n *labNode) add(name string) error {
	o := n.w.nodes[name]
	if !strings.Contains(o.text(authorizedKeys), rootKey) {
		return errors.New("permission denied (publickey)")
	}
	key := strings.TrimSuffix(o.text("etc/ssh/ssh_host_ed25519_key.pub"), " root@"+name+"\n")
	if cfg := n.config(); cfg.Nodes["u-"+name].Name == "" && !strings.Contains(n.text("var/lib/ganeti/known_hosts"), name+".lab.example "+key) {
		return errors.New("host key verification failed")
	}
	cfg := n.config()
	cfg.Nodes["u-"+name] = labPeer{Name: name + ".lab.example", Candidate: true}
	n.write(cfg, nil)
	for _, f := range []string{"ssconf_cluster_name", "ssconf_master_node"} {
		o.put("var/lib/ganeti/"+f, n.text("var/lib/ganeti/"+f), 0o644)
	}
	o.put("var/lib/ganeti/ssconf_node_list", "node1.lab.example\nnode2.lab.example\n", 0o644)
	o.put("var/lib/ganeti/config.data", `{"serial_no": 1, "cluster": {"cluster_name": "stale"}}`, 0o600)
	o.startDaemons(false)
	return nil
}

type labPeer struct {
	Name      string `json:"name"`
	Candidate bool   `json:"master_candidate"`
	Offline   bool   `json:"offline"`
}

type labInstance struct {
	Name    string   `json:"name"`
	Primary string   `json:"primary_node"`
	Disks   []string `json:"disks"`
	Admin   string   `json:"admin_state"`
}

type labDisk struct {
	Type string `json:"dev_type"`
	ID   []any  `json:"logical_id"`
}

// labConfig is config.data, as far as anybody here looks.
type labConfig struct {
	Serial  int `json:"serial_no"`
	Cluster struct {
		Name       string                       `json:"cluster_name"`
		HVParams   map[string]map[string]string `json:"hvparams"`
		DiskParams map[string]map[string]string `json:"diskparams"`
		Reserved   []string                     `json:"reserved_lvs"`
	} `json:"cluster"`
	Nodes     map[string]labPeer     `json:"nodes"`
	Instances map[string]labInstance `json:"instances,omitempty"`
	Disks     map[string]labDisk     `json:"disks,omitempty"`
}

func (n *labNode) config() *labConfig {
	c := new(labConfig)
	if err := json.Unmarshal([]byte(n.text("var/lib/ganeti/config.data")), c); err != nil {
		n.w.t.Fatal(err)
	}
	return c
}

// write changes the configuration as the arguments of a command say.
func (n *labNode) write(c *labConfig, argv []string) {
	c.Serial++
	c.Cluster.Name = "cluster.lab.example"
	if c.Nodes == nil {
		c.Nodes = map[string]labPeer{"u-" + n.name: {Name: n.name + ".lab.example", Candidate: true}}
		c.Cluster.HVParams = map[string]map[string]string{"kvm": {}}
		c.Cluster.DiskParams = map[string]map[string]string{"drbd": {}}
	}
	for _, a := range argv {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "--hypervisor-parameters":
			assign(c.Cluster.HVParams["kvm"], strings.TrimPrefix(value, "kvm:"))
		case "--disk-parameters":
			assign(c.Cluster.DiskParams["drbd"], strings.TrimPrefix(value, "drbd:"))
		case "--reserved-lvs":
			c.Cluster.Reserved = strings.Split(value, ",")
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.put("var/lib/ganeti/config.data", string(data), 0o600)
}

func assign(m map[string]string, list string) {
	for kv := range strings.SplitSeq(list, ",") {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
}

// plan runs the cluster's steps of one node, those that need no kernel.
func (n *labNode) plan(ctx context.Context, tell func(Event)) error {
	var steps []Step
	for _, s := range n.clusterSteps() {
		if s.Name != "storage" && s.Name != "drbd" {
			steps = append(steps, s)
		}
	}
	p := Plan{Steps: steps, File: n.path(StateFile), First: 10 * time.Millisecond, Max: 50 * time.Millisecond, Tell: tell}
	return p.Run(ctx)
}

// together runs the plans of all nodes until they end.
func (w *lab) together() map[string]error {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	errs := make(map[string]error)
	var mu sync.Mutex
	var wait sync.WaitGroup
	for name, n := range w.nodes {
		wait.Go(func() {
			err := n.plan(ctx, nil)
			mu.Lock()
			defer mu.Unlock()
			errs[name] = err
		})
	}
	wait.Wait()
	return errs
}

func (w *lab) called(host, prefix string) int {
	n := 0
	for _, c := range w.calls {
		if strings.HasPrefix(c, host+": "+prefix) {
			n++
		}
	}
	return n
}

func TestClusterForms(t *testing.T) {
	w := newLab(t)
	one, two := w.nodes["node1"], w.nodes["node2"]
	for name, err := range w.together() {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg := one.config()
	want := map[string]string{"cpu_type": "Westmere", "machine_version": "pc-i440fx-10.0", "kernel_path": "", "initrd_path": "",
		"vnc_bind_address": "127.0.0.1", "serial_console": "true", "migration_bandwidth": "100"}
	if diff := cmp.Diff(want, cfg.Cluster.HVParams["kvm"]); diff != "" {
		t.Errorf("hypervisor parameters (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"xenvg/root", "xenvg/swap", "xenvg/system-.*"}, cfg.Cluster.Reserved); diff != "" {
		t.Errorf("reserved volumes (-want +got):\n%s", diff)
	}
	if len(cfg.Nodes) != 2 || cfg.Serial != two.config().Serial {
		t.Errorf("%d nodes; serial %d on the master, %d on the candidate", len(cfg.Nodes), cfg.Serial, two.config().Serial)
	}
	for _, n := range w.nodes {
		if n.exists(enrol.File) {
			t.Errorf("%s still has its credential", n.name)
		}
	}
	if !one.heard("cluster cluster.lab.example ready: 2 nodes") {
		t.Errorf("node1 said %q", one.said)
	}
	if !strings.Contains(two.text(variantFile), "SUITE=\"trixie\"") {
		t.Error("node2 has no definition of the operating system")
	}

	// A second run, as at the next boot, changes nothing.
	before := bytes.Clone([]byte(one.text("var/lib/ganeti/config.data")))
	w.calls, one.verified = nil, false
	for name, err := range w.together() {
		if err != nil {
			t.Errorf("%s, again: %v", name, err)
		}
	}
	for _, c := range w.calls {
		if !strings.Contains(c, "daemon-util check") && !strings.Contains(c, "systemctl show") && !strings.Contains(c, "verify") && !strings.Contains(c, "ssh -q") && !strings.Contains(c, "-machine help") {
			t.Errorf("the second run did: %s", c)
		}
	}
	if !bytes.Equal(before, []byte(one.text("var/lib/ganeti/config.data"))) {
		t.Error("the second run changed the configuration")
	}
}

// Ganeti gives the master the cluster's address once, and may fail.
func TestClusterAddress(t *testing.T) {
	w := newLab(t)
	one := w.nodes["node1"]
	one.deaf = true
	for name, err := range w.together() {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if one.deaf || w.called("node1", "gnt-cluster activate-master-ip") != 1 {
		t.Errorf("the master has not got the cluster's address: %q", w.calls)
	}
	// Another machine that has it is none's to take it from.
	one.deaf, one.Pause = true, time.Millisecond
	one.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) { c, _ := net.Pipe(); return c, nil }
	err := one.clusterDo(t.Context())
	if stop := new(StopError); !errors.As(err, &stop) || !strings.Contains(err.Error(), "another machine has the address") {
		t.Errorf("with the address taken: %v", err)
	}
}

// A master that was lost asked in vain for votes when it came back, and was taken
// in again: nothing stays that looks broken.
func TestClusterForgives(t *testing.T) {
	w := newLab(t)
	for name, err := range w.together() {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, n := range w.nodes {
		n.startFailed = true
		if done, err := n.clusterDone(t.Context()); done || err != nil {
			t.Errorf("%s, with the unit failed: clusterDone = %v, %v", n.name, done, err)
		}
		if err := n.clusterDo(t.Context()); err != nil {
			t.Errorf("%s: %v", n.name, err)
		}
		if done, err := n.clusterDone(t.Context()); !done || err != nil || n.startFailed {
			t.Errorf("%s: clusterDone = %v, %v, failed %v", n.name, done, err, n.startFailed)
		}
		if w.called(n.name, "systemctl reset-failed ganeti.service") != 1 {
			t.Errorf("%s: %q", n.name, w.calls)
		}
	}
}

// A cluster of one waits for nobody.
func TestClusterSingle(t *testing.T) {
	w := newLab(t)
	one := w.nodes["node1"]
	s, err := site.FromJSON([]byte(strings.Replace(clusterSite, `{"name": "node2", "role": "node"`, `{"name": "node2", "role": "arbiter"`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	one.Site = s
	one.Host, _ = s.Host("node1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := one.plan(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if !one.heard("cluster cluster.lab.example ready: 1 node,") || one.exists(enrol.File) {
		t.Errorf("node1 said %q", one.said)
	}
}

// A node that is not there yet is named, and comes in later.
func TestClusterWaits(t *testing.T) {
	w := newLab(t)
	one := w.nodes["node1"]
	waits := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- one.plan(ctx, func(e Event) {
			if e.Kind == Retry {
				waits <- e.Err.Error()
			}
		})
	}()
	select {
	case got := <-waits:
		if want := "waiting for node2 (127.0.0.1) to join"; got != want {
			t.Errorf("node1 says %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("node1 does not say for whom it waits")
	}
	if err := w.nodes["node2"].plan(t.Context(), nil); err != nil {
		t.Errorf("node2: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("node1: %v", err)
	}
	cancel()
}

// What was cut off or failed is done again.
func TestClusterRetries(t *testing.T) {
	w := newLab(t)
	var mu sync.Mutex
	failed := make(map[string]bool)
	w.fail = func(host, line string) error {
		mu.Lock()
		defer mu.Unlock()
		for _, cmd := range []string{"gnt-cluster init", "gnt-node add", "gnt-cluster modify", "gnt-cluster redist-conf", "gnt-cluster verify"} {
			if strings.HasPrefix(line, cmd) && !failed[cmd] {
				failed[cmd] = true
				w.nodes[host].left = cmd == "gnt-cluster init"
				return errors.New("exit status 1")
			}
		}
		return nil
	}
	for name, err := range w.together() {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(failed) != 5 {
		t.Errorf("only these were tried: %v", failed)
	}
	if got := w.called("node1", "/usr/lib/ganeti/daemon-util stop-all"); got != 1 {
		t.Errorf("a failed initialisation was cleared %d times, want once", got)
	}
	if got := w.called("node1", "ip address delete 127.50.0.10/24 dev lan"); got != 1 {
		t.Errorf("the cluster's address was taken off %d times, want once", got)
	}
}

// The addition of a node was cut off behind the change of the configuration.
func TestClusterReadds(t *testing.T) {
	w := newLab(t)
	cut := true
	w.fail = func(host, line string) error {
		if strings.HasPrefix(line, "gnt-node add") && cut {
			cut = false
			n := w.nodes[host]
			cfg := n.config()
			cfg.Nodes["u-node2"] = labPeer{Name: "node2.lab.example", Candidate: true}
			n.write(cfg, nil)
			return errors.New("killed")
		}
		return nil
	}
	for name, err := range w.together() {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.called("node1", "gnt-node add --readd node2.lab.example") != 1 {
		t.Errorf("commands: %s", strings.Join(w.calls, "\n"))
	}
}

func TestClusterStops(t *testing.T) {
	for _, test := range []struct {
		name string
		with func(w *lab) *labNode
		want string
		hint string
	}{
		{"another cluster", func(w *lab) *labNode {
			w.nodes["node1"].put("var/lib/ganeti/ssconf_cluster_name", "other.example\n", 0o644)
			return w.nodes["node1"]
		}, "this machine is a node of another cluster, other.example", "cluster.name"},
		{"address", func(w *lab) *labNode {
			w.nodes["node2"].Probe = func(_ context.Context, bridge string, a netip.Addr) (string, error) {
				return "52:54:00:00:00:99", nil
			}
			return w.nodes["node2"]
		}, "is in use by the machine with the network card 52:54:00:00:00:99", "another address"},
		{"address of the cluster", func(w *lab) *labNode {
			w.nodes["node1"].Probe = func(_ context.Context, bridge string, a netip.Addr) (string, error) {
				if a.String() == "127.50.0.10" {
					return "52:54:00:00:00:99", nil
				}
				return "", nil
			}
			return w.nodes["node1"]
		}, "the cluster's address, 127.50.0.10, is in use", "another address"},
		{"no credential", func(w *lab) *labNode {
			_ = os.Remove(w.nodes["node2"].path(enrol.File))
			return w.nodes["node2"]
		}, "this machine has no credential", "install it anew"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newLab(t)
			err := test.with(w).plan(t.Context(), nil)
			stop := new(StopError)
			if !errors.As(err, &stop) || !strings.Contains(err.Error(), test.want) || !strings.Contains(hint.Of(err), test.hint) {
				t.Errorf("%v (hint %q)", err, hint.Of(err))
			}
		})
	}
}

// A first node that was installed anew must not form a second cluster.
func TestClusterFirstNodeReturns(t *testing.T) {
	w := newLab(t)
	l, err := net.Listen("tcp", "127.50.0.12:1811")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	waits, advice := "", ""
	_ = w.nodes["node1"].plan(ctx, func(e Event) {
		if e.Kind == Retry {
			waits, advice = e.Err.Error(), hint.Of(e.Err)
		}
	})
	if w.called("node1", "gnt-cluster init") > 0 {
		t.Error("node1 formed a second cluster")
	}
	if want := "waiting for the master to answer: node2 (127.0.0.1)"; waits != want {
		t.Errorf("node1 says %q, want %q", waits, want)
	}
	if want := "sci-agent join node1"; !strings.Contains(advice, want) {
		t.Errorf("node1's hint is %q, want %q in it", advice, want)
	}
}

type runnerFunc func(c run.Cmd) ([]byte, error)

func (f runnerFunc) Run(_ context.Context, c run.Cmd) ([]byte, error) { return f(c) }

func TestStorage(t *testing.T) {
	for size, ok := range map[string]bool{"  31000.00\n": true, "  20480.00\n": true, "  20479.00\n": false} {
		n := &Node{Root: t.TempDir(), Runner: runnerFunc(func(run.Cmd) ([]byte, error) { return []byte(size), nil })}
		done, err := n.storageDone(t.Context())
		if err != nil || done != ok {
			t.Errorf("storageDone with %q = %v, %v", size, done, err)
		}
		stop := new(StopError)
		if err := n.storageDo(t.Context()); !ok && (!errors.As(err, &stop) || !strings.Contains(err.Error(), "20479 MiB")) {
			t.Errorf("storageDo with %q = %v", size, err)
		}
	}
}

func TestDRBD(t *testing.T) {
	var calls []string
	n := &Node{Root: t.TempDir()}
	load := func(helper string) {
		for name, value := range map[string]string{"usermode_helper": helper, "minor_count": "128"} {
			if err := writeFile(filepath.Join(n.Root, "sys/module/drbd/parameters", name), []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	n.Runner = runnerFunc(func(c run.Cmd) ([]byte, error) {
		line := strings.Join(c.Argv, " ")
		calls = append(calls, line)
		switch line {
		case "modprobe drbd":
			load("/bin/true")
		case "modprobe --remove drbd":
			return nil, os.RemoveAll(n.path("sys/module/drbd"))
		}
		return nil, nil
	})
	load("drbdadm") // it was loaded before its options were there
	if done, err := n.drbdDone(t.Context()); done || err != nil {
		t.Fatalf("drbdDone = %v, %v", done, err)
	}
	if err := n.drbdDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if done, err := n.drbdDone(t.Context()); !done || err != nil {
		t.Fatalf("drbdDone after drbdDo = %v, %v", done, err)
	}
	if diff := cmp.Diff([]string{"modprobe --remove drbd", "modprobe drbd"}, calls); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestCPUModel(t *testing.T) {
	w := newLab(t)
	n := w.nodes["node1"]
	old := strings.Fields("pni ssse3 lahf_lm")
	for _, test := range []struct {
		others [][]string
		want   string
	}{
		{nil, "Westmere"},
		{[][]string{strings.Fields("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3")}, "Nehalem"},
		{[][]string{old}, "Conroe"},
		{[][]string{{"fpu"}}, "qemu64"},
	} {
		if got, err := n.cpuModel(test.others); got != test.want || err != nil {
			t.Errorf("cpuModel(%v) = %q, %v; want %q", test.others, got, err, test.want)
		}
	}
	n.Site.Cluster.CPU = "EPYC-Rome"
	if got, err := n.cpuModel(nil); got != "EPYC-Rome" || err != nil {
		t.Errorf("cpuModel by the site = %q, %v", got, err)
	}
}
