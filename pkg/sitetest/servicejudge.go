package sitetest

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What is here judges texts and asks nobody: of gnt-instance(8), ss(8), dig(1),
// apt-get(8), puppet-agent(8), chronyd(8) and Kea's memfile of leases.

// serviceRuns judges serviceScript: running, on two different nodes where there
// are two.
func serviceRuns(name string, nodes int) func(string) string {
	return func(out string) string {
		f := strings.Fields(out)
		if len(f) < 4 || f[0] != name {
			return fmt.Sprintf("there is no instance %s: %q", name, strings.TrimSpace(out))
		}
		switch status, template, primary := f[1], f[2], f[3]; {
		case status != "running":
			return "its status is " + status
		case nodes == 1 && template != "plain":
			return "its disk is " + template + " on a site of one node"
		case nodes == 1:
			return ""
		case template != "drbd":
			return "its disk is " + template
		case len(f) != 5 || f[4] == primary || strings.Contains(f[4], ","):
			return fmt.Sprintf("its secondary is %q, its primary %q", strings.Join(f[4:], " "), primary)
		}
		return ""
	}
}

// definitions judges `gnt-os list`: one that is not valid on every node is not
// listed.
func definitions(out string) string {
	for _, want := range []string{"sci+service", clientOS} {
		if !slices.Contains(strings.Fields(out), want) {
			return want + " is missing, or not valid on every node"
		}
	}
	return ""
}

// added judges the log of beginClientScript.
func added(out string) error {
	switch status, ok := fields(out)["status"]; {
	case !ok:
		return errors.New("it is being made")
	case status != "0":
		return final(fmt.Errorf("gnt-instance add ended with status %s: %s", status, last(out, 2)))
	}
	return nil
}

// last is a text's last lines but the n-1 behind it.
func last(out string, n int) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return strings.TrimSpace(lines[max(0, len(lines)-n)])
}

// listener is a socket that waits for others.
type listener struct {
	proto, program string
	port           int  // 0: any, of the kernel's choice
	loopback       bool // only there
	needed         bool
}

func (l listener) String() string {
	port, where := strconv.Itoa(l.port), ""
	if l.port == 0 {
		port = "any"
	}
	if l.loopback {
		where = " on loopback"
	}
	return fmt.Sprintf("%s %s %s%s", l.program, l.proto, port, where)
}

// listeners is the list of what may listen on a service machine.
func listeners(dhcp bool) []listener {
	list := []listener{
		{proto: "tcp", program: "sshd", port: 22, needed: true},
		{proto: "tcp", program: "named", port: 53, needed: true},
		{proto: "udp", program: "named", port: 53, needed: true},
		{proto: "tcp", program: "named", port: 953, loopback: true},
		{proto: "udp", program: "chronyd", port: 123, needed: true},
		{proto: "udp", program: "chronyd", port: 323, loopback: true},
		// systemd listens, and starts approx for each connection.
		{proto: "tcp", program: "systemd", port: 9999, needed: true},
		{proto: "tcp", program: "java", port: 8140, needed: true},
	}
	if dhcp {
		list = append(list,
			listener{proto: "udp", program: "kea-dhcp4", port: 67, needed: true},
			listener{proto: "udp", program: "kea-dhcp-ddns", port: 53001, loopback: true},
			// The other end of its talk with kea-dhcp-ddns.
			listener{proto: "udp", program: "kea-dhcp4", loopback: true})
	}
	return list
}

func describeListeners(list []listener) string {
	var names []string
	for _, l := range list {
		names = append(names, l.String())
	}
	return strings.Join(names, ", ")
}

// onlyListeners judges `ss -Hltnup`: what listens is on the list, and what is
// needed listens.
func onlyListeners(list []listener) func(string) string {
	return func(out string) string {
		var problems []string
		seen := make([]bool, len(list))
		for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
			heard, err := parseListener(line)
			if err != nil {
				return err.Error()
			}
			i := slices.IndexFunc(list, heard.fits)
			if i >= 0 {
				seen[i] = true
				continue
			}
			if p := "the site does not name " + heard.String(); !slices.Contains(problems, p) {
				problems = append(problems, p)
			}
		}
		for i, l := range list {
			if l.needed && !seen[i] {
				problems = append(problems, "nothing listens as "+l.String())
			}
		}
		return strings.Join(problems, "; ")
	}
}

