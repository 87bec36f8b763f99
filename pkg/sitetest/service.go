package sitetest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/vm"
)

// Service is the site's service machine, an instance that the cluster makes by
// itself. It is looked at from outside: from a node, and from an instance that is
// made for it.
type Service struct {
	Host Host // Addresses are those of the site file
	// Aliases are its other names in the site's domain.
	Aliases []string
	// From and To are the first and the last address that its DHCP server leases;
	// invalid: the site's DHCP is off.
	From, To netip.Addr
	// Outside is where the site file has the name server that questions are
	// forwarded to, and the mirror: an address in lan that a part of the test
	// takes, see Extra.
	Outside netip.Addr
	// Key is a private SSH key that root of each machine of the site lets in.
	Key []byte
	// Extra is a directory as a web server of a mirror shows it, with one package
	// that is not on the medium: debian/pool/main/h/hello/hello_….deb. Empty: what
	// needs it is left out.
	Extra string
	// Uninspected says that the machine is made, and not looked at.
	Uninspected bool
}

// leases says whether DHCP is on.
func (s *Service) leases() bool { return s.From.IsValid() && s.To.IsValid() }

// address is the machine's address in lan.
func (s *Service) address() string { return s.Host.Addresses["lan"] }

// unready says why a site with a service machine cannot be tested here.
func (t *test) unready() error {
	s := t.o.Service
	switch {
	case s == nil:
		return nil
	case t.o.Accel != vm.KVM && t.qemu.Major < nested:
		return hint.New(fmt.Errorf("the site has a service machine, %s: QEMU %v cannot start instances inside emulated nodes", s.Host.Name, t.qemu),
			fmt.Sprintf("QEMU %d can: see --qemu-root", nested))
	case !s.Uninspected && len(t.o.Guest) == 0:
		return hint.New(fmt.Errorf("cannot look at the service machine %s: this sci-cd carries no guest", s.Host.Name), "build it with make, or leave --service out")
	case !s.Uninspected && len(s.Key) == 0:
		return hint.New(fmt.Errorf("cannot look at the service machine %s without a key for root", s.Host.Name),
			"name the private key of one of root.sshKeys of the site file with --ssh-key, or leave --service out")
	}
	return nil
}

// inspects says whether there is a service machine to look at.
func (o Options) inspects() bool { return o.Service != nil && !o.Service.Uninspected }

// inspection is a look at the service machine. It costs the site nothing that it
// does not get back: what it makes is taken away in the end.
type inspection struct {
	t             *test
	stage         string // of its checks
	s             *Service
	dir           string // on the nodes, for what the test brings
	master, other *node  // other is the master where there is one node
	service       machine
	client        *client // nil before it is there
	extra         string  // the package in Service.Extra; empty: there is none
}

// machine is what a question goes to: a node, or an instance by ssh from one.
type machine struct {
	name    string
	on      *node
	address string // empty: the node itself
}

// service looks at the service machine, if the site has one.
func (t *test) service(ctx context.Context, master *node) error {
	switch s := t.o.Service; {
	case s == nil:
		return nil
	case s.Uninspected:
		t.report.Skip("service", "the service machine", "it was asked for not to look at it")
		return nil
	}
	i, err := t.inspection(master, "service")
	if err != nil {
		return err
	}
	return i.run(ctx)
}

// inspection prepares a look at the service machine.
func (t *test) inspection(master *node, stage string) (*inspection, error) {
	s := t.o.Service
	i := &inspection{t: t, stage: stage, s: s, dir: t.o.guestDir + "/service", master: master, other: master}
	for _, n := range t.members() {
		if n != master {
			i.other = n
			break
		}
	}
	i.service = machine{name: s.Host.Name, on: master, address: s.address()}
	var err error
	i.extra, err = extraPackage(s.Extra)
	return i, err
}

// part is a part of the inspection.
type part struct {
	name string
	do   func(context.Context) error
}

