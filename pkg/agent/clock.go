package agent

import (
	"context"
	"strings"
)

// keeper is a program that keeps the time.
type keeper struct {
	program string // installed if this is there
	unit    string
	file    string // what we write
	render  func(servers []string) string
	reload  []string // after the file changed while the unit runs
	// cluster is the file of settings that nodes of one cluster have beside, ""
	// where the program cannot serve time.
	cluster string
}

func keepers() []keeper {
	return []keeper{
		{"usr/sbin/chronyd", "chrony.service", "etc/chrony/sources.d/sci.sources", chronySources,
			[]string{"systemctl", "restart", "chrony.service"}, "etc/chrony/conf.d/sci-cluster.conf"},
		{"usr/lib/systemd/systemd-timesyncd", "systemd-timesyncd.service", "etc/systemd/timesyncd.conf.d/sci.conf", timesyncdConf,
			[]string{"systemctl", "restart", "systemd-timesyncd.service"}, ""},
	}
}

// chronySources adds to Debian's pool: chrony picks whom it trusts, and servers
// of one's own network win where the pool cannot be reached.
func chronySources(servers []string) string {
	var b strings.Builder
	for _, s := range servers {
		b.WriteString("server " + s + " iburst\n")
	}
	return b.String()
}

func timesyncdConf(servers []string) string {
	return "[Time]\nNTP=" + strings.Join(servers, " ") + "\n"
}

// keeper is the installed one, chrony before timesyncd.
func (n *Node) keeper() (keeper, bool) {
	for _, k := range keepers() {
		if n.exists(k.program) {
			return k, true
		}
	}
	return keeper{}, false
}

// timeFiles are the wanted files, and in stale those that the site does not
// need.
func (n *Node) timeFiles(k keeper) (files []file, stale []string) {
	var servers []string
	for _, network := range n.networkNames() {
		servers = append(servers, n.Site.Networks[network].NTP...)
	}
	if n.served() {
		servers = nil // the service machine and the nodes ask those
	}
	if k.cluster != "" {
		peers := n.timePeers()
		if n.Site.InCluster(n.Host) && len(peers) > 0 {
			files = append(files, file{k.cluster, rendered("time") + n.chronyCluster(), 0o644})
		} else {
			stale = append(stale, k.cluster)
		}
		if n.serves() {
			files = append(files, file{chronyService, rendered("time") + n.chronyAllow(), 0o644})
		}
		servers = append(servers, peers...)
	}
	if len(servers) == 0 {
		return files, append(stale, k.file)
	}
	return append(files, file{k.file, rendered("time") + k.render(servers), 0o644}), stale
}

// served reports whether this is a virtual machine beside a service machine.
func (n *Node) served() bool { return n.Host.Virtual && n.Site.Service() != nil && !n.serves() }

// timePeers are the machines of the cluster that this one may learn the time from:
// a node from the other nodes; the service machine from all nodes; another virtual
// machine from both, the service machine first.
func (n *Node) timePeers() []string {
	var list []string
	if n.served() {
		list = append(list, n.Site.Service().Addresses[lan].String())
	}
	if n.Host.Virtual || n.Site.InCluster(n.Host) {
		for _, h := range n.others() {
			list = append(list, h.Addresses[lan].String())
		}
	}
	return list
}

// chronyCluster lets nodes without any server of the time agree on one of
// themselves: Ganeti refuses nodes whose clocks are more than 150 s apart.
func (n *Node) chronyCluster() string {
	return "# Where no server can be reached, the nodes agree among themselves: chrony.conf(5), orphan.\n" +
		"local stratum 10 orphan\n" +
		"allow " + n.Site.Networks[lan].Subnet.String() + "\n"
}

// chronyService is chrony's file on the service machine, which others ask.
const chronyService = "etc/chrony/conf.d/sci-service.conf"

// chronyAllow lets the site's networks ask for the time.
func (n *Node) chronyAllow() string {
	var b strings.Builder
	for _, network := range n.Site.NetworkNames() {
		b.WriteString("allow " + n.Site.Networks[network].Subnet.String() + "\n")
	}
	return b.String()
}

// timeDone reports whether the installed time keeper runs, at boot too, and
// has the site's servers. It does not wait for a synchronised clock: a site
// without an uplink may never have one.
func (n *Node) timeDone(ctx context.Context) (bool, error) {
	k, ok := n.keeper()
	if !ok {
		n.note("step time: neither chrony nor systemd-timesyncd is installed; nothing to do")
		return true, nil
	}
	files, stale := n.timeFiles(k)
	if ok, err := n.allSame(files, stale); !ok || err != nil {
		return false, err
	}
	u, err := n.unit(ctx, k.unit)
	return u.enabled && u.active, err
}

func (n *Node) timeDo(ctx context.Context) error {
	k, ok := n.keeper()
	if !ok {
		return nil
	}
	changed, err := n.put(n.timeFiles(k))
	if err != nil {
		return err
	}
	u, err := n.unit(ctx, k.unit)
	switch {
	case err != nil:
		return err
	case !u.enabled || !u.active:
		return n.command(ctx, "systemctl", "enable", "--now", k.unit)
	case changed:
		return n.command(ctx, k.reload...)
	}
	return nil
}
