package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is a machine of named facts; a step makes its fact true.
type world struct {
	facts map[string]bool
	log   []string
}

func (w *world) step(name string) Step {
	return Step{
		Name: name,
		Done: func(context.Context) (bool, error) { w.log = append(w.log, "done? "+name); return w.facts[name], nil },
		Do: func(context.Context) error {
			w.log = append(w.log, "do "+name)
			w.facts[name] = true
			return nil
		},
	}
}

func newWorld(facts ...string) *world {
	w := &world{facts: make(map[string]bool)}
	for _, f := range facts {
		w.facts[f] = true
	}
	return w
}

// events renders what a plan tells, a line an event.
type events []string

func (l *events) tell(e Event) {
	s := [...]string{"begin", "ok", "retry", "stopped", "ready", "trouble"}[e.Kind]
	for _, part := range []string{e.Step, num(e.Try), dur(e.Wait), msg(e.Err)} {
		if part != "" {
			s += " " + part
		}
	}
	*l = append(*l, s)
}

func num(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func dur(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func msg(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func read(t *testing.T, name string) *State {
	t.Helper()
	st, err := ReadState(name)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestPlanOrder(t *testing.T) {
	w := newWorld("b")
	var ev events
	p := Plan{Steps: []Step{w.step("a"), w.step("b"), w.step("c")}, File: filepath.Join(t.TempDir(), "sci/state.json"), Tell: ev.tell}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantLog := []string{"done? a", "do a", "done? a", "done? b", "done? c", "do c", "done? c"}
	if d := cmp.Diff(wantLog, w.log); d != "" {
		t.Errorf("calls (-want +got):\n%s", d)
	}
	wantEvents := events{"begin a", "ok a 1", "begin b", "ok b", "begin c", "ok c 1", "ready"}
	if d := cmp.Diff(wantEvents, ev); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	st := read(t, p.File)
	if st.State != IsReady || len(st.Steps) != 3 {
		t.Errorf("state = %+v; want ready with 3 steps", st)
	}
	for i, tries := range []int{1, 0, 1} {
		r := st.Steps[i]
		if r.State != StepOK || r.Tries != tries || r.Finished.IsZero() || r.Started.IsZero() != (tries == 0) {
			t.Errorf("step %d = %+v; want ok after %d tries", i, r, tries)
		}
	}
}

func TestPlanSecondRunDoesNothing(t *testing.T) {
	w := newWorld()
	p := Plan{Steps: []Step{w.step("a"), w.step("b")}, File: filepath.Join(t.TempDir(), "state.json")}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := read(t, p.File)
	w.log = nil
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"done? a", "done? b"}; !slices.Equal(w.log, want) {
		t.Errorf("second run called %q; want %q", w.log, want)
	}
	if d := cmp.Diff(before.Steps, read(t, p.File).Steps); d != "" {
		t.Errorf("records of steps that were done changed (-before +after):\n%s", d)
	}
}

func TestPlanRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails, done := 9, false
		s := Step{
			Name: "lan",
			Done: func(context.Context) (bool, error) { return done, nil },
			Do: func(context.Context) error {
				if fails > 0 {
					fails--
					return &Waiting{For: "a cable", Err: fmt.Errorf("%d", fails)}
				}
				done = true
				return nil
			},
		}
		var ev events
		p := Plan{Steps: []Step{s}, File: filepath.Join(t.TempDir(), "state.json"), Tell: ev.tell}
		start := time.Now()
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, want := time.Since(start), (1+2+4+8+16+32+60+60+60)*time.Second; got != want {
			t.Errorf("took %v; want %v", got, want)
		}
		want := events{"begin lan",
			"retry lan 1 1s waiting for a cable: 8", "retry lan 2 2s waiting for a cable: 7",
			"retry lan 3 4s waiting for a cable: 6", "retry lan 4 8s waiting for a cable: 5",
			"retry lan 5 16s waiting for a cable: 4", "retry lan 6 32s waiting for a cable: 3",
			"retry lan 7 1m0s waiting for a cable: 2", "retry lan 8 1m0s waiting for a cable: 1",
			"retry lan 9 1m0s waiting for a cable: 0", "ok lan 10", "ready"}
		if d := cmp.Diff(want, ev); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
		r := read(t, p.File).Steps[0]
		if r.Tries != 10 || r.LastError != "waiting for a cable: 0" || r.State != StepOK || !r.NextTry.IsZero() {
			t.Errorf("record = %+v; want ok, 10 tries, the last error kept", r)
		}
	})
}

