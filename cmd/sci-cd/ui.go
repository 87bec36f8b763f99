package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/skycover/sci-cd/pkg/hint"
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
	files    map[string]int64
	done     int
	total    int
	bytes    int64
	want     int64
	lastLine time.Time
}

func newUI(out, err io.Writer) *ui {
	u := &ui{out: out, err: err, files: make(map[string]int64)}
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
	fmt.Fprintln(u.err, text)
}

func (u *ui) failure(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	if u.json {
		_ = json.NewEncoder(u.err).Encode(map[string]any{"error": err.Error(), "hint": hint.Of(err), "code": codeOf(err)})
		return
	}
	fmt.Fprintf(u.err, "sci-cd: %v\n", err)
	if advice := hint.Of(err); advice != "" {
		fmt.Fprintf(u.err, "hint: %s\n", advice)
	}
}

func (u *ui) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
}

// Start, Add and Done are archive.Progress.
func (u *ui) Start(name string, size int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.total++
	u.want += size
	u.files[name] = 0
}

func (u *ui) Add(name string, n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[name] += n
	u.bytes += n
	u.progress(false)
}

func (u *ui) Done(name string, _ error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.files, name)
	u.done++
	u.progress(u.done == u.total)
}

// progress shows where the transfers are. The caller holds mu.
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
		_ = json.NewEncoder(u.err).Encode(map[string]int64{"bytes": u.bytes, "ofBytes": u.want, "files": int64(u.done), "ofFiles": int64(u.total)})
	case u.bar:
		line := fmt.Sprintf("  %s %s of %s, %d of %d files", meter(u.bytes, u.want), size(u.bytes), size(u.want), u.done, u.total)
		fmt.Fprintf(u.err, "\r%s%s", line, strings.Repeat(" ", max(0, u.shown-len(line))))
		u.shown = len(line)
	default:
		fmt.Fprintf(u.err, "  fetched %s of %s, %d of %d files\n", size(u.bytes), size(u.want), u.done, u.total)
	}
}

// clear takes the moving line away. The caller holds mu.
func (u *ui) clear() {
	if u.bar && u.shown > 0 {
		fmt.Fprintf(u.err, "\r%s\r", strings.Repeat(" ", u.shown))
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
