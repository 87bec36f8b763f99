package sitetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/installtest"
)

// fakeSite is a QEMU that behaves towards pkg/vm as machines of a site do. Its
// installer and its agents print the given lines; $NAME is the host. Its root
// shells are real ones, with the commands of a node as scripts beside it, so a
// test may ask whatever the site is asked.
func fakeSite(t *testing.T, install, agent string, commands map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, script := range commands {
		writeProgram(t, filepath.Join(dir, name), "#!/bin/sh\n"+script+"\n")
	}
	path := filepath.Join(dir, "qemu")
	code := `#!/bin/bash
if test "$1" = --version; then echo "QEMU emulator version ${FAKE_QEMU:-10.0.13} (Debian)"; exit; fi
NAME=${2%%-*} DIR=` + dir + ` PATH=` + dir + `:$PATH
export NAME DIR PATH
pids=
trap 'kill $pids 2>/dev/null; exit 0' TERM
echo '{"QMP": {}}' >&3
while read -r line <&3; do
	id=$(echo "$line" | sed 's/.*"id"://; s/}$//')
	echo '{"return": {}, "id": '$id'}' >&3
	case $line in
	*system_powerdown*) kill $pids; exit 0 ;;
	*qmp_capabilities*)
		case $2 in
		*-install)
			{ echo 'sci-agent: installer started'; ` + install + `
			sleep 0.1; kill $$; } >&4 2>/dev/null 3>&- 5>&- & ;;
		*)
			{ ` + agent + `
			sleep 20; } >&4 2>/dev/null 3>&- 5>&- &
			pids="$pids $!"
			{ echo sci-test-shell; exec sh; } <&5 >&5 2>/dev/null 3>&- 4>&- & ;;
		esac
		pids="$pids $!" ;;
	esac
done
`
	writeProgram(t, path, code)
	return path
}

// writeProgram writes a program. Nothing is forked meanwhile: a child of another test
// would have the file open, and the program could not be run, "text file busy".
func writeProgram(t *testing.T, path, code string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(code), 0o755); err != nil {
		t.Fatal(err)
	}
}

// needImages skips a test where there is no qemu-img.
func needImages(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err == nil {
		return
	} else if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip("qemu-img is not installed")
}

// healthy is what the commands of a healthy node print.
func healthy() map[string]string {
	return map[string]string{
		"systemctl":   "",
		"sci-agent":   `echo '{"state": "ready"}'`,
		"ssh":         `echo 'port 22'; echo 'serveraliveinterval 20'`,
		"gnt-cluster": `case $1 in getmaster) echo node1.lab.example ;; *) echo 'Sun Nov 22 12:00:00 2026 * Verifying cluster config' ;; esac`,
		"gnt-node":    `echo 'node1.lab.example M 20480'; echo 'node2.lab.example C 20480'`,
		"python3":     "echo 7",
		"journalctl":  "echo journal of $NAME",
	}
}

func site(t *testing.T, qemu string) Options {
	s := time.Second
	iso := filepath.Join(t.TempDir(), "lab.iso")
	if err := os.WriteFile(iso, []byte("image"), 0o644); err != nil {
		t.Fatal(err)
	}
	return Options{
		ISO: iso, Site: "lab", Domain: "lab.example", Cluster: true, QEMU: qemu, ReportDir: t.TempDir(), DiskSize: 1 << 20, Free: 1 << 20,
		Networks: map[string]string{"lan": "192.168.50.0/24", "backbone": "10.101.200.0/24"},
		Hosts: []Host{
			{Name: "node1", Role: "node", MACs: []string{"52:54:00:5c:1c:01"}, Addresses: map[string]string{"lan": "192.168.50.11", "backbone": "10.101.200.11"}},
			{Name: "node2", Role: "node", MACs: []string{"52:54:00:5c:1c:02"}, Addresses: map[string]string{"lan": "192.168.50.12", "backbone": "10.101.200.12"}},
		},
		Limits: Limits{Boot: 10 * s, Install: 10 * s, Ready: 10 * s, Check: 10 * s},
	}
}

const (
	installs = "echo 'sci-agent: phase base'; echo 'sci-agent: installed, powering off';"
	agents   = "echo 'sci-agent: step hostname ok'; echo 'sci-agent: step cluster ok'; echo 'sci-agent: ready';"
)

func problems(r *installtest.Report) []string {
	var list []string
	for _, c := range r.Failed() {
		list = append(list, c.Title()+": "+c.Problem)
	}
	slices.Sort(list)
	return list
}

