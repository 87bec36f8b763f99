package agent

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
)

const networkDir = "etc/systemd/network/"

const networkd = "systemd-networkd.service"

// wantedNetworks is all that the step networks wants on disk.
type wantedNetworks struct {
	wires []wire
	files []file
	stale []string
}

// networksDone reports whether the files are in place, systemd-networkd runs
// and starts at boot, and the kernel has what the files say.
func (n *Node) networksDone(ctx context.Context) (bool, error) {
	w, err := n.wantNetworks()
	if err != nil {
		return false, err
	}
	if ok, err := n.allSame(w.files, w.stale); !ok || err != nil {
		return false, err
	}
	u, err := n.unit(ctx, networkd)
	if err != nil || !u.enabled || !u.active {
		return false, err
	}
	return n.missing(w.wires) == nil, nil
}

// networksDo writes the files and has them applied by the mildest means: a
// start where networkd does not run, a reload where a file changed (it touches
// only links whose files changed), a restart only where all files were in place
// and the kernel still lacks something.
func (n *Node) networksDo(ctx context.Context) error {
	// Choose among all cards, not among those whose driver is loaded already.
	if err := n.command(ctx, "udevadm", "settle", "--timeout=120"); err != nil {
		n.note("%v", err)
	}
	w, err := n.wantNetworks()
	if err != nil {
		return err
	}
	if err := n.keepInterfaces(); err != nil {
		return err
	}
	changed, err := n.put(w.files, w.stale)
	if err != nil {
		return err
	}
	u, err := n.unit(ctx, networkd)
	if err != nil {
		return err
	}
	if !u.enabled {
		if err := n.command(ctx, "systemctl", "enable", networkd); err != nil {
			return err
		}
	}
	switch {
	case !u.active:
		err = n.command(ctx, "systemctl", "start", networkd)
	case changed:
		// networkctl talks over D-Bus, which a small system may lack.
		if err = n.command(ctx, "networkctl", "reload"); err != nil && ctx.Err() == nil {
			err = n.command(ctx, "systemctl", "restart", networkd)
		}
	case n.missing(w.wires) != nil:
		err = n.command(ctx, "systemctl", "restart", networkd)
	}
	if err != nil {
		return err
	}
	return n.settle(ctx, w.wires)
}

// settle waits until the kernel has what was written.
func (n *Node) settle(ctx context.Context, wires []wire) error {
	return n.await(ctx, func(context.Context) error { return n.missing(wires) })
}

// await tries something until it succeeds, for at most n.Settle.
func (n *Node) await(ctx context.Context, try func(context.Context) error) error {
	patience := n.Settle
	if patience == 0 {
		patience = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		sleep(ctx, 500*time.Millisecond)
	}
}

// missing is nil when every bridge is there with its port and its address.
func (n *Node) missing(wires []wire) error {
	for _, w := range wires {
		what, err := n.lacks(w)
		if what != "" {
			return hint.New(&Waiting{For: "systemd-networkd to " + what, Err: err}, "see: journalctl -u systemd-networkd")
		}
	}
	return nil
}

// lacks is what systemd-networkd has still to do for w, "" for nothing.
func (n *Node) lacks(w wire) (what string, err error) {
	if n.Host.Virtual {
		return n.virtualLacks(w)
	}
	bridge := w.bridge()
	if !n.exists("sys/class/net/" + bridge) {
		return "make the bridge " + bridge, nil
	}
	if w.nic.name != "" {
		master, err := os.Readlink(n.path("sys/class/net/" + w.nic.name + "/master"))
		if err != nil || path.Base(master) != bridge {
			return fmt.Sprintf("put %s into the bridge %s", w.nic.name, bridge), nil
		}
	}
	want := n.address(w.network)
	got, err := n.addresses(bridge)
	if err != nil || !slices.Contains(got, want) {
		return fmt.Sprintf("give %s the address %s", bridge, want), err
	}
	return "", nil
}

func (w wire) bridge() string {
	if w.nic.mac == "" {
		return "lan"
	}
	return w.network
}

func (n *Node) address(network string) netip.Prefix {
	return netip.PrefixFrom(n.Host.Addresses[network], n.Site.Networks[network].Subnet.Bits())
}

func portFile(network string) string { return networkDir + "10-sci-" + network + "-port.network" }

func (n *Node) wantNetworks() (*wantedNetworks, error) {
	choose := n.wires
	if n.Host.Virtual {
		choose = n.virtualWires
	}
	wires, err := choose()
	if err != nil {
		return nil, err
	}
	w := &wantedNetworks{wires: wires}
	for _, wr := range wires {
		if n.Host.Virtual {
			w.files = append(w.files, file{networkDir + "10-sci-" + wr.network + ".network", n.virtualNetwork(wr), 0o644})
			continue
		}
		if wr.nic.mac == "" {
			continue
		}
		base := networkDir + "10-sci-" + wr.network
		w.files = append(w.files,
			file{base + ".netdev", bridgeDevice(wr), 0o644},
			file{portFile(wr.network), bridgePort(wr), 0o644},
			file{base + ".network", n.bridgeNetwork(wr, wires), 0o644})
	}
	for _, name := range n.glob(networkDir + "10-sci-*") {
		if !slices.ContainsFunc(w.files, func(f file) bool { return f.name == name }) {
			w.stale = append(w.stale, name)
		}
	}
	if f, ok := n.resolvConf(); ok {
		w.files = append(w.files, f)
	}
	if f, ok, err := n.interfaces(); err != nil {
		return nil, err
	} else if ok {
		w.files = append(w.files, f)
	}
	return w, nil
}

