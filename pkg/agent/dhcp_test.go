package agent

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/skycover/sci-cd/pkg/hint"
)

// sockets is /proc/net/udp as the units that run make it.
func (m *serviceMachine) sockets() {
	text := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n"
	if m.units[keaDDNSUnit].active {
		text += "   42: 0100007F:CF09 00000000:0000 07 00000000:00000000 00:00000000 00000000   100        0 1 2 0 0\n"
	}
	if m.units[keaDHCPUnit].active && !m.denied {
		text += "   43: 0232A8C0:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000   100        0 1 2 0 0\n"
	}
	m.write("proc/net/udp", text)
}

const (
	checkDDNS = "env KEA_LOCKFILE_DIR=none kea-dhcp-ddns -t /etc/kea/sci/kea-dhcp-ddns.conf.sci-new"
	checkDHCP = "env KEA_LOCKFILE_DIR=none kea-dhcp4 -t /etc/kea/sci/kea-dhcp4.conf.sci-new"
	dhcpSite  = `"dhcp": {"enabled": true, "from": "192.168.50.100", "to": "192.168.50.199"}, "hosts"`
)

func TestDHCP(t *testing.T) {
	m := newService(t)
	if _, err := m.step("dhcp"); err == nil || !strings.Contains(err.Error(), "the step dns makes it") {
		t.Errorf("step dhcp without a key = %v", err)
	}
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	// Debian's packages enable both. The site file does not: written, and off.
	m.must("dhcp", checkDDNS, "systemctl disable --now "+keaDDNSUnit, checkDHCP, "systemctl disable --now "+keaDHCPUnit)
	m.must("dhcp")

	on := strings.Replace(labSite, `"hosts"`, dhcpSite, 1)
	m.use(on)
	m.must("dhcp", "systemctl enable --now "+keaDDNSUnit, checkDHCP, "systemctl enable --now "+keaDHCPUnit)
	m.must("dhcp")
	m.use(strings.Replace(on, "192.168.50.199", "192.168.50.150", 1))
	m.must("dhcp", checkDHCP, "systemctl restart "+keaDHCPUnit)

	// What Kea refuses is not put in its place.
	old := m.text(keaDHCP)
	m.fail["env"] = errors.New("exit status 1")
	m.use(on)
	if _, err := m.step("dhcp"); err == nil || m.text(keaDHCP) != old || m.exists(keaDHCP+".sci-new") {
		t.Errorf("step dhcp = %v; want an error and the old settings", err)
	}
	delete(m.fail, "env")
	m.must("dhcp", checkDHCP, "systemctl restart "+keaDHCPUnit)

	// A server that runs and does not listen has come to nothing.
	m.denied = true
	m.sockets()
	if _, err := m.step("dhcp"); err == nil || !strings.Contains(err.Error(), "waiting for kea-dhcp4 to listen on 192.168.50.2:67") || hint.Of(err) != "see: journalctl -u "+keaDHCPUnit {
		t.Errorf("step dhcp = %v, hint %q", err, hint.Of(err))
	}
	m.denied = false
	m.must("dhcp", "systemctl restart "+keaDHCPUnit)

	// A new key of named's reaches Kea.
	if err := os.Remove(m.path(leaseKey().file)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.step("dns"); err != nil {
		t.Fatal(err)
	}
	m.must("dhcp", checkDDNS, "systemctl restart "+keaDDNSUnit)
	m.use(labSite)
	m.must("dhcp", "systemctl disable --now "+keaDDNSUnit, checkDHCP, "systemctl disable --now "+keaDHCPUnit)
}

func TestDHCPFiles(t *testing.T) {
	m := newService(t)
	m.use(strings.Replace(labSite, `"hosts"`, dhcpSite, 1))
	for _, step := range []string{"dns", "dhcp"} {
		if _, err := m.step(step); err != nil {
			t.Fatal(err)
		}
	}
	secret, _ := m.secret(leaseKey())
	admins, _ := m.secret(updateKey())
	for _, c := range []struct {
		file     string
		has, not []string
	}{
		{keaDDNS, []string{secret, `"name": "lab.example."`, `"name": "50.168.192.in-addr.arpa."`, `"ip-address": "127.0.0.1"`}, []string{admins, "control-socket"}},
		{keaDHCP, []string{`"pool": "192.168.50.100 - 192.168.50.199"`, `"lan/192.168.50.2"`, `"ddns-qualifying-suffix": "lab.example."`},
			[]string{secret, "control-socket"}},
	} {
		text := m.text(c.file)
		_, body, _ := strings.Cut(text, "\n")
		if !json.Valid([]byte(body)) {
			t.Errorf("%s is no JSON:\n%s", c.file, body)
		}
		for _, want := range c.has {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %q", c.file, want)
			}
		}
		for _, not := range c.not {
			if strings.Contains(text, not) {
				t.Errorf("%s has what does not belong there", c.file)
			}
		}
		if info, err := os.Stat(m.path(c.file)); err != nil || info.Mode() != 0o640 {
			t.Errorf("%s: %v, %v; want mode 0640", c.file, info, err)
		}
	}
	var conf struct {
		Dhcp4 struct {
			Subnet4 []struct {
				Options []struct{ Name, Data string } `json:"option-data"`
			}
		}
	}
	_, body, _ := strings.Cut(m.text(keaDHCP), "\n")
	if err := json.Unmarshal([]byte(body), &conf); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, o := range conf.Dhcp4.Subnet4[0].Options {
		got[o.Name] = o.Data
	}
	for name, want := range map[string]string{"routers": "192.168.50.1", "domain-name-servers": "192.168.50.2", "ntp-servers": "192.168.50.2",
		"domain-name": "lab.example", "domain-search": "lab.example"} {
		if got[name] != want {
			t.Errorf("option %s = %q; want %q", name, got[name], want)
		}
	}
}
