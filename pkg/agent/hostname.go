package agent

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

const (
	hostsBegin = "# BEGIN sci-agent: from /etc/sci/site.json; lines outside this block are yours"
	hostsEnd   = "# END sci-agent"
)

// hostnameDone checks the host name (the full one, as Ganeti wants it), the
// kernel's copy of it and /etc/hosts.
func (n *Node) hostnameDone(context.Context) (bool, error) {
	files, err := n.hostnameFiles()
	if err != nil {
		return false, err
	}
	if ok, err := n.allSame(files, nil); !ok || err != nil {
		return false, err
	}
	return n.oneLine("proc/sys/kernel/hostname") == n.fqdn(), nil
}

func (n *Node) hostnameDo(ctx context.Context) error {
	files, err := n.hostnameFiles()
	if err != nil {
		return err
	}
	if _, err := n.put(files, nil); err != nil {
		return err
	}
	if n.oneLine("proc/sys/kernel/hostname") == n.fqdn() {
		return nil
	}
	return n.command(ctx, "hostname", n.fqdn())
}

func (n *Node) hostnameFiles() ([]file, error) {
	old, _, err := n.read("etc/hosts")
	if err != nil {
		return nil, err
	}
	return []file{
		{"etc/hostname", n.fqdn() + "\n", 0o644},
		{"etc/hosts", n.hosts(old), 0o644},
	}, nil
}

// hosts renders /etc/hosts: our block first, then what stood there before. A
// name of the site stands in our block alone, since with "multi on" (Debian's
// /etc/host.conf) the resolver would return a stale address as well, and a node
// whose name means 127.0.1.1 cannot be a Ganeti node.
func (n *Node) hosts(old []byte) string {
	var b strings.Builder
	b.WriteString(hostsBegin + "\n")
	ours := make(map[string]bool)
	add := func(a netip.Addr, names ...string) {
		var line []string
		for _, name := range names {
			line = append(line, n.Site.FQDN(name), name)
			ours[name], ours[n.Site.FQDN(name)] = true, true
		}
		if a.IsValid() {
			fmt.Fprintf(&b, "%s\t%s\n", a, strings.Join(line, " "))
		}
	}
	service := n.Site.Service()
	if c := n.Site.Cluster; c != nil {
		add(c.Address, c.Name)
	}
	for i := range n.Site.Hosts {
		names := []string{n.Site.Hosts[i].Name}
		if &n.Site.Hosts[i] == service {
			names = append(names, n.Site.ServiceAliases()...) // so that nothing waits for DNS
		}
		add(n.Site.Hosts[i].Addresses["lan"], names...)
	}
	if !n.Host.Addresses["lan"].IsValid() { // its address comes by DHCP
		add(netip.AddrFrom4([4]byte{127, 0, 1, 1}), n.Host.Name)
	}
	b.WriteString(hostsEnd + "\n")
	rest := otherHosts(old, ours)
	if !hasLocalhost(rest) {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	b.WriteString(rest)
	return b.String()
}

// otherHosts is old without our block, without names of the site and without
// the entry for 127.0.1.1, which Debian's installer makes.
func otherHosts(old []byte, ours map[string]bool) string {
	var b strings.Builder
	// A begin whose end somebody deleted must not swallow the rest.
	closed := bytes.Contains(old, []byte(hostsEnd))
	inside := false
	for l := range bytes.Lines(old) {
		line := strings.TrimRight(string(l), "\r\n")
		switch {
		case strings.HasPrefix(line, "# BEGIN sci-agent"):
			inside = closed
		case strings.HasPrefix(line, hostsEnd):
			inside = false
		case inside:
		default:
			if line, keep := otherHost(line, ours); keep {
				b.WriteString(line + "\n")
			}
		}
	}
	return b.String()
}

func otherHost(line string, ours map[string]bool) (string, bool) {
	entry, comment, _ := strings.Cut(line, "#")
	fields := strings.Fields(entry)
	if len(fields) < 2 {
		return line, true // blank or a comment
	}
	kept := fields[:1:1]
	for _, name := range fields[1:] {
		if !ours[strings.ToLower(name)] {
			kept = append(kept, name)
		}
	}
	switch {
	case fields[0] == "127.0.1.1", len(kept) == 1:
		return "", false
	case len(kept) == len(fields):
		return line, true
	}
	line = kept[0] + "\t" + strings.Join(kept[1:], " ")
	if comment != "" {
		line += " #" + comment
	}
	return line, true
}

func hasLocalhost(hosts string) bool {
	for l := range strings.Lines(hosts) {
		entry, _, _ := strings.Cut(l, "#")
		if f := strings.Fields(entry); len(f) > 1 && f[0] == "127.0.0.1" && slices.Contains(f[1:], "localhost") {
			return true
		}
	}
	return false
}