func TestRun(t *testing.T) {
	t.Parallel()
	o := site(t, fakeSite(t, installs, agents, healthy()))
	var lines []string
	o.Progress = func(line string) { lines = append(lines, line) }
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if p := problems(r); len(p) > 0 {
		t.Errorf("problems: %q", p)
	}
	if !strings.Contains(r.Summary(), ", 1 skipped, ") { // there is no guest
		t.Errorf("summary: %s", r.Summary())
	}
	phases := map[string][]string{}
	for _, p := range r.Phases {
		phases[p.Host] = append(phases[p.Host], p.Name)
	}
	want := []string{"firmware, boot loader, kernel", "install: base", "power off",
		"firmware, boot loader, kernel, systemd", "step: cluster", "behind step: cluster", "checks", "logs", "shutdown"}
	for _, host := range []string{"node1", "node2"} {
		if d := cmp.Diff(want, phases[host]); d != "" {
			t.Errorf("phases of %s (-want +got):\n%s", host, d)
		}
	}
	for _, name := range []string{"report.html", "junit.xml", "node1-install.ttyS0.log", "node2-system.ttyS0.log", "node1-system.journal.log"} {
		if _, err := os.Stat(filepath.Join(o.ReportDir, name)); err != nil {
			t.Error(err)
		}
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "node2 ") && strings.Contains(l, "step cluster ok") }) {
		t.Errorf("progress: %q", lines)
	}
}

func TestRunFails(t *testing.T) {
	for _, test := range []struct {
		summary        string
		install, agent string
		commands       map[string]string
		want           []string // problems, as substrings
	}{
		{"an installation", "if test $NAME = node2; then echo 'sci-agent: failed: no disk'; sleep 5; fi;" + installs, agents, nil,
			[]string{"node2: the installer finishes unattended: the agent says: failed: no disk"}},
		// The others used to be waited for until their whole time was over.
		{"an agent stops", installs, "if test $NAME = node2; then echo 'sci-agent: failed: step cluster: no answer'; else echo 'sci-agent: step lan ok'; fi; sleep 9;", nil,
			[]string{`node1: the agent gets the machine ready: no line "sci-agent: ready" came: node2 did not get ready; the agent's last line: "step lan ok"`,
				"node2: the agent gets the machine ready: the agent says: failed: step cluster: no answer"}},
		{"a machine dies", installs, "echo 'sci-agent: step lan ok'; test $NAME = node1 || { kill -9 $$; exit; }; sleep 9;", nil,
			[]string{"node2 did not get ready", `node2: the agent gets the machine ready: virtual machine has ended`}},
		{"no cluster", installs, agents, map[string]string{"gnt-cluster": "exit 1"}, []string{"node1: there is a cluster with a master: exit status 1"}},
		{"verify complains", installs, agents, map[string]string{"gnt-cluster": `test $1 = getmaster && echo node2.lab.example || echo "* Verifying
  - WARNING: node node2: missing bridge"`}, []string{"node2: gnt-cluster verify: - WARNING: node node2: missing bridge"}},
		{"verify cannot start at first", installs, agents, map[string]string{"gnt-cluster": `
case $1 in
getmaster) echo node1.lab.example ;;
*) if test -e "$DIR/tried"; then echo "* Verifying"; else : >"$DIR/tried"; echo 'job 7 failed to start: GenericError "a timeout"'; exit 1; fi ;;
esac`}, nil},
		{"a node's death is not noticed", installs, agents, map[string]string{"ssh": "echo 'serveraliveinterval 0'"},
			[]string{"node1: ssh gives up a node that is gone: ServerAliveInterval is not set"}},
		{"a node is offline", installs, agents, map[string]string{"gnt-node": "echo 'node1.lab.example M 20480'; echo 'node2.lab.example O -'"},
			[]string{"node1: all nodes are online: node2.lab.example has the role O"}},
		{"a unit failed", installs, agents, map[string]string{"systemctl": "test $NAME = node1 || echo 'x.service loaded failed'"},
			[]string{"node2: no failed units: there should be no output"}},
		{"an agent is not ready", installs, agents, map[string]string{"sci-agent": `echo '{"state": "working"}'`},
			[]string{`node1: the agent's state: got "working"`, `node2: the agent's state: got "working"`}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			t.Parallel()
			commands := healthy()
			maps.Copy(commands, test.commands)
			r, err := Run(t.Context(), site(t, fakeSite(t, test.install, test.agent, commands)))
			if err != nil {
				t.Fatal(err)
			}
			got := problems(r)
			if len(got) != len(test.want) {
				t.Fatalf("problems %q; want %q", got, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("problem %q; want %q", got[i], want)
				}
			}
		})
	}
}

