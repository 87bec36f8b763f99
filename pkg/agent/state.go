package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// StateFile is where the state is, below the root directory.
const StateFile = "var/lib/sci/state.json"

// stateFormat is the version of the state file.
const stateFormat = 1

const (
	maxState = 1 << 20 // bytes of a state file that are read
	maxError = 4096    // bytes of an error that are kept
)

// Phase is how far the whole plan is.
type Phase string

// The phases. A machine that was powered off keeps the phase of its last write.
const (
	Working   Phase = "working"
	IsWaiting Phase = "waiting"
	IsStopped Phase = "stopped"
	IsReady   Phase = "ready"
)

// StepPhase is how far one step is.
type StepPhase string

// The phases of a step.
const (
	StepPending StepPhase = "pending"
	StepDoing   StepPhase = "doing"
	StepWaiting StepPhase = "waiting"
	StepStopped StepPhase = "stopped"
	StepOK      StepPhase = "ok"
)

// State is what `sci-agent status` shows. Times are the machine's own, in UTC;
// before the first synchronisation they may be far off.
type State struct {
	Format  int       `json:"format"`
	State   Phase     `json:"state"`
	Host    string    `json:"host,omitempty"` // full name
	Role    string    `json:"role,omitempty"`
	Version string    `json:"version,omitempty"` // of the agent
	Boot    string    `json:"boot,omitempty"`    // the kernel's boot id at the last write
	Since   time.Time `json:"since,omitzero"`    // when State became what it is
	Updated time.Time `json:"updated,omitzero"`
	Steps   []Record  `json:"steps"`
}

// Record is what is remembered of one step.
type Record struct {
	Name      string    `json:"name"`
	State     StepPhase `json:"state"`
	Tries     int       `json:"tries"`             // how often the work was begun, over all boots
	Started   time.Time `json:"started,omitzero"`  // when the work was first begun
	Finished  time.Time `json:"finished,omitzero"` // when the check first said yes
	NextTry   time.Time `json:"nextTry,omitzero"`
	LastError string    `json:"lastError,omitempty"` // kept after success, with its time
	LastFail  time.Time `json:"lastFail,omitzero"`
}

// ReadState reads the state file. A missing one is an empty state. A broken one
// (no file system keeps every promise in a power cut) is an error; Plan.Run
// says so and starts a new one.
func ReadState(name string) (*State, error) {
	data, err := readBounded(name, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return &State{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the state: %w", err)
	}
	return parseState(name, data)
}

func parseState(name string, data []byte) (*State, error) {
	st := new(State)
	if err := json.Unmarshal(data, st); err != nil {
		return nil, fmt.Errorf("cannot read the state: %s: %w", name, err)
	}
	if st.Format != stateFormat {
		return nil, fmt.Errorf("cannot read the state: %s: format %d, want %d", name, st.Format, stateFormat)
	}
	return st, nil
}

// begin lines the records up with the plan; what a step's record remembers
// stays, whether it is done is to be found out again.
func (st *State) begin(steps []Step) {
	old := make(map[string]Record, len(st.Steps))
	for _, r := range st.Steps {
		old[r.Name] = r
	}
	st.Format, st.Steps = stateFormat, make([]Record, len(steps))
	for i, s := range steps {
		r := old[s.Name]
		r.Name, r.State, r.NextTry = s.Name, StepPending, time.Time{}
		st.Steps[i] = r
	}
}

func (st *State) enter(phase Phase) {
	st.Updated = now()
	if st.State != phase {
		st.State, st.Since = phase, st.Updated
	}
}

func (st *State) write(name string) error {
	data, err := json.MarshalIndent(st, "", "  ")
	if err == nil {
		err = writeFile(name, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot write the state: %w", err)
	}
	return nil
}

func (r *Record) start() {
	r.State, r.NextTry = StepDoing, time.Time{}
	r.Finished = time.Time{}
	r.Tries++
	if r.Started.IsZero() {
		r.Started = now()
	}
}

func (r *Record) finish() {
	r.State, r.NextTry = StepOK, time.Time{}
	if r.Finished.IsZero() {
		r.Finished = now()
	}
}

func (r *Record) fail(phase StepPhase, err error, wait time.Duration) {
	r.State, r.LastError, r.LastFail = phase, err.Error(), now()
	if len(r.LastError) > maxError {
		r.LastError = strings.ToValidUTF8(r.LastError[:maxError], "")
	}
	if wait > 0 {
		r.NextTry = r.LastFail.Add(wait)
	}
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
