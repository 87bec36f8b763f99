package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

const labSite = `{
  "apiVersion": "sci-cd/v1", "name": "lab", "domain": "lab.example", "release": "trixie",
  "networks": {
    "backbone": {"subnet": "10.101.200.0/24"},
    "lan": {"subnet": "192.168.50.0/24", "gateway": "192.168.50.1", "dns": ["192.168.50.1"], "ntp": ["192.168.50.1", "ntp.lab.example"]}
  },
  "cluster": {"name": "cluster", "address": "192.168.50.10"},
  "hosts": [
    {"name": "node1", "role": "node", "match": {"mac": ["52:54:00:5c:1c:01", "52:54:00:5c:1c:02"], "serial": "SN-1"},
     "addresses": {"lan": "192.168.50.11", "backbone": "10.101.200.11"}},
    {"name": "node2", "role": "node", "match": {"mac": ["52:54:00:5c:2c:01"]},
     "addresses": {"lan": "192.168.50.12", "backbone": "10.101.200.12"}},
    {"name": "sci", "role": "service", "virtual": true, "addresses": {"lan": "192.168.50.2"}}
  ]
}`

// machine is a fake root directory and a fake runner that behave like the
// machine: hostname(1) changes the kernel's name, networkd makes bridges.
type machine struct {
	t     *testing.T
	root  string
	calls []string
	fail  map[string]error          // by the whole command line
	units map[string]*unit          // by name
	addrs map[string][]netip.Prefix // by interface
	deaf  bool                      // networkd does nothing
	node  *Node
}

func newMachine(t *testing.T, host string) *machine {
	t.Helper()
	m := &machine{
		t: t, root: t.TempDir(), fail: make(map[string]error), addrs: make(map[string][]netip.Prefix),
		units: map[string]*unit{networkd: {}, "chrony.service": {enabled: true, active: true}},
	}
	m.node = &Node{Root: m.root, Runner: m, Settle: time.Millisecond,
		Addresses: func(iface string) ([]netip.Prefix, error) { return m.addrs[iface], nil }}
	// The plan of one machine; clusters are made in cluster_test.go.
	m.write("etc/sci/site.json", strings.Replace(labSite, `"name": "node1", "role": "node"`, `"name": "node1", "role": "solo"`, 1))
	m.write("etc/sci/host", host+"\n")
	m.write("sys/class/dmi/id/product_serial", "SN-1\n")
	m.write("proc/sys/kernel/hostname", "localhost\n")
	m.card("enp1s0", "52:54:00:5c:1c:01", true)
	m.card("enp2s0", "52:54:00:5c:1c:02", true)
	return m
}

func (m *machine) write(name, data string) {
	m.t.Helper()
	p := filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(data)
}

func (m *machine) card(name, mac string, link bool) {
	dir := "sys/class/net/" + name
	m.write(dir+"/address", mac+"\n")
	m.write(dir+"/type", "1\n")
	m.write(dir+"/device/vendor", "0x1af4\n")
	m.write(dir+"/carrier", map[bool]string{true: "1\n", false: "0\n"}[link])
}

// Run is the fake runner.
func (m *machine) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv, " ")
	m.calls = append(m.calls, line)
	if err := m.fail[line]; err != nil {
		return nil, err
	}
	u := m.units[c.Argv[len(c.Argv)-1]]
	switch {
	case c.Argv[0] == "hostname":
		m.write("proc/sys/kernel/hostname", c.Argv[1]+"\n")
	case strings.HasPrefix(line, "systemctl show ") && u != nil:
		active, enabled := "inactive", "disabled"
		if u.active {
			active = "active"
		}
		if u.enabled {
			enabled = "enabled"
		}
		return fmt.Appendf(nil, "ActiveState=%s\nUnitFileState=%s\n", active, enabled), nil
	case strings.HasPrefix(line, "systemctl ") && u != nil:
		u.enabled = u.enabled || strings.Contains(line, " enable ")
		u.active = u.active || strings.Contains(line, " start ") || strings.Contains(line, " --now ")
		m.networkd()
	case line == "networkctl reload":
		m.networkd()
	case line == "mount /media/sci":
		m.write("media/sci/dists/trixie/Release", "Codename: trixie\nComponents: main non-free-firmware\n")
	case line == "agetty --reload", line == "udevadm settle --timeout=120", line == "chronyc reload sources":
	default:
		m.t.Errorf("unexpected command %q", line)
	}
	return nil, nil
}

