package agent

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// serviceMachine is the lab's service machine, with a package cache that answers
// what the test says.
func cacheMachine(t *testing.T, answer func() string) (*machine, *[]string) {
	t.Helper()
	m := newMachine(t, "sci")
	s, err := site.FromJSON([]byte(m.read("etc/sci/site.json")))
	if err != nil {
		t.Fatal(err)
	}
	m.node.Site = s
	m.node.Host, _ = s.Host("sci")
	m.units[approxSocket], m.units[approxClean] = &unit{}, &unit{}
	var asked []string
	m.node.Dial = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		asked = append(asked, to.String())
		text := answer()
		if text == "" {
			return nil, errors.New("connection refused")
		}
		client, server := net.Pipe()
		go func() {
			r := make([]byte, 4096)
			n, _ := server.Read(r)
			if !bytes.HasPrefix(r[:n], []byte("GET /debian/dists/trixie/InRelease HTTP/1.1\r\n")) {
				text = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
			}
			_, _ = io.WriteString(server, text)
			_ = server.Close()
		}()
		return client, nil
	}
	return m, &asked
}

const signedAnswer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n"

func TestApproxStep(t *testing.T) {
	answer := signedAnswer
	m, asked := cacheMachine(t, func() string { return answer })
	done := func() (bool, error) { return m.node.approxDone(t.Context()) }
	if ok, err := done(); ok || err != nil {
		t.Fatalf("before: done = %v, %v", ok, err)
	}
	m.daemonReload()
	if err := m.node.approxDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ok, err := done(); !ok || err != nil {
		t.Fatalf("after: done = %v, %v", ok, err)
	}
	if diff := cmp.Diff([]string{"127.0.0.1:9999", "192.168.50.2:9999"}, *asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
	conf := m.read(approxConf)
	for _, want := range []string{
		"\ndebian    http://ftp.debian.org/debian\n", "\nupdates   http://ftp.debian.org/debian\n",
		"\nsecurity  http://security.debian.org/debian-security\n", "\nsite      http://127.0.0.1:9/site\n",
		"\n$offline  true\n", "\n$interval 60\n", "\n$pdiffs   false\n",
	} {
		if !strings.Contains(conf, want) {
			t.Errorf("%s lacks %q:\n%s", approxConf, want, conf)
		}
	}
	listen := m.read(approxListen)
	if got := strings.Count(listen, "ListenStream="); got != 1 || !strings.Contains(listen, "ListenStream=192.168.50.2:9999\n") {
		t.Errorf("listens at\n%s", listen)
	}
	for _, bad := range []struct{ answer, want string }{
		{"", "connection refused"},
		{"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 Not Found"},
		{"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nCodename: trixie\n", "is not signed"},
	} {
		answer = bad.answer
		ok, err := done()
		if waiting := new(Waiting); ok || !errors.As(err, &waiting) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("answer %.20q: done = %v, %v; want to wait for %q", bad.answer, ok, err, bad.want)
		}
	}
}

// daemonReload makes the fake runner know the command.
func (m *machine) daemonReload() { m.units["daemon-reload"] = &unit{} }

