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

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/inspect"
	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/vm"
)

func newTest(ui *ui) *cobra.Command {
	var firmware, medium, host string
	var bootOnly bool
	var o installtest.Options
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
on the medium, an installer that must say no with nothing written to the disk.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: files("iso"),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if o.Firmware, err = vm.ParseFirmware(firmware); err != nil {
				return usageError{err}
			}
			if o.Medium, err = installtest.ParseMedium(medium); err != nil {
				return usageError{err}
			}
			if o.Refused != "" && (bootOnly || o.Cut != "" || o.Like != "") {
				return usageError{errors.New("--refused goes with neither --boot-only nor --cut nor --like")}
			}
			if bootOnly && (o.Cut != "" || o.Like != "") {
				return usageError{errors.New("--boot-only goes with neither --cut nor --like")}
			}
			if bootOnly {
				o.Stage = installtest.Boot
			}
			o.ISO = args[0]
			if err := fillTest(&o, host); err != nil {
				return err
			}
			return runTest(c.Context(), ui, o)
		},
	}
	flags := c.Flags()
	flags.StringVar(&firmware, "firmware", string(vm.BIOS), "bios, uefi or secureboot")
	flags.StringVar(&medium, "medium", string(installtest.CD), "cd or usb")
	flags.StringVar(&host, "host", "", "`NAME` of the host to be (default: the site's first that is no virtual one)")
	flags.IntVar(&o.Memory, "memory", 1536, "of the machine, in `MiB`")
	flags.IntVar(&o.InstallMemory, "install-memory", 0, "of the machine while it is installed, in `MiB` (default: as --memory)")
	flags.StringVar(&o.ReportDir, "report", filepath.Join(exampleDir, "report"), "`DIR`ectory of the report")
	flags.BoolVar(&bootOnly, "boot-only", false, "boot to the installer's first line, install nothing")
	flags.StringVar(&o.Like, "like", "", "`DIR`ectory of the report of a system that this one must equal")
	flags.StringVar(&o.Cut, "cut", "", "cut the power once, behind the agent's first line that starts with `TEXT`, as in \"base 40 %\"")
	flags.StringVar(&o.Flip, "flip", "", "flip one bit of this `FILE` of the ISO, in a copy; a pattern may fit one file")
	flags.StringVar(&o.Refused, "refused", "", "expect the installer to fail with `TEXT` in its message and to leave the disk untouched")
	return c
}

func runTest(ctx context.Context, ui *ui, o installtest.Options) error {
	if err := installtest.CheckTools(exec.LookPath, o); err != nil {
		return err
	}
	accel, why, err := vm.Probe(ctx, o.QEMU, os.Getenv(vm.AccelVariable))
	if err != nil {
		return err
	}
	o.Accel, o.Progress = accel, ui.step
	ui.note("QEMU runs with " + string(accel) + ": " + why)
	report, err := installtest.Run(ctx, o)
	if err != nil {
		return err
	}
	return printTest(ui, report, o.ReportDir)
}

// fillTest takes the host from the medium.
func fillTest(o *installtest.Options, name string) error {
	f, length, err := openImage(o.ISO)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	s, err := inspect.Image(f, length)
	if err != nil {
		return err
	}
	h, err := chooseHost(s.About, name)
	if err != nil {
		return err
	}
	o.PressEnter = !s.About.Unattended
	o.DiskSize = max(32<<30, h.MinDisk)
	o.Host = installtest.Host{
		Name: h.Name, Role: h.Role, Domain: s.About.Domain, MACs: h.MACs, Serial: h.Serial, AssetTag: h.AssetTag,
		Disk: installtest.DiskIdentity{Serial: h.Disk}, LAN: withLength(h.Addresses["lan"], s.About.Networks["lan"]),
	}
	if i := slices.IndexFunc(s.About.Roles, func(r media.RoleLine) bool { return r.Name == h.Role }); i >= 0 {
		o.Host.Packages = s.About.Roles[i].Packages
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
		failed = append(failed, c.Name)
		text += "failed: " + c.Name + "\n"
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
	if err := ui.result(result, "%s", text); err != nil || len(failed) == 0 {
		return err
	}
	return checkError{hint.New(fmt.Errorf("%d of %d checks failed", len(failed), len(report.Checks)), "see "+page)}
}
