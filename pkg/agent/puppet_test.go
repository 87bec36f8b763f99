package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
	"github.com/skycover/sci-cd/pkg/site"
)

const puppetSite = `{
  "apiVersion": "sci-cd/v1", "name": "lab", "domain": "lab.example", "release": "trixie", "locale": "de_DE.UTF-8",
  "networks": {"lan": {"subnet": "192.168.50.0/24"}},
  "cluster": {"name": "cluster", "address": "192.168.50.10"},
  "admins": [{"name": "ann", "sshKeys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBpfn7MbkQM0lNWIiru/0VIAf8SkO0kez1YwN2+od3kx ann@%{home}"]}],
  "mail": {"root": "ops@example.org", "smarthost": "mail.example.org"},
  "root": {"passwordHash": "$6$salt$` + "1234567890123456789012345678901234567890123456789012345678901234567890123456789012345a" + `"},
  "hosts": [
    {"name": "node1", "role": "node", "match": {"mac": ["52:54:00:5c:1c:01"]}, "addresses": {"lan": "192.168.50.11"}},
    {"name": "sci", "role": "service", "virtual": true, "addresses": {"lan": "192.168.50.2"}},
    {"name": "www", "role": "instance", "virtual": true, "addresses": {"lan": "192.168.50.30"}}
  ]
}`

// puppetMachine is a machine whose Puppet does what the server would have it do.
type puppetMachine struct {
	*Node
	t     *testing.T
	calls []string
	units map[string]unit
	up    bool   // the server answers
	exit  int    // of puppet agent
	out   string // of puppet agent
	fails map[string]error
}

// exitStatus is an error as os/exec has it.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
func (e exitStatus) ExitCode() int { return int(e) }

func newPuppetMachine(t *testing.T, host string) *puppetMachine {
	t.Helper()
	m := &puppetMachine{t: t, up: true, units: make(map[string]unit), fails: make(map[string]error)}
	m.Node = &Node{Root: t.TempDir(), Runner: m, Journal: t.Output()}
	m.Dial = func(_ context.Context, to netip.AddrPort) (net.Conn, error) {
		if to != netip.MustParseAddrPort("192.168.50.2:8140") || !m.up {
			return nil, errors.New("connection refused")
		}
		c, _ := net.Pipe()
		return c, nil
	}
	s, err := site.FromJSON([]byte(puppetSite))
	if err != nil {
		t.Fatal(err)
	}
	m.Site = s
	m.Host, _ = s.Host(host)
	m.put("usr/bin/puppet", "", 0o755)
	m.put("etc/group", fmt.Sprintf("root:x:0:\npuppet:x:%d:\n", os.Getgid()), 0o644)
	return m
}

