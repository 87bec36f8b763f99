// Package sitetest installs all machines of a site in QEMU, boots them at the
// same time on virtual switches, one for each network of the site, and judges
// the cluster that they become, as `sci-cd test --site` does.
//
// Each host goes through what package installtest does with its only one; what
// is new here is that several run at once, that they hear each other, and the
// questions to the cluster as a whole. There is one report for all.
//
// No network leads out of the switches.
package sitetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/vm"
)

// Host is a machine of the site.
type Host struct {
	Name, Role string
	// MACs are what the site file knows the machine by. The first one is that of
	// its card in the network lan.
	MACs             []string
	Serial, AssetTag string // SMBIOS
	DiskSerial       string
	MinDisk          int64             // bytes
	Addresses        map[string]string // by network
}

// Options says what to test. ISO, Hosts and ReportDir are required.
type Options struct {
	ISO          string
	Site, Domain string
	Hosts        []Host            // in the order of the site file
	Networks     map[string]string // of the site: name to CIDR prefix
	// Cluster says that the nodes form a Ganeti cluster.
	Cluster bool
	// ClusterName and ClusterAddress are those of whichever node is the master.
	ClusterName, ClusterAddress string
	// Service is the site's service machine; nil: it has none.
	Service *Service
	// Taken are addresses in lan that an instance must not have, beside those of
	// Hosts.
	Taken []string
	// Guest is the static program of package guest, for instances; empty: none
	// are tried.
	Guest    []byte
	Firmware vm.Firmware // default BIOS
	Accel    vm.Accel    // default TCG
	// PressEnter chooses the default entry of a boot menu that does not count
	// down.
	PressEnter bool

	// Memory is that of each machine in the running site, in MiB. Default 2560; 4096
	// with a service machine, which takes 1536 of a node's.
	Memory        int
	InstallMemory int // of each machine while it is installed, in MiB; default 1536
	// CPUs is how many processors each machine has. Default 2; in emulation 1: two
	// took half as much processor time again for the same work.
	CPUs     int
	DiskSize int64 // bytes, sparse; default 32 GiB; a host's own minimum may be larger
	// Jobs is how many machines are installed, and how many scenarios run, at the
	// same time; default: as many as there are processors and memory for.
	Jobs int

	ReportDir string // created; receives report.html, junit.xml and logs
	// WorkDir holds the disks and is removed at the end; default: a new directory
	// in TMPDIR.
	WorkDir string
	// KeepDisks is a directory that receives the disks as the installer left
	// them; the site then runs on copies. Disks is such a directory of an earlier
	// test of the same ISO, to start from instead of installing. A test without a
	// failed check adds the disks of the cluster, after a clean shutdown.
	KeepDisks, Disks string

	QEMU, QEMURoot string
	Limits         Limits
	Progress       func(line string) // may be nil; called from one goroutine at a time

	// Free is the memory that machines may take together, in MiB; 0: what
	// /proc/meminfo calls available.
	Free int

	guestDir string  // on the nodes; another one for tests
	hurry    float64 // what pauses are multiplied by; 0 is 1; less for tests
}

// Limits bounds the parts of a test. Zero means the default, made for software
// emulation on two cores.
type Limits struct {
	Boot    time.Duration // of one host: power on to the installer's first line; default 15 min
	Install time.Duration // of one host: from there to power off; default 90 min
	Ready   time.Duration // power on of all to the last agent's "ready"; default 90 min, 4 h with a service machine
	Check   time.Duration // each question; default 15 min
	Sync    time.Duration // the first synchronisation of an instance's disk; default 40 min
	Guest   time.Duration // each wait for an instance; default 15 min
	Line    time.Duration // each wait for a line of an agent that a fault brings about; default 30 min
	Service time.Duration // each question to the service machine or about it; default 90 min
	// Out is how long a lost node that has come back is watched; default 6 min,
	// one more than Ganeti's watcher takes a turn.
	Out time.Duration
}

