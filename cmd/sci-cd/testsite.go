package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/inspect"
	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/site"
	"github.com/skycover/sci-cd/pkg/sitetest"
)

// testSite tests all machines of the site that --site describes; with faults, if
// they are asked for.
func (p program) testSite(ctx context.Context, ui *ui, f testFlags) error {
	o := f.all
	if err := fillSiteTest(&o, f.site); err != nil {
		return err
	}
	if err := f.fillService(o.Service); err != nil {
		return err
	}
	var err error
	if o.Accel, err = accelerator(ctx, ui, o.QEMURoot); err != nil {
		return err
	}
	if o.Guest, err = p.guest(); err != nil {
		return err
	}
	o.Progress = ui.step
	var report *installtest.Report
	if f.wrong {
		report, err = sitetest.Faults(ctx, o, f.faults)
	} else {
		report, err = sitetest.Run(ctx, o)
	}
	if err != nil {
		return err
	}
	return printTest(ui, report, o.ReportDir)
}

// fillSiteTest takes the hosts from the medium, which must be the site's.
func fillSiteTest(o *sitetest.Options, file string) error {
	s, err := site.Load(file)
	if err != nil {
		return err
	}
	about, err := readManifest(o.ISO)
	if err != nil {
		return err
	}
	if d := differences(s, about); len(d) > 0 {
		return hint.New(fmt.Errorf("%s is not the site of %s: %s", file, o.ISO, strings.Join(d, "; ")),
			fmt.Sprintf("build the ISO from it (sci-cd build %s), or name the site file that it was built from", file))
	}
	o.Site, o.Domain, o.Networks = about.Site, about.Domain, about.Networks
	o.PressEnter, o.Cluster = !about.Unattended, s.Cluster != nil
	for _, n := range s.Networks {
		o.Taken = append(o.Taken, n.Gateway.String())
		for _, a := range n.DNS {
			o.Taken = append(o.Taken, a.String())
		}
	}
	if s.Cluster != nil {
		o.ClusterName, o.ClusterAddress = s.Cluster.Name, s.Cluster.Address.String()
		o.Taken = append(o.Taken, o.ClusterAddress)
	}
	for _, h := range about.Hosts {
		if h.Virtual {
			o.Taken = append(o.Taken, h.Addresses["lan"])
			continue
		}
		role, _, _ := strings.Cut(h.Role, "+") // the manifest names the class
		o.Hosts = append(o.Hosts, sitetest.Host{Name: h.Name, Role: role, MACs: h.MACs, Serial: h.Serial, AssetTag: h.AssetTag,
			DiskSerial: h.Disk, MinDisk: h.MinDisk, Addresses: h.Addresses})
	}
	o.Service = service(s, about)
	return nil
}

// service is the site's service machine, as the manifest has it; nil: there is
// none.
func service(s *site.Site, about *media.Manifest) *sitetest.Service {
	h := s.Service()
	if h == nil {
		return nil
	}
	i := slices.IndexFunc(about.Hosts, func(l media.HostLine) bool { return l.Name == h.Name })
	if i < 0 {
		return nil
	}
	v := &sitetest.Service{
		Host:    sitetest.Host{Name: h.Name, Role: h.Role, Addresses: about.Hosts[i].Addresses},
		Aliases: s.ServiceAliases(),
		Outside: outside(s.Networks["lan"]),
	}
	if s.DHCP.Enabled {
		v.From, v.To = s.DHCP.From, s.DHCP.To
	}
	return v
}

// outside is the address that the test plays the outside world at: that of the
// first name server in lan, else of the gateway.
func outside(lan site.Network) netip.Addr {
	for _, a := range lan.DNS {
		if lan.Subnet.Contains(a) {
			return a
		}
	}
	return lan.Gateway
}

