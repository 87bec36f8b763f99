package site

import (
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// APIVersion is the only version of the site file that this code reads.
const APIVersion = "sci-cd/v1"

// Site is a validated site file. Every field's doc tag is its entry in
// docs/site.md and in docs/site.schema.json.
type Site struct {
	APIVersion string             `yaml:"apiVersion" json:"apiVersion" need:"yes" hint:"write apiVersion: sci-cd/v1" doc:"Version of this file's format: sci-cd/v1."`
	Name       string             `yaml:"name" json:"name" need:"yes" pattern:"name" doc:"Name of the site: lower-case letters, digits and hyphens, at most 32 characters. It names the ISO's volume and the key of the site."`
	Domain     string             `yaml:"domain" json:"domain" need:"yes" pattern:"domain" doc:"DNS domain of all hosts. A host's full name is NAME.DOMAIN."`
	Release    string             `yaml:"release" json:"release,omitempty" default:"trixie" pattern:"codename" doc:"Codename of the Debian release, never a moving name such as stable."`
	Mirrors    Mirrors            `yaml:"mirrors" json:"mirrors,omitzero" doc:"Where Debian is fetched from. Empty: what the building machine's own apt sources name."`
	Locale     string             `yaml:"locale" json:"locale,omitempty" default:"en_US.UTF-8" doc:"Locale of the installed system, a UTF-8 one that Debian's package locales supports."`
	Keyboard   string             `yaml:"keyboard" json:"keyboard,omitempty" default:"us" doc:"Keyboard layout, as keyboard-configuration names it (us, gb, de, fr(latin9), ru, …)."`
	Timezone   string             `yaml:"timezone" json:"timezone,omitempty" default:"Etc/UTC" doc:"Time zone, as Debian's package tzdata names it."`
	Unattended bool               `yaml:"unattended" json:"unattended,omitempty" default:"false" doc:"true: the boot menu counts down 10 seconds and installs. false: it waits for a key."`
	Install    string             `yaml:"install" json:"install,omitempty" default:"packages" pattern:"install" doc:"packages: the installer installs each package on each machine. image: it unpacks a golden image of the machine's role, which sci-cd capture has made beforehand; the result is the same machine, in a fraction of the time."`
	Console    []string           `yaml:"console" json:"console,omitempty" default:"tty0" doc:"Kernel consoles, in the syntax of the kernel's console= parameter. The last one becomes /dev/console."`
	Root       Root               `yaml:"root" json:"root,omitzero" doc:"Who may log in as root. Empty: the account is locked."`
	Admins     []Admin            `yaml:"admins" json:"admins,omitempty" doc:"People who administer all machines of the site, by accounts of their own. The service machine's Puppet makes them; whoever is taken out of the list loses keys and sudo at Puppet's next run."`
	Mail       *Mail              `yaml:"mail" json:"mail,omitempty" doc:"Where mail to root of any machine goes. Empty: it stays on the machine that it was written on."`
	Networks   map[string]Network `yaml:"networks" json:"networks,omitempty" need:"yes" hint:"write networks: {lan: {subnet: 192.168.50.0/24}}, with your own addresses" doc:"The site's networks by name. A network's name is also the name of its bridge on the nodes. lan is required, backbone carries storage and cluster traffic."`
	Cluster    *Cluster           `yaml:"cluster" json:"cluster,omitempty" doc:"The Ganeti cluster that the nodes form."`
	DHCP       DHCP               `yaml:"dhcp" json:"dhcp,omitzero" doc:"DHCP with DNS updates, served by the cluster's service machine in the network lan."`
	Hosts      []Host             `yaml:"hosts" json:"hosts,omitempty" need:"yes" hint:"list at least one machine with name, role, match and addresses" doc:"The machines of the site."`
	Packages   []string           `yaml:"packages" json:"packages,omitempty" doc:"Extra Debian packages for every host."`
	Profiles   []string           `yaml:"profiles" json:"profiles,omitempty" doc:"Extra profiles for every host."`
	ProfileDir string             `yaml:"profileDir" json:"profileDir,omitempty" doc:"Directory with the site's own profiles, beside the site file."`
	LocalDebs  string             `yaml:"localDebs" json:"localDebs,omitempty" doc:"Directory with .deb files of your own, beside the site file. They go onto the medium."`

	// Dir is the directory of the site file, "" if it came from no file.
	Dir string `yaml:"-" json:"-"`

	file string
	pos  positions
}

// How a site's machines are installed.
const (
	FromPackages = "packages"
	FromImage    = "image"
)

// Mirrors are base URLs; an empty one is left to the builder.
type Mirrors struct {
	Main     string `yaml:"main" json:"main,omitempty" pattern:"url" doc:"Base URL of the Debian archive, as http://ftp.debian.org/debian."`
	Security string `yaml:"security" json:"security,omitempty" pattern:"url" doc:"Base URL of the security archive, as http://security.debian.org/debian-security."`
	Updates  string `yaml:"updates" json:"updates,omitempty" pattern:"url" doc:"Base URL of the archive that holds RELEASE-updates. Empty: the same as main."`
}

// Root says how root logs in.
type Root struct {
	PasswordHash Secret   `yaml:"passwordHash" json:"passwordHash,omitempty" pattern:"hash" doc:"Password of root as a crypt(5) hash: $y$… (mkpasswd, from the package whois) or $6$… (openssl passwd -6). Never the password itself."`
	SSHKeys      []string `yaml:"sshKeys" json:"sshKeys,omitempty" doc:"Public keys for root's authorized_keys, a line each."`
}

// Admin is a person who administers the site's machines.
type Admin struct {
	Name    string   `yaml:"name" json:"name" need:"yes" pattern:"user" doc:"Name of the account. Its group is sci-admins, which may do anything by sudo without a password, and sudo."`
	SSHKeys []string `yaml:"sshKeys" json:"sshKeys,omitempty" need:"yes" hint:"give at least one line of a file such as ~/.ssh/id_ed25519.pub" doc:"Public keys by which the person logs in, a line each. The account has no password."`
}

// Mail is where mail to root goes.
type Mail struct {
	Root      string `yaml:"root" json:"root" need:"yes" pattern:"mailbox" doc:"Address that gets the mail to root."`
	Smarthost string `yaml:"smarthost" json:"smarthost" need:"yes" pattern:"timeserver" hint:"name the mail server that takes the site's mail" doc:"Mail server that takes it without a password, as a name or an address."`
}

// Network is one network of the site.
type Network struct {
	Subnet  netip.Prefix `yaml:"subnet" json:"subnet,omitzero" need:"yes" pattern:"prefix" doc:"The network in CIDR notation, as 192.168.50.0/24."`
	Gateway netip.Addr   `yaml:"gateway" json:"gateway,omitzero" pattern:"address" doc:"The default route. At most one network has one."`
	DNS     []netip.Addr `yaml:"dns" json:"dns,omitempty" pattern:"address" doc:"Name servers."`
	NTP     []string     `yaml:"ntp" json:"ntp,omitempty" doc:"Time servers, as names or addresses. Empty: Debian's pool."`
}

// Cluster is the Ganeti cluster that the hosts of role node form. The first of
// them becomes its master.
type Cluster struct {
	Name       string     `yaml:"name" json:"name" need:"yes" pattern:"label" doc:"Host name of the cluster, without the domain."`
	Address    netip.Addr `yaml:"address" json:"address,omitzero" need:"yes" pattern:"address" doc:"Address of the cluster's master in the network lan. No host may have it."`
	JoinWithin Duration   `yaml:"joinWithin" json:"joinWithin,omitzero" default:"24h" pattern:"duration" doc:"How long the master, from its first boot, lets the site's other nodes join by themselves, in hours of running: 1h to 720h. Later a node joins when an admin says so: sci-agent join."`
	CPU        string     `yaml:"cpu" json:"cpu,omitempty" pattern:"cpu" doc:"CPU model that instances see, as QEMU names it. Empty: Westmere or Nehalem, whichever all nodes have when the cluster is formed, so that instances can move between unequal nodes."`
	Metrics    bool       `yaml:"metrics" json:"metrics,omitempty" default:"false" doc:"true: every host shows its state in Prometheus's text format, http://ADDRESS:9198/metrics, at its address in backbone, or in lan if it has none there. Whoever reaches that address may read it."`
	DRBD       DRBD       `yaml:"drbd" json:"drbd,omitzero" doc:"How disks are replicated."`
}

// DHCP is the service machine's DHCP server, installed everywhere where there is
// such a machine, and off unless enabled.
type DHCP struct {
	Enabled bool       `yaml:"enabled" json:"enabled,omitempty" default:"false" doc:"true: the service machine answers DHCP in lan. The names of who gets a lease appear in DNS and leave it with the lease."`
	From    netip.Addr `yaml:"from" json:"from,omitzero" pattern:"address" doc:"The first address that is leased. Required where DHCP is enabled."`
	To      netip.Addr `yaml:"to" json:"to,omitzero" pattern:"address" doc:"The last address that is leased. Required where DHCP is enabled. No address of the site may lie between the two."`
}

// DRBD is how disks are replicated between two nodes.
type DRBD struct {
	ResyncRate Size   `yaml:"resyncRate" json:"resyncRate,omitzero" default:"60MiB" pattern:"size" doc:"How much a second a disk that lags behind may take of the network."`
	SplitBrain string `yaml:"splitBrain" json:"splitBrain,omitempty" default:"lossless" pattern:"splitbrain" doc:"What happens when both sides of a disk were written to while apart. lossless: Ganeti's rules, which join the two only where one side has written nothing. disconnect: they never join by themselves. Neither loses a write."`
}

// How a site wants DRBD to end a split brain.
const (
	Lossless   = "lossless"
	Disconnect = "disconnect"
)

// Host is one machine of the site.
type Host struct {
	Name      string                `yaml:"name" json:"name" need:"yes" pattern:"label" doc:"Host name without the domain."`
	Role      string                `yaml:"role" json:"role" need:"yes" pattern:"profile" doc:"What the host is for: the name of a profile, such as node or service."`
	Virtual   bool                  `yaml:"virtual" json:"virtual,omitempty" default:"false" doc:"true: the host is a virtual machine in the cluster. The installer matches no hardware with it unless match is given."`
	Match     Match                 `yaml:"match" json:"match,omitzero" doc:"How the installer knows the machine. What is given must hold, all of it. Required unless the host is virtual."`
	Addresses map[string]netip.Addr `yaml:"addresses" json:"addresses,omitempty" pattern:"address" doc:"The host's address in each network, by the network's name. lan is required. Network cards of a virtual machine are in this order: lan, then the others by name."`
	Machine   Machine               `yaml:"machine" json:"machine,omitzero" doc:"What a virtual machine of the cluster is made with. Only where virtual is true; later changes are Ganeti's: gnt-instance modify, gnt-instance grow-disk."`
	Disk      Disk                  `yaml:"disk" json:"disk,omitzero" doc:"Which disk to install on. Empty: the only internal disk that is not removable. Where there are several, say which: without a rule that is an error at installation. The disk has to be empty unless wipe is true."`
	Profiles  []string              `yaml:"profiles" json:"profiles,omitempty" doc:"Extra profiles for this host."`
}

// Class names what is installed on the host: its role, and after a "+" each
// of its own extra profiles ("node", "node+monitoring"). Hosts of one class
// get the same software.
func (h Host) Class() string { return strings.Join(append([]string{h.Role}, h.Profiles...), "+") }

// Machine is what a virtual machine of the cluster has; Host.VM fills in the
// defaults.
type Machine struct {
	Memory Size `yaml:"memory" json:"memory,omitzero" default:"2GiB" pattern:"size" doc:"Memory: 256MiB to 1TiB, whole MiB. Puppet's server alone takes about 1GiB: at least 1536MiB for the role service."`
	Disk   Size `yaml:"disk" json:"disk,omitzero" default:"20GiB" pattern:"size" doc:"Size of the disk, on each of the two nodes that keep it: 3GiB to 16TiB, whole MiB. At least 6GiB for the role service, whose package cache grows."`
	CPUs   int  `yaml:"cpus" json:"cpus,omitempty" default:"1" doc:"Processors: 1 to 64."`
}

// VM is what the virtual machine is made with.
func (h Host) VM() Machine {
	m := h.Machine
	if m.Memory == 0 {
		m.Memory = 2 << 30
	}
	if m.Disk == 0 {
		m.Disk = 20 << 30
	}
	if m.CPUs == 0 {
		m.CPUs = 1
	}
	return m
}

// Match is how a machine is known. Every property that is given must hold; of
// several MAC addresses one is enough.
type Match struct {
	MAC      []MAC  `yaml:"mac" json:"mac,omitempty" pattern:"mac" doc:"MAC addresses of the machine's network cards. One of them is enough."`
	Serial   string `yaml:"serial" json:"serial,omitempty" doc:"Serial number of the machine, as in /sys/class/dmi/id/product_serial."`
	AssetTag string `yaml:"assetTag" json:"assetTag,omitempty" doc:"Asset tag of the chassis, as in /sys/class/dmi/id/chassis_asset_tag."`
}

// Empty reports whether nothing was given.
func (m Match) Empty() bool { return len(m.MAC) == 0 && m.Serial == "" && m.AssetTag == "" }

// Disk chooses a disk by its properties; all that are given must hold.
type Disk struct {
	Serial  string `yaml:"serial" json:"serial,omitempty" doc:"Serial number of the disk. With it a USB disk may be chosen too."`
	Model   string `yaml:"model" json:"model,omitempty" doc:"Model of the disk, as in /sys/block/*/device/model."`
	MinSize Size   `yaml:"minSize" json:"minSize,omitzero" pattern:"size" doc:"Smallest size of the disk: 480GB (powers of 1000, as disks are sold) or 447GiB (powers of 1024)."`
	Fixed   bool   `yaml:"fixed" json:"fixed,omitempty" default:"false" doc:"true: the disk stays in this machine, so that its initramfs holds this machine's drivers only (MODULES=dep) and boots faster. Without it, the disk boots in any machine."`
	Wipe    bool   `yaml:"wipe" json:"wipe,omitempty" default:"false" doc:"true: install even on a disk that holds data, and lose it. Without it, only an empty disk is taken."`
}

// Roles that mean more than a list of packages.
const (
	// NodeRole is that of the machines that form the cluster.
	NodeRole = "node"
	// ServiceRole is that of the virtual machine that serves the site.
	ServiceRole = "service"
	// InstanceRole is that of virtual machines that an admin makes in the
	// cluster. No host of a site file has it.
	InstanceRole = "instance"
)

// Service is the cluster's service machine, nil if the site has none.
func (s *Site) Service() *Host {
	if s.Cluster == nil {
		return nil
	}
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.Role == ServiceRole && h.Virtual {
			return h
		}
	}
	return nil
}