// run is the order of an inspection. Without what comes first there is nothing to
// look at; of the rest, a part that fails does not hide what the others show.
func (i *inspection) run(ctx context.Context) error {
	defer i.leave(ctx)
	for _, p := range []part{{"bring", i.bring}, {"the machine", i.up}} {
		if err := i.part(ctx, p); err != nil {
			return err
		}
	}
	var errs []error
	for _, p := range []part{
		{"a client is begun", i.beginClient},
		{"what listens", i.listens}, {"packages, no uplink", i.offline}, {"names", i.names},
		{"the outside world", i.outside}, {"a lease", i.lease}, {"time", i.time}, {"Puppet", i.puppet},
		{"a client", i.clientReady}, {"the client's packages", i.clientPackages}, {"the client's names", i.clientNames},
		{"a forged package", i.forged}, {"a package from outside", i.uplink}, {"the client's Puppet", i.clientPuppet},
		{"once more", i.again}, {"the client goes", i.removeClient},
	} {
		err := i.part(ctx, p)
		if err != nil && !errors.Is(err, installtest.ErrFailed) || ctx.Err() != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (i *inspection) part(ctx context.Context, p part) error {
	i.master.session.Phase("service: " + p.name)
	return p.do(ctx)
}

// leave takes away what the test has brought, and keeps the logs. It has a little
// time of its own, since the test may have none left.
func (i *inspection) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.t.o.Limits.Check)
	defer cancel()
	for _, m := range []machine{i.service, i.at(i.master)} {
		if out, err := m.run(ctx, i, i.t.o.Limits.Check, serviceLogs); err == nil {
			_ = i.master.session.Keep(m.name+".service.log", out) // the report lacks it then
		}
	}
	for _, n := range i.both() {
		_, _ = n.session.Run(ctx, leaveScript(i.dir)) // the site is switched off next
	}
}

// serviceLogs shows what the services have to say, and Ganeti of their machine.
const serviceLogs = `for unit in sci-agent named kea-dhcp4-server kea-dhcp-ddns-server puppetserver puppet 'approx@*' sci-outside sci-lease; do
	journalctl --no-pager -o short -n 60 -u "$unit" 2>/dev/null | sed "s/^/$unit: /"
done
for f in /var/log/puppetserver/puppetserver.log /var/log/ganeti/os/*; do
	test -s "$f" || continue
	echo "== $f"
	tail -n 60 "$f"
done
true`

// both are the nodes that the inspection uses.
func (i *inspection) both() []*node {
	if i.other == i.master {
		return []*node{i.master}
	}
	return []*node{i.master, i.other}
}

// at is a node as a machine to ask.
func (i *inspection) at(n *node) machine { return machine{name: n.host.Name, on: n} }

func (i *inspection) fqdn(name string) string { return name + "." + i.t.o.Domain }

// run runs a script on the machine.
func (m machine) run(ctx context.Context, i *inspection, limit time.Duration, script string) (string, error) {
	if m.address != "" {
		script = sshScript(i.dir, m.address, script)
	}
	return m.on.session.RunFor(ctx, limit, script)
}

// sshScript runs a script as root of an instance. What is on the other side is
// not known before, and the network is the test's own, so the host key is taken
// as it comes.
func sshScript(dir, address, script string) string {
	return fmt.Sprintf(`echo %s | base64 -d | ssh -F none -i %s/key -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
	-o LogLevel=ERROR -o ConnectTimeout=60 -o ServerAliveInterval=60 -o ServerAliveCountMax=10 root@%s \
	's=$(cat); LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive exec sh -c "$s" </dev/null 2>&1' 2>&1`, base64.StdEncoding.EncodeToString([]byte(script)), dir, address)
}

// ask asks a machine; the report has the question under its name.
func (i *inspection) ask(ctx context.Context, m machine, q installtest.Question) error {
	c := i.t.report.Begin(m.name, i.stage, q.Name, q.Want)
	c.Script = q.Script
	i.t.say(i.stage + ": " + q.Name + " (" + m.name + ")")
	out, err := m.run(ctx, i, i.t.o.Limits.Service, q.Script)
	c.Output = out
	if problem := q.Decide(out, err); problem != "" {
		return i.t.close(c, errors.New(problem))
	}
	return i.t.close(c, nil)
}

// until asks a machine until the answer is right, as long as a part may take.
func (i *inspection) until(ctx context.Context, m machine, q installtest.Question) error {
	return i.wait(ctx, m, q, func(out string) error {
		if problem := q.Judge(out); problem != "" {
			return errors.New(problem)
		}
		return nil
	})
}

// wait is until with a judge whose error may be final. The judge of q is not asked.
func (i *inspection) wait(ctx context.Context, m machine, q installtest.Question, judge func(out string) error) error {
	return i.t.until(ctx, i.stage, i.t.o.Limits.Service, m.name+": "+q.Name, q.Want, func(ctx context.Context) (string, error) {
		out, err := m.run(ctx, i, i.t.o.Limits.Service, q.Script)
		if exit := (*vm.ExitError)(nil); err == nil || errors.As(err, &exit) && q.FailOK {
			err = judge(out)
		}
		return out, err
	})
}