// TestVerifyScript: a call that does not get through is tried again, an error that
// Ganeti has found is not.
func TestVerifyScript(t *testing.T) {
	const lost = "  - ERROR: node u-2: Communication failure in hooks execution: Error 35"
	for _, c := range []struct {
		summary string
		says    []string // one try after the other; the last one for ever
		tries   int
		problem string
	}{
		{"good", []string{"* Verifying"}, 1, ""},
		{"a job did not start", []string{"job 7 failed to start: GenericError", "* Verifying"}, 2, ""},
		{"a call was lost", []string{lost, "* Verifying"}, 2, ""},
		{"a node is gone", []string{lost}, 3, strings.TrimSpace(lost)[2:]},
		{"an error", []string{"* Verifying\n  - ERROR: node u-2: no bridge", "* Verifying"}, 1, "ERROR: node u-2: no bridge"},
		{"an error behind a lost call", []string{lost, "* Verifying\n  - ERROR: node u-2: no bridge", "* Verifying"}, 2, "ERROR: node u-2: no bridge"},
	} {
		dir := t.TempDir()
		for i, text := range c.says {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("says.%d", i+1)), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		const ganeti = `#!/bin/sh
cd "$(dirname "$0")"
echo x >>tries
i=$(wc -l <tries)
test -e says.$i || i=$(ls says.* | wc -l)
cat says.$i
! grep -q 'ERROR\|failed' says.$i
`
		for name, text := range map[string]string{"gnt-cluster": ganeti, "sleep": "#!/bin/sh\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("sh", "-c", verifyScript)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if (err != nil) != (c.problem != "") {
			t.Errorf("%s: status %v\n%s", c.summary, err, out)
		}
		if got := strings.TrimPrefix(verified(string(out)), "- "); got != c.problem {
			t.Errorf("%s: problem %q; want %q", c.summary, got, c.problem)
		}
		if tries, _ := os.ReadFile(filepath.Join(dir, "tries")); strings.Count(string(tries), "x") != c.tries {
			t.Errorf("%s: %d tries; want %d", c.summary, strings.Count(string(tries), "x"), c.tries)
		}
	}
}

// TestWhereScript: a node that is too busy to answer is asked again, an instance
// that is down is not.
func TestWhereScript(t *testing.T) {
	for _, c := range []struct {
		says []string
		want string
	}{
		{[]string{"node2 running"}, "node2 running\n"},
		{[]string{"node2 ERROR_nodedown", "node2 running"}, "node2 running\n"},
		{[]string{"node2 ERROR_nodedown"}, "node2 ERROR_nodedown\n"},
		{[]string{"node2 ERROR_down", "node2 running"}, "node2 ERROR_down\n"},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{
			"sleep":        "#!/bin/sh\n",
			"gnt-instance": "#!/bin/sh\ncd \"$(dirname \"$0\")\"\nread -r line <says\necho \"$line\"\nif test $(wc -l <says) -gt 1; then sed -i 1d says; fi\n",
			"says":         strings.Join(c.says, "\n") + "\n",
		} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("sh", "-c", whereScript("sci-trial"))
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != c.want {
			t.Errorf("%q: %q, %v; want %q", c.says, out, err, c.want)
		}
	}
}

func TestKeptDisks(t *testing.T) {
	t.Parallel()
	qemu := fakeSite(t, installs, agents, healthy())
	needImages(t)
	o := site(t, qemu)
	o.KeepDisks = t.TempDir()
	stale := filepath.Join(o.KeepDisks, "node1", diskImage)
	if err := os.MkdirAll(filepath.Dir(stale), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stale, []byte("half an installation"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := Run(t.Context(), o); err != nil || len(r.Failed()) > 0 {
		t.Fatal(err, problems(r))
	}
	if st, err := os.Stat(stale); err != nil || st.Size() != 1<<20 {
		t.Errorf("%v, %v; want a new disk", st, err)
	}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "it holds disks already") {
		t.Errorf("the second time: %v", err)
	}

	o.Disks, o.KeepDisks = o.KeepDisks, ""
	o.ReportDir = t.TempDir()
	r, err := Run(t.Context(), o)
	if err != nil || len(r.Failed()) > 0 {
		t.Fatal(err, problems(r))
	}
	if slices.ContainsFunc(r.Checks, func(c *installtest.Check) bool { return c.Stage == "install" }) {
		t.Error("it installed again")
	}
	argv, err := os.ReadFile(filepath.Join(o.ReportDir, "node2-system.qemu.log"))
	if err != nil || !strings.Contains(string(argv), "format=qcow2") || strings.Contains(string(argv), o.Disks) {
		t.Errorf("%v: the machine runs on the kept disk itself:\n%s", err, argv)
	}

	id := identity{}
	data, _ := os.ReadFile(filepath.Join(o.Disks, diskRecord))
	if err := json.Unmarshal(data, &id); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		summary string
		change  func(*Options)
		want    string
	}{
		{"another ISO", func(o *Options) { o.ISO = qemu }, "they were installed from another ISO"},
		{"another firmware", func(o *Options) { o.Firmware = "uefi" }, "they were installed with firmware bios"},
		{"one host more", func(o *Options) { o.Hosts = append(slices.Clone(o.Hosts), Host{Name: "node3"}) }, "there is none of host node3"},
		{"no record", func(o *Options) { o.Disks = t.TempDir() }, "it has no disks.json"},
	} {
		o := o
		test.change(&o)
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), test.want) || hint.Of(err) == "" {
			t.Errorf("%s: %v; want %q and a hint", test.summary, err, test.want)
		}
	}
}

