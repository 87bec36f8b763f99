package installer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/site"
)

// Answers is the verb answers: it reads the hardware, finds the host, and
// answers d-i's questions from the role's preseed file and from what the site
// file says of the host.
func Answers(ctx context.Context, o Options) error {
	o = o.withDefaults()
	say(o.Console, "installer started")
	s, err := loadSite(o)
	if err != nil {
		return err
	}
	h, err := findHost(ctx, o, s)
	if err != nil {
		return err
	}
	say(o.Console, "host %s (role %s)", h.Name, h.Role)
	say(o.Console, "phase answers")
	if err := remember(o, "host", h.Name); err != nil {
		return err
	}
	nameMachine(o, h)
	list, err := classAnswers(o, h)
	if err != nil {
		return err
	}
	channel := o.Debconf
	if channel == nil {
		channel = confmodule()
	}
	return NewDebconf(channel).Set(append(list, hostAnswers(s, h)...))
}

// nameMachine gives the running installer the host's name where it has none:
// LVM and ssh-keygen write it into what they make. Nothing depends on it.
func nameMachine(o Options, h *site.Host) {
	name := filepath.Join(o.Proc, "sys/kernel/hostname")
	if old, err := readBounded(name, 256); err == nil && strings.TrimSpace(string(old)) == "(none)" {
		_ = os.WriteFile(name, []byte(h.Name), 0o644)
	}
}