// skip notes what is left out.
func (i *inspection) skip(name, why string) error {
	i.t.report.Skip(i.stage, name, why)
	return nil
}

// up waits for the machine: running as it should, and set up by its agent.
func (i *inspection) up(ctx context.Context) error {
	nodes := len(i.t.members())
	want := "running, mirrored on two nodes"
	if nodes == 1 {
		want = "running, on a plain disk"
	}
	name := i.fqdn(i.s.Host.Name)
	if err := i.until(ctx, i.at(i.master), installtest.Question{Name: "the cluster runs " + name, Want: want, Script: serviceScript(name), Judge: serviceRuns(name, nodes)}); err != nil {
		return err
	}
	return i.healthy(ctx, i.service)
}

// healthy waits until a machine's agent is ready, and looks for failed units.
func (i *inspection) healthy(ctx context.Context, m machine) error {
	for _, q := range hostQuestions() {
		if err := i.until(ctx, m, q); err != nil {
			return err
		}
	}
	return nil
}

// serviceScript asks for the instance, three times where a node is too busy to
// answer, as whereScript does.
func serviceScript(name string) string {
	return `for pause in 5 10 0; do
	out=$(gnt-instance list --no-headers --separator=' ' -o name,status,disk_template,pnode,snodes '` + name + `') || exit
	case $out in *" ERROR_nodedown "*) sleep $pause ;; *) break ;; esac
done
echo "$out"`
}

func (i *inspection) listens(ctx context.Context) error {
	return i.ask(ctx, i.service, installtest.Question{Name: "nothing listens that the site does not name", Want: describeListeners(listeners(i.s.leases())),
		Script: "ss -Hltnup", Judge: onlyListeners(listeners(i.s.leases()))})
}

// offline shows that a node gets packages from the service machine alone.
func (i *inspection) offline(ctx context.Context) error {
	return i.packages(ctx, i.at(i.master), "-o Dir::Etc::sourcelist=/etc/apt/sources.list.d/sci-service.sources -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0")
}

// mediumPackage is on the medium, since the service machine has it, and neither a
// node nor an instance has it: dig, which is asked for names next.
const mediumPackage = "bind9-dnsutils"

// packages has a machine update its lists and install a package of the medium,
// while nothing outside answers.
func (i *inspection) packages(ctx context.Context, m machine, options string) error {
	err := i.ask(ctx, m, installtest.Question{Name: "apt-get update, no uplink", Want: "Debian's lists and the site's from approx, no warning",
		Script: updateScript(options), Judge: updated(i.t.o.Domain)})
	if err != nil {
		return err
	}
	return i.ask(ctx, m, installtest.Question{Name: "apt-get install of a package on the medium, no uplink", Want: mediumPackage + ", from approx",
		Script: installScript(options, mediumPackage), Judge: installed(i.t.o.Domain, mediumPackage)})
}

// names asks for what the site file gives names to.
func (i *inspection) names(ctx context.Context) error {
	return i.digs(ctx, i.at(i.master), "@"+i.s.address())
}

// digs asks from a machine; server is empty where its own resolver is meant.
func (i *inspection) digs(ctx context.Context, m machine, server string) error {
	list := i.lookups()
	return i.ask(ctx, m, installtest.Question{Name: "dig answers forward and reverse" + suffix(server), Want: fmt.Sprintf("%d answers as the site file says", len(list)),
		Script: digScript(server, list), Judge: dug(list)})
}

func suffix(server string) string {
	if server == "" {
		return ", by the machine's own resolver"
	}
	return ""
}