// A step that becomes true while the plan waits is not worked at again.
func TestPlanChecksBeforeEachTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, does := time.Now(), 0
		s := Step{
			Name: "peer",
			Done: func(context.Context) (bool, error) { return time.Since(start) > 2*time.Second, nil },
			Do:   func(context.Context) error { does++; return errors.New("no answer") },
		}
		p := Plan{Steps: []Step{s}, File: filepath.Join(t.TempDir(), "state.json")}
		if err := p.Run(t.Context()); err != nil || does != 2 {
			t.Errorf("Run = %v after %d tries; want nil after 2", err, does)
		}
	})
}

func TestPlanWaitingIsVisible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := Step{
			Name: "lan",
			Done: func(context.Context) (bool, error) { return false, nil },
			Do:   func(context.Context) error { return &Waiting{For: "a cable"} },
		}
		p := Plan{Steps: []Step{s}, File: filepath.Join(t.TempDir(), "state.json")}
		ctx, cancel := context.WithCancel(t.Context())
		errc := make(chan error)
		go func() { errc <- p.Run(ctx) }()
		time.Sleep(500 * time.Millisecond)
		st := read(t, p.File)
		r := st.Steps[0]
		if st.State != IsWaiting || r.State != StepWaiting || r.LastError != "waiting for a cable" || r.NextTry.Sub(r.LastFail) != time.Second {
			t.Errorf("state while waiting = %+v", st)
		}
		cancel()
		if err := <-errc; !errors.Is(err, context.Canceled) {
			t.Errorf("Run = %v; want context.Canceled", err)
		}
	})
}

func TestPlanDoneSaysNoAfterDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		s := Step{
			Name: "liar",
			Done: func(context.Context) (bool, error) { return n > 1, nil },
			Do:   func(context.Context) error { n++; return nil },
		}
		var ev events
		p := Plan{Steps: []Step{s}, File: filepath.Join(t.TempDir(), "state.json"), Tell: ev.tell}
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := events{"begin liar", "retry liar 1 1s the work was done without an error, but its check still says no", "ok liar 2", "ready"}
		if d := cmp.Diff(want, ev); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
	})
}

// A check that cannot be made is no leave to work.
func TestPlanCheckFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		s := Step{
			Name: "disk",
			Done: func(context.Context) (bool, error) {
				log = append(log, "done?")
				if len(log) < 3 {
					return true, errors.New("cannot look") // true beside an error is no success
				}
				return true, nil
			},
			Do: func(context.Context) error { log = append(log, "do"); return nil },
		}
		p := Plan{Steps: []Step{s}, File: filepath.Join(t.TempDir(), "state.json")}
		if err := p.Run(t.Context()); err != nil || !slices.Equal(log, []string{"done?", "done?", "done?"}) {
			t.Errorf("Run = %v, calls %q; want three checks and no work", err, log)
		}
	})
}

func TestPlanTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := true
		s := Step{
			Name: "slow", Timeout: time.Minute,
			Done: func(context.Context) (bool, error) { return !hang, nil },
			Do: func(ctx context.Context) error {
				<-ctx.Done()
				hang = false
				return ctx.Err()
			},
		}
		var ev events
		p := Plan{Steps: []Step{s}, File: filepath.Join(t.TempDir(), "state.json"), Tell: ev.tell}
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := events{"begin slow", "retry slow 1 1s gave up after 1m0s: context deadline exceeded", "ok slow 1", "ready"}
		if d := cmp.Diff(want, ev); d != "" {
			t.Errorf("events (-want +got):\n%s", d)
		}
	})
}

func TestPlanStop(t *testing.T) {
	w := newWorld()
	s := Step{
		Name: "identity",
		Done: func(context.Context) (bool, error) { return false, Stop(errors.New("not this machine"), "look") },
		Do:   func(context.Context) error { t.Error("Do was called"); return nil },
	}
	var ev events
	p := Plan{Steps: []Step{s, w.step("next")}, File: filepath.Join(t.TempDir(), "state.json"), Tell: ev.tell}
	err := p.Run(t.Context())
	var stop *StopError
	if !errors.As(err, &stop) || err.Error() != "step identity: not this machine" {
		t.Errorf("Run = %v; want a StopError", err)
	}
	if want := (events{"begin identity", "stopped identity not this machine"}); !slices.Equal(ev, want) {
		t.Errorf("events = %q; want %q", ev, want)
	}
	st := read(t, p.File)
	if st.State != IsStopped || st.Steps[0].State != StepStopped || st.Steps[1].State != StepPending || len(w.log) > 0 {
		t.Errorf("state = %+v, calls after it %q; want stopped at the first step", st, w.log)
	}
}

