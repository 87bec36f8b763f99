package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

const (
	puppetserver    = "puppetserver.service"
	puppetPort      = 8140
	puppetGroup     = "puppet"
	puppetCA        = "etc/puppet/puppetserver/ca"
	puppetSSL       = "var/lib/puppet/ssl"
	puppetSiteData  = "etc/puppet/code/environments/production/data/site.json"
	puppetPolicy    = "etc/sci/puppet/autosign"
	webserverConf   = "etc/puppet/puppetserver/conf.d/webserver.conf"
	productConf     = "etc/puppet/puppetserver/conf.d/product.conf"
	puppetAliasName = "puppet"
	// caForming is there while the certificate authority is made: what it left is
	// worth nothing if it was cut off.
	caForming = "var/lib/sci/puppet-ca.forming"
	// puppetApplied is the digest of the files that the server runs with.
	puppetApplied = "var/lib/sci/puppetserver.applied"
)

// puppetserverDone reports whether the site's Puppet server runs, at boot too,
// with the site's data and an authority of its own.
func (n *Node) puppetserverDone(ctx context.Context) (bool, error) {
	settings, data, err := n.puppetserverFiles()
	if err != nil {
		return false, err
	}
	if ok, err := n.allSame(append(settings, data), nil); !ok || err != nil {
		return false, err
	}
	if ok, err := n.authorityShared(); !ok || err != nil {
		return false, err
	}
	if !n.hasCA() || n.oneLine(puppetApplied) != digest(settings) {
		return false, nil
	}
	u, err := n.unit(ctx, puppetserver)
	return err == nil && u.enabled && u.active && n.answers(ctx, n.Host.Addresses[lan], puppetPort), err
}

func (n *Node) puppetserverDo(ctx context.Context) error {
	settings, data, err := n.puppetserverFiles()
	if err != nil {
		return err
	}
	if err := n.shareAuthority(); err != nil {
		return err
	}
	if _, err := n.put(append(settings, data), nil); err != nil {
		return err
	}
	if err := n.makeCA(ctx); err != nil {
		return err
	}
	u, err := n.unit(ctx, puppetserver)
	if err != nil {
		return err
	}
	applied := n.oneLine(puppetApplied) == digest(settings)
	switch {
	case u.active && !applied:
		err = n.command(ctx, "systemctl", "restart", puppetserver)
	case !u.active:
		n.say("starting the Puppet server: this takes minutes")
		err = n.command(ctx, "systemctl", "start", puppetserver)
	}
	if err != nil {
		return hint.New(err, "see: journalctl -u "+puppetserver+", and /var/log/puppetserver/puppetserver.log")
	}
	if !u.enabled {
		if err := n.command(ctx, "systemctl", "enable", puppetserver); err != nil {
			return err
		}
	}
	if err := writeFile(n.path(puppetApplied), []byte(digest(settings)+"\n"), 0o644); err != nil {
		return err
	}
	if !n.answers(ctx, n.Host.Addresses[lan], puppetPort) {
		return &Waiting{For: fmt.Sprintf("the Puppet server to answer at %s", n.Host.Addresses[lan])}
	}
	return nil
}

// puppetserverFiles are the server's settings, with which it has to be started
// anew, and the site's data, which it reads for each catalogue.
func (n *Node) puppetserverFiles() (settings []file, data file, err error) {
	text, err := hieraData(n.Site)
	if err != nil {
		return nil, file{}, err
	}
	settings = []file{
		{puppetConf, n.puppetConf(), 0o644},
		{webserverConf, rendered("puppetserver") + "webserver: {\n" +
			"    access-log-config: /etc/puppet/puppetserver/request-logging.xml\n" +
			"    client-auth: want\n" +
			"    # The machine itself comes to this address too.\n" +
			"    ssl-host: " + n.Host.Addresses[lan].String() + "\n" +
			"    ssl-port: " + strconv.Itoa(puppetPort) + "\n}\n", 0o644},
		{productConf, rendered("puppetserver") + "# The server tells nobody that it is there.\n" +
			"product: { check-for-updates: false }\ndropsonde: { enabled: false }\n", 0o644},
		// Behind "--" no name of a machine is taken for an option.
		{puppetPolicy, "#!/bin/sh\n" + rendered("puppetserver") +
			"exec /usr/sbin/sci-agent autosign --domain " + n.Site.Domain + " -- \"$1\"\n", 0o755},
	}
	return settings, file{puppetSiteData, text, 0o644}, nil
}

