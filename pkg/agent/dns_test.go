package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
	"github.com/skycover/sci-cd/pkg/site"
)

// serviceMachine is the site's service machine: a fake root directory, systemd,
// and a named and a Kea that do with the files what the real ones do.
type serviceMachine struct {
	*Node
	t      *testing.T
	units  map[string]*unit
	zones  map[string]*fakeZone // that named has loaded
	calls  []string
	fail   map[string]error // by the program
	silent bool             // named runs and does not answer
	denied bool             // Kea's server comes up and does not listen
}

type fakeZone struct {
	serial  uint32
	primary string
	records []record
}

func newService(t *testing.T) *serviceMachine {
	t.Helper()
	m := &serviceMachine{t: t, fail: make(map[string]error), zones: make(map[string]*fakeZone),
		units: map[string]*unit{namedUnit: {}, keaDHCPUnit: {enabled: true, active: true}, keaDDNSUnit: {enabled: true, active: true}}}
	m.Node = &Node{Root: t.TempDir(), Runner: m, Ask: m.answer, Settle: 50 * time.Millisecond}
	m.use(labSite)
	m.write("etc/group", fmt.Sprintf("root:x:0:\nbind:x:%d:\n_kea:x:%d:\n", os.Getgid(), os.Getgid()))
	m.write("etc/bind/named.conf.local", "")
	return m
}

// use gives the machine another site file.
func (m *serviceMachine) use(text string) {
	m.t.Helper()
	s, err := site.FromJSON([]byte(text))
	if err != nil {
		m.t.Fatal(err)
	}
	m.Site, m.Host = s, s.Service()
}

func (m *serviceMachine) write(name, data string) {
	m.t.Helper()
	if err := writeFile(m.path(name), []byte(data), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m *serviceMachine) text(name string) string {
	m.t.Helper()
	data, _, err := m.Node.read(name)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(data)
}

// Run is the fake runner.
func (m *serviceMachine) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv, " ")
	last := c.Argv[len(c.Argv)-1]
	u := m.units[last]
	if strings.HasPrefix(line, "systemctl show ") && u != nil {
		state := map[bool][2]string{true: {"active", "enabled"}, false: {"inactive", "disabled"}}
		return fmt.Appendf(nil, "ActiveState=%s\nUnitFileState=%s\n", state[u.active][0], state[u.enabled][1]), nil
	}
	m.calls = append(m.calls, strings.Replace(line, m.Root, "", 1))
	if err := m.fail[c.Argv[0]]; err != nil {
		return nil, &run.Error{Argv: c.Argv, Err: err}
	}
	switch {
	case c.Argv[0] == "systemctl" && u != nil:
		on := c.Argv[1] != "disable"
		u.enabled, u.active = on, on
		if last == namedUnit {
			m.silent = m.silent && c.Argv[1] != "restart"
			m.load()
		}
		m.sockets()
	case c.Argv[0] == "nsupdate":
		script, _ := io.ReadAll(c.Stdin)
		m.update(string(script))
	case c.Argv[0] == "named-checkconf", c.Argv[0] == "named-checkzone", strings.HasPrefix(line, "env KEA_LOCKFILE_DIR=none kea-"):
		if !m.exists(last) {
			m.t.Errorf("%q checks a file that is not there", line)
		}
	default:
		m.t.Errorf("unexpected command %q", line)
	}
	return nil, nil
}

