// Package installtest installs an image in a virtual machine and judges the
// result, as `sci-cd test` does: boot the medium, follow the installer, boot
// the disk without the medium, wait for the agent, then look into the running
// system through a root shell that no file on the medium or the disk provides
// (see vm.Shell).
//
// The machine has no network: its cards end in an empty hub.
//
// The installer and the agent are followed by the lines that they print on the
// serial console, each starting "sci-agent: "; so the image's kernels must have
// a console on ttyS0.
package installtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/vm"
)

// Medium is how the image is attached.
type Medium string

// The media.
const (
	CD  Medium = "cd"
	USB Medium = "usb"
)

// ParseMedium reads the name of a medium.
func ParseMedium(s string) (Medium, error) {
	switch m := Medium(s); m {
	case CD, USB:
		return m, nil
	}
	return "", fmt.Errorf("cannot use medium %q: want %s or %s", s, CD, USB)
}

// Stage says how far to go.
type Stage string

// The stages.
const (
	Boot Stage = "boot" // until the installer has started
	Full Stage = "full" // installed, booted from disk and examined
)

// Host is the machine to be: what makes the installer recognise it, and what
// is expected of it afterwards. What is empty is not checked.
type Host struct {
	Name, Role, Domain string
	MACs               []string // one network card each; none: one card with a random address of QEMU's
	Serial, AssetTag   string   // SMBIOS
	Disk               DiskIdentity
	// LAN is the address of the bridge lan with its prefix length.
	LAN string
	// Packages must be installed afterwards.
	Packages []string
	// Extra is a package on the medium that is not part of the role; it is
	// installed with apt as a test. Empty: the first one that apt can install.
	Extra string
}

// DiskIdentity is how the site file knows the disk.
type DiskIdentity struct{ Serial string }

// Options says what to test. ISO and ReportDir are required.
type Options struct {
	ISO      string
	Firmware vm.Firmware // default BIOS
	Medium   Medium      // default CD
	Stage    Stage       // default Full
	Host     Host
	Memory   int // MiB; default 1536
	// InstallMemory is that of the machine while it is installed, in MiB;
	// default Memory.
	InstallMemory int
	CPUs          int      // default 2
	DiskSize      int64    // bytes; default 32 GiB, sparse
	Accel         vm.Accel // default TCG
	ReportDir     string   // created; receives report.html, junit.xml, logs and screenshots
	// WorkDir holds the disk image and is removed at the end, unless KeepDisk;
	// default: a new directory in TMPDIR.
	WorkDir  string
	KeepDisk bool
	// PressEnter chooses the default entry of a boot menu that does not count
	// down.
	PressEnter bool
	// Like is the directory of a report whose system this one must equal, see
	// Compare; empty: it is compared with none.
	Like string
	// Cut is the beginning of a line of the agent behind which the power fails,
	// once, during the installation; it is then started again and must succeed.
	Cut string
	// Refused is a part of the message with which the installer must refuse the
	// medium, before it writes anything to the disk. Nothing is installed.
	Refused string
	// Flip is a file of the image, or a path.Match pattern that fits one: one bit
	// of it is changed, in a copy.
	Flip string
	// NICs are the machine's network cards; none: one for each of Host.MACs, with
	// no network behind them.
	NICs []vm.NIC
	// Base is an installed disk to boot instead of the one in WorkDir: a raw image,
	// or by its name (.qcow2) one of differences. It stays as it is.
	Base           string
	Limits         Limits
	QEMU, QEMURoot string
	Progress       func(line string) // may be nil; called from one goroutine at a time
}

// Limits bounds the parts of a run. Zero means the default, made for software
// emulation on two cores.
type Limits struct {
	Boot    time.Duration // power on to the installer's first line; default 8 min
	Install time.Duration // from there to power off; default 50 min
	First   time.Duration // power on to the agent's "ready"; default 25 min
	Check   time.Duration // each assertion; default 10 min
	Settle  time.Duration // from the line of a cut or a refusal to the end of power; default 5 s
}

