package sitetest

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// said is what real programs of Debian 13 printed: named, Kea, chronyd, sshd,
// Puppet's server and approx in a network namespace, without an uplink, asked by
// dig, ss, apt-get, puppet agent and chronyd.
func said(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "service", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestServiceJudges(t *testing.T) {
	const domain = "lab.example"
	look := func(question, kind, status, answer string) lookup {
		return lookup{question: question, kind: kind, status: status, answer: answer}
	}
	names := []lookup{look("node1.lab.example", "A", "NOERROR", "192.168.50.11"), look("192.168.50.11", "PTR", "NOERROR", "node1.lab.example."),
		look("apt.lab.example", "A", "NOERROR", "192.168.50.20"), look("nothing.lab.example", "A", "NXDOMAIN", "")}
	runs := func(nodes int) func(string) string { return serviceRuns("sci.lab.example", nodes) }
	edit := func(name, old, new string) string {
		text := said(t, name)
		if !strings.Contains(text, old) {
			t.Fatalf("%s has no %q", name, old)
		}
		return strings.ReplaceAll(text, old, new)
	}
	for _, test := range []struct {
		summary string
		judge   func(string) string
		out     string
		want    string
	}{
		{"it runs", runs(2), "sci.lab.example running drbd node1.lab.example node2.lab.example\n", ""},
		{"on one node", runs(1), "sci.lab.example running plain node1.lab.example \n", ""},
		{"it is down", runs(2), "sci.lab.example ERROR_down drbd node1.lab.example node2.lab.example\n", "its status is ERROR_down"},
		{"not mirrored", runs(2), "sci.lab.example running plain node1.lab.example \n", "its disk is plain"},
		{"mirrored with itself", runs(2), "sci.lab.example running drbd node1 node1\n", `its secondary is "node1"`},
		{"no secondary", runs(2), "sci.lab.example running drbd node1\n", `its secondary is ""`},
		{"another one", runs(2), "trial running drbd a b\n", "there is no instance sci.lab.example"},
		{"definitions", definitions, "debootstrap+default\nnoop\nsci+instance\nsci+service\n", ""},
		{"one variant", definitions, "sci+service\n", "sci+instance is missing"},

		{"only what may listen", onlyListeners(listeners(true)), said(t, "ss.txt"), ""},
		{"Kea talks by any address", onlyListeners(listeners(true)), said(t, "ss-found.txt"), "the site does not name kea-dhcp4 udp 45156"},
		{"DHCP is off", onlyListeners(listeners(false)), said(t, "ss.txt"), "the site does not name kea-dhcp-ddns udp 53001 on loopback"},
		{"something else", onlyListeners(listeners(true)), said(t, "ss.txt") + `tcp LISTEN 0 128 [::]:111 [::]:* users:(("rpcbind",pid=1,fd=6),("systemd",pid=1,fd=5))` + "\n", "the site does not name rpcbind tcp 111"},
		{"no program is named", onlyListeners(listeners(true)), said(t, "ss.txt") + "udp UNCONN 0 0 0.0.0.0:51820 0.0.0.0:*\n", "the site does not name somebody udp 51820"},
		{"the wrong program", onlyListeners(listeners(true)), edit("ss.txt", `"named"`, `"dnsmasq"`), "the site does not name dnsmasq udp 53"},
		{"rndc for all", onlyListeners(listeners(true)), edit("ss.txt", "127.0.0.1:953", "0.0.0.0:953"), "the site does not name named tcp 953"},
		{"no Puppet", onlyListeners(listeners(true)), edit("ss.txt", `"java"`, `"ruby"`), "nothing listens as java tcp 8140"},
		{"nothing at all", onlyListeners(listeners(true)), "", "cannot read a line of ss"},

		{"names", dug(names), said(t, "dig.txt"), ""},
		{"another address", dug([]lookup{look("node1.lab.example", "A", "NOERROR", "192.168.50.12")}), said(t, "dig.txt"), `node1.lab.example A: the answer is "192.168.50.11"; want "192.168.50.12"`},
		{"a name that should be gone", dug([]lookup{look("node1.lab.example", "A", "NXDOMAIN", "")}), said(t, "dig.txt"), "the status is NOERROR; want NXDOMAIN"},
		{"no such name", dug([]lookup{look("nothing.lab.example", "A", "NOERROR", "192.168.50.1")}), said(t, "dig.txt"), "the status is NXDOMAIN; want NOERROR"},
		{"nobody answers", dug([]lookup{look("x.lab.example", "A", "NOERROR", "1")}), "== x.lab.example A\n" + said(t, "dig-silent.txt"), "no answer: ;; no servers could be reached"},
		{"not asked", dug([]lookup{look("y.lab.example", "A", "NOERROR", "1")}), said(t, "dig.txt"), "y.lab.example A: no answer: dig said nothing"},

		{"apt-get update", updated(domain), said(t, "apt-update.txt"), ""},
		{"from somewhere else", updated("other.example"), said(t, "apt-update.txt"), "no InRelease came from http://apt.other.example:9999/debian"},
		{"without the site's", updated(domain), edit("apt-update.txt", ":9999/site ", ":9999/sites "), "no InRelease came from http://apt.lab.example:9999/site"},
		{"nobody there", updated(domain), said(t, "apt-refused.txt"), "Err:1 http://"},
		{"apt-get install", installed(domain, mediumPackage), said(t, "apt-install.txt"), ""},
		{"another package", installed(domain, "hello"), said(t, "apt-install.txt"), "hello was not fetched from approx"},
		{"from the medium", installed(domain, mediumPackage), edit("apt-install.txt", "Get:1 http://apt.lab.example:9999/debian", "Get:1 file:/media/sci"), mediumPackage + " was not fetched from approx"},
		// apt is content with that: the status is 0.
		{"it cannot be downloaded", installed(domain, mediumPackage), "Reinstallation of bind9-dnsutils is not possible, it cannot be downloaded.\nstatus: 0\n", "was not fetched"},
		{"only downloaded", installed(domain, mediumPackage), edit("apt-install.txt", "Setting up ", "Forgetting "), "was not set up"},
		{"a forged one is not installed", installed(domain, mediumPackage), said(t, "apt-forged.txt"), "Err:1 "},
		{"a forged one is refused", refusedPackage(mediumPackage), said(t, "apt-forged.txt"), ""},
		{"a forged one is taken", refusedPackage(mediumPackage), said(t, "apt-install.txt"), "it was installed"},
		{"refused for something else", refusedPackage(mediumPackage), said(t, "apt-unavailable.txt"), "it was not refused for its hash: Err:1 "},
		{"not to be had", unavailable("sl"), said(t, "apt-unavailable.txt"), ""},
		{"to be had", unavailable(mediumPackage), said(t, "apt-install.txt"), "the status is 0"},
		{"not known", unavailable("sl"), "E: Unable to locate package sl\nstatus: 100\n", "apt does not know sl"},
		{"no lock", unavailable("sl"), "E: Could not get lock\nstatus: 100\n", "it did not fail for want of the package: E: Could not get lock"},
		{"forged", forgery, "forged: 1\n", ""},
		{"nothing to forge", forgery, "forged: 0\n", "there is no such package in the seed"},

		{"the first run", puppetRan(false), said(t, "puppet-first.txt"), ""},
		{"the second run", puppetRan(true), said(t, "puppet-second.txt"), ""},
		{"a change again", puppetRan(true), said(t, "puppet-first.txt"), "it changes something again: Notice: /Stage[main]/Main/File[/etc/motd]"},
		{"an error", puppetRan(false), said(t, "puppet-error.txt"), "Error: Facter: "},
		{"no server", puppetRan(false), said(t, "puppet-none.txt"), "Error: Connection to https://"},
		{"it was locked", puppetRan(false), "Notice: Run of Puppet configuration client already in progress; skipping\nstatus: 1\n", `the status is "1"`},
		{"time", clocked, said(t, "chronyd.txt"), ""},
		{"another time", clocked, edit("chronyd.txt", "wrong by -0.00", "wrong by -3.00"), "s apart"},
		{"no time", clocked, said(t, "chronyd-none.txt"), "it does not answer: "},
	} {
		if got := test.judge(test.out); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q; want %q", test.summary, got, test.want)
		}
	}
}

