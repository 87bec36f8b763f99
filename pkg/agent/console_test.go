package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/run"
)

// TestRun is a whole first boot and a second one, over the fake machine: what
// is on /dev/console is what installtest waits for.
func TestRun(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("dev/console", "")
	m.write("run/x", "")
	m.write("usr/sbin/chronyd", "")
	m.write("usr/sbin/agetty", "")
	m.write("proc/sys/kernel/random/boot_id", "b00t\n")
	var journal bytes.Buffer
	boot := func() error { return m.boot(&journal) }
	if err := boot(); err != nil {
		t.Fatal(err)
	}
	want := `sci-agent: step identity ok
sci-agent: host node1 (role solo)
sci-agent: step hostname ok
sci-agent: step networks ok
sci-agent: step time ok
sci-agent: step apt ok
sci-agent: ready
`
	if d := cmp.Diff(want, m.console()); d != "" {
		t.Errorf("/dev/console (-want +got):\n%s", d)
	}
	m.wantFile(bannerFile, "SCI-CD: node1.lab.example (role solo) is ready.\n  lan 192.168.50.11, backbone 10.101.200.11\n  Details: sci-agent status\n\n")
	if m.calls[len(m.calls)-1] != "agetty --reload" {
		t.Errorf("last command %q; want the prompts shown anew", m.calls[len(m.calls)-1])
	}
	st := read(t, filepath.Join(m.root, StateFile))
	if st.State != IsReady || st.Host != "node1.lab.example" || st.Role != "solo" || st.Version != "1.0" || st.Boot != "b00t" {
		t.Errorf("state = %+v", st)
	}
	if !strings.Contains(journal.String(), "<5>ready\n") {
		t.Errorf("journal =\n%s", journal.String())
	}

	m.write("dev/console", "")
	m.calls = nil
	if err := boot(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, m.console()); d != "" {
		t.Errorf("/dev/console at the second boot (-want +got):\n%s", d)
	}
	m.wantChanges()
}

// boot is Run with the fake machine's addresses.
func (m *machine) boot(journal *bytes.Buffer) error {
	m.t.Helper()
	n := &Node{Root: m.root, Runner: m, Journal: journal, Addresses: m.node.Addresses, Settle: m.node.Settle}
	m.node.Site, m.node.Host = nil, nil
	return n.run(m.t.Context(), Options{Version: "1.0", Systemd: true})
}

func (m *machine) console() string {
	var lines []string
	for l := range strings.SplitSeq(m.read("dev/console"), "\r\n") {
		if l != "" {
			lines = append(lines, l+"\n")
		}
	}
	return strings.Join(lines, "")
}

func TestRunStops(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("dev/console", "")
	m.write("run/x", "")
	m.write("sys/class/dmi/id/product_serial", "SN-2\n")
	err := Run(t.Context(), Options{Root: m.root, Runner: m})
	var stop *StopError
	if !errors.As(err, &stop) {
		t.Fatalf("Run = %v; want a stop", err)
	}
	want := "sci-agent: failed: step identity: this machine is not host node1: its serial number should be \"SN-1\", it is \"SN-2\"\n" +
		"sci-agent: hint: if the hardware was replaced, mend the match of node1 in /etc/sci/site.json; if a disk was moved, install anew\n"
	if d := cmp.Diff(want, m.console()); d != "" {
		t.Errorf("/dev/console (-want +got):\n%s", d)
	}
	if got := m.read(bannerFile); !strings.HasPrefix(got, "SCI-CD: This machine is NOT set up: step identity stopped.\n") {
		t.Errorf("banner =\n%s", got)
	}
	if m.node.exists("etc/hostname") {
		t.Error("a machine that is another one was changed")
	}
}

