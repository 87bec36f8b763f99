package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

const (
	siteFile = "etc/sci/site.json"
	hostFile = "etc/sci/host"
)

// identityDone finds out which host this is: /etc/sci/host names it, and the
// hardware must be what the site file says of that host. A disk that was moved
// into another machine stops here, before it takes the other's addresses.
func (n *Node) identityDone(context.Context) (bool, error) {
	s, err := n.loadSite()
	if err != nil {
		return false, err
	}
	name := n.oneLine(hostFile)
	if name == "" {
		return false, Stop(fmt.Errorf("cannot tell which host this is: no name in /%s", hostFile),
			"write the host's name, as in the site file, into /"+hostFile)
	}
	h, ok := s.Host(strings.TrimSuffix(name, "."+s.Domain))
	if !ok {
		return false, Stop(fmt.Errorf("cannot tell which host this is: /%s says %q, which the site file does not have", hostFile, name),
			"hosts of site "+s.Name+": "+hostNames(s))
	}
	if problems := n.mismatches(h); len(problems) > 0 {
		return false, Stop(fmt.Errorf("this machine is not host %s: %s", h.Name, strings.Join(problems, "; ")),
			"if the hardware was replaced, mend the match of "+h.Name+" in /"+siteFile+"; if a disk was moved, install anew")
	}
	n.Site, n.Host = s, h
	return true, nil
}

// identityDo is never reached: there is nothing that could make a machine
// another one.
func (n *Node) identityDo(context.Context) error {
	return errors.New("cannot change the identity of a machine")
}

func (n *Node) loadSite() (*site.Site, error) {
	const advice = "the installer writes it; copy it from another node or install anew"
	data, there, err := n.read(siteFile)
	if err == nil && !there {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, Stop(fmt.Errorf("cannot read the site at /%s: %w", siteFile, err), advice)
	}
	s, err := site.FromJSON(data)
	if err != nil {
		return nil, Stop(fmt.Errorf("cannot read the site at /%s: %w", siteFile, err), advice)
	}
	return s, nil
}

// mismatches compares the machine with what is known of h, as the installer
// did: all that is given must hold, of several MAC addresses one is enough.
func (n *Node) mismatches(h *site.Host) []string {
	var list []string
	if len(h.Match.MAC) > 0 {
		nics, found := n.nics(), false
		for _, nic := range nics {
			found = found || hasMAC(h.Match.MAC, nic.mac)
		}
		if !found {
			list = append(list, fmt.Sprintf("it should have the MAC address %s, it has %s", joinMACs(h.Match.MAC), joinNICs(nics)))
		}
	}
	for _, p := range []struct{ what, want, file string }{
		{"serial number", h.Match.Serial, "product_serial"},
		{"asset tag", h.Match.AssetTag, "chassis_asset_tag"},
	} {
		if got := n.oneLine("sys/class/dmi/id/" + p.file); p.want != "" && !strings.EqualFold(got, strings.TrimSpace(p.want)) {
			list = append(list, fmt.Sprintf("its %s should be %q, it is %q", p.what, p.want, got))
		}
	}
	return list
}

func hasMAC(list []site.MAC, mac string) bool {
	for _, m := range list {
		if strings.EqualFold(string(m), mac) {
			return true
		}
	}
	return false
}

func joinMACs(list []site.MAC) string {
	var s []string
	for _, m := range list {
		s = append(s, string(m))
	}
	return strings.Join(s, " or ")
}

func joinNICs(nics []nic) string {
	if len(nics) == 0 {
		return "no network card"
	}
	var s []string
	for _, c := range nics {
		s = append(s, c.mac+" ("+c.name+")")
	}
	return strings.Join(s, ", ")
}

func hostNames(s *site.Site) string {
	var list []string
	for _, h := range s.Hosts {
		list = append(list, h.Name)
	}
	return strings.Join(list, ", ")
}
