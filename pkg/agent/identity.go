package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/site"
)

const (
	siteFile = "etc/sci/site.json"
	hostFile = "etc/sci/host"
)

// cardPatience is how long a network card may take to appear after the agent's
// first look: the service starts while udev still loads drivers, some of which
// load firmware first.
const cardPatience = 2 * time.Minute

// identityDone finds out which host this is: /etc/sci/host names it, and the
// hardware must be what the site file says of that host. A disk that was moved
// into another machine stops here, before it takes the other's addresses.
func (n *Node) identityDone(context.Context) (bool, error) {
	s, h, err := n.claimed()
	if err != nil {
		return false, err
	}
	if problems := n.wrongDMI(h); len(problems) > 0 {
		return false, notThis(h, problems)
	}
	if n.wrongCards(h) != "" {
		return false, nil
	}
	n.Site, n.Host = s, h
	return true, nil
}

// identityDo waits for the network card that is missing; nothing else can make
// a machine the right one.
func (n *Node) identityDo(ctx context.Context) error {
	_, h, err := n.claimed()
	if err != nil {
		return err
	}
	if n.firstLook.IsZero() {
		n.firstLook = time.Now()
	}
	if err := n.command(ctx, "udevadm", "settle", "--timeout=120"); err != nil {
		n.note("%v", err) // the look below decides
	}
	switch problem := n.wrongCards(h); {
	case problem == "":
		return nil
	case time.Since(n.firstLook) < cardPatience:
		return &Waiting{For: "the network card of host " + h.Name, Err: errors.New(problem)}
	default:
		return notThis(h, []string{problem})
	}
}

// claimed is the host that this machine is said to be.
func (n *Node) claimed() (*site.Site, *site.Host, error) {
	s, err := n.loadSite()
	if err != nil {
		return nil, nil, err
	}
	name := n.oneLine(hostFile)
	if name == "" {
		return nil, nil, Stop(fmt.Errorf("cannot tell which host this is: no name in /%s", hostFile),
			"write the host's name, as in the site file, into /"+hostFile)
	}
	h, ok := s.Host(strings.TrimSuffix(name, "."+s.Domain))
	if !ok {
		return nil, nil, Stop(fmt.Errorf("cannot tell which host this is: /%s says %q, which the site file does not have", hostFile, name),
			"hosts of site "+s.Name+": "+hostNames(s))
	}
	return s, h, nil
}

func notThis(h *site.Host, problems []string) error {
	return Stop(fmt.Errorf("this machine is not host %s: %s", h.Name, strings.Join(problems, "; ")),
		"if the hardware was replaced, mend the match of "+h.Name+" in /"+siteFile+"; if a disk was moved, install anew")
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

// wrongCards says that none of the host's cards is in the machine, "" if one is
// (as in the installer, one of several addresses is enough).
func (n *Node) wrongCards(h *site.Host) string {
	if len(h.Match.MAC) == 0 {
		return ""
	}
	nics := n.nics()
	for _, c := range nics {
		if hasMAC(h.Match.MAC, c.mac) {
			return ""
		}
	}
	return fmt.Sprintf("it should have the MAC address %s, it has %s", joinMACs(h.Match.MAC), joinNICs(nics))
}

// wrongDMI compares what the firmware says of the machine, which is there from
// the start.
func (n *Node) wrongDMI(h *site.Host) []string {
	var list []string
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