func TestRunTwice(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("run/x", "")
	release, err := m.node.lock()
	if err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Options{Root: m.root, Runner: m}); err == nil || !strings.Contains(err.Error(), "another sci-agent is at work (process ") {
		t.Errorf("Run = %v; want the other one named", err)
	}
	release()
	release, err = m.node.lock()
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestConsoleRetry(t *testing.T) {
	m := newMachine(t, "node1")
	m.write("dev/console", "")
	c := &Console{Node: m.node}
	err := &run.Error{Argv: []string{"networkctl", "reload"}, Output: "\x1b[31mno\\such\x1b[0m\nbus\n", Err: errors.New("exit status 1")}
	for try := 1; try <= 9; try++ {
		c.Tell(context.Background(), Event{Kind: Retry, Step: "networks", Try: try, Wait: 1e9, Err: err})
	}
	c.Tell(context.Background(), Event{Kind: Retry, Step: "networks", Try: 10, Wait: 1e9, Err: &Waiting{For: `a \cable`}})
	want := ""
	for _, try := range []string{"1", "2", "4", "8"} {
		want += "sci-agent: step networks retry " + try + ` in 1s: networkctl reload: exit status 1: bus` + "\n"
	}
	want += `sci-agent: step networks retry 10 in 1s: waiting for a \cable` + "\n"
	if d := cmp.Diff(want, m.console()); d != "" {
		t.Errorf("/dev/console (-want +got):\n%s", d)
	}
	// agetty(8) reads backslashes.
	m.wantFile(bannerFile, "SCI-CD: This machine is being set up: networks.\n  waiting for a \\\\cable\n  Details: sci-agent status\n\n")
}

// A missing console is no reason to stop.
// TestBrief: what is told on the console of a command that failed.
func TestBrief(t *testing.T) {
	for _, test := range []struct{ summary, output, want string }{
		{"nothing", "", "cannot run \"gnt-cluster init cluster\": exit status 1"},
		{"the last line", "one\ntwo\n", "gnt-cluster init: exit status 1: two"},
		{"all that Ganeti says", "one\nFailure: command execution error:\nCould not start it:\n  exit code 2\n",
			"gnt-cluster init: exit status 1: Failure: command execution error: Could not start it: exit code 2"},
		{"too much", strings.Repeat("€", 200), "gnt-cluster init: exit status 1: " + strings.Repeat("€", 133) + "…"},
	} {
		err := &run.Error{Argv: []string{"gnt-cluster", "init", "cluster"}, Output: test.output, Err: errors.New("exit status 1")}
		if got := brief(err); got != test.want {
			t.Errorf("%s: brief = %q; want %q", test.summary, got, test.want)
		}
	}
}

func TestConsoleMissing(t *testing.T) {
	m := newMachine(t, "node1")
	c := &Console{Node: m.node}
	c.Tell(context.Background(), Event{Kind: Ready})
	if _, err := os.Stat(filepath.Join(m.root, "dev/console")); err == nil {
		t.Error("a console was made")
	}
}

func TestPrint(t *testing.T) {
	st, err := parseState("x", []byte(`{"format":1,"state":"waiting","host":"node1.lab.example","role":"node","since":"2026-11-22T12:00:09Z","steps":[
		{"name":"identity","state":"ok","tries":0,"finished":"2026-11-22T12:00:01Z"},
		{"name":"networks","state":"waiting","tries":3,"started":"2026-11-22T12:00:02Z","nextTry":"2026-11-22T12:00:13Z","lastFail":"2026-11-22T12:00:09Z","lastError":"waiting for a cable\nsecond line"},
		{"name":"apt","state":"pending","tries":0}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := st.Print(&b); err != nil {
		t.Fatal(err)
	}
	want := `node1.lab.example (role node): waiting since 2026-11-22 12:00:09Z

STEP      STATE    TRIES  STARTED               FINISHED
identity  ok       0      -                     2026-11-22 12:00:01Z
networks  waiting  3      2026-11-22 12:00:02Z  -
apt       pending  0      -                     -

networks, at 2026-11-22 12:00:09Z:
  waiting for a cable
  second line
  next try at 2026-11-22 12:00:13Z
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("Print (-want +got):\n%s", d)
	}
}
