package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Accel is how QEMU runs the guest's code.
type Accel string

// The ways.
const (
	TCG Accel = "tcg" // software emulation; works everywhere
	KVM Accel = "kvm"
)

// AccelVariable is the environment variable that overrides Probe.
const AccelVariable = "SCI_CD_ACCEL"

// probeTimeout is the hard limit of the trial. A good KVM needs 0.1 s.
const probeTimeout = 5 * time.Second

// Probe finds out whether KVM works here. The presence of /dev/kvm says
// little: under some hypervisors it opens, runs real mode, and hangs every
// kernel. So a tiny guest is run that does what a kernel does first (testdata/probe.S).
// The second result says in words what was found.
//
// override, if not empty, is taken without a trial: "tcg" or "kvm".
func Probe(ctx context.Context, qemu, override string) (Accel, string, error) {
	switch Accel(override) {
	case "":
	case TCG, KVM:
		return Accel(override), AccelVariable + "=" + override, nil
	default:
		return "", "", fmt.Errorf("cannot use %s=%q: want %s or %s", AccelVariable, override, TCG, KVM)
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return TCG, "no /dev/kvm", nil
	}
	if qemu == "" {
		qemu = "qemu-system-x86_64"
	}
	dir, err := os.MkdirTemp("", "sci-cd-probe-")
	if err != nil {
		return "", "", fmt.Errorf("cannot probe KVM: %w", err)
	}
	defer os.RemoveAll(dir)
	rom := filepath.Join(dir, "probe.bin")
	if err := os.WriteFile(rom, probeROM(), 0o600); err != nil {
		return "", "", fmt.Errorf("cannot probe KVM: %w", err)
	}
	if err := runProbe(ctx, qemu, rom, KVM); err != nil {
		return TCG, "KVM does not run a small guest: " + err.Error(), nil
	}
	return KVM, "KVM runs a small guest", nil
}

// probeStatus is QEMU's exit status when the guest got through.
const probeStatus = 99

func runProbe(ctx context.Context, qemu, rom string, accel Accel) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	// enforce: a KVM without SSE3 is no real processor's.
	cmd := exec.Command(qemu, "-machine", "q35", "-accel", string(accel), "-cpu", "qemu64,enforce", "-m", "64",
		"-nodefaults", "-no-user-config", "-display", "none", "-bios", rom,
		"-device", "isa-debug-exit,iobase=0xf4,iosize=4")
	ended := make(chan error, 1)
	if err := startTied(cmd, func(err error) { ended <- err }); err != nil {
		return err
	}
	select {
	case err := <-ended:
		exit := (*exec.ExitError)(nil)
		if errors.As(err, &exit) && exit.ExitCode() == probeStatus {
			return nil
		}
		if err == nil {
			err = errors.New("exit status 0")
		}
		return fmt.Errorf("QEMU ended: %w", err)
	case <-ctx.Done():
		// Its end is not waited for: a process that hangs in the kernel's KVM
		// code can't be killed.
		_ = cmd.Process.Kill()
		return fmt.Errorf("no result after %v", probeTimeout)
	}
}

// probeROM is the assembled probe.S.
func probeROM() []byte {
	rom := make([]byte, 64<<10)
	for i := range rom {
		rom[i] = 0x90
	}
	copy(rom, probeCode)
	copy(rom[0xfff0:], probeReset)
	return rom
}
