package sitetest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/vm"
)

// withInstances are the commands of nodes that run instances: a guest and a
// Ganeti whose state are files in $DIR.
func withInstances() map[string]string {
	commands := healthy()
	maps.Copy(commands, map[string]string{
		// The guest cannot be found where a real USB stick would be.
		"ls":  `case $* in *by-id*) echo "$DIR/stick" ;; *) exec /bin/ls "$@" ;; esac`,
		"cp":  "",
		"cat": `if test "$1" = /proc/drbd; then echo " 3: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----"; else exec /bin/cat "$@"; fi`,
		"dd":  `case $* in *of=/dev/drbd3*) : >"$DIR/blank" ;; *) exit 1 ;; esac`,
		"lvs": `echo "  xenvg/1234.disk0_data"; echo "  xenvg/1234.disk0_meta"`,
		"gnt-instance": `
case $1 in
add) echo node1.lab.example >"$DIR/pnode"; echo 1 >"$DIR/boot"; echo 0 >"$DIR/found"; echo 0 >"$DIR/records" ;;
start) test -e "$DIR/blank" || { echo "records of an earlier instance"; exit 1; } ;;
activate-disks) echo "node1.lab.example:disk/0:/dev/drbd3" ;;
migrate) echo node2.lab.example >"$DIR/pnode" ;;
failover) echo node1.lab.example >"$DIR/pnode"; echo $(($(cat "$DIR/boot") + 1)) >"$DIR/boot"; cat "$DIR/records" >"$DIR/found" ;;
list) echo "$(cat "$DIR/pnode") running" ;;
esac`,
	})
	return commands
}

const fakeGuest = `#!/bin/sh
case $1 in
pack) : >"$3" ;;
scan) echo "{\"records\": $(cat "$DIR/records"), \"boot\": 2, \"damage\": \"\"}" ;;
get)
	case $2 in
	*/status)
		n=$(($(cat "$DIR/records") + 20)); echo $n >"$DIR/records"
		echo "{\"boot\": $(cat "$DIR/boot"), \"records\": $n, \"found\": {\"records\": $(cat "$DIR/found"), \"boot\": 0, \"damage\": \"\"}, \"uptime\": 1.5, \"error\": \"\"}" ;;
	*/digest*)
		n=${2##*=}
		echo "{\"records\": $n, \"sha256\": \"$(echo "$n" | sha256sum | head -c 64)\"}" ;;
	esac ;;
esac
`

// trialSite is a site with instances.
func trialSite(t *testing.T, commands map[string]string) Options {
	o := site(t, fakeSite(t, installs, agents, commands))
	faultGuest(t, &o, fakeGuest)
	o.guestDir = filepath.Dir(o.QEMU) + "/$NAME"
	o.Limits.Sync, o.Limits.Guest = 3*time.Second, 3*time.Second
	return o
}