func TestCards(t *testing.T) {
	h := Host{Name: "node1", MACs: []string{"52:54:00:5c:1c:01", "52:54:00:5c:1c:02"},
		Addresses: map[string]string{"backbone": "b", "dmz": "d", "lan": "l", "admin": "a"}}
	got := h.cards("lab")
	want := []card{{"lan", "52:54:00:5c:1c:01"}, {"admin", "52:54:00:5c:1c:02"}, {"backbone", got[2].mac}, {"dmz", got[3].mac}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("cards = %v; want %v", got, want)
	}
	if fmt.Sprint(h.cards("lab")) != fmt.Sprint(got) {
		t.Error("the addresses change from run to run")
	}
	for _, c := range got[2:] {
		var first byte
		if _, err := fmt.Sscanf(c.mac, "%02x:", &first); err != nil || first&3 != 2 {
			t.Errorf("%s is no locally administered address of one card", c.mac)
		}
	}
	if other := h.cards("lab2")[2].mac; other == got[2].mac || got[3].mac == got[2].mac {
		t.Errorf("%s is not one card's only", other)
	}
}

func TestJobs(t *testing.T) {
	hosts := make([]Host, 3)
	for _, test := range []struct {
		summary string
		o       Options
		want    int
		err     string
	}{
		{"none", Options{}, 0, "has no machine to install"},
		{"memory for two at a time", Options{Hosts: hosts, Memory: 1000, InstallMemory: 1500, Free: 4000, Jobs: 0}, 2, ""},
		{"as told", Options{Hosts: hosts, Memory: 1000, InstallMemory: 1000, Free: 8000, Jobs: 3}, 3, ""},
		{"more than hosts", Options{Hosts: hosts, Memory: 1000, InstallMemory: 1000, Free: 8000, Jobs: 9}, 3, ""},
		{"installs one at a time", Options{Hosts: hosts, Memory: 1000, InstallMemory: 3900, Free: 4000}, 1, ""},
		{"does not fit", Options{Hosts: hosts, Memory: 2560, InstallMemory: 1000, Free: 8000}, 0, "cannot run 3 machines of 2560 MiB at the same time: they need 8580 MiB with QEMU's own, 8000 MiB are available"},
	} {
		got, err := test.o.jobs()
		if test.o.Jobs == 0 && test.want > 1 {
			got, test.want = min(got, test.want), min(got, test.want) // fewer processors here
		}
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %d, %v; want %d, %q", test.summary, got, err, test.want, test.err)
		}
	}
}

func TestFreeMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meminfo")
	if err := os.WriteFile(path, []byte("MemTotal:       24662340 kB\nMemAvailable:   10485760 kB\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := freeMemory(path); got != 10240 {
		t.Errorf("freeMemory = %d; want 10240", got)
	}
	if got := freeMemory("/no/meminfo"); got != 0 {
		t.Errorf("freeMemory = %d; want 0", got)
	}
}

func TestJudges(t *testing.T) {
	nodes := online([]string{"node1", "node2"})
	for _, test := range []struct {
		summary string
		judge   func(string) string
		out     string
		want    string
	}{
		{"online", nodes, "node1.lab.example M 20480\nnode2.lab.example C 20480.5\n", ""},
		{"one missing", nodes, "node1.lab.example M 20480\n", "node2 is not in the cluster"},
		{"one too many", nodes, "node1 M 1\nnode2 C 1\nnode3 C 1\n", "node3 is no node of the site"},
		{"silent", nodes, "node1 M 1\nnode2 C ?\n", `node2 does not answer: its disk space is "?"`},
		{"drained", nodes, "node1 M 1\nnode2 D 1\n", "node2 has the role D"},
		{"nothing", nodes, "", `cannot read ""`},
		{"verified", verified, "* Verifying node status\n* Other Notes\n", ""},
		{"error", verified, "* Verifying node status\n  - ERROR: node node2: ssh failed\n", "- ERROR: node node2: ssh failed"},
		{"nothing verified", verified, "", "there is no result"},
	} {
		if got := test.judge(test.out); (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q; want %q", test.summary, got, test.want)
		}
	}
}
