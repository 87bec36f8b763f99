package installtest

import (
	"context"
	"errors"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

// Session is one host of a test of several, see pkg/sitetest: what Run does
// with its only host, step by step and into a common report. Its methods are
// called one after the other; different sessions run at the same time.
type Session struct {
	r       *run
	name    string // of the machine that runs, see Power.Name
	machine *vm.Machine
	shell   *vm.Shell
	console *console // nil before PowerOn
}

// NewSession takes the host's part in a report. o.Host.Name names it there, and
// the files in o.ReportDir; o.WorkDir is the host's own and exists.
func NewSession(o Options, report *Report) *Session {
	o = o.withDefaults()
	return &Session{name: "system", r: &run{o: o, label: o.Host.Name, report: report, machines: machines()}}
}

// Disk is the image of the disk that the machine writes to.
func (s *Session) Disk() string {
	return s.r.disk()
}

// StartFrom has Boot and PowerOn start from an installed disk that stays as it
// is; work is a directory for the differences and the UEFI variables.
func (s *Session) StartFrom(base, work string) { s.r.o.Base, s.r.o.WorkDir = base, work }

// Install installs the host and returns when its machine has powered off.
// ErrFailed means that the report says why it did not.
func (s *Session) Install(ctx context.Context) error {
	err := s.r.install(ctx)
	s.r.report.EndPhase(s.r.label)
	return err
}

// Boot boots the disk and waits until the agent is ready. The machine runs on
// until Close or the end of ctx, failed or not; waiting ends with wait as well.
func (s *Session) Boot(ctx, wait context.Context) error {
	var err error
	s.machine, s.shell, err = s.r.boot(ctx, wait)
	s.r.report.EndPhase(s.r.label)
	return err
}

// Machine is the booted machine; nil before Boot.
func (s *Session) Machine() *vm.Machine { return s.machine }

// Shell is its root shell; nil if there is none.
func (s *Session) Shell() *vm.Shell { return s.shell }

// Phase begins a phase of the host's timeline.
func (s *Session) Phase(name string) { s.r.phase(name) }

// Question is one question to a running system.
type Question struct {
	Stage, Name, Want string
	Script            string
	// Judge returns what is wrong, or nothing.
	Judge  func(out string) string
	FailOK bool // whatever the script's exit status is, its output decides
}

// Decide judges what the question's script printed, and how it ended: nothing
// says that all is as it should be.
func (q Question) Decide(out string, err error) string {
	return assertion{judge: q.Judge, failOK: q.FailOK}.decide(out, err)
}

// Ask asks the host's shell and notes the answer in the report, under the
// host's name. It returns the output and whether the check holds.
func (s *Session) Ask(ctx context.Context, q Question) (string, bool) {
	c := s.r.begin(q.Stage, q.Name, q.Want)
	c.Script = q.Script
	out, err := s.Run(ctx, q.Script)
	c.Output = out
	problem := q.Decide(out, err)
	s.r.report.Close(c, problem)
	if problem != "" {
		s.r.say("failed: %s: %s", q.Name, problem)
	}
	return out, problem == ""
}

var errNoShell = errors.New("there is no shell")

// Run runs a script in the host's shell, as long as a check may take.
func (s *Session) Run(ctx context.Context, script string) (string, error) {
	return s.RunFor(ctx, s.r.o.Limits.Check, script)
}

// RunFor is Run with a limit of its own, for a script that takes longer than a
// check may. A script that does not end in time costs the shell.
func (s *Session) RunFor(ctx context.Context, limit time.Duration, script string) (string, error) {
	if s.shell == nil {
		return "", errNoShell
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.shell.Run(ctx, script)
}

// Collect keeps the logs of the running system.
func (s *Session) Collect(ctx context.Context) { s.r.collect(ctx, s.shell, s.name) }

// Powerdown presses the power button and waits for the end.
func (s *Session) Powerdown(ctx context.Context) error { return s.r.powerdown(ctx, s.machine) }

// Close ends the machine, as a power cut does.
func (s *Session) Close() {
	if s.machine == nil {
		return
	}
	s.r.stop(s.machine, s.name)
	if s.console != nil {
		<-s.console.done // what it said is noted
	}
	s.machine, s.shell = nil, nil
}

// Logs are the logs of the host's machines.
func (s *Session) Logs() []string { return s.r.logFiles() }

// AgentReady judges `sci-agent status --json`.
func AgentReady(out string) string { return agentReady(out) }

// Equal judges that the output is a text, but for white space around it.
func Equal(want string) func(out string) string { return equal(want) }

// Empty judges that there is no output.
func Empty(out string) string { return empty(out) }

// Keep writes text beside the report and has the page show its end.
func (s *Session) Keep(name, text string) error { return s.r.keep(name, text) }