func (o Options) withDefaults() Options {
	def(&o.Firmware, vm.BIOS)
	def(&o.Accel, vm.TCG)
	if o.Service != nil {
		def(&o.Memory, 4096)
		def(&o.Limits.Ready, 4*time.Hour)
	}
	def(&o.Memory, 2560)
	def(&o.InstallMemory, 1536)
	if o.Accel == vm.TCG {
		def(&o.CPUs, 1)
	}
	def(&o.CPUs, 2)
	def(&o.DiskSize, 32<<30)
	def(&o.Limits.Boot, 15*time.Minute)
	def(&o.Limits.Install, 90*time.Minute)
	def(&o.Limits.Ready, 90*time.Minute)
	def(&o.Limits.Check, 15*time.Minute)
	def(&o.Limits.Sync, 40*time.Minute)
	def(&o.Limits.Guest, 15*time.Minute)
	def(&o.Limits.Line, 30*time.Minute)
	def(&o.Limits.Service, 90*time.Minute)
	def(&o.Limits.Out, 6*time.Minute)
	def(&o.hurry, 1)
	def(&o.guestDir, "/var/lib/sci-test")
	def(&o.Free, freeMemory(meminfo))
	return o
}

func def[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// Run runs the test and writes the report. The error says that there was
// nothing to test with; what the site did wrong is in the report, see
// installtest.Report.Failed.
func Run(ctx context.Context, o Options) (*installtest.Report, error) {
	return with(ctx, o, func(t *test) error {
		if err := t.prepare(); err != nil {
			return err
		}
		return t.run(ctx)
	})
}

// with makes the ground for a test, has it run and writes its report.
func with(ctx context.Context, o Options, run func(*test) error) (*installtest.Report, error) {
	o = o.withDefaults()
	jobs, err := o.jobs()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.ReportDir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot create report: %w", err)
	}
	if o.WorkDir == "" {
		if o.WorkDir, err = os.MkdirTemp("", "sci-cd-site-"); err != nil {
			return nil, fmt.Errorf("cannot create work directory: %w", err)
		}
		defer func() { _ = os.RemoveAll(o.WorkDir) }()
	}
	version, err := vm.QEMUVersion(ctx, o.QEMU, o.QEMURoot)
	if err != nil {
		return nil, err
	}
	t := &test{o: o, jobs: jobs, qemu: version, report: newReport(o, version), saying: new(sync.Mutex)}
	if err := t.disks(); err != nil {
		return nil, err
	}
	if err := t.unready(); err != nil {
		return nil, err
	}
	err = run(t)
	if errors.Is(err, installtest.ErrFailed) {
		err = nil
	}
	t.report.Finish(t.logs())
	if werr := t.report.Write(o.ReportDir); err == nil {
		err = werr
	}
	return t.report, err
}

func newReport(o Options, version vm.Version) *installtest.Report {
	r := installtest.NewReport(fmt.Sprintf("%s: the site %s, %d machines", filepath.Base(o.ISO), o.Site, len(o.Hosts)))
	r.Image(o.ISO)
	for _, h := range o.Hosts {
		r.Property("Host", "%s, role %s: %s", h.Name, h.Role, strings.Join(h.wiring(o), ", "))
	}
	if s := o.Service; s != nil {
		r.Property("Service machine", "%s, at %s", s.Host.Name, s.address())
	}
	r.Property("Firmware", "%s", installtest.FirmwareName(o.Firmware))
	r.Property("Machines", "%d MiB memory, %d for the installation, %d processors each; one switch for each network, no way out",
		o.Memory, o.InstallMemory, o.CPUs)
	r.Property("QEMU", "%v, %s", version, installtest.AccelName(o.Accel))
	return r
}

// test is one test under way.
type test struct {
	o        Options
	jobs     int
	qemu     vm.Version
	report   *installtest.Report
	switches map[string]*vm.Switch // by network
	nodes    []*node               // as Options.Hosts
	identity identity

	saying *sync.Mutex
}

// node is one machine of it.
type node struct {
	host    Host
	session *installtest.Session
	cables  map[string]*vm.Port // by network
	boots   int                 // how often a scenario has switched it on
}

// run is the order of a test.
func (t *test) run(ctx context.Context) error {
	if t.o.Disks != "" {
		if err := t.copies(t.o.Disks, diskImage); err != nil {
			return err
		}
	} else if err := t.install(ctx); err != nil {
		return err
	}
	defer t.each(func(n *node) { n.session.Close() })
	err := t.boot(ctx)
	if err == nil {
		t.each(func(n *node) { n.session.Phase("checks") })
		err = t.checks(ctx)
	}
	t.each(func(n *node) { n.session.Phase("logs"); n.session.Collect(ctx) })
	if err != nil {
		return err
	}
	if err := t.powerdown(ctx); err != nil {
		return err
	}
	return t.keepFormed(ctx)
}

// powerdown presses all power buttons at the same time.
func (t *test) powerdown(ctx context.Context) error {
	return errors.Join(t.parallel(len(t.nodes), func(n *node) error { return n.session.Powerdown(ctx) })...)
}

