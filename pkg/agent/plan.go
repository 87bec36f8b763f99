package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Step is one thing that must be true of the machine.
type Step struct {
	Name string
	// Done reports whether nothing is left to do. It changes nothing.
	Done func(context.Context) (bool, error)
	// Do does the work, or what is left of it. It is called again after an
	// error, after a kill and after a power cut.
	Do func(context.Context) error
	// Timeout limits one check and one try; 0 means the plan's.
	Timeout time.Duration
}

// Plan goes through its steps in order.
type Plan struct {
	Steps []Step
	// File is the path of the state file; its directory is made when missing.
	File string
	// First and Max are the pauses after the first failed try and the longest
	// one; between them they double. 0 means 1 s and 1 min.
	First, Max time.Duration
	// Timeout limits one check and one try of a step. 0 means 10 min.
	Timeout time.Duration
	// About fills in the head of the state (host, role, version, boot) before
	// the state is written; nil leaves it empty.
	About func(*State)
	// Tell hears every event, in order; nil is deaf.
	Tell func(Event)
}

// Event is something that the plan did.
type Event struct {
	Kind Kind
	Step string        // empty for Ready and Trouble
	Try  int           // Retry: how many tries failed; OK: how many it took, 0 if it was done already
	Wait time.Duration // Retry: the pause before the next try
	Err  error         // Retry, Stopped, Trouble: why
}

// Kind is the kind of an Event.
type Kind int

// The kinds. Trouble is a failure of the record keeping, not of a step.
const (
	Begin Kind = iota
	OK
	Retry
	Stopped
	Ready
	Trouble
)

// Waiting is an error of a step that lacks something which it cannot make
// itself: a cable, another machine, a disk.
type Waiting struct {
	For string // "a network card with a link"
	Err error  // what told so; may be nil
}

func (w *Waiting) Error() string {
	if w.Err == nil {
		return "waiting for " + w.For
	}
	return "waiting for " + w.For + ": " + w.Err.Error()
}

func (w *Waiting) Unwrap() error { return w.Err }

// StopError ends a plan: trying again cannot help.
type StopError struct{ Err error }

func (e *StopError) Error() string { return e.Err.Error() }
func (e *StopError) Unwrap() error { return e.Err }

// Stop marks err as one that only a person can mend; advice says how.
func Stop(err error, advice string) error { return &StopError{hint.New(err, advice)} }

// Run goes through the plan until everything is done (nil), a step stops it
// (*StopError) or ctx ends (its error).
func (p *Plan) Run(ctx context.Context) error {
	st, err := ReadState(p.File)
	if err != nil {
		p.tell(Event{Kind: Trouble, Err: err})
		st = &State{}
	}
	st.begin(p.Steps)
	p.save(st, Working)
	for i := range p.Steps {
		if err := p.step(ctx, st, i); err != nil {
			return err
		}
	}
	p.save(st, IsReady)
	p.tell(Event{Kind: Ready})
	return nil
}

// step brings one step to its end.
func (p *Plan) step(ctx context.Context, st *State, i int) error {
	s, rec := p.Steps[i], &st.Steps[i]
	p.tell(Event{Kind: Begin, Step: s.Name})
	for failed := 0; ; {
		done, err := p.try(ctx, s, st, rec)
		if ctx.Err() != nil {
			p.save(st, Working)
			return fmt.Errorf("cannot finish step %s: %w", s.Name, context.Cause(ctx))
		}
		if done {
			rec.finish()
			p.save(st, Working)
			p.tell(Event{Kind: OK, Step: s.Name, Try: rec.Tries})
			return nil
		}
		if stop := new(StopError); errors.As(err, &stop) {
			rec.fail(StepStopped, err, 0)
			p.save(st, IsStopped)
			p.tell(Event{Kind: Stopped, Step: s.Name, Err: err})
			return &StopError{fmt.Errorf("step %s: %w", s.Name, err)}
		}
		wait := p.pause(failed)
		failed++
		rec.fail(StepWaiting, err, wait)
		p.save(st, IsWaiting)
		p.tell(Event{Kind: Retry, Step: s.Name, Try: failed, Wait: wait, Err: err})
		sleep(ctx, wait)
	}
}

// try checks, works and checks again. done is false whenever err is not nil.
func (p *Plan) try(ctx context.Context, s Step, st *State, rec *Record) (done bool, err error) {
	limit := s.Timeout
	if limit == 0 {
		limit = p.Timeout
	}
	if limit == 0 {
		limit = 10 * time.Minute
	}
	limited := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		err := f(ctx)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("gave up after %v: %w", limit, err)
		}
		return err
	}
	check := func(ctx context.Context) (err error) { done, err = s.Done(ctx); return err }
	if err := limited(check); err != nil || done {
		return done && err == nil, err
	}
	rec.start()
	p.save(st, Working)
	if err := limited(s.Do); err != nil {
		return false, err
	}
	if err := limited(check); err != nil || done {
		return done && err == nil, err
	}
	return false, errors.New("the work was done without an error, but its check still says no")
}

// pause is the time between a failed try and the next one.
func (p *Plan) pause(failed int) time.Duration {
	first, longest := p.First, p.Max
	if first <= 0 {
		first = time.Second
	}
	if longest <= 0 {
		longest = time.Minute
	}
	d := first
	for ; failed > 0 && d < longest; failed-- {
		d *= 2
	}
	return min(d, longest)
}

// save writes the state. The plan goes on without: the checks decide what is
// done, and a full disk must not keep a cluster from coming up.
func (p *Plan) save(st *State, phase Phase) {
	st.enter(phase)
	if p.About != nil {
		p.About(st)
	}
	if err := st.write(p.File); err != nil {
		p.tell(Event{Kind: Trouble, Err: err})
	}
}

func (p *Plan) tell(e Event) {
	if p.Tell != nil {
		p.Tell(e)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
