package sitetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/installtest"
)

// faultySite is a QEMU like fakeSite's, whose machines end with it as real ones
// do, and whose agents see each other and their cables: files in $DIR. $BOOT
// counts the times that a machine was switched on.
func faultySite(t *testing.T, agent string, commands map[string]string) string {
	t.Helper()
	needImages(t)
	dir := t.TempDir()
	all := map[string]string{"agent.sh": "", "qemu": `
if test "$1" = --version; then echo "QEMU emulator version 10.0.13 (Debian)"; exit; fi
NAME=${2%%-*} BOOT=${2##*-} DIR=` + dir + ` PATH=` + dir + `:$PATH
export NAME BOOT DIR PATH
rm -f "$DIR/$NAME".net*
pids=
trap 'kill $pids 2>/dev/null; exit 0' TERM
tied="setpriv --pdeathsig KILL"
echo '{"QMP": {}}' >&3
while read -r line <&3; do
	id=$(echo "$line" | sed 's/.*"id"://; s/}$//')
	echo '{"return": {}, "id": '$id'}' >&3
	nic=$(echo "$line" | sed -n 's/.*"name":"\(net.\)".*/\1/p')
	case $line in
	*system_powerdown*) kill $pids; exit 0 ;;
	*'"up":false'*) : >"$DIR/$NAME.$nic" ;;
	*'"up":true'*) rm "$DIR/$NAME.$nic" ;;
	*qmp_capabilities*)
		case $2 in
		*-install) { echo 'sci-agent: installer started'; ` + installs + ` sleep 0.1; kill $$; } >&4 2>/dev/null 3>&- 5>&- & ;;
		*)
			$tied bash "$DIR/agent.sh" >&4 2>/dev/null 3>&- 5>&- &
			pids="$pids $!"
			{ echo sci-test-shell; exec $tied sh; } <&5 >&5 2>/dev/null 3>&- 4>&- & ;;
		esac
		pids="$pids $!" ;;
	esac
done`}
	maps.Copy(all, healthy())
	maps.Copy(all, commands)
	maps.Copy(all, map[string]string{ // no test may fill this machine's disk
		"fallocate": "", "dd": `case $* in *of=/dev/drbd3*) : >"$DIR/blank" ;; esac`, "df": "echo 0", "stat": "echo 0", "rm": `case $* in *.fill) : >"$DIR/room" ;; esac; exec /bin/rm "$@"`,
	})
	all["agent.sh"] = `
say() { echo "sci-agent: $*"; }
# await FILE…: until one is there.
await() { while :; do for f; do test -e "$DIR/$f" && return; done; pause; done; }
# gone FILE…: until none is there.
gone() { for f; do while test -e "$DIR/$f"; do pause; done; done; }
exec 9<> <(:) # nothing ever comes from there: to wait without a process
pause() { read -r -t 0.05 -u 9 || true; }
steps() { for s; do say "step $s ok"; done; }
read -r -t 0.3 -u 9 || true # firmware and kernel
` + agent + `
await forever`
	for name, script := range all {
		writeProgram(t, filepath.Join(dir, name), "#!/bin/bash\n"+script+"\n")
	}
	return filepath.Join(dir, "qemu")
}

// wellBehaved are agents as they should be.
const wellBehaved = `
# Only the power that is there at the first try counts.
if test $NAME = node1; then
	steps identity hostname networks time apt address storage drbd os
	if test -e "$DIR/node1.net0"; then say 'step cluster retry 1 in 1s: waiting for a link on the network lan'; gone node1.net0; fi
	steps cluster; : >"$DIR/formed"
	if ! test -e "$DIR/joined"; then
		test -e "$DIR/asked" || say 'step nodes retry 1 in 1s: waiting for node2 (10.101.200.12) to join'
		await asked
		say 'taking node2 into the cluster'
		if test -e "$DIR/slow"; then await stolen; say 'REFUSED node2 at 10.101.200.12, who wanted to join the cluster: another machine'; await back; fi
		: >"$DIR/joined"
	fi
	steps nodes parameters configuration verify
	say ready
elif test $NAME = node2; then
	steps identity hostname networks time apt address storage drbd os
	if ! test -e "$DIR/formed"; then say 'step cluster retry 1 in 1s: waiting for the master to answer: node1 (10.101.200.11)'; await formed; fi
	gone node2.net1
	if test -e "$DIR/full"; then say 'step cluster retry 2 in 2s: open /root/.ssh/x: no space left on device'; await room; fi
	: >"$DIR/asked"
	test $BOOT = 1 || : >"$DIR/back"
	await joined
	steps cluster nodes parameters configuration verify
	say ready
else
	: >"$DIR/stolen"
	say 'failed: step cluster: node1 refuses to let this machine join: another machine has joined as host node2 already'
fi`