// fits says whether a socket that was seen is one on the list.
func (l listener) fits(allowed listener) bool {
	return l.proto == allowed.proto && l.program == allowed.program && (allowed.port == 0 || allowed.port == l.port) && (l.loopback || !allowed.loopback)
}

// parseListener reads a line of ss: protocol, state, two queues, local and peer
// address, processes.
func parseListener(line string) (listener, error) {
	f := strings.Fields(line)
	if len(f) < 6 {
		return listener{}, fmt.Errorf("cannot read a line of ss: %q", line)
	}
	at := strings.LastIndexByte(f[4], ':')
	if at < 0 {
		return listener{}, fmt.Errorf("cannot read a line of ss: no port in %q", line)
	}
	port, err := strconv.Atoi(f[4][at+1:])
	if err != nil {
		return listener{}, fmt.Errorf("cannot read a line of ss: no port in %q", line)
	}
	address, _, _ := strings.Cut(strings.Trim(f[4][:at], "[]"), "%")
	ip, err := netip.ParseAddr(address)
	l := listener{proto: f[0], port: port, loopback: err == nil && ip.IsLoopback(), program: "somebody"}
	if m := regexp.MustCompile(`users:\(\("([^"]+)"`).FindStringSubmatch(line); m != nil {
		l.program = m[1]
	}
	return l, nil
}

// lookup is a question to DNS and what must come of it.
type lookup struct {
	question string // a name; of PTR an address
	kind     string // A or PTR
	status   string // as dig prints it
	answer   string // the only one of its kind; empty: none
}

// heading stands before what dig says to a question.
func (l lookup) heading() string { return "== " + l.question + " " + l.kind }

// digScript asks the questions one after the other.
func digScript(server string, list []lookup) string {
	var b strings.Builder
	b.WriteString("ask() { echo \"== $1 $2\"; shift 2; dig +tries=3 +time=20 +noall +comments +answer " + server + " \"$@\" 2>&1; }\n")
	for _, l := range list {
		question := fmt.Sprintf("'%s' %s", l.question, l.kind)
		if l.kind == "PTR" {
			question = fmt.Sprintf("-x '%s'", l.question)
		}
		fmt.Fprintf(&b, "ask '%s' %s %s\n", l.question, l.kind, question)
	}
	return b.String() + "true"
}

var digStatus = regexp.MustCompile(`;; ->>HEADER<<- opcode: QUERY, status: (\w+),`)

// dug judges digScript: every answer is as it should be.
func dug(list []lookup) func(string) string {
	return func(out string) string {
		said := make(map[string]string)
		for _, section := range strings.Split("\n"+out, "\n== ")[1:] {
			heading, text, _ := strings.Cut(section, "\n")
			said["== "+strings.TrimSpace(heading)] = text
		}
		var problems []string
		for _, l := range list {
			if p := l.problem(said[l.heading()]); p != "" {
				problems = append(problems, fmt.Sprintf("%s %s: %s", l.question, l.kind, p))
			}
		}
		return strings.Join(problems, "; ")
	}
}

// problem judges what dig said to one question.
func (l lookup) problem(text string) string {
	m := digStatus.FindStringSubmatch(text)
	if m == nil {
		return "no answer: " + cmp.Or(last(text, 1), "dig said nothing")
	}
	if m[1] != l.status {
		return fmt.Sprintf("the status is %s; want %s", m[1], l.status)
	}
	var got []string
	for _, line := range strings.Split(text, "\n") {
		// Name, TTL, class, type, data. An alias stands before its address.
		if f := strings.Fields(line); len(f) == 5 && !strings.HasPrefix(line, ";") && f[3] == l.kind {
			got = append(got, f[4])
		}
	}
	if answer := strings.Join(got, " "); answer != l.answer {
		return fmt.Sprintf("the answer is %q; want %q", answer, l.answer)
	}
	return ""
}

