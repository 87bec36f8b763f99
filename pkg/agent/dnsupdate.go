package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// ledgerFile says which records of named's zones are the site file's, so that
// those which the site file no longer has are found among leases and the admin's.
const ledgerFile = "var/lib/sci/dns.records"

// ledger is what is in that file.
type ledger struct {
	zones   map[string][]record // by origin
	serials map[string]uint32   // as last seen
}

func (n *Node) readLedger() (ledger, error) {
	l := ledger{make(map[string][]record), make(map[string]uint32)}
	data, _, err := n.read(ledgerFile)
	if err != nil {
		return l, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] == "#" {
			continue
		}
		if serial, err := strconv.ParseUint(f[3], 10, 32); err == nil && f[2] == "SOA" {
			l.serials[f[0]] = uint32(serial)
		} else if recordType(f[2]) != 0 {
			l.zones[f[0]] = append(l.zones[f[0]], record{f[1], f[2], f[3]})
		}
	}
	return l, nil
}

// writeLedger writes the file, a line a record: zone, name, type, data.
func (n *Node) writeLedger(l ledger) error {
	text := rendered("dns") + "# Which records of the zones come from there: zone, name, type, data or serial.\n" +
		strings.Join(append(l.records(), ""), "\n")
	_, err := n.put([]file{{ledgerFile, text, 0o644}}, nil)
	return err
}

// records are the lines of the file.
func (l ledger) records() []string {
	var list []string
	for _, origin := range slices.Sorted(maps.Keys(l.zones)) {
		if serial, ok := l.serials[origin]; ok {
			list = append(list, fmt.Sprintf("%s %s SOA %d", origin, origin, serial))
		}
		for _, r := range l.zones[origin] {
			list = append(list, strings.Join([]string{origin, r.name, r.kind, r.data}, " "))
		}
	}
	return list
}

// with is l and all records of the zones given.
func (l ledger) with(list []zone) ledger {
	both := ledger{maps.Clone(l.zones), l.serials}
	for _, z := range list {
		all := slices.Concat(l.zones[z.origin], z.records)
		slices.SortFunc(all, compareRecords)
		both.zones[z.origin] = slices.Compact(all)
	}
	return both
}

// after is l once the zones given are as they should be. Zones that the site no
// longer has keep their lines, for their files stay and they may come back.
func (l ledger) after(list []zone) ledger {
	next := ledger{maps.Clone(l.zones), maps.Clone(l.serials)}
	for _, z := range list {
		next.zones[z.origin] = z.records
	}
	return next
}

// later is the greater of two serials, beginning with the first one's successor
// (RFC 1982, 3.2).
func later(last, serial uint32) uint32 {
	if last != 0 && int32(serial-last) <= 0 {
		return last + 1
	}
	return serial
}

// noteSerials asks for the zones' serials.
func (n *Node) noteSerials(ctx context.Context, l *ledger, list []zone) error {
	for _, z := range list {
		a, err := n.soaOf(ctx, loopback(), z)
		if err != nil {
			return err
		}
		l.serials[z.origin] = a.serial
	}
	return nil
}

// updateZone brings the records of one zone in order.
func (n *Node) updateZone(ctx context.Context, z zone, old ledger) error {
	lines, err := n.differences(ctx, z, old)
	if err != nil || len(lines) == 0 {
		return err
	}
	for _, l := range lines {
		n.note("step dns: %s", l)
	}
	return n.nsupdate(ctx, z, lines)
}

// differences are the updates, as nsupdate(1) has them, that a zone needs. Names
// of the site file have the records that it says, and of the same types no other
// ones; what the site file once said and no longer does goes. All else stays.
func (n *Node) differences(ctx context.Context, z zone, old ledger) ([]string, error) {
	var lines []string
	for _, r := range z.records {
		ok, err := n.answered(ctx, r)
		if err != nil {
			return nil, err
		}
		if !ok {
			lines = append(lines, claim(r)...)
		}
	}
	// Behind the additions: a zone does not give up its last name server.
	for _, r := range old.zones[z.origin] {
		if !slices.ContainsFunc(z.records, func(now record) bool { return replaces(now, r) }) {
			lines = append(lines, fmt.Sprintf("update delete %s %s %s", r.name, r.kind, r.data))
		}
	}
	head, err := n.soaOf(ctx, loopback(), z)
	if err != nil {
		return nil, err
	}
	noted, known := old.serials[z.origin]
	back := known && int32(head.serial-noted) < 0
	if service := n.Site.FQDN(n.Site.Service().Name) + "."; head.data != service || back {
		last := head.serial
		if back {
			last = noted
		}
		lines = append(lines, fmt.Sprintf("update add %s %d SOA %s", z.origin, zoneTTL, soa(n.Site, later(last, last))))
	}
	return lines, nil
}

// replaces reports whether an earlier record is the same or has gone with the claim
// of a present one.
func replaces(now, old record) bool {
	return now == old || now.name == old.name && now.kind == old.kind && now.kind != "NS"
}

// answered reports whether named has a record as the site file says. The admin
// may add name servers; every other name has one record of our type.
func (n *Node) answered(ctx context.Context, r record) (bool, error) {
	reply, err := n.dnsLookup(ctx, loopback(), r.name, r.kind)
	if err != nil {
		return false, err
	}
	if !reply.authoritative || reply.code != 0 && reply.code != nxdomain {
		return false, fmt.Errorf("cannot check %s: the name server answers with code %d", r.name, reply.code)
	}
	want := dnsAnswer{name: r.name, kind: recordType(r.kind), data: r.data}
	if r.kind == "NS" {
		return slices.Contains(reply.answers, want), nil
	}
	return len(reply.answers) == 1 && reply.answers[0] == want, nil
}

// nxdomain is the code of "no such name".
const nxdomain = 3

// claim makes a name the site's: an address that a lease or somebody gave it goes,
// with the mark (DHCID, RFC 4701) that makes it a lease's.
func claim(r record) []string {
	add := fmt.Sprintf("update add %s %d %s %s", r.name, zoneTTL, r.kind, r.data)
	switch r.kind {
	case "NS":
		return []string{add}
	case "CNAME": // stands alone
		return []string{"update delete " + r.name, add}
	}
	return []string{
		"update delete " + r.name + " CNAME", "update delete " + r.name + " DHCID",
		"update delete " + r.name + " " + r.kind, add,
	}
}