func TestLeases(t *testing.T) {
	const over, mac = "ea:70:08:28:73:de", "52:54:00:00:00:07"
	text := said(t, "leases.txt") + "192.168.50.101,52:54:00:00:00:07,,600,1795442445,1,1,1,sci-client.lab.example,0,,0\n"
	if a, err := leaseOf(text, strings.ToUpper(mac)); err != nil || a != netip.MustParseAddr("192.168.50.101") {
		t.Errorf("%v, %v", a, err)
	}
	for card, want := range map[string]string{over: "its lease is over", "52:54:00:00:00:08": "there is no lease of 52:54:00:00:00:08"} {
		if _, err := leaseOf(text, card); err == nil || err.Error() != want {
			t.Errorf("%s: %v; want %q", card, err, want)
		}
	}
	if _, err := leaseOf("", mac); err == nil {
		t.Error("no file: no error")
	}
	const lease = "address: 192.168.50.100\nserver: 192.168.50.20\nrouter: 192.168.50.1\ndns: 192.168.50.20\ndomain: lab.example\nseconds: 600\n"
	if a, err := offered(lease, "192.168.50.20"); err != nil || a != netip.MustParseAddr("192.168.50.100") {
		t.Errorf("%v, %v", a, err)
	}
	for old, want := range map[string]string{
		"address: 192.168.50.100": "there is no lease yet", "server: 192.168.50.20": "the lease is from", "dns: 192.168.50.20": "the lease lacks", "domain: lab.example": "the lease lacks",
	} {
		name, _, _ := strings.Cut(old, " ")
		if _, err := offered(strings.Replace(lease, old, name, 1), "192.168.50.20"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: %v; want %q", name, err, want)
		}
	}
	if err := added("creating\n"); err == nil || err.Error() != "it is being made" {
		t.Error(err)
	}
	if err := added("Failure: no disk\nstatus: 1\n"); err == nil || err.Error() != "gnt-instance add ended with status 1: Failure: no disk" {
		t.Error(err)
	}
	if err := added("done\nstatus: 0\n"); err != nil {
		t.Error(err)
	}
}
