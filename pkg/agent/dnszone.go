package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

// record is one record of a zone; names end with a dot.
type record struct{ name, kind, data string }

// zone is what the site file says about a zone. Others (leases, the admin) may
// have more in it.
type zone struct {
	origin  string // ends with a dot
	records []record
}

// zoneTTL is how long others may keep our records, in seconds; leases have their
// own.
const zoneTTL = 3600

// file is where named keeps the zone; beside it is its journal, FILE.jnl.
func (z zone) file() string { return "var/lib/bind/db." + strings.TrimSuffix(z.origin, ".") }

// zones are those of the site: the domain, then the reverse ones by name.
func zones(s *site.Site) []zone {
	service := s.Service()
	names := forward(s, service)
	list := []zone{{s.Domain + ".", names}}
	for _, network := range s.NetworkNames() {
		for _, origin := range reverseZones(s.Networks[network].Subnet) {
			if !slices.ContainsFunc(list, func(z zone) bool { return z.origin == origin }) {
				list = append(list, zone{origin, []record{{origin, "NS", s.FQDN(service.Name) + "."}}})
			}
		}
	}
	slices.SortFunc(list[1:], func(a, b zone) int { return strings.Compare(a.origin, b.origin) })
	for _, p := range pointers(s) {
		for i, z := range list[1:] {
			if strings.HasSuffix(p.name, "."+z.origin) {
				list[i+1].records = append(list[i+1].records, p)
			}
		}
	}
	for _, z := range list {
		slices.SortFunc(z.records, compareRecords)
	}
	return list
}

func compareRecords(a, b record) int {
	return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.kind, b.kind), strings.Compare(a.data, b.data))
}

// forward are the records of the domain: the cluster and each host at its address
// in lan, each host once more as NAME-NETWORK in every network, and the aliases
// of the service machine.
func forward(s *site.Site, service *site.Host) []record {
	at := func(name string) string { return s.FQDN(name) + "." }
	list := []record{
		{s.Domain + ".", "NS", at(service.Name)},
		{at(s.Cluster.Name), "A", s.Cluster.Address.String()},
	}
	for _, h := range s.Hosts {
		list = append(list, record{at(h.Name), "A", h.Addresses[lan].String()})
		for _, network := range s.NetworkNames() {
			if a := h.Addresses[network]; a.IsValid() {
				list = append(list, record{at(h.Name + "-" + network), "A", a.String()})
			}
		}
	}
	for _, alias := range s.ServiceAliases() {
		list = append(list, record{at(alias), "CNAME", at(service.Name)})
	}
	return list
}

// pointers are the names of all addresses: the plain one in lan, NAME-NETWORK in
// every other network.
func pointers(s *site.Site) []record {
	list := []record{{reverseName(s.Cluster.Address), "PTR", s.FQDN(s.Cluster.Name) + "."}}
	for _, h := range s.Hosts {
		for network, a := range h.Addresses {
			name := h.Name
			if network != lan {
				name += "-" + network
			}
			list = append(list, record{reverseName(a), "PTR", s.FQDN(name) + "."})
		}
	}
	return list
}

// reverseName is an IPv4 address as a name (RFC 1035, 3.5).
func reverseName(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
}

// reverseZones are the zones of a network. Zones end at octets: a network whose
// prefix does not gets as many of the next octet as it has (a /22 four of /24),
// one that is smaller than a /24 the zone of the /24 that it lies in.
func reverseZones(p netip.Prefix) []string {
	octets := min((p.Bits()+7)/8, 3)
	first := p.Masked().Addr().As4()
	var list []string
	for i := range 1 << max(octets*8-p.Bits(), 0) {
		var b strings.Builder
		for o := octets - 1; o >= 0; o-- {
			octet := int(first[o])
			if o == octets-1 {
				octet += i
			}
			b.WriteString(strconv.Itoa(octet) + ".")
		}
		list = append(list, b.String()+"in-addr.arpa.")
	}
	return list
}

// soa is the data of a zone's SOA record: who has the zone, whom to write to, the
// serial, and in seconds: refresh, retry, expire, and how long "no such name" is
// remembered, which is short because leases come at any time.
func soa(s *site.Site, serial uint32) string {
	return fmt.Sprintf("%s. hostmaster.%s. %d 3600 900 1209600 60", s.FQDN(s.Service().Name), s.Domain, serial)
}

// zoneFile is a zone as it is before named has it. From then on the file is
// named's, which writes into it what updates have changed.
func zoneFile(s *site.Site, z zone, serial uint32) string {
	var b strings.Builder
	fmt.Fprintf(&b, "; Begun by sci-agent (step dns) from /etc/sci/site.json; named keeps it since: change it with nsupdate.\n$TTL %d\n", zoneTTL)
	fmt.Fprintf(&b, "%s IN SOA %s\n", z.origin, soa(s, serial))
	for _, r := range z.records {
		fmt.Fprintf(&b, "%s IN %s %s\n", r.name, r.kind, r.data)
	}
	return b.String()
}
