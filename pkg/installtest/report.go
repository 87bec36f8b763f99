package installtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

// Report is what a test found. Times are measured by the clock of the machine
// that runs the test, so they depend on it and on what else it does.
//
// It may tell of several hosts, and be filled by several goroutines: what its
// methods change is under a lock.
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
	// Sections are the tests of a report on several, see Part; none: the report is
	// on one.
	Sections []*Section

	section   string // of which this is a part; empty: it is whole
	mu        sync.Mutex
	collected []string // logs taken from the running system
}

// Section is one of several tests that a report is about. It has a timeline of
// its own.
type Section struct {
	Name, About string
	From, Until time.Duration // from the start of the report
	Skipped     string        // why the test was not run; empty: it was
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
	Host        string // empty where the test has one host only
	Section     string // empty where the report is on one test

	open bool
}

// end ends the phase unless it has ended; at is from the start of the report.
func (p *Phase) end(at time.Duration) {
	if p.open {
		p.Until, p.open = max(at, p.From), false
	}
}

// Check is one assertion.
type Check struct {
	Stage, Name, Want string
	Script            string // run on the machine; may be empty
	Output            string
	Problem           string // empty: it holds
	Done              bool   // false: the test ended before it was decided
	Skipped           string // why it was not decided; empty: it was
	Duration          time.Duration
	Host              string // empty where the test has one host only, or it is about all
	Section           string // empty where the report is on one test

	started time.Time
}

// Failed says whether the check does not hold.
func (c *Check) Failed() bool { return !c.Done || c.Problem != "" }

// Title names the check where checks of several hosts or tests stand together.
func (c *Check) Title() string {
	if c.Section == "" || c.Section == c.Name {
		return c.inSection()
	}
	return c.Section + ": " + c.inSection()
}

// inSection names the check among those of its section.
func (c *Check) inSection() string {
	if c.Host == "" {
		return c.Name
	}
	return c.Host + ": " + c.Name
}

// Screen is a screenshot.
type Screen struct {
	Caption string
	File    string // within the report's directory
	PNG     []byte

	host string
}

// Log is the end of a log.
type Log struct {
	File string // within the report's directory
	Tail string
}

// NewReport begins a report now.
func NewReport(title string) *Report { return &Report{Title: title, Started: time.Now()} }

// Image notes which image is tested.
func (r *Report) Image(iso string) {
	r.Property("Image", "%s", iso)
	if st, err := os.Stat(iso); err == nil {
		r.Property("Size", "%.1f MiB", float64(st.Size())/(1<<20))
	}
}