// aptOptions are those of every apt-get: somebody else may be at it, and without a
// terminal it is to say what it does line by line.
const aptOptions = "-q -o DPkg::Lock::Timeout=1800 -o Dpkg::Use-Pty=0"

func updateScript(options string) string {
	return "apt-get " + aptOptions + " " + options + ` update 2>&1
echo "status: $?"`
}

// installScript has the package fetched, whether it is installed already or not.
func installScript(options, name string) string {
	return fmt.Sprintf(`apt-get clean
apt-get %s %s install -y --no-install-recommends --reinstall '%s' 2>&1
echo "status: $?"`, aptOptions, options, name)
}

// aptProblem finds what apt has to complain about.
func aptProblem(out string) string {
	if m := regexp.MustCompile(`(?m)^(Err:|W:|E:).*$`).FindString(out); m != "" {
		return m
	}
	if status := fields(out)["status"]; status != "0" {
		return fmt.Sprintf("the status is %q", status)
	}
	return ""
}

// approx is where the machines of a site have Debian from.
func approx(domain string) string { return "http://apt." + domain + ":9999/" }

// updated judges updateScript: both archives were asked for, of approx.
func updated(domain string) func(string) string {
	return func(out string) string {
		if p := aptProblem(out); p != "" {
			return p
		}
		for _, what := range []string{"debian", "site"} {
			if !regexp.MustCompile(`(?m)^(Get|Hit):\d+ ` + regexp.QuoteMeta(approx(domain)+what) + ` \S+ InRelease`).MatchString(out) {
				return "no InRelease came from " + approx(domain) + what
			}
		}
		return ""
	}
}

