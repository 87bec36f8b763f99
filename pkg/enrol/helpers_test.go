package enrol

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
)

// needTool skips where a judge is missing, but never in CI.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

var loopback = netip.MustParseAddr("127.0.0.1")

const masterName = "node1.lab.example"

// lab is a site of three nodes. All of them call from the loopback's address but
// node3.
func lab() []Host {
	return []Host{
		{"node1", "node1.lab.example", []netip.Addr{loopback}},
		{"node2", "node2.lab.example", []netip.Addr{loopback, netip.MustParseAddr("10.101.200.12")}},
		{"node3", "node3.lab.example", []netip.Addr{netip.MustParseAddr("192.168.50.13")}},
	}
}

// medium are the credentials of a medium of the lab.
func medium(t testing.TB, seed string) map[string]Credential {
	t.Helper()
	sum := sha256.Sum256([]byte(seed))
	issued, err := Issue(sum[:], append(lab(), Host{"node9", "node9.lab.example", nil}, Host{"sci", "sci.lab.example", []netip.Addr{loopback}}))
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

func sshString(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
	}
	return b
}

// sshKey is the public key of a machine of that name.
func sshKey(name string) string {
	seed := sha256.Sum256([]byte(name))
	pub := ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(sshString([]byte("ssh-ed25519"), pub))
}

// from is the request of a machine for a host.
func from(host, machine string) Request {
	return Request{Host: host, HostKeys: []string{sshKey(machine)}, CPUFlags: []string{"fpu", "sse4_2"}, Agent: "1.2.3"}
}

func claimOf(c Credential, machine string) Claim {
	r := from(c.Host, machine)
	id, _ := machineID(r.HostKeys)
	return Claim{Host: c.Host, Machine: id, Credential: fingerprint(c.Certificate), CA: c.Authority(), Address: loopback, Request: r}
}

// clock is the uptime of a machine that tests let run and boot.
type clock struct {
	mu   sync.Mutex
	boot string
	up   time.Duration
}

func (c *clock) uptime() (string, time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot, c.up, nil
}

func (c *clock) set(boot string, up time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot, c.up = boot, up
}

// master is node1 with its ledger and its server.
type master struct {
	t      *testing.T
	ledger *Ledger
	clock  *clock
	server *Server
	addr   netip.AddrPort
	done   chan error
	stop   context.CancelFunc

	mu      sync.Mutex
	console []string // "host reason"
	lines   []string // what the console says
	claimed []string
	trouble []string
	failing error // of Answer
}

func newMaster(t *testing.T, own Credential) *master {
	t.Helper()
	m := &master{t: t, clock: &clock{boot: "a", up: time.Minute}}
	var err error
	m.ledger, err = OpenLedger(filepath.Join(t.TempDir(), "lib/enrol.ledger.json"), LedgerOptions{
		Credential: &own, Hosts: lab()[1:], Others: []string{"sci"}, Uptime: m.clock.uptime,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.server = &Server{Ledger: m.ledger, Answer: m.answer, Claimed: m.hearClaim, Refused: m.hearRefused,
		Trouble: func(err error) { m.mu.Lock(); defer m.mu.Unlock(); m.trouble = append(m.trouble, err.Error()) },
		Linger:  time.Hour, poll: 10 * time.Millisecond}
	return m
}

func (m *master) serve() *master {
	m.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.addr = netip.MustParseAddrPort(l.Addr().String())
	ctx, stop := context.WithCancel(context.Background())
	m.stop, m.done = stop, make(chan error, 1)
	finished := make(chan struct{})
	go func() { defer close(finished); m.done <- m.server.Serve(ctx, l) }()
	m.t.Cleanup(func() { stop(); <-finished })
	return m
}

func (m *master) answer(context.Context, Claim) (Reply, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return reply(), m.failing
}

func reply() Reply {
	return Reply{Cluster: "cluster.lab.example", Master: masterName, RootKeys: []string{sshKey("root") + " root@node1"}}
}

func (m *master) hearClaim(c Claim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.claimed = append(m.claimed, c.Host)
}

func (m *master) hearRefused(host string, addr netip.Addr, why *RefusedError) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if addr != loopback {
		m.t.Errorf("Refused(%q, %v); want the address %v", host, addr, loopback)
	}
	m.console, m.lines = append(m.console, host+" "+string(why.Reason)), append(m.lines, why.Message)
}

func (m *master) join(c Credential, r Request) (Reply, error) {
	m.t.Helper()
	return Join(m.t.Context(), c, masterName, m.addr, r)
}

// accepted joins, and fails the test if that fails.
func (m *master) accepted(c Credential, machine string) {
	m.t.Helper()
	if _, err := m.join(c, from(c.Host, machine)); err != nil {
		m.t.Fatalf("%s as %s: %v", machine, c.Host, err)
	}
}

// said waits until the master's console has had a line, and forgets it.
func (m *master) said(want string) {
	m.t.Helper()
	for end := time.Now().Add(5 * time.Second); ; {
		m.mu.Lock()
		i := slices.Index(m.console, want)
		if i >= 0 {
			m.console = slices.Delete(m.console, i, i+1)
		}
		list := slices.Clone(m.console)
		m.mu.Unlock()
		if i >= 0 {
			return
		}
		if time.Now().After(end) {
			m.t.Errorf("the master's console has %q; want %q among it", list, want)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// silent fails the test if the console has more to say.
func (m *master) silent() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.console) > 0 {
		m.t.Errorf("the master's console has %q, too", m.console)
	}
}

// wantRefused checks the joiner's side.
func wantRefused(t *testing.T, err error, reason Reason) {
	t.Helper()
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != reason {
		t.Errorf("error %v; want a refusal %q", err, reason)
		return
	}
	if refused.Message == "" || reason != BadRequest && hint.Of(err) == "" {
		t.Errorf("refusal %+v says nothing or has no advice", refused)
	}
}
