package agent

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bannerNode is node1 of the cluster, with a banner from its last boot.
func bannerNode(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t, "node1")
	m.write("etc/sci/site.json", labSite)
	m.write("run/x", "")
	m.write("usr/sbin/agetty", "")
	for name, data := range reportFiles("node1") {
		m.write(name, data)
	}
	m.write(bannerFile, "SCI-CD: of the last boot\n")
	return m
}

func (m *machine) refresh() string {
	m.t.Helper()
	m.calls = nil
	if err := RefreshBanner(m.t.Context(), Options{Root: m.root, Runner: m}); err != nil {
		m.t.Fatal(err)
	}
	return m.read(bannerFile)
}

func TestBannerOfCluster(t *testing.T) {
	m := bannerNode(t)
	got := m.refresh()
	want := `SCI-CD: node1.lab.example (role node) is ready.
  lan 192.168.50.11, backbone 10.101.200.11
  cluster cluster.lab.example, master node1.lab.example (this machine)
  2 disks mirrored: 1 UpToDate, 1 being synchronised
  Details: sci-agent status

`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("banner (-want +got):\n%s", diff)
	}
	if lines := strings.Count(got, "\n"); lines > 6 {
		t.Errorf("the banner has %d lines", lines)
	}
	if diff := cmp.Diff([]string{"agetty --reload"}, m.calls); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}

	// A synchronisation that goes on is no news, a change of master is.
	m.write(drbdProc, drbdHead+drbdConnected+strings.Replace(drbdSource, "11.9%", "57.0%", 1))
	if m.refresh(); len(m.calls) > 0 {
		t.Errorf("nothing new, yet %q", m.calls)
	}
	m.write(drbdProc, drbdHead+drbdWaiting)
	m.write("var/lib/ganeti/ssconf_master_node", "node2.lab.example\n")
	got = m.refresh()
	if !strings.Contains(got, "\n  cluster cluster.lab.example, master node2.lab.example\n  1 disk mirrored: 0 UpToDate, 1 NOT connected\n") {
		t.Errorf("banner =\n%s", got)
	}

	// Without disks, without a cluster, with an unreadable state of the disks:
	// nothing is said of them.
	m.write(drbdProc, drbdHead)
	if got = m.refresh(); !strings.Contains(got, "node2.lab.example\n  Details:") {
		t.Errorf("banner without disks =\n%s", got)
	}
	m.write(drbdProc, "version: 9.2.11\n")
	if got = m.refresh(); !strings.Contains(got, "node2.lab.example\n  Details:") {
		t.Errorf("banner with another DRBD =\n%s", got)
	}
	m.write("var/lib/ganeti/ssconf_cluster_name", "")
	if got = m.refresh(); !strings.Contains(got, "10.101.200.11\n  Details:") {
		t.Errorf("banner without a cluster =\n%s", got)
	}
}

// While the agent works or waits for a person, what it wrote stays.
func TestBannerIsTheAgents(t *testing.T) {
	for _, phase := range []Phase{Working, IsWaiting, IsStopped} {
		m := bannerNode(t)
		m.write(StateFile, strings.Replace(m.read(StateFile), `"ready"`, `"`+string(phase)+`"`, 1))
		if got := m.refresh(); got != "SCI-CD: of the last boot\n" || len(m.calls) > 0 {
			t.Errorf("%s: banner =\n%s%q", phase, got, m.calls)
		}
	}
	m := bannerNode(t)
	if err := os.Remove(m.node.path("etc/sci/site.json")); err != nil {
		t.Fatal(err)
	}
	if err := RefreshBanner(t.Context(), Options{Root: m.root, Runner: m}); err == nil {
		t.Error("RefreshBanner knows a machine without a site")
	}
}