func (m *puppetMachine) put(name, data string, mode os.FileMode) {
	m.t.Helper()
	if err := writeFile(m.path(name), []byte(data), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *puppetMachine) text(name string) string {
	m.t.Helper()
	data, err := os.ReadFile(m.path(name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(data)
}

const goodSummary = "---\nversion:\n  config: 1795443601\n  puppet: 8.10.0\nresources:\n  changed: 3\n  failed: 0\n  failed_to_restart: 0\n  total: 23\nevents:\n  failure: 0\n  success: 3\n  total: 3\ntime:\n  total: 3.2\n  last_run: 1795443612\n"

func (m *puppetMachine) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv, " ")
	last := c.Argv[len(c.Argv)-1]
	u := m.units[last]
	if err := m.fails[line]; err != nil {
		return nil, &run.Error{Argv: c.Argv, Err: err}
	}
	switch {
	case strings.HasPrefix(line, "systemctl show "):
		return fmt.Appendf(nil, "ActiveState=%s\nUnitFileState=%s\n", map[bool]string{true: "active"}[u.active], map[bool]string{true: "enabled"}[u.enabled]), nil
	case strings.HasPrefix(line, "systemctl enable"):
		m.units[last] = unit{enabled: true, active: u.active || strings.Contains(line, "--now")}
	case strings.HasPrefix(line, "systemctl start"), strings.HasPrefix(line, "systemctl restart"):
		m.units[last] = unit{enabled: u.enabled, active: true}
	case line == "puppetserver ca setup":
		m.put(puppetCA+"/ca_key.pem", "", 0o640)
		m.put(puppetCA+"/ca_crt.pem", "", 0o640)
		m.certify(m.fqdn())
	case strings.HasPrefix(line, "puppet agent "):
		m.calls = append(m.calls, "puppet agent")
		if m.exit != 1 {
			m.certify(m.fqdn())
		}
		if m.exit == 0 || m.exit == 2 {
			m.put(puppetSummary, goodSummary, 0o644)
		}
		if m.exit == 0 {
			return nil, nil
		}
		return nil, &run.Error{Argv: c.Argv, Output: m.out, Err: exitStatus(m.exit)}
	default:
		m.t.Errorf("unexpected command %q", line)
	}
	m.calls = append(m.calls, line)
	return nil, nil
}

// certify writes a certificate of that name.
func (m *puppetMachine) certify(name string) {
	m.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		m.t.Fatal(err)
	}
	m.put(m.puppetCert(), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
}

func (m *puppetMachine) step(s Step) (bool, error) {
	m.t.Helper()
	if done, err := s.Done(m.t.Context()); done || err != nil {
		return done, err
	}
	if err := s.Do(m.t.Context()); err != nil {
		return false, err
	}
	return s.Done(m.t.Context())
}

func (m *puppetMachine) wantCalls(want ...string) {
	m.t.Helper()
	if d := cmp.Diff(want, m.calls); d != "" {
		m.t.Errorf("commands (-want +got):\n%s", d)
	}
	m.calls = nil
}

func TestPuppetEnrols(t *testing.T) {
	for _, c := range []struct{ host, from string }{{"node1", enrol.ChallengeKeyFile}, {"sci", enrol.ChallengeKeyFile}, {"www", enrol.ChallengeFile}} {
		t.Run(c.host, func(t *testing.T) {
			m := newPuppetMachine(t, c.host)
			key, err := enrol.NewChallengeKey()
			if err != nil {
				t.Fatal(err)
			}
			challenge := key.Challenge(m.fqdn())
			secret := key.String()
			if c.from == enrol.ChallengeFile {
				secret = challenge
			}
			m.put(c.from, secret+"\n", 0o600)
			shown := ""
			m.exit = 1
			m.out = "Exiting; no certificate found and waitforcert is disabled"
			if _, err := m.step(m.puppetStep()); err == nil || !strings.Contains(hint.Of(err), "did not believe") {
				t.Errorf("a refused machine: %v, hint %q", err, hint.Of(err))
			}
			shown = m.text(csrAttributes)
			if !strings.Contains(shown, "\n  1.2.840.113549.1.9.7: \""+challenge+"\"\n") {
				t.Errorf("the request shows:\n%s", shown)
			}
			if info, _ := os.Stat(m.path(csrAttributes)); info.Mode() != 0o600 {
				t.Errorf("the challenge's file has mode %v", info.Mode())
			}
			m.calls, m.exit = nil, 2
			if done, err := m.step(m.puppetStep()); !done || err != nil {
				t.Fatalf("step = %v, %v", done, err)
			}
			m.wantCalls("puppet agent", "systemctl enable --now "+puppetTimer)
			if m.exists(csrAttributes) {
				t.Error("the challenge is still shown")
			}
			if done, err := m.step(m.puppetStep()); !done || err != nil {
				t.Errorf("again: %v, %v", done, err)
			}
			m.wantCalls()
			if conf := m.text(puppetConf); !strings.Contains(conf, "certname = "+c.host+".lab.example\nserver = puppet.lab.example\n") ||
				strings.Contains(conf, "autosign") != (c.host == "sci") {
				t.Errorf("puppet.conf:\n%s", conf)
			}
		})
	}
}

func TestPuppetWaits(t *testing.T) {
	for _, c := range []struct {
		summary, host string
		set           func(*puppetMachine)
		want, tip     string
	}{
		{"a node without the key", "node1", nil, "waiting for the key of challenges from the cluster's master", "on the master"},
		{"an instance without a challenge", "www", nil, "waiting for its challenge in /etc/sci/puppet/challenge", "sci-agent challenge www.lab.example"},
		{"no server", "www", func(m *puppetMachine) {
			m.put(enrol.ChallengeFile, strings.Repeat("a", 64), 0o600)
			m.up = false
		}, "waiting for the Puppet server at puppet.lab.example (192.168.50.2)", "on sci"},
		{"half a challenge", "www", func(m *puppetMachine) { m.put(enrol.ChallengeFile, "abcd", 0o600) }, "/etc/sci/puppet/challenge holds no challenge", ""},
		{"another server", "www", func(m *puppetMachine) {
			m.put(enrol.ChallengeFile, strings.Repeat("a", 64), 0o600)
			m.exit, m.out = 1, "certificate verify failed [self-signed certificate in certificate chain for CN=Puppet CA: sci.lab.example]"
		}, "cannot run", "puppet ssl clean --localca"},
		{"a certificate that was taken back", "www", func(m *puppetMachine) {
			m.certify(m.fqdn())
			m.exit, m.out = 1, "certificate revoked"
		}, "cannot run", "puppet ssl clean; then"},
		{"a resource that failed", "www", func(m *puppetMachine) {
			m.certify(m.fqdn())
			m.exit = 6
		}, "cannot run", "puppet agent -t"},
	} {
		t.Run(c.summary, func(t *testing.T) {
			m := newPuppetMachine(t, c.host)
			if c.set != nil {
				c.set(m)
			}
			done, err := m.step(m.puppetStep())
			if done || err == nil || !strings.HasPrefix(err.Error(), c.want) || !strings.Contains(hint.Of(err), c.tip) {
				t.Errorf("step = %v, %v\nhint: %s\nwant %s, %s", done, err, hint.Of(err), c.want, c.tip)
			}
			if m.units[puppetTimer].enabled {
				t.Error("the timer runs")
			}
		})
	}
}

func TestPuppetWithout(t *testing.T) {
	m := newPuppetMachine(t, "www")
	if err := os.Remove(m.path(puppetProgram)); err != nil {
		t.Fatal(err)
	}
	if done, err := m.step(m.puppetStep()); !done || err != nil {
		t.Errorf("without Puppet: %v, %v", done, err)
	}
}

func TestSummary(t *testing.T) {
	for _, c := range []struct{ summary, in, want string }{
		{"a good run", goodSummary, ""},
		{"a failure", strings.Replace(goodSummary, "failed: 0", "failed: 2", 1), "puppet's last run failed in 2 resources"},
		{"an event", strings.Replace(goodSummary, "failure: 0", "failure: 1", 1), "puppet's last run failed in 1 resource"},
		{"no restart", strings.Replace(goodSummary, "failed_to_restart: 0", "failed_to_restart: 1", 1), "puppet's last run failed in 1 resource"},
		{"no catalogue", "---\nversion:\n  config:\n  puppet: 8.10.0\nresources:\n  total: 0\n", "puppet's last run got no catalogue"},
		{"empty", "", "puppet's last run got no catalogue"},
		{"no YAML", "\tx: [", "cannot read /" + puppetSummary},
	} {
		err := parseSummary([]byte(c.in))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", c.summary, err, c.want)
		}
	}
	m := newPuppetMachine(t, "www")
	m.put(puppetSummary, strings.Repeat("#", maxSummary+1), 0o644)
	if err := m.lastRun(); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a long summary: %v", err)
	}
}

