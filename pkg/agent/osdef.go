package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

const (
	variantsFile = "etc/ganeti/instance-debootstrap/variants.list"
	variantFile  = "etc/ganeti/instance-debootstrap/variants/sci.conf"
	variant      = "sci"
	// osDir is where Ganeti looks for what an admin brought (os-search-path).
	osDir = "srv/ganeti/os/" + osName + "/"
)

// osDone reports whether this node has the site's definitions of operating systems
// for instances: debootstrap+sci, a bare Debian from the copy of the medium, and
// sci+CLASS, machines of the site. Ganeti wants them on all nodes alike.
func (n *Node) osDone(context.Context) (bool, error) {
	files, stale, err := n.osFiles()
	if err != nil {
		return false, err
	}
	return n.allSame(files, stale)
}

func (n *Node) osDo(context.Context) error {
	files, stale, err := n.osFiles()
	if err != nil {
		return err
	}
	_, err = n.put(files, stale)
	return err
}

func (n *Node) osFiles() (files []file, stale []string, err error) {
	old, _, err := n.read(variantsFile)
	if err != nil {
		return nil, nil, err
	}
	list := string(old)
	if !hasLine(list, variant) {
		list = addLine(list, variant)
	}
	files = []file{
		{variantsFile, list, 0o644},
		// COMPONENTS stands unquoted on debootstrap's command line, which is how
		// the keyring gets there: the medium is signed by the site's key.
		{variantFile, rendered("os") +
			"# Debian from the copy of the installation medium, without an uplink:\n" +
			"# gnt-instance add -o debootstrap+" + variant + " …\n" +
			"MIRROR=\"file:///" + mediumDir + "\"\n" +
			"SUITE=\"" + n.Site.Release + "\"\n" +
			"COMPONENTS=\"" + strings.ReplaceAll(n.mediumComponents(), " ", ",") + " --keyring=/" + mediumKeyring + "\"\n" +
			"GENERATE_CACHE=\"no\"\n" +
			"CLEAN_CACHE=\"\"\n" +
			"CACHE_DIR=\"/var/cache/ganeti-instance-debootstrap/" + variant + "\"\n", 0o644},
	}
	ours := n.osDefinition()
	if len(n.Site.VirtualClasses()) > 0 {
		return append(files, ours...), nil, nil
	}
	for _, f := range ours {
		stale = append(stale, f.name)
	}
	return files, stale, nil
}

// osDefinition is the definition sci, ganeti-os-interface(7): a variant for each
// class of virtual machines, the plain one first, for Ganeti takes the first where
// none is named. Comments are not for all of its files: a line of parameters.list
// is a parameter, and one of ganeti_api_version a number.
func (n *Node) osDefinition() []file {
	classes := n.Site.VirtualClasses()
	slices.SortStableFunc(classes, func(a, b string) int { return plainFirst(a) - plainFirst(b) })
	files := []file{
		{osDir + "ganeti_api_version", "20\n", 0o644},
		{osDir + "parameters.list", "", 0o644},
		{osDir + "variants.list", rendered("os") + strings.Join(classes, "\n") + "\n", 0o644},
	}
	for _, script := range []string{"create", "import", "export", "rename", "verify"} {
		files = append(files, file{osDir + script, "#!/bin/sh\n" + rendered("os") +
			"exec /usr/sbin/sci-agent os " + script + " \"$@\"\n", 0o755})
	}
	return files
}

func plainFirst(class string) int {
	if class == site.InstanceRole {
		return 0
	}
	return 1
}

func hasLine(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.TrimSpace(l) == line {
			return true
		}
	}
	return false
}