// load is what named does at a start and a reload: it reads zones that it does
// not have.
func (m *serviceMachine) load() {
	conf := m.text(namedConf)
	for origin := range m.zones {
		if !strings.Contains(conf, "zone \""+strings.TrimSuffix(origin, ".")+"\"") {
			delete(m.zones, origin)
		}
	}
	for _, name := range m.glob("var/lib/bind/db.*") {
		origin := strings.TrimPrefix(filepath.Base(name), "db.") + "."
		if m.zones[origin] != nil || !strings.Contains(conf, "file \"/"+name+"\"") {
			continue
		}
		z := new(fakeZone)
		for line := range strings.Lines(m.text(name)) {
			switch f := strings.Fields(line); {
			case len(f) > 5 && f[2] == "SOA":
				z.primary = f[3]
				_, _ = fmt.Sscan(f[5], &z.serial)
			case len(f) == 4 && f[1] == "IN":
				z.records = append(z.records, record{f[0], f[2], f[3]})
			}
		}
		m.zones[origin] = z
	}
}

// update is what named does with a script of nsupdate's.
func (m *serviceMachine) update(script string) {
	var z *fakeZone
	for line := range strings.Lines(script) {
		f := strings.Fields(line)
		switch {
		case f[0] == "zone":
			z = m.zones[f[1]]
		case f[0] != "update":
		case f[1] == "add" && f[4] == "SOA":
			z.primary = f[5]
			_, _ = fmt.Sscan(f[7], &z.serial)
			z.serial--
		case f[1] == "add":
			z.records = append(z.records, record{f[2], f[4], f[5]})
		default:
			z.records = slices.DeleteFunc(z.records, func(r record) bool {
				return r.name == f[2] && (len(f) < 4 || r.kind == f[3]) && (len(f) < 5 || r.data == f[4])
			})
		}
	}
	z.serial++
}

// answer is named on the wire.
func (m *serviceMachine) answer(_ context.Context, server netip.AddrPort, q []byte) ([]byte, error) {
	if m.silent || !m.units[namedUnit].active {
		return nil, errors.New("connection refused")
	}
	if server.Addr() != loopback() && server.Addr() != m.Host.Addresses[lan] || server.Port() != 53 {
		m.t.Errorf("asked %v", server)
	}
	name, next, err := dnsName(q, 12)
	if err != nil {
		m.t.Fatal(err)
	}
	kind := binary.BigEndian.Uint16(q[next:])
	reply := slices.Clone(q)
	reply[2], reply[3] = 0x80, 5
	var best string
	for origin := range m.zones {
		if (name == origin || strings.HasSuffix(name, "."+origin)) && len(origin) > len(best) {
			best = origin
		}
	}
	z := m.zones[best]
	if z == nil {
		return reply, nil
	}
	reply[2], reply[3] = 0x84, 0
	if kind == typeSOA {
		data := append(wireName(z.primary), 0xc0, 12)
		data = append(binary.BigEndian.AppendUint32(data, z.serial), make([]byte, 16)...)
		return addAnswer(reply, kind, data), nil
	}
	for _, r := range z.records {
		switch {
		case r.name != name || recordType(r.kind) != kind:
		case r.kind == "A":
			reply = addAnswer(reply, kind, netip.MustParseAddr(r.data).AsSlice())
		default:
			reply = addAnswer(reply, kind, wireName(r.data))
		}
	}
	return reply, nil
}

// addAnswer adds a record with the question's name.
func addAnswer(msg []byte, kind uint16, data []byte) []byte {
	be := binary.BigEndian
	be.PutUint16(msg[6:], be.Uint16(msg[6:])+1)
	msg = be.AppendUint16(append(msg, 0xc0, 12), kind)
	msg = be.AppendUint16(append(msg, 0, 1, 0, 0, 0, 60), uint16(len(data)))
	return append(msg, data...)
}

func wireName(name string) []byte {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0)
}

// step runs a step as the plan would and returns the commands that it ran.
func (m *serviceMachine) step(name string) ([]string, error) {
	m.t.Helper()
	s := map[string]Step{
		"dns":  {Done: m.dnsDone, Do: m.dnsDo},
		"dhcp": {Done: m.dhcpDone, Do: m.dhcpDo},
	}[name]
	m.calls = nil
	done, err := s.Done(m.t.Context())
	if done || err != nil {
		return m.calls, err
	}
	if len(m.calls) > 0 {
		m.t.Errorf("the check of step %s ran %q", name, m.calls)
	}
	if err := s.Do(m.t.Context()); err != nil {
		return m.calls, err
	}
	if done, err = s.Done(m.t.Context()); err == nil && !done {
		err = errors.New("not done after Do")
	}
	return m.calls, err
}

