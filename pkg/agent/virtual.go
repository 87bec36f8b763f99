package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The networks of a virtual machine: no bridges, a card for each network.

// virtualWires are the cards of a virtual machine by network: first those that the
// site file names, in its order, then in the order of their names, which is the
// order in which Ganeti has them: lan, then the other networks by name.
func (n *Node) virtualWires() ([]wire, error) {
	free := n.nics()
	slices.SortFunc(free, func(a, b nic) int {
		return cmp.Or(cmp.Compare(n.named(a), n.named(b)), compareNames(a.name, b.name))
	})
	if absent := absentMACs(n.Host.Match.MAC, free); len(absent) > 0 {
		return nil, &Waiting{For: "the network card " + strings.Join(absent, " and ")}
	}
	names := n.networkNames()
	if len(free) < len(names) {
		return nil, &Waiting{For: fmt.Sprintf("a network card for %s", names[len(free)]), Err: fmt.Errorf("seen: %s", joinNICs(free))}
	}
	list := make([]wire, 0, len(names))
	for i, name := range names {
		list = append(list, wire{name, free[i]})
	}
	return list, nil
}

// named is the place of a card among those that the site file names.
func (n *Node) named(c nic) int {
	for i, m := range n.Host.Match.MAC {
		if strings.EqualFold(string(m), c.mac) {
			return i
		}
	}
	return len(n.Host.Match.MAC)
}

// compareNames compares names with numbers in them: ens3 comes before ens10.
func compareNames(a, b string) int {
	for a != "" && b != "" {
		x, y := number(a), number(b)
		switch {
		case x != "" && y != "":
			s, t := strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Or(cmp.Compare(len(s), len(t)), strings.Compare(s, t)); c != 0 {
				return c
			}
			a, b = a[len(x):], b[len(y):]
		case a[0] != b[0]:
			return cmp.Compare(a[0], b[0])
		default:
			a, b = a[1:], b[1:]
		}
	}
	return cmp.Compare(len(a), len(b))
}

// number is the number that a text begins with.
func number(s string) string { return s[:len(s)-len(strings.TrimLeft(s, "0123456789"))] }

// virtualNetwork is systemd-networkd's file for a card. A machine without an
// address in lan gets one by DHCP.
func (n *Node) virtualNetwork(w wire) string {
	var b strings.Builder
	b.WriteString(rendered("networks"))
	fmt.Fprintf(&b, "[Match]\nPermanentMACAddress=%s\nType=ether\n\n[Network]\nIPv6AcceptRA=no\n", w.nic.mac)
	net := n.Site.Networks[w.network]
	if !n.Host.Addresses[w.network].IsValid() {
		b.WriteString("DHCP=ipv4\n\n[DHCPv4]\nUseHostname=no\n")
		return b.String()
	}
	fmt.Fprintf(&b, "ConfigureWithoutCarrier=yes\nAddress=%s\n", n.address(w.network))
	if net.Gateway.IsValid() {
		fmt.Fprintf(&b, "Gateway=%s\n", net.Gateway)
	}
	for _, a := range net.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", a)
	}
	if w.network == lan {
		fmt.Fprintf(&b, "Domains=%s\n", n.Site.Domain)
	}
	return b.String()
}

// virtualLacks is what systemd-networkd has still to do for a card of a virtual
// machine, "" for nothing.
func (n *Node) virtualLacks(w wire) (what string, err error) {
	got, err := n.addresses(w.nic.name)
	if n.Host.Addresses[w.network].IsValid() {
		if want := n.address(w.network); err != nil || !slices.Contains(got, want) {
			return fmt.Sprintf("give %s the address %s", w.nic.name, want), err
		}
		return "", nil
	}
	leased := func(p netip.Prefix) bool { return p.Addr().Is4() && !p.Addr().IsLinkLocalUnicast() }
	if err != nil || !slices.ContainsFunc(got, leased) {
		return fmt.Sprintf("get an address for %s by DHCP", w.nic.name), err
	}
	return "", nil
}