// TestApproxMirror: a mirror's URL goes through a shell too.
func TestApproxMirror(t *testing.T) {
	m, _ := cacheMachine(t, func() string { return signedAnswer })
	for _, bad := range []string{"http://x/$(id)", "http://x/`id`", `http://x/"y`, "file:///srv/debian", "http://x/a b", `http://x/\`, "http://x/;y"} {
		m.node.Site.Mirrors.Main = bad
		err := m.node.approxDo(t.Context())
		if stop := new(StopError); !errors.As(err, &stop) || hint.Of(err) == "" {
			t.Errorf("mirror %q: %v; want a stop with advice", bad, err)
		}
	}
	m.node.Site.Mirrors.Main = "https://mirror.lab.example:8080/debian/"
	m.daemonReload()
	if err := m.node.approxDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if conf := m.read(approxConf); !strings.Contains(conf, "\nupdates   https://mirror.lab.example:8080/debian\n") {
		t.Errorf("the mirror is not in\n%s", conf)
	}
}

// TestAptThroughService: an instance asks the service machine from its first
// minute, a node from the first answer on.
func TestAptThroughService(t *testing.T) {
	answer := ""
	m, _ := cacheMachine(t, func() string { return answer })
	m.write(mediumKeyring, "key")
	if err := m.node.aptDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	text := m.read(serviceSources)
	want := rendered("apt") + `# The package cache of the service machine, with an uplink and without. A Release
# file holds for a year from its date at least: Valid-Until-Min, sources.list(5).
Types: deb
URIs: http://apt.lab.example:9999/debian
Suites: trixie
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Languages: en
PDiffs: no
Valid-Until-Min: 31536000

Types: deb
URIs: http://apt.lab.example:9999/updates
Suites: trixie-updates
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Languages: en
PDiffs: no
Valid-Until-Min: 31536000

Types: deb
URIs: http://apt.lab.example:9999/security
Suites: trixie-security
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Languages: en
PDiffs: no
Valid-Until-Min: 31536000

# The site's own packages.
Types: deb
URIs: http://apt.lab.example:9999/site
Suites: trixie
Components: main
Signed-By: /etc/apt/keyrings/sci-site.gpg
`
	if diff := cmp.Diff(want, text); diff != "" {
		t.Errorf("%s (-want +got):\n%s", serviceSources, diff)
	}
	if !strings.Contains(m.read(debianSources), "Enabled: no") || strings.Contains(text, "Enabled") {
		t.Error("a virtual machine does not go through the service machine")
	}

	m.node.Host, _ = m.node.Site.Host("node2")
	if err := m.node.aptDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(m.read(serviceSources), "Enabled: no\n"); got != 4 {
		t.Errorf("before the service machine has answered %d of 4 stanzas are switched off", got)
	}
	err := m.node.sourcesDo(t.Context())
	if waiting := new(Waiting); !errors.As(err, &waiting) {
		t.Errorf("sources = %v; want to wait", err)
	}
	answer = signedAnswer
	if err := m.node.sourcesDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	answer = "" // it is not asked again
	if ok, err := m.node.sourcesDone(t.Context()); !ok || err != nil {
		t.Errorf("sourcesDone = %v, %v", ok, err)
	}
	if diff := cmp.Diff(want, m.read(serviceSources)); diff != "" {
		t.Errorf("%s on the node (-want +got):\n%s", serviceSources, diff)
	}

	m.node.Site.Cluster = nil // a site without a service machine
	if err := m.node.aptDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.node.exists(serviceSources) || m.node.exists(serviceApt) {
		t.Error("the sources of a service machine that the site does not have are still there")
	}
}

// TestPlainPath: what apt asks gets through, what a shell would read does not.
func TestPlainPath(t *testing.T) {
	for _, good := range []string{
		"/debian/dists/trixie/InRelease", "/security/pool/updates/main/g/gcc-14/libstdc++6_14.2.0-19_amd64.deb",
		"/debian/pool/main/b/bind9/bind9_9.20.4-3~deb13u1_amd64.deb", "/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/0123abcd",
	} {
		if !plainPath(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{
		"", "/", "debian/x", "/debian/$(id)", "/debian/`id`", `/debian/"x`, `/debian/\x`, "/debian/a b", "/debian/a\nb", "/debian/a\x00b",
		"/debian/../etc/passwd", "/debian//x", "/debian/x/", "/debian/./x", "/.curlrc", "/debian/.hidden", "/debian/a;b", "/debian/a|b",
		"/debian/a&b", "/debian/a>b", "/debian/a'b", "/debian/{a,b}", "/debian/[a-z]", "/debian/a%24b", "/debian/ä", "/debian/a#b", "/debian/!x",
	} {
		if plainPath(bad) {
			t.Errorf("%q gets through", bad)
		}
	}
}

// guarded sends bytes to a guard before a program that writes down what it gets
// and answers each request; it returns what the client and the program saw.
func guarded(t *testing.T, request string) (answer, seen string, err error) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "seen")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(client, request)
		_ = client.(*net.TCPConn).CloseWrite()
	}()
	fake := []string{"/bin/sh", "-c", `cat >"$0"; echo answered`, log}
	err = GuardApprox(t.Context(), server, fake, io.Discard)
	_ = server.Close()
	data, _ := io.ReadAll(client)
	got, _ := os.ReadFile(log)
	return string(data), string(got), err
}