// ServiceAliases are the names, without the domain, by which machines ask the
// service machine for what it serves; none where the site has no such machine.
func (s *Site) ServiceAliases() []string {
	h := s.Service()
	if h == nil {
		return nil
	}
	return slices.DeleteFunc([]string{"apt", "ntp", "puppet", "sci"}, func(a string) bool { return a == h.Name })
}

// Nodes are the hosts that form the cluster, in the order of the file; none
// where the site has no cluster. The first one forms it.
func (s *Site) Nodes() []*Host {
	var list []*Host
	for i := range s.Hosts {
		if h := &s.Hosts[i]; s.InCluster(h) {
			list = append(list, h)
		}
	}
	return list
}

// InCluster reports whether a host of the site is to be a node of the cluster.
func (s *Site) InCluster(h *Host) bool {
	return s.Cluster != nil && h.Role == NodeRole && !h.Virtual
}

// FQDN is the full name of a host or of the cluster.
func (s *Site) FQDN(name string) string { return name + "." + s.Domain }

// Host returns the host of that name.
func (s *Site) Host(name string) (*Host, bool) {
	for i := range s.Hosts {
		if s.Hosts[i].Name == name {
			return &s.Hosts[i], true
		}
	}
	return nil, false
}

// Roles are the roles of all hosts, sorted, each once.
func (s *Site) Roles() []string {
	var roles []string
	for _, h := range s.Hosts {
		if h.Role != "" {
			roles = append(roles, h.Role)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

// VirtualClasses are the classes of the virtual machines that the cluster can
// make, sorted, each once: those of virtual hosts and, beside a service machine,
// InstanceRole.
func (s *Site) VirtualClasses() []string {
	if s.Cluster == nil {
		return nil
	}
	var classes []string
	for _, h := range s.Hosts {
		if h.Virtual && h.Role != "" {
			classes = append(classes, h.Class())
		}
	}
	if s.Service() != nil {
		classes = append(classes, InstanceRole)
	}
	slices.Sort(classes)
	return slices.Compact(classes)
}

// Classes are the classes of all hosts and of all virtual machines that the
// cluster can make, sorted, each once.
func (s *Site) Classes() []string {
	classes := s.VirtualClasses()
	for _, h := range s.Hosts {
		if h.Role != "" {
			classes = append(classes, h.Class())
		}
	}
	slices.Sort(classes)
	return slices.Compact(classes)
}

// NetworkNames are the names of the site's networks, sorted.
func (s *Site) NetworkNames() []string {
	return slices.Sorted(maps.Keys(s.Networks))
}

// ProfilePath is where the site's own profiles are, "" if it has none.
func (s *Site) ProfilePath() string { return s.beside(s.ProfileDir) }

// DebsPath is where the site's own .deb files are, "" if it has none.
func (s *Site) DebsPath() string { return s.beside(s.LocalDebs) }

func (s *Site) beside(dir string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(s.Dir, dir)
}
