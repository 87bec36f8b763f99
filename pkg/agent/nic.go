package agent

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

// nic is a network card: an Ethernet interface with a device behind it.
type nic struct {
	name, mac string
	link      bool
}

// nics lists the machine's network cards by name. Bridges, taps and VLANs have
// no device link in sysfs and are none.
func (n *Node) nics() []nic {
	var list []nic
	for _, dir := range n.glob("sys/class/net/*/device") {
		dir = path.Dir(dir)
		if t := n.oneLine(dir + "/type"); t != "" && t != "1" { // ARPHRD_ETHER
			continue
		}
		list = append(list, nic{
			name: path.Base(dir),
			mac:  strings.ToLower(n.oneLine(dir + "/address")),
			link: n.oneLine(dir+"/carrier") == "1",
		})
	}
	return list
}

// wire is a network of the site and the card it goes over.
type wire struct {
	network string // its name and its bridge's
	nic     nic    // empty if it shares the bridge of lan
}

// wires chooses the card of each network that this host is on, lan first. What
// was chosen before stays while the card is there, so that a pulled cable does
// not turn a node inside out. Otherwise lan takes the first card that the site
// file names for this host, else the first with a link; every other network
// takes the next one named, else the only card that is left, else the only one
// left with a link. A machine without a card to spare shares the one of lan.
// Nothing is chosen while a card that the site file names is missing: its
// driver may still be loading, and storage traffic must not end up on lan.
func (n *Node) wires() ([]wire, error) {
	free := n.nics()
	absent := absentMACs(n.Host.Match.MAC, free)
	take := func(mac string) (nic, bool) {
		for i, c := range free {
			if mac != "" && strings.EqualFold(c.mac, mac) {
				free = append(free[:i:i], free[i+1:]...)
				return c, true
			}
		}
		return nic{}, false
	}
	names := n.networkNames()
	list := make([]wire, len(names))
	for i, name := range names { // before anything is chosen anew
		c, _ := take(n.chosen(name))
		list[i] = wire{name, c}
	}
	for i, name := range names {
		if list[i].nic.mac != "" {
			continue
		}
		if len(absent) > 0 {
			return nil, &Waiting{For: fmt.Sprintf("the network card %s to choose one for %s", strings.Join(absent, " and "), name)}
		}
		mac, err := choose(name, free, n.Host.Match.MAC)
		if err != nil {
			return nil, err
		}
		list[i].nic, _ = take(mac)
	}
	return list, nil
}

// absentMACs are those of named that no card has.
func absentMACs(named []site.MAC, nics []nic) []string {
	var absent []string
	for _, m := range named {
		if !slices.ContainsFunc(nics, func(c nic) bool { return strings.EqualFold(c.mac, string(m)) }) {
			absent = append(absent, string(m))
		}
	}
	return absent
}

// choose returns the address of the card for a network, "" to share lan's.
func choose(network string, free []nic, named []site.MAC) (string, error) {
	for _, m := range named {
		for _, c := range free {
			if strings.EqualFold(c.mac, string(m)) {
				return c.mac, nil
			}
		}
	}
	var linked []nic
	for _, c := range free {
		if c.link {
			linked = append(linked, c)
		}
	}
	switch {
	case len(free) == 1:
		return free[0].mac, nil
	case network == "lan" && len(linked) > 0, len(linked) == 1:
		return linked[0].mac, nil
	case network != "lan" && len(free) == 0:
		return "", nil
	case network == "lan":
		return "", &Waiting{For: "a network card with a link for lan", Err: fmt.Errorf("seen: %s", joinNICs(free))}
	}
	return "", &Waiting{For: fmt.Sprintf("exactly one free network card with a link for %s", network),
		Err: fmt.Errorf("seen: %s; naming its MAC address in the site file's match.mac settles it", joinNICs(free))}
}

// networkNames are the networks that this host has an address in, lan first.
func (n *Node) networkNames() []string { return networksOf(n.Site, n.Host) }

// networksOf are the networks that a host has an address in, lan first.
func networksOf(s *site.Site, h *site.Host) []string {
	names := []string{lan}
	for _, name := range s.NetworkNames() {
		if name != lan && h.Addresses[name].IsValid() {
			names = append(names, name)
		}
	}
	return names
}

// chosen is the address of the card that the written files give to a network.
func (n *Node) chosen(network string) string {
	data, _, _ := n.read(portFile(network))
	for l := range strings.Lines(string(data)) {
		if mac, ok := strings.CutPrefix(strings.TrimSpace(l), "PermanentMACAddress="); ok {
			return mac
		}
	}
	return ""
}