func TestGuardApprox(t *testing.T) {
	if _, err := exec.LookPath("/bin/sh"); err != nil {
		t.Fatal(err)
	}
	const good = "GET /debian/dists/trixie/InRelease HTTP/1.1\r\nHost: apt:9999\r\nUser-Agent: Debian APT\r\nIf-Modified-Since: Sat, 21 Nov 2026 09:15:44 GMT\r\nX: $(id)\r\n\r\n"
	const passed = "GET /debian/dists/trixie/InRelease HTTP/1.1\r\nHost: approx\r\nIf-Modified-Since: Sat, 21 Nov 2026 09:15:44 GMT\r\n\r\n"
	answer, seen, err := guarded(t, good+"GET /debian/pool/libstdc%2b%2b6_1%7e2.deb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if err != nil || answer != "answered\n" {
		t.Errorf("%q, %v", answer, err)
	}
	if diff := cmp.Diff(passed+"GET /debian/pool/libstdc++6_1~2.deb HTTP/1.1\r\nHost: approx\r\nConnection: close\r\n\r\n", seen); diff != "" {
		t.Errorf("approx saw (-want +got):\n%s", diff)
	}
	for _, bad := range []string{
		"GET /debian/$(touch${IFS}/tmp/x) HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /debian/%24(id) HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /debian/%60id%60 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /debian/x%00y HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /debian/x%0d%0aGET%20/y HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /debian/%2e%2e/x HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /debian/%2524(id) HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET http://evil/debian/x HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /debian/x?$(id) HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /debian/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
		"GET /debian/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
		"GET /debian/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET /debian/x\r\n\r\n",
		"$(id)\r\n\r\n",
		"GET /debian/" + strings.Repeat("x", 600) + " HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		answer, seen, err := guarded(t, good+bad)
		if err == nil || !strings.HasSuffix(answer, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") {
			t.Errorf("%.60q: answer %q, %v", bad, answer, err)
		}
		if seen != passed {
			t.Errorf("%.60q: approx saw %q", bad, seen)
		}
	}
	// A request without an end is not waited for in memory without one.
	if _, seen, _ := guarded(t, "GET /debian/x HTTP/1.1\r\nX: "+strings.Repeat("y", 1<<20)); seen != "" {
		t.Errorf("approx saw %q of an endless request", seen)
	}
}

// FuzzGuard: nothing but plain paths, whatever is sent.
func FuzzGuard(f *testing.F) {
	f.Add("GET /debian/x HTTP/1.1\r\nHost: x\r\n\r\n")
	f.Add("GET /debian/%24(id) HTTP/1.0\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil || checkRequest(r) != nil {
			return
		}
		line, _, _ := strings.Cut(requestFor(r), "\r\n")
		if strings.ContainsAny(line, "$`\"\\;|&<>(){}'*?![]#\n\r\x00") {
			t.Errorf("%q becomes %q", text, line)
		}
	})
}

func TestCleanApprox(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	var names []string
	for _, name := range []string{"debian/pool/main/s/seed_1.deb", "debian/pool/main/a/a_1.deb", "debian/pool/main/b/b_1.deb", "debian/dists/trixie/InRelease"} {
		names = append(names, write(approxCache+"/"+name, "0123456789"))
		time.Sleep(10 * time.Millisecond) // the order of their times of change
	}
	write(approxSeed, "digest\ndebian/pool/main/s/seed_1.deb\n")
	if err := CleanApprox(t.Context(), root, io.Discard); err != nil {
		t.Fatal(err)
	}
	there := func() (list []string) {
		for _, name := range names {
			if _, err := os.Stat(name); err == nil {
				list = append(list, filepath.Base(name))
			}
		}
		return list
	}
	c := &cleaner{root: filepath.Join(root, approxCache), now: time.Now(), seed: map[string]bool{"debian/pool/main/s/seed_1.deb": true}}
	for _, tt := range []struct {
		free int64
		want string
	}{
		{200, "[seed_1.deb a_1.deb b_1.deb InRelease]"},
		{9, "[seed_1.deb b_1.deb InRelease]"}, // 9 and a's 10 bytes are 15 of 100
		{1, "[seed_1.deb InRelease]"},
	} {
		c.free = func(string) (int64, int64, error) { return tt.free, 100, nil }
		if _, _, err := c.shrink(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(there()); got != tt.want {
			t.Errorf("with %d free: %s; want %s", tt.free, got, tt.want)
		}
	}
	c.now = time.Now().Add(seedRefresh + time.Hour)
	if n, err := c.refresh(t.Context()); n != 1 || err != nil {
		t.Errorf("refresh = %d, %v; want 1", n, err)
	}
	info, err := os.Lstat(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); time.Since(time.Unix(st.Ctim.Unix())) > time.Minute || info.Mode() != fs.FileMode(0o644) {
		t.Errorf("the seed is %v of %v", info.Mode(), st.Ctim)
	}
}
