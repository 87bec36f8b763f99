package installtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

// Report is what a test found. Times are measured by the clock of the machine
// that runs the test, so they depend on it and on what else it does.
type Report struct {
	Title      string
	Properties []Property
	Started    time.Time
	Duration   time.Duration
	Phases     []Phase
	Checks     []*Check
	// Accepted are the expected differences to the system that this one was
	// compared with.
	Accepted []Difference
	Screens  []Screen
	Logs     []Log
	// CPU is the processor time of each machine's QEMU, in their order.
	CPU []MachineTime
	// PeakMemory is what the installation needed at most, in MiB, as the agent
	// says it; 0 if it does not.
	PeakMemory int

	collected []string // logs taken from the running system
}

// Property is a line of the report's head.
type Property struct{ Name, Value string }

// MachineTime is the processor time that one machine took.
type MachineTime struct {
	Name string
	CPU  time.Duration
}

// Phase is a bar of the timeline, from the start of the test.
type Phase struct {
	Name        string
	From, Until time.Duration
}

// Check is one assertion.
type Check struct {
	Stage, Name, Want string
	Script            string // run on the machine; may be empty
	Output            string
	Problem           string // empty: it holds
	Done              bool   // false: the test ended before it was decided
	Duration          time.Duration

	started time.Time
}

// Failed says whether the check does not hold.
func (c *Check) Failed() bool { return !c.Done || c.Problem != "" }

// Screen is a screenshot.
type Screen struct {
	Caption string
	File    string // within the report's directory
	PNG     []byte
}

// Log is the end of a log.
type Log struct {
	File string // within the report's directory
	Tail string
}

func newReport(o Options) *Report {
	r := &Report{Started: time.Now()}
	name := filepath.Base(o.ISO)
	r.Title = fmt.Sprintf("%s: %s on %s from %s", name, stageName(o.Stage), o.Firmware, mediumName(o.Medium))
	r.property("Image", "%s", o.ISO)
	if st, err := os.Stat(o.ISO); err == nil {
		r.property("Size", "%.1f MiB", float64(st.Size())/(1<<20))
	}
	r.property("Stage", "%s", stageName(o.Stage))
	r.property("Firmware", "%s", firmwareName(o.Firmware))
	r.property("Medium", "%s", mediumName(o.Medium))
	if o.Host.Name != "" {
		r.property("Host", "%s, role %s", fqdn(o.Host), o.Host.Role)
	}
	memory := fmt.Sprintf("%d MiB memory", o.Memory)
	if o.InstallMemory != o.Memory {
		memory += fmt.Sprintf(", %d MiB for the installation", o.InstallMemory)
	}
	r.property("Machine", "%s, %d processors, disk %d GiB, no network", memory, o.CPUs, o.DiskSize>>30)
	r.property("QEMU runs it by", "%s", accelName(o.Accel))
	return r
}

func stageName(s Stage) string {
	if s == Boot {
		return "boot to the installer"
	}
	return "installation"
}

func mediumName(m Medium) string {
	if m == USB {
		return "USB stick"
	}
	return "CD"
}

func firmwareName(f vm.Firmware) string {
	switch f {
	case vm.BIOS:
		return "BIOS (SeaBIOS)"
	case vm.SecureBoot:
		return "UEFI (OVMF), Secure Boot with Microsoft's keys"
	}
	return "UEFI (OVMF)"
}

func accelName(a vm.Accel) string {
	if a == vm.KVM {
		return "KVM"
	}
	return "software emulation (TCG)"
}

// memory reads the agent's "N MiB at most of M MiB".
func (r *Report) memory(text string) {
	if _, err := fmt.Sscanf(text, "%d MiB", &r.PeakMemory); err != nil {
		return
	}
	r.property("Memory of the installation", "%s", text)
}

func (r *Report) property(name, format string, args ...any) {
	r.Properties = append(r.Properties, Property{name, fmt.Sprintf(format, args...)})
}

// begin opens a check.
func (r *Report) begin(stage, name, want string) *Check {
	c := &Check{Stage: stage, Name: name, Want: want, started: time.Now()}
	r.Checks = append(r.Checks, c)
	return c
}

// close decides a check; an empty problem means that it holds.
func (r *Report) close(c *Check, problem string) {
	c.Done, c.Problem, c.Duration = true, problem, time.Since(c.started)
}

// phaseAt ends the current phase and starts another one.
func (r *Report) phaseAt(name string, at time.Time) {
	from := max(0, at.Sub(r.Started))
	r.endPhase(from)
	r.Phases = append(r.Phases, Phase{Name: name, From: from, Until: from})
}

func (r *Report) endPhase(at time.Duration) {
	if n := len(r.Phases); n > 0 {
		r.Phases[n-1].Until = max(at, r.Phases[n-1].From)
	}
}

func (r *Report) screenName() string { return fmt.Sprintf("screen-%02d.png", len(r.Screens)+1) }

// addScreen reads a screenshot; one that shows the same as the last one is
// dropped.
func (r *Report) addScreen(path, caption string) {
	png, err := os.ReadFile(path)
	if err != nil {
		return
	}
	if n := len(r.Screens); n > 0 && string(r.Screens[n-1].PNG) == string(png) {
		os.Remove(path)
		return
	}
	r.Screens = append(r.Screens, Screen{caption, filepath.Base(path), png})
}

// maxTail is the part of a log that the page shows, in bytes.
const maxTail = 24 << 10

// finish ends the last phase and takes in the ends of the logs.
func (r *Report) finish(logs []string) {
	r.Duration = time.Since(r.Started)
	r.endPhase(r.Duration)
	var cpu []string
	for _, m := range r.CPU {
		cpu = append(cpu, fmt.Sprintf("%s %.0f s", m.Name, m.CPU.Seconds()))
	}
	if len(cpu) > 0 {
		r.property("Processor time", "%s", strings.Join(cpu, ", "))
	}
	for _, path := range append(logs, r.collected...) {
		if data, err := tail(path, maxTail); err == nil {
			r.Logs = append(r.Logs, Log{filepath.Base(path), vm.Strip(data)})
		}
	}
}

// Failed returns the checks that do not hold.
func (r *Report) Failed() []*Check {
	var failed []*Check
	for _, c := range r.Checks {
		if c.Failed() {
			failed = append(failed, c)
		}
	}
	return failed
}

// Summary is the result in one line.
func (r *Report) Summary() string {
	failed := len(r.Failed())
	s := fmt.Sprintf("%d checks hold", len(r.Checks)-failed)
	if failed > 0 {
		s = fmt.Sprintf("%d of %d checks failed", failed, len(r.Checks))
	}
	return fmt.Sprintf("%s, %.0f s", s, r.Duration.Seconds())
}

// write puts report.html and junit.xml into dir.
func (r *Report) write(dir string) error {
	for _, f := range []struct {
		name   string
		render func() ([]byte, error)
	}{{"report.html", r.HTML}, {"junit.xml", r.JUnit}} {
		data, err := f.render()
		if err != nil {
			return fmt.Errorf("cannot render %s: %w", f.name, err)
		}
		if err := writeFile(filepath.Join(dir, f.name), data); err != nil {
			return fmt.Errorf("cannot write report: %w", err)
		}
	}
	return nil
}

// writeFile writes beside the file and renames.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
