package sitetest

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
)

// card is a network card of a host.
type card struct{ network, mac string }

// cards are one for each network that the host has an address in: lan first,
// the others by name. They get the addresses of the site file in its order, so
// that the card in lan is the one that the installer knows the machine by.
func (h Host) cards(site string) []card {
	networks := slices.Sorted(maps.Keys(h.Addresses))
	slices.SortStableFunc(networks, func(a, b string) int { return rank(a) - rank(b) })
	var list []card
	for i, n := range networks {
		mac := madeUp(site, h.Name, n)
		if i < len(h.MACs) {
			mac = h.MACs[i]
		}
		list = append(list, card{n, mac})
	}
	return list
}

func rank(network string) int {
	if network == "lan" {
		return 0
	}
	return 1
}

// madeUp is the address of a card that the site file does not know: locally
// administered (IEEE 802-2014, 8.4), always the same for one card.
func madeUp(site, host, network string) string {
	sum := sha256.Sum256([]byte(site + "/" + host + "/" + network))
	m := sum[:6]
	m[0] = m[0]&^1 | 2
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// nodes is how many of the hosts are nodes of the cluster.
func (o Options) nodes() int {
	n := 0
	for _, h := range o.Hosts {
		if h.Role == "node" {
			n++
		}
	}
	return n
}

// wiring says where the cards lead to.
func (h Host) wiring(o Options) []string {
	var list []string
	for _, c := range h.cards(o.Site) {
		list = append(list, fmt.Sprintf("%s %s (%s)", c.network, h.Addresses[c.network], c.mac))
	}
	return list
}

// jobs is how many machines are installed at the same time, as far as memory
// allows; it refuses a site that could not run as a whole.
func (o Options) jobs() (int, error) {
	if len(o.Hosts) == 0 {
		return 0, hint.New(fmt.Errorf("the site %q has no machine to install", o.Site), "its hosts are all virtual")
	}
	all := len(o.Hosts) * (o.Memory + overhead)
	if o.Free > 0 && all > o.Free {
		return 0, hint.New(fmt.Errorf("cannot run %d machines of %d MiB at the same time: they need %d MiB with QEMU's own, %d MiB are available",
			len(o.Hosts), o.Memory, all, o.Free), "give them less with --memory, or end other programs")
	}
	if o.Jobs > 0 {
		return min(o.Jobs, len(o.Hosts)), nil
	}
	n := runtime.NumCPU()
	if o.Free > 0 {
		n = min(n, o.Free/(o.InstallMemory+overhead))
	}
	return max(1, min(n, len(o.Hosts))), nil
}

// together is how many scenarios run at the same time. In emulation two machines
// of a cluster keep one processor busy: each waits for the other much of the time.
func (o Options) together() int {
	n := o.Jobs
	if n == 0 {
		n = 2 * runtime.NumCPU() / len(o.Hosts)
	}
	if o.Free > 0 {
		n = min(n, o.Free/((len(o.Hosts)+1)*(o.Memory+overhead))) // one has a machine more
	}
	return max(1, n)
}

// overhead is what QEMU takes beside the guest's memory, in MiB: translated
// code for the most part.
const overhead = 300

const meminfo = "/proc/meminfo"

// freeMemory reads MemAvailable from a file like /proc/meminfo, in MiB; 0 if it
// does not say.
func freeMemory(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }() // only read
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int
		if strings.HasPrefix(s.Text(), "MemAvailable:") {
			if _, err := fmt.Sscanf(s.Text(), "MemAvailable: %d kB", &kib); err == nil {
				return kib >> 10
			}
		}
	}
	return 0
}