// install installs the hosts, some at the same time. One that fails does not
// keep the others from being installed: they tell whether it is the host.
func (t *test) install(ctx context.Context) error {
	errs := t.parallel(t.jobs, func(n *node) error { return n.session.Install(ctx) })
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return t.keep()
}

// stopped ends the wait for the other hosts.
type stopped struct{ host string }

func (e *stopped) Error() string { return e.host + " did not get ready" }

// boot boots all hosts at the same time and waits until each is ready. As a
// cluster needs all of them, the first one that stops ends the wait.
func (t *test) boot(ctx context.Context) error {
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := t.parallel(len(t.nodes), func(n *node) error {
		err := n.session.Boot(ctx, wait)
		if err != nil {
			cancel(&stopped{n.host.Name})
		}
		return err
	})
	return errors.Join(errs...)
}

// parallel calls f for each host, for at most n at the same time.
func (t *test) parallel(n int, f func(*node) error) []error {
	errs := make([]error, len(t.nodes))
	var wait sync.WaitGroup
	free := make(chan struct{}, max(1, n))
	for i, node := range t.nodes {
		free <- struct{}{} // here, so that they begin in order
		wait.Go(func() {
			errs[i] = f(node)
			<-free
		})
	}
	wait.Wait()
	return errs
}

func (t *test) each(f func(*node)) {
	for _, n := range t.nodes {
		f(n)
	}
}

func (t *test) say(line string) {
	if t.o.Progress == nil {
		return
	}
	t.saying.Lock()
	defer t.saying.Unlock()
	t.o.Progress(line)
}

func (t *test) logs() []string {
	var files []string
	t.each(func(n *node) { files = append(files, n.session.Logs()...) })
	return files
}

// prepare makes the switches and what each host needs.
func (t *test) prepare() error {
	t.switches = make(map[string]*vm.Switch)
	for name := range t.o.Networks {
		t.switches[name] = vm.NewSwitch()
	}
	for _, h := range t.o.Hosts {
		n, err := t.node(h)
		if err != nil {
			return err
		}
		t.nodes = append(t.nodes, n)
	}
	return nil
}

// node prepares a host.
func (t *test) node(h Host) (*node, error) {
	work, err := t.room(h)
	if err != nil {
		return nil, err
	}
	return t.machine(h, work)
}

// machine makes a host's machine, which is off, with its files in work.
func (t *test) machine(h Host, work string) (*node, error) {
	n := &node{host: h, cables: make(map[string]*vm.Port)}
	var cards []vm.NIC
	for _, c := range h.cards(t.o.Site) {
		s := t.switches[c.network]
		if s == nil {
			return nil, fmt.Errorf("host %s has an address in %q, which is no network of the site", h.Name, c.network)
		}
		n.cables[c.network] = s.Port(h.Name + "/" + c.network)
		cards = append(cards, vm.NIC{MAC: c.mac, Port: n.cables[c.network]})
	}
	n.session = installtest.NewSession(installtest.Options{
		ISO: t.o.ISO, Firmware: t.o.Firmware, Accel: t.o.Accel, PressEnter: t.o.PressEnter,
		Host: installtest.Host{Name: h.Name, Role: h.Role, Domain: t.o.Domain, Serial: h.Serial, AssetTag: h.AssetTag,
			Disk: installtest.DiskIdentity{Serial: h.DiskSerial}},
		NICs: cards, Memory: t.o.Memory, InstallMemory: t.o.InstallMemory, CPUs: t.o.CPUs, DiskSize: max(t.o.DiskSize, h.MinDisk),
		ReportDir: t.o.ReportDir, WorkDir: work, QEMU: t.o.QEMU, QEMURoot: t.o.QEMURoot,
		Limits:   installtest.Limits{Boot: t.o.Limits.Boot, Install: t.o.Limits.Install, First: t.o.Limits.Ready, Check: t.o.Limits.Check},
		Progress: func(line string) { t.say(fmt.Sprintf("%-10s %s", h.Name, line)) },
	}, t.report)
	return n, nil
}

// first is the host that forms the cluster: the first one of role node.
func (t *test) first() *node {
	if i := slices.IndexFunc(t.nodes, func(n *node) bool { return n.host.Role == "node" }); i >= 0 {
		return t.nodes[i]
	}
	return nil
}

// members are the nodes of the cluster.
func (t *test) members() []*node {
	return slices.DeleteFunc(slices.Clone(t.nodes), func(n *node) bool { return n.host.Role != "node" })
}
