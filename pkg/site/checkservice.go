package site

import (
	"fmt"
	"net/netip"
	"slices"
)

// service checks the names that the service machine's DNS has beside those of
// the hosts: its aliases, and NAME-NETWORK for each address of a host.
func (c *checker) service() {
	s := c.s
	service := s.Service()
	if service == nil {
		return
	}
	names := map[string]string{s.Cluster.Name: "cluster.name"}
	for i, h := range s.Hosts {
		if h.Name != service.Name || h.Name != "sci" {
			names[h.Name] = fmt.Sprintf("hosts[%d].name", i)
		}
	}
	for _, alias := range []string{"apt", "ntp", "puppet", "sci"} {
		if path, ok := names[alias]; ok {
			c.bug(path, "choose another name", "%s: %q is a name of the service machine, host %q", path, alias, service.Name)
		}
	}
	for _, h := range s.Hosts {
		for _, network := range s.NetworkNames() {
			if path, ok := names[h.Name+"-"+network]; ok && h.Addresses[network].IsValid() {
				c.bug(path, "choose another name", "%s: %q is what DNS calls the address of host %q in the network %s", path, h.Name+"-"+network, h.Name, network)
			}
		}
	}
}

// dhcp checks the range of leases.
func (c *checker) dhcp() {
	d := c.s.DHCP
	if d.Enabled && c.s.Service() == nil {
		c.bug("dhcp.enabled", "add a host with role: "+ServiceRole+" and virtual: true, and a cluster", "dhcp.enabled: the site has no service machine that could serve it")
	}
	for _, e := range []struct {
		path string
		a    netip.Addr
	}{{"dhcp.from", d.From}, {"dhcp.to", d.To}} {
		switch {
		case e.a.IsValid():
			c.inside(e.path, "lan", e.a)
		case (d.Enabled || d.From.IsValid() || d.To.IsValid()) && !c.under("dhcp"):
			c.bug("dhcp", "write dhcp: {enabled: true, from: ADDRESS, to: ADDRESS}, with a range in lan that no machine of the site uses", "%s is missing", e.path)
		}
	}
	if !d.From.IsValid() || !d.To.IsValid() || c.under("dhcp") {
		return
	}
	if d.To.Less(d.From) {
		c.bug("dhcp.to", "from is the first address, to the last one", "dhcp.to: %s comes before dhcp.from, %s", d.To, d.From)
		return
	}
	for _, t := range c.taken() {
		if !t.a.Less(d.From) && !d.To.Less(t.a) {
			c.bug("dhcp", "choose a range that no machine of the site uses", "dhcp: the range %s to %s holds %s, %s%s", d.From, d.To, t.a, t.who, c.where(t.path))
			return
		}
	}
}

// taken are the addresses of the site that DHCP must not lease.
func (c *checker) taken() (list []takenAddress) {
	add := func(a netip.Addr, who, path string) {
		if a.IsValid() {
			list = append(list, takenAddress{a, who, path})
		}
	}
	for _, name := range c.s.NetworkNames() {
		n, path := c.s.Networks[name], "networks."+name
		add(n.Gateway, "the gateway of "+name, path+".gateway")
		for i, a := range n.DNS {
			add(a, "a name server", fmt.Sprintf("%s.dns[%d]", path, i))
		}
		for i, server := range n.NTP {
			if a, err := netip.ParseAddr(server); err == nil {
				add(a, "a time server", fmt.Sprintf("%s.ntp[%d]", path, i))
			}
		}
	}
	if c.s.Cluster != nil {
		add(c.s.Cluster.Address, "the address of the cluster", "cluster.address")
	}
	for i, h := range c.s.Hosts {
		add(h.Addresses["lan"], fmt.Sprintf("the address of host %q", h.Name), fmt.Sprintf("hosts[%d].addresses.lan", i))
	}
	slices.SortStableFunc(list, func(a, b takenAddress) int { return a.a.Compare(b.a) })
	return list
}

type takenAddress struct {
	a         netip.Addr
	who, path string
}