func newReport(o Options) *Report {
	name := filepath.Base(o.ISO)
	r := NewReport(fmt.Sprintf("%s: %s on %s from %s", name, stageName(o.Stage), o.Firmware, mediumName(o.Medium)))
	r.Image(o.ISO)
	r.Property("Stage", "%s", stageName(o.Stage))
	r.Property("Firmware", "%s", FirmwareName(o.Firmware))
	r.Property("Medium", "%s", mediumName(o.Medium))
	if o.Host.Name != "" {
		r.Property("Host", "%s, role %s", fqdn(o.Host), o.Host.Role)
	}
	memory := fmt.Sprintf("%d MiB memory", o.Memory)
	if o.InstallMemory != o.Memory {
		memory += fmt.Sprintf(", %d MiB for the installation", o.InstallMemory)
	}
	r.Property("Machine", "%s, %d processors, disk %d GiB, no network", memory, o.CPUs, o.DiskSize>>30)
	r.Property("QEMU runs it by", "%s", AccelName(o.Accel))
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

// FirmwareName is a firmware in words.
func FirmwareName(f vm.Firmware) string {
	switch f {
	case vm.BIOS:
		return "BIOS (SeaBIOS)"
	case vm.SecureBoot:
		return "UEFI (OVMF), Secure Boot with Microsoft's keys"
	}
	return "UEFI (OVMF)"
}

// AccelName is a way to run a guest in words.
func AccelName(a vm.Accel) string {
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
	r.Property("Memory of the installation", "%s", text)
}

// Property adds a line to the head.
func (r *Report) Property(name, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Properties = append(r.Properties, Property{name, fmt.Sprintf(format, args...)})
}

// Begin opens a check. An empty host means all of them, or the only one.
func (r *Report) Begin(host, stage, name, want string) *Check {
	c := &Check{Host: host, Stage: stage, Name: name, Want: want, Section: r.section, started: time.Now()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Checks = append(r.Checks, c)
	return c
}

// Close decides a check; an empty problem means that it holds.
func (r *Report) Close(c *Check, problem string) {
	c.Done, c.Problem, c.Duration = true, problem, time.Since(c.started)
}

// Skip notes a check that is not asked, and why.
func (r *Report) Skip(stage, name, why string) {
	c := r.Begin("", stage, name, "")
	c.Done, c.Skipped = true, why
}

// PhaseAt ends the host's current phase and starts another one.
func (r *Report) PhaseAt(host, name string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from := max(0, at.Sub(r.Started))
	if p := r.phase(host); p != nil {
		p.end(from)
	}
	r.Phases = append(r.Phases, Phase{Name: name, From: from, Until: from, Host: host, Section: r.section, open: true})
}

// Part begins one of several tests, as a report of its own on the same time:
// several may be filled at once. End ends it, Add puts it into the whole.
func (r *Report) Part(name, about string) *Report {
	now := time.Since(r.Started)
	return &Report{Started: r.Started, section: name, Sections: []*Section{{Name: name, About: about, From: now, Until: now}}}
}

// End ends a part, and all phases in it.
func (r *Report) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Since(r.Started)
	for _, s := range r.Sections {
		s.Until = now
	}
	r.endPhases(now)
}

// endPhases ends all phases; r.mu is held.
func (r *Report) endPhases(at time.Duration) {
	for i := range r.Phases {
		r.Phases[i].end(at)
	}
}

// SkipPart ends a part that is not run, and says why.
func (r *Report) SkipPart(why string) {
	r.Skip("", r.section, why)
	r.End()
	r.Sections[0].Skipped = why
}

// Add puts a part that has ended behind what there is.
func (r *Report) Add(part *Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Properties = append(r.Properties, part.Properties...)
	r.Sections = append(r.Sections, part.Sections...)
	r.Phases = append(r.Phases, part.Phases...)
	r.Checks = append(r.Checks, part.Checks...)
	r.Screens = append(r.Screens, part.Screens...)
	r.CPU = append(r.CPU, part.CPU...)
	r.collected = append(r.collected, part.collected...)
}

// FailedIn returns the checks of a section that do not hold.
func (r *Report) FailedIn(section string) []*Check {
	return slices.DeleteFunc(r.Failed(), func(c *Check) bool { return c.Section != section })
}

// EndPhase ends the host's current phase now; none follows at once.
func (r *Report) EndPhase(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.phase(host); p != nil {
		p.end(time.Since(r.Started))
	}
}

// behind is what stands before the name of the phase that follows a step of
// the agent, until the next step says what the time went into.
const behind = "behind step: "

// step notes that the agent has finished a step: it is what the current phase
// was about.
func (r *Report) step(host, name string, at time.Time) {
	r.mu.Lock()
	if p := r.phase(host); p != nil && strings.HasPrefix(p.Name, behind) {
		p.Name = "step: " + name
	}
	r.mu.Unlock()
	r.PhaseAt(host, behind+name, at)
}

// phase is the host's last phase; r.mu is held.
func (r *Report) phase(host string) *Phase {
	for i := len(r.Phases) - 1; i >= 0; i-- {
		if r.Phases[i].Host == host {
			return &r.Phases[i]
		}
	}
	return nil
}

func (r *Report) took(machine string, cpu time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.CPU = append(r.CPU, MachineTime{machine, cpu})
}

// Log has the page show the end of a file in the report's directory.
func (r *Report) Log(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collected = append(r.collected, path)
}

// screenName is the next free name of a screenshot of a host.
func (r *Report) screenName(host string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, prefix := 1, ""
	for _, s := range r.Screens {
		if s.host == host {
			n++
		}
	}
	for _, of := range []string{r.section, host} {
		if of != "" {
			prefix = of + "-" + prefix
		}
	}
	return fmt.Sprintf("%sscreen-%02d.png", prefix, n)
}

// addScreen reads a screenshot; one that shows the same as the last one is
// dropped.
func (r *Report) addScreen(host, path, caption string) {
	png, err := os.ReadFile(path)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.Screens) - 1; i >= 0; i-- {
		if r.Screens[i].host != host {
			continue
		}
		if string(r.Screens[i].PNG) == string(png) {
			os.Remove(path)
			return
		}
		break
	}
	for _, of := range []string{host, r.section} {
		if of != "" {
			caption = of + ": " + caption
		}
	}
	r.Screens = append(r.Screens, Screen{Caption: caption, File: filepath.Base(path), PNG: png, host: host})
}

// maxTail is the part of a log that the page shows, in bytes.
const maxTail = 24 << 10

// Finish ends the last phases and takes in the ends of the logs.
func (r *Report) Finish(logs []string) {
	r.Duration = time.Since(r.Started)
	r.endPhases(r.Duration)
	var cpu []string
	for _, m := range r.CPU {
		cpu = append(cpu, fmt.Sprintf("%s %.0f s", m.Name, m.CPU.Seconds()))
	}
	if len(cpu) > 0 {
		r.Property("Processor time", "%s", strings.Join(cpu, ", "))
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
	failed, skipped := len(r.Failed()), 0
	for _, c := range r.Checks {
		if c.Skipped != "" {
			skipped++
		}
	}
	s := fmt.Sprintf("%d checks hold", len(r.Checks)-failed-skipped)
	if failed > 0 {
		s = fmt.Sprintf("%d of %d checks failed", failed, len(r.Checks)-skipped)
	}
	if skipped > 0 {
		s += fmt.Sprintf(", %d skipped", skipped)
	}
	return fmt.Sprintf("%s, %.0f s", s, r.Duration.Seconds())
}

// Write puts report.html and junit.xml into dir.
func (r *Report) Write(dir string) error {
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
