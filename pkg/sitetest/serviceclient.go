package sitetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/skycover/sci-cd/pkg/installtest"
)

const (
	clientName   = "sci-client"
	clientMemory = 512  // MiB
	clientDisk   = 3072 // MiB
	leaseName    = "sci-lease"
	clientOS     = "sci+instance"
)

// client is an instance that an admin makes: of our OS definition, with an
// address that DHCP gives it.
type client struct{ machine }

// beginClient has the cluster begin to make the client, which takes a while: it
// goes on beside the questions.
func (i *inspection) beginClient(ctx context.Context) error {
	err := i.ask(ctx, i.at(i.master), installtest.Question{Name: "the OS definitions are on all nodes", Want: "sci+service, " + clientOS, Script: "gnt-os list --no-headers", Judge: definitions})
	if err != nil {
		return err
	}
	network, err := i.clientNetwork()
	if err != nil {
		return err
	}
	return i.ask(ctx, i.at(i.master), installtest.Question{Name: "gnt-instance add of a client is begun", Want: clientOS + " on " + i.other.host.Name,
		Script: beginClientScript(i.dir, i.fqdn(clientName), i.fqdn(i.other.host.Name), network), Judge: any0})
}

// clientNetwork is the client's card, as gnt-instance takes it: without an address
// where there is DHCP.
func (i *inspection) clientNetwork() (string, error) {
	if i.s.leases() {
		return "link=lan", nil
	}
	a, err := i.t.freeAddress()
	if err != nil {
		return "", err
	}
	return "link=lan,ip=" + a.Addr().String(), nil
}

// beginClientScript has a unit make the instance, three times where Ganeti's own
// limits were too short, as addScript does. The last line of its log is the
// status.
func beginClientScript(dir, name, node, network string) string {
	return fmt.Sprintf(`set -e
cat >%[1]s/add-client <<'END'
for try in 1 2 3; do
	out=$(gnt-instance add -t plain -n '%[3]s' -o %[7]s --disk 0:size=%[4]d -B memory=%[5]d,vcpus=1 --net '0:%[6]s' '%[2]s' 2>&1) && status=0 || status=$?
	echo "$out"
	test $status -ne 0 || break
	case $out in *"Error 28"* | *"timed out"* | *"failed to start"*) ;; *) break ;; esac
	gnt-instance remove -f --ignore-failures '%[2]s' 2>&1 || true
	sleep 10
done
echo "status: $status"
END
systemctl stop sci-client.service 2>/dev/null || true
: >%[1]s/client.log
systemd-run --quiet --collect --unit=sci-client sh -c 'exec sh %[1]s/add-client >%[1]s/client.log 2>&1' 2>&1`, dir, name, node, clientDisk, clientMemory, network, clientOS)
}

// clientReady waits for the client: made, running, with an address, reachable, set
// up.
func (i *inspection) clientReady(ctx context.Context) error {
	err := i.wait(ctx, i.at(i.master), installtest.Question{Name: "the client is made", Want: "status 0", Script: "cat " + i.dir + "/client.log"}, added)
	if err != nil {
		return err
	}
	address, err := i.clientAddress(ctx)
	if err != nil {
		return err
	}
	i.client = &client{machine{name: clientName, on: i.master, address: address.String()}}
	if err := i.healthy(ctx, i.client.machine); err != nil {
		return err
	}
	return i.ask(ctx, i.client.machine, installtest.Question{Name: "the client knows its name", Want: i.fqdn(clientName), Script: "hostname -f", Judge: installtest.Equal(i.fqdn(clientName))})
}

// clientAddress finds out the client's address by its name, and compares it with
// the lease of its card.
func (i *inspection) clientAddress(ctx context.Context) (netip.Addr, error) {
	if !i.s.leases() {
		p, err := i.t.freeAddress()
		return p.Addr(), err
	}
	var mac string
	err := i.ask(ctx, i.at(i.master), installtest.Question{Name: "the client's card", Want: "a MAC address", Script: "gnt-instance list --no-headers -o nic.mac/0 '" + i.fqdn(clientName) + "'",
		Judge: func(out string) string {
			if mac = strings.ToLower(strings.TrimSpace(out)); len(mac) != 17 {
				return fmt.Sprintf("%q is none", mac)
			}
			return ""
		}})
	if err != nil {
		return netip.Addr{}, err
	}
	var leased netip.Addr
	err = i.wait(ctx, i.service, installtest.Question{Name: "the client has a lease", Want: i.leaseRange(), Script: leasesScript}, func(out string) error {
		var err error
		if leased, err = leaseOf(out, mac); err == nil {
			err = i.inRange(leased)
		}
		return err
	})
	if err != nil {
		return leased, err
	}
	return leased, i.resolves(ctx, clientName, leased)
}

// leasesScript prints Kea's leases: the file, and what a clean-up of it has not
// merged yet.
const leasesScript = `cat /var/lib/kea/kea-leases4.csv.2 /var/lib/kea/kea-leases4.csv.1 /var/lib/kea/kea-leases4.csv 2>/dev/null; true`

func (i *inspection) leaseRange() string {
	return fmt.Sprintf("an address from %s to %s", i.s.From, i.s.To)
}

