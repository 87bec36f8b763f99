package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

const (
	mediumDir      = "media/sci"
	mediumKeyring  = "etc/apt/keyrings/sci-site.gpg"
	mediumSources  = "etc/apt/sources.list.d/sci-medium.sources"
	debianSources  = "etc/apt/sources.list.d/sci-debian.sources"
	serviceSources = "etc/apt/sources.list.d/sci-service.sources"
	serviceApt     = "etc/apt/apt.conf.d/50sci-service"
	// serviceAnswered is there once the service machine's package cache has
	// answered this machine.
	serviceAnswered = "var/lib/sci/service-answered"
	debianKeyring   = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// aptDone reports whether apt's sources are what the site file says and the
// copy of the medium is there.
func (n *Node) aptDone(context.Context) (bool, error) {
	if n.mediumLost() {
		return false, nil
	}
	return n.allSame(n.aptFiles())
}

func (n *Node) aptDo(ctx context.Context) error {
	if n.mediumLost() {
		if err := n.command(ctx, "mount", "/"+mediumDir); err != nil {
			return &Waiting{For: "the copy of the medium on /" + mediumDir, Err: err}
		}
	}
	_, err := n.put(n.aptFiles())
	return err
}

// sourcesDone reports whether this machine gets its packages through the service
// machine. A node cannot from the start, as it is the nodes that make the service
// machine: this step stands behind those that need it, and step apt remembers.
func (n *Node) sourcesDone(ctx context.Context) (bool, error) {
	if n.Site.Service() == nil {
		return true, nil
	}
	if !n.throughService() {
		return false, nil
	}
	return n.aptDone(ctx)
}

func (n *Node) sourcesDo(ctx context.Context) error {
	if service := n.Site.Service(); !n.throughService() {
		a := netip.AddrPortFrom(service.Addresses[lan], approxPort)
		if err := n.approxAnswers(ctx, a); err != nil {
			return &Waiting{For: fmt.Sprintf("the package cache of %s to answer at %v", service.Name, a), Err: err}
		}
		if err := writeFile(n.path(serviceAnswered), nil, 0o644); err != nil {
			return err
		}
	}
	return n.aptDo(ctx)
}

// throughService reports whether apt is to ask the service machine. Virtual
// machines live in the cluster that has it, and have no copy of the medium.
func (n *Node) throughService() bool {
	if n.Site.Service() == nil {
		return false
	}
	return n.Host.Virtual || n.Host.Role == site.InstanceRole || n.exists(serviceAnswered)
}

// mediumLost reports whether the medium's copy should be mounted and is not. A
// machine whose fstab has no such line was freed of it by its admin.
func (n *Node) mediumLost() bool {
	return n.mediumWanted() && !n.mediumThere()
}

func (n *Node) mediumWanted() bool {
	data, _, _ := n.read("etc/fstab")
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) > 1 && f[0][0] != '#' && f[1] == "/"+mediumDir {
			return true
		}
	}
	return false
}

func (n *Node) mediumThere() bool {
	_, err := os.Stat(n.path(mediumDir + "/dists/" + n.Site.Release + "/Release"))
	return err == nil
}

// aptFiles are the wanted files, and in stale those that the site does not need.
func (n *Node) aptFiles() (files []file, stale []string) {
	medium := n.mediumThere() && n.exists(mediumKeyring)
	files = []file{
		{mediumSources, rendered("apt") + source{
			note:    "The copy of the installation medium, signed by the site's key.",
			enabled: medium, uri: "file:/" + mediumDir, suites: n.Site.Release, components: n.mediumComponents(),
			keyring: "/" + mediumKeyring,
		}.String(), 0o644},
		{debianSources, rendered("apt") + debian(n.Site, n.throughService()), 0o644},
	}
	if n.Site.Service() == nil {
		return files, []string{serviceSources, serviceApt}
	}
	return append(files,
		file{serviceSources, rendered("apt") + throughCache(n.Site, n.exists(mediumKeyring), n.throughService()), 0o644},
		file{serviceApt, rendered("apt") + `# While the service machine is away, apt update must not stand still: it goes on
# with what it has.
Acquire::http::Timeout "10";
Acquire::Retries "1";
`, 0o644}), nil
}