// fillService adds what the command line says of a look at the service machine.
func (f testFlags) fillService(s *sitetest.Service) error {
	if s == nil {
		if f.key != "" || f.outside != "" {
			return usageError{errors.New("--ssh-key and --outside are for a service machine: the site has none")}
		}
		return nil
	}
	s.Uninspected, s.Extra = !f.service, f.outside
	if f.key == "" || s.Uninspected {
		return nil
	}
	var err error
	if s.Key, err = os.ReadFile(f.key); err != nil {
		return fmt.Errorf("cannot read the key for root: %w", err)
	}
	return nil
}

func readManifest(image string) (*media.Manifest, error) {
	f, length, err := openImage(image)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	s, err := inspect.Image(f, length)
	if err != nil {
		return nil, err
	}
	return s.About, nil
}

// differences are what the site file and the medium say differently of the
// machines and their networks.
func differences(s *site.Site, m *media.Manifest) []string {
	var list []string
	differ := func(what, file, medium string) {
		if file != medium {
			list = append(list, fmt.Sprintf("%s is %q there, %q on the medium", what, file, medium))
		}
	}
	differ("the site's name", s.Name, m.Site)
	differ("its domain", s.Domain, m.Domain)
	networks := make(map[string]string, len(s.Networks))
	for name, n := range s.Networks {
		networks[name] = n.Subnet.String()
	}
	differ("the set of networks", pairs(networks), pairs(m.Networks))
	var here, there []string
	for _, h := range s.Hosts {
		here = append(here, h.Name)
	}
	for _, h := range m.Hosts {
		there = append(there, h.Name)
	}
	differ("the list of hosts", strings.Join(here, " "), strings.Join(there, " "))
	if !slices.Equal(here, there) {
		return list
	}
	for i, h := range s.Hosts {
		differ("host "+h.Name, describeHost(h), describeLine(m.Hosts[i]))
	}
	return list
}

// pairs are a map's entries as text.
func pairs(m map[string]string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k+" "+m[k])
	}
	return strings.Join(list, ", ")
}

// describeHost is what a test needs to know of a host, to compare.
func describeHost(h site.Host) string {
	line := media.HostLine{Role: h.Class(), Virtual: h.Virtual, Serial: h.Match.Serial, AssetTag: h.Match.AssetTag,
		Disk: h.Disk.Serial, MinDisk: int64(h.Disk.MinSize), Addresses: make(map[string]string, len(h.Addresses))}
	for _, mac := range h.Match.MAC {
		line.MACs = append(line.MACs, string(mac))
	}
	for name, a := range h.Addresses {
		line.Addresses[name] = a.String()
	}
	return describeLine(line)
}

func describeLine(h media.HostLine) string {
	kind := ""
	if h.Virtual {
		kind = ", virtual"
	}
	text := fmt.Sprintf("%s%s, %s", h.Role, kind, pairs(h.Addresses))
	for _, p := range []struct{ name, value string }{
		{"mac", strings.Join(h.MACs, " ")}, {"serial", h.Serial}, {"asset tag", h.AssetTag}, {"disk", h.Disk},
	} {
		if p.value != "" {
			text += ", " + p.name + " " + p.value
		}
	}
	if h.MinDisk > 0 {
		text += fmt.Sprintf(", disk of %d bytes", h.MinDisk)
	}
	return text
}

// checkModes refuses flags of one way to test with another one.
func checkModes(changed func(string) bool, site, faults bool) error {
	one := []string{"host", "medium", "boot-only", "like", "cut", "flip", "refused"}
	all := []string{"jobs", "keep-disks", "disks", "faults", "service", "ssh-key", "outside"}
	for _, name := range one {
		if site && changed(name) {
			return usageError{fmt.Errorf("--%s goes with one host only, not with --site", name)}
		}
	}
	for _, name := range all {
		if !site && changed(name) {
			return usageError{hint.New(fmt.Errorf("--%s goes with --site only", name), "add --site site.yaml")}
		}
	}
	for _, name := range []string{"only", "seed"} {
		if !faults && changed(name) {
			return usageError{hint.New(fmt.Errorf("--%s goes with --faults only", name), "add --faults")}
		}
	}
	if changed("disks") && changed("keep-disks") {
		return usageError{errors.New("--disks starts from installed disks: there are none to keep with --keep-disks")}
	}
	return nil
}