// networkd does what systemd-networkd would do with the files.
func (m *machine) networkd() {
	if m.deaf || !m.units[networkd].active {
		return
	}
	ports, _ := filepath.Glob(filepath.Join(m.root, networkDir, "10-sci-*-port.network"))
	for _, p := range ports {
		name := strings.TrimPrefix(path.Base(p), "10-sci-")
		bridge := strings.TrimSuffix(name, "-port.network")
		mac := m.node.chosen(bridge)
		for _, c := range m.node.nics() {
			if c.mac == mac {
				_ = os.Symlink("../"+bridge, filepath.Join(m.root, "sys/class/net", c.name, "master"))
			}
		}
		m.write("sys/class/net/"+bridge+"/type", "1\n")
		m.addrs[bridge] = nil
		for l := range strings.Lines(m.read(networkDir + "10-sci-" + bridge + ".network")) {
			if a, ok := strings.CutPrefix(strings.TrimSpace(l), "Address="); ok {
				m.addrs[bridge] = append(m.addrs[bridge], netip.MustParsePrefix(a))
			}
		}
	}
}

// step runs one step of the plan as the plan would, without a retry.
func (m *machine) step(name string) error {
	m.t.Helper()
	if m.node.Host == nil {
		if ok, err := m.node.identityDone(m.t.Context()); !ok || err != nil {
			m.t.Fatalf("identity = %v, %v", ok, err)
		}
	}
	steps := m.node.Steps()
	s := steps[slices.IndexFunc(steps, func(s Step) bool { return s.Name == name })]
	if done, err := s.Done(m.t.Context()); done || err != nil {
		return err
	}
	if err := s.Do(m.t.Context()); err != nil {
		return err
	}
	done, err := s.Done(m.t.Context())
	if err == nil && !done {
		return errors.New("not done after Do")
	}
	return err
}

// changes are the commands that were run, questions left out.
func (m *machine) changes() []string {
	var list []string
	for _, s := range m.calls {
		if !strings.HasPrefix(s, "systemctl show ") && s != "agetty --reload" && !strings.HasPrefix(s, "udevadm ") {
			list = append(list, s)
		}
	}
	return list
}

func (m *machine) wantFile(name, want string) {
	m.t.Helper()
	if d := cmp.Diff(want, m.read(name)); d != "" {
		m.t.Errorf("%s (-want +got):\n%s", name, d)
	}
	if info, _ := os.Stat(filepath.Join(m.root, name)); info.Mode() != 0o644 {
		m.t.Errorf("%s has mode %v; want 0644", name, info.Mode())
	}
}

func (m *machine) wantChanges(want ...string) {
	m.t.Helper()
	if d := cmp.Diff(want, m.changes()); d != "" {
		m.t.Errorf("commands (-want +got):\n%s", d)
	}
}

func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		summary  string
		host     string
		set      func(*machine)
		err, tip string
	}{
		{"the machine of the site file", "node1", nil, "", ""},
		{"by its full name", "node1.lab.example", nil, "", ""},
		{"a virtual host is believed", "sci", nil, "", ""},
		{"no name", "", nil, "cannot tell which host this is: no name in /etc/sci/host",
			"write the host's name, as in the site file, into /etc/sci/host"},
		{"a name the site has not", "node3", nil,
			`cannot tell which host this is: /etc/sci/host says "node3", which the site file does not have`,
			"hosts of site lab: node1, node2, sci"},
		{"the disk of node2 in node1's case", "node2", nil,
			"this machine is not host node2: it should have the MAC address 52:54:00:5c:2c:01, it has 52:54:00:5c:1c:01 (enp1s0), 52:54:00:5c:1c:02 (enp2s0)",
			"if the hardware was replaced, mend the match of node2 in /etc/sci/site.json; if a disk was moved, install anew"},
		{"another case with the same card", "node1",
			func(m *machine) { m.write("sys/class/dmi/id/product_serial", "SN-7\n") },
			`this machine is not host node1: its serial number should be "SN-1", it is "SN-7"`,
			"if the hardware was replaced, mend the match of node1 in /etc/sci/site.json; if a disk was moved, install anew"},
		{"no site file", "node1", func(m *machine) { _ = os.Remove(filepath.Join(m.root, "etc/sci/site.json")) },
			"cannot read the site at /etc/sci/site.json: file does not exist",
			"the installer writes it; copy it from another node or install anew"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			m := newMachine(t, c.host)
			if c.set != nil {
				c.set(m)
			}
			m.node.firstLook = time.Now().Add(-cardPatience)
			done, err := m.node.identityDone(t.Context())
			if !done && err == nil {
				err = m.node.identityDo(t.Context())
			}
			if c.err == "" {
				if !done || err != nil || m.node.Host == nil {
					t.Errorf("identity = %v, %v; want done", done, err)
				}
				return
			}
			var stop *StopError
			if done || !errors.As(err, &stop) || err.Error() != c.err || hint.Of(err) != c.tip {
				t.Errorf("identity = %v\n%v\nhint: %s\nwant a stop with\n%s\nhint: %s", done, err, hint.Of(err), c.err, c.tip)
			}
		})
	}
}