func (o Options) withDefaults() Options {
	def(&o.Firmware, vm.BIOS)
	def(&o.Medium, CD)
	def(&o.Stage, Full)
	def(&o.Memory, 1536)
	def(&o.InstallMemory, o.Memory)
	def(&o.CPUs, 2)
	def(&o.DiskSize, 32<<30)
	def(&o.Accel, vm.TCG)
	def(&o.Limits.Boot, 8*time.Minute)
	def(&o.Limits.Install, 50*time.Minute)
	def(&o.Limits.First, 25*time.Minute)
	def(&o.Limits.Check, 10*time.Minute)
	def(&o.Limits.Settle, 5*time.Second)
	return o
}

func def[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// Run runs the test and writes the report. The error says that there was
// nothing to test with (no QEMU, no firmware, a full disk); what the image did
// wrong is in the report: see Report.Failed.
func Run(ctx context.Context, o Options) (*Report, error) {
	o = o.withDefaults()
	var like *Facts
	if o.Like != "" {
		f, err := ReadFacts(o.Like)
		if err != nil {
			return nil, err
		}
		like = &f
	}
	if err := os.MkdirAll(o.ReportDir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot create report: %w", err)
	}
	if o.WorkDir == "" {
		dir, err := os.MkdirTemp("", "sci-cd-test-")
		if err != nil {
			return nil, fmt.Errorf("cannot create work directory: %w", err)
		}
		o.WorkDir = dir
		if !o.KeepDisk {
			defer os.RemoveAll(dir)
		}
	}
	r := &run{o: o, report: newReport(o), like: like, machines: machines()}
	if err := r.flip(); err != nil {
		return nil, err
	}
	err := r.stages(ctx)
	r.report.Finish(r.logFiles())
	if werr := r.report.Write(o.ReportDir); err == nil {
		err = werr
	}
	return r.report, err
}

// run is one test under way.
type run struct {
	o      Options
	label  string // of the host among several; empty: there is one only
	report *Report
	like   *Facts // of the system to compare with; may be nil
	said   string // the agent's last line
	// machines are the names of those that may have logs.
	machines []string
}

// machines are those that a run may have.
func machines() []string { return []string{"cut", "install", "system"} }

// ErrFailed ends a run whose report already says why.
var ErrFailed = errors.New("test failed")

// name is the name of a machine or a file of this host.
func (r *run) name(name string) string {
	if r.label == "" {
		return name
	}
	return r.label + "-" + name
}

func (r *run) begin(stage, name, want string) *Check {
	return r.report.Begin(r.label, stage, name, want)
}

// stages is the order of a test.
func (r *run) stages(ctx context.Context) error {
	var err error
	if r.o.Refused != "" {
		err = r.refusal(ctx)
	} else {
		err = r.installation(ctx)
	}
	if errors.Is(err, ErrFailed) {
		return nil
	}
	return err
}

func (r *run) installation(ctx context.Context) error {
	if r.o.Cut != "" {
		if err := r.cut(ctx); err != nil {
			return err
		}
	}
	if err := r.install(ctx); err != nil || r.o.Stage != Full {
		return err
	}
	return r.firstBoot(ctx)
}

// startMedium starts a machine from the medium.
func (r *run) startMedium(ctx context.Context, name string) (*vm.Machine, error) {
	// A graphics card makes the installer build the initramfs once more, for
	// nothing but our screenshots.
	return r.start(ctx, name, func(v *vm.Options) {
		v.VGA, v.NoReboot, v.Memory = r.o.Stage != Full, true, r.o.InstallMemory
		if r.o.Medium == USB {
			v.USB = r.o.ISO
		} else {
			v.CDROM = r.o.ISO
		}
	})
}

// stop ends a machine, if it has not done so, and notes what it took.
func (r *run) stop(m *vm.Machine, name string) {
	m.Kill()
	r.report.took(r.name(name), m.CPU())
}

// install boots the medium and follows the installer to the power off, or only
// to its first line.
func (r *run) install(ctx context.Context) error {
	full := r.o.Stage == Full
	m, err := r.startMedium(ctx, "install")
	if err != nil {
		return err
	}
	defer r.stop(m, "install")
	if err := r.bootMedium(ctx, m, !full); err != nil || !full {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, r.o.Limits.Install)
	defer cancel()
	c := r.begin("install", "the installer finishes unattended", "a line \"sci-agent: installed\", then power off")
	err = r.follow(limit, m, "installed", installLabel)
	if err == nil {
		r.phase("power off")
		err = r.follow(limit, m, "(nothing)", nil) // a kernel may still panic
	}
	if errors.Is(err, vm.ErrEnded) && r.ended(m, "installed") {
		_, err = m.Wait(limit)
	}
	return r.end(ctx, c, m, err)
}

// ended says whether the machine ended by itself behind a line of the agent.
func (r *run) ended(m *vm.Machine, after string) bool {
	_, ok := m.Console.Contains(regexp.MustCompile("sci-agent: " + after))
	return ok
}

func (r *run) bootMedium(ctx context.Context, m *vm.Machine, screens bool) error {
	limit, cancel := context.WithTimeout(ctx, r.o.Limits.Boot)
	defer cancel()
	c := r.begin("boot", "the medium boots to the installer", "a line \"sci-agent: installer started\"")
	r.phase("firmware, boot loader, kernel")
	stop := r.background(limit, func(ctx context.Context) {
		if screens {
			r.film(ctx, m)
		}
	}, func(ctx context.Context) {
		if r.o.PressEnter {
			pressEnter(ctx, m)
		}
	})
	err := r.follow(limit, m, "installer started", nil)
	stop()
	if err == nil && screens {
		r.screen(ctx, m, "the installer has started")
	}
	if err := r.end(ctx, c, m, err); err != nil {
		return err
	}
	if r.o.Firmware == vm.SecureBoot && r.o.Stage == Boot {
		return r.secureBoot(ctx, m)
	}
	return nil
}

// firstBoot boots the disk, waits for the agent and examines the system.
func (r *run) firstBoot(ctx context.Context) error {
	m, sh, err := r.boot(ctx, ctx)
	if m != nil {
		defer r.stop(m, "system")
	}
	if err != nil {
		r.collect(ctx, sh, "system")
		return err
	}
	r.screen(ctx, m, "the machine is ready")
	r.phase("checks")
	r.checks(ctx, sh)
	r.collect(ctx, sh, "system")
	return r.powerdown(ctx, m)
}

// boot boots the disk, waits until the agent is ready and opens the shell. With
// an error there may be a machine and a shell none the less. The machine lives
// until ctx ends, waiting ends with wait as well.
func (r *run) boot(ctx, wait context.Context) (*vm.Machine, *vm.Shell, error) {
	// Of several machines nobody looks at the screens.
	m, err := r.start(ctx, "system", func(v *vm.Options) {
		v.VGA, v.Shell = r.label == "", true
		if r.label == "" {
			v.SMBIOS.Credentials = Alone()
		}
	})
	if err != nil {
		return nil, nil, err
	}
	limit, cancel := context.WithTimeout(wait, r.o.Limits.First)
	defer cancel()
	c := r.begin("first boot", "the agent gets the machine ready", "a line \"sci-agent: ready\"")
	r.phase("firmware, boot loader, kernel, systemd")
	stop := r.background(limit, func(ctx context.Context) { r.film(ctx, m) })
	err = r.follow(limit, m, "ready", nil)
	stop()
	sh, serr := r.shell(ctx, m, err == nil)
	if err == nil {
		err = serr
	}
	return m, sh, r.end(ctx, c, m, err)
}

// Alone are the credentials for systemd that end the agent's plan before the
// cluster, where one machine of a site is tested: it would wait for the others.
func Alone() map[string]string { return map[string]string{"sci.agent.until": "apt"} }

// shell opens the root shell. It starts early in a boot, so a machine that did
// not get ready either has it by now or never will.
func (r *run) shell(ctx context.Context, m *vm.Machine, ready bool) (*vm.Shell, error) {
	wait := r.o.Limits.Check
	if !ready {
		wait = min(wait, 5*time.Second)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return m.Shell(ctx)
}

func (r *run) powerdown(ctx context.Context, m *vm.Machine) error {
	r.phase("shutdown")
	ctx, cancel := context.WithTimeout(ctx, r.o.Limits.Check)
	defer cancel()
	c := r.begin("system", "the machine shuts down at the power button", "QEMU ends within "+r.o.Limits.Check.String())
	return r.end(ctx, c, m, m.Powerdown(ctx))
}

// start starts the machine of one stage; both share the disk and the UEFI
// variables.
func (r *run) start(ctx context.Context, name string, set func(*vm.Options)) (*vm.Machine, error) {
	h := r.o.Host
	v := vm.Options{
		Name: r.name(name), Dir: r.o.ReportDir, Vars: r.o.WorkDir, Memory: r.o.Memory, CPUs: r.o.CPUs, Accel: r.o.Accel, Firmware: r.o.Firmware,
		Disks:  []vm.Disk{{Path: r.disk(), Size: r.o.DiskSize, Serial: h.Disk.Serial}},
		SMBIOS: vm.SMBIOS{Serial: h.Serial, AssetTag: h.AssetTag, Product: "SCI-CD test"},
		QEMU:   r.o.QEMU, QEMURoot: r.o.QEMURoot, NICs: slices.Clone(r.o.NICs),
	}
	if r.o.Base != "" {
		v.Disks[0].Backing = r.o.Base
		if filepath.Ext(r.o.Base) == qcow2 {
			v.Disks[0].BackingFormat = "qcow2"
		}
	}
	if len(v.NICs) == 0 {
		for _, mac := range h.MACs {
			v.NICs = append(v.NICs, vm.NIC{MAC: mac})
		}
	}
	if len(v.NICs) == 0 {
		v.NICs = []vm.NIC{{MAC: "52:54:00:12:34:56"}}
	}
	set(&v)
	r.say("starting the machine %q: %s, %s", name, r.o.Firmware, r.o.Accel)
	return vm.Start(ctx, v)
}

// qcow2 ends the names of images of differences.
const qcow2 = ".qcow2"

// disk is the image of the disk that the machine writes to.
func (r *run) disk() string {
	path := filepath.Join(r.o.WorkDir, "disk.img")
	if r.o.Base != "" {
		path += qcow2
	}
	return path
}

// follow reads the agent's lines until one starts with last. Each line ends a
// phase if label gives it a name.
func (r *run) follow(ctx context.Context, m *vm.Machine, last string, label func(marker string) string) error {
	for {
		line, err := m.Expect(ctx, marker)
		switch {
		case errors.Is(err, vm.ErrEnded):
			return vm.ErrEnded
		case err != nil:
			return fmt.Errorf("no line \"sci-agent: %s\" came: %w", last, context.Cause(ctx))
		}
		if line.Groups[1] == "" {
			return fmt.Errorf("the boot came to an end: %s", line.Text)
		}
		text := strings.TrimSpace(line.Groups[1])
		r.said = text
		r.say("%s", text)
		if strings.HasPrefix(text, "failed") {
			pause(ctx, 2*time.Second) // what it saw comes on the lines behind
			return &agentError{text}
		}
		if used, ok := strings.CutPrefix(text, "memory: "); ok {
			r.report.memory(used)
		}
		if strings.HasPrefix(text, last) {
			return nil
		}
		if step, ok := stepDone(text); ok {
			r.report.step(r.label, step, line.At)
		}
		if label == nil {
			continue
		}
		if name := label(text); name != "" {
			r.report.PhaseAt(r.label, name, line.At)
		}
	}
}

// agentError is a line "sci-agent: failed: …".
type agentError struct{ text string }

func (e *agentError) Error() string { return "the agent says: " + e.text }

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// marker finds the agent's lines and the ends that no agent comes from. A line
// may stand behind something that ended without a line feed, as the progress
// of the installer's text frontend does.
const marker = `sci-agent: (.+)$|` + dead

// dead are the last words of boot loaders, firmware and kernel: whoever says
// one of these waits for a person or for nothing.
const dead = `Kernel panic - not syncing|` +
	`No bootable (device|option)|` + // SeaBIOS, OVMF
	`bad shim signature|Security Violation|Verification failed|` + // shim, GRUB
	`Minimal BASH-like line editing is supported|grub rescue>|` + // GRUB without a configuration
	`Could not find kernel image|Failed to load ldlinux|No DEFAULT or UI` // isolinux

func installLabel(text string) string {
	if name, ok := strings.CutPrefix(text, "phase "); ok {
		return "install: " + name
	}
	return ""
}

// end closes a check of a whole stage. A failure is shown with the screen, if
// there is one, and what the console said last.
func (r *run) end(ctx context.Context, c *Check, m *vm.Machine, err error) error {
	if err == nil {
		r.report.Close(c, "")
		return nil
	}
	shot, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if errors.Is(err, vm.ErrEnded) {
		err = ending(shot, m, err)
	}
	if agent := (*agentError)(nil); r.said != "" && !errors.As(err, &agent) {
		err = fmt.Errorf("%w; the agent's last line: %q", err, r.said)
	}
	r.screen(shot, m, "failed: "+c.Name)
	var tail strings.Builder
	for _, l := range m.Console.Tail(30) {
		fmt.Fprintln(&tail, l.Text)
	}
	c.Output = tail.String()
	r.report.Close(c, err.Error())
	r.say("failed: %s: %v", c.Name, err)
	return ErrFailed
}

// ending says why a machine ended that should be running.
func ending(ctx context.Context, m *vm.Machine, err error) error {
	reason, werr := m.Wait(ctx)
	if werr != nil {
		return werr
	}
	if reason != "" {
		return fmt.Errorf("%w: %s", err, reason)
	}
	return err
}

// phase starts a new bar of the timeline now.
func (r *run) phase(name string) { r.report.PhaseAt(r.label, name, time.Now()) }

func (r *run) say(format string, args ...any) {
	if r.o.Progress != nil {
		r.o.Progress(fmt.Sprintf("%6.0fs  ", time.Since(r.report.Started).Seconds()) + fmt.Sprintf(format, args...))
	}
}

// background runs functions until stop is called, which waits for them.
func (r *run) background(ctx context.Context, fns ...func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	for _, f := range fns {
		go func() { f(ctx); done <- struct{}{} }()
	}
	return func() {
		cancel()
		for range fns {
			<-done
		}
	}
}

// film takes a screenshot after 4, 8, 16 … seconds: the boot menu and what
// comes behind it, without filling the report.
func (r *run) film(ctx context.Context, m *vm.Machine) {
	start := time.Now()
	for at := 4 * time.Second; ; at *= 2 {
		select {
		case <-time.After(at - time.Since(start)):
		case <-ctx.Done():
			return
		case <-m.Done():
			return
		}
		r.screen(ctx, m, fmt.Sprintf("%.0f s after power on", at.Seconds()))
	}
}

// screen adds a screenshot to the report; without a graphics card or with a
// dead machine there is none.
func (r *run) screen(ctx context.Context, m *vm.Machine, caption string) {
	path := filepath.Join(r.o.ReportDir, r.report.screenName(r.label))
	if err := m.Screenshot(ctx, path); err != nil {
		os.Remove(path)
		return
	}
	r.report.addScreen(r.label, path, caption)
}

func pressEnter(ctx context.Context, m *vm.Machine) {
	for range 6 {
		pause(ctx, 5*time.Second)
		// A key too many would answer the installer.
		if _, past := m.Console.Contains(regexp.MustCompile(`Linux version|EFI stub|sci-agent: `)); past || ctx.Err() != nil || m.Keys(ctx, "ret") != nil {
			return
		}
	}
}

// logFiles are the logs of all machines, as far as they exist.
func (r *run) logFiles() []string {
	var files []string
	for _, name := range r.machines {
		for _, log := range []string{".ttyS0.log", ".qemu.log"} {
			if path := filepath.Join(r.o.ReportDir, r.name(name)+log); exists(path) {
				files = append(files, path)
			}
		}
	}
	return files
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// CheckTools says what is missing on this machine for a test with o.
func CheckTools(look func(program string) (string, error), o Options) error {
	o = o.withDefaults()
	program := o.QEMU
	if program == "" {
		program = "qemu-system-x86_64"
	}
	if o.QEMURoot != "" {
		return nil
	}
	if _, err := look(program); err != nil {
		return hint.New(fmt.Errorf("cannot find QEMU: %w", err), "install the packages qemu-system-x86 and ovmf")
	}
	return nil
}

// tail returns the end of a file, at most n bytes.
func tail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > n {
		_, err = f.Seek(end-n, io.SeekStart)
		if err != nil {
			return nil, err
		}
	} else if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, n))
}
