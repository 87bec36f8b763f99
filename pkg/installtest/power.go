package installtest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

// Power says how a machine is switched on.
type Power struct {
	// Name names this run of the machine in the files of the report, behind the
	// host's name.
	Name string
	// Clock is how far the machine's clock is ahead of ours.
	Clock time.Duration
	// Unplugged are the cards without a cable, as Options.NICs counts them.
	Unplugged []int
	// Credentials are for systemd, see vm.SMBIOS.
	Credentials map[string]string
}

// PowerOn starts the machine from its disk and returns at once; it runs until
// PowerCut, Powerdown, Close or the end of ctx. What its agent says is read from
// now on, see Await.
func (s *Session) PowerOn(ctx context.Context, p Power) error {
	if s.machine != nil {
		return fmt.Errorf("cannot switch on %s: it is on", s.r.label)
	}
	s.r.phase("firmware, boot loader, kernel, systemd")
	m, err := s.r.start(ctx, p.Name, func(v *vm.Options) {
		v.Shell, v.Clock, v.SMBIOS.Credentials = true, p.Clock, p.Credentials
	})
	if err != nil {
		return err
	}
	s.machine, s.shell, s.name = m, nil, p.Name
	s.r.machines = append(s.r.machines, p.Name)
	s.console = listen(s.r, m)
	for _, nic := range p.Unplugged {
		if err := m.SetLink(ctx, nic, false); err != nil {
			return err
		}
	}
	return nil
}

// PowerCut takes the power away, if there is any.
func (s *Session) PowerCut() {
	if s.machine == nil {
		return
	}
	s.Close()
	s.r.phase("no power")
}

// Said is a line that the agent printed on the console.
type Said struct {
	Text string // behind "sci-agent: "
	At   time.Time

	dead bool // not the agent's: the boot came to an end here
}

// Await waits for a line of the agent that matches and was printed at a time or
// after it; zero: since power on. It is an error if the agent fails instead, or
// the machine ends.
func (s *Session) Await(ctx context.Context, since time.Time, re *regexp.Regexp) (Said, error) {
	if s.console == nil {
		return Said{}, fmt.Errorf("%s has not been switched on", s.r.label)
	}
	said, err := s.console.await(ctx, since, re)
	if errors.Is(err, vm.ErrEnded) && s.machine != nil {
		err = ending(ctx, s.machine, err)
	}
	if err == nil {
		return said, nil
	}
	last := "it has said nothing"
	if l := s.Last(); l.Text != "" {
		last = fmt.Sprintf("its last line: %q", l.Text)
	}
	return said, fmt.Errorf("%s: %w; %s", s.r.label, err, last)
}

// Last is what the agent said last since power on.
func (s *Session) Last() Said {
	if s.console == nil {
		return Said{}
	}
	s.console.mu.Lock()
	defer s.console.mu.Unlock()
	if n := len(s.console.lines); n > 0 {
		return s.console.lines[n-1]
	}
	return Said{}
}

// OpenShell waits for the root shell, which comes early in a boot; if there is
// one it stays.
func (s *Session) OpenShell(ctx context.Context) error {
	switch {
	case s.machine == nil:
		return fmt.Errorf("cannot open shell: %s is off", s.r.label)
	case s.shell != nil:
		return nil
	}
	var err error
	s.shell, err = s.r.shell(ctx, s.machine, true)
	return err
}

// console is what the agent of one run of a machine says, read by a goroutine.
type console struct {
	mu      sync.Mutex
	lines   []Said        // the last words of a boot among them
	ended   bool          // the machine
	changed chan struct{} // closed when something came
	done    chan struct{} // closed when no more comes
}

// listen reads the console to the end of the machine.
func listen(r *run, m *vm.Machine) *console {
	c := &console{changed: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for {
			line, err := m.Expect(context.Background(), marker) // ends with the machine
			if err != nil {
				c.end()
				return
			}
			said := Said{Text: strings.TrimSpace(line.Groups[1]), At: line.At}
			if said.Text == "" {
				said.Text, said.dead = line.Text, true
			}
			r.say("%s", said.Text)
			if step, ok := stepDone(said.Text); ok && !said.dead {
				r.report.step(r.label, step, line.At)
			}
			c.add(said)
		}
	}()
	return c
}

// stepDone reads "step NAME ok".
func stepDone(text string) (string, bool) {
	step, ok := strings.CutPrefix(text, "step ")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(step, " ok")
}

func (c *console) add(said Said) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, said)
	c.tell()
}

func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.tell()
}

// tell wakes who waits; c.mu is held.
func (c *console) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *console) await(ctx context.Context, since time.Time, re *regexp.Regexp) (Said, error) {
	for {
		c.mu.Lock()
		said, found, err := c.find(since, re)
		changed := c.changed
		c.mu.Unlock()
		if found || err != nil {
			return said, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Said{}, fmt.Errorf("no line %q came: %w", "sci-agent: "+re.String(), context.Cause(ctx))
		}
	}
}

// find looks through what came so far; c.mu is held.
func (c *console) find(since time.Time, re *regexp.Regexp) (Said, bool, error) {
	for _, l := range c.lines {
		switch {
		case l.At.Before(since):
		case l.dead:
			return l, false, fmt.Errorf("the boot came to an end: %s", l.Text)
		case re.MatchString(l.Text):
			return l, true, nil
		case strings.HasPrefix(l.Text, "failed"):
			return l, false, &agentError{l.Text}
		}
	}
	if c.ended {
		return Said{}, false, vm.ErrEnded
	}
	return Said{}, false, nil
}
