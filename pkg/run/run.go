// Package run runs commands. Its errors carry the argument vector and the
// output, so that whoever reads one at three in the morning sees what was run
// and what it said.
package run

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// maxOutput bounds the output kept in an Error, in bytes; the end is kept.
const maxOutput = 4096

// Error is a command that could not be started or that failed.
type Error struct {
	Argv   []string
	Output string // standard output and error, interleaved, the last 4 KiB
	Err    error
}

func (e *Error) Error() string {
	msg := fmt.Sprintf("cannot run %q: %v", strings.Join(e.Argv, " "), e.Err)
	if e.Output != "" {
		msg += "\n" + strings.TrimRight(e.Output, "\n")
	}
	return msg
}

func (e *Error) Unwrap() error { return e.Err }

// Cmd is a command to run. Only Argv is required.
type Cmd struct {
	Argv  []string
	Dir   string
	Env   []string  // the whole environment; nil inherits ours
	Stdin io.Reader // nil is an empty input
	// Log receives standard output and error as they come; nil drops them.
	Log io.Writer
}

// Runner runs a command and returns its standard output. Host is the real one;
// tests record and answer.
type Runner interface {
	Run(ctx context.Context, c Cmd) ([]byte, error)
}

// Host runs commands on this machine.
type Host struct{}

// Run runs c, waits for its end and returns its standard output. When ctx ends
// the command is killed.
func (Host) Run(ctx context.Context, c Cmd) ([]byte, error) {
	if len(c.Argv) == 0 {
		return nil, &Error{Err: fmt.Errorf("empty argument vector")}
	}
	var out, all bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.Dir, c.Env, c.Stdin
	both := io.Writer(&all)
	if c.Log != nil {
		both = io.MultiWriter(&all, c.Log)
	}
	both = &serial{w: both}
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, both), both
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		tail := all.Bytes()
		if len(tail) > maxOutput {
			tail = tail[len(tail)-maxOutput:]
		}
		return out.Bytes(), &Error{Argv: c.Argv, Output: string(tail), Err: err}
	}
	return out.Bytes(), nil
}

// Output is a shorthand for a command without options on r.
func Output(ctx context.Context, r Runner, argv ...string) (string, error) {
	out, err := r.Run(ctx, Cmd{Argv: argv})
	return strings.TrimSpace(string(out)), err
}
