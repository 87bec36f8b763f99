package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Line is a line of a serial log without terminal escapes and controls.
type Line struct {
	Text string
	At   time.Time // when its end was read
}

// Match is a line that matched a pattern.
type Match struct {
	Line
	Groups []string // the pattern's submatches; Groups[0] is the whole match
}

const (
	maxLine  = 4096  // bytes kept of one line
	maxLines = 50000 // lines kept for Expect and Tail
)

// Serial is a serial line of the machine. What comes in is kept raw in a file
// and as lines in memory.
type Serial struct {
	conn io.ReadWriteCloser
	raw  *os.File

	mu      sync.Mutex
	strip   stripper
	lines   []Line
	dropped int // lines that are gone from the front of lines
	next    int // the first line, counted from the beginning, that Expect looks at
	changed chan struct{}
	closed  bool
}

func newSerial(conn io.ReadWriteCloser, path string) (*Serial, error) {
	raw, err := os.Create(path)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cannot create serial log: %w", err)
	}
	s := &Serial{conn: conn, raw: raw, changed: make(chan struct{})}
	go s.read()
	return s, nil
}

func (s *Serial) read() {
	buf := make([]byte, 4096)
	for {
		n, err := s.conn.Read(buf)
		s.mu.Lock()
		if n > 0 {
			_, _ = s.raw.Write(buf[:n]) // a full disk must not stop the machine
			s.add(buf[:n])
		}
		if err != nil {
			s.add([]byte("\n")) // the unfinished line is the last one
			s.closed = true
			_, _ = s.raw.Close(), s.conn.Close()
		}
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *Serial) add(data []byte) {
	now := time.Now()
	for _, text := range s.strip.feed(data) {
		s.lines = append(s.lines, Line{text, now})
	}
	if over := len(s.lines) - maxLines; over > maxLines/10 {
		s.lines = append([]Line(nil), s.lines[over:]...)
		s.dropped += over
	}
}

// Send writes text to the line.
func (s *Serial) Send(text string) error {
	if c, ok := s.conn.(interface{ SetWriteDeadline(time.Time) error }); ok {
		_ = c.SetWriteDeadline(time.Now().Add(time.Minute))
	}
	if _, err := io.WriteString(s.conn, text); err != nil {
		return fmt.Errorf("cannot write to serial line: %w", err)
	}
	return nil
}

// Expect waits for the next complete line that matches the pattern (Go regexp
// syntax). It starts behind the line that the last Expect returned. When the
// machine ends first, the error is ErrEnded.
func (s *Serial) Expect(ctx context.Context, pattern string) (Match, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return Match{}, err
	}
	for {
		s.mu.Lock()
		m, ok := s.scan(re)
		changed, closed := s.changed, s.closed
		s.mu.Unlock()
		switch {
		case ok:
			return m, nil
		case closed:
			return Match{}, fmt.Errorf("no line matched %q: %w", pattern, ErrEnded)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Match{}, fmt.Errorf("no line matched %q: %w", pattern, context.Cause(ctx))
		}
	}
}

func (s *Serial) scan(re *regexp.Regexp) (Match, bool) {
	for s.next = max(s.next, s.dropped); s.next < s.dropped+len(s.lines); {
		line := s.lines[s.next-s.dropped]
		s.next++
		if groups := re.FindStringSubmatch(line.Text); groups != nil {
			return Match{line, groups}, true
		}
	}
	return Match{}, false
}

// Prompt waits until the line that is not finished yet matches the pattern, as
// in "login: ".
func (s *Serial) Prompt(ctx context.Context, pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	for {
		s.mu.Lock()
		ok := re.Match(s.strip.line)
		changed, closed := s.changed, s.closed
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case closed:
			return fmt.Errorf("no prompt matched %q: %w", pattern, ErrEnded)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("no prompt matched %q: %w", pattern, context.Cause(ctx))
		}
	}
}

// Contains says whether any line so far matches the pattern, and returns the
// first one that does.
func (s *Serial) Contains(re *regexp.Regexp) (Line, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if re.MatchString(l.Text) {
			return l, true
		}
	}
	return Line{}, false
}

// Tail returns the last n lines.
func (s *Serial) Tail(n int) []Line {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := append([]Line(nil), s.lines...)
	if len(s.strip.line) > 0 {
		lines = append(lines, Line{string(s.strip.line), time.Now()})
	}
	return lines[max(0, len(lines)-n):]
}

// Strip returns a raw serial log as lines without terminal escapes.
func Strip(raw []byte) string {
	var s stripper
	lines := s.feed(raw)
	if len(s.line) > 0 {
		lines = append(lines, string(s.line))
	}
	return strings.Join(lines, "\n")
}

// stripper cuts a stream of bytes into lines and drops what is meant for a
// terminal only: ECMA-48 control sequences (CSI), control strings (OSC, DCS …)
// and control characters. A carriage return ends a line as a line feed does, and
// so does a jump of the cursor (CUP), with which boot loaders draw their menus;
// empty lines are dropped.
type stripper struct {
	line  []byte
	state byte // 0 text, 1 after ESC, 2 in CSI, 3 in a control string, 4 after ESC in one, 5 skip one byte
}

func (s *stripper) feed(data []byte) []string {
	var lines []string
	for _, c := range data {
		moved := s.state == 2 && c == 'H'
		if s.escape(c) && !moved {
			continue
		}
		switch {
		case c == '\n' || c == '\r' || moved:
			if text := strings.TrimRight(string(s.line), " "); text != "" {
				lines = append(lines, strings.ToValidUTF8(text, "\uFFFD"))
			}
			s.line = s.line[:0]
		case c == '\b' && len(s.line) > 0:
			s.line = s.line[:len(s.line)-1]
		case c == '\t':
			s.line = append(s.line, ' ')
		case c >= ' ' && c != 0x7f && len(s.line) < maxLine:
			s.line = append(s.line, c)
		}
	}
	return lines
}

// escape handles c if it belongs to an escape sequence.
func (s *stripper) escape(c byte) bool {
	switch s.state {
	case 0:
		if c != 0x1b {
			return false
		}
		s.state = 1
	case 1:
		switch {
		case c == '[':
			s.state = 2
		case c == ']' || c == 'P' || c == '^' || c == '_' || c == 'X':
			s.state = 3
		case c == '(' || c == ')' || c == '#' || c == '%':
			s.state = 5
		default:
			s.state = 0
		}
	case 2:
		if c == '\n' { // a broken sequence must not swallow the log
			s.state = 0
			return false
		}
		if c >= 0x40 && c <= 0x7e {
			s.state = 0
		}
	case 3:
		switch c {
		case 0x07:
			s.state = 0
		case 0x1b:
			s.state = 4
		case '\n':
			s.state = 0
			return false
		}
	default: // 4, 5
		s.state = 0
	}
	return true
}
