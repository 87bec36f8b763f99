package agent

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/site"
)

// formed is a lab whose two nodes are a cluster.
func formed(t *testing.T) *lab {
	t.Helper()
	w := newLab(t)
	for _, n := range w.nodes {
		n.put("etc/sci/site.json", clusterSite, 0o600)
		n.put("etc/sci/host", n.name+"\n", 0o644)
	}
	for name, err := range w.together() {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	w.calls = nil
	return w
}

// reinstalled makes a node anew: it has the credential of its medium again, and
// SSH keys that nobody knows.
func (w *lab) reinstalled(name string) {
	n := w.nodes[name]
	for _, dir := range []string{"var/lib/ganeti", "var/lib/sci", "root/.ssh"} {
		if err := os.RemoveAll(n.path(dir)); err != nil {
			w.t.Fatal(err)
		}
	}
	clear(n.up)
	n.put("etc/sci/enrol.json", string(w.credentials[name].Bytes()), 0o600)
	n.put("etc/ssh/ssh_host_ed25519_key.pub", strangeKey+" root@"+name+"\n", 0o644)
	n.asked, n.Node.enrolment = false, nil
}

const strangeKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

func TestJoinUsedCredential(t *testing.T) {
	w := formed(t)
	w.reinstalled("node2")
	one, two := w.nodes["node1"], w.nodes["node2"]
	if err := one.serve(); err != nil { // another node may still come
		t.Fatal(err)
	}
	err := two.plan(t.Context(), nil)
	stop := new(StopError)
	if !errors.As(err, &stop) || !strings.Contains(err.Error(), "refuses to let this machine join") || !strings.Contains(hint.Of(err), "sci-agent join node2") {
		t.Errorf("node2: %v (hint %q)", err, hint.Of(err))
	}
	if !one.heard("REFUSED node2 at 127.0.0.1") {
		t.Errorf("node1 said %q", one.said)
	}
}

func TestAdmitReinstalled(t *testing.T) {
	w := formed(t)
	w.reinstalled("node2")
	one := w.nodes["node1"]
	var out bytes.Buffer
	if err := one.Admit(t.Context(), AdmitOptions{Host: "node2", Out: &out}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "node2 may join within 24h0m0s of running; switch it on. This machine's console says when it is in\n"; got != want {
		t.Errorf("Admit says %q, want %q", got, want)
	}
	if w.called("node1", "systemctl restart --no-block sci-agent.service") != 1 {
		t.Errorf("the service was not told: %q", w.calls)
	}
	one.verified = false
	for name, err := range w.together() {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.called("node1", "gnt-node add --readd node2.lab.example") == 0 || w.called("node1", "gnt-node add --sec") > 0 {
		t.Errorf("commands: %s", strings.Join(w.calls, "\n"))
	}
	if !strings.Contains(one.text("var/lib/ganeti/known_hosts"), "node2.lab.example "+strangeKey) {
		t.Error("the new machine's key is not the one that is expected")
	}
}

// A node that was lost and is as it was needs no credential.
func TestAdmitLost(t *testing.T) {
	w := formed(t)
	one := w.nodes["node1"]
	cfg := one.config()
	cfg.Nodes["u-node2"] = labPeer{Name: "node2.lab.example", Candidate: true, Offline: true}
	cfg.Instances = map[string]labInstance{"i1": {"web.lab.example", "u-node1", []string{"d1"}, "up"}}
	cfg.Disks = map[string]labDisk{"d1": {"drbd", []any{"u-node1", "u-node2", 11000, 0, 0, "x"}}}
	one.write(cfg, nil)
	var out bytes.Buffer
	if err := one.Admit(t.Context(), AdmitOptions{Host: "node2", Out: &out}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range w.calls {
		if strings.Contains(c, "gnt-") {
			got = append(got, c)
		}
	}
	want := []string{"node1: gnt-node add --readd node2.lab.example", "node1: gnt-instance activate-disks web.lab.example"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if !strings.Contains(out.String(), "node2 is in the cluster again") {
		t.Errorf("Admit says %q", out.String())
	}
}

func TestAdmitRefuses(t *testing.T) {
	w := formed(t)
	for _, test := range []struct{ on, host, want, hint string }{
		{"node2", "node1", "this machine is not the master", "node1.lab.example"},
		{"node1", "node9", `the site has no host "node9"`, "node1, node2"},
		{"node1", "sci", "no node of the cluster: its role is service", ""},
		{"node1", "node1", "this machine, the master", ""},
	} {
		err := w.nodes[test.on].Admit(t.Context(), AdmitOptions{Host: test.host})
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(hint.Of(err), test.hint) {
			t.Errorf("Admit(%s) on %s = %v (hint %q)", test.host, test.on, err, hint.Of(err))
		}
	}
}

func TestSameCluster(t *testing.T) {
	parse := func(s string) *site.Site {
		t.Helper()
		parsed, err := site.FromJSON([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	old := parse(clusterSite)
	longer := strings.Replace(clusterSite, `{"name": "sci"`,
		`{"name": "node3", "role": "node", "match": {"mac": ["52:54:00:5c:1c:03"]}, "addresses": {"lan": "127.50.0.13", "backbone": "127.0.0.13"}}, {"name": "sci"`, 1)
	if err := sameCluster(old, parse(longer)); err != nil {
		t.Errorf("a longer site file: %v", err)
	}
	for name, change := range map[string][2]string{
		"site":    {`"name": "lab"`, `"name": "other"`},
		"cluster": {`"127.50.0.10"`, `"127.50.0.9"`},
		"address": {`"127.50.0.12"`, `"127.50.0.99"`},
		"node":    {`"name": "node2"`, `"name": "node4"`},
	} {
		if err := sameCluster(old, parse(strings.Replace(clusterSite, change[0], change[1], 1))); err == nil {
			t.Errorf("another %s was taken", name)
		}
	}
}

func TestReadMedium(t *testing.T) {
	w := newLab(t)
	n := w.nodes["node1"]
	key, err := pgp.NewKey("site", "", "site@example", time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	n.put(mediumKeyring, string(key.Public()), 0o644)
	initrd := fakeInitrd(t, map[string]string{"sci/site.json": clusterSite, "sci/enrol/node1.json": string(w.credentials["node1"].Bytes())})
	n.put("media/sci/install/initrd.gz", string(initrd), 0o600)
	sums := fmt.Sprintf("%x  ./install/initrd.gz\n", sha256.Sum256(initrd))
	n.put("media/sci/SHA256SUMS", sums, 0o644)
	signature, err := key.DetachSign(strings.NewReader(sums), time.Unix(1700000000, 0), true)
	if err != nil {
		t.Fatal(err)
	}
	n.put("media/sci/SHA256SUMS.asc", string(signature), 0o644)
	m, err := n.readMedium(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if m.site.Name != "lab" || m.credential == nil || m.credential.Host != "node1" {
		t.Errorf("readMedium = %+v", m)
	}
	n.put("media/sci/SHA256SUMS", sums+"x", 0o644)
	if _, err := n.readMedium(t.Context(), ""); err == nil {
		t.Error("a changed list was believed")
	}
	n.put("media/sci/SHA256SUMS", sums, 0o644)
	changed := bytes.Clone(initrd)
	changed[10] ^= 1 // in the time of gzip's header: nothing else changes
	n.put("media/sci/install/initrd.gz", string(changed), 0o600)
	if _, err := n.readMedium(t.Context(), ""); err == nil {
		t.Error("a changed initrd was believed")
	}
}

// fakeInitrd is something in gzip, an archive of no interest and one of files, in
// zstd, with padding behind each.
func fakeInitrd(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_ = tar.NewWriter(z).Close()
	_ = z.Close()
	zeros := strings.Repeat("\x00", 1<<20) // a block of its own kind
	for i, files := range []map[string]string{{"sci/site.json": "that of an earlier archive", "usr/zeros": zeros}, files} {
		b.Write(make([]byte, 3-i))
		d, err := zstd.NewWriter(&b, zstd.WithEncoderCRC(i == 0))
		if err != nil {
			t.Fatal(err)
		}
		a := cpio.NewWriter(d)
		for name, data := range files {
			err := errors.Join(a.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o600, Size: int64(len(data))}))
			if _, werr := a.Write([]byte(data)); errors.Join(err, werr) != nil {
				t.Fatal(err, werr)
			}
		}
		if err := errors.Join(a.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(make([]byte, 2))
	return b.Bytes()
}

func FuzzOurFiles(f *testing.F) {
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if files, err := ourFiles(bytes.NewReader(data), mediumSite); err == nil && files[mediumSite] == nil {
			t.Error("no error and no site")
		}
	})
}

func TestTakeOver(t *testing.T) {
	w := formed(t)
	two := w.nodes["node2"]
	withInstance := func() {
		cfg := two.config()
		cfg.Instances = map[string]labInstance{
			"i1": {"web.lab.example", "u-node1", []string{"d1"}, "up"},
			"i2": {"scratch.lab.example", "u-node1", nil, "up"},
		}
		cfg.Disks = map[string]labDisk{"d1": {"drbd", []any{"u-node1", "u-node2", 11000, 0, 0, "x"}}}
		two.write(cfg, nil)
	}
	withInstance()
	refused := func(what, want, advice string, o TakeOverOptions) {
		t.Helper()
		err := two.TakeOver(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(hint.Of(err), advice) {
			t.Errorf("%s: %v (hint %q)", what, err, hint.Of(err))
		}
		if w.called("node2", "gnt-") > 0 {
			t.Fatalf("%s: it did %q", what, w.calls)
		}
	}
	refused("nothing said", "that does not mean that it is off", "--powered-off node1", TakeOverOptions{})
	off := TakeOverOptions{PoweredOff: []string{"node1"}}
	l, err := net.Listen("tcp", "127.50.0.11:1811")
	if err != nil {
		t.Fatal(err)
	}
	refused("it lives", "node1 is alive: it answers on lan", "gnt-cluster master-failover", off)
	_ = l.Close()
	two.put("proc/drbd", " 0: cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----\n", 0o444)
	refused("a disk is connected", "is alive: a mirrored disk", "/proc/drbd", off)
	two.put("proc/drbd", " 0: cs:WFConnection ro:Secondary/Unknown ds:UpToDate/DUnknown C r-----\n", 0o444)

	first := true
	w.fail = func(_, line string) error {
		if strings.HasPrefix(line, "gnt-cluster master-failover") && first { // FACTS: the first try returns 1
			first = false
			return errors.New("exit status 1")
		}
		return nil
	}
	var out bytes.Buffer
	off.Out = &out
	if err := two.TakeOver(t.Context(), off); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range w.calls {
		if strings.Contains(c, "gnt-") {
			got = append(got, strings.TrimPrefix(c, "node2: "))
		}
	}
	want := []string{
		"gnt-cluster master-failover --no-voting --yes-do-it", "gnt-cluster master-failover --no-voting --yes-do-it",
		"gnt-node modify --offline=yes --auto-promote node1.lab.example",
		"gnt-instance failover -f web.lab.example",
		"gnt-cluster redist-conf",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	for _, want := range []string{"scratch.lab.example has its disk on node1.lab.example alone: it stays down", "node2.lab.example is the master"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it says %q; want %q", out.String(), want)
		}
	}
}

// After a power cut of the whole site one machine is left, and it is the master.
func TestTakeOverByMaster(t *testing.T) {
	w := formed(t)
	one := w.nodes["node1"]
	one.Addresses = func(string) ([]netip.Prefix, error) { return nil, nil }
	clear(one.up)
	err := one.TakeOver(t.Context(), TakeOverOptions{})
	if err == nil || !strings.Contains(hint.Of(err), "--powered-off node2") || w.called("node1", "env ") > 0 {
		t.Errorf("%v (hint %q)", err, hint.Of(err))
	}
	l, err := net.Listen("tcp", "127.50.0.12:22")
	if err != nil {
		t.Fatal(err)
	}
	off := TakeOverOptions{PoweredOff: []string{"node2"}}
	if err := one.TakeOver(t.Context(), off); err == nil || !strings.Contains(err.Error(), "node2 is alive") {
		t.Errorf("with node2 alive: %v", err)
	}
	one.startDaemons(true) // a master that is up must not drop a living node either
	if err := one.TakeOver(t.Context(), off); err == nil || w.called("node1", "gnt-node") > 0 {
		t.Errorf("with node2 alive and the daemons up: %v", err)
	}
	_ = l.Close()
	clear(one.up)
	if err := one.TakeOver(t.Context(), off); err != nil {
		t.Fatal(err)
	}
	const want = "env EXTRA_WCONFD_ARGS=--no-voting --yes-do-it EXTRA_LUXID_ARGS=--no-voting --yes-do-it /usr/lib/ganeti/daemon-util start-master"
	if w.called("node1", want) != 1 || w.called("node1", "gnt-node modify --offline=yes --auto-promote node2.lab.example") != 1 {
		t.Errorf("commands: %s", strings.Join(w.calls, "\n"))
	}
}

// The lost master comes back and must not be one again.
func TestTakenOver(t *testing.T) {
	w := formed(t)
	one := w.nodes["node1"]
	clear(one.up)
	one.Addresses = func(string) ([]netip.Prefix, error) {
		return []netip.Prefix{netip.MustParsePrefix("127.50.0.11/24")}, nil
	}
	l, err := net.Listen("tcp", "127.50.0.10:1811")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	err = one.plan(t.Context(), nil)
	stop := new(StopError)
	if !errors.As(err, &stop) || !strings.Contains(err.Error(), "another node has taken its place") || !strings.Contains(hint.Of(err), "sci-agent join node1") {
		t.Errorf("%v (hint %q)", err, hint.Of(err))
	}
	if one.up["ganeti-luxid"] {
		t.Error("it started the master's daemons")
	}
}
