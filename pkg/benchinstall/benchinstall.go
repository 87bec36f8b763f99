package benchinstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/vm"
)

// Installation is a medium that installs itself unattended.
type Installation struct {
	Name string // "stock": names its logs and its disk
	ISO  string
	// Finished is a line of the console without which the end of the machine is
	// a failure; empty: the end is enough, and the disk is booted to prove it.
	Finished string
	// Ready is a line of the console by which the installed system says that it
	// is all that it is to be: its disk is booted as well then.
	Ready string
	// Goal is the highest ratio to the first installation that we want; 0: none.
	Goal float64
}

// Options say what to measure, and on which machine.
type Options struct {
	// Installations run in this order; the first is what the others are
	// compared with.
	Installations []Installation
	Dir           string        // receives logs and disks; created
	Keep          bool          // keep the disks
	MAC           string        // of the network card, which leads nowhere
	Memory        int           // MiB; default 1536
	CPUs          int           // default 2
	DiskSize      int64         // bytes; default 32 GiB, sparse
	Accel         vm.Accel      // default TCG
	Limit         time.Duration // of each installation; default 3 h
	QEMU          string        // binary; default "qemu-system-x86_64"
	// Booted looks into an installed system that was booted to prove that it
	// does; may be nil.
	Booted   func(ctx context.Context, i Installation, sh *vm.Shell) error
	Progress func(line string) // may be nil
}

// Figures are what one installation took, from power on to power off.
type Figures struct {
	Installation
	CPU, Wall time.Duration
	Disk      string // path of the disk image; removed unless Options.Keep
}

func (o Options) withDefaults() Options {
	def(&o.Memory, 1536)
	def(&o.CPUs, 2)
	def(&o.DiskSize, 32<<30)
	def(&o.Accel, vm.TCG)
	def(&o.Limit, 3*time.Hour)
	def(&o.MAC, "52:54:00:12:34:56")
	return o
}

func def[T comparable](p *T, value T) {
	var zero T
	if *p == zero {
		*p = value
	}
}

// Run runs the installations. An installation that fails ends it, with the
// figures so far.
func Run(ctx context.Context, o Options) ([]Figures, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, err
	}
	var all []Figures
	for _, i := range o.Installations {
		f, err := o.measure(ctx, i)
		if err != nil {
			return all, fmt.Errorf("cannot measure installation %q: %w", i.Name, err)
		}
		all = append(all, *f)
	}
	return all, nil
}

func (o Options) measure(ctx context.Context, i Installation) (*Figures, error) {
	f := &Figures{Installation: i, Disk: filepath.Join(o.Dir, i.Name+".img")}
	if err := os.RemoveAll(f.Disk); err != nil {
		return nil, err
	}
	if !o.Keep {
		defer func() { _ = os.Remove(f.Disk) }()
	}
	if err := o.install(ctx, f); err != nil {
		return nil, err
	}
	o.say("%s: %.0f s CPU, %.0f s wall", i.Name, f.CPU.Seconds(), f.Wall.Seconds())
	if i.Finished == "" || i.Ready != "" {
		return f, o.boot(ctx, f)
	}
	return f, nil
}

// install runs the medium until the machine ends by itself.
func (o Options) install(ctx context.Context, f *Figures) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.Limit, fmt.Errorf("it did not end within %s", o.Limit))
	defer cancel()
	v := o.machine(f, "install")
	// A reboot is the end as well. No graphics card: with one Debian's installer
	// builds the initramfs once more.
	v.CDROM, v.NoReboot = f.ISO, true
	o.say("%s: installing %s", f.Name, f.ISO)
	start := time.Now()
	m, err := vm.Start(ctx, v)
	if err != nil {
		return err
	}
	defer m.Kill()
	if err := o.watch(ctx, m, start); err != nil {
		return withTail(m, err)
	}
	f.Wall = time.Since(start)
	reason, err := m.Wait(ctx)
	switch _, finished := m.Console.Contains(regexp.MustCompile(regexp.QuoteMeta(f.Finished))); {
	case err != nil:
	case !strings.HasPrefix(reason, "guest-"):
		err = fmt.Errorf("the machine ended: %s", reason)
	case !finished:
		err = fmt.Errorf("the machine ended without the line %q", f.Finished)
	}
	if err != nil {
		return withTail(m, err)
	}
	f.CPU = m.CPU()
	return nil
}