// must is step without an error and with these commands.
func (m *serviceMachine) must(step string, want ...string) {
	m.t.Helper()
	got, err := m.step(step)
	if err != nil {
		m.t.Fatalf("step %s: %v", step, err)
	}
	if d := cmp.Diff(want, got); d != "" {
		m.t.Errorf("step %s, commands (-want +got):\n%s", step, d)
	}
}

const (
	forwardZone  = "lab.example."
	lanZone      = "50.168.192.in-addr.arpa."
	backboneZone = "200.101.10.in-addr.arpa."
	nsupdateLine = "nsupdate -v -t 20 -k /etc/bind/sci/update.key"
)

func checkZone(origin string) string {
	return "named-checkzone -q " + origin + " /var/lib/bind/db." + strings.TrimSuffix(origin, ".") + ".sci-new"
}

func TestDNS(t *testing.T) {
	m := newService(t)
	m.must("dns", checkZone(forwardZone), checkZone(backboneZone), checkZone(lanZone),
		"named-checkconf /etc/bind/sci/named.conf.sci-new", "systemctl enable --now "+namedUnit)
	m.must("dns") // again: nothing

	for _, k := range []tsigKey{updateKey(), leaseKey()} {
		if info, err := os.Stat(m.path(k.file)); err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: %v, %v; want mode 0640", k.file, info, err)
		}
	}
	a, _ := m.secret(updateKey())
	b, _ := m.secret(leaseKey())
	if len(a) != 44 || len(b) != 44 || a == b {
		t.Error("the keys' secrets are not 32 bytes each, or the same")
	}
	if left := append(m.glob("var/lib/bind/*.sci-new"), m.glob(bindDir+"/*.sci-new")...); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if strings.Contains(m.text(namedConf), a) || strings.Contains(strings.Join(m.calls, " "), a) {
		t.Error("a secret is where it does not belong")
	}

	// A lease and what an admin added stay when an address changes.
	m.update("zone lab.example.\nupdate add laptop.lab.example. 60 A 192.168.50.100\nupdate add node2.lab.example. 60 TXT x\n")
	before := m.zones[forwardZone].serial
	m.use(strings.Replace(labSite, `"lan": "192.168.50.12"`, `"lan": "192.168.50.13"`, 1))
	m.must("dns", "named-checkconf /etc/bind/sci/named.conf.sci-new", "systemctl reload "+namedUnit, nsupdateLine, nsupdateLine)
	m.must("dns")
	z := m.zones[forwardZone]
	for _, r := range []record{{"laptop.lab.example.", "A", "192.168.50.100"}, {"node2.lab.example.", "TXT", "x"}, {"node2.lab.example.", "A", "192.168.50.13"},
		{"node2-lan.lab.example.", "A", "192.168.50.13"}, {"node1.lab.example.", "A", "192.168.50.11"}} {
		if !slices.Contains(z.records, r) {
			t.Errorf("%v is missing", r)
		}
	}
	if slices.Contains(z.records, record{"node2.lab.example.", "A", "192.168.50.12"}) ||
		slices.Contains(m.zones[lanZone].records, record{"12.50.168.192.in-addr.arpa.", "PTR", "node2.lab.example."}) {
		t.Error("the old address stayed")
	}
	if z.serial != before+1 {
		t.Errorf("serial %d after %d; want one more", z.serial, before)
	}
}