// On a real first boot the service started 40 s before udev had loaded the
// card's driver, and took the machine for a wrong one.
func TestIdentityCardAppearsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, "node2")
		s := m.node.Steps()[0]
		var ev events
		p := Plan{Steps: []Step{s}, File: filepath.Join(t.TempDir(), "state.json"), Tell: ev.tell}
		time.AfterFunc(5*time.Second, func() { m.card("enp3s0", "52:54:00:5c:2c:01", true) })
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := "retry identity 1 1s waiting for the network card of host node2: it should have"; !strings.HasPrefix(ev[1], want) || m.node.Host.Name != "node2" {
			t.Errorf("events = %q; want a wait, then ok", ev)
		}
	})
}

func TestIdentityCardNeverAppears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, "node2")
		p := Plan{Steps: m.node.Steps(), File: filepath.Join(t.TempDir(), "state.json")}
		start := time.Now()
		var stop *StopError
		if err := p.Run(t.Context()); !errors.As(err, &stop) || time.Since(start) < cardPatience || time.Since(start) > 2*cardPatience {
			t.Errorf("Run = %v after %v; want a stop after %v", err, time.Since(start), cardPatience)
		}
	})
}

func TestIdentityBrokenSite(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("etc/sci/site.json", labSite[:200])
	_, err := m.node.identityDone(t.Context())
	var stop *StopError
	if !errors.As(err, &stop) || !strings.HasPrefix(err.Error(), "cannot read the site at /etc/sci/site.json: ") {
		t.Errorf("identity = %v; want a stop that names the file", err)
	}
}

func TestHostname(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("etc/hosts", `127.0.0.1	localhost
127.0.1.1	node1.lab.example	node1

# The following lines are desirable for IPv6 capable hosts
::1     localhost ip6-localhost ip6-loopback
10.0.0.9 printer node2 # third floor
10.0.0.8 cluster.lab.example
`)
	if err := m.step("hostname"); err != nil {
		t.Fatal(err)
	}
	m.wantFile("etc/hostname", "node1.lab.example\n")
	want := `# BEGIN sci-agent: from /etc/sci/site.json; lines outside this block are yours
192.168.50.10	cluster.lab.example cluster
192.168.50.11	node1.lab.example node1
192.168.50.12	node2.lab.example node2
192.168.50.2	sci.lab.example sci apt.lab.example apt ntp.lab.example ntp puppet.lab.example puppet
# END sci-agent
127.0.0.1	localhost

# The following lines are desirable for IPv6 capable hosts
::1     localhost ip6-localhost ip6-loopback
10.0.0.9	printer # third floor
`
	m.wantFile("etc/hosts", want)
	m.wantChanges("hostname node1.lab.example")

	// Again: nothing to do. A line of the admin's stays, ours is mended.
	if err := m.step("hostname"); err != nil {
		t.Fatal(err)
	}
	m.wantChanges("hostname node1.lab.example")
	m.write("etc/hosts", strings.Replace(want, "192.168.50.12", "192.168.50.99", 1)+"10.0.0.7\tbackup\n")
	if err := m.step("hostname"); err != nil {
		t.Fatal(err)
	}
	m.wantFile("etc/hosts", want+"10.0.0.7\tbackup\n")
}

func TestHostsWithoutAFile(t *testing.T) {
	m := newMachine(t, "sci")
	if err := m.step("hostname"); err != nil {
		t.Fatal(err)
	}
	m.wantFile("etc/hosts", `# BEGIN sci-agent: from /etc/sci/site.json; lines outside this block are yours
192.168.50.10	cluster.lab.example cluster
192.168.50.11	node1.lab.example node1
192.168.50.12	node2.lab.example node2
192.168.50.2	sci.lab.example sci apt.lab.example apt ntp.lab.example ntp puppet.lab.example puppet
# END sci-agent
127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`)
}

