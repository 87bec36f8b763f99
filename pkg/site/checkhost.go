package site

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

func (c *checker) networks() {
	s, gateway := c.s, ""
	names := s.NetworkNames()
	if len(names) > 0 && !slices.Contains(names, "lan") {
		c.bug("networks", "the bridge of guests and management is named lan", "networks: lan is missing")
	}
	for i, name := range names {
		n, path := s.Networks[name], "networks."+name
		c.matches(path, name, "network")
		c.subnet(path+".subnet", n.Subnet)
		for _, other := range names[:i] {
			if o := s.Networks[other].Subnet; o.IsValid() && n.Subnet.IsValid() && o.Overlaps(n.Subnet) {
				c.bug(path+".subnet", "", "%s.subnet: %s overlaps the network %s, %s", path, n.Subnet, other, o)
			}
		}
		if n.Gateway.IsValid() {
			c.inside(path+".gateway", name, n.Gateway)
			if gateway != "" {
				c.bug(path+".gateway", "a machine has one default route", "%s.gateway: the network %s has a gateway already%s", path, gateway, c.where("networks."+gateway+".gateway"))
			}
			gateway = name
		}
		if len(n.DNS) > 3 {
			c.bug(path+".dns", "resolv.conf(5) takes three name servers", "%s.dns: %d name servers are too many", path, len(n.DNS))
		}
		for j, server := range n.NTP {
			c.matches(fmt.Sprintf("%s.ntp[%d]", path, j), server, "timeserver")
		}
	}
}

func (c *checker) subnet(path string, n netip.Prefix) {
	switch {
	case !n.IsValid():
	case !n.Addr().Is4():
		c.bug(path, "write an IPv4 network, such as 192.168.50.0/24", "%s: %s is IPv6, which is not supported yet", path, n)
	case n.Masked() != n:
		c.bug(path, fmt.Sprintf("write %s", n.Masked()), "%s: %s is an address in a network, not a network", path, n)
	case n.Bits() > 30 || n.Bits() < 8:
		c.bug(path, "between /8 and /30", "%s: %s is no network of a site", path, n)
	}
}

func (c *checker) hosts() {
	names, macs := make(map[string]string), make(map[MAC]string)
	for i, h := range c.s.Hosts {
		path := fmt.Sprintf("hosts[%d]", i)
		if c.matches(path+".name", h.Name, "label") && h.Name != "" {
			if first, ok := names[h.Name]; ok {
				c.bug(path+".name", "", "%s.name: another host is named %q too%s", path, h.Name, c.where(first+".name"))
			} else {
				names[h.Name] = path
			}
			c.fqdn(path+".name", h.Name)
		}
		c.matches(path+".role", h.Role, "profile")
		c.unique(path+".profiles", h.Profiles, "profile")
		if h.Match.Empty() && !h.Virtual && !c.under(path+".match") {
			c.bug(path, "give match.mac, match.serial or match.assetTag, or virtual: true", "%s: nothing says how to know this machine", path)
		}
		for j, mac := range h.Match.MAC {
			p := fmt.Sprintf("%s.match.mac[%d]", path, j)
			if first, ok := macs[mac]; ok && mac != "" {
				c.bug(p, "a network card is in one machine", "%s: %s is given already%s", p, mac, c.where(first))
			} else if mac != "" {
				macs[mac] = p
			}
		}
		c.identity(i)
		c.disk(path+".disk", h.Disk)
		c.machine(path, h)
		c.wanted(path, h)
	}
	c.addresses()
}

// under reports whether something at or below path is wrong already.
func (c *checker) under(path string) bool {
	for p := range c.bad {
		if p == path || strings.HasPrefix(p, path+".") {
			return true
		}
	}
	return false
}

// placeholder reports what makers leave in DMI fields they do not fill.
func placeholder(v string) bool {
	low := strings.ToLower(strings.TrimSpace(v))
	return slices.Contains([]string{"default string", "to be filled by o.e.m.", "none", "not specified", "not applicable",
		"system serial number", "chassis serial number", "asset-1234567890", "no asset tag", "no asset information",
		"0123456789", "123456789", "1234567890", "unknown", "n/a", "invalid"}, low) || strings.Trim(low, "0.x-") == ""
}

// identity checks the DMI properties of host i, and that no host before it has
// the same ones with nothing to tell the two apart.
func (c *checker) identity(i int) {
	h, path := c.s.Hosts[i], fmt.Sprintf("hosts[%d].match", i)
	for _, p := range []struct{ key, value string }{{"serial", h.Match.Serial}, {"assetTag", h.Match.AssetTag}} {
		if p.value != "" && placeholder(p.value) {
			c.bug(path+"."+p.key, "match this machine by mac", "%s.%s: %q is what makers leave in a field that they do not fill: many machines have it", path, p.key, p.value)
		}
	}
	for j, o := range c.s.Hosts[:i] {
		sameSerial := h.Match.Serial != "" && h.Match.Serial == o.Match.Serial
		sameTag := h.Match.AssetTag != "" && h.Match.AssetTag == o.Match.AssetTag
		told := h.Match.Serial != o.Match.Serial && h.Match.Serial != "" && o.Match.Serial != "" ||
			h.Match.AssetTag != o.Match.AssetTag && h.Match.AssetTag != "" && o.Match.AssetTag != "" ||
			len(h.Match.MAC) > 0 && len(o.Match.MAC) > 0
		if (sameSerial || sameTag) && !told {
			key := "serial"
			if !sameSerial {
				key = "assetTag"
			}
			c.bug(path+"."+key, "give both hosts a mac as well, or correct one of them", "%s.%s: the same machine would be host %q too%s", path, key, o.Name, c.where(fmt.Sprintf("hosts[%d].match.%s", j, key)))
		}
	}
}

