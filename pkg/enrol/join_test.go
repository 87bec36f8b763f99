package enrol

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestJoin is a node's way from its first question to the end of the serving.
func TestJoin(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"])
	m.server.Linger = 200 * time.Millisecond
	m.serve()
	wantState := func(want EntryState) {
		t.Helper()
		if got, err := m.ledger.Entries(); err != nil || got[0].Host != "node2" || got[0].State != want {
			t.Errorf("Entries = %+v, %v; want node2 %s", got, err, want)
		}
	}
	wantState(StateOpen)
	for range 2 { // a power cut lets it ask again
		got, err := m.join(all["node2"], from("node2", "metal"))
		if diff := cmp.Diff(reply(), got); diff != "" || err != nil {
			t.Errorf("Join: %v (-want +got):\n%s", err, diff)
		}
	}
	wantState(StateClaimed)
	claims, err := m.ledger.Claims()
	if err != nil || len(claims) != 1 {
		t.Fatalf("Claims = %v, %v; want that of node2", claims, err)
	}
	if diff := cmp.Diff(claimOf(all["node2"], "metal"), claims[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("the claim (-want +got):\n%s", diff)
	}
	if err := m.ledger.Joined("node2"); err != nil {
		t.Fatal(err)
	}
	wantState(StateJoined)
	_, err = m.join(all["node2"], from("node2", "metal"))
	wantRefused(t, err, Used)
	m.said("node2 used")
	_, err = m.join(all["node2"], from("node2", "thief"))
	wantRefused(t, err, Used)
	m.silent() // the same again, within 10 s
	if diff := cmp.Diff([]string{"node2", "node2"}, m.claimed); diff != "" {
		t.Errorf("Claimed (-want +got):\n%s", diff)
	}
	if pending, err := m.ledger.Pending(); err != nil || len(pending) != 1 || pending[0] != "node3" {
		t.Errorf("Pending = %q, %v; want node3", pending, err)
	}
	if err := m.ledger.Joined("node3"); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-m.done:
		if err != nil {
			t.Errorf("Serve = %v; want nil when all have joined", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it serves on when all have joined")
	}
	_, err = m.join(all["node2"], from("node2", "metal"))
	wantNobody(t, err)
}

// wantNobody checks for an error after which trying again makes sense.
func wantNobody(t *testing.T, err error) {
	t.Helper()
	var refused *RefusedError
	if err == nil || errors.As(err, &refused) {
		t.Errorf("error %v; want one that is no refusal", err)
	}
}

// TestThiefAfterwards: the ISO was copied, and its credential is used by another
// machine while the real one is in the cluster or on its way.
func TestThiefAfterwards(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"]).serve()
	m.accepted(all["node2"], "metal")
	_, err := m.join(all["node2"], from("node2", "thief"))
	wantRefused(t, err, AnotherMachine)
	m.said("node2 another-machine")
	m.accepted(all["node2"], "metal") // is not disturbed
	if err := m.ledger.Joined("node2"); err != nil {
		t.Fatal(err)
	}
	_, err = m.join(all["node2"], from("node2", "thief"))
	wantRefused(t, err, Used)
	m.said("node2 used")
}

// TestThiefBefore: the thief is faster, from the real host's address. He gets in
// once; it does not stay hidden: the real machine is refused on both consoles.
// An admin lets it in, and the thief out.
func TestThiefBefore(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"]).serve()
	m.accepted(all["node2"], "thief")
	_, err := m.join(all["node2"], from("node2", "metal"))
	wantRefused(t, err, AnotherMachine)
	m.said("node2 another-machine")
	if want := "another machine, at 127.0.0.1 with other SSH host keys, has joined as host node2 already"; err.Error() != want || m.lines[0] != want {
		t.Errorf("joiner's console: %v\nmaster's console: %s\nwant both: %s", err, m.lines[0], want)
	}
	if err := m.ledger.Open("node2", time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	m.accepted(all["node2"], "metal")
	_, err = m.join(all["node2"], from("node2", "thief"))
	wantRefused(t, err, AnotherMachine)
}

// TestThiefAsMaster: with the master's credential, in the master's place, a thief
// is believed by a node that has not joined, and by nobody who has.
func TestThiefAsMaster(t *testing.T) {
	all := medium(t, "disc")
	thief := newMaster(t, all["node1"]).serve()
	thief.accepted(all["node2"], "metal")
	root := t.TempDir()
	name := filepath.Join(root, File)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, all["node3"].Bytes(), 0o600), Retire(root)); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadCredential(name); err == nil {
		t.Errorf("a node that has joined has %v to ask him with", c.Host)
	}
	if _, err := Join(t.Context(), Credential{}, masterName, thief.addr, from("node3", "metal")); err == nil {
		t.Error("he was asked without a credential")
	}
}

// TestWindowOver: nobody listens when the time is over.
func TestWindowOver(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"])
	m.server.Linger = 50 * time.Millisecond
	m.serve()
	m.accepted(all["node2"], "metal")
	m.clock.set("b", Window)
	select {
	case err := <-m.done:
		if err != nil {
			t.Errorf("Serve = %v; want nil", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it serves on when the time is over")
	}
	_, err := m.join(all["node2"], from("node2", "metal"))
	wantNobody(t, err)
}

// TestPublicKeysOfAnother: a thief who names the real machine's host keys, which
// are public, gets what is public and binds nothing to himself.
func TestPublicKeysOfAnother(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"]).serve()
	m.accepted(all["node2"], "metal") // by the thief, with the keys that ssh-keyscan shows
	m.accepted(all["node2"], "metal") // by the machine itself
	claims, err := m.ledger.Claims()
	if err != nil || len(claims) != 1 || claims[0].Request.HostKeys[0] != sshKey("metal") {
		t.Errorf("Claims = %+v, %v; want the host keys of the real machine", claims, err)
	}
}

// TestOtherSite: neither side believes a credential of another seed.
func TestOtherSite(t *testing.T) {
	all, other := medium(t, "disc"), medium(t, "other disc")
	m := newMaster(t, all["node1"]).serve()
	// The joiner sees the master's certificate first.
	_, err := m.join(other["node2"], from("node2", "metal"))
	wantRefused(t, err, WrongMedium)
	m.said(" impostor")
	// One that does not care shows its own.
	wrong := other["node2"]
	wrong.CA = all["node2"].CA
	_, err = m.join(wrong, from("node2", "metal"))
	wantRefused(t, err, WrongMedium)
	m.said(" wrong-medium")
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.claimed) > 0 {
		t.Errorf("Claimed: %q", m.claimed)
	}
}

// TestImpostor: somebody with another host's credential in the master's place.
func TestImpostor(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node2"]).serve() // node2 plays the master
	_, err := m.join(all["node3"], from("node3", "metal"))
	wantRefused(t, err, Impostor)
	m.said(" impostor")
	if _, err := Join(t.Context(), all["node3"], "node2.lab.example", m.addr, from("node3", "metal")); err == nil || strings.Contains(err.Error(), "certificate") {
		t.Errorf("with its own name: %v; want a refusal by the ledger", err)
	}
}

func TestRefused(t *testing.T) {
	all := medium(t, "disc")
	for _, test := range []struct {
		summary string
		as      string // whose credential
		host    string // whom the request names
		prepare func(m *master)
		want    Reason
		console string
	}{
		{"host of another role", "sci", "sci", nil, WrongRole, "sci wrong-role"},
		{"host that the site does not have", "node9", "node9", nil, UnknownHost, "node9 unknown-host"},
		{"the master itself", "node1", "node1", nil, UnknownHost, "node1 unknown-host"},
		{"address of another host", "node3", "node3", nil, WrongAddress, "node3 wrong-address"},
		{"name of another host", "node3", "node2", nil, UnknownHost, "node3 unknown-host"},
		{"window over", "node2", "node2", func(m *master) { m.clock.set("a", Window) }, Expired, "node2 expired"},
		{"window over after a claim", "node2", "node2", func(m *master) { m.accepted(all["node2"], "metal"); m.clock.set("b", Window) }, Expired, "node2 expired"},
		{"opened for another medium", "node2", "node2", func(m *master) {
			newer := medium(t, "newer disc")["node1"]
			if err := m.ledger.Open("node2", 0, &newer); err != nil {
				t.Error(err)
			}
		}, WrongMedium, "node2 wrong-medium"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			m := newMaster(t, all["node1"]).serve()
			if test.prepare != nil {
				test.prepare(m)
			}
			_, err := m.join(all[test.as], from(test.host, "metal"))
			wantRefused(t, err, test.want)
			m.said(test.console)
			if m.silent(); len(m.trouble) > 0 {
				t.Errorf("trouble: %q", m.trouble)
			}
		})
	}
}

// TestNewerMedium: a host that was installed from a newer medium joins once an
// admin has said so, beside hosts from the old one.
func TestNewerMedium(t *testing.T) {
	old, newer := medium(t, "disc"), medium(t, "newer disc")
	m := newMaster(t, old["node1"])
	m.ledger.o.Hosts[1].Addresses = []netip.Addr{loopback} // node3
	m.serve()
	_, err := m.join(newer["node2"], from("node2", "metal"))
	wantRefused(t, err, WrongMedium)
	own := newer["node1"]
	if err := m.ledger.Open("node2", time.Hour, &own); err != nil {
		t.Fatal(err)
	}
	m.accepted(newer["node2"], "metal")
	m.accepted(old["node3"], "other metal")
	_, err = m.join(old["node2"], from("node2", "metal"))
	wantRefused(t, err, WrongMedium)
	_, err = m.join(newer["node3"], from("node3", "other metal"))
	wantRefused(t, err, WrongMedium)
}

// TestNobody: what is no refusal lets the agent wait.
func TestNobody(t *testing.T) {
	all := medium(t, "disc")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	go func() { // speaks something else
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "220 mail.lab.example ESMTP\r\n")
			_ = c.Close()
		}
	}()
	_, err = Join(t.Context(), all["node2"], masterName, addr, from("node2", "metal"))
	wantNobody(t, err)
	_ = l.Close()
	_, err = Join(t.Context(), all["node2"], masterName, addr, from("node2", "metal"))
	wantNobody(t, err)

	m := newMaster(t, all["node1"])
	m.failing = errors.New("the cluster is not ready")
	m.serve()
	_, err = m.join(all["node2"], from("node2", "metal"))
	wantNobody(t, err)
	m.mu.Lock()
	m.failing = nil
	if want := []string{"cannot answer host node2: the cluster is not ready"}; !cmp.Equal(want, m.trouble) || len(m.claimed) > 0 {
		t.Errorf("trouble %q, claimed %q; want %q and none", m.trouble, m.claimed, want)
	}
	m.mu.Unlock()
	m.accepted(all["node2"], "metal")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Join(ctx, all["node2"], masterName, m.addr, from("node2", "metal"))
	wantNobody(t, err)

	if err := os.WriteFile(m.ledger.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = m.join(all["node2"], from("node2", "metal"))
	wantNobody(t, err)
}