func TestDNSWholeZones(t *testing.T) {
	s, err := site.FromJSON([]byte(labSite))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, z := range zones(s) {
		got.WriteString(zoneFile(s, z, 7))
	}
	const top = "; Begun by sci-agent (step dns) from /etc/sci/site.json; named keeps it since: change it with nsupdate.\n$TTL 3600\n"
	const head = " IN SOA sci.lab.example. hostmaster.lab.example. 7 3600 900 1209600 60\n"
	want := top + "lab.example." + head + `apt.lab.example. IN CNAME sci.lab.example.
cluster.lab.example. IN A 192.168.50.10
lab.example. IN NS sci.lab.example.
node1-backbone.lab.example. IN A 10.101.200.11
node1-lan.lab.example. IN A 192.168.50.11
node1.lab.example. IN A 192.168.50.11
node2-backbone.lab.example. IN A 10.101.200.12
node2-lan.lab.example. IN A 192.168.50.12
node2.lab.example. IN A 192.168.50.12
ntp.lab.example. IN CNAME sci.lab.example.
puppet.lab.example. IN CNAME sci.lab.example.
sci-lan.lab.example. IN A 192.168.50.2
sci.lab.example. IN A 192.168.50.2
` + top + backboneZone + head + `11.200.101.10.in-addr.arpa. IN PTR node1-backbone.lab.example.
12.200.101.10.in-addr.arpa. IN PTR node2-backbone.lab.example.
200.101.10.in-addr.arpa. IN NS sci.lab.example.
` + top + lanZone + head + `10.50.168.192.in-addr.arpa. IN PTR cluster.lab.example.
11.50.168.192.in-addr.arpa. IN PTR node1.lab.example.
12.50.168.192.in-addr.arpa. IN PTR node2.lab.example.
2.50.168.192.in-addr.arpa. IN PTR sci.lab.example.
50.168.192.in-addr.arpa. IN NS sci.lab.example.
`
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("zones (-want +got):\n%s", d)
	}
}

func TestNamedConf(t *testing.T) {
	m := newService(t)
	conf := m.namedConf(zones(m.Site))
	for _, want := range []string{
		"acl sci { 127.0.0.0/8; 10.101.200.0/24; 192.168.50.0/24; };\n",
		"\tlisten-on { 127.0.0.1; 192.168.50.2; };\n\tlisten-on-v6 { none; };\n\tallow-recursion { sci; };\n\tallow-query-cache { sci; };\n\tallow-transfer { key \"sci-update\"; };\n",
		"\tforwarders { 192.168.50.1; };\n\tforward only;\n\tdnssec-validation no;\n",
		"zone \"lab.example\" {\n\ttype primary;\n\tfile \"/var/lib/bind/db.lab.example\";\n\tupdate-policy {\n\t\tdeny sci-dhcp name \"apt.lab.example.\" ANY;\n",
		"\t\tdeny sci-dhcp name \"lab.example.\" ANY;\n", "\t\tdeny sci-dhcp name \"node1.lab.example.\" ANY;\n",
		"\t\tgrant sci-dhcp zonesub A DHCID;\n\t\tgrant sci-update zonesub ANY;\n",
		"\t\tdeny sci-dhcp name \"11.50.168.192.in-addr.arpa.\" ANY;\n", "\t\tgrant sci-dhcp zonesub PTR DHCID;\n",
		"include \"/etc/bind/named.conf.local\";\n",
	} {
		if !strings.Contains(conf, want) {
			t.Errorf("named.conf lacks %q:\n%s", want, conf)
		}
	}
	// A rule counts if it comes first.
	for part := range strings.SplitSeq(conf, "update-policy") {
		if g := strings.Index(part, "grant"); g >= 0 && strings.LastIndex(part, "deny") > g {
			t.Errorf("a deny behind a grant:\n%s", part)
		}
	}
	// The service machine as the site's own name server, and nobody else: the root.
	m.use(strings.Replace(labSite, `"dns": ["192.168.50.1"]`, `"dns": ["192.168.50.2"]`, 1))
	if conf := m.namedConf(zones(m.Site)); strings.Contains(conf, "forward") || !strings.Contains(conf, "dnssec-validation auto") {
		t.Errorf("named.conf without others to ask:\n%s", conf)
	}
}