// bridgeDevice is a bridge that keeps its card's address: left alone it would
// take the lowest of its ports', and change as instances come and go.
func bridgeDevice(w wire) string {
	return rendered("networks") + fmt.Sprintf(`[NetDev]
Name=%s
Kind=bridge
MACAddress=%s

[Bridge]
STP=no
ForwardDelaySec=0
`, w.network, w.nic.mac)
}

// bridgePort matches by the permanent address, which bridges and VLANs with
// the same address do not have.
func bridgePort(w wire) string {
	return rendered("networks") + fmt.Sprintf(`[Match]
PermanentMACAddress=%s
Type=ether

[Link]
RequiredForOnline=no

[Network]
Bridge=%s
LinkLocalAddressing=no
IPv6AcceptRA=no
`, w.nic.mac, w.network)
}

// bridgeNetwork is configured without a carrier too: a node whose switch is
// off must still be able to reach its own addresses and to boot.
func (n *Node) bridgeNetwork(w wire, all []wire) string {
	var b strings.Builder
	b.WriteString(rendered("networks"))
	fmt.Fprintf(&b, "[Match]\nName=%s\n\n[Link]\nRequiredForOnline=no-carrier\n\n[Network]\n", w.network)
	b.WriteString("ConfigureWithoutCarrier=yes\nIPv6AcceptRA=no\n")
	for _, v := range all {
		if v.bridge() != w.network {
			continue
		}
		fmt.Fprintf(&b, "Address=%s\n", n.address(v.network))
		if g := n.Site.Networks[v.network].Gateway; g.IsValid() {
			fmt.Fprintf(&b, "Gateway=%s\n", g)
		}
	}
	if w.network == "lan" {
		for _, a := range n.nameservers() {
			fmt.Fprintf(&b, "DNS=%s\n", a)
		}
		fmt.Fprintf(&b, "Domains=%s\n", n.Site.Domain)
	}
	return b.String()
}

// maxNameservers is what the C library reads, resolv.conf(5).
const maxNameservers = 3

// resolvConf is /etc/resolv.conf by the site's name servers. Where it is a link
// to what systemd-resolved or resolvconf keeps, it is left to them.
func (n *Node) resolvConf() (file, bool) {
	const name = "etc/resolv.conf"
	if info, err := os.Lstat(n.path(name)); err == nil && info.Mode()&os.ModeSymlink != 0 && n.exists(name) {
		return file{}, false
	}
	servers := n.nameservers()
	if len(servers) == 0 {
		return file{}, false
	}
	text := rendered("networks") + "search " + n.Site.Domain + "\n"
	for _, a := range servers {
		text += "nameserver " + a.String() + "\n"
	}
	if n.Site.Service() != nil {
		// A node asks although the service machine may be down, as long as the node
		// itself has not started it: one second lost, not the usual five. The
		// names of the site are in /etc/hosts.
		text += "options timeout:1 attempts:2\n"
	}
	return file{name, text, 0o644}, true
}

// nameservers are whom this machine asks: the service machine, which knows the
// site's names and leases, then the name servers of the networks it is in.
func (n *Node) nameservers() []netip.Addr {
	var list []netip.Addr
	switch h := n.Site.Service(); {
	case h == nil:
	case n.serves():
		list = append(list, loopback())
	default:
		list = append(list, h.Addresses[lan])
	}
	for _, network := range n.networkNames() {
		for _, a := range n.Site.Networks[network].DNS {
			if !slices.Contains(list, a) && !n.own(a) {
				list = append(list, a)
			}
		}
	}
	return list[:min(len(list), maxNameservers)]
}

// own reports whether an address is this machine's.
func (n *Node) own(a netip.Addr) bool {
	for _, b := range n.Host.Addresses {
		if a == b {
			return true
		}
	}
	return false
}

const (
	interfacesFile = "etc/network/interfaces"
	interfacesKept = "etc/network/interfaces.before-sci"
)

// interfaces is ifupdown's file reduced to the loopback, where ifupdown would
// configure more than that; its ifup would fight systemd-networkd at each boot.
func (n *Node) interfaces() (file, bool, error) {
	data, _, err := n.read(interfacesFile)
	if err != nil {
		return file{}, false, err
	}
	for l := range bytes.Lines(data) {
		f := strings.Fields(string(l))
		if len(f) > 1 && (f[0] == "auto" || f[0] == "iface" || strings.HasPrefix(f[0], "allow-")) && f[1] != "lo" {
			return file{interfacesFile, rendered("networks") +
				"# systemd-networkd configures the network, see /etc/systemd/network. The file as it was: " + "/" + interfacesKept + "\n" +
				"auto lo\niface lo inet loopback\n", 0o644}, true, nil
		}
	}
	return file{}, false, nil
}

// keepInterfaces keeps the file that interfaces replaces, the first one.
func (n *Node) keepInterfaces() error {
	_, replace, err := n.interfaces()
	if err != nil || !replace || n.exists(interfacesKept) {
		return err
	}
	data, _, err := n.read(interfacesFile)
	if err != nil {
		return err
	}
	return writeFile(n.path(interfacesKept), data, 0o644)
}
