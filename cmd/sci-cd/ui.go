package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// ui is the only one that prints. Its rules:
//
//   - Results go to stdout, everything else to stderr.
//   - A terminal gets one line that moves; anything else gets plain lines, one
//     a step and one every ten seconds of a long transfer.
//   - With --json both are JSON, an object a line.
//   - A failure is one sentence; its hint stands on a line of its own.
//   - No colour, no emoji.
type ui struct {
	out, err io.Writer
	json     bool
	bar      bool // stderr is a terminal

	mu       sync.Mutex
	shown    int // characters of the moving line
	work     work
	lastLine time.Time
}

func newUI(out, err io.Writer) *ui {
	u := &ui{out: out, err: err}
	if f, ok := err.(*os.File); ok {
		u.bar = term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
	}
	return u
}

// result prints a result: text for people, or the value as JSON.
func (u *ui) result(value any, format string, args ...any) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	if u.json {
		return json.NewEncoder(u.out).Encode(value)
	}
	_, err := fmt.Fprintf(u.out, format, args...)
	return err
}

// step announces a part of the work.
func (u *ui) step(name string) { u.line("step", name) }

// note tells what stops nothing but should be known.
func (u *ui) note(text string) { u.line("note", text) }

func (u *ui) line(kind, text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	if u.json {
		_ = json.NewEncoder(u.err).Encode(map[string]string{kind: text})
		return
	}
	if kind == "note" {
		text = "note: " + text
	}
	_, _ = fmt.Fprintln(u.err, text)
}

// failure prints an error and its hint. Problems of a site file, which stand at
// places of their own, are lines as compilers print them.
func (u *ui) failure(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	var problems site.Problems
	listed := errors.As(err, &problems)
	if u.json {
		line := map[string]any{"error": err.Error(), "hint": hint.Of(err), "code": codeOf(err)}
		if listed {
			line["problems"] = problems
		}
		_ = json.NewEncoder(u.err).Encode(line)
		return
	}
	if listed && err.Error() == problems.Error() {
		_, _ = fmt.Fprintf(u.err, "%v\n", err)
		return
	}
	_, _ = fmt.Fprintf(u.err, "sci-cd: %v\n", err)
	if advice := hint.Of(err); advice != "" {
		_, _ = fmt.Fprintf(u.err, "hint: %s\n", advice)
	}
}

func (u *ui) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
}

// Start, Add and Done are archive.Progress.
func (u *ui) Start(_ string, size int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.work.verb != "fetched" {
		u.begin("fetched")
	}
	u.work.files++
	u.work.of += size
}

func (u *ui) Add(_ string, n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.work.bytes += n
	u.progress(false)
}

func (u *ui) Done(string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.work.done++
	u.progress(u.work.done == u.work.files)
}

// transfer shows how far one long piece of work is; verb says what was done to
// the bytes ("written"). Another verb begins another piece.
func (u *ui) transfer(verb string, done, of int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.work.verb != verb {
		u.begin(verb)
	}
	u.work.bytes, u.work.of = done, of
	u.progress(done == of)
}

// begin starts another piece of work: what is done in an interval needs no line
// but the last. The caller holds mu.
func (u *ui) begin(verb string) {
	u.clear()
	u.work, u.lastLine = work{verb: verb}, time.Now()
}

// work is what the moving line is about.
type work struct {
	verb        string
	bytes, of   int64
	done, files int // files is 0 where there is only one
}

// MarshalJSON is the line's form for machines.
func (w work) MarshalJSON() ([]byte, error) {
	line := map[string]any{"progress": w.verb, "bytes": w.bytes, "ofBytes": w.of}
	if w.files > 0 {
		line["files"], line["ofFiles"] = w.done, w.files
	}
	return json.Marshal(line)
}

func (w work) String() string {
	line := fmt.Sprintf("%s %s of %s", w.verb, size(w.bytes), size(w.of))
	if w.files > 0 {
		line += fmt.Sprintf(", %d of %d files", w.done, w.files)
	}
	return line
}

// progress shows where the work is. The caller holds mu.
func (u *ui) progress(last bool) {
	interval := 10 * time.Second
	if u.bar {
		interval = 100 * time.Millisecond
	}
	now := time.Now() // for people's eyes only
	if !last && now.Sub(u.lastLine) < interval {
		return
	}
	u.lastLine = now
	switch {
	case u.json:
		_ = json.NewEncoder(u.err).Encode(u.work)
	case u.bar:
		line := fmt.Sprintf("  %s %s", meter(u.work.bytes, u.work.of), u.work)
		_, _ = fmt.Fprintf(u.err, "\r%s%s", line, strings.Repeat(" ", max(0, u.shown-len(line))))
		u.shown = len(line)
	default:
		_, _ = fmt.Fprintf(u.err, "  %s\n", u.work)
	}
}

// clear takes the moving line away. The caller holds mu.
func (u *ui) clear() {
	if u.bar && u.shown > 0 {
		_, _ = fmt.Fprintf(u.err, "\r%s\r", strings.Repeat(" ", u.shown))
		u.shown = 0
	}
}

func meter(n, of int64) string {
	const width = 24
	full := 0
	if of > 0 {
		full = int(min(n, of) * width / of)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

// size writes a number of bytes for people, in powers of 1000 as disks are
// sold.
func size(n int64) string {
	const units = "kMGT"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1000, 0
	for f >= 1000 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	return fmt.Sprintf("%.1f %cB", f, units[i])
}
