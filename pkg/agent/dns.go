package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

const (
	bindDir   = "etc/bind/sci"
	namedConf = bindDir + "/named.conf"
	namedUnit = "named.service"
)

// loopback is where the agent asks named.
func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// serves reports whether this machine is the site's service machine.
func (n *Node) serves() bool {
	h := n.Site.Service()
	return h != nil && h.Name == n.Host.Name
}

// dnsDone reports whether named runs with the site's settings and answers, for
// each zone, what the site file says, with a serial that did not go back.
func (n *Node) dnsDone(ctx context.Context) (bool, error) {
	for _, k := range []tsigKey{updateKey(), leaseKey()} {
		if ok, err := n.keyThere(k); !ok || err != nil {
			return false, err
		}
	}
	list := zones(n.Site)
	if ok, err := n.allSame([]file{{namedConf, n.namedConf(list), 0o644}}, nil); !ok || err != nil {
		return false, err
	}
	u, err := n.unit(ctx, namedUnit)
	if err != nil || !u.enabled || !u.active || !n.zonesAnswer(ctx, list) {
		return false, err
	}
	old, err := n.readLedger()
	if err != nil {
		return false, err
	}
	for _, z := range list {
		d, err := n.differences(ctx, z, old)
		if err != nil || len(d) > 0 {
			return false, err
		}
	}
	return slices.Equal(old.records(), old.after(list).records()), nil
}

// dnsDo makes the keys, zone files that are missing and named's settings, has
// them checked before named sees them, and brings the records that differ into
// the zones by updates, so that leases and what an admin added stay.
func (n *Node) dnsDo(ctx context.Context) error {
	fresh := false
	for _, k := range []tsigKey{updateKey(), leaseKey()} {
		made, err := n.makeKey(k)
		if err != nil {
			return err
		}
		fresh = fresh || made
	}
	list := zones(n.Site)
	old, err := n.readLedger()
	if err != nil {
		return err
	}
	// Noted before it is done: after a power cut nothing of ours is taken for
	// somebody else's.
	if err := n.writeLedger(old.with(list)); err != nil {
		return err
	}
	added, err := n.addZones(ctx, list, old)
	if err != nil {
		return err
	}
	changed, err := n.putChecked(ctx, file{namedConf, n.namedConf(list), 0o644}, "named-checkconf")
	if err != nil {
		return err
	}
	if err := n.startNamed(ctx, list, fresh || added || changed); err != nil {
		return err
	}
	for _, z := range list {
		if err := n.updateZone(ctx, z, old); err != nil {
			return err
		}
	}
	after := old.after(list)
	if err := n.noteSerials(ctx, &after, list); err != nil {
		return err
	}
	return n.writeLedger(after)
}

// putChecked writes a file beside its place, has a command judge it, and puts it
// into its place if that finds no fault. It reports whether anything changed.
func (n *Node) putChecked(ctx context.Context, f file, check ...string) (bool, error) {
	if ok, err := n.same(f); ok || err != nil {
		return false, err
	}
	candidate := f
	candidate.name += ".sci-new"
	if _, err := n.put([]file{candidate}, nil); err != nil {
		return false, err
	}
	if err := n.command(ctx, append(check, "/"+candidate.name)...); err != nil {
		_ = os.Remove(n.path(candidate.name))
		return false, fmt.Errorf("cannot use a new /%s, the old one stays: %w", f.name, err)
	}
	return true, os.Rename(n.path(candidate.name), n.path(f.name))
}

// addZones writes the files of zones that have none.
func (n *Node) addZones(ctx context.Context, list []zone, old ledger) (added bool, err error) {
	for _, z := range list {
		if n.exists(z.file()) {
			continue
		}
		// A journal without its zone keeps named from loading the zone.
		if err := os.Remove(n.path(z.file() + ".jnl")); err != nil && !errors.Is(err, os.ErrNotExist) {
			return added, err
		}
		serial := later(old.serials[z.origin], uint32(time.Now().Unix()))
		f := file{z.file(), zoneFile(n.Site, z, serial), 0o644}
		if _, err := n.putChecked(ctx, f, "named-checkzone", "-q", z.origin); err != nil {
			return added, err
		}
		added = true
	}
	return added, nil
}

// startNamed has named take over what changed by the mildest means, and waits
// until it answers: a start where it does not run, a reload after a change, a
// restart where nothing changed and it still does not answer.
func (n *Node) startNamed(ctx context.Context, list []zone, changed bool) error {
	u, err := n.unit(ctx, namedUnit)
	switch {
	case err != nil:
	case !u.enabled || !u.active:
		err = n.command(ctx, "systemctl", "enable", "--now", namedUnit)
	case changed:
		err = n.command(ctx, "systemctl", "reload", namedUnit)
	case !n.zonesAnswer(ctx, list):
		err = n.command(ctx, "systemctl", "restart", namedUnit)
	default:
		return nil
	}
	if err != nil {
		return hint.New(err, "see: journalctl -u named")
	}
	return n.until(ctx, "named to answer for the site's zones", "see: journalctl -u named", func(ctx context.Context) bool {
		return n.zonesAnswer(ctx, list)
	})
}

// until waits, for at most n.Settle, until something is so.
func (n *Node) until(ctx context.Context, what, advice string, so func(context.Context) bool) error {
	return n.await(ctx, func(ctx context.Context) error {
		if so(ctx) {
			return nil
		}
		return hint.New(&Waiting{For: what}, advice)
	})
}

