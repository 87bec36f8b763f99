package ganeti

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/run"
)

// fake is a machine whose commands are recorded and answered by a function.
type fake struct {
	calls  []string
	answer func(line string) (string, error)
}

func (f *fake) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv, " ")
	f.calls = append(f.calls, line)
	if f.answer == nil {
		return nil, nil
	}
	out, err := f.answer(line)
	if err != nil {
		err = &run.Error{Argv: c.Argv, Output: out, Err: err}
	}
	return []byte(out), err
}

func newCluster(t *testing.T, f *fake, files map[string]string) *Cluster {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Cluster{Root: root, Runner: f}
}

func read(t *testing.T, c *Cluster, name string) string {
	t.Helper()
	data, err := os.ReadFile(c.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const config = `{
  "version": 3010000, "serial_no": 17,
  "cluster": {
    "cluster_name": "cluster.lab.example", "master_node": "u1",
    "hvparams": {"kvm": {"cpu_type": "Nehalem", "serial_console": true, "migration_bandwidth": 100, "kernel_path": "", "vga": null}},
    "diskparams": {"drbd": {"resync-rate": 61440, "net-custom": "", "dynamic-resync": false}, "plain": {"stripes": 1}},
    "reserved_lvs": ["xenvg/swap", "xenvg/root"]
  },
  "nodes": {
    "u2": {"name": "node2.lab.example", "primary_ip": "192.168.50.12", "secondary_ip": "10.101.200.12", "master_candidate": true, "offline": false, "drained": false},
    "u1": {"name": "node1.lab.example", "primary_ip": "192.168.50.11", "secondary_ip": "10.101.200.11", "master_candidate": true, "offline": false, "drained": false}
  },
  "instances": {"i1": {"name": "sci.lab.example", "primary_node": "u1", "admin_state": "up", "disks": ["d1", "d2"]}},
  "disks": {
    "d1": {"dev_type": "drbd", "logical_id": ["u1", "u2", 11000, 0, 3, "secret"]},
    "d2": {"dev_type": "plain", "logical_id": ["xenvg", "x"]}
  }
}`

func TestConfig(t *testing.T) {
	c := newCluster(t, &fake{}, map[string]string{"var/lib/ganeti/config.data": config})
	got, err := c.Config()
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Serial: 17, Name: "cluster.lab.example", Master: "node1.lab.example",
		Instances: []Instance{{"sci.lab.example", "node1.lab.example", []string{"node2.lab.example"}, true,
			map[string][]int{"node1.lab.example": {0}, "node2.lab.example": {3}}}},
		KVM:         map[string]string{"cpu_type": "Nehalem", "serial_console": "true", "migration_bandwidth": "100", "kernel_path": "", "vga": ""},
		DRBD:        map[string]string{"resync-rate": "61440", "net-custom": "", "dynamic-resync": "false"},
		ReservedLVs: []string{"xenvg/swap", "xenvg/root"},
		Nodes: []Node{
			{"node1.lab.example", "192.168.50.11", "10.101.200.11", true, false, false},
			{"node2.lab.example", "192.168.50.12", "10.101.200.12", true, false, false},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Config (-want +got):\n%s", diff)
	}
	if n, ok := got.Node("node2.lab.example"); !ok || n.Secondary != "10.101.200.12" {
		t.Errorf("Node = %v, %v", n, ok)
	}
	if _, ok := got.Node("node3.lab.example"); ok {
		t.Error("Node finds a node that is not there")
	}
}

func TestConfigBad(t *testing.T) {
	for _, data := range []string{"", "{}", `{"serial_no": 3}`, `{"serial_no": 0, "cluster": {"cluster_name": "x"}}`, `[]`, config[:200]} {
		if c, err := parseConfig([]byte(data)); err == nil {
			t.Errorf("parseConfig(%.40q) = %+v, want an error", data, c)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(config))
	f.Add([]byte(`{"serial_no":1,"cluster":{"cluster_name":"c","hvparams":{"kvm":{"a":[1]}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseConfig(data); err == nil && (c.Name == "" || c.Serial <= 0) {
			t.Errorf("accepted a configuration without name or serial: %+v", c)
		}
	})
}

func TestParameters(t *testing.T) {
	c, err := parseConfig([]byte(config))
	if err != nil {
		t.Fatal(err)
	}
	same := Parameters{KVM: map[string]string{"serial_console": "true", "kernel_path": ""},
		DRBD: map[string]string{"resync-rate": "61440"}, ReservedLVs: []string{"xenvg/root", "xenvg/swap"}}
	if d := same.Differ(c); !d.Empty() {
		t.Errorf("Differ of the same = %+v", d)
	}
	other := Parameters{KVM: map[string]string{"cpu_type": "Westmere", "serial_console": "true", "kvm_extra": `-a b,c\d`},
		DRBD: map[string]string{"net-custom": "--after-sb-0pri=disconnect"}, ReservedLVs: []string{"xenvg/root"}}
	f := &fake{}
	if err := newCluster(t, f, nil).Modify(t.Context(), other.Differ(c)); err != nil {
		t.Fatal(err)
	}
	want := []string{`gnt-cluster modify --hypervisor-parameters=kvm:cpu_type=Westmere,kvm_extra=-a b\,c\\d` +
		` --disk-parameters=drbd:net-custom=--after-sb-0pri=disconnect --reserved-lvs=xenvg/root`}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("Modify (-want +got):\n%s", diff)
	}
	f = &fake{}
	if err := newCluster(t, f, nil).Modify(t.Context(), Parameters{}); err != nil || len(f.calls) > 0 {
		t.Errorf("Modify of nothing: %v, %q", err, f.calls)
	}
}

func TestInit(t *testing.T) {
	f := &fake{}
	c := newCluster(t, f, nil)
	if name, err := c.Name(); name != "" || err != nil {
		t.Errorf("Name without a cluster = %q, %v", name, err)
	}
	err := c.Init(t.Context(), InitOptions{Name: "cluster.lab.example", Netmask: 24, Interface: "lan", Secondary: "10.101.200.11", Group: "xenvg",
		Parameters: Parameters{KVM: map[string]string{"kernel_path": ""}, DRBD: map[string]string{"resync-rate": "61440"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := "gnt-cluster init --enabled-hypervisors=kvm --enabled-disk-templates=drbd,plain --vg-name=xenvg --drbd-usermode-helper=/bin/true" +
		" --master-netdev=lan --master-netmask=24 --nic-parameters=mode=bridged,link=lan --default-iallocator=hail --no-etc-hosts" +
		" --hypervisor-parameters=kvm:kernel_path= --disk-parameters=drbd:resync-rate=61440 --secondary-ip=10.101.200.11 cluster.lab.example"
	if diff := cmp.Diff([]string{"systemctl start ganeti.service", want}, f.calls); diff != "" {
		t.Errorf("Init (-want +got):\n%s", diff)
	}
}

// tryWatcher locks as ganeti-watcher does when cron starts it (utils/filelock.py).
func tryWatcher(t *testing.T, c *Cluster) (release func(), ok bool) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(c.Root, "var/lock/ganeti-watcher.lock"), os.O_RDWR|os.O_CREATE, 0o664)
	if err != nil {
		t.Fatal(err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	return func() { _ = f.Close() }, err == nil
}

func TestInitHoldsWatcher(t *testing.T) {
	c := newCluster(t, nil, map[string]string{"var/lock/x": ""})
	busy, ok := tryWatcher(t, c)
	if !ok {
		t.Fatal("the watcher cannot work although nothing else does")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &fake{}
	c.Runner = f
	if err := c.Init(ctx, InitOptions{Name: "c"}); !errors.Is(err, context.Canceled) || len(f.calls) > 0 {
		t.Errorf("Init beside a watcher at work = %v, commands %q", err, f.calls)
	}
	busy()
	during := true
	f.answer = func(string) (string, error) {
		var free func()
		free, during = tryWatcher(t, c)
		free()
		return "", nil
	}
	if err := c.Init(t.Context(), InitOptions{Name: "c"}); err != nil {
		t.Fatal(err)
	}
	if during || len(f.calls) != 2 {
		t.Errorf("the watcher can work during gnt-cluster init: %v, commands %q", during, f.calls)
	}
	free, ok := tryWatcher(t, c)
	free()
	if !ok {
		t.Error("the watcher is held after gnt-cluster init")
	}
}

func TestReset(t *testing.T) {
	files := map[string]string{
		"var/lib/ganeti/config.data":         config,
		"var/lib/ganeti/ssconf_cluster_name": "cluster.lab.example\n",
		"var/lib/ganeti/server.pem":          "x",
		"var/lib/ganeti/queue/serial":        "1",
		"var/lib/ganeti/queue/archive/job-0": "x",
	}
	c := newCluster(t, &fake{}, files)
	if err := c.Reset(t.Context()); err == nil || !strings.Contains(err.Error(), "2 nodes") {
		t.Fatalf("Reset of a cluster of two = %v", err)
	}
	files["var/lib/ganeti/config.data"] = `{"serial_no": 1, "cluster": {"cluster_name": "c"}, "nodes": {"u1": {"name": "node1"}}}`
	f := &fake{}
	c = newCluster(t, f, files)
	if err := c.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if name, err := c.Name(); name != "" || err != nil {
		t.Errorf("Name after Reset = %q, %v", name, err)
	}
	left, _ := filepath.Glob(c.path("*"))
	if len(left) != 1 || filepath.Base(left[0]) != "queue" {
		t.Errorf("left: %q", left)
	}
	for _, dir := range []string{"queue/*", "queue/archive/*"} {
		left, _ := filepath.Glob(c.path(dir))
		for _, name := range left {
			if st, err := os.Stat(name); err != nil || !st.IsDir() {
				t.Errorf("left: %s, %v", name, err)
			}
		}
	}
	if diff := cmp.Diff([]string{"systemctl start ganeti.service", "/usr/lib/ganeti/daemon-util stop-all"}, f.calls); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestAddNode(t *testing.T) {
	f := &fake{}
	c := newCluster(t, f, map[string]string{
		"etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 MASTER root@node1\n",
		"etc/ssh/ssh_host_rsa_key.pub":     "ssh-rsa MASTER root@node1\n",
		"var/lib/ganeti/known_hosts":       "cluster.lab.example ssh-rsa CLUSTER\nnode2.lab.example ssh-ed25519 STALE\n",
		"var/lib/ganeti/ganeti_pub_keys":   "u1 ssh-rsa ONE\nnode2.lab.example ssh-rsa STALE\n",
	})
	if err := os.Chmod(c.path("known_hosts"), 0o640); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 { // it is a daemon's, which goes on writing it
		if err := os.Chown(c.path("known_hosts"), 64, 65); err != nil {
			t.Fatal(err)
		}
	}
	o := AddOptions{Name: "node2.lab.example", Secondary: "10.101.200.12", HostKeys: []string{"ssh-ed25519 TWO"}}
	if err := c.AddNode(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	o.Readd = true
	if err := c.AddNode(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	want := []string{"gnt-node add --secondary-ip=10.101.200.12 node2.lab.example", "gnt-node add --readd node2.lab.example"}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if got, want := read(t, c, "known_hosts"), "cluster.lab.example ssh-rsa CLUSTER\nnode2.lab.example ssh-ed25519 TWO\nnode2.lab.example ssh-rsa MASTER\n"; got != want {
		t.Errorf("known_hosts = %q, want %q", got, want)
	}
	info, err := os.Stat(c.path("known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o640 || os.Getuid() == 0 && (st.Uid != 64 || st.Gid != 65) {
		t.Errorf("known_hosts became %v of %d:%d", info.Mode(), st.Uid, st.Gid)
	}
	if got, want := read(t, c, "ganeti_pub_keys"), "u1 ssh-rsa ONE\n"; got != want {
		t.Errorf("ganeti_pub_keys = %q, want %q", got, want)
	}
}

func TestUp(t *testing.T) {
	down := ""
	f := &fake{answer: func(line string) (string, error) {
		if down != "" && strings.HasSuffix(line, down) {
			return "", errors.New("exit status 1")
		}
		return "", nil
	}}
	c := newCluster(t, f, nil)
	for _, test := range []struct {
		down   string
		master bool
		want   bool
	}{
		{"", true, true}, {"", false, true}, {"ganeti-noded", false, false}, {"ganeti-luxid", false, true}, {"ganeti-luxid", true, false},
	} {
		down = test.down
		if got, err := c.Up(t.Context(), test.master); got != test.want || err != nil {
			t.Errorf("Up(master %v) with %q down = %v, %v; want %v", test.master, test.down, got, err, test.want)
		}
	}
}

func TestVerify(t *testing.T) {
	bad := `Submitted jobs 21, 22
Sun Nov 22 20:11:02 2026 * Verifying global settings
Sun Nov 22 20:11:09 2026   - ERROR: node node2.lab.example: ssh communication with node 'node1.lab.example': timeout
Sun Nov 22 20:11:10 2026   - WARNING: hypervisor kvm parameter assessment: x
`
	f := &fake{answer: func(string) (string, error) { return bad, errors.New("exit status 1") }}
	v, err := newCluster(t, f, nil).Verify(t.Context())
	want := Verdict{Problems: []string{
		"ERROR: node node2.lab.example: ssh communication with node 'node1.lab.example': timeout",
		"WARNING: hypervisor kvm parameter assessment: x",
	}}
	if diff := cmp.Diff(want, v); diff != "" || err != nil {
		t.Errorf("Verify: %v (-want +got):\n%s", err, diff)
	}
	f.answer = func(string) (string, error) {
		return "Cannot communicate with the master daemon", errors.New("exit status 1")
	}
	if _, err := newCluster(t, f, nil).Verify(t.Context()); err == nil {
		t.Error("Verify hides that it could not check")
	}
	f.answer = func(string) (string, error) { return "* Verifying node status\n* Hooks Results\n", nil }
	if v, err := newCluster(t, f, nil).Verify(t.Context()); err != nil || len(v.Problems) > 0 {
		t.Errorf("Verify of a sound cluster = %v, %v", v, err)
	}
}

func TestTold(t *testing.T) {
	g := newCluster(t, &fake{}, map[string]string{
		"var/lib/ganeti/ssconf_cluster_name":      "cluster.lab.example\n",
		"var/lib/ganeti/ssconf_master_node":       "node1.lab.example\n",
		"var/lib/ganeti/ssconf_node_list":         "node1.lab.example\nnode2.lab.example\n",
		"var/lib/ganeti/ssconf_node_primary_ips":  "node1.lab.example 192.168.50.11\nnode2.lab.example 192.168.50.12\n",
		"var/lib/ganeti/ssconf_master_candidates": "node1.lab.example\n",
		"var/lib/ganeti/ssconf_offline_nodes":     "node2.lab.example\n",
		"var/lib/ganeti/ssconf_instance_list":     "web.lab.example\n",
	})
	got, err := g.Told()
	if err != nil {
		t.Fatal(err)
	}
	want := &Told{Name: "cluster.lab.example", Master: "node1.lab.example", Instances: []string{"web.lab.example"},
		Candidates: []string{"node1.lab.example"}, Nodes: []Node{
			{Name: "node1.lab.example", Primary: "192.168.50.11", Candidate: true},
			{Name: "node2.lab.example", Primary: "192.168.50.12", Offline: true},
		}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Told (-want +got):\n%s", diff)
	}
	if got, err := newCluster(t, &fake{}, nil).Told(); err != nil || got.Name != "" || got.Nodes != nil {
		t.Errorf("Told outside of a cluster = %+v, %v", got, err)
	}
}