// faultOptions are those of a site that has been installed, and has formed a
// cluster.
func faultOptions(t *testing.T, qemu string, formed bool) Options {
	t.Helper()
	o := site(t, qemu)
	o.Disks, o.ClusterAddress = t.TempDir(), "192.168.50.10"
	o.hurry, o.guestDir = 0.0005, filepath.Dir(qemu)+"/$NAME"
	s := time.Second
	o.Limits = Limits{Boot: 5 * s, Install: 5 * s, Ready: 5 * s, Check: 10 * s, Sync: 3 * s, Guest: 3 * s, Line: 3 * s, Out: s / 10}
	id := identity{ISO: mustDigest(t, o.ISO), Firmware: "bios", Hosts: []string{"node1", "node2", "node3"}, Formed: formed}
	for _, h := range id.Hosts {
		dir := filepath.Join(o.Disks, h)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, diskImage), make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if !formed {
			continue
		}
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", diskImage, filepath.Join(dir, formedImage)).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if err := id.write(o.Disks); err != nil {
		t.Fatal(err)
	}
	return o
}

// withGuest are the commands of nodes of a cluster that takes over: node1 is the
// master until told otherwise.
func withGuest() map[string]string {
	commands := withInstances()
	maps.Copy(commands, map[string]string{
		"gnt-cluster": `case $1 in getmaster) cat "$DIR/master" 2>/dev/null || echo node1.lab.example ;; *) echo 'Verifying' ;; esac`,
		"gnt-node": `
m=$(gnt-cluster getmaster)
test $NAME.lab.example = "$m" || exit 1
for n in node1.lab.example node2.lab.example; do test $n = "$m" && echo "$n M 20480" || echo "$n C 20480"; done`,
		"sci-agent": `
case "$*" in
status*) echo '{"state": "ready"}' ;;
"takeover --powered-off node1")
	if ! test -e "$DIR/lost"; then echo 'sci-agent: node1 is alive: it answers on lan'; exit 1; fi
	echo node2.lab.example | tee "$DIR/master" >"$DIR/pnode"
	echo $(($(cat "$DIR/boot") + 1)) >"$DIR/boot"; cat "$DIR/records" >"$DIR/found" ;;
takeover) echo 'hint: sci-agent takeover --powered-off node1'; : >"$DIR/lost"; exit 1 ;;
"join node1") : >"$DIR/again" ;;
*) exit 2 ;;
esac`,
		"cat": `
case $1 in
/proc/drbd)
	n=$(($(cat "$DIR/reads" 2>/dev/null || echo 0) + 1)); echo $n >"$DIR/reads"
	state=$(sed -n "${n}p" "$DIR/states" 2>/dev/null); state=${state:-Connected UpToDate/UpToDate}
	echo " 3: cs:${state% *} ro:Primary/Secondary ds:${state#* } C r-----" ;;
/var/lib/ganeti/ssconf_master_node) gnt-cluster getmaster ;;
*) exec /bin/cat "$@" ;;
esac`,
		"drbdsetup": "",
		"pgrep":     `test -e "$DIR/twice" && echo 4711; true`,
		"ip":        "",
		"sha256sum": `case $* in /dev/*) echo "$(printf %064d 7)  $1" ;; *) exec /usr/bin/sha256sum "$@" ;; esac`,
	})
	return commands
}

// lostMaster are agents of a cluster whose first node is lost and comes back.
const lostMaster = `
steps identity hostname networks time apt address storage drbd os
if test $NAME-$BOOT = node1-2; then
	say 'failed: step cluster: this machine was the master, and another node has taken its place: it stays out'
	await again
	steps cluster nodes parameters configuration verify
	say ready
	await forever
fi
steps cluster nodes parameters configuration verify
say ready
if test $NAME = node2; then await again; say ready; fi`

