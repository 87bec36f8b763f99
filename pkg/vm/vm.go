// Package vm runs one virtual machine in QEMU and talks to it: serial lines in
// and out, QMP, screenshots, and a root shell in an unmodified installed
// system.
//
// It starts QEMU (qemu-system-x86_64, 7.2 or later) as a child that dies with
// us, joined by three socket pairs: QMP, the first serial line (the console)
// and the second one (the shell). There is no socket file, no port and no
// waiting for either. Raw serial output is kept in files; matching works on
// lines without terminal escapes.
//
// Sources: QEMU's qemu(1), "QEMU Machine Protocol Specification"
// (docs/interop/qmp-spec), systemd.system-credentials(7) and
// systemd-debug-generator(8) for the shell, OVMF's README for Secure Boot.
package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Firmware is what the machine boots with.
type Firmware string

// The kinds of firmware.
const (
	BIOS       Firmware = "bios"       // SeaBIOS
	UEFI       Firmware = "uefi"       // OVMF, Secure Boot off
	SecureBoot Firmware = "secureboot" // OVMF with Microsoft's keys, enforcing
)

// ParseFirmware reads the name of a firmware.
func ParseFirmware(s string) (Firmware, error) {
	switch f := Firmware(s); f {
	case BIOS, UEFI, SecureBoot:
		return f, nil
	}
	return "", fmt.Errorf("cannot use firmware %q: want %s, %s or %s", s, BIOS, UEFI, SecureBoot)
}

// Disk is a virtio-blk disk.
type Disk struct {
	Path   string // raw image; created sparse if it does not exist
	Size   int64  // bytes, for an image to be created
	Serial string // as the guest sees it, at most 20 characters; may be empty
	// Backing is an image that the disk begins as and that stays as it is: Path is
	// then a qcow2 image of the differences, which qemu-img creates if it does not
	// exist. Size is ignored.
	Backing string
	// BackingFormat is "raw" or "qcow2"; default raw.
	BackingFormat string
}

// NIC is a virtio-net card. Its link is up.
type NIC struct {
	MAC string
	// Port is what the cable leads to, see Switch; nil is a hub with nothing
	// else in it, so there is no network at all.
	Port *Port
}

// SMBIOS is what the firmware says about the machine (DMTF DSP0134).
type SMBIOS struct {
	Serial   string // type 1, system serial number
	AssetTag string // type 3, chassis asset tag
	Product  string // type 1, product name
	// Credentials are passed to systemd as type 11 strings, by name. See
	// systemd.system-credentials(7).
	Credentials map[string]string
}

// Options describes a machine. Only Dir is required.
type Options struct {
	Name     string // names the log files in Dir; default "vm"
	Dir      string // receives the logs
	Vars     string // directory of the UEFI variables, which outlive the run; default Dir
	Memory   int    // MiB; default 1024
	CPUs     int    // default 2
	Accel    Accel  // default TCG; see Probe
	Firmware Firmware
	CDROM    string // ISO image in a SATA drive
	USB      string // image on a writable USB stick; writes are dropped at the end
	Disks    []Disk
	NICs     []NIC
	SMBIOS   SMBIOS
	VGA      bool // a standard VGA card, needed for screenshots
	NoReboot bool // a reboot by the guest ends the run
	Shell    bool // root shell on the second serial line; see Machine.Shell
	// Clock is how far the machine's clock is ahead of ours when it starts; it
	// may be negative.
	Clock time.Duration

	Kernel, Initrd, Append string // direct boot, for tests

	QEMU string // binary; default "qemu-system-x86_64"
	// QEMURoot is a Debian root directory to run QEMU from, without entering
	// it: its loader, libraries, modules and firmware are used. It lets a
	// machine with an old QEMU run a newer one.
	QEMURoot string
}

// Machine is a running virtual machine.
type Machine struct {
	// Console is the first serial line (ttyS0), Aux the second (ttyS1).
	Console, Aux *Serial

	name   string
	dir    string // Options.Vars, for files of the run
	cmd    *exec.Cmd
	qmp    *qmp
	errlog string
	cancel context.CancelFunc
	done   chan struct{} // closed when QEMU has ended
	err    error         // valid after done

	mu     sync.Mutex
	reason string // of the last SHUTDOWN event
}

// startTimeout bounds the time to QMP's greeting.
const startTimeout = 30 * time.Second

// Start starts the machine. It is killed when ctx ends.
func Start(ctx context.Context, o Options) (*Machine, error) {
	o = o.withDefaults()
	if err := o.prepare(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	m := &Machine{name: o.Name, dir: o.Vars, cancel: cancel, done: make(chan struct{}), errlog: filepath.Join(o.Dir, o.Name+".qemu.log")}
	if err := m.launch(ctx, o); err != nil {
		cancel()
		return nil, err
	}
	hello, stop := context.WithTimeout(ctx, startTimeout)
	defer stop()
	if err := m.qmp.handshake(hello); err != nil {
		err = m.explain(err)
		m.Kill()
		return nil, fmt.Errorf("cannot start virtual machine %q: %w", o.Name, err)
	}
	return m, nil
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name = "vm"
	}
	if o.Vars == "" {
		o.Vars = o.Dir
	}
	if o.Memory == 0 {
		o.Memory = 1024
	}
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.Accel == "" {
		o.Accel = TCG
	}
	if o.Firmware == "" {
		o.Firmware = BIOS
	}
	if o.QEMU == "" {
		o.QEMU = "qemu-system-x86_64"
	}
	return o
}

// prepare creates what the command line names: disk images, UEFI variables.
func (o Options) prepare(ctx context.Context) error {
	for _, d := range o.Disks {
		if err := o.create(ctx, d); err != nil {
			return err
		}
	}
	if o.Firmware == BIOS {
		return nil
	}
	fw, err := o.ovmf()
	if err != nil {
		return err
	}
	return copyOnce(o.varsPath(), fw.vars)
}

