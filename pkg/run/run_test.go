package run

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		summary string
		cmd     Cmd
		want    string
	}{
		{"output", Cmd{Argv: []string{"printf", `a\nb`}}, "a\nb"},
		{"standard error is no output", Cmd{Argv: []string{"sh", "-c", "echo out; echo err >&2"}}, "out\n"},
		{"input", Cmd{Argv: []string{"cat"}, Stdin: strings.NewReader("in")}, "in"},
		{"no input is an empty one", Cmd{Argv: []string{"cat"}}, ""},
		{"directory", Cmd{Argv: []string{"pwd"}, Dir: dir}, dir + "\n"},
		{"the whole environment", Cmd{Argv: []string{"/usr/bin/env"}, Env: []string{"ONE=1"}}, "ONE=1\n"},
	}
	for _, test := range tests {
		out, err := Host{}.Run(t.Context(), test.cmd)
		if err != nil || string(out) != test.want {
			t.Errorf("%s: Run = %q, %v; want %q", test.summary, out, err, test.want)
		}
	}
}

func TestLog(t *testing.T) {
	var log bytes.Buffer
	out, err := Host{}.Run(t.Context(), Cmd{Argv: []string{"sh", "-c", "echo out; echo err >&2"}, Log: &log})
	if err != nil || string(out) != "out\n" {
		t.Fatalf("Run = %q, %v", out, err)
	}
	for _, want := range []string{"out\n", "err\n"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log is %q; want it to hold %q", log.String(), want)
		}
	}
}

func TestOutput(t *testing.T) {
	if got, err := Output(t.Context(), Host{}, "echo", " a b "); got != "a b" || err != nil {
		t.Errorf("Output = %q, %v; want \"a b\"", got, err)
	}
}

func TestError(t *testing.T) {
	_, err := Host{}.Run(t.Context(), Cmd{Argv: []string{"sh", "-c", "echo working; echo no such disk >&2; exit 3"}})
	want := "cannot run \"sh -c echo working; echo no such disk >&2; exit 3\": exit status 3\nworking\nno such disk"
	if err == nil || err.Error() != want {
		t.Errorf("Run = %v\nwant %s", err, want)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("the cause is %v; want the exit status", errors.Unwrap(err))
	}
	_, err = Host{}.Run(t.Context(), Cmd{Argv: []string{"/does/not/exist"}})
	if want := `cannot run "/does/not/exist": fork/exec /does/not/exist: no such file or directory`; err == nil || err.Error() != want {
		t.Errorf("Run = %v\nwant %s", err, want)
	}
	if _, err := (Host{}).Run(t.Context(), Cmd{}); err == nil {
		t.Error("an empty argument vector was run")
	}
}

// A command that prints without end must not fill the memory of whoever reports
// its failure; what it said last is what matters.
func TestErrorKeepsTheEnd(t *testing.T) {
	_, err := Host{}.Run(t.Context(), Cmd{Argv: []string{"sh", "-c", "seq 100000; echo the reason; exit 1"}})
	var failed *Error
	if !errors.As(err, &failed) {
		t.Fatalf("Run = %v", err)
	}
	if len(failed.Output) > maxOutput || !strings.HasSuffix(failed.Output, "\nthe reason\n") {
		t.Errorf("%d bytes of output kept, ending in %q", len(failed.Output), failed.Output[max(0, len(failed.Output)-20):])
	}
}

// A child that outlives the killed command and holds its output open must not
// keep Run from returning.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := Host{}.Run(ctx, Cmd{Argv: []string{"sh", "-c", "sleep 60 & wait"}})
	if err == nil {
		t.Error("Run of a killed command succeeded")
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("Run took %v", took)
	}
}