// zonesAnswer reports whether named has all zones, and whether it listens where
// the others ask.
func (n *Node) zonesAnswer(ctx context.Context, list []zone) bool {
	for _, z := range list {
		if _, err := n.soaOf(ctx, loopback(), z); err != nil {
			n.note("step dns: %v", err)
			return false
		}
	}
	_, err := n.soaOf(ctx, n.Host.Addresses[lan], list[0])
	return err == nil
}

// soaOf asks a server for the SOA record of a zone that it must have itself.
func (n *Node) soaOf(ctx context.Context, server netip.Addr, z zone) (dnsAnswer, error) {
	r, err := n.dnsLookup(ctx, server, z.origin, "SOA")
	if err != nil {
		return dnsAnswer{}, err
	}
	for _, a := range r.answers {
		if r.authoritative && a.kind == typeSOA && a.name == z.origin {
			return a, nil
		}
	}
	return dnsAnswer{}, fmt.Errorf("the name server %s does not have the zone %s (code %d)", server, z.origin, r.code)
}

// namedConf is named's settings. Debian's own files stay as they are, so that
// upgrades ask nothing; named.conf.local is read for zones of the admin's.
func (n *Node) namedConf(list []zone) string {
	var b strings.Builder
	b.WriteString(rendered("dns"))
	for _, k := range []tsigKey{updateKey(), leaseKey()} {
		fmt.Fprintf(&b, "include \"/%s\";\n", k.file)
	}
	b.WriteString("\nacl sci { 127.0.0.0/8; ")
	for _, network := range n.Site.NetworkNames() {
		b.WriteString(n.Site.Networks[network].Subnet.String() + "; ")
	}
	b.WriteString("};\n\noptions {\n\tdirectory \"/var/cache/bind\";\n\tlisten-on { 127.0.0.1; ")
	for _, network := range n.networkNames() {
		b.WriteString(n.Host.Addresses[network].String() + "; ")
	}
	fmt.Fprintf(&b, `};
	listen-on-v6 { none; };
	allow-recursion { sci; };
	allow-query-cache { sci; };
	allow-transfer { key %q; };
	notify no;
	minimal-responses yes;
	max-cache-size 64m; # of a small machine; the default is 90 per cent of it
	version none;
	hostname none;
	server-id none;
%s};
`, updateKey().name, n.upstream())
	for _, z := range list {
		b.WriteString(zoneConf(z))
	}
	const admins = "etc/bind/named.conf.local"
	if n.exists(admins) {
		b.WriteString("\n# Zones of the admin's.\ninclude \"/" + admins + "\";\n")
	}
	return b.String()
}

// upstream is whom named asks for what it does not have. The site's own name
// servers may know names that the world does not, for which there are no
// signatures, and they alone may be let out by a firewall: they are asked, and
// believed. Without them named goes from the root and checks signatures.
func (n *Node) upstream() string {
	var servers []string
	for _, network := range slices.Concat([]string{lan}, n.Site.NetworkNames()) {
		for _, a := range n.Site.Networks[network].DNS {
			if s := a.String(); !n.own(a) && !a.IsLoopback() && !slices.Contains(servers, s) {
				servers = append(servers, s)
			}
		}
	}
	if len(servers) == 0 {
		return "\tdnssec-validation auto;\n"
	}
	return "\tforwarders { " + strings.Join(servers, "; ") + "; };\n\tforward only;\n\tdnssec-validation no;\n"
}

// zoneConf lets the admin's key change all of a zone and Kea's what leases need,
// but nothing of what the site file names.
func zoneConf(z zone) string {
	names := []string{z.origin}
	for _, r := range z.records {
		names = append(names, r.name)
	}
	types := "PTR DHCID"
	if !strings.HasSuffix(z.origin, ".in-addr.arpa.") {
		// The last two are asked for by machines that look for a proxy or for
		// themselves.
		names = append(names, "localhost."+z.origin, "wpad."+z.origin)
		types = "A DHCID"
	}
	slices.Sort(names)
	var b strings.Builder
	fmt.Fprintf(&b, "\nzone %q {\n\ttype primary;\n\tfile \"/%s\";\n\tupdate-policy {\n", strings.TrimSuffix(z.origin, "."), z.file())
	for _, name := range slices.Compact(names) {
		fmt.Fprintf(&b, "\t\tdeny %s name %q ANY;\n", leaseKey().name, name)
	}
	fmt.Fprintf(&b, "\t\tgrant %s zonesub %s;\n\t\tgrant %s zonesub ANY;\n\t};\n};\n", leaseKey().name, types, updateKey().name)
	return b.String()
}

// nsupdate sends updates of one zone to named, in one message: all or nothing.
func (n *Node) nsupdate(ctx context.Context, z zone, lines []string) error {
	script := "server 127.0.0.1\nzone " + z.origin + "\n" + strings.Join(lines, "\n") + "\nsend\n"
	_, err := n.Runner.Run(ctx, run.Cmd{
		Argv:  []string{"nsupdate", "-v", "-t", "20", "-k", "/" + updateKey().file},
		Stdin: strings.NewReader(script), Log: n.Journal,
	})
	return hint.New(err, "see: journalctl -u named")
}
