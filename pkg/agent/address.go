package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/skycover/sci-cd/pkg/ganeti"
)

// addressDone asks each network whether another machine has one of this
// machine's addresses, or the cluster's where this machine is to form it, at
// each boot. What is not up yet cannot answer; Ganeti and the switch will tell.
func (n *Node) addressDone(ctx context.Context) (bool, error) {
	for _, network := range n.networkNames() {
		a := n.Host.Addresses[network]
		bridge := network
		if !n.exists("sys/class/net/" + bridge) {
			bridge = lan // a machine with one card has all its addresses there
		}
		if err := n.free(ctx, bridge, a, "this machine's address in "+network); err != nil {
			return false, err
		}
	}
	name, err := n.ganeti().Name()
	if err != nil || name != "" || !n.first() {
		return err == nil, err
	}
	// A cluster that answers there is for the step cluster to find.
	if a := n.Site.Cluster.Address; !n.answers(ctx, a, ganeti.NodedPort) {
		if err := n.free(ctx, lan, a, "the cluster's address"); err != nil {
			return false, err
		}
	}
	return true, nil
}

// addressDo has nothing to do: the check says all.
func (n *Node) addressDo(context.Context) error { return nil }

// free stops the plan if another machine answers for an address.
func (n *Node) free(ctx context.Context, bridge string, a netip.Addr, what string) error {
	probe := n.Probe
	if probe == nil {
		probe = probeARP
	}
	who, err := probe(ctx, bridge, a)
	if err != nil {
		n.note("step address: cannot ask %s for %s: %v", bridge, a, err)
		return nil // a network that is not there is the step networks' matter
	}
	if who == "" {
		return nil
	}
	return Stop(fmt.Errorf("%s, %s, is in use by the machine with the network card %s", what, a, who),
		"give one of the two another address, in the site file or there")
}

// probeARP asks for the owner of an address with ARP probes (RFC 5227, 2.1.1)
// and returns the hardware address of who answers, "" for nobody. This machine's
// own cards do not count.
func probeARP(ctx context.Context, bridge string, a netip.Addr) (string, error) {
	ifc, err := net.InterfaceByName(bridge)
	if err != nil {
		return "", err
	}
	if len(ifc.HardwareAddr) != 6 || !a.Is4() {
		return "", errors.New("no Ethernet, or no IPv4")
	}
	own, err := ownCards()
	if err != nil {
		return "", err
	}
	s, err := openARP(ifc.Index)
	if err != nil {
		return "", err
	}
	defer func() { _ = s.Close() }()
	for range 3 {
		if err := s.send(arpProbe(ifc.HardwareAddr, a)); err != nil {
			return "", err
		}
		for until := time.Now().Add(time.Second); time.Now().Before(until) && ctx.Err() == nil; {
			frame, err := s.receive(time.Until(until))
			if err != nil {
				return "", err
			}
			if who, from := arpSender(frame); from == a && !own[who] {
				return who, nil
			}
		}
	}
	return "", ctx.Err()
}

// ownCards are the hardware addresses of all interfaces of this machine.
func ownCards() (map[string]bool, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	own := make(map[string]bool)
	for _, i := range all {
		own[i.HardwareAddr.String()] = true
	}
	return own, nil
}

// arpProbe is an Ethernet frame: who has a? The sender's address is empty, so
// that nobody learns a wrong one from it.
func arpProbe(mac net.HardwareAddr, a netip.Addr) []byte {
	f := make([]byte, 42)
	copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(f[6:], mac)
	copy(f[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}) // ARP, Ethernet, IPv4, request
	copy(f[22:], mac)
	target := a.As4()
	copy(f[38:], target[:])
	return f
}

// arpSender is who sent an ARP frame: hardware address and address; "" if it is
// none.
func arpSender(f []byte) (string, netip.Addr) {
	if len(f) < 42 || string(f[12:20]) != "\x08\x06\x00\x01\x08\x00\x06\x04" {
		return "", netip.Addr{}
	}
	return net.HardwareAddr(f[22:28]).String(), netip.AddrFrom4([4]byte(f[28:32]))
}
