package enrol

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// TestRules goes through the rules, a case a line: what happens, in order, with
// the refusal that each of them is to give ("" for none).
func TestRules(t *testing.T) {
	old, newer := medium(t, "disc"), medium(t, "newer disc")
	at := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	type step func(b *book) (Reason, error)
	who := people{lab()[1:], []string{"sci"}}
	claim := func(c Credential, machine, addr string) step {
		return func(b *book) (Reason, error) {
			cl := claimOf(c, machine)
			cl.Address = netip.MustParseAddr(addr)
			if refused := b.claim(cl, who, at); refused != nil {
				return refused.Reason, nil
			}
			if e := b.entry(cl.Host); e.State != StateClaimed || e.Claim.Machine != cl.Machine {
				return "", fmt.Errorf("after a claim: %+v", e)
			}
			return "", nil
		}
	}
	runs := func(boot string, up time.Duration) step {
		return func(b *book) (Reason, error) { b.advance(boot, up); return "", nil }
	}
	joined := func(host string) step { return func(b *book) (Reason, error) { return "", b.joined(host, at) } }
	open := func(host string, window time.Duration, c *Credential) step {
		return func(b *book) (Reason, error) { return "", b.open(host, window, c, at) }
	}
	const here = "127.0.0.1"
	two, three, newTwo, newOne := old["node2"], old["node3"], newer["node2"], newer["node1"]
	for _, test := range []struct {
		summary string
		steps   []step
		want    []Reason
	}{
		{"a claim, and again after a power cut", []step{claim(two, "metal", here), claim(two, "metal", here)}, []Reason{"", ""}},
		{"by its other address", []step{claim(two, "metal", "10.101.200.12"), claim(two, "metal", here)}, []Reason{"", ""}},
		{"IPv4 in IPv6", []step{claim(two, "metal", "::ffff:127.0.0.1")}, []Reason{""}},
		{"another machine", []step{claim(two, "metal", here), claim(two, "thief", here), claim(two, "metal", here)}, []Reason{"", AnotherMachine, ""}},
		{"used", []step{claim(two, "metal", here), joined("node2"), claim(two, "metal", here), claim(two, "thief", here)}, []Reason{"", "", Used, Used}},
		{"joined by hand, unclaimed", []step{joined("node2"), claim(two, "metal", here)}, []Reason{"", Used}},
		{"one host is not the other", []step{claim(two, "metal", here), joined("node2"), claim(three, "metal", "192.168.50.13")}, []Reason{"", "", ""}},
		{"wrong address", []step{claim(two, "metal", "192.168.50.13")}, []Reason{WrongAddress}},
		{"wrong address of a host that has joined", []step{joined("node2"), claim(two, "metal", "192.168.50.13")}, []Reason{"", WrongAddress}},
		{"role", []step{claim(old["sci"], "metal", here)}, []Reason{WrongRole}},
		{"stranger", []step{claim(old["node9"], "metal", here)}, []Reason{UnknownHost}},
		{"other medium", []step{claim(newTwo, "metal", here)}, []Reason{WrongMedium}},
		{"to the last moment", []step{runs("a", Window-1), claim(two, "metal", here)}, []Reason{"", ""}},
		{"window over", []step{runs("a", Window), claim(two, "metal", here)}, []Reason{"", Expired}},
		{"over several boots", []step{runs("a", 12*time.Hour), runs("b", 11*time.Hour), claim(two, "metal", here), runs("c", time.Hour), claim(two, "metal", here)}, []Reason{"", "", "", "", Expired}},
		{"in time, then over", []step{claim(two, "metal", here), runs("a", Window), claim(two, "metal", here), joined("node2"), claim(two, "metal", here)}, []Reason{"", "", Expired, "", Used}},
		{"a clock that goes back", []step{runs("a", 23*time.Hour), runs("a", time.Hour), runs("a", 2*time.Hour), claim(two, "metal", here)}, []Reason{"", "", "", Expired}},
		{"opened after the window", []step{runs("a", 48*time.Hour), open("node2", time.Hour, nil), claim(two, "metal", here), claim(three, "metal", "192.168.50.13")}, []Reason{"", "", "", Expired}},
		{"and that window is over", []step{runs("a", 48*time.Hour), open("node2", time.Hour, nil), runs("a", 49*time.Hour), claim(two, "metal", here)}, []Reason{"", "", "", Expired}},
		{"opened after it was used", []step{claim(two, "metal", here), joined("node2"), open("node2", time.Hour, nil), claim(two, "new metal", here), claim(two, "metal", here)}, []Reason{"", "", "", "", AnotherMachine}},
		{"opened for a newer medium", []step{open("node2", time.Hour, &newOne), claim(two, "metal", here), claim(newTwo, "metal", here), claim(three, "metal", "192.168.50.13"), claim(newer["node3"], "metal", "192.168.50.13")}, []Reason{"", WrongMedium, "", "", WrongMedium}},
		{"and back", []step{open("node2", time.Hour, &newOne), open("node2", time.Hour, ptr(old["node1"])), claim(newTwo, "metal", here), claim(two, "metal", here)}, []Reason{"", "", WrongMedium, ""}},
	} {
		t.Run(test.summary, func(t *testing.T) {
			b := &book{Boot: "a", Hosts: make(map[string]*record)}
			b.add(lab()[1:], ptr(old["node1"]), Window)
			for i, s := range test.steps {
				got, err := s(b)
				if got != test.want[i] || err != nil {
					t.Errorf("step %d: %q, %v; want %q", i+1, got, err, test.want[i])
				}
				b = reread(t, b)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

// reread writes and reads a book: what stands in it survives that.
func reread(t *testing.T, b *book) *book {
	t.Helper()
	data, err := b.bytes()
	if err != nil {
		t.Fatal(err)
	}
	again, err := parseBook(data)
	if diff := cmp.Diff(b, again, sameAddr); err != nil || diff != "" {
		t.Errorf("read back: %v (-want +got):\n%s\n%s", err, diff, data)
	}
	return again
}

func TestOpenErrors(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"])
	other := all["node2"]
	broken := all["node1"]
	broken.Key = nil
	for summary, test := range map[string]struct {
		host   string
		window time.Duration
		newer  *Credential
		want   string
	}{
		"stranger":            {"node9", 0, nil, `cannot let node9 join: the ledger has no host "node9"`},
		"window":              {"node2", -time.Hour, nil, "cannot let node2 join: a window of -1h0m0s"},
		"not the master's":    {"node2", 0, &other, "cannot let node2 join: the credential is that of node2"},
		"broken credential":   {"node2", 0, &broken, "cannot open the ledger for node2: credential: the key is no PKCS #8 key"},
		"more than a century": {"node2", 101 * 365 * 24 * time.Hour, nil, "cannot let node2 join: a window of 884760h0m0s"},
	} {
		if err := m.ledger.Open(test.host, test.window, test.newer); err == nil || err.Error() != test.want {
			t.Errorf("%s: %v; want %s", summary, err, test.want)
		}
	}
	if err := m.ledger.Joined("node9"); err == nil {
		t.Error("a stranger has joined")
	}
}

// TestNewMaster: a machine that became the master later has no credential any
// more. Nobody may join until an admin gives it one.
func TestNewMaster(t *testing.T) {
	all := medium(t, "disc")
	l, err := OpenLedger(filepath.Join(t.TempDir(), "ledger"), LedgerOptions{Hosts: lab()[1:], Uptime: (&clock{boot: "a"}).uptime})
	if err != nil {
		t.Fatal(err)
	}
	if pending, err := l.Pending(); err != nil || len(pending) > 0 {
		t.Errorf("Pending = %q, %v; want nobody", pending, err)
	}
	err = l.Open("node2", 0, nil)
	if err == nil || !strings.Contains(err.Error(), "no credential of this master") || hint.Of(err) == "" {
		t.Errorf("Open = %v, hint %q", err, hint.Of(err))
	}
	if err := l.Open("node2", 0, ptr(all["node1"])); err != nil {
		t.Fatal(err)
	}
	if err := l.claim(claimOf(all["node2"], "metal")); err != nil {
		t.Error(err)
	}
}

func TestLedgerFile(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"])
	info, err := os.Stat(m.ledger.path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("ledger: %v, %v; want 0600", info.Mode(), err)
	}
	if err := m.ledger.claim(claimOf(all["node2"], "metal")); err != nil {
		t.Fatal(err)
	}
	// Another process, which needs no credential.
	l, err := OpenLedger(m.ledger.path, LedgerOptions{Hosts: lab()[1:], Uptime: m.clock.uptime})
	if err != nil {
		t.Fatal(err)
	}
	m.clock.set("b", time.Hour)
	got, err := l.Entries()
	want := []Entry{
		{Host: "node2", State: StateClaimed, Left: Window - time.Hour - time.Minute, Claim: ptr(claimOf(all["node2"], "metal"))},
		{Host: "node3", State: StateOpen, Left: Window - time.Hour - time.Minute},
	}
	if err != nil || len(got) != 2 || got[0].Claimed.IsZero() {
		t.Fatalf("Entries = %+v, %v", got, err)
	}
	got[0].Claimed = time.Time{}
	if diff := cmp.Diff(want, got, sameAddr); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if pending, err := l.Pending(); err != nil || !slices.Equal(pending, []string{"node2", "node3"}) {
		t.Errorf("Pending = %q, %v; want node2 and node3", pending, err)
	}
	m.clock.set("b", Window)
	if claims, err := l.Claims(); err != nil || len(claims) > 0 {
		t.Errorf("Claims after the window = %v, %v", claims, err)
	}
	if pending, err := l.Pending(); err != nil || len(pending) > 0 {
		t.Errorf("Pending after the window = %q, %v; want nobody", pending, err)
	}
	// What came later to the site has the same window, and no other.
	hosts := append(lab()[1:], Host{"node4", "node4.lab.example", nil})
	if l, err = OpenLedger(m.ledger.path, LedgerOptions{Credential: ptr(all["node1"]), Hosts: hosts, Uptime: m.clock.uptime}); err != nil {
		t.Fatal(err)
	}
	if got, err = l.Entries(); err != nil || len(got) != 3 || got[2].Host != "node4" || got[2].Left != 0 {
		t.Errorf("Entries = %+v, %v; want node4 among them, its time over", got, err)
	}
}

// TestLook wants a reader to leave no trace, and to see what is there.
func TestLook(t *testing.T) {
	m := newMaster(t, medium(t, "disc")["node1"])
	m.clock.set("a", time.Hour)
	before, err := os.ReadFile(m.ledger.path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Look(m.ledger.path, m.clock.uptime)
	if err != nil || len(got) == 0 || got[0].Host != "node2" || got[0].State != StateOpen || got[0].Left != Window-time.Hour {
		t.Errorf("Look = %+v, %v", got, err)
	}
	if after, err := os.ReadFile(m.ledger.path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("Look changed the ledger: %v", err)
	}
	nowhere := filepath.Join(t.TempDir(), "ledger")
	if got, err := Look(nowhere, nil); err != nil || got != nil {
		t.Errorf("Look where there is none = %+v, %v", got, err)
	}
	if left, _ := filepath.Glob(nowhere + "*"); left != nil {
		t.Errorf("Look made %v", left)
	}
}

// TestRunningTime guards that reading counts up to now, and that what was
// counted is kept.
func TestRunningTime(t *testing.T) {
	m := newMaster(t, medium(t, "disc")["node1"])
	left := func() time.Duration {
		t.Helper()
		e, err := m.ledger.Entries()
		if err != nil {
			t.Fatal(err)
		}
		return e[0].Left
	}
	for _, step := range []struct {
		boot string
		up   time.Duration
		want time.Duration
	}{
		{"a", time.Minute, Window - time.Minute},
		{"a", time.Hour, Window - time.Hour},
		{"a", time.Hour - time.Minute, Window - time.Hour}, // back: it stands
		{"b", time.Hour, Window - 2*time.Hour},
		{"b", 50 * time.Hour, 0},
	} {
		m.clock.set(step.boot, step.up)
		if got := left(); got != step.want {
			t.Errorf("%+v: left %v", step, got)
		}
		if err := m.ledger.tick(); err != nil {
			t.Fatal(err)
		}
		if got := left(); got != step.want {
			t.Errorf("%+v: left %v after tick", step, got)
		}
	}
	boot, up, err := uptime()
	if err != nil || len(boot) != 36 || up <= 0 {
		t.Errorf("uptime = %q, %v, %v", boot, up, err)
	}
}

// TestLedgerDamaged guards that nothing is begun anew behind an admin's back.
func TestLedgerDamaged(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"])
	if err := m.ledger.claim(claimOf(all["node2"], "metal")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(m.ledger.path)
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	for summary, text := range map[string]string{
		"empty":             "",
		"cut short":         good[:len(good)/2],
		"another format":    strings.Replace(good, `"format": 1`, `"format": 2`, 1),
		"unknown member":    strings.Replace(good, `"running"`, `"ran"`, 1),
		"time that is none": strings.Replace(good, `"until": "24h`, `"until": "-24h`, 1),
		"another state":     strings.Replace(good, `"claimed",`, `"welcome",`, 1),
		"claim of nobody":   strings.Replace(good, `"state": "claimed"`, `"state": "open"`, 1),
		"other host keys":   strings.Replace(good, sshKey("metal"), sshKey("thief"), 1),
		"two books":         good + good,
	} {
		if text == good {
			t.Fatalf("%s: nothing was changed", summary)
		}
		if err := os.WriteFile(m.ledger.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenLedger(m.ledger.path, m.ledger.o)
		if err == nil || !strings.Contains(err.Error(), m.ledger.path) || hint.Of(err) == "" {
			t.Errorf("%s: OpenLedger = %v, hint %q", summary, err, hint.Of(err))
		}
		if err := m.ledger.claim(claimOf(all["node3"], "x")); err == nil {
			t.Errorf("%s: a claim was accepted", summary)
		}
		if left, err := os.ReadFile(m.ledger.path); err != nil || string(left) != text {
			t.Errorf("%s: the file was changed", summary)
		}
	}
	if _, err := OpenLedger(filepath.Join(m.ledger.path, "x"), m.ledger.o); err == nil {
		t.Error("a ledger below a file was opened")
	}
}

// TestLedgerCutShort: power lost while the new file was written leaves the old
// one, and what is beside it is in nobody's way.
func TestLedgerCutShort(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"])
	data, err := os.ReadFile(m.ledger.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, len(data) / 2, len(data) - 1, len(data)} {
		if err := os.WriteFile(m.ledger.path+".sci-new", data[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if pending, err := m.ledger.Pending(); err != nil || len(pending) != 2 {
			t.Errorf("%d bytes: Pending = %q, %v", n, pending, err)
		}
		if err := m.ledger.claim(claimOf(all["node2"], "metal")); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		if info, err := os.Stat(m.ledger.path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%d bytes: %v, %v; want 0600", n, info.Mode(), err)
		}
	}
	// A disk that is full, or a directory that is gone: the refusal is the
	// ledger's, not the host's.
	if err := os.RemoveAll(filepath.Dir(m.ledger.path)); err != nil {
		t.Fatal(err)
	}
	wantNobody(t, m.ledger.claim(claimOf(all["node2"], "metal")))
}

// victim is the environment variable that makes TestLedgerVictim a process to be
// killed.
const victim = "SCI_ENROL_VICTIM"

// TestLedgerVictim counts milliseconds in a ledger and says each when it is
// written.
func TestLedgerVictim(t *testing.T) {
	path := os.Getenv(victim)
	if path == "" {
		t.Skip("it is a part of TestLedgerKilled")
	}
	c := &clock{boot: "a"}
	l, err := OpenLedger(path, LedgerOptions{Uptime: c.uptime})
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.look()
	if err != nil {
		t.Fatal(err)
	}
	for n := b.Running + time.Millisecond; ; n += time.Millisecond {
		c.set("a", n)
		if err := l.tick(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("written", n.Milliseconds())
	}
}

// TestLedgerKilled kills a process while it writes: each time the ledger can be
// read, and holds what was said to be written.
func TestLedgerKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	c := &clock{boot: "a"}
	if _, err := OpenLedger(path, LedgerOptions{Credential: ptr(medium(t, "disc")["node1"]), Hosts: lab()[1:], Uptime: c.uptime}); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLedgerVictim$", "-test.v")
		cmd.Env = append(os.Environ(), victim+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var last int64
		lines := bufio.NewScanner(out)
		for n := 0; n < 3+5*i && lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), "written "); ok {
				n++
				last, _ = strconv.ParseInt(text, 10, 64)
			}
		}
		time.Sleep(time.Duration(i*137) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		l, err := OpenLedger(path, LedgerOptions{Uptime: c.uptime})
		if err != nil {
			t.Fatalf("after kill %d: %v", i, err)
		}
		b, err := l.look()
		if err != nil || b.Running.Milliseconds() < last || last == 0 || len(b.Hosts) != 2 {
			t.Fatalf("after kill %d: %+v, %v; want at least %d ms", i, b, err, last)
		}
	}
}

// TestLedgerTwoProcesses: of many machines that claim at once through two
// ledgers on one file, one wins.
func TestLedgerTwoProcesses(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"])
	other, err := OpenLedger(m.ledger.path, LedgerOptions{Hosts: lab()[1:], Uptime: m.clock.uptime})
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for i := range 10 {
		wait.Go(func() {
			l := []*Ledger{m.ledger, other}[i%2]
			err := l.claim(claimOf(all["node2"], "machine"+strconv.Itoa(i)))
			var refused *RefusedError
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if !errors.As(err, &refused) || refused.Reason != AnotherMachine {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if won != 1 {
		t.Errorf("%d machines won; want one", won)
	}
}

func FuzzParseBook(f *testing.F) {
	all := medium(f, "disc")
	b := &book{Boot: "a", Hosts: make(map[string]*record)}
	b.add(lab()[1:], ptr(all["node1"]), Window)
	b.claim(claimOf(all["node2"], "metal"), people{hosts: lab()}, time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC))
	data, err := b.bytes()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1,"running":"1h","boot":"","up":"0s","media":[],"hosts":{"a":{"state":"joined","until":"0s"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBook(data)
		if err != nil {
			return
		}
		b.advance("b", time.Hour)
		for name := range b.Hosts {
			_ = b.entry(name)
		}
		for _, c := range []string{"metal", "thief"} {
			_ = b.claim(claimOf(all["node2"], c), people{hosts: lab()}, time.Time{})
		}
		out, err := b.bytes()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseBook(out)
		if err != nil {
			t.Fatalf("own output is refused: %v\n%s", err, out)
		}
		if second, err := again.bytes(); err != nil || !bytes.Equal(out, second) {
			t.Fatalf("it changes when it is read back: %v\n%s\n%s", err, out, second)
		}
	})
}