func TestReverseZones(t *testing.T) {
	for _, c := range []struct{ subnet, want string }{
		{"192.168.50.0/24", "50.168.192.in-addr.arpa."},
		{"192.168.50.128/25", "50.168.192.in-addr.arpa."},
		{"192.168.50.4/30", "50.168.192.in-addr.arpa."},
		{"10.1.0.0/16", "1.10.in-addr.arpa."},
		{"10.0.0.0/8", "10.in-addr.arpa."},
		{"192.168.4.0/22", "4.168.192.in-addr.arpa. 5.168.192.in-addr.arpa. 6.168.192.in-addr.arpa. 7.168.192.in-addr.arpa."},
		{"172.16.0.0/15", "16.172.in-addr.arpa. 17.172.in-addr.arpa."},
	} {
		if got := strings.Join(reverseZones(netip.MustParsePrefix(c.subnet)), " "); got != c.want {
			t.Errorf("reverseZones(%s) = %q; want %q", c.subnet, got, c.want)
		}
	}
	if got := reverseZones(netip.MustParsePrefix("10.128.0.0/9")); len(got) != 128 || got[127] != "255.10.in-addr.arpa." {
		t.Errorf("reverseZones of a /9 = %d zones, the last %q", len(got), got[len(got)-1])
	}
}

// Two networks in one /24 share its zone.
func TestSharedReverseZone(t *testing.T) {
	text := strings.NewReplacer("10.101.200.0/24", "192.168.50.128/25", "192.168.50.0/24", "192.168.50.0/25", "10.101.200.1", "192.168.50.21").Replace(labSite)
	m := newService(t)
	m.use(text)
	list := zones(m.Site)
	if len(list) != 2 || !slices.Contains(list[1].records, record{"211.50.168.192.in-addr.arpa.", "PTR", "node1-backbone.lab.example."}) ||
		!slices.Contains(list[1].records, record{"11.50.168.192.in-addr.arpa.", "PTR", "node1.lab.example."}) {
		t.Errorf("zones = %v", list)
	}
	m.must("dns", checkZone(forwardZone), checkZone(lanZone), "named-checkconf /etc/bind/sci/named.conf.sci-new", "systemctl enable --now "+namedUnit)
}

// A host that comes into the site file takes its name from whoever leased it, one
// that leaves it leaves DNS, and a third network brings its zone.
func TestDNSHostsComeAndGo(t *testing.T) {
	m := newService(t)
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	m.update("zone lab.example.\nupdate add web.lab.example. 60 A 192.168.50.100\nupdate add web.lab.example. 60 DHCID x\n")
	text := strings.Replace(labSite, `"node2"`, `"web"`, 1)
	text = strings.Replace(text, `"backbone": {`, `"san": {"subnet": "10.9.0.0/16"}, "backbone": {`, 1)
	m.use(strings.Replace(text, `"backbone": "10.101.200.12"`, `"backbone": "10.101.200.12", "san": "10.9.1.2"`, 1))
	m.must("dns", checkZone("9.10.in-addr.arpa."), "named-checkconf /etc/bind/sci/named.conf.sci-new", "systemctl reload "+namedUnit,
		nsupdateLine, nsupdateLine, nsupdateLine)
	for _, r := range m.zones[forwardZone].records {
		if strings.HasPrefix(r.name, "node2") || r.kind == "DHCID" || r.name == "web.lab.example." && r.data != "192.168.50.12" {
			t.Errorf("%v stayed", r)
		}
	}
	if !slices.Contains(m.zones["9.10.in-addr.arpa."].records, record{"2.1.9.10.in-addr.arpa.", "PTR", "web-san.lab.example."}) {
		t.Error("the new network has no PTR")
	}
	m.must("dns")

	// Another name for the service machine: other name server, other SOA, and the
	// zone never without a name server.
	m.use(strings.Replace(labSite, `"name": "sci"`, `"name": "srv"`, 1))
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	z := m.zones[forwardZone]
	if z.primary != "srv.lab.example." || !slices.Contains(z.records, record{forwardZone, "NS", "srv.lab.example."}) ||
		slices.Contains(z.records, record{forwardZone, "NS", "sci.lab.example."}) || !slices.Contains(z.records, record{"sci.lab.example.", "CNAME", "srv.lab.example."}) {
		t.Errorf("zone = %+v", z)
	}
	m.must("dns")
}

