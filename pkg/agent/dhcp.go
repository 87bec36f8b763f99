package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
)

const (
	keaDir      = "etc/kea/sci"
	keaDHCP     = keaDir + "/kea-dhcp4.conf"
	keaDDNS     = keaDir + "/kea-dhcp-ddns.conf"
	keaDHCPUnit = "kea-dhcp4-server.service"
	keaDDNSUnit = "kea-dhcp-ddns-server.service"
	keaDDNSPort = 53001
)

// keaServer is one of Kea's two servers.
type keaServer struct {
	unit, program string
	file          file
	listens       netip.AddrPort // UDP
}

// keaServers are both, in the order in which they are started: DHCP hands names
// to the other one.
func (n *Node) keaServers() ([]keaServer, error) {
	secret, err := n.secret(leaseKey())
	if err != nil {
		return nil, err
	}
	if secret == "" {
		return nil, fmt.Errorf("no key for DNS updates in /%s; the step dns makes it", leaseKey().file)
	}
	return []keaServer{
		{keaDDNSUnit, "kea-dhcp-ddns", file{keaDDNS, keaText(n.ddnsConf(secret)), 0o640}, netip.AddrPortFrom(loopback(), keaDDNSPort)},
		{keaDHCPUnit, "kea-dhcp4", file{keaDHCP, keaText(n.dhcpConf()), 0o640}, netip.AddrPortFrom(n.Host.Addresses[lan], 67)},
	}, nil
}

// dhcpDone reports whether Kea is set up, and runs and listens where the site
// file enables it, and is off where not.
func (n *Node) dhcpDone(ctx context.Context) (bool, error) {
	servers, err := n.keaServers()
	if err != nil {
		return false, err
	}
	for _, k := range servers {
		if ok, err := n.same(k.file); !ok || err != nil {
			return false, err
		}
		if ok, err := n.lent(k.file.name, "_kea", 0o640); !ok || err != nil {
			return false, err
		}
		u, err := n.unit(ctx, k.unit)
		on := n.Site.DHCP.Enabled
		if err != nil || u.enabled != on || u.active != on || on && !n.listensUDP(k.listens) {
			return false, err
		}
	}
	return true, nil
}

func (n *Node) dhcpDo(ctx context.Context) error {
	servers, err := n.keaServers()
	if err != nil {
		return err
	}
	for _, k := range servers {
		changed, err := n.putKea(ctx, k)
		if err != nil {
			return err
		}
		if err := n.runKea(ctx, k, changed); err != nil {
			return hint.New(err, "see: journalctl -u "+k.unit)
		}
	}
	return nil
}

// putKea writes the settings of a server once it has found no fault in them. The
// lock file that it wants otherwise is in a directory of the unit.
func (n *Node) putKea(ctx context.Context, k keaServer) (changed bool, err error) {
	changed, err = n.putChecked(ctx, k.file, "env", "KEA_LOCKFILE_DIR=none", k.program, "-t")
	if err != nil {
		return false, err
	}
	return changed, n.lend(k.file.name, "_kea", 0o640)
}

// runKea starts, restarts or stops a server, and waits until it listens.
func (n *Node) runKea(ctx context.Context, k keaServer, changed bool) error {
	u, err := n.unit(ctx, k.unit)
	if err != nil {
		return err
	}
	switch {
	case !n.Site.DHCP.Enabled && (u.enabled || u.active):
		return n.command(ctx, "systemctl", "disable", "--now", k.unit)
	case !n.Site.DHCP.Enabled:
		return nil
	case !u.enabled || !u.active:
		err = n.command(ctx, "systemctl", "enable", "--now", k.unit)
	case changed || !n.listensUDP(k.listens):
		err = n.command(ctx, "systemctl", "restart", k.unit)
	}
	if err != nil {
		return err
	}
	return n.until(ctx, fmt.Sprintf("%s to listen on %s", k.program, k.listens), "see: journalctl -u "+k.unit,
		func(context.Context) bool { return n.listensUDP(k.listens) })
}