// inRange says whether an address is one that DHCP may give.
func (i *inspection) inRange(a netip.Addr) error {
	if a.Less(i.s.From) || i.s.To.Less(a) {
		return final(fmt.Errorf("%s is not %s", a, i.leaseRange()))
	}
	return nil
}

// resolves waits until a name is in DNS, in both directions.
func (i *inspection) resolves(ctx context.Context, name string, address netip.Addr) error {
	list := []lookup{
		{question: i.fqdn(name), kind: "A", status: "NOERROR", answer: address.String()},
		{question: address.String(), kind: "PTR", status: "NOERROR", answer: i.fqdn(name) + "."},
	}
	return i.until(ctx, i.at(i.master), installtest.Question{Name: "the name of the lease resolves", Want: i.fqdn(name) + " is " + address.String() + ", and back",
		Script: digScript("@"+i.s.address(), list), Judge: dug(list)})
}

// lease has a DHCP client of the test's own get a lease and give it back.
func (i *inspection) lease(ctx context.Context) error {
	if !i.s.leases() {
		return i.skip("a DHCP client gets a lease", "the site's DHCP is off")
	}
	n := i.at(i.other)
	if err := i.ask(ctx, n, installtest.Question{Name: "a DHCP client begins", Want: "status 0", Script: leaseScript(i.dir), Judge: any0}); err != nil {
		return err
	}
	var leased netip.Addr
	err := i.wait(ctx, n, installtest.Question{Name: "a DHCP client gets a lease", Want: i.leaseRange() + ", from " + i.s.address(), Script: "cat " + i.dir + "/lease"},
		func(out string) error {
			var err error
			if leased, err = offered(out, i.s.address()); err == nil {
				err = i.inRange(leased)
			}
			return err
		})
	if err != nil {
		return err
	}
	if err := i.resolves(ctx, leaseName, leased); err != nil {
		return err
	}
	if err := i.ask(ctx, n, installtest.Question{Name: "the lease is given back", Want: "status 0", Script: "systemctl kill --signal=USR2 sci-lease.service", Judge: any0}); err != nil {
		return err
	}
	gone := []lookup{{question: i.fqdn(leaseName), kind: "A", status: "NXDOMAIN"}, {question: leased.String(), kind: "PTR", status: "NXDOMAIN"}}
	return i.until(ctx, i.at(i.master), installtest.Question{Name: "the name of the lease goes", Want: "neither name nor address is known",
		Script: digScript("@"+i.s.address(), gone), Judge: dug(gone)})
}

// leaseScript starts a DHCP client in a network namespace: busybox, which every
// machine of ours has.
func leaseScript(dir string) string {
	return "systemctl stop sci-lease.service 2>/dev/null || true\nrm -f " + dir + "/lease\n" + spaceScript(leaseSpace, leaseLink, leaseMAC) +
		fmt.Sprintf("systemd-run --quiet --collect --unit=sci-lease ip netns exec '%s' busybox udhcpc -f -i eth0 -s %s/lease.sh -x hostname:%s -t 20 -T 10 -A 5 2>&1", leaseSpace, dir, leaseName)
}

// leaseProgram is what udhcpc calls (udhcpc's own documentation: the event is the
// first argument, the rest is in the environment).
func leaseProgram(dir string) string {
	return fmt.Sprintf(`#!/bin/sh
# shellcheck disable=SC2154 # udhcpc sets them
case $1 in
deconfig) ip addr flush dev "$interface" ;;
bound | renew)
	ip addr replace "$ip/$mask" dev "$interface"
	for field in "address: $ip" "server: $serverid" "router: $router" "dns: $dns" "domain: $domain" "seconds: $lease"; do
		echo "$field"
	done >%[1]s/lease.new
	mv %[1]s/lease.new %[1]s/lease
	;;
esac
`, dir)
}

// withClient has a part done if the client is there.
func (i *inspection) withClient(name string, do func(machine) error) error {
	if i.client == nil {
		return i.skip(name, "there is no client")
	}
	return do(i.client.machine)
}

// clientPackages shows that a new instance gets packages as it is, with no change.
func (i *inspection) clientPackages(ctx context.Context) error {
	return i.withClient("the client's packages", func(m machine) error { return i.packages(ctx, m, "") })
}

// clientNames asks by the client's own resolver. It needs dig, which the client
// gets from clientPackages.
func (i *inspection) clientNames(ctx context.Context) error {
	return i.withClient("the client's names", func(m machine) error {
		if err := i.digs(ctx, m, ""); err != nil {
			return err
		}
		if err := i.connect(ctx, true); err != nil {
			return err
		}
		return errors.Join(i.forwarded(ctx, m, ""), i.connect(ctx, false))
	})
}

func (i *inspection) clientPuppet(ctx context.Context) error {
	return i.withClient("the client's Puppet", func(m machine) error {
		return errors.Join(i.catalogue(ctx, m), i.ask(ctx, m, clockQuestion(i.s.address())))
	})
}

func (i *inspection) removeClient(ctx context.Context) error {
	return i.withClient("the client is removed", func(machine) error {
		return i.ask(ctx, i.at(i.master), installtest.Question{Name: "gnt-instance remove of the client", Want: "status 0",
			Script: "gnt-instance remove -f --shutdown-timeout=60 '" + i.fqdn(clientName) + "' 2>&1", Judge: any0})
	})
}