// Power is cut between the update and the note of it, or before the update.
func TestDNSPowerCut(t *testing.T) {
	m := newService(t)
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	m.use(strings.Replace(labSite, `"node2"`, `"node3"`, 1))
	m.fail["nsupdate"] = errors.New("killed")
	if _, err := m.step("dns"); err == nil || hint.Of(err) != "see: journalctl -u named" {
		t.Fatalf("step dns = %v; want nsupdate's error and a hint", err)
	}
	delete(m.fail, "nsupdate")
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	for _, r := range m.zones[forwardZone].records {
		if strings.HasPrefix(r.name, "node2") {
			t.Errorf("%v stayed", r)
		}
	}
	m.must("dns")
}

// A zone that was put back from a copy has an old serial: it goes beyond the last
// one that was seen.
func TestDNSSerialGoesUp(t *testing.T) {
	m := newService(t)
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	last := m.zones[forwardZone].serial
	m.zones[forwardZone].serial = last - 100
	m.must("dns", nsupdateLine)
	if got := m.zones[forwardZone].serial; got != last+1 {
		t.Errorf("serial = %d; want %d", got, last+1)
	}
	m.must("dns")
	if later(10, 5) != 11 || later(0, 5) != 5 || later(5, 10) != 10 || later(1<<32-1, 1<<32-1) != 0 {
		t.Error("later() counts wrong")
	}
}

// What the admin deleted or changed of the site's comes back.
func TestDNSMended(t *testing.T) {
	m := newService(t)
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	m.update("zone lab.example.\nupdate delete node1.lab.example. A\nupdate delete apt.lab.example.\nupdate add apt.lab.example. 60 A 192.168.50.66\n")
	m.must("dns", nsupdateLine)
	if z := m.zones[forwardZone]; !slices.Contains(z.records, record{"apt.lab.example.", "CNAME", "sci.lab.example."}) ||
		slices.Contains(z.records, record{"apt.lab.example.", "A", "192.168.50.66"}) || !slices.Contains(z.records, record{"node1.lab.example.", "A", "192.168.50.11"}) {
		t.Errorf("zone = %+v", z)
	}
	// named runs and is silent, though nothing changed: a restart.
	m.silent = true
	m.must("dns", "systemctl restart "+namedUnit)
	// A key that others can read is closed, one that is damaged made anew.
	old, _ := m.secret(updateKey())
	if err := os.Chmod(m.path(updateKey().file), 0o644); err != nil {
		t.Fatal(err)
	}
	m.must("dns")
	if now, _ := m.secret(updateKey()); now != old {
		t.Error("a good key was made anew")
	}
	m.write(updateKey().file, "key \"sci-update\" { algorithm hmac-sha256; secret \"QUJD\"; };\n")
	m.must("dns", "systemctl reload "+namedUnit)
	if now, _ := m.secret(updateKey()); now == old || len(now) != 44 {
		t.Error("a short key stayed")
	}
}