// raw sends bytes over a connection that has proved itself and returns the
// answer's status.
func (m *master) raw(c Credential, text string) (int, string) {
	m.t.Helper()
	cfg, err := clientConfig(c, masterName)
	if err != nil {
		m.t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", m.addr.String(), cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
	_ = conn.CloseWrite()
	data, _ := io.ReadAll(conn)
	head, body, _ := strings.Cut(string(data), "\r\n\r\n")
	code := 0 // of who has no answer
	_, _ = fmt.Sscanf(head, "HTTP/1.1 %d", &code)
	return code, body
}

func TestGarbage(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"]).serve()
	key := sshKey("metal")
	post := func(length int, body string) string {
		return "POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: " + strconv.Itoa(length) + "\r\n\r\n" + body
	}
	good := `{"host":"node2","hostKeys":["` + key + `"],"cpuFlags":[],"agent":"1"}`
	full := func(body string) string { return post(len(body), body) }
	for summary, test := range map[string]struct {
		text string
		want int
	}{
		"empty body":        {full(" "), 403},
		"cut short":         {post(len(good), good[:40]), 403},
		"half an object":    {full(good[:40]), 403},
		"two objects":       {full(good + good), 403},
		"unknown member":    {full(`{"host":"node2","hostKeys":["` + key + `"],"root":true}`), 403},
		"no keys":           {full(`{"host":"node2","hostKeys":[]}`), 403},
		"nine keys":         {full(`{"host":"node2","hostKeys":["` + strings.Repeat(key+`","`, 8) + key + `"]}`), 403},
		"key with options":  {full(`{"host":"node2","hostKeys":["command=\"x\" ` + key + `"]}`), 403},
		"key of two lines":  {full(`{"host":"node2","hostKeys":["` + key + `\nssh-rsa x"]}`), 403},
		"control character": {full(`{"host":"node2","hostKeys":["` + key + `"],"agent":"\u001b[2J"}`), 403},
		"flag with a space": {full(`{"host":"node2","hostKeys":["` + key + `"],"cpuFlags":["a b"]}`), 403},
		"path as host":      {full(`{"host":"../node2","hostKeys":["` + key + `"]}`), 403},
		"too long":          {post(70000, `{"host":"`+strings.Repeat("a", 70000-9)), 403},
		"a list":            {full("[]"), 403},
		"GET":               {"GET /v1/join HTTP/1.1\r\nHost: x\r\n\r\n", 405},
		"another path":      {"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404},
		"no HTTP":           {"\x00\x01\x02\r\n\r\n", 400},
		"HTTP/2":            {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
		"long header":       {"POST /v1/join HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 100000) + "\r\n\r\n", 431},
	} {
		if code, body := m.raw(all["node2"], test.text); test.want != 0 && code != test.want {
			t.Errorf("%s: status %d, want %d: %.200s", summary, code, test.want, body)
		}
	}
	m.said("node2 bad-request")
	m.mu.Lock()
	if len(m.claimed) > 0 {
		t.Errorf("claimed: %q", m.claimed)
	}
	for _, line := range m.lines {
		if !isPrintable(line) {
			t.Errorf("on the console: %q", line)
		}
	}
	m.mu.Unlock()
	if code, body := m.raw(all["node2"], full(good)); code != 200 {
		t.Errorf("a good request afterwards: %d %s", code, body)
	}
}

// TestAnonymous: who has no certificate, an old TLS or no TLS gets nothing.
func TestAnonymous(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"]).serve()
	read := func(cfg *tls.Config) error {
		conn, err := tls.Dial("tcp", m.addr.String(), cfg)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /v1/join HTTP/1.1\r\nHost: x\r\n\r\n")
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	if err := read(&tls.Config{InsecureSkipVerify: true}); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	m.said(" wrong-medium")
	cfg, err := clientConfig(all["node2"], masterName)
	if err != nil {
		t.Fatal(err)
	}
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if err := read(cfg); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	conn, err := net.Dial("tcp", m.addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /v1/join HTTP/1.1\r\nHost: x\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	if bytes.Contains(answer, []byte("HTTP")) {
		t.Errorf("without TLS: %q", answer)
	}
	m.silent()
}

// TestConnections: idle connections of one address take its places, and no more.
func TestConnections(t *testing.T) {
	all := medium(t, "disc")
	m := newMaster(t, all["node1"]).serve()
	var idle []net.Conn
	for range maxPerAddr {
		c, err := net.Dial("tcp", m.addr.String())
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	_, err := m.join(all["node2"], from("node2", "metal"))
	wantNobody(t, err)
	for _, c := range idle {
		_ = c.Close()
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err = m.join(all["node2"], from("node2", "metal")); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("when they are gone: %v", err)
		}
	}
	// At the end none holds up the server.
	if _, err := net.Dial("tcp", m.addr.String()); err != nil {
		t.Fatal(err)
	}
	m.stop()
	select {
	case err := <-m.done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Serve = %v; want that of its context", err)
		}
	case <-time.After(8 * time.Second):
		t.Fatal("it serves on")
	}
}

func TestServeListenerFails(t *testing.T) {
	m := newMaster(t, medium(t, "disc")["node1"])
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := m.server.Serve(t.Context(), l); err == nil {
		t.Error("Serve on a closed listener = nil")
	}
}

// TestNews guards that a flood of refusals does not flood the console.
func TestNews(t *testing.T) {
	sv := &serving{said: make(map[saidKey]time.Time)}
	at := time.Now()
	key := saidKey{loopback, Used}
	if !sv.news(key, at) || sv.news(key, at.Add(9*time.Second)) || !sv.news(key, at.Add(10*time.Second)) {
		t.Error("want one in 10 s")
	}
	if !sv.news(saidKey{loopback, Expired}, at.Add(10*time.Second)) {
		t.Error("another reason is news")
	}
	n := 0
	addr := netip.MustParseAddr("10.0.0.1")
	for range 10000 {
		if addr = addr.Next(); sv.news(saidKey{addr, Used}, at.Add(11*time.Second)) {
			n++
		}
	}
	if n > maxSaid || len(sv.said) > maxSaid {
		t.Errorf("%d lines of a flood, %d remembered; want at most %d", n, len(sv.said), maxSaid)
	}
	if !sv.news(key, at.Add(time.Minute)) {
		t.Error("after the flood nothing is told any more")
	}
}

// TestClock guards that no end looks at the wall clock: a new server's may be
// decades off.
func TestClock(t *testing.T) {
	all := medium(t, "disc")
	client, err := clientConfig(all["node2"], masterName)
	if err != nil {
		t.Fatal(err)
	}
	server, err := serverConfig([]Credential{all["node1"]})
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []*tls.Config{client, server} {
		if cfg.Time == nil || !cfg.Time().Equal(instant()) || cfg.MinVersion != tls.VersionTLS13 || !cfg.SessionTicketsDisabled || cfg.InsecureSkipVerify {
			t.Errorf("configuration: %+v", cfg)
		}
	}
	if server.ClientAuth != tls.RequireAndVerifyClientCert {
		t.Errorf("ClientAuth = %v", server.ClientAuth)
	}
}

// TestRetire: afterwards the machine has nothing to prove itself with, and
// believes nobody.
func TestRetire(t *testing.T) {
	root := t.TempDir()
	if err := Retire(root); err != nil {
		t.Errorf("with nothing there: %v", err)
	}
	name := filepath.Join(root, File)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, medium(t, "disc")["node2"].Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadCredential(name); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Retire(root); err != nil {
			t.Error(err)
		}
	}
	if _, err := ReadCredential(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadCredential = %v; want it gone", err)
	}
}