// digest is that of files, names and modes included.
func digest(files []file) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s %o %d\n%s", f.name, f.mode, len(f.data), f.data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hieraData is what the manifests know of the site: no secrets.
func hieraData(s *site.Site) (string, error) {
	type admin struct {
		Name string   `json:"name"`
		Keys []string `json:"keys"`
	}
	roles := make(map[string]string)
	for _, h := range s.Hosts {
		roles[s.FQDN(h.Name)] = h.Role
	}
	admins := []admin{}
	for _, a := range s.Admins {
		x := admin{Name: a.Name, Keys: []string{}}
		for _, k := range a.SSHKeys {
			x.Keys = append(x.Keys, literal(k))
		}
		admins = append(admins, x)
	}
	m := map[string]any{
		"sci::note": strings.TrimSpace(strings.TrimPrefix(rendered("puppetserver"), "# ")),
		// By their names in the class sci.
		"sci::locale": s.Locale, "sci::timezone": s.Timezone, "sci::admins": admins, "sci::roles": roles,
	}
	if s.Mail != nil {
		m["sci::mail"] = map[string]string{"root": literal(s.Mail.Root), "smarthost": s.Mail.Smarthost}
	}
	data, err := json.MarshalIndent(m, "", "  ") // keys come sorted
	return string(data) + "\n", err
}

// literal keeps Hiera from taking a part of a text for a variable.
func literal(s string) string { return strings.ReplaceAll(s, "%{", "%{literal('%')}{") }

// hasCA reports whether the certificate authority was made, to its end.
func (n *Node) hasCA() bool {
	return !n.exists(caForming) && n.exists(puppetCA+"/ca_key.pem") && n.exists(puppetCA+"/ca_crt.pem") && n.exists(n.puppetCert())
}

// makeCA makes the site's certificate authority and the server's certificate. It
// is made once: a new one would be a stranger to every machine.
func (n *Node) makeCA(ctx context.Context) error {
	if n.hasCA() {
		return nil
	}
	if n.exists(caForming) {
		n.note("step puppetserver: the making of the certificate authority was cut off; it starts again from nothing")
		for _, dir := range []string{puppetCA, puppetSSL} {
			if err := clearDir(n.path(dir)); err != nil {
				return err
			}
		}
	} else if n.exists(puppetCA + "/ca_crt.pem") {
		return Stop(errors.New("the certificate authority of the Puppet server is damaged: /"+puppetCA+" lacks its key, or this machine its certificate"),
			"bring /"+puppetCA+" and /"+puppetSSL+" back from a backup; or remove both, and on every machine run: puppet ssl clean --localca")
	}
	if err := writeFile(n.path(caForming), nil, 0o600); err != nil {
		return err
	}
	if err := n.command(ctx, "puppetserver", "ca", "setup"); err != nil {
		return err
	}
	return os.Remove(n.path(caForming))
}

// clearDir removes what is in a directory; a missing one is empty.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(path.Join(dir, e.Name())))
	}
	return err
}

// authorityShared reports whether the server may read the key of challenges, and
// nobody else but root.
func (n *Node) authorityShared() (bool, error) {
	data, there, err := n.read(enrol.ChallengeKeyFile)
	if err == nil && !there {
		err = errors.New("it is missing")
	}
	if err == nil {
		_, err = enrol.ParseChallengeKey(data)
	}
	if err != nil {
		return false, Stop(fmt.Errorf("cannot tell by which challenges machines enrol: /%s: %w", enrol.ChallengeKeyFile, err),
			"copy the file from a node of the cluster; it is the same on all of them")
	}
	if ok, err := n.lent(path.Dir(enrol.ChallengeKeyFile), puppetGroup, os.ModeDir|0o750); !ok || err != nil {
		return false, err
	}
	return n.lent(enrol.ChallengeKeyFile, puppetGroup, 0o640)
}

func (n *Node) shareAuthority() error {
	if ok, err := n.authorityShared(); ok || err != nil {
		return err
	}
	if err := n.lend(enrol.ChallengeKeyFile, puppetGroup, 0o640); err != nil {
		return err
	}
	return n.lend(path.Dir(enrol.ChallengeKeyFile), puppetGroup, 0o750)
}