// What named's own checkers refuse is not put in its place.
func TestDNSBrokenIsNotLoaded(t *testing.T) {
	m := newService(t)
	m.fail["named-checkzone"] = errors.New("exit status 1")
	if _, err := m.step("dns"); err == nil || !strings.Contains(err.Error(), "cannot use a new /var/lib/bind/db.lab.example, the old one stays: ") || len(m.glob("var/lib/bind/*")) > 0 {
		t.Errorf("step dns = %v, files %q", err, m.glob("var/lib/bind/*"))
	}
	delete(m.fail, "named-checkzone")
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	old := m.text(namedConf)
	m.fail["named-checkconf"] = errors.New("exit status 1")
	m.use(strings.Replace(labSite, `"lan": "192.168.50.2"`, `"lan": "192.168.50.3"`, 1))
	if _, err := m.step("dns"); err == nil || m.text(namedConf) != old || m.exists(namedConf+".sci-new") {
		t.Errorf("step dns = %v; want an error and the old named.conf", err)
	}
}

// A journal without its zone keeps named from loading the zone.
func TestDNSJournalAlone(t *testing.T) {
	m := newService(t)
	m.write("var/lib/bind/db.lab.example.jnl", "x")
	if _, err := m.step("dns"); err != nil || m.exists("var/lib/bind/db.lab.example.jnl") {
		t.Errorf("step dns = %v; want it done and no journal", err)
	}
}