func TestPlanCancelledInTheMiddleOfWork(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	w := newWorld()
	s := Step{
		Name: "a",
		Done: func(context.Context) (bool, error) { return false, nil },
		Do:   func(ctx context.Context) error { cancel(errors.New("power button")); <-ctx.Done(); return ctx.Err() },
	}
	var ev events
	p := Plan{Steps: []Step{s, w.step("b")}, File: filepath.Join(t.TempDir(), "state.json"), Tell: ev.tell}
	if err := p.Run(ctx); err == nil || err.Error() != "cannot finish step a: power button" {
		t.Errorf("Run = %v; want the cause", err)
	}
	if want := (events{"begin a"}); !slices.Equal(ev, want) || len(w.log) > 0 {
		t.Errorf("events = %q, later calls %q; want no retry and no later step", ev, w.log)
	}
	if st := read(t, p.File); st.State != Working || st.Steps[0].State != StepDoing {
		t.Errorf("state = %+v; want working, step a doing", st)
	}
}

// Every prefix of a state file is what a power cut may leave where a file
// system does not keep the order of writes; none may keep the plan from going.
func TestPlanPowerCutInStateWrite(t *testing.T) {
	w := newWorld()
	p := Plan{Steps: []Step{w.step("a"), w.step("b")}, File: filepath.Join(t.TempDir(), "state.json")}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(p.File)
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(filepath.Dir(p.File), ".state.json.sci-new")
	for cut := range len(whole) - 1 { // the last byte is a line feed
		if _, err := parseState("state.json", whole[:cut]); err == nil {
			t.Fatalf("cut at %d: taken for a whole state", cut)
		}
		if cut%16 != 0 {
			continue
		}
		var ev events
		p.Tell = ev.tell
		// Both the file itself and the one beside it are cut.
		for _, name := range []string{p.File, beside} {
			if err := os.WriteFile(name, whole[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Run(t.Context()); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if !strings.HasPrefix(ev[0], "trouble cannot read the state: ") || ev[len(ev)-1] != "ready" {
			t.Fatalf("cut at %d: events %q; want trouble first and ready last", cut, ev)
		}
		if st := read(t, p.File); st.State != IsReady {
			t.Fatalf("cut at %d: state %q; want ready", cut, st.State)
		}
		if _, err := os.Stat(beside); err == nil {
			t.Fatalf("cut at %d: the file beside is still there", cut)
		}
	}
}

// A state that cannot be written must not keep the machine from coming up.
func TestPlanStateNotWritable(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	var ev events
	p := Plan{Steps: []Step{w.step("a")}, File: filepath.Join(dir, "file/state.json"), Tell: ev.tell}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !w.facts["a"] || ev[len(ev)-1] != "ready" || !strings.HasPrefix(ev[0], "trouble ") {
		t.Errorf("events = %q; want trouble, and ready all the same", ev)
	}
}

func TestStateOfANewerAgent(t *testing.T) {
	_, err := parseState("state.json", []byte(`{"format": 2}`))
	if err == nil || err.Error() != "cannot read the state: state.json: format 2, want 1" {
		t.Errorf("parseState = %v", err)
	}
}

// errPower is a power cut: the process is gone at that point.
var errPower = errors.New("power cut")

// TestPlanKilledAnywhere cuts the power at each operation in turn, in every
// pair of operations with the next boot's, and looks that the plan ends with
// every fact true, in order, none done twice without need.
func TestPlanKilledAnywhere(t *testing.T) {
	names := []string{"a", "b", "c"}
	for first := 1; first < 30; first++ {
		for _, second := range []int{0, 1, 4, 9} {
			file := filepath.Join(t.TempDir(), "state.json")
			facts := make(map[string]int) // survives, as a disk does
			cuts := []int{first, second}
			for boot := 0; ; boot++ {
				if boot > 3 {
					t.Fatalf("cuts %v: not ready after %d boots", cuts, boot)
				}
				left := 0
				if boot < len(cuts) {
					left = cuts[boot]
				}
				if runUntilCut(t, file, names, facts, left) {
					break
				}
			}
			for _, n := range names {
				if facts[n] == 0 || facts[n] > 3 {
					t.Errorf("cuts %v: %s was done %d times", cuts, n, facts[n])
				}
			}
			if st := read(t, file); st.State != IsReady {
				t.Errorf("cuts %v: state %q; want ready", cuts, st.State)
			}
		}
	}
}

// runUntilCut runs a plan whose operations count down left; at 0 the goroutine
// ends, as by SIGKILL. left 0 is no cut at all.
func runUntilCut(t *testing.T, file string, names []string, facts map[string]int, left int) (ready bool) {
	op := func() {
		if left--; left == 0 {
			panic(errPower)
		}
	}
	var steps []Step
	for i, name := range names {
		steps = append(steps, Step{
			Name: name,
			Done: func(context.Context) (bool, error) { op(); return facts[name] > 0, nil },
			Do: func(context.Context) error {
				op()
				if i > 0 && facts[names[i-1]] == 0 {
					t.Errorf("%s before %s", name, names[i-1])
				}
				facts[name]++
				op()
				return nil
			},
		})
	}
	defer func() {
		if r := recover(); r != nil && r != any(errPower) {
			panic(r)
		}
	}()
	p := Plan{Steps: steps, File: file, Tell: func(Event) { op() }, About: func(*State) { op() }}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return true
}

// TestPlanSIGKILL kills a real process at random moments and lets the next one
// go on: the state file is whole at every time, each step ran once.
func TestPlanSIGKILL(t *testing.T) {
	dir := t.TempDir()
	for kills := range 15 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPlanChild$")
		cmd.Env = append(os.Environ(), "SCI_PLAN_CHILD="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		delay := time.Duration(20+rand.IntN(60)) * time.Millisecond
		timer := time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		st, rerr := ReadState(filepath.Join(dir, "state.json"))
		if rerr != nil {
			t.Fatalf("after kill %d at %v: %v", kills, delay, rerr)
		}
		if err == nil && st.State != IsReady {
			t.Fatalf("ended by itself in state %q", st.State)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestPlanChild$")
	cmd.Env = append(os.Environ(), "SCI_PLAN_CHILD="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("last run: %v\n%s", err, out)
	}
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range 40 {
		fmt.Fprintf(&want, "%02d\n", i)
	}
	if d := cmp.Diff(want.String(), string(order)); d != "" {
		t.Errorf("order of the steps (-want +got):\n%s", d)
	}
}

// TestPlanChild is the process that TestPlanSIGKILL kills.
func TestPlanChild(t *testing.T) {
	dir := os.Getenv("SCI_PLAN_CHILD")
	if dir == "" {
		t.Skip("runs as the child of TestPlanSIGKILL only")
	}
	order := filepath.Join(dir, "order")
	var steps []Step
	for i := range 40 {
		line := fmt.Sprintf("%02d\n", i)
		steps = append(steps, Step{
			Name: strings.TrimSpace(line),
			Done: func(context.Context) (bool, error) {
				data, err := os.ReadFile(order)
				if errors.Is(err, os.ErrNotExist) {
					return false, nil
				}
				return strings.Contains(string(data), line), err
			},
			Do: func(context.Context) error {
				time.Sleep(time.Millisecond)
				f, err := os.OpenFile(order, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
				if err != nil {
					return err
				}
				_, err = f.WriteString(line)
				return errors.Join(err, f.Close())
			},
		})
	}
	p := Plan{Steps: steps, File: filepath.Join(dir, "state.json")}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"format":1,"state":"ready","steps":[{"name":"a","state":"ok","tries":1,"started":"2026-11-22T12:00:00Z"}]}`))
	f.Add([]byte(`{"format":1,"steps":[{"name":""}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := parseState("state.json", data)
		if err != nil {
			return
		}
		st.begin([]Step{{Name: "a"}, {Name: "b"}})
		var b strings.Builder
		if err := st.Print(&b); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(b.String(), func(r rune) bool { return r == 0x1b }) {
			t.Fatal("an escape sequence reached the terminal")
		}
	})
}