func FuzzSummary(f *testing.F) {
	f.Add([]byte(goodSummary))
	f.Fuzz(func(_ *testing.T, data []byte) { _ = parseSummary(data) })
}

func newServer(t *testing.T) *puppetMachine {
	m := newPuppetMachine(t, "sci")
	m.put(enrol.ChallengeKeyFile, someKey(t), 0o600)
	return m
}

func TestPuppetserver(t *testing.T) {
	m := newServer(t)
	if done, err := m.step(m.puppetserverStep()); !done || err != nil {
		t.Fatalf("step = %v, %v", done, err)
	}
	m.wantCalls("puppetserver ca setup", "systemctl start puppetserver.service", "systemctl enable puppetserver.service")
	if done, err := m.step(m.puppetserverStep()); !done || err != nil {
		t.Errorf("again: %v, %v", done, err)
	}
	m.wantCalls()
	for name, want := range map[string]string{
		webserverConf: "    ssl-host: 192.168.50.2\n",
		productConf:   "check-for-updates: false",
		puppetConf:    "dns_alt_names = puppet,puppet.lab.example\n",
		puppetPolicy:  "exec /usr/sbin/sci-agent autosign --domain lab.example -- \"$1\"\n",
	} {
		if text := m.text(name); !strings.Contains(text, want) {
			t.Errorf("%s lacks %q:\n%s", name, want, text)
		}
	}
	for name, mode := range map[string]os.FileMode{puppetPolicy: 0o755, enrol.ChallengeKeyFile: 0o640, "etc/sci/puppet": os.ModeDir | 0o750} {
		if info, err := os.Stat(m.path(name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
	// An admin more is data, which the server reads by itself; another address is
	// a setting.
	m.Site.Admins = append(m.Site.Admins, site.Admin{Name: "bob"})
	if done, err := m.step(m.puppetserverStep()); !done || err != nil || !strings.Contains(m.text(puppetSiteData), `"bob"`) {
		t.Errorf("an admin more: %v, %v", done, err)
	}
	m.wantCalls()
	m.Site.Domain = "lab2.example"
	m.certify(m.fqdn())
	if done, err := m.step(m.puppetserverStep()); !done || err != nil {
		t.Errorf("another domain: %v, %v", done, err)
	}
	m.wantCalls("systemctl restart puppetserver.service")
}

// A power cut while the authority is made leaves half of one: it is made anew.
// One that was finished never is.
func TestPuppetserverAuthority(t *testing.T) {
	m := newServer(t)
	m.fails["puppetserver ca setup"] = exitStatus(1)
	if _, err := m.step(m.puppetserverStep()); err == nil {
		t.Fatal("no error")
	}
	m.put(puppetCA+"/ca_crt.pem", "half", 0o640)
	m.put(puppetSSL+"/certs/ca.pem", "half", 0o640)
	m.fails = nil
	if done, err := m.step(m.puppetserverStep()); !done || err != nil {
		t.Fatalf("step = %v, %v", done, err)
	}
	if m.exists(puppetSSL + "/certs/ca.pem") {
		t.Error("what was left of the first try is still there")
	}
	if err := os.Remove(m.path(puppetCA + "/ca_key.pem")); err != nil {
		t.Fatal(err)
	}
	m.calls = nil
	_, err := m.step(m.puppetserverStep())
	if stop := new(StopError); !errors.As(err, &stop) || !m.exists(puppetCA+"/ca_crt.pem") {
		t.Errorf("an authority without its key: %v; want a stop", err)
	}
	m.wantCalls()
}

func TestPuppetserverStops(t *testing.T) {
	m := newPuppetMachine(t, "sci")
	_, err := m.step(m.puppetserverStep())
	if stop := new(StopError); !errors.As(err, &stop) || !strings.Contains(hint.Of(err), "from a node") {
		t.Errorf("without the key: %v", err)
	}
	m = newServer(t)
	m.up = false
	_, err = m.step(m.puppetserverStep())
	if waits := new(Waiting); !errors.As(err, &waits) {
		t.Errorf("a server that does not answer: %v", err)
	}
}

// TestHieraData: what the manifests are told holds no secret, and nothing that
// Hiera would take for a variable.
func TestHieraData(t *testing.T) {
	m := newPuppetMachine(t, "sci")
	text, err := hieraData(m.Site)
	if err != nil {
		t.Fatal(err)
	}
	var data map[string]any
	if err := json.Unmarshal([]byte(text), &data); err != nil {
		t.Fatal(err)
	}
	delete(data, "sci::note")
	want := map[string]any{
		"sci::locale": "de_DE.UTF-8", "sci::timezone": "Etc/UTC",
		"sci::mail":  map[string]any{"root": "ops@example.org", "smarthost": "mail.example.org"},
		"sci::roles": map[string]any{"node1.lab.example": "node", "sci.lab.example": "service", "www.lab.example": "instance"},
		"sci::admins": []any{map[string]any{"name": "ann", "keys": []any{
			"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBpfn7MbkQM0lNWIiru/0VIAf8SkO0kez1YwN2+od3kx ann@%{literal('%')}{home}"}}},
	}
	if d := cmp.Diff(want, data); d != "" {
		t.Errorf("hieraData (-want +got):\n%s", d)
	}
	if strings.Contains(text, "$6$") {
		t.Error("root's password hash is in it")
	}
}

func TestChallengeOf(t *testing.T) {
	m := newServer(t)
	c, err := Challenge(m.Root, "www.lab.example")
	if k, _ := enrol.ParseChallengeKey([]byte(m.text(enrol.ChallengeKeyFile))); err != nil || !k.Met("www.lab.example", c) {
		t.Errorf("Challenge = %q, %v", c, err)
	}
	if _, err := Challenge(m.Root, "www"); err == nil {
		t.Error("a name without a domain has a challenge")
	}
	if _, err := Challenge(filepath.Join(m.Root, "nowhere"), "www.lab.example"); err == nil {
		t.Error("a challenge without a key")
	}
}