// launch starts QEMU with its connections and the goroutine that waits for its
// end.
func (m *Machine) launch(ctx context.Context, o Options) error {
	var ours, theirs [3]*os.File
	var cables []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
	}
	defer func() { closeAll(theirs[:]); closeAll(cables) }()
	for i := range ours {
		var err error
		if ours[i], theirs[i], err = socketPair(); err != nil {
			closeAll(ours[:])
			return fmt.Errorf("cannot connect to QEMU: %w", err)
		}
	}
	argv, err := o.argv()
	if err == nil {
		cables, err = o.plug()
	}
	if err != nil {
		closeAll(ours[:])
		return err
	}
	stderr, err := os.Create(m.errlog)
	if err != nil {
		closeAll(ours[:])
		return fmt.Errorf("cannot create log: %w", err)
	}
	defer func() { _ = stderr.Close() }() // QEMU has its own
	fmt.Fprintf(stderr, "%s\n\n", strings.Join(argv, " \\\n  "))
	m.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	m.cmd.Stdout, m.cmd.Stderr = stderr, stderr
	m.cmd.ExtraFiles = append(theirs[:], cables...) // descriptors 3, 4, 5, then from firstCable
	m.cmd.Env = append(os.Environ(), o.env()...)
	if err := startTied(m.cmd, m.ended); err != nil {
		closeAll(ours[:])
		return fmt.Errorf("cannot start %q: %w", argv[0], err)
	}
	m.qmp = newQMP(ours[0], m.event)
	m.Console, err = newSerial(ours[1], filepath.Join(o.Dir, o.Name+".ttyS0.log"))
	if err == nil {
		m.Aux, err = newSerial(ours[2], filepath.Join(o.Dir, o.Name+".ttyS1.log"))
	}
	if err != nil {
		m.Kill()
	}
	return err
}

// ended is called once, with the result of QEMU's process.
func (m *Machine) ended(err error) {
	m.err = err
	close(m.done)
}

func (m *Machine) event(e Event) {
	if e.Name != "SHUTDOWN" {
		return
	}
	m.mu.Lock()
	m.reason, _ = e.Data["reason"].(string)
	m.mu.Unlock()
}

// ErrEnded says that the machine is not running any more.
var ErrEnded = errors.New("virtual machine has ended")

// Expect waits for the next complete line on the console that matches.
func (m *Machine) Expect(ctx context.Context, pattern string) (Match, error) {
	return m.Console.Expect(ctx, pattern)
}

// Send writes text to the console.
func (m *Machine) Send(text string) error { return m.Console.Send(text) }

// Wait waits until the machine has ended by itself and returns why: QEMU's
// SHUTDOWN reason, "guest-shutdown" or "guest-reset" where the guest did it.
func (m *Machine) Wait(ctx context.Context) (reason string, err error) {
	select {
	case <-m.done:
	case <-ctx.Done():
		return "", fmt.Errorf("virtual machine %q did not end: %w", m.name, context.Cause(ctx))
	}
	m.qmp.drained() // QEMU's last event may come after its end
	m.mu.Lock()
	reason = m.reason
	m.mu.Unlock()
	if m.err != nil {
		return reason, m.explain(m.err)
	}
	return reason, nil
}

// Done is closed when the machine has ended.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Powerdown presses the power button and waits for the end.
func (m *Machine) Powerdown(ctx context.Context) error {
	if err := m.QMP(ctx, "system_powerdown", nil, nil); err != nil {
		return err
	}
	_, err := m.Wait(ctx)
	return err
}

// Kill ends the machine at once, as a power cut does, and waits for its
// process. It may be called repeatedly.
func (m *Machine) Kill() {
	m.cancel()
	<-m.done
}

// QMP runs a command of QEMU's machine protocol. args and result may be nil.
func (m *Machine) QMP(ctx context.Context, command string, args, result any) error {
	if err := m.qmp.execute(ctx, command, args, result); err != nil {
		return m.explain(err)
	}
	return nil
}

// SetLink takes the carrier away from a network card, as a pulled cable does,
// or gives it back. nic counts as Options.NICs does.
func (m *Machine) SetLink(ctx context.Context, nic int, up bool) error {
	return m.QMP(ctx, "set_link", map[string]any{"name": nicName(nic), "up": up}, nil)
}

// Screenshot writes the screen to a PNG file. It needs Options.VGA.
func (m *Machine) Screenshot(ctx context.Context, path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return m.QMP(ctx, "screendump", map[string]any{"filename": abs, "format": "png"}, nil)
}

// Keys presses keys one after the other, in QEMU's names (QKeyCode); keys
// joined by "-" are pressed together: "ret", "alt-f2".
func (m *Machine) Keys(ctx context.Context, keys ...string) error {
	for _, k := range keys {
		var codes []map[string]string
		for _, c := range strings.Split(k, "-") {
			codes = append(codes, map[string]string{"type": "qcode", "data": c})
		}
		if err := m.QMP(ctx, "send-key", map[string]any{"keys": codes}, nil); err != nil {
			return err
		}
	}
	return nil
}

// explain adds QEMU's own last words to an error.
func (m *Machine) explain(err error) error {
	select {
	case <-m.done:
	case <-time.After(100 * time.Millisecond):
		return err
	}
	data, rerr := os.ReadFile(m.errlog)
	if rerr != nil {
		return err
	}
	_, said, _ := strings.Cut(string(data), "\n\n")
	if said = strings.TrimSpace(said); said == "" {
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	if len(said) > 2000 {
		said = said[len(said)-2000:]
	}
	return fmt.Errorf("%w: %w\n%s", ErrEnded, err, said)
}