// listensUDP looks for a socket in /proc/net/udp, as proc_pid_net(5) has it.
func (n *Node) listensUDP(at netip.AddrPort) bool {
	ip := at.Addr().As4()
	want := fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(ip[:]), at.Port())
	data, _, _ := n.read("proc/net/udp")
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) > 1 && f[1] == want {
			return true
		}
	}
	return false
}

// object is a JSON object; encoding/json sorts its keys.
type object map[string]any

// keaText is a file of Kea's: JSON with comments.
func keaText(conf object) string {
	data, _ := json.MarshalIndent(conf, "", "  ") // of texts and numbers: cannot fail
	return rendered("dhcp") + string(data) + "\n"
}

// keaLog is the journal.
func keaLog(name string) []object {
	return []object{{"name": name, "severity": "INFO",
		"output-options": []object{{"output": "stdout", "pattern": "%-5p %m\n"}}}}
}

// dhcpConf is the DHCP server's settings. There is no control socket, so that
// nobody reaches one. The mode of conflict resolution is Kea's own default, named
// in two ways by its versions: a name belongs to the client whose DHCID it has,
// and a name without one to nobody's lease (RFC 4703). named's update-policy
// guards the site's names once more.
func (n *Node) dhcpConf() object {
	domain, self := n.Site.Domain, n.Host.Addresses[lan].String()
	options := []object{
		{"name": "domain-name-servers", "data": self},
		{"name": "domain-name", "data": domain},
		{"name": "domain-search", "data": domain},
		{"name": "ntp-servers", "data": self},
	}
	if g := n.Site.Networks[lan].Gateway; g.IsValid() {
		options = append(options, object{"name": "routers", "data": g.String()})
	}
	subnet := object{"id": 1, "subnet": n.Site.Networks[lan].Subnet.String(), "interface": lan, "option-data": options}
	if d := n.Site.DHCP; d.From.IsValid() {
		subnet["pools"] = []object{{"pool": d.From.String() + " - " + d.To.String()}}
	}
	return object{"Dhcp4": object{
		// The bridge may come up after the server; it tries for 10 minutes.
		"interfaces-config": object{
			"interfaces": []string{lan + "/" + self}, "service-sockets-require-all": true,
			"service-sockets-max-retries": 300, "service-sockets-retry-wait-time": 2000,
		},
		"lease-database": object{"type": "memfile", "lfc-interval": 3600},
		"authoritative":  true, // one DHCP server in lan: a client with another network's address learns so
		"valid-lifetime": 3600, "renew-timer": 900, "rebind-timer": 1800,
		"subnet4": []object{subnet},
		"dhcp-ddns": object{
			"enable-updates": true, "server-ip": loopback().String(), "server-port": keaDDNSPort,
			"sender-ip": loopback().String(), // else it hears the whole network
		},
		// Names go into DNS whatever a client thinks of doing itself.
		"ddns-send-updates": true, "ddns-override-no-update": true, "ddns-override-client-update": true,
		"ddns-qualifying-suffix": domain + ".", "ddns-replace-client-name": "when-not-present",
		"ddns-generated-prefix": "dhcp",
		"hostname-char-set":     "[^A-Za-z0-9-]", "hostname-char-replacement": "-",
		"loggers": keaLog("kea-dhcp4"),
	}}
}

// ddnsConf is the settings of the server that brings names of leases into DNS.
func (n *Node) ddnsConf(secret string) object {
	var forward, reverse []object
	for i, z := range zones(n.Site) {
		domain := object{"name": z.origin, "key-name": leaseKey().name,
			"dns-servers": []object{{"ip-address": loopback().String(), "port": 53}}}
		if i == 0 {
			forward = append(forward, domain)
		} else {
			reverse = append(reverse, domain)
		}
	}
	return object{"DhcpDdns": object{
		"ip-address": loopback().String(), "port": keaDDNSPort, "dns-server-timeout": 2000,
		"tsig-keys":    []object{{"name": leaseKey().name, "algorithm": "HMAC-SHA256", "secret": secret}},
		"forward-ddns": object{"ddns-domains": forward},
		"reverse-ddns": object{"ddns-domains": reverse},
		"loggers":      keaLog("kea-dhcp-ddns"),
	}}
}
