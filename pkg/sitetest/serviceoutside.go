package sitetest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/installtest"
)

const (
	serviceStick = "SCITESTSERVICE"
	// outsideName is a name that only the outside world knows, and what it is.
	outsideName = "www.outside.test"
	// outsideLink and leaseLink are the ends of cables in the bridge lan of a node;
	// the other end is in a network namespace of the same name, with its programs.
	outsideSpace, leaseSpace = "sci-outside", "sci-lease"
	outsideLink, leaseLink   = "sci-outside0", "sci-lease0"
	// A bridge takes the lowest address of its ports for its own, so these are high
	// ones.
	outsideMAC, leaseMAC = "fe:5c:1c:00:0f:01", "fe:5c:1c:00:0f:02"
)

// outsideAddress is documentation's own (RFC 5737): nobody has it.
var outsideAddress = netip.MustParseAddr("192.0.2.80")

// bring puts onto the nodes what the inspection uses there: the guest, which plays
// the outside world, the key and the package. They are in a directory that root
// alone reads.
func (i *inspection) bring(ctx context.Context) error {
	data, err := i.luggage()
	if err != nil {
		return err
	}
	file := filepath.Join(i.t.o.WorkDir, "service.tar")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return fmt.Errorf("cannot write what the nodes get: %w", err)
	}
	defer func() { _ = os.Remove(file) }() // it holds a key
	for _, n := range i.both() {
		if err := i.plug(ctx, n, file, data); err != nil {
			return err
		}
	}
	return nil
}

func (i *inspection) plug(ctx context.Context, n *node, file string, data []byte) error {
	if err := n.session.Machine().PlugStick(ctx, serviceStick, file); err != nil {
		return err
	}
	defer func() { _ = n.session.Machine().UnplugStick(ctx, serviceStick) }() // in nobody's way
	return i.ask(ctx, i.at(n), installtest.Question{Name: "what the test needs is brought", Want: "its bytes arrived", Script: luggageScript(i.dir, data), Judge: any0})
}

// luggage is a tar archive of what bring brings.
func (i *inspection) luggage() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name string, mode int64, data []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	err := errors.Join(add("sci-guest", 0o755, i.t.o.Guest), add("key", 0o600, i.s.Key), add("lease.sh", 0o755, []byte(leaseProgram(i.dir))))
	if err == nil && i.s.Extra != "" {
		err = fs.WalkDir(os.DirFS(i.s.Extra), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(filepath.Join(i.s.Extra, name))
			if err != nil {
				return err
			}
			return add(path.Join("outside", name), 0o644, data)
		})
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot pack what the nodes get: %w", err)
	}
	return buf.Bytes(), nil
}

func luggageScript(dir string, data []byte) string {
	return fmt.Sprintf(`set -e
umask 077
mkdir -p %[1]s
cd %[1]s
i=0
until d=$(ls /dev/disk/by-id/usb-*%[2]s* 2>/dev/null); do
	i=$((i + 1))
	test $i -lt 120 || { echo "the USB stick does not appear"; exit 1; }
	sleep 1
done
head -c %[3]d "$d" >service.tar
echo "%[4]x  service.tar" | sha256sum -c
tar -xf service.tar
rm service.tar
chmod 755 sci-guest lease.sh
ls -l`, dir, serviceStick, len(data), sha256.Sum256(data))
}

// leaveScript takes away what bring and the parts have left on a node.
func leaveScript(dir string) string {
	return fmt.Sprintf(`systemctl stop sci-lease.service sci-outside.service sci-client.service 2>/dev/null
for link in %s %s; do ip link del "$link" 2>/dev/null; done
for space in %s %s; do ip netns del "$space" 2>/dev/null; done
rm -rf %s
true`, outsideLink, leaseLink, outsideSpace, leaseSpace, dir)
}

// extraPackage is the name of the one package in a directory as a mirror shows
// it.
func extraPackage(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	var found []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".deb") {
			found = append(found, name)
		}
		return err
	})
	if err == nil && (len(found) != 1 || !strings.HasPrefix(found[0], "debian/pool/")) {
		err = fmt.Errorf("it holds %q; want one package, below debian/pool as on a mirror", found)
	}
	if err != nil {
		return "", fmt.Errorf("cannot take the package from outside from %q: %w", dir, err)
	}
	f, err := deb.Open(filepath.Join(dir, filepath.FromSlash(found[0])))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	c, err := f.Control()
	if err != nil {
		return "", err
	}
	n := slices.IndexFunc(c, func(f deb.Field) bool { return f.Name == "Package" })
	if n < 0 {
		return "", fmt.Errorf("cannot take the package from outside: %s has no name", found[0])
	}
	return c[n].Value, nil
}

