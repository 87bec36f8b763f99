package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/sitetest"
	"github.com/skycover/sci-cd/pkg/vm"
)

// qemuRootVariable is the environment variable for --qemu-root.
const qemuRootVariable = "SCI_CD_QEMU_ROOT"

func newTest(ui *ui, p program) *cobra.Command {
	var f testFlags
	c := &cobra.Command{
		Use:   "test ISO",
		Short: "Install an ISO in QEMU and judge the result",
		Long: `Install an ISO unattended in QEMU, with no network, boot the disk without the
medium, wait until the agent says that the machine is ready, and look into it.
The report is a page (report.html, with timeline, screenshots and logs) and
junit.xml. Without KVM, QEMU emulates: an installation takes some half an hour
(` + vm.AccelVariable + `=kvm or tcg decides by force).

What the system consists of is kept in ` + installtest.FactsFile + `. With --like, the
system must be the same as the one of another report, but for what two
installations cannot share: the page lists what was accepted and why.

--cut, --flip and --refused try what goes wrong: a power cut, a bit that flipped
on the medium, an installer that must say no with nothing written to the disk.

--site tests all machines of the site file that the ISO was built from, as far as
they are no virtual ones: each is installed, then all are booted at the same
time on virtual switches, one for each network, until the agents have made a
cluster of them, which is then questioned. --keep-disks and --disks install once
and test often. Instances are started inside the nodes only under QEMU 10 or
later: --qemu-root, or ` + qemuRootVariable + `, names a Debian root directory with
one (scripts/qemu-trixie makes it).

With --service the site's service machine is looked at from a node and from an
instance that the test makes: names, leases, packages without and with an uplink,
Puppet, what listens. --ssh-key is the private key of one of root.sshKeys of the
site file. An uplink is played: --outside is a directory with a package that is
not on the medium.

--faults runs scenarios in which something goes wrong with the site: power cuts,
cables, clocks, a full disk, a node lost for good, a thief. Each begins with
copies of the disks, of machines just installed or of a cluster. --only names
some of them, or patterns; docs/testing.md lists what each asserts. The moments of the
faults come from --seed.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: files("iso"),
		RunE: func(c *cobra.Command, args []string) error {
			f.one.ISO = args[0]
			if err := f.check(c.Flags().Changed); err != nil {
				return err
			}
			if f.site != "" {
				return p.testSite(c.Context(), ui, f)
			}
			if err := fillTest(&f.one, f.host); err != nil {
				return err
			}
			return runTest(c.Context(), ui, f.one)
		},
	}
	f.add(c.Flags())
	return c
}

// testFlags are the flags of sci-cd test.
type testFlags struct {
	firmware, medium, host string
	bootOnly               bool
	one                    installtest.Options

	site   string // file; empty: one host is tested
	all    sitetest.Options
	wrong  bool // --faults
	faults sitetest.FaultOptions

	service      bool   // --service: the service machine is looked at
	key, outside string // files and directories for that
}

func (f *testFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.firmware, "firmware", string(vm.BIOS), "bios, uefi or secureboot")
	flags.StringVar(&f.medium, "medium", string(installtest.CD), "cd or usb")
	flags.StringVar(&f.host, "host", "", "`NAME` of the host to be (default: the site's first that is no virtual one)")
	flags.IntVar(&f.one.Memory, "memory", 1536, "of the machine, in `MiB`; with --site 2560")
	flags.IntVar(&f.one.CPUs, "cpus", 0, "`N` processors of the machine (default: 2; with --site 1 each in emulation)")
	flags.IntVar(&f.one.InstallMemory, "install-memory", 0, "of the machine while it is installed, in `MiB` (default: as --memory; with --site 1536)")
	flags.StringVar(&f.one.ReportDir, "report", filepath.Join(exampleDir, "report"), "`DIR`ectory of the report")
	flags.BoolVar(&f.bootOnly, "boot-only", false, "boot to the installer's first line, install nothing")
	flags.StringVar(&f.one.Like, "like", "", "`DIR`ectory of the report of a system that this one must equal")
	flags.StringVar(&f.one.Cut, "cut", "", "cut the power once, behind the agent's first line that starts with `TEXT`, as in \"base 40 %\"")
	flags.StringVar(&f.one.Flip, "flip", "", "flip one bit of this `FILE` of the ISO, in a copy; a pattern may fit one file")
	flags.StringVar(&f.one.Refused, "refused", "", "expect the installer to fail with `TEXT` in its message and to leave the disk untouched")
	flags.StringVar(&f.one.QEMURoot, "qemu-root", "", "Debian root `DIR`ectory to run QEMU from (default: "+qemuRootVariable+")")
	flags.StringVar(&f.site, "site", "", "test all machines of this site `FILE`")
	flags.IntVar(&f.all.Jobs, "jobs", 0, "with --site: `N` installations, or scenarios, at the same time (default: as processors and memory allow)")
	flags.StringVar(&f.all.KeepDisks, "keep-disks", "", "with --site: keep the installed disks in `DIR`")
	flags.StringVar(&f.all.Disks, "disks", "", "with --site: start from the disks in `DIR` instead of installing")
	flags.BoolVar(&f.service, "service", false, "with --site: look at the service machine, if the site has one")
	flags.StringVar(&f.key, "ssh-key", "", "with --site: `FILE` with the private key of one of root.sshKeys, to look at the service machine")
	flags.StringVar(&f.outside, "outside", "", "with --site: `DIR`ectory as on a mirror, with one package that is not on the medium: debian/pool/…")
	flags.BoolVar(&f.wrong, "faults", false, "with --site: have things go wrong, a scenario each")
	flags.StringSliceVar(&f.faults.Only, "only", nil, "with --faults: `NAME`s or patterns of scenarios, as in takeover,cut-*-node1")
	flags.Uint64Var(&f.faults.Seed, "seed", 0, "with --faults: `NUMBER` that the moments of the faults come from (default: drawn, and told)")
}

// check refuses flags that do not go together and reads the values of the others.
func (f *testFlags) check(changed func(string) bool) error {
	if err := checkModes(changed, f.site != "", f.wrong); err != nil {
		return err
	}
	o := &f.one
	var err error
	if o.Firmware, err = vm.ParseFirmware(f.firmware); err != nil {
		return usageError{err}
	}
	if o.Medium, err = installtest.ParseMedium(f.medium); err != nil {
		return usageError{err}
	}
	if o.Refused != "" && (f.bootOnly || o.Cut != "" || o.Like != "") {
		return usageError{errors.New("--refused goes with neither --boot-only nor --cut nor --like")}
	}
	if f.bootOnly && (o.Cut != "" || o.Like != "") {
		return usageError{errors.New("--boot-only goes with neither --cut nor --like")}
	}
	if f.bootOnly {
		o.Stage = installtest.Boot
	}
	if o.QEMURoot == "" {
		o.QEMURoot = os.Getenv(qemuRootVariable)
	}
	f.all.ISO, f.all.Firmware, f.all.ReportDir, f.all.QEMURoot = o.ISO, o.Firmware, o.ReportDir, o.QEMURoot
	f.all.InstallMemory = o.InstallMemory
	f.all.CPUs = o.CPUs
	if changed("memory") { // its default is for one host
		f.all.Memory = o.Memory
	}
	if _, err := f.faults.Select(sitetest.Scenarios()); err != nil {
		return usageError{err}
	}
	return nil
}

func runTest(ctx context.Context, ui *ui, o installtest.Options) error {
	var err error
	if o.Accel, err = accelerator(ctx, ui, o.QEMURoot); err != nil {
		return err
	}
	o.Progress = ui.step
	report, err := installtest.Run(ctx, o)
	if err != nil {
		return err
	}
	return printTest(ui, report, o.ReportDir)
}

// accelerator says how this machine's QEMU, or the one in a root directory, runs
// guests.
func accelerator(ctx context.Context, ui *ui, root string) (vm.Accel, error) {
	if err := installtest.CheckTools(exec.LookPath, installtest.Options{QEMURoot: root}); err != nil {
		return "", err
	}
	accel, why, err := vm.Probe(ctx, "", os.Getenv(vm.AccelVariable))
	if err != nil {
		return "", err
	}
	ui.note("QEMU runs with " + string(accel) + ": " + why)
	return accel, nil
}

// fillTest takes the host from the medium.
func fillTest(o *installtest.Options, name string) error {
	about, err := readManifest(o.ISO)
	if err != nil {
		return err
	}
	h, err := chooseHost(about, name)
	if err != nil {
		return err
	}
	o.PressEnter = !about.Unattended
	o.DiskSize = max(32<<30, h.MinDisk)
	o.Host = installtest.Host{
		Name: h.Name, Role: h.Role, Domain: about.Domain, MACs: h.MACs, Serial: h.Serial, AssetTag: h.AssetTag,
		Disk: installtest.DiskIdentity{Serial: h.Disk}, LAN: withLength(h.Addresses["lan"], about.Networks["lan"]),
	}
	if i := slices.IndexFunc(about.Roles, func(r media.RoleLine) bool { return r.Name == h.Role }); i >= 0 {
		o.Host.Packages = about.Roles[i].Packages
	}
	return nil
}

// chooseHost returns the host of a name, or the first machine of iron.
func chooseHost(m *media.Manifest, name string) (*media.HostLine, error) {
	var names []string
	for i := range m.Hosts {
		h := &m.Hosts[i]
		if h.Name == name || name == "" && !h.Virtual {
			return h, nil
		}
		names = append(names, h.Name)
	}
	if name == "" {
		return nil, hint.New(errors.New("the site has virtual hosts only"), "name one with --host")
	}
	return nil, usageError{hint.New(fmt.Errorf("the site has no host %q", name), fmt.Sprintf("its hosts: %q", names))}
}

// withLength adds the length of a network's prefix to an address in it.
func withLength(address, network string) string {
	prefix, err := netip.ParsePrefix(network)
	if err != nil || address == "" {
		return ""
	}
	return fmt.Sprintf("%s/%d", address, prefix.Bits())
}

// printTest prints the verdict; a failed check makes the command fail.
func printTest(ui *ui, report *installtest.Report, dir string) error {
	page := filepath.Join(dir, "report.html")
	failed := []string{}
	text := ""
	for _, c := range report.Failed() {
		failed = append(failed, c.Title())
		text += "failed: " + c.Title() + "\n"
	}
	for _, c := range report.Checks {
		if c.Skipped != "" {
			text += "skipped: " + c.Title() + ": " + c.Skipped + "\n"
		}
	}
	scenarios := []map[string]any{}
	for _, s := range report.Sections {
		if s.Skipped != "" {
			continue
		}
		word, line := sitetest.Verdict(report, s)
		text += line + "\n"
		scenarios = append(scenarios, map[string]any{"name": s.Name, "result": word, "seconds": int((s.Until - s.From).Seconds())})
	}
	text += report.Summary() + "\n  " + page + "\n"
	cpu := make(map[string]float64)
	for _, m := range report.CPU {
		cpu[m.Name] = m.CPU.Seconds()
	}
	result := map[string]any{
		"report": page, "junit": filepath.Join(dir, "junit.xml"), "checks": len(report.Checks),
		"failed": failed, "seconds": int(report.Duration.Seconds()), "cpuSeconds": cpu, "peakMiB": report.PeakMemory,
	}
	if len(scenarios) > 0 {
		result["scenarios"] = scenarios
	}
	if err := ui.result(result, "%s", text); err != nil || len(failed) == 0 {
		return err
	}
	return checkError{hint.New(fmt.Errorf("%d of %d checks failed", len(failed), len(report.Checks)), "see "+page)}
}