func TestNameservers(t *testing.T) {
	m := newService(t)
	node1, _ := m.Site.Host("node1")
	for _, c := range []struct {
		summary string
		text    string
		host    string
		want    string
	}{
		{"a node asks the service machine first", labSite, "node1", "[192.168.50.2 192.168.50.1]"},
		{"which asks itself", labSite, "sci", "[127.0.0.1 192.168.50.1]"},
		{"named twice", strings.Replace(labSite, `["192.168.50.1"]`, `["192.168.50.2"]`, 1), "node1", "[192.168.50.2]"},
		{"its own address", strings.Replace(labSite, `["192.168.50.1"]`, `["192.168.50.2"]`, 1), "sci", "[127.0.0.1]"},
		{"three at most", strings.Replace(labSite, `["192.168.50.1"]`, `["192.168.50.1", "192.168.50.3", "192.168.50.4"]`, 1), "node1", "[192.168.50.2 192.168.50.1 192.168.50.3]"},
		{"without a service machine", strings.Replace(labSite, `"role": "service"`, `"role": "web"`, 1), "node1", "[192.168.50.1]"},
	} {
		s, err := site.FromJSON([]byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		m.Site = s
		m.Host, _ = s.Host(c.host)
		if got := fmt.Sprint(m.nameservers()); got != c.want {
			t.Errorf("%s: nameservers = %s; want %s", c.summary, got, c.want)
		}
	}
	m.Host = node1
	if f, ok := m.resolvConf(); !ok || strings.Contains(f.data, "options") {
		t.Errorf("resolv.conf of a site without a service machine:\n%s", f.data)
	}
}

func TestServiceMachineServesTime(t *testing.T) {
	m := newMachine(t, "sci")
	m.write("usr/sbin/chronyd", "")
	if ok, err := m.node.identityDone(t.Context()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := m.node.put(m.node.timeFiles(keepers()[0])); err != nil {
		t.Fatal(err)
	}
	m.wantFile(chronyService, rendered("time")+"allow 10.101.200.0/24\nallow 192.168.50.0/24\n")
	m = newMachine(t, "node1")
	if ok, err := m.node.identityDone(t.Context()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if files, _ := m.node.timeFiles(keepers()[0]); slices.ContainsFunc(files, func(f file) bool { return f.name == chronyService }) {
		t.Error("a node opens its clock as the service machine does")
	}
}

func TestParseReply(t *testing.T) {
	q, err := dnsQuestion(0x1234, "a.lab.example.", typeSOA)
	if err != nil {
		t.Fatal(err)
	}
	good := slices.Clone(q)
	good[2], good[3] = 0x84, 0
	data := append(wireName("Sci.lab.example"), 0xc0, 12)
	good = addAnswer(good, typeSOA, append(binary.BigEndian.AppendUint32(data, 42), make([]byte, 16)...))
	r, err := parseReply(good, q)
	if err != nil {
		t.Fatal(err)
	}
	want := []dnsAnswer{{"a.lab.example.", typeSOA, "sci.lab.example.", 42}}
	if !r.authoritative || r.code != 0 || !slices.Equal(r.answers, want) {
		t.Errorf("parseReply = %+v; want %+v", r, want)
	}
	change := func(f func(m []byte) []byte) []byte { return f(slices.Clone(good)) }
	for summary, msg := range map[string][]byte{
		"cut short":           good[:len(good)-1],
		"empty":               nil,
		"a query":             q,
		"another id":          change(func(m []byte) []byte { m[0]++; return m }),
		"another question":    change(func(m []byte) []byte { m[13] = 'b'; return m }),
		"no question":         change(func(m []byte) []byte { m[5] = 0; return m }),
		"more answers":        change(func(m []byte) []byte { m[7]++; return m }),
		"a pointer to itself": change(func(m []byte) []byte { m[len(q)+1] = byte(len(q)); return m }),
		"a pointer forwards":  change(func(m []byte) []byte { m[len(q)+1] = byte(len(q) + 2); return m }),
		"data too short":      change(func(m []byte) []byte { m[len(q)+11]--; return m }),
		"an A of 3 bytes":     addAnswer(change(func(m []byte) []byte { return m[:len(m):len(m)] }), typeA, []byte{1, 2, 3}),
	} {
		if r, err := parseReply(msg, q); err == nil {
			t.Errorf("%s: parseReply = %+v; want an error", summary, r)
		}
	}
	for _, name := range []string{"", ".", "a..b", strings.Repeat("x", 64) + ".example", strings.Repeat("x.", 128)} {
		if _, err := dnsQuestion(1, name, typeA); err == nil {
			t.Errorf("dnsQuestion(%q) has no error", name)
		}
	}
	if name, _, err := dnsName([]byte("\x04a.b \x01C\x00"), 0); err != nil || name != `a\046b\032.c.` {
		t.Errorf("dnsName = %q, %v", name, err)
	}
}

func FuzzParseReply(f *testing.F) {
	q, _ := dnsQuestion(0x1234, "a.lab.example.", typeA)
	good := slices.Clone(q)
	good[2] = 0x84
	f.Add(addAnswer(slices.Clone(good), typeA, []byte{192, 168, 50, 1})[len(q):], byte(1))
	f.Add(addAnswer(slices.Clone(good), typeCNAME, wireName("b.example"))[len(q):], byte(1))
	f.Add([]byte{0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 0, 0, 2, 0xc0, 12}, byte(1))
	f.Fuzz(func(t *testing.T, data []byte, count byte) {
		msg := append(slices.Clone(good), data...)
		msg[7] = count
		r, err := parseReply(msg, q)
		if err != nil {
			return
		}
		if len(r.answers) != int(count) {
			t.Errorf("%d answers; want %d", len(r.answers), count)
		}
		for _, a := range r.answers {
			if !strings.HasSuffix(a.name, ".") || len(a.name) > 4*len(msg) || strings.ContainsAny(a.name+a.data, " \n\x00") {
				t.Errorf("answer %+v", a)
			}
		}
	})
}

// askUDP is the one piece that goes over a socket.
func TestAskUDP(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	go func() {
		buf := make([]byte, 512)
		for {
			size, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte("re: "), buf[:size]...), from)
		}
	}()
	got, err := askUDP(t.Context(), netip.MustParseAddrPort(c.LocalAddr().String()), []byte("what?"))
	if err != nil || string(got) != "re: what?" {
		t.Errorf("askUDP = %q, %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	if _, err := askUDP(ctx, netip.MustParseAddrPort(silent.LocalAddr().String()), []byte("what?")); err == nil {
		t.Error("askUDP of nobody has no error")
	}
}