// debian is the site's mirrors of Debian. Without mirrors in the site file they
// are the public ones, switched off: a machine that the site file gives no way
// out must not wait for one at each apt update. They are off, too, where Debian
// comes through the service machine.
func debian(s *site.Site, throughService bool) string {
	m, named := mirrors(s), s.Mirrors != site.Mirrors{}
	note := "Debian's mirrors, as the site file names them."
	switch {
	case throughService:
		note = "Debian comes through the service machine, see sci-service.sources: its mirrors are switched off here."
	case !named:
		note = "The site file names no mirrors, so Debian's public ones are switched off.\n# Name them in the site file (mirrors: main:, security:) to switch them on."
	}
	one := source{enabled: named && !throughService, components: "main non-free-firmware", keyring: debianKeyring}
	parts := []source{one, one, one}
	parts[0].note = note
	parts[0].uri, parts[0].suites = m.Main, s.Release
	parts[1].uri, parts[1].suites = m.Updates, s.Release+"-updates"
	parts[2].uri, parts[2].suites = m.Security, s.Release+"-security"
	return stanzas(parts)
}

// releaseAge is how old a Release file of the service machine may be, in
// seconds. Debian's of updates and security end a week after their date, which
// a site without an uplink would see soon; without an end a mirror, or whoever
// sits between, could pass off old packages as the newest for ever.
const releaseAge = 365 * 24 * 60 * 60

// throughCache is Debian and the site's own packages from the service machine's
// package cache. Debian's keys verify Debian, the site's key the site's.
func throughCache(s *site.Site, siteKey, enabled bool) string {
	base := fmt.Sprintf("http://%s:%d/", s.FQDN("apt"), approxPort)
	one := source{enabled: enabled, components: "main non-free-firmware", keyring: debianKeyring, age: releaseAge}
	parts := []source{one, one, one}
	parts[0].note = "The package cache of the service machine, with an uplink and without. A Release\n" +
		"# file holds for a year from its date at least: Valid-Until-Min, sources.list(5)."
	if !enabled {
		parts[0].note += "\n# It is switched on when the service machine has answered once."
	}
	parts[0].uri, parts[0].suites = base+"debian", s.Release
	parts[1].uri, parts[1].suites = base+"updates", s.Release+"-updates"
	parts[2].uri, parts[2].suites = base+"security", s.Release+"-security"
	if siteKey {
		parts = append(parts, source{
			note: "The site's own packages.", enabled: enabled, uri: base + "site", suites: s.Release,
			components: "main", keyring: "/" + mediumKeyring,
		})
	}
	return stanzas(parts)
}

func stanzas(parts []source) string {
	var text []string
	for _, p := range parts {
		text = append(text, p.String())
	}
	return strings.Join(text, "\n")
}

// source is a stanza of a deb822 sources file.
type source struct {
	note                             string
	enabled                          bool
	uri, suites, components, keyring string
	// age is how many seconds from its date a Release file holds at least; 0 is
	// what the file says. Such a source is a cache, which has what apt needs and
	// not all that the archive lists.
	age int
}

func (s source) String() string {
	var b strings.Builder
	if s.note != "" {
		b.WriteString("# " + s.note + "\n")
	}
	b.WriteString("Types: deb\n")
	fmt.Fprintf(&b, "URIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n", s.uri, s.suites, s.components, s.keyring)
	if s.age > 0 {
		fmt.Fprintf(&b, "Languages: en\nPDiffs: no\nValid-Until-Min: %d\n", s.age)
	}
	if !s.enabled {
		b.WriteString("Enabled: no\n")
	}
	return b.String()
}

// mediumComponents are those that the medium's Release file lists.
func (n *Node) mediumComponents() string {
	data, _, _ := n.read(mediumDir + "/dists/" + n.Site.Release + "/Release")
	for l := range strings.Lines(string(data)) {
		if c, ok := strings.CutPrefix(l, "Components:"); ok {
			if c = strings.Join(strings.Fields(c), " "); c != "" {
				return c
			}
		}
	}
	return "main"
}