func (c *checker) disk(path string, d Disk) {
	for _, p := range []struct{ key, value string }{{"serial", d.Serial}, {"model", d.Model}} {
		if strings.HasPrefix(p.value, "/dev/") {
			c.bug(path+"."+p.key, diskHint, "%s.%s: %q is the name of a device", path, p.key, p.value)
		}
	}
}

// machine checks what a virtual machine is made with, and that no other host has
// such wishes.
func (c *checker) machine(path string, h Host) {
	if h.Role == InstanceRole && c.given {
		c.bug(path+".role", "gnt-instance add makes such machines, without the site file; a virtual host that is listed here has the role of a profile of its own",
			"%s.role: %s is the role of virtual machines that are not in the site file", path, InstanceRole)
	}
	at, m := path+".machine", h.Machine
	switch {
	case m == Machine{}:
		return
	case !h.Virtual:
		c.bug(at, "write virtual: true if the cluster is to make it", "%s: the host is no virtual machine, and has the memory and the disks that it has", at)
		return
	case c.s.Cluster == nil:
		c.bug(at, "describe the cluster: cluster: {name: …, address: …}", "%s: the site has no cluster that could make a virtual machine", at)
		return
	}
	low := Machine{Memory: 256 << 20, Disk: 3 << 30}
	if h.Role == ServiceRole {
		low = Machine{Memory: 1536 << 20, Disk: 6 << 30}
	}
	c.size(at+".memory", m.Memory, low.Memory, 1<<40)
	c.size(at+".disk", m.Disk, low.Disk, 16<<40)
	if m.CPUs < 0 || m.CPUs > 64 {
		c.bug(at+".cpus", "between 1 and 64", "%s.cpus: %d is too few or too many", at, m.CPUs)
	}
}

// size checks a size that Ganeti counts in MiB; 0 is the default.
func (c *checker) size(path string, v, low, high Size) {
	switch {
	case v == 0:
	case v < low || v > high:
		c.bug(path, fmt.Sprintf("between %s and %s", low, high), "%s: %s is too little or too much", path, v)
	case v%(1<<20) != 0:
		c.bug(path, "write "+(v/(1<<20)*(1<<20)).String(), "%s: %s is no whole number of MiB", path, v)
	}
}

// wanted checks which networks a host has addresses in. A virtual machine that
// an admin makes may get its address by DHCP.
func (c *checker) wanted(path string, h Host) {
	known := c.s.NetworkNames()
	leased := h.Role == InstanceRole && h.Virtual
	if _, ok := h.Addresses["lan"]; !ok && !leased && !c.bad[path+".addresses"] && slices.Contains(known, "lan") {
		at := path + ".addresses"
		if len(h.Addresses) == 0 {
			at = path
		}
		c.bug(at, "write addresses: {lan: ADDRESS}", "%s: no address in the network lan", path)
	}
	for _, name := range slices.Sorted(maps.Keys(h.Addresses)) {
		p := path + ".addresses." + name
		if slices.Contains(known, name) {
			continue
		}
		advice := "the site's networks: " + strings.Join(known, ", ")
		if near := Nearest(name, known); near != "" {
			advice = fmt.Sprintf("did you mean %q?", near)
		}
		if _, ok := c.s.pos[p+"#"]; ok {
			c.s.pos[p] = c.s.pos[p+"#"] // the key is to blame, not the address
		}
		c.bug(p, advice, "%s: the site has no network %q", p, name)
	}
}

// addresses checks that every address is in its network and one machine's.
func (c *checker) addresses() {
	type claimed struct{ who, path string }
	owner := make(map[netip.Addr]claimed)
	claim := func(path, who string, a netip.Addr) {
		if !a.IsValid() || c.bad[path] {
			return
		}
		if first, ok := owner[a]; ok {
			c.bug(path, "", "%s: %s is the address of %s already%s", path, a, first.who, c.where(first.path))
			return
		}
		owner[a] = claimed{who, path}
	}
	for _, name := range c.s.NetworkNames() {
		claim("networks."+name+".gateway", "the gateway of "+name, c.s.Networks[name].Gateway)
	}
	for i, h := range c.s.Hosts {
		for _, name := range slices.Sorted(maps.Keys(h.Addresses)) {
			path := fmt.Sprintf("hosts[%d].addresses.%s", i, name)
			c.inside(path, name, h.Addresses[name])
			claim(path, fmt.Sprintf("host %q", h.Name), h.Addresses[name])
		}
	}
	if c.s.Cluster != nil {
		claim("cluster.address", "the cluster", c.s.Cluster.Address)
	}
}
