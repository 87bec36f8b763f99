package agent

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

const (
	mediumDir     = "media/sci"
	mediumKeyring = "etc/apt/keyrings/sci-site.gpg"
	mediumSources = "etc/apt/sources.list.d/sci-medium.sources"
	debianSources = "etc/apt/sources.list.d/sci-debian.sources"
	debianKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// aptDone reports whether apt's sources are what the site file says and the
// copy of the medium is there.
func (n *Node) aptDone(context.Context) (bool, error) {
	if n.mediumLost() {
		return false, nil
	}
	return n.allSame(n.aptFiles(), nil)
}

func (n *Node) aptDo(ctx context.Context) error {
	if n.mediumLost() {
		if err := n.command(ctx, "mount", "/"+mediumDir); err != nil {
			return &Waiting{For: "the copy of the medium on /" + mediumDir, Err: err}
		}
	}
	_, err := n.put(n.aptFiles(), nil)
	return err
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

func (n *Node) aptFiles() []file {
	medium := n.mediumThere() && n.exists(mediumKeyring)
	return []file{
		{mediumSources, rendered("apt") + source{
			note:    "The copy of the installation medium, signed by the site's key.",
			enabled: medium, uri: "file:/" + mediumDir, suites: n.Site.Release, components: n.mediumComponents(),
			keyring: "/" + mediumKeyring,
		}.String(), 0o644},
		{debianSources, rendered("apt") + debian(n.Site), 0o644},
	}
}

// debian is the site's mirrors of Debian. Without mirrors in the site file they
// are the public ones, switched off: a machine that the site file gives no way
// out must not wait for one at each apt update.
func debian(s *site.Site) string {
	m, named := s.Mirrors, s.Mirrors != site.Mirrors{}
	note := "Debian's mirrors, as the site file names them."
	if !named {
		note = "The site file names no mirrors, so Debian's public ones are switched off.\n# Name them in the site file (mirrors: main:, security:) to switch them on."
	}
	if m.Main == "" {
		m.Main = "http://ftp.debian.org/debian"
	}
	if m.Security == "" {
		m.Security = "http://security.debian.org/debian-security"
	}
	if m.Updates == "" {
		m.Updates = m.Main
	}
	one := source{enabled: named, components: "main non-free-firmware", keyring: debianKeyring}
	parts := []source{one, one, one}
	parts[0].note = note
	parts[0].uri, parts[0].suites = m.Main, s.Release
	parts[1].uri, parts[1].suites = m.Updates, s.Release+"-updates"
	parts[2].uri, parts[2].suites = m.Security, s.Release+"-security"
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
}

func (s source) String() string {
	var b strings.Builder
	if s.note != "" {
		b.WriteString("# " + s.note + "\n")
	}
	b.WriteString("Types: deb\n")
	fmt.Fprintf(&b, "URIs: %s\nSuites: %s\nComponents: %s\nSigned-By: %s\n", s.uri, s.suites, s.components, s.keyring)
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