// stuck is what an installer prints that goes on no more.
const stuck = `sci-agent: failed|Kernel panic - not syncing|No bootable device|Installation step failed|An installation step failed`

// prompt is what Debian's installer ends its questions with (cdebconf's text
// frontend).
const prompt = `^(Prompt: |\[Press enter)`

// watch returns when the machine has ended, and earlier with an error when it
// waits for a person.
func (o Options) watch(ctx context.Context, m *vm.Machine, start time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asks := make(chan error, 1)
	go func() { asks <- m.Console.Prompt(ctx, prompt) }()
	fails := make(chan error, 1)
	go func() {
		for {
			line, err := m.Expect(ctx, stuck+`|sci-agent: phase|^(Detecting|Loading|Starting up|Partitions formatting|Installing|Configuring|Select and install|Running|Finishing) .*\.\.\.`)
			if err != nil {
				fails <- err
				return
			}
			if regexp.MustCompile(stuck).MatchString(line.Text) {
				fails <- fmt.Errorf("it says: %s", line.Text)
				return
			}
			o.say("%6.0f s  %s", line.At.Sub(start).Seconds(), line.Text)
		}
	}()
	for {
		select {
		case <-m.Done():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-asks:
			if err == nil {
				return errors.New("it asks a question")
			}
			asks = nil // the machine has ended, or is about to
		case err := <-fails:
			if !errors.Is(err, vm.ErrEnded) {
				return err
			}
			fails = nil
		}
	}
}

// bootLimit bounds the boot of an installed system, in emulation.
const bootLimit = 30 * time.Minute

// boot boots the installed disk and waits until all is up: by its own word, if
// it has one, and by systemd's.
func (o Options) boot(ctx context.Context, f *Figures) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootLimit, fmt.Errorf("the installed system is not up after %s", bootLimit))
	defer cancel()
	v := o.machine(f, "system")
	v.Shell, v.SMBIOS.Credentials = true, installtest.Alone()
	o.say("%s: booting the installed disk", f.Name)
	m, err := vm.Start(ctx, v)
	if err != nil {
		return err
	}
	defer m.Kill()
	if f.Ready != "" {
		if _, err := m.Expect(ctx, regexp.QuoteMeta(f.Ready)); err != nil {
			return withTail(m, err)
		}
	}
	sh, err := m.Shell(ctx)
	if err != nil {
		return withTail(m, err)
	}
	if state, err := sh.Run(ctx, "systemctl is-system-running --wait"); err != nil {
		units, _ := sh.Run(ctx, "systemctl --failed --no-legend --plain; systemctl list-jobs --no-legend")
		o.say("%s: the installed system is %s: %s", f.Name, strings.TrimSpace(state), strings.TrimSpace(units))
	}
	if o.Booted != nil {
		if err := o.Booted(ctx, f.Installation, sh); err != nil {
			return withTail(m, err)
		}
	}
	return m.Powerdown(ctx)
}

// machine is the same for all, but for names.
func (o Options) machine(f *Figures, stage string) vm.Options {
	return vm.Options{
		Name: f.Name + "." + stage, Dir: o.Dir, Memory: o.Memory, CPUs: o.CPUs, Accel: o.Accel, QEMU: o.QEMU,
		Disks:  []vm.Disk{{Path: f.Disk, Size: o.DiskSize}},
		NICs:   []vm.NIC{{MAC: o.MAC}},
		SMBIOS: vm.SMBIOS{Product: "SCI-CD test"},
	}
}

// withTail adds the last lines of the console to an error.
func withTail(m *vm.Machine, err error) error {
	var b strings.Builder
	for _, l := range m.Console.Tail(25) {
		fmt.Fprintf(&b, "\n  %s", l.Text)
	}
	return fmt.Errorf("%w; the console's last lines:%s", err, b.String())
}

func (o Options) say(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}
