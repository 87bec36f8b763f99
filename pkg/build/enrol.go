package build

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"
)

// addCredentials puts what each node proves itself with into the initrd. It is
// derived from the site's private key, which stays where it is, and from what
// the medium is made of: the same folder gives the same bytes, and a medium
// that differs in site file or lock admits nobody to the cluster of another.
func addCredentials(t *tree.Tree, o Options, l *lock.Lock, key *pgp.Key) error {
	nodes := joining(o)
	if len(nodes) == 0 {
		return nil
	}
	siteJSON, err := o.Site.JSON()
	if err != nil {
		return err
	}
	salt := sha256.Sum256(fmt.Appendf(nil, "site %s\nlock %s\n", digest(siteJSON), digest(l.Bytes())))
	seed, err := key.Derive("sci-cd enrolment v1", salt[:])
	if err != nil {
		return err
	}
	issued, err := enrol.Issue(seed, nodes)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(issued)) {
		if err := t.AddBytes(path.Join(enrol.MediumDir, name+".json"), 0o600, issued[name].Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// joining are the machines that form the site's cluster, if it has one.
func joining(o Options) []enrol.Host {
	var list []enrol.Host
	for _, h := range o.Site.Nodes() {
		host := enrol.Host{Name: h.Name, FQDN: o.Site.FQDN(h.Name)}
		for _, network := range slices.Sorted(maps.Keys(h.Addresses)) {
			host.Addresses = append(host.Addresses, h.Addresses[network])
		}
		list = append(list, host)
	}
	return list
}
