package agent

import (
	"context"
	"strings"
)

const (
	variantsFile = "etc/ganeti/instance-debootstrap/variants.list"
	variantFile  = "etc/ganeti/instance-debootstrap/variants/sci.conf"
	variant      = "sci"
)

// osDone reports whether this node has the site's definition of an operating
// system for instances, debootstrap+sci: Debian from the copy of the medium.
// Ganeti wants it on all nodes alike.
func (n *Node) osDone(context.Context) (bool, error) {
	files, err := n.osFiles()
	if err != nil {
		return false, err
	}
	return n.allSame(files, nil)
}

func (n *Node) osDo(context.Context) error {
	files, err := n.osFiles()
	if err != nil {
		return err
	}
	_, err = n.put(files, nil)
	return err
}

func (n *Node) osFiles() ([]file, error) {
	old, _, err := n.read(variantsFile)
	if err != nil {
		return nil, err
	}
	list := string(old)
	if !hasLine(list, variant) {
		list = addLine(list, variant)
	}
	return []file{
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
	}, nil
}

func hasLine(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.TrimSpace(l) == line {
			return true
		}
	}
	return false
}