// findHost reads the hardware again and again until a host matches, or until
// the drivers had time enough. Two hosts that match are an error at once.
func findHost(ctx context.Context, o Options, s *site.Site) (*site.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Patience)
	defer cancel()
	for {
		hw, err := readHardware(o)
		if err != nil {
			return nil, err
		}
		h, err := MatchHost(s, hw)
		var none *NoMatch
		if err == nil || !errors.As(err, &none) || len(none.Hosts) > 0 {
			return h, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// classAnswers reads the answers for the host's class. None is no error.
func classAnswers(o Options, h *site.Host) ([]Answer, error) {
	name := filepath.Join(filepath.Dir(o.Site), h.Class(), "preseed")
	data, err := readBounded(name, 4<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the answers: %w", err)
	}
	return ParseAnswers(name, data)
}

// roleDir is the directory of a host's role on the medium.
func roleDir(o Options, h *site.Host) string { return filepath.Join(o.Medium, "sci", h.Class()) }

// hostAnswers are the answers that differ from host to host.
func hostAnswers(s *site.Site, h *site.Host) []Answer {
	return []Answer{
		{"d-i", "netcfg/get_hostname", "string", h.Name},
		{"d-i", "netcfg/get_domain", "string", s.Domain},
		{"d-i", "netcfg/hostname", "string", h.Name},
	}
}

// Answer is one line of a preseed file: the owner (d-i or a package), the
// question, its type, the value. The type "seen" sets the flag of that name.
type Answer struct{ Owner, Question, Type, Value string }

// ParseAnswers reads a preseed file as d-i's debconf-set-selections does:
// comments only at a line's start, a backslash at the end joins lines by a
// blank, the value may be empty.
func ParseAnswers(name string, data []byte) ([]Answer, error) {
	var list []Answer
	sc := bufio.NewScanner(strings.NewReader(string(data)))
	sc.Buffer(nil, 1<<20)
	joined := ""
	for n := 1; sc.Scan(); n++ {
		line := strings.ReplaceAll(sc.Text(), "\r", "")
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		line = strings.TrimLeft(line, " \t")
		if strings.ContainsRune(line, 0) {
			return nil, fmt.Errorf("%s:%d: NUL byte", name, n)
		}
		head, more := strings.CutSuffix(line, `\`)
		if joined != "" {
			head = joined + " " + head
		}
		if more {
			joined = strings.TrimRight(head, " \t")
			continue
		}
		joined = ""
		a, err := parseAnswer(head)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		list = append(list, a)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if joined != "" {
		return nil, fmt.Errorf("%s: the last line goes on but there is no next one", name)
	}
	return list, nil
}

func parseAnswer(line string) (Answer, error) {
	var f [3]string
	rest := line
	for i := range f {
		at := strings.IndexAny(rest, " \t")
		switch {
		case at < 0 && i == 2 && rest != "":
			f[2], rest = rest, ""
		case at < 0:
			return Answer{}, fmt.Errorf("%q: want OWNER QUESTION TYPE VALUE", line)
		default:
			f[i], rest = rest[:at], strings.TrimLeft(rest[at:], " \t")
		}
	}
	return Answer{f[0], f[1], f[2], rest}, nil
}

// Debconf speaks the confmodule protocol (debconf-devel(7)) as a client: one
// line a command, one line an answer that starts with a number.
type Debconf struct {
	w io.Writer
	r *bufio.Reader
}

// NewDebconf makes a client of the channel to a debconf front end.
func NewDebconf(channel io.ReadWriter) *Debconf {
	return &Debconf{w: channel, r: bufio.NewReaderSize(channel, 64<<10)}
}

// unknownQuestion is the front end's code for a question that has no template
// yet.
const unknownQuestion = 10

// Command sends one command and returns the code and the text of the answer.
func (d *Debconf) Command(words ...string) (int, string, error) {
	line := strings.Join(words, " ")
	if strings.ContainsAny(line, "\n\r\x00") {
		return 0, "", fmt.Errorf("cannot send %q to debconf: line break in it", line)
	}
	if _, err := io.WriteString(d.w, line+"\n"); err != nil {
		return 0, "", fmt.Errorf("cannot talk to debconf: %w", err)
	}
	answer, err := d.r.ReadString('\n')
	if err != nil {
		return 0, "", fmt.Errorf("cannot read debconf's answer to %s: %w", words[0], err)
	}
	code, n := 0, 0
	for n < len(answer) && answer[n] >= '0' && answer[n] <= '9' && n < 4 {
		code = code*10 + int(answer[n]-'0')
		n++
	}
	if n == 0 {
		return 0, "", fmt.Errorf("debconf answered %q to %s", strings.TrimSpace(answer), words[0])
	}
	return code, strings.TrimSuffix(strings.TrimPrefix(answer[n:], " "), "\n"), nil
}

// do is Command for commands that must succeed.
func (d *Debconf) do(words ...string) error {
	code, text, err := d.Command(words...)
	if err == nil && code != 0 {
		err = fmt.Errorf("debconf refuses %s: %d %s", strings.Join(words[:min(2, len(words))], " "), code, text)
	}
	return err
}

// Set sets every answer and marks it as seen, in the order given. A question
// without a template is registered with d-i's dummy template, so that the
// package which brings it later finds the answer.
func (d *Debconf) Set(list []Answer) error {
	for _, a := range list {
		if err := d.set(a); err != nil {
			return err
		}
	}
	return nil
}

func (d *Debconf) set(a Answer) error {
	if a.Type == "seen" {
		// As in debconf-set-selections, a flag of an unknown question is not
		// an error.
		_, _, err := d.Command("FSET", a.Question, "seen", a.Value)
		return err
	}
	code, text, err := d.Command("SET", a.Question, a.Value)
	if err != nil {
		return err
	}
	switch code {
	case 0:
	case unknownQuestion:
		if err := d.do("REGISTER", "debian-installer/dummy", a.Question); err != nil {
			return err
		}
		if err := d.do("SET", a.Question, a.Value); err != nil {
			return err
		}
		if err := d.do("SUBST", a.Question, "ID", a.Question); err != nil {
			return err
		}
	default:
		return fmt.Errorf("debconf refuses SET %s: %d %s", a.Question, code, text)
	}
	return d.do("FSET", a.Question, "seen", "true")
}

// fds joins the two directions of the confmodule channel.
type fds struct {
	io.Reader
	io.Writer
}

// confmodule is the channel that a postinst of d-i has: answers come on file
// descriptor 0; commands go to 1, or to 3 where a shell below us has sourced
// confmodule and taken 1 for itself.
func confmodule() io.ReadWriter {
	out := uintptr(1)
	if os.Getenv("DEBCONF_REDIR") != "" {
		out = 3
	}
	return fds{os.NewFile(0, "debconf answers"), os.NewFile(out, "debconf commands")}
}