func TestInstances(t *testing.T) {
	t.Parallel()
	o := trialSite(t, withInstances())
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p := problems(r); len(p) > 0 {
		t.Errorf("problems: %q", p)
	}
	var names []string
	for _, c := range r.Checks {
		if c.Stage == "instance" {
			names = append(names, c.Title())
		}
	}
	want := []string{
		"node1: the guest is packed from the node's kernel", "node2: the guest is packed from the node's kernel", "node1: gnt-instance add", "node1: the disk is blank",
		"both copies of its disk are current", "node1: gnt-instance start", "it answers both nodes by HTTP", "node1: gnt-instance migrate",
		"it goes on behind the migration", "each record is the same behind the migration", "node1: the instance runs on node2",
		"node1: gnt-instance failover", "it is started again behind the failover", "each record is the same behind the failover",
		"node1: the instance runs on node1", "node1: gnt-instance shutdown", "node1: the copy of the disk on this node",
		"node2: the copy of the disk on this node", "both copies hold the same records", "node1: gnt-instance remove", "node1: gnt-cluster verify behind it all",
	}
	if got := strings.Join(names, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("steps:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
	if _, err := os.Stat(filepath.Join(o.ReportDir, "node2-ganeti.log")); err != nil {
		t.Error(err)
	}
}

func TestInstancesFail(t *testing.T) {
	// instead changes one command of Ganeti.
	instead := func(verb, script string) func(map[string]string) {
		return func(c map[string]string) {
			c["gnt-instance"] = "case $1 in " + verb + ") " + script + "; exit ;; esac\n" + c["gnt-instance"]
		}
	}
	guest := func(pattern, script string) func(map[string]string) {
		return func(c map[string]string) {
			c["fake-guest"] = "case \"$*\" in " + pattern + ") " + script + "; exit ;; esac"
		}
	}
	for _, test := range []struct {
		summary string
		change  func(map[string]string)
		want    string
	}{
		{"the copies never become current", func(c map[string]string) {
			c["cat"] = strings.Replace(c["cat"], "UpToDate/UpToDate", "UpToDate/Inconsistent", 1)
		},
			"both copies of its disk are current: not within 3s: device 3 is Connected, UpToDate/Inconsistent"},
		{"add fails", instead("add", "echo 'Failure: no memory'; exit 1"), "node1: gnt-instance add: exit status 1"},
		{"it does not answer", guest("get*", "echo 'no route to host'; exit 1"), "it answers both nodes by HTTP: not within 3s: node1: exit status 1: no route to host"},
		{"it is restarted, not migrated", instead("migrate", `echo 2 >"$DIR/boot"`), "it goes on behind the migration: node1: it was restarted: start 2"},
		{"it did not move", instead("migrate", ":"), `node1: the instance runs on node2: got "node1.lab.example running"`},
		{"records are lost", instead("failover", `echo 2 >"$DIR/boot"; echo 7 >"$DIR/found"`), "records are lost: it found 7, "},
		{"it is not started again", instead("failover", ":"), "it is started again behind the failover: node1: it is start 1"},
		{"records are others", guest("*digest*", `n=${2##*=}; echo "{\"records\": $n, \"sha256\": \"$(date +%N | sha256sum | head -c 64)\"}"`), "each record is the same behind the migration: their SHA-256 is "},
		{"a hole", guest("*status", `echo '{"boot": 1, "records": 50, "found": {"records": 3, "boot": 1, "damage": "record 3 is lost"}}'`), "it answers both nodes by HTTP: node1: record 3 is lost"},
		{"the copies differ", guest("scan*", `test $NAME = node1 && echo '{"records": 9000}' || echo '{"records": 9001}'`), "both copies hold the same records: the other one holds {Records:9001"},
		{"a copy is short", guest("scan*", `echo '{"records": 3}'`), "node1: the copy of the disk on this node: "},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			commands := withInstances()
			test.change(commands)
			o := trialSite(t, commands)
			if script, ok := commands["fake-guest"]; ok {
				o.Guest = []byte(strings.Replace(fakeGuest, "\n", "\n"+script+"\n", 1))
				if err := os.WriteFile(filepath.Join(filepath.Dir(o.QEMU), "stick"), o.Guest, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if got := problems(r); len(got) != 1 || !strings.Contains(got[0], test.want) {
				t.Errorf("problems %q; want %q", got, test.want)
			}
		})
	}
}

// Only what time may mend is tried again.
func TestAddTriesAgain(t *testing.T) {
	t.Parallel()
	commands := withInstances()
	commands["sleep"] = "test $1 = 10 || exec /bin/sleep $1"
	commands["gnt-instance"] = `
if test "$1" = add; then
	n=$(($(cat "$DIR/tries" 2>/dev/null || echo 0) + 1)); echo $n >"$DIR/tries"
	test $n -eq 3 || { echo "Failure: RPC: Error 28: Connection timed out"; exit 1; }
fi` + commands["gnt-instance"]
	o := trialSite(t, commands)
	r, err := Run(t.Context(), o)
	if err != nil || len(r.Failed()) > 0 {
		t.Errorf("%v, %q", err, problems(r))
	}
	for _, c := range r.Checks {
		if c.Name == "gnt-instance add" && strings.Count(c.Output, "try ") != 2 {
			t.Errorf("the tries are not told: %s", c.Output)
		}
	}
}

func TestNoInstances(t *testing.T) {
	two := []Host{{Role: "node"}, {Role: "node"}}
	old := vm.Version{Major: 7, Minor: 2}
	for _, test := range []struct {
		summary string
		t       *test
		want    string
	}{
		{"no guest", &test{o: Options{Hosts: two}}, "carries no guest"},
		{"one node", &test{o: Options{Hosts: two[:1], Guest: []byte("x")}}, "one node has no mirrored disks"},
		{"old QEMU", &test{qemu: old, o: Options{Hosts: two, Guest: []byte("x"), Accel: vm.TCG}}, "QEMU 7.2 cannot start instances inside emulated nodes, QEMU 10 can: see --qemu-root"},
		{"old QEMU, but KVM", &test{qemu: old, o: Options{Hosts: two, Guest: []byte("x"), Accel: vm.KVM}}, ""},
	} {
		got := test.t.noInstances()
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q; want %q", test.summary, got, test.want)
		}
	}
}

func TestFreeAddress(t *testing.T) {
	for _, test := range []struct {
		lan   string
		taken []string
		want  string
	}{
		{"192.168.50.0/24", []string{"192.168.50.254"}, "192.168.50.253/24"},
		{"10.1.0.0/20", nil, "10.1.15.254/20"},
		{"10.1.1.0/30", []string{"10.1.1.2"}, "10.1.1.1/30"},
		{"10.1.1.0/30", []string{"10.1.1.1", "10.1.1.2"}, ""},
		{"fd00::/64", nil, ""},
	} {
		tt := lanOf(test.lan, test.taken)
		got, err := tt.freeAddress()
		if test.want == "" && err == nil || test.want != "" && (err != nil || got != netip.MustParsePrefix(test.want)) {
			t.Errorf("%s, %v: %v, %v; want %q", test.lan, test.taken, got, err, test.want)
		}
	}
}

func lanOf(lan string, taken []string) *test {
	return &test{o: Options{Networks: map[string]string{"lan": lan}, Taken: taken}}
}

func TestUpToDate(t *testing.T) {
	const out = `version: 8.4.11 (api:1/proto:86-101)
srcversion: 00000000000000000000000
 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----
    ns:12345 nr:0 dw:0 dr:12345 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:1036231
	[>....................] sync'ed:  1.3% (1036231/1048576)K
	finish: 0:09:59 speed: 1,716 (1,716) K/sec
 1: cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----
10: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C r-----
`
	for minor, want := range map[string]string{
		"0": "device 0 is SyncSource, UpToDate/Inconsistent, 1.3% done", "1": "", "10": "device 10 is WFConnection, UpToDate/DUnknown", "2": "there is no device 2",
	} {
		got := ""
		if err := upToDate(out, minor); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("device %s: %q; want %q", minor, got, want)
		}
	}
	if _, err := drbdMinor("Failure: no such instance"); err == nil {
		t.Error("drbdMinor: no error")
	}
}