// runFaults runs one scenario and returns its problems.
func runFaults(t *testing.T, o Options, name string) (*installtest.Report, []string) {
	t.Helper()
	r, err := Faults(t.Context(), o, FaultOptions{Only: []string{name}, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return r, problems(r)
}

func faultGuest(t *testing.T, o *Options, guest string) {
	t.Helper()
	o.Guest = []byte(guest)
	put(t, filepath.Dir(o.QEMU), "stick", guest+strings.Repeat("\x00", 100))
}

// put writes a file that the scripts of a site read.
func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestFaults runs each scenario with a site that does as it should.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		name     string
		files    []string // in $DIR from the start
		agent    string
		formed   bool
		commands map[string]string
		states   string   // of DRBD, a line a question
		want     []string // checks that must be in the report, in this order
	}{
		{name: "late", want: []string{"node1 says for whom it waits", "node1 gets ready", "node2 gets ready", "node1: gnt-cluster verify"}},
		{name: "order", want: []string{"node2 says for whom it waits", "node1 gets ready"}},
		{name: "switch-last", want: []string{"node1 says what it waits for", "node2 says what it waits for", "node2 gets ready"}},
		{name: "cut-node1", want: []string{"power cut of node1 at the step address", "power cut of node1 at the step storage", "power cut of node1 at the step drbd", "power cut of node1 at the step os",
			"power cut of node1 at the step cluster", "power cut of node1 at the step nodes", "power cut of node1 at the step parameters",
			"power cut of node1 at the step configuration", "power cut of node1 at the step verify", "each master candidate has the same configuration"}},
		{name: "cut-node2", want: []string{"power cut of node2 at the step storage", "power cut of node2 at the step verify", "node1: gnt-cluster verify"}},
		{name: "cut-apt-node2", want: []string{"power cut of node2 at the step apt", "node2 gets ready"}},
		{name: "clock", want: []string{"node2 gets ready", "the clocks agree"}},
		{name: "disk-full", files: []string{"full"}, commands: map[string]string{"cp": "exit 1"},
			want: []string{"node2: the root file system is filled", "node2 says that its disk is full, and waits", "node2: there is room again", "node2 gets ready"}},
		{name: "thief", files: []string{"slow"}, commands: map[string]string{"cut": "printf %080d 1"},
			want: []string{"node2 has proved who it is", "the console of node1 says that somebody was refused", "the thief's console says so", "thief: the thief has nothing of the cluster", "node2 gets ready", "node1: gnt-cluster verify"}},
		{name: "takeover", agent: lostMaster, formed: true, commands: withGuest(),
			states: "Connected UpToDate/UpToDate\nWFConnection UpToDate/DUnknown\n",
			want: []string{"node1: gnt-instance add", "node2: sci-agent takeover is refused while node1 lives, whatever one says", "node2: records that have been acknowledged", "DRBD notices it",
				"node2: sci-agent takeover is refused as long as nobody says that node1 is off", "node2: sci-agent takeover --powered-off node1", "node2: node2 is the master",
				"it is started again behind the takeover", "each record is the same behind the takeover", "node2: the instance runs on node2",
				"node1 comes back and says that it stays out", "node1 stays out", "node2: sci-agent join node1", "node1 gets ready again", "both copies of each disk are current",
				"node2: gnt-cluster verify", "both copies hold the same records", "both copies are the same, byte by byte"}},
		{name: "backbone-cut", agent: lostMaster, formed: true, commands: withGuest(),
			states: "Connected UpToDate/UpToDate\nSyncSource UpToDate/Inconsistent\nSyncSource UpToDate/Inconsistent\nWFConnection UpToDate/DUnknown\nSyncSource UpToDate/Inconsistent\n",
			want: []string{"it answers both nodes by HTTP", "node1: the copies of the disk differ yet", "DRBD notices it", "it writes on while the backbone is cut",
				"both copies of each disk are current", "each record is the same behind the cut", "both copies are the same, byte by byte", "node1: gnt-cluster verify"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			agent := test.agent
			if agent == "" {
				agent = wellBehaved
			}
			o := faultOptions(t, faultySite(t, agent, test.commands), test.formed)
			dir := filepath.Dir(o.QEMU)
			faultGuest(t, &o, fakeGuest)
			for _, name := range test.files {
				put(t, dir, name, "")
			}
			put(t, dir, "states", test.states)
			r, failed := runFaults(t, o, test.name)
			if len(failed) > 0 {
				t.Errorf("problems: %q", failed)
			}
			var got []string
			for _, c := range r.Checks {
				got = append(got, strings.TrimPrefix(c.Title(), test.name+": "))
			}
			rest := got
			for _, want := range test.want {
				i := slices.Index(rest, want)
				if i < 0 {
					t.Fatalf("no check %q behind the ones before; there are\n%s", want, strings.Join(got, "\n"))
				}
				rest = rest[i+1:]
			}
			if n := len(r.Sections); n != 1 || r.Sections[0].Name != test.name || r.Sections[0].About == "" {
				t.Errorf("sections: %+v", r.Sections)
			}
			if left, err := os.ReadDir(filepath.Join(o.WorkDir, test.name)); err == nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestFaultsFail: each scenario fails with a site that does not as it should.
func TestFaultsFail(t *testing.T) {
	agent := func(old, new string) func(*string, map[string]string) {
		return func(agent *string, _ map[string]string) {
			if !strings.Contains(*agent, old) {
				panic("the agent does not say " + old)
			}
			*agent = strings.ReplaceAll(*agent, old, new)
		}
	}
	command := func(name, script string) func(*string, map[string]string) {
		return func(_ *string, c map[string]string) { c[name] = script + "\n" + c[name] }
	}
	for _, test := range []struct {
		summary, name string
		change        func(*string, map[string]string)
		files         []string
		want          string // the first problem
	}{
		{"it does not say for whom it waits", "late", agent("waiting for node2 (10.101.200.12) to join", "trying"), nil,
			`late: node1 says for whom it waits: node1: no line "sci-agent: ^step nodes retry .*waiting for node2\\b" came: it was given 3s; its last line: "step nodes retry 1 in 1s: trying"`},
		{"an agent stops", "order", agent("await asked", "say 'failed: step nodes: no'"), nil, "order: node1 gets ready: node1: the agent says: failed: step nodes: no"},
		{"the other one stops early", "order", agent("await formed", "say 'failed: step cluster: no answer'; await formed"), nil, "order: node2 gets ready: node2: the agent says: failed: step cluster: no answer"},
		{"it does not see the cable", "switch-last", agent("gone node1.net0", "await forever"), nil, "switch-last: node1 gets ready: node1: no line"},
		{"it does not come past the step", "cut-os-node1", agent("if test $NAME = node1; then", "if test $NAME-$BOOT = node1-2; then steps identity; await forever; fi; if test $NAME = node1; then"), nil,
			`cut-os-node1: power cut of node1 at the step os: node1: no line "sci-agent: ^step os ok" came: it was given 5s; its last line: "step identity ok"`},
		{"it does not boot", "cut-os-node2", agent("if test $NAME = node1; then", "if test $NAME-$BOOT = node2-2; then echo 'Kernel panic - not syncing: VFS'; fi; if test $NAME = node1; then"), nil,
			`cut-os-node2: power cut of node2 at the step os: node2: the boot came to an end: Kernel panic - not syncing: VFS`},
		{"the cluster is not whole", "cut-os-node2", command("gnt-cluster", `case $1 in verify) echo 'ERROR: node node2: not all are there'; exit ;; esac`), nil, "cut-os-node2: node1: gnt-cluster verify: ERROR: node node2"},
		{"a clock is off", "clock", command("date", `test $NAME = node2 && echo 12345 && exit; exec /bin/date "$@"`), nil, "clock: the clocks agree: not within"},
		{"the disk is not full", "disk-full", command("cp", "exit 0"), []string{"full"}, "disk-full: node2: the root file system is filled: there is room yet: 0 blocks"},
		{"it does not say that it is full", "disk-full", func(a *string, c map[string]string) {
			agent("no space left on device", "cannot write")(a, c)
			command("cp", "exit 1")(a, c)
		}, []string{"full"}, "disk-full: node2 says that its disk is full, and waits: node2: no line"},
		{"the thief is not refused", "thief", agent("await stolen; say 'REFUSED node2", "await stolen; say 'WELCOME node2"), []string{"slow"}, "thief: the console of node1 says that somebody was refused: node1: no line"},
		{"the thief hears nothing", "thief", agent("refuses to let this machine join", "does not answer"), []string{"slow"}, "thief: the thief's console says so: thief: the agent says: failed: step cluster: node1 does not answer"},
		{"the thief has a file", "thief", command("ls", `case $* in *ganeti*) echo server.pem; exit ;; esac; exec /bin/ls "$@"`), []string{"slow"}, "thief: thief: the thief has nothing of the cluster: there should be no output"},
		{"it takes over from one that lives", "takeover", command("sci-agent", `case $* in *powered-off*) echo node2.lab.example >"$DIR/master"; exit ;; esac`), nil,
			"takeover: node2: sci-agent takeover is refused while node1 lives, whatever one says: the status is 0"},
		{"it takes over from one that may live", "takeover", command("sci-agent", `test "$*" = takeover && exit`), nil, "takeover: node2: sci-agent takeover is refused as long as nobody says that node1 is off: the status is 0"},
		{"records are lost", "takeover", command("sci-agent", `trap 'test -e "$DIR/found" && echo 7 >"$DIR/found"' EXIT`), nil, "takeover: it is started again behind the takeover: node2: "},
		{"two masters", "takeover", command("gnt-node", `test $NAME-$(gnt-cluster getmaster) = node1-node2.lab.example && echo node1.lab.example && exit`), nil, "takeover: node1 stays out: at look 1: node1: it answers as the master: node1.lab.example"},
		{"it says nothing", "takeover", agent("say 'failed: step cluster: this machine was the master, and another node has taken its place: it stays out'", ":"), nil, "takeover: node1 comes back and says that it stays out: node1: no line"},
		{"it is not let in again", "takeover", agent("await again\n\tsteps", "await forever\n\tsteps"), nil, "takeover: node1 gets ready again: node1: no line"},
		{"the copies differ in a byte", "takeover", command("sha256sum", `case $* in /dev/*) echo "$(printf %063d 7)${NAME#node}  $1"; exit ;; esac`), nil, "takeover: both copies are the same, byte by byte: the other one's is "},
		{"it is not synchronised anew", "backbone-cut", command("cat", `case $1 in /proc/drbd) echo " 3: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----"; exit ;; esac`), nil,
			"backbone-cut: node1: the disk is being synchronised: no device is being synchronised"},
		{"it does not come in sync", "backbone-cut", command("cat", `case $1 in /proc/drbd) n=$(($(cat "$DIR/reads" 2>/dev/null || echo 0) + 1)); echo $n >"$DIR/reads"; test $n -le 2 && s=SyncSource || s=WFConnection; echo " 3: cs:$s ro:Primary/Unknown ds:UpToDate/DUnknown C r-----"; exit ;; esac`), nil,
			"backbone-cut: both copies of each disk are current: not within 3s: device 3 is WFConnection"},
	} {
		t.Run(test.name+": "+test.summary, func(t *testing.T) {
			t.Parallel()
			script, commands, formed := wellBehaved, map[string]string{"cut": "printf %080d 1"}, false
			if test.name == "takeover" || test.name == "backbone-cut" {
				script, commands, formed = lostMaster, withGuest(), true
			} else {
				maps.Copy(commands, healthy())
			}
			test.change(&script, commands)
			o := faultOptions(t, faultySite(t, script, commands), formed)
			dir := filepath.Dir(o.QEMU)
			faultGuest(t, &o, fakeGuest)
			states := "Connected UpToDate/UpToDate\nWFConnection UpToDate/DUnknown\n"
			if test.name == "backbone-cut" {
				states = "SyncSource UpToDate/Inconsistent\nSyncSource UpToDate/Inconsistent\nWFConnection UpToDate/DUnknown\n"
			}
			put(t, dir, "states", states)
			for _, name := range test.files {
				put(t, dir, name, "")
			}
			_, failed := runFaults(t, o, test.name)
			if len(failed) != 1 || !strings.Contains(failed[0], test.want) {
				t.Errorf("problems %q; want %q", failed, test.want)
			}
		})
	}
}

// TestFaultsForm: the first scenario that needs a cluster has one formed, whose
// disks stay for the next test.
func TestFaultsForm(t *testing.T) {
	t.Parallel()
	o := faultOptions(t, faultySite(t, lostMaster, withGuest()), false)
	faultGuest(t, &o, fakeGuest)
	put(t, filepath.Dir(o.QEMU), "states", "SyncSource UpToDate/Inconsistent\nSyncSource UpToDate/Inconsistent\nWFConnection UpToDate/DUnknown\n")
	var lines []string
	o.Progress = func(line string) { lines = append(lines, line) }
	r, failed := runFaults(t, o, "backbone-cut")
	if len(failed) > 0 {
		t.Errorf("problems: %q", failed)
	}
	var sections []string
	for _, s := range r.Sections {
		sections = append(sections, s.Name)
	}
	if want := []string{"form", "backbone-cut"}; !slices.Equal(sections, want) {
		t.Errorf("sections %q; want %q", sections, want)
	}
	for _, want := range []string{"seed 1", "ok form, ", "ok backbone-cut, "} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
			t.Errorf("no line %q in %q", want, lines)
		}
	}
	for _, h := range []string{"node1", "node2"} {
		out, err := exec.Command("qemu-img", "info", filepath.Join(o.Disks, h, formedImage)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "backing file: disk.img (actual path: "+filepath.Join(o.Disks, h, diskImage)) {
			t.Errorf("%s: %v\n%s", h, err, out)
		}
	}
	if err := os.Remove(filepath.Join(filepath.Dir(o.QEMU), "reads")); err != nil {
		t.Fatal(err)
	}
	o.ReportDir = t.TempDir()
	if r, failed := runFaults(t, o, "backbone-cut"); len(failed) > 0 || len(r.Sections) != 1 {
		t.Errorf("the second time: %d sections, %q", len(r.Sections), failed)
	}
}

// TestRunKeepsFormed: a test without a fault leaves the disks of its cluster.
func TestRunKeepsFormed(t *testing.T) {
	t.Parallel()
	o := faultOptions(t, faultySite(t, wellBehaved, nil), false)
	if r, err := Run(t.Context(), o); err != nil || len(r.Failed()) > 0 {
		t.Fatal(err, problems(r))
	}
	id := identity{ISO: mustDigest(t, o.ISO), Firmware: "bios", Hosts: []string{"node1", "node2"}}
	if formed, err := id.check(o.Disks); err != nil || !formed {
		t.Errorf("formed %v, %v", formed, err)
	}
	o = faultOptions(t, faultySite(t, wellBehaved, map[string]string{"systemctl": "echo 'x.service loaded failed'"}), false)
	if r, err := Run(t.Context(), o); err != nil || len(r.Failed()) == 0 {
		t.Fatal(err, problems(r))
	}
	id.ISO = mustDigest(t, o.ISO)
	if formed, err := id.check(o.Disks); err != nil || formed {
		t.Errorf("behind a failed check: formed %v, %v", formed, err)
	}
}

func mustDigest(t *testing.T, path string) string {
	t.Helper()
	sum, err := digest(path)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestFaultsInstall: without kept disks the site is installed first.
func TestFaultsInstall(t *testing.T) {
	t.Parallel()
	o := faultOptions(t, faultySite(t, wellBehaved, nil), false)
	o.Disks = ""
	r, failed := runFaults(t, o, "late")
	if len(failed) > 0 || len(r.Sections) != 2 || r.Sections[0].Name != "install" {
		t.Errorf("%d sections, %q", len(r.Sections), failed)
	}
}

// TestFaultsThree: scenarios of a site of three nodes, and those that are not.
func TestFaultsThree(t *testing.T) {
	t.Parallel()
	three := []Host{{Name: "node3", Role: "node", MACs: []string{"52:54:00:5c:1c:03"}, Addresses: map[string]string{"lan": "192.168.50.13", "backbone": "10.101.200.13"}}}
	for _, c := range []struct{ roles, want string }{
		{"M C C", ""}, {"M C R", "three: node1: each node can become the master: there are 1 masters and 1 candidates"},
	} {
		f := strings.Fields(c.roles)
		o := faultOptions(t, faultySite(t, `steps identity; say ready`, map[string]string{
			"gnt-node": fmt.Sprintf("echo 'node1.lab.example %s 20480'; echo 'node2.lab.example %s 20480'; echo 'node3.lab.example %s 20480'", f[0], f[1], f[2]),
		}), false)
		o.Hosts = append(o.Hosts, three...)
		r, err := Faults(t.Context(), o, FaultOptions{Only: []string{"three", "late"}, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(problems(r), "\n"); got != c.want {
			t.Errorf("%s: problems %q; want %q", c.roles, got, c.want)
		}
		if s := r.Sections[0]; s.Name != "late" || s.Skipped != "it is made for a site of 2 nodes, this one has 3" {
			t.Errorf("section %+v", s)
		}
	}
}

// TestBudget: a scenario that takes too long is ended, and what its machines
// know is kept.
func TestBudget(t *testing.T) {
	t.Parallel()
	o := faultOptions(t, faultySite(t, "steps identity", nil), false)
	o.Limits.Ready = time.Minute
	r, err := with(t.Context(), o, func(tt *test) error {
		return tt.faults(t.Context(), []Scenario{{Name: "slow", Nodes: 2, Budget: 4 * time.Second, Run: func(ctx context.Context, s *Site) error {
			if err := s.allOn(); err != nil {
				return err
			}
			_, err := s.whole(ctx)
			return err
		}}, {Name: "broken", Nodes: 2, Budget: time.Minute, Run: func(context.Context, *Site) error { return errors.New("cannot go on") }}}, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	got := problems(r)
	want := []string{"broken: the scenario comes to its end: cannot go on", "slow: node1 gets ready: node1: no line \"sci-agent: ^ready\" came: the scenario's budget of 4s is over; its last line: \"step identity ok\""}
	if !slices.Equal(got, want) {
		t.Errorf("problems %q; want %q", got, want)
	}
	for _, name := range []string{"node1-slow-1.ttyS0.log", "node2-slow-1.journal.log"} {
		if _, err := os.Stat(filepath.Join(o.ReportDir, name)); err != nil {
			t.Error(err)
		}
		if !slices.ContainsFunc(r.Logs, func(l installtest.Log) bool { return l.File == name }) {
			t.Errorf("the page lacks %s", name)
		}
	}
}

// TestSteps: the agent has the steps that cuts go through, in that order. Its
// source is read, since the harness must not share code with it.
func TestSteps(t *testing.T) {
	var got []string
	for _, file := range []string{"node.go", "cluster.go"} {
		text, err := os.ReadFile("../agent/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\t+\{Name: "(\w+)", Done: `).FindAllStringSubmatch(string(text), -1) {
			got = append(got, m[1])
		}
	}
	if d := cmp.Diff(got, steps()); d != "" {
		t.Errorf("steps (-agent +here):\n%s", d)
	}
}

func TestSelect(t *testing.T) {
	all := Scenarios()
	seen := make(map[string]bool)
	for _, s := range all {
		if seen[s.Name] || s.Shows == "" || s.Nodes < 2 || s.Budget == 0 || s.Run == nil {
			t.Errorf("scenario %+v", s)
		}
		seen[s.Name] = true
	}
	for _, c := range []struct {
		only []string
		want string
		err  string
	}{
		{nil, "late order switch-last cut-node1 cut-node2 clock takeover backbone-cut disk-full thief three", ""},
		{[]string{"takeover", "late"}, "late takeover", ""},
		{[]string{"cut-n*-node1"}, "cut-networks-node1 cut-nodes-node1", ""},
		{[]string{"late", "l*"}, "late", ""},
		{[]string{"earthquake"}, "", `there is no scenario "earthquake"`},
		{[]string{"["}, "", `cannot use "["`},
	} {
		list, err := FaultOptions{Only: c.only}.Select(all)
		if got := strings.Join(names(list), " "); got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %q, %v; want %q, %q", c.only, got, err, c.want, c.err)
		}
		if strings.HasPrefix(c.err, "there is") && !strings.Contains(hint.Of(err), "backbone-cut") {
			t.Errorf("%q: hint %q", c.only, hint.Of(err))
		}
	}
}

// TestTogether: scenarios run at the same time, as many as are asked for; each
// has what it found in its own part of the report, and the parts are in order.
func TestTogether(t *testing.T) {
	t.Parallel()
	o := faultOptions(t, faultySite(t, wellBehaved, nil), false)
	o.Jobs = 2
	met := make(chan string)
	var lines []string
	o.Progress = func(line string) { lines = append(lines, line) }
	find := func(s *Site, what string) error {
		return s.check(t.Context(), what, "", time.Second, func(context.Context) (string, error) { return "", nil })
	}
	list := []Scenario{
		{Name: "a", Nodes: 2, Budget: 10 * time.Second, Run: func(ctx context.Context, s *Site) error {
			select {
			case <-met:
				return find(s, "the other one runs")
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}},
		{Name: "b", Nodes: 2, Budget: 10 * time.Second, Run: func(ctx context.Context, s *Site) error {
			if err := find(s, "it begins"); err != nil {
				return err
			}
			select {
			case met <- "":
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}},
	}
	r, err := with(t.Context(), o, func(tt *test) error {
		tt.o.Cluster = true
		return tt.together(t.Context(), list, o.Disks, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range r.Checks {
		got = append(got, c.Title())
	}
	if want := []string{"a: the other one runs", "b: it begins"}; !slices.Equal(got, want) || len(r.Failed()) > 0 {
		t.Errorf("checks %q, failed: %q; want %q", got, problems(r), want)
	}
	if !slices.Contains(lines, "a: the other one runs") {
		t.Errorf("no line says which scenario it is of: %q", lines)
	}
	if n := (Options{Hosts: o.Hosts, Memory: 1000, Free: 5000, Jobs: 4}).together(); n != 1 {
		t.Errorf("%d at the same time in too little memory; want 1", n)
	}
}

// TestSeed: the same seed draws the same moments, whichever scenarios run.
func TestSeed(t *testing.T) {
	draw := func(name string, seed uint64) int64 {
		tt := &test{o: Options{WorkDir: t.TempDir(), Disks: t.TempDir()}, report: installtest.NewReport("x")}
		s, err := tt.site(t.Context(), Scenario{Name: name}, tt.report, tt.o.Disks, seed)
		if err != nil {
			t.Fatal(err)
		}
		return s.rng.Int64()
	}
	first := draw("late", 1)
	if again := draw("late", 1); again != first || draw("late", 2) == first || draw("order", 1) == first {
		t.Error("the seed does not decide")
	}
}

// TestFaultJudges: what scenarios judge by must see what is wrong.
func TestFaultJudges(t *testing.T) {
	asText := func(f func(string) error) func(string) string {
		return func(out string) string {
			if err := f(out); err != nil {
				return err.Error()
			}
			return ""
		}
	}
	still := asText(func(out string) error { _, err := stillMaster(out, "node2.lab", 2, 100); return err })
	again := func(s string) string {
		st, err := parseStatus(s)
		if err == nil {
			err = startedAgain(status{Boot: 1, Records: 100})(st)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	}
	refused := refusal("node1.lab", "--powered-off")
	const device = " 0: cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n    ns:1\n"
	for _, c := range []struct {
		summary string
		judge   func(string) string
		out     string
		want    string
	}{
		{"refused", refused, "hint: --powered-off node1\nstatus: 1\nmaster: node1.lab\ninstances: 0\n", ""},
		{"not refused", refused, "--powered-off\nstatus: 0\nmaster: node1.lab\ninstances: 0\n", "the status is 0"},
		{"no such command", refused, "unknown command \"takeover\"\nstatus: 2\nmaster: node1.lab\ninstances: 0\n", "it does not say why"},
		{"another reason", refused, "no\nstatus: 1\nmaster: node1.lab\ninstances: 0\n", "it does not say why"},
		{"half done", refused, "--powered-off\nstatus: 1\nmaster: node2.lab\ninstances: 0\n", "the master is node2.lab now"},
		{"started", refused, "--powered-off\nstatus: 1\nmaster: node1.lab\ninstances: 1\n", "the instance runs"},
		{"cut off", refused, "--powered-off\n", "it did not come to its end"},

		{"out", stayedOut, "answers: \naddress: \ninstances: \nprimary: \n", ""},
		{"out, trimmed", stayedOut, "answers:\naddress:\ninstances:\nprimary:\n", ""},
		{"a second master", stayedOut, "answers: node1.lab node2.lab\naddress: \ninstances: \nprimary: \n", "it answers as the master: node1.lab node2.lab"},
		{"its address", stayedOut, "answers: \naddress: 3: lan inet 192.168.50.10/32\ninstances: \nprimary: \n", "it has the cluster's address: 3: lan"},
		{"its instance", stayedOut, "answers: \naddress: \ninstances: 815\nprimary: \n", "it runs the instance: 815"},
		{"its disk", stayedOut, "answers: \naddress: \ninstances: \nprimary: ro:Primary\n", "it has a disk as its primary"},
		{"half an answer", stayedOut, "answers: \naddress: \n", "it does not say: instances"},

		{"still", still, "node2.lab\n{\"boot\": 2, \"records\": 101}", ""},
		{"another master", still, "node1.lab\n{\"boot\": 2, \"records\": 101}", `the master is "node1.lab"`},
		{"restarted", still, "node2.lab\n{\"boot\": 3, \"records\": 101}", "the instance was started again: start 3"},
		{"stuck", still, "node2.lab\n{\"boot\": 2, \"records\": 100}", "the instance writes no more"},
		{"damaged", still, "node2.lab\n{\"boot\": 2, \"records\": 101, \"error\": \"input/output error\"}", "input/output error"},
		{"dead", still, "node2.lab\n", "cannot read the guest's answer"},

		{"again", again, `{"boot": 2, "records": 120, "found": {"records": 101}}`, ""},
		{"one record lost", again, `{"boot": 2, "records": 120, "found": {"records": 99}}`, "1 records are lost: it found 99, 100 had been acknowledged"},
		{"started twice", again, `{"boot": 3, "records": 120, "found": {"records": 110}}`, "it is start 3"},
		{"never killed", again, `{"boot": 1, "records": 120, "found": {"records": 0}}`, "it is start 1"},
		{"torn", again, `{"boot": 2, "records": 120, "found": {"records": 110, "damage": "record 7 is not what was written"}}`, "record 7 is not"},

		{"in sync", asText(allUpToDate), device, ""},
		{"one of two", asText(allUpToDate), device + " 1: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----\n", "device 1 is SyncSource"},
		{"no device", asText(allUpToDate), " 0: cs:Unconfigured\n", "there is no device"},
		{"cut", asText(disconnected), " 0: cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown C r-----\n", ""},
		{"not cut", asText(disconnected), device, "device 0 is Connected"},
		{"goes on", asText(disconnected), " 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----\n", "device 0 is SyncSource"},
		{"nothing to cut", asText(disconnected), "", "there is no device"},
		{"syncs", syncing, " 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----\n", ""},
		{"synced before", syncing, device, "no device is being synchronised"},

		{"full", full, "free: 0\nfits: no\n", ""},
		{"a block is left that nothing can have", full, "free: 3\nfits: no\n", ""},
		{"not full", full, "free: 9000\nfits: yes\n", "there is room yet: 9000 blocks"},
		{"unknown", full, "fits: no\n", "cannot read"},

		{"three", candidates(3), "n1 M 1\nn2 C 1\nn3 C 1\n", ""},
		{"one is none", candidates(3), "n1 M 1\nn2 C 1\nn3 R 1\n", "1 masters and 1 candidates"},
		{"two masters", candidates(3), "n1 M 1\nn2 M 1\nn3 C 1\n", "2 masters and 1 candidates"},
		{"its name", installtest.Equal("node2.lab"), "node2.lab\n", ""},
		{"another name", installtest.Equal("node2.lab"), "node1.lab\n", `got "node1.lab"`},
	} {
		if got := c.judge(c.out); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q; want %q", c.summary, got, c.want)
		}
	}
	if err := wroteOn(status{Boot: 1, Records: 50})(status{Boot: 2, Records: 90}); !errors.As(err, &finalError{}) {
		t.Errorf("a restart: %v; want a final error", err)
	}
	if err := wroteOn(status{Boot: 1, Records: 50})(status{Boot: 1, Records: 55}); err == nil {
		t.Error("it stopped: no error")
	}
}

func TestAgree(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	at := func(ahead, took time.Duration) reading {
		return reading{fmt.Sprintf("%d\n", now.Add(ahead).Unix()), now, now.Add(took)}
	}
	for _, c := range []struct {
		a, b reading
		want string
	}{
		{at(0, 0), at(0, 0), ""},
		{at(3600*time.Second, time.Second), at(3600*time.Second, time.Second), ""}, // both may be off
		{at(140*time.Second, time.Second), at(0, time.Second), ""},
		{at(0, time.Second), at(149*time.Second, time.Second), "apart"},
		{at(0, 0), at(time.Hour, 0), "up to 1h0m1s apart"},
		{at(0, 0), at(-time.Hour, 0), "apart"},
		{at(0, 200*time.Second), at(0, 0), "apart"}, // an answer that took too long proves nothing
		{reading{"no", now, now}, at(0, 0), "cannot read a clock"},
	} {
		err := agree(c.a, c.b)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, %q: %v; want %q", c.a.text, c.b.text, err, c.want)
		}
	}
}