// fetched finds the line in which apt fetches a package from approx: source, suite,
// architecture, package.
func fetched(domain, name string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^Get:\d+ ` + regexp.QuoteMeta(approx(domain)) + `\S+ \S+ \S+ ` + regexp.QuoteMeta(name) + ` `)
}

// installed judges installScript: the package came from approx and was set up. It
// is not enough that apt is content: a package that it cannot fetch it calls not
// to be reinstalled, with status 0.
func installed(domain, name string) func(string) string {
	return func(out string) string {
		switch p := aptProblem(out); {
		case p != "":
			return p
		case !fetched(domain, name).MatchString(out):
			return name + " was not fetched from approx"
		case !regexp.MustCompile(`(?m)^Setting up ` + regexp.QuoteMeta(name) + ` `).MatchString(out):
			return name + " was not set up"
		}
		return ""
	}
}

// refusedPackage judges installScript of a forged package.
func refusedPackage(name string) func(string) string {
	return func(out string) string {
		switch {
		case regexp.MustCompile(`(?m)^(Unpacking|Setting up) ` + regexp.QuoteMeta(name) + ` `).MatchString(out):
			return "it was installed"
		case fields(out)["status"] == "0":
			return "the status is 0"
		case !strings.Contains(out, "Hash Sum mismatch"):
			return "it was not refused for its hash: " + cmp.Or(aptProblem(out), "apt says nothing")
		}
		return ""
	}
}

// unavailable judges installScript of a package that cannot be had.
func unavailable(name string) func(string) string {
	return func(out string) string {
		switch {
		case strings.Contains(out, "Unable to locate package"):
			return "apt does not know " + name + ": Debian's lists are not there"
		case fields(out)["status"] == "0":
			return "the status is 0"
		case !regexp.MustCompile(`(?m)^E: Failed to fetch .*/` + regexp.QuoteMeta(name) + `_`).MatchString(out):
			return "it did not fail for want of the package: " + cmp.Or(aptProblem(out), "apt says nothing")
		}
		return ""
	}
}

// forgeScript changes some bytes of a package in approx's cache, and no more: its
// length and its name stay.
func forgeScript(name string) string {
	return fmt.Sprintf(`set -e
n=0
# shellcheck disable=SC2044 # no such name has a space
for f in $(find /var/cache/approx -name '%s_*.deb'); do
	cp -p "$f" "$f.sci-test"
	printf 'forged by a test' | dd of="$f" bs=1 seek=5000 conv=notrunc 2>/dev/null
	cmp -s "$f" "$f.sci-test" || n=$((n + 1))
done
echo "forged: $n"`, name)
}

func forgery(out string) string {
	if n, err := strconv.Atoi(fields(out)["forged"]); err != nil || n == 0 {
		return "there is no such package in the seed"
	}
	return ""
}

func mendScript(name string) string {
	return fmt.Sprintf(`set -e
# shellcheck disable=SC2044 # no such name has a space
for f in $(find /var/cache/approx -name '%s_*.deb.sci-test'); do mv "$f" "${f%%.sci-test}"; done`, name)
}

// puppetScript waits for a run that is under way, as the machine's own may be.
const puppetScript = `puppet agent --test --color=false --waitforlock 600 --maxwaitforlock 3600 2>&1
echo "status: $?"`

// puppetRan judges puppetScript: 0 says that nothing was changed, 2 that all that
// was to be changed was (puppet-agent(8), --detailed-exitcodes).
func puppetRan(again bool) func(string) string {
	return func(out string) string {
		if m := regexp.MustCompile(`(?m)^Error: .*$`).FindString(out); m != "" {
			return m
		}
		changed := regexp.MustCompile(`(?m)^Notice: /Stage.*$`).FindString(out)
		switch status := fields(out)["status"]; {
		case status != "0" && status != "2":
			return fmt.Sprintf("the status is %q", status)
		case !strings.Contains(out, "Notice: Applied catalog in "):
			return "no catalogue was applied"
		case again && status != "0":
			return "it changes something again: " + changed
		}
		return ""
	}
}

// clocked judges `chronyd -Q`.
func clocked(out string) string {
	m := regexp.MustCompile(`System clock wrong by (-?[0-9.]+) seconds`).FindStringSubmatch(out)
	if m == nil {
		return "it does not answer: " + last(out, 1)
	}
	if off, err := strconv.ParseFloat(m[1], 64); err != nil || math.Abs(off) >= time.Second.Seconds() {
		return fmt.Sprintf("the clocks are %s s apart", m[1])
	}
	return ""
}

// leaseOf reads Kea's leases: the last line of a card counts. Its columns are
// named in the first line.
func leaseOf(out, mac string) (netip.Addr, error) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	names := strings.Split(strings.TrimSpace(lines[0]), ",")
	address, card, valid, state := slices.Index(names, "address"), slices.Index(names, "hwaddr"), slices.Index(names, "valid_lifetime"), slices.Index(names, "state")
	if min(address, card, valid, state) < 0 {
		return netip.Addr{}, errors.New("these are no leases of Kea's")
	}
	for _, line := range slices.Backward(lines) {
		f := strings.Split(strings.TrimSpace(line), ",")
		if len(f) <= max(address, card, valid, state) || !strings.EqualFold(f[card], mac) {
			continue
		}
		if f[valid] == "0" || f[state] != "0" {
			return netip.Addr{}, errors.New("its lease is over")
		}
		return netip.ParseAddr(f[address])
	}
	return netip.Addr{}, fmt.Errorf("there is no lease of %s", mac)
}

// offered reads what a DHCP client was given.
func offered(out, server string) (netip.Addr, error) {
	v := fields(out)
	a, err := netip.ParseAddr(v["address"])
	switch {
	case err != nil:
		return a, errors.New("there is no lease yet")
	case v["server"] != server:
		return a, final(fmt.Errorf("the lease is from %q; want %s", v["server"], server))
	case v["dns"] == "" || v["router"] == "" || v["domain"] == "":
		return a, final(fmt.Errorf("the lease lacks a name server, a router or a domain: %q", out))
	case !slices.Contains(strings.Fields(v["dns"]), server):
		return a, final(fmt.Errorf("the lease names %s for DNS; want %s", v["dns"], server))
	}
	return a, nil
}