// Every script is one that a shell can read.
func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("shellcheck is not installed")
	}
	n := &node{host: Host{Name: "node1"}}
	tt := &test{o: Options{Domain: "lab.example"}}
	tr := &trial{t: tt, dir: "/var/lib/sci-test", master: n, other: n, name: "x.lab.example", ip: netip.MustParsePrefix("192.168.50.250/24")}
	scripts := map[string]string{
		"bring": bringScript("/var/lib/sci-test", []byte("x")), "add": addScript(tr), "scan": scanScript("/d", "x"),
		"logs": tr.logs(), "get": tr.get("/status"), "nodes": nodeList, "serial": readSerial,
		"refused": refusedScript(" --powered-off 'node1'", "x.lab.example"), "out": outScript("192.168.50.10", "x.lab.example"),
		"fill": fillScript("/var/lib/sci-test.fill"), "loot": lootScript("AAAA"), "volume": volumeScript("x") + `sha256sum "/dev/$v"`,
	}
	for _, q := range append(hostQuestions(), tt.clusterQuestions()...) {
		scripts[q.Name] = q.Script
	}
	list := []lookup{{question: "a.lab.example", kind: "A"}, {question: "192.168.50.1", kind: "PTR"}}
	address := netip.MustParseAddr("192.168.50.1")
	for name, script := range map[string]string{
		"service": serviceScript("x"), "ssh": sshScript("/d", "192.168.50.20", "true"), "service logs": serviceLogs, "leave": leaveScript("/d"), "luggage": luggageScript("/d", nil),
		"outside": outsideScript("/d", address, 24), "uplink": uplinkScript(true), "begin client": beginClientScript("/d", "x", "y", "link=lan"), "leases": leasesScript,
		"lease": leaseScript("/d"), "lease program": leaseProgram("/d"), "dig": digScript("@192.168.50.20", list), "update": updateScript("-o a=b"), "install": installScript("", "x"),
		"forge": forgeScript("x"), "mend": mendScript("x"), "puppet": puppetScript, "again": againScript, "changed": changedScript, "here": hereScript("x", "y"),
		"clock": clockQuestion("192.168.50.20").Script,
	} {
		scripts[name] = script
	}
	for name, script := range scripts {
		cmd := exec.Command("shellcheck", "-s", "sh", "-e", "SC2012,SC2029", "-")
		cmd.Stdin = strings.NewReader(script + "\n")
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Run(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}

// A guest that says something final is not asked again until the time is over.
func TestUntil(t *testing.T) {
	tt := &test{report: installtest.NewReport("x")}
	asked := 0
	err := tt.until(t.Context(), "instance", time.Minute, "n", "w", func(context.Context) (string, error) {
		asked++
		return "", final(errors.New("lost"))
	})
	if asked != 1 || !errors.Is(err, installtest.ErrFailed) {
		t.Errorf("asked %d times, %v", asked, err)
	}
}