// A block whose end was deleted must not take the rest of the file with it.
func TestHostsBlockWithoutEnd(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("etc/hosts", "127.0.0.1 localhost\n# BEGIN sci-agent: x\n192.168.50.11 node1\n10.0.0.7 backup\n")
	if err := m.step("hostname"); err != nil {
		t.Fatal(err)
	}
	if got := m.read("etc/hosts"); !strings.Contains(got, "10.0.0.7 backup\n") || strings.Count(got, "BEGIN") != 1 {
		t.Errorf("etc/hosts =\n%s", got)
	}
}

const head = "# Written by sci-agent (step networks) from /etc/sci/site.json. Changes here are undone at the next boot.\n"

func TestNetworks(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("etc/network/interfaces", "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\nallow-hotplug enp1s0\niface enp1s0 inet dhcp\n")
	m.write("etc/resolv.conf", "nameserver 9.9.9.9\n")
	m.write(networkDir+"10-sci-old.network", "x")
	m.write(networkDir+"20-admin.network", "x")
	if err := m.step("networks"); err != nil {
		t.Fatal(err)
	}
	m.wantFile(networkDir+"10-sci-lan.netdev", head+"[NetDev]\nName=lan\nKind=bridge\nMACAddress=52:54:00:5c:1c:01\n\n[Bridge]\nSTP=no\nForwardDelaySec=0\n")
	m.wantFile(networkDir+"10-sci-lan-port.network", head+"[Match]\nPermanentMACAddress=52:54:00:5c:1c:01\nType=ether\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nBridge=lan\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n")
	m.wantFile(networkDir+"10-sci-lan.network", head+"[Match]\nName=lan\n\n[Link]\nRequiredForOnline=no-carrier\n\n[Network]\nConfigureWithoutCarrier=yes\nIPv6AcceptRA=no\nAddress=192.168.50.11/24\nGateway=192.168.50.1\nDNS=192.168.50.2\nDNS=192.168.50.1\nDomains=lab.example\n")
	m.wantFile(networkDir+"10-sci-backbone-port.network", head+"[Match]\nPermanentMACAddress=52:54:00:5c:1c:02\nType=ether\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nBridge=backbone\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n")
	m.wantFile(networkDir+"10-sci-backbone.network", head+"[Match]\nName=backbone\n\n[Link]\nRequiredForOnline=no-carrier\n\n[Network]\nConfigureWithoutCarrier=yes\nIPv6AcceptRA=no\nAddress=10.101.200.11/24\n")
	m.wantFile("etc/resolv.conf", head+"search lab.example\nnameserver 192.168.50.2\nnameserver 192.168.50.1\noptions timeout:1 attempts:2\n")
	m.wantFile("etc/network/interfaces", head+"# systemd-networkd configures the network, see /etc/systemd/network. The file as it was: /etc/network/interfaces.before-sci\nauto lo\niface lo inet loopback\n")
	m.wantFile("etc/network/interfaces.before-sci", "source /etc/network/interfaces.d/*\nauto lo\niface lo inet loopback\nallow-hotplug enp1s0\niface enp1s0 inet dhcp\n")
	if m.node.exists(networkDir+"10-sci-old.network") || !m.node.exists(networkDir+"20-admin.network") {
		t.Error("a file of ours that is not wanted stayed, or the admin's went")
	}
	m.wantChanges("systemctl enable "+networkd, "systemctl start "+networkd)

	m.calls = nil
	if err := m.step("networks"); err != nil {
		t.Fatal(err)
	}
	m.wantChanges()

	// One file differs: a reload, which leaves the other links alone.
	m.write(networkDir+"10-sci-lan.network", "x")
	if err := m.step("networks"); err != nil {
		t.Fatal(err)
	}
	m.wantChanges("networkctl reload")

	// networkctl cannot, as without D-Bus: a restart.
	m.calls = nil
	m.fail["networkctl reload"] = errors.New("no bus")
	m.write(networkDir+"10-sci-lan.network", "x")
	if err := m.step("networks"); err != nil {
		t.Fatal(err)
	}
	m.wantChanges("networkctl reload", "systemctl restart "+networkd)

	// The files are right, the kernel is not: a restart.
	m.calls, m.addrs["lan"] = nil, nil
	if err := m.step("networks"); err != nil {
		t.Fatal(err)
	}
	m.wantChanges("systemctl restart " + networkd)
}

