package agent

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/site"
)

// virtualMachine is a fake machine of the site that is virtual.
func virtualMachine(t *testing.T, host string) *machine {
	t.Helper()
	m := newMachine(t, host)
	text := strings.Replace(labSite, `"hosts": [`, `"hosts": [
    {"name": "web", "role": "instance", "virtual": true, "addresses": {"lan": "192.168.50.31", "backbone": "10.101.200.31"}},
    {"name": "any", "role": "instance", "virtual": true},`, 1)
	s, err := site.FromJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	m.node.Site = s
	h, ok := s.Host(host)
	if !ok {
		t.Fatalf("no host %s", host)
	}
	m.node.Host = h
	m.write("etc/sci/site.json", text)
	for _, c := range []string{"enp1s0", "enp2s0"} {
		if err := os.RemoveAll(m.root + "/sys/class/net/" + c); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func TestVirtualIdentity(t *testing.T) {
	m := virtualMachine(t, "web")
	m.write("sys/class/dmi/id/product_serial", "of somebody else\n")
	if done, err := m.node.identityDone(t.Context()); !done || err != nil {
		t.Errorf("identityDone = %t, %v; want no question about hardware", done, err)
	}
}

func TestVirtualNetworks(t *testing.T) {
	m := virtualMachine(t, "web")
	m.card("ens10", "aa:00:00:00:00:10", true)
	if _, err := m.node.wantNetworks(); !errors.As(err, new(*Waiting)) {
		t.Errorf("one card for two networks: %v; want to wait", err)
	}
	m.card("ens3", "aa:00:00:00:00:03", true)
	w, err := m.node.wantNetworks()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, f := range w.files {
		got[f.name] = strings.TrimPrefix(f.data, rendered("networks"))
	}
	want := map[string]string{
		"etc/systemd/network/10-sci-lan.network": "[Match]\nPermanentMACAddress=aa:00:00:00:00:03\nType=ether\n\n[Network]\nIPv6AcceptRA=no\n" +
			"ConfigureWithoutCarrier=yes\nAddress=192.168.50.31/24\nGateway=192.168.50.1\nDNS=192.168.50.1\nDomains=lab.example\n",
		"etc/systemd/network/10-sci-backbone.network": "[Match]\nPermanentMACAddress=aa:00:00:00:00:10\nType=ether\n\n[Network]\nIPv6AcceptRA=no\n" +
			"ConfigureWithoutCarrier=yes\nAddress=10.101.200.31/24\n",
		"etc/resolv.conf": "search lab.example\nnameserver 192.168.50.2\nnameserver 192.168.50.1\noptions timeout:1 attempts:2\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if m.node.missing(w.wires) == nil {
		t.Error("nothing is missing before systemd-networkd did anything")
	}
	m.addrs["ens3"] = []netip.Prefix{netip.MustParsePrefix("192.168.50.31/24")}
	m.addrs["ens10"] = []netip.Prefix{netip.MustParsePrefix("10.101.200.31/24")}
	if err := m.node.missing(w.wires); err != nil {
		t.Errorf("missing: %v", err)
	}
}

func TestVirtualByDHCP(t *testing.T) {
	m := virtualMachine(t, "any")
	m.card("ens3", "aa:00:00:00:00:03", true)
	w, err := m.node.wantNetworks()
	if err != nil || len(w.files) == 0 || !strings.Contains(w.files[0].data, "\nDHCP=ipv4\n") || strings.Contains(w.files[0].data, "Address=\n") {
		t.Fatalf("files: %v, %v", w, err)
	}
	m.addrs["ens3"] = []netip.Prefix{netip.MustParsePrefix("169.254.1.1/16")}
	if m.node.missing(w.wires) == nil {
		t.Error("a link-local address is no lease")
	}
	m.addrs["ens3"] = []netip.Prefix{netip.MustParsePrefix("192.168.50.77/24")}
	if err := m.node.missing(w.wires); err != nil {
		t.Errorf("missing: %v", err)
	}
	if hosts := m.node.hosts(nil); !strings.Contains(hosts, "127.0.1.1\tany.lab.example any\n") {
		t.Errorf("/etc/hosts without the machine's own name:\n%s", hosts)
	}
}

func TestVirtualTime(t *testing.T) {
	for host, want := range map[string][]string{
		"sci": {"192.168.50.1", "ntp.lab.example", "192.168.50.11", "192.168.50.12"},
		"web": {"192.168.50.2", "192.168.50.11", "192.168.50.12"},
	} {
		m := virtualMachine(t, host)
		files, _ := m.node.timeFiles(keepers()[0])
		sources := files[len(files)-1]
		if diff := cmp.Diff(chronySources(want), strings.TrimPrefix(sources.data, rendered("time"))); diff != "" {
			t.Errorf("%s: sources (-want +got):\n%s", host, diff)
		}
		serves := len(files) == 2 && strings.Contains(files[0].data, "allow 192.168.50.0/24\n")
		if serves != (host == "sci") {
			t.Errorf("%s: files %v", host, files)
		}
	}
}

func TestCompareNames(t *testing.T) {
	for _, c := range [][2]string{{"ens3", "ens10"}, {"enp1s0", "enp10s0"}, {"enp2s9", "enp2s10"}, {"eth0", "eth1"}, {"ens", "ens3"}} {
		if compareNames(c[0], c[1]) >= 0 || compareNames(c[1], c[0]) <= 0 || compareNames(c[0], c[0]) != 0 {
			t.Errorf("compareNames(%q, %q) = %d", c[0], c[1], compareNames(c[0], c[1]))
		}
	}
}

// TestOSDefinition: what Ganeti reads of the definition sci, and that a site
// without virtual machines has none.
func TestOSDefinition(t *testing.T) {
	m := virtualMachine(t, "web")
	if err := m.node.osDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if done, err := m.node.osDone(t.Context()); !done || err != nil {
		t.Errorf("osDone = %t, %v", done, err)
	}
	for name, want := range map[string]string{
		"ganeti_api_version": "20\n",
		"parameters.list":    "",
		"variants.list":      rendered("os") + "instance\nservice\n",
		"create":             "#!/bin/sh\n" + rendered("os") + "exec /usr/sbin/sci-agent os create \"$@\"\n",
	} {
		if got := m.read("srv/ganeti/os/sci/" + name); got != want {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
	for _, script := range []string{"create", "import", "export", "rename", "verify"} {
		if info, err := os.Stat(m.root + "/srv/ganeti/os/sci/" + script); err != nil || info.Mode() != 0o755 {
			t.Errorf("%s: %v, %v; want an executable file", script, info, err)
		}
	}
	m.node.Site.Cluster = nil
	if err := m.node.osDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(m.root + "/srv/ganeti/os/sci/create"); err == nil {
		t.Error("a site without a cluster has the definition still")
	}
}
