package installer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// Files of the node that makes a virtual machine.
const (
	nodeSiteFile = "etc/sci/site.json"
	nodeKeyFile  = siteKeyFile
	nodeMedium   = mediaDir
)

// nodeSite is the site as this node knows it, without what only nodes may know.
func nodeSite(o OSOptions) (*site.Site, error) {
	data, err := readBounded(o.path(nodeSiteFile), 4<<20)
	if err != nil {
		return nil, hint.New(fmt.Errorf("cannot read the site: %w", err), "this works on the nodes of a cluster that SCI-CD installed")
	}
	s, err := site.FromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read the site at /%s: %w", nodeSiteFile, err)
	}
	s.Root.PasswordHash = ""
	return s, nil
}

func checkClass(s *site.Site, class string) error {
	known := s.VirtualClasses()
	if slices.Contains(known, class) && instanceClass.MatchString(class) {
		return nil
	}
	return hint.New(fmt.Errorf("the medium has no virtual machines of class %q", class),
		"variants of the OS definition: "+strings.Join(known, ", "))
}

// instanceHost is the site as a virtual machine is to know it, and the machine in
// it. One that the site file does not have is added to it.
func instanceHost(s *site.Site, in *instance) (*site.Site, *site.Host, error) {
	if err := checkClass(s, in.class); err != nil {
		return nil, nil, err
	}
	name, ok := strings.CutSuffix(in.name, "."+s.Domain)
	if !ok || name == "" || strings.Contains(name, ".") {
		return nil, nil, hint.New(fmt.Errorf("the instance's name %s is not NAME.%s", in.name, s.Domain),
			"a machine of this site has a name in its domain; the OS definition debootstrap+sci makes others")
	}
	if h, ok := s.Host(name); ok {
		if !h.Virtual || h.Class() != in.class {
			return nil, nil, hint.New(fmt.Errorf("the site file has a host %s, of class %s and virtual: %t", name, h.Class(), h.Virtual),
				"give the instance another name, or the variant that the site file says")
		}
		return s, h, nil
	}
	if in.class == site.ServiceRole || strings.HasPrefix(in.class, site.ServiceRole+"+") {
		return nil, nil, hint.New(fmt.Errorf("%s is not the site's service machine", in.name), "a site has one service machine, the one in the site file")
	}
	role, own, _ := strings.Cut(in.class, "+")
	h := site.Host{Name: name, Role: role, Virtual: true, Addresses: make(map[string]netip.Addr)}
	if own != "" {
		h.Profiles = strings.Split(own, "+")
	}
	for i, n := range in.nics {
		network := n.link
		if i == 0 {
			network = "lan"
		}
		if _, known := s.Networks[network]; known && n.ip.IsValid() && !h.Addresses[network].IsValid() {
			h.Addresses[network] = n.ip
		}
	}
	with := *s
	with.Hosts = append(slices.Clone(s.Hosts), h)
	data, err := with.JSON()
	if err != nil {
		return nil, nil, err
	}
	checked, err := site.FromJSON(data)
	if err != nil {
		return nil, nil, hint.New(fmt.Errorf("the site has no place for instance %s: %w", in.name, err),
			"its address has to be a free one of the network lan: gnt-instance modify --net 0:modify,ip=ADDRESS "+in.name)
	}
	added, _ := checked.Host(name)
	return checked, added, nil
}

// challenge hands over what the machine enrols with at the site's Puppet server,
// and to the service machine the key that it knows all machines by.
func (c *chroot) challenge(o OSOptions, s *site.Site, h *site.Host) error {
	data, err := readBounded(o.path(enrol.ChallengeKeyFile), 4<<10)
	if err != nil {
		say(o.Console, "this node has no key for Puppet (%v): the machine is made without, and is not enrolled by itself", errors.Unwrap(err))
		return nil
	}
	key, err := enrol.ParseChallengeKey(data)
	if err != nil {
		return fmt.Errorf("cannot read /%s: %w", enrol.ChallengeKeyFile, err)
	}
	if err := c.write("/"+enrol.ChallengeFile, key.Challenge(s.FQDN(h.Name))+"\n", 0o600); err != nil {
		return err
	}
	if h.Role != site.ServiceRole {
		return nil
	}
	name := "/" + enrol.ChallengeKeyFile
	if err := c.write(name, key.String()+"\n", 0o600); err != nil {
		return err
	}
	return c.lendTo("puppet", name)
}