// spaceScript makes a network namespace whose only card is in the node's bridge
// lan, by a cable that the node can pull: a machine of its own, as far as the
// network can tell.
func spaceScript(space, link, mac string) string {
	return fmt.Sprintf(`set -e
ip netns del '%[1]s' 2>/dev/null || true
ip link del '%[2]s' 2>/dev/null || true
ip netns add '%[1]s'
ip link add '%[2]s' address %[3]s type veth peer name eth0 netns '%[1]s'
ip link set '%[2]s' master lan
ip link set '%[2]s' up
ip -n '%[1]s' link set lo up
ip -n '%[1]s' link set eth0 up
`, space, link, mac)
}

// outsideScript starts the outside world on a node: a name server, and a mirror
// that has the medium's lists and pool and one package more.
func outsideScript(dir string, address netip.Addr, bits int) string {
	return spaceScript(outsideSpace, outsideLink, outsideMAC) + fmt.Sprintf(`ip -n '%[1]s' addr add %[2]s/%[3]d dev eth0
systemctl stop sci-outside.service 2>/dev/null || true
systemd-run --quiet --collect --unit=sci-outside ip netns exec '%[1]s' %[4]s/sci-guest outside %[2]s '%[4]s/outside,/media/sci' %[5]s=%[6]s 2>&1
i=0
until %[4]s/sci-guest get http://%[2]s/debian/sci-test 2>&1 | grep -F '404 Not Found'; do
	i=$((i + 1))
	test $i -lt 60 || { echo "the outside world does not answer"; exit 1; }
	sleep 2
done`, outsideSpace, address, bits, dir, outsideName, outsideAddress)
}

// uplinkScript plugs in the cable to the outside world, or pulls it.
func uplinkScript(up bool) string {
	state := "down"
	if up {
		state = "up"
	}
	return "ip link set '" + outsideLink + "' " + state
}

// connect has the outside world there, or not.
func (i *inspection) connect(ctx context.Context, up bool) error {
	name := "the uplink is cut"
	if up {
		name = "the uplink is there"
	}
	return i.ask(ctx, i.at(i.other), installtest.Question{Name: name, Want: "status 0", Script: uplinkScript(up), Judge: any0})
}

// outside starts the outside world, asks for a name that it alone knows, and cuts
// it off again. It is on the node that the service machine is not on, so that
// questions cross the network.
func (i *inspection) outside(ctx context.Context) error {
	lan, err := netip.ParsePrefix(i.t.o.Networks["lan"])
	if err != nil || !lan.Contains(i.s.Outside) {
		return fmt.Errorf("cannot play the outside world: %s is no address in lan, %q", i.s.Outside, i.t.o.Networks["lan"])
	}
	err = i.ask(ctx, i.at(i.other), installtest.Question{Name: "an outside world is made", Want: "a name server and a mirror at " + i.s.Outside.String(),
		Script: outsideScript(i.dir, i.s.Outside, lan.Bits()), Judge: any0})
	if err != nil {
		return err
	}
	return errors.Join(i.forwarded(ctx, i.at(i.master), "@"+i.s.address()), i.connect(ctx, false))
}

// forwarded asks a machine for a name that only the outside world knows. A name
// server that had no answer may remember that for a while.
func (i *inspection) forwarded(ctx context.Context, m machine, server string) error {
	list := []lookup{{question: outsideName, kind: "A", status: "NOERROR", answer: outsideAddress.String()}}
	return i.until(ctx, m, installtest.Question{Name: "dig answers a forwarded name" + suffix(server), Want: outsideName + " is " + outsideAddress.String(),
		Script: digScript(server, list), Judge: dug(list)})
}

// uplink has the client install a package that is not on the medium: not without
// the outside world, and with it.
func (i *inspection) uplink(ctx context.Context) error {
	const name = "apt-get install of a package that is not on the medium"
	switch {
	case i.extra == "":
		return i.skip(name, "no such package was given: see --outside")
	case i.client == nil:
		return i.skip(name, "there is no client")
	}
	m := i.client.machine
	// An earlier look may have brought it.
	err := i.ask(ctx, i.service, installtest.Question{Name: "approx has not got the package", Want: "status 0", Script: "find /var/cache/approx -name '" + i.extra + "_*' -delete", Judge: any0})
	if err != nil {
		return err
	}
	err = i.ask(ctx, m, installtest.Question{Name: name + ", no uplink", Want: i.extra + " cannot be fetched", Script: installScript("", i.extra), Judge: unavailable(i.extra)})
	if err != nil {
		return err
	}
	if err := i.connect(ctx, true); err != nil {
		return err
	}
	for _, q := range []installtest.Question{
		{Name: "apt-get update, with an uplink", Want: "Debian's lists and the site's from approx, no warning", Script: updateScript(""), Judge: updated(i.t.o.Domain)},
		{Name: name + ", with an uplink", Want: i.extra + ", from approx", Script: installScript("", i.extra), Judge: installed(i.t.o.Domain, i.extra)},
	} {
		if err = i.ask(ctx, m, q); err != nil {
			break
		}
	}
	return errors.Join(err, i.connect(ctx, false))
}