// lookups are the questions that follow from the site file.
func (i *inspection) lookups() []lookup {
	var list []lookup
	add := func(name, address string) {
		list = append(list, lookup{question: i.fqdn(name), kind: "A", status: "NOERROR", answer: address})
	}
	reverse := func(address, name string) {
		list = append(list, lookup{question: address, kind: "PTR", status: "NOERROR", answer: i.fqdn(name) + "."})
	}
	for _, h := range append(i.t.o.Hosts[:len(i.t.o.Hosts):len(i.t.o.Hosts)], i.s.Host) {
		add(h.Name, h.Addresses["lan"])
		reverse(h.Addresses["lan"], h.Name)
		for _, c := range h.cards(i.t.o.Site) {
			add(h.Name+"-"+c.network, h.Addresses[c.network])
		}
	}
	if i.t.o.ClusterName != "" {
		add(i.t.o.ClusterName, i.t.o.ClusterAddress)
		reverse(i.t.o.ClusterAddress, i.t.o.ClusterName)
	}
	for _, alias := range i.s.Aliases {
		add(alias, i.s.address())
	}
	return append(list, lookup{question: i.fqdn("sci-no-such-host"), kind: "A", status: "NXDOMAIN"})
}

func (i *inspection) time(ctx context.Context) error {
	for _, n := range i.both() {
		if err := i.ask(ctx, i.at(n), clockQuestion(i.s.address())); err != nil {
			return err
		}
	}
	return nil
}

// clockQuestion has chrony measure against the machine, beside the one that runs,
// and set nothing. It tries again: a testing machine that is busy stands still for
// seconds, which chrony takes for a jump of the clock, and gives up.
func clockQuestion(address string) installtest.Question {
	return installtest.Question{Name: "the service machine tells the time", Want: "less than a second apart", FailOK: true, Judge: clocked,
		Script: "for try in 1 2 3 4 5; do\n\techo \"try $try\"\n\tchronyd -Q -t 120 'server " + address + " iburst' 2>&1 && break\ndone"}
}

func (i *inspection) puppet(ctx context.Context) error {
	for _, m := range []machine{i.service, i.at(i.master)} {
		if err := i.catalogue(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// catalogue has a machine ask for its catalogue twice.
func (i *inspection) catalogue(ctx context.Context, m machine) error {
	for _, again := range []bool{false, true} {
		name, want := "puppet agent -t", "status 0 or 2, no error"
		if again {
			name, want = name+", once more", "status 0: nothing is changed"
		}
		if err := i.ask(ctx, m, installtest.Question{Name: name, Want: want, Script: puppetScript, Judge: puppetRan(again)}); err != nil {
			return err
		}
	}
	return nil
}

// forged changes a package below approx, which hands out what it has.
func (i *inspection) forged(ctx context.Context) error {
	if i.client == nil {
		return i.skip("a forged package", "there is no client")
	}
	if err := i.ask(ctx, i.service, installtest.Question{Name: "a package in the seed is forged", Want: "some bytes of it are others", Script: forgeScript(mediumPackage), Judge: forgery}); err != nil {
		return err
	}
	err := i.ask(ctx, i.client.machine, installtest.Question{Name: "the forged package is refused", Want: "a hash that does not match, nothing installed",
		Script: installScript("", mediumPackage), Judge: refusedPackage(mediumPackage)})
	return errors.Join(err, i.ask(ctx, i.service, installtest.Question{Name: "the package is put right", Want: "status 0", Script: mendScript(mediumPackage), Judge: any0}),
		i.ask(ctx, i.client.machine, installtest.Question{Name: "it is taken again", Want: mediumPackage + ", from approx",
			Script: installScript("", mediumPackage), Judge: installed(i.t.o.Domain, mediumPackage)}))
}

// again has the machine's agent go through its plan once more: that changes no
// file and restarts no service.
func (i *inspection) again(ctx context.Context) error {
	err := i.ask(ctx, i.service, installtest.Question{Name: "sci-agent begins once more", Want: "status 0", Script: againScript, Judge: any0})
	if err != nil {
		return err
	}
	if err := i.healthy(ctx, i.service); err != nil {
		return err
	}
	return i.ask(ctx, i.service, installtest.Question{Name: "the second run changes nothing", Want: "no file below /etc, no service", Script: changedScript, Judge: installtest.Empty})
}

// stamp is a file that is as old as the second run.
const stamp = "/run/sci-test.stamp"

const servicesState = `systemctl show -p Id -p ActiveEnterTimestampMonotonic named kea-dhcp4-server kea-dhcp-ddns-server puppetserver chrony approx.socket ssh`

const againScript = `set -e
` + servicesState + ` >` + stamp + `.services
touch ` + stamp + `
sleep 1
systemctl restart sci-agent.service`

const changedScript = `find /etc -cnewer ` + stamp + ` ! -type d
` + servicesState + ` | diff ` + stamp + `.services -
rm -f ` + stamp + ` ` + stamp + `.services`
