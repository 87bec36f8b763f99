package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// approxPort is where approx listens, Debian's default.
const approxPort = 9999

const (
	approxConf   = "etc/approx/approx.conf"
	approxListen = "etc/systemd/system/approx.socket.d/50-sci.conf"
	approxSocket = "approx.socket"
	approxClean  = "sci-approx-clean.timer"
)

// nowhere is the upstream of the site's own repository, which has none: the
// port discard of this very machine, where nobody listens.
const nowhere = "http://127.0.0.1:9/site"

// maxSigned bounds what is read of an answer to see that it is signed.
const maxSigned = 4 << 10

// mirrors are the site's, Debian's public ones where it names none.
func mirrors(s *site.Site) site.Mirrors {
	m := s.Mirrors
	if m.Main == "" {
		m.Main = "http://ftp.debian.org/debian"
	}
	if m.Security == "" {
		m.Security = "http://security.debian.org/debian-security"
	}
	if m.Updates == "" {
		m.Updates = m.Main
	}
	return m
}

// approxFiles are the cache's configuration and where its socket listens.
func (n *Node) approxFiles() ([]file, error) {
	m := mirrors(n.Site)
	var conf strings.Builder
	conf.WriteString(rendered("approx"))
	for _, r := range []struct{ name, url string }{{"debian", m.Main}, {"updates", m.Updates}, {"security", m.Security}} {
		if !plainURL(r.url) {
			return nil, Stop(fmt.Errorf("the package cache cannot take the mirror %q", r.url),
				"approx hands it to a shell: name one in the site file (mirrors:) that has letters, digits and :/._~+-%= only, and begins with http:// or https://")
		}
		fmt.Fprintf(&conf, "%-9s %s\n", r.name, strings.TrimRight(r.url, "/"))
	}
	fmt.Fprintf(&conf, `# The site's own packages come from the installation medium and nowhere else:
# nobody listens at this address.
site      %s

# Without an uplink what is there is served, however old it is; apt at the
# clients decides what is too old.
$offline  true
$interval 60
$max_wait 10
# Differences of indexes cannot be served from the medium.
$pdiffs   false
`, nowhere)
	var listen strings.Builder
	listen.WriteString(rendered("approx") + "# overlay/service has reset the list and put the loopback on it.\n[Socket]\nFreeBind=yes\n")
	for _, a := range n.approxAddresses() {
		fmt.Fprintf(&listen, "ListenStream=%s\n", a)
	}
	return []file{{approxConf, conf.String(), 0o644}, {approxListen, listen.String(), 0o644}}, nil
}

// approxAddresses are this machine's, lan first.
func (n *Node) approxAddresses() (list []netip.AddrPort) {
	for _, network := range []string{lan, backbone} {
		if a, ok := n.Host.Addresses[network]; ok {
			list = append(list, netip.AddrPortFrom(a, approxPort))
		}
	}
	return list
}

// plainURL reports whether a mirror's URL means to a shell what it means to us.
func plainURL(url string) bool {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/._~+-%="
	return (strings.HasPrefix(url, "http://") || strings.HasPrefix(url, "https://")) && strings.Trim(url, plain) == ""
}

// approxDone reports whether the cache is set up, listens, and answers with
// Debian's signed Release file.
func (n *Node) approxDone(ctx context.Context) (bool, error) {
	files, err := n.approxFiles()
	if err != nil {
		return false, err
	}
	if ok, err := n.allSame(files, nil); !ok || err != nil {
		return false, err
	}
	for _, name := range []string{approxSocket, approxClean} {
		if u, err := n.unit(ctx, name); err != nil || !u.enabled || !u.active {
			return false, err
		}
	}
	at := append([]netip.AddrPort{netip.AddrPortFrom(loopback(), approxPort)}, n.approxAddresses()...)
	for _, a := range at {
		if err := n.approxAnswers(ctx, a); err != nil {
			return false, hint.New(&Waiting{For: fmt.Sprintf("the package cache to answer at %v", a), Err: err},
				"see: journalctl -t sci-agent -t approx; systemctl status approx.socket; ls /var/cache/approx")
		}
	}
	return true, nil
}

// approxDo writes the files and starts or restarts the socket. approx reads its
// configuration for each connection.
func (n *Node) approxDo(ctx context.Context) error {
	files, err := n.approxFiles()
	if err != nil {
		return err
	}
	changed, err := n.put(files, nil)
	if err != nil {
		return err
	}
	if err := n.command(ctx, "systemctl", "daemon-reload"); err != nil {
		return err
	}
	for _, name := range []string{approxSocket, approxClean} {
		u, err := n.unit(ctx, name)
		switch {
		case err != nil:
			return err
		case !u.enabled || !u.active:
			err = n.command(ctx, "systemctl", "enable", "--now", name)
		}
		if err == nil && name == approxSocket && (changed || !u.active) {
			err = n.command(ctx, "systemctl", "restart", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// approxAnswers asks a package cache for Debian's InRelease.
func (n *Node) approxAnswers(ctx context.Context, a netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return n.dial(ctx, a) },
	}}
	url := fmt.Sprintf("http://%v/debian/dists/%s/InRelease", a, n.Site.Release)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	line, err := bufio.NewReader(io.LimitReader(answer.Body, maxSigned)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s: %w", url, err)
	}
	if strings.TrimSpace(line) != "-----BEGIN PGP SIGNED MESSAGE-----" {
		return errors.New(url + " is not signed")
	}
	return nil
}