func TestNetworksNotApplied(t *testing.T) {
	m := newMachine(t, "node1")
	m.deaf = true
	err := m.step("networks")
	var w *Waiting
	if !errors.As(err, &w) || err.Error() != "waiting for systemd-networkd to make the bridge lan" {
		t.Errorf("networks = %v; want a wait", err)
	}
	m.write("sys/class/net/lan/type", "1\n")
	err = m.step("networks")
	if !errors.As(err, &w) || err.Error() != "waiting for systemd-networkd to put enp1s0 into the bridge lan" || hint.Of(err) != "see: journalctl -u systemd-networkd" {
		t.Errorf("networks = %v; want a wait", err)
	}
	if err := os.Symlink("../lan", filepath.Join(m.root, "sys/class/net/enp1s0/master")); err != nil {
		t.Fatal(err)
	}
	err = m.step("networks")
	if !errors.As(err, &w) || err.Error() != "waiting for systemd-networkd to give lan the address 192.168.50.11/24" {
		t.Errorf("networks = %v; want a wait", err)
	}
}

func TestResolvConfOfAnother(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("run/systemd/resolve/stub-resolv.conf", "nameserver 127.0.0.53\n")
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(m.root, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	if err := m.step("networks"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Join(m.root, "etc/resolv.conf")); err != nil || info.Mode().Type() != fs.ModeSymlink {
		t.Errorf("the link of systemd-resolved was replaced")
	}
	// A link that leads nowhere is nobody's.
	if err := os.Remove(filepath.Join(m.root, "run/systemd/resolve/stub-resolv.conf")); err != nil {
		t.Fatal(err)
	}
	if err := m.step("networks"); err != nil {
		t.Fatal(err)
	}
	m.wantFile("etc/resolv.conf", head+"search lab.example\nnameserver 192.168.50.2\nnameserver 192.168.50.1\noptions timeout:1 attempts:2\n")
}

func TestWires(t *testing.T) {
	card := func(name string, link bool) nic { return nic{name, "52:54:00:00:00:" + name[3:], link} }
	for _, c := range []struct {
		summary string
		match   string // MACs of the host
		cards   []nic
		old     map[string]string // network to MAC, written before
		want    string
	}{
		{"the named cards in their order", `["52:54:00:00:00:03","52:54:00:00:00:01"]`,
			[]nic{card("eth01", true), card("eth02", true), card("eth03", false)}, nil, "lan=eth03 backbone=eth01"},
		{"one named, the other by link", `["52:54:00:00:00:02"]`,
			[]nic{card("eth01", false), card("eth02", true), card("eth03", true)}, nil, "lan=eth02 backbone=eth03"},
		{"one named, one left without a link", `["52:54:00:00:00:02"]`,
			[]nic{card("eth01", false), card("eth02", true)}, nil, "lan=eth02 backbone=eth01"},
		{"one card for both networks", `["52:54:00:00:00:01"]`,
			[]nic{card("eth01", true)}, nil, "lan=eth01 backbone="},
		{"nothing named: the first with a link, then the one left with one", `[]`,
			[]nic{card("eth01", false), card("eth02", true), card("eth03", true)}, nil, "lan=eth02 backbone=eth03"},
		{"only one card, no link", `[]`, []nic{card("eth01", false)}, nil, "lan=eth01 backbone="},
		{"several left with a link", `["52:54:00:00:00:01"]`,
			[]nic{card("eth01", true), card("eth02", true), card("eth03", true)}, nil,
			"waiting for exactly one free network card with a link for backbone: seen: 52:54:00:00:00:02 (eth02), 52:54:00:00:00:03 (eth03); naming its MAC address in the site file's match.mac settles it"},
		{"nothing has a link", `[]`, []nic{card("eth01", false), card("eth02", false)}, nil,
			"waiting for a network card with a link for lan: seen: 52:54:00:00:00:01 (eth01), 52:54:00:00:00:02 (eth02)"},
		{"no card at all", `[]`, nil, nil, "waiting for a network card with a link for lan: seen: no network card"},
		{"a named card is missing: nothing is chosen, backbone does not slip onto lan", `["52:54:00:00:00:01","52:54:00:00:00:09"]`,
			[]nic{card("eth01", true), card("eth02", true)}, nil,
			"waiting for the network card 52:54:00:00:00:09 to choose one for lan"},
		{"a named card went: lan stays, backbone waits", `["52:54:00:00:00:01","52:54:00:00:00:09"]`,
			[]nic{card("eth01", true), card("eth02", true)},
			map[string]string{"lan": "52:54:00:00:00:01", "backbone": "52:54:00:00:00:09"},
			"waiting for the network card 52:54:00:00:00:09 to choose one for backbone"},
		{"what was chosen stays, whatever the links are now", `[]`,
			[]nic{card("eth01", true), card("eth02", false), card("eth03", true)},
			map[string]string{"lan": "52:54:00:00:00:02", "backbone": "52:54:00:00:00:01"}, "lan=eth02 backbone=eth01"},
		{"a card that was chosen and is gone", `[]`,
			[]nic{card("eth02", true), card("eth03", true)},
			map[string]string{"lan": "52:54:00:00:00:01", "backbone": "52:54:00:00:00:02"}, "lan=eth03 backbone=eth02"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			m := newMachine(t, "sci")
			site := strings.Replace(labSite, `"virtual": true, "addresses": {`, `"virtual": true, "match": {"mac": `+c.match+`}, "addresses": {"backbone": "10.101.200.2", `, 1)
			m.write("etc/sci/site.json", site)
			if done, err := m.node.identityDone(t.Context()); !done && c.match == "[]" {
				t.Fatal(err)
			}
			if m.node.Host == nil { // the cards come later in this test
				s, err := m.node.loadSite()
				if err != nil {
					t.Fatal(err)
				}
				h, _ := s.Host("sci")
				m.node.Site, m.node.Host = s, h
			}
			if err := os.RemoveAll(filepath.Join(m.root, "sys/class/net")); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.cards {
				m.card(n.name, n.mac, n.link)
			}
			for network, mac := range c.old {
				m.write(portFile(network), "[Match]\nPermanentMACAddress="+mac+"\n")
			}
			wires, err := m.node.wires()
			got := ""
			if err != nil {
				got = err.Error()
			}
			for _, w := range wires {
				got += " " + w.network + "=" + w.nic.name
			}
			if got = strings.TrimSpace(got); got != c.want {
				t.Errorf("wires =\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// A machine with one card has both addresses on the bridge lan.
func TestNetworksOneCard(t *testing.T) {
	m := newMachine(t, "node1")
	if err := os.RemoveAll(filepath.Join(m.root, "sys/class/net/enp2s0")); err != nil {
		t.Fatal(err)
	}
	m.write("etc/sci/site.json", strings.Replace(labSite, `, "52:54:00:5c:1c:02"`, "", 1))
	if err := m.step("networks"); err != nil {
		t.Fatal(err)
	}
	got := m.read(networkDir + "10-sci-lan.network")
	if !strings.Contains(got, "Address=10.101.200.11/24\n") || m.node.exists(networkDir+"10-sci-backbone.netdev") {
		t.Errorf("10-sci-lan.network =\n%s\nwant the address of backbone too, and no bridge backbone", got)
	}
}

func TestTime(t *testing.T) {
	const note = "# Written by sci-agent (step time) from /etc/sci/site.json. Changes here are undone at the next boot.\n"
	m := newMachine(t, "node1")
	m.write("usr/sbin/chronyd", "")
	m.write("usr/lib/systemd/systemd-timesyncd", "")
	if err := m.step("time"); err != nil {
		t.Fatal(err)
	}
	m.wantFile("etc/chrony/sources.d/sci.sources", note+"server 192.168.50.1 iburst\nserver ntp.lab.example iburst\n")
	m.wantChanges("systemctl restart chrony.service")

	m = newMachine(t, "node1")
	m.units["systemd-timesyncd.service"] = &unit{}
	m.write("usr/lib/systemd/systemd-timesyncd", "")
	if err := m.step("time"); err != nil {
		t.Fatal(err)
	}
	m.wantFile("etc/systemd/timesyncd.conf.d/sci.conf", note+"[Time]\nNTP=192.168.50.1 ntp.lab.example\n")
	m.wantChanges("systemctl enable --now systemd-timesyncd.service")

	m = newMachine(t, "node1") // neither
	if err := m.step("time"); err != nil {
		t.Fatal(err)
	}
	m.wantChanges()
}

func TestTimeWithoutServers(t *testing.T) {
	m := newMachine(t, "node1")
	site := strings.Replace(labSite, `["192.168.50.1", "ntp.lab.example"]`, "[]", 1)
	m.write("etc/sci/site.json", strings.Replace(site, `"name": "node1", "role": "node"`, `"name": "node1", "role": "solo"`, 1))
	m.write("usr/sbin/chronyd", "")
	m.write("etc/chrony/sources.d/sci.sources", "server old iburst\n")
	m.write("etc/chrony/conf.d/sci-cluster.conf", "local\n")
	if err := m.step("time"); err != nil {
		t.Fatal(err)
	}
	if m.node.exists("etc/chrony/sources.d/sci.sources") || m.node.exists("etc/chrony/conf.d/sci-cluster.conf") {
		t.Error("servers that the site file no longer names stayed")
	}
}

// The nodes of a cluster have a common time without any server.
func TestTimeOfCluster(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("etc/sci/site.json", strings.Replace(labSite, `["192.168.50.1", "ntp.lab.example"]`, "[]", 1))
	m.write("usr/sbin/chronyd", "")
	if err := m.step("time"); err != nil {
		t.Fatal(err)
	}
	const note = "# Written by sci-agent (step time) from /etc/sci/site.json. Changes here are undone at the next boot.\n"
	m.wantFile("etc/chrony/sources.d/sci.sources", note+"server 192.168.50.12 iburst\n")
	m.wantFile("etc/chrony/conf.d/sci-cluster.conf", note+
		"# Where no server can be reached, the nodes agree among themselves: chrony.conf(5), orphan.\n"+
		"local stratum 10 orphan\nallow 192.168.50.0/24\n")
	m.wantChanges("systemctl restart chrony.service")
}

const aptHead = "# Written by sci-agent (step apt) from /etc/sci/site.json. Changes here are undone at the next boot.\n"

func TestApt(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("etc/fstab", "# /media/sci\n/srv/sci/media.iso /media/sci iso9660 loop,ro,nofail 0 0\n")
	m.write("etc/apt/keyrings/sci-site.gpg", "key")
	if err := m.step("apt"); err != nil {
		t.Fatal(err)
	}
	m.wantChanges("mount /media/sci")
	m.wantFile(mediumSources, aptHead+`# The copy of the installation medium, signed by the site's key.
Types: deb
URIs: file:/media/sci
Suites: trixie
Components: main non-free-firmware
Signed-By: /etc/apt/keyrings/sci-site.gpg
`)
	m.wantFile(debianSources, aptHead+`# The site file names no mirrors, so Debian's public ones are switched off.
# Name them in the site file (mirrors: main:, security:) to switch them on.
Types: deb
URIs: http://ftp.debian.org/debian
Suites: trixie
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Enabled: no

Types: deb
URIs: http://ftp.debian.org/debian
Suites: trixie-updates
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Enabled: no

Types: deb
URIs: http://security.debian.org/debian-security
Suites: trixie-security
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Enabled: no
`)
}

func TestAptMirrors(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("etc/sci/site.json", strings.Replace(labSite, `"networks"`, `"mirrors": {"main": "http://mirror.lab.example/debian"}, "networks"`, 1))
	if err := m.step("apt"); err != nil {
		t.Fatal(err)
	}
	got := m.read(debianSources)
	for _, want := range []string{"URIs: http://mirror.lab.example/debian\nSuites: trixie\n", "URIs: http://mirror.lab.example/debian\nSuites: trixie-updates\n",
		"URIs: http://security.debian.org/debian-security\nSuites: trixie-security\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%s lacks %q:\n%s", debianSources, want, got)
		}
	}
	if strings.Contains(got, "Enabled: no") {
		t.Error("mirrors that the site file names are switched off")
	}
	if !strings.Contains(m.read(mediumSources), "Enabled: no\n") {
		t.Error("a medium that is nowhere is switched on; each apt update would fail")
	}
}

func TestAptMediumLost(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("etc/fstab", "/srv/sci/media.iso /media/sci iso9660 loop,ro,nofail 0 0\n")
	m.fail["mount /media/sci"] = errors.New("no such file")
	err := m.step("apt")
	if err == nil || err.Error() != "waiting for the copy of the medium on /media/sci: no such file" {
		t.Errorf("apt = %v; want a wait", err)
	}
}
