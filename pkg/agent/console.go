package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

// Console speaks to the three who may look: the journal, the person before the
// screen (a banner above the login prompt) and whoever reads /dev/console, test
// harnesses among them. Its lines on /dev/console all begin with "sci-agent: ".
type Console struct {
	Node    *Node
	Systemd bool // put priorities before the lines in the journal, sd-daemon(3)

	last    string // the last message of a retry, to say it once
	step    string // whose message it was
	greeted bool
}

const (
	bannerFile  = "etc/issue.d/sci.issue"
	consoleFile = "dev/console"
	// consolePatience is how long a line may take on a stuck serial port.
	consolePatience = 2 * time.Second
)

// Tell announces one event.
func (c *Console) Tell(ctx context.Context, e Event) {
	switch e.Kind {
	case Begin:
		c.greet()
		c.journal(6, "step "+e.Step)
		if e.Step != c.step {
			c.step, c.last = e.Step, ""
			c.banner(ctx, "is being set up")
		}
	case OK:
		c.line(6, "step "+e.Step+" ok")
	case Retry:
		c.retry(ctx, e)
	case Stopped:
		c.greet()
		c.line(3, "failed: step "+e.Step+": "+e.Err.Error())
		advice := hint.Of(e.Err)
		if advice != "" {
			c.line(3, "hint: "+advice)
		}
		c.banner(ctx, "is NOT set up: step "+e.Step+" stopped", firstLine(e.Err.Error()), advice,
			"then: systemctl restart sci-agent")
	case Ready:
		c.line(5, "ready")
		c.banner(ctx, isReady, c.readyLines()...)
	case Trouble:
		c.journal(4, e.Err.Error())
	}
}

// Say writes a line for people; lines may come from several goroutines.
func (c *Console) Say(text string) { c.line(5, text) }

// greet names the host as soon as it is known, once.
func (c *Console) greet() {
	if h := c.Node.Host; h != nil && !c.greeted {
		c.greeted = true
		c.line(6, fmt.Sprintf("host %s (role %s)", h.Name, h.Role))
	}
}

// retry says what is being waited for. The console gets a message when it is
// new and, since it may scroll away, at each doubling of the number of tries.
func (c *Console) retry(ctx context.Context, e Event) {
	msg := e.Err.Error()
	text := fmt.Sprintf("step %s retry %d in %v: %s", e.Step, e.Try, e.Wait, brief(e.Err))
	if msg == c.last && e.Try&(e.Try-1) != 0 {
		c.journal(4, text)
		return
	}
	c.last = msg
	c.line(4, text)
	if firstLine(msg) != brief(e.Err) {
		c.journal(4, msg)
	}
	c.banner(ctx, "is being set up: "+e.Step, brief(e.Err), hint.Of(e.Err))
}

// brief is an error in one line for people. Of a command that failed it has
// the name and the last thing that it said, which is mostly the reason; the
// journal has the rest.
func brief(err error) string {
	msg := firstLine(err.Error())
	e := new(run.Error)
	if !errors.As(err, &e) || e.Output == "" {
		return msg
	}
	i := strings.Index(msg, firstLine(e.Error()))
	if i < 0 {
		return msg
	}
	name := strings.Join(e.Argv[:min(len(e.Argv), 2)], " ")
	return fmt.Sprintf("%s%s: %v: %s", msg[:i], name, e.Err, reason(e.Output))
}

// reason is why a command failed: the last line of its output, or all from the
// line on that begins with "Failure: ", as Ganeti's commands end.
func reason(output string) string {
	lines := strings.Split(strings.TrimRight(output, "\n"), "\n")
	from := len(lines) - 1
	for i, l := range lines {
		if strings.HasPrefix(l, "Failure: ") {
			from = i
			break
		}
	}
	return cut(strings.Join(strings.Fields(strings.Join(lines[from:], " ")), " "), maxReason)
}

// maxReason is in bytes: a reason may take some lines of a console.
const maxReason = 400

func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// line writes to the journal in full and to the console the first line.
func (c *Console) line(priority int, text string) {
	c.journal(priority, text)
	c.write("sci-agent: " + printable(firstLine(text)))
}

// write puts one line on /dev/console. It begins with a line break, since a
// login prompt or the kernel may have left the cursor in mid-line. A console
// that is missing or stuck is no reason to stop.
func (c *Console) write(text string) {
	f, err := os.OpenFile(c.Node.path(consoleFile), os.O_WRONLY|os.O_APPEND|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	_ = f.SetWriteDeadline(time.Now().Add(consolePatience))
	_, _ = f.WriteString("\r\n" + text + "\r\n")
}

func (c *Console) journal(priority int, text string) {
	for l := range strings.Lines(text) {
		l = printable(strings.TrimRight(l, "\n"))
		if c.Systemd {
			l = fmt.Sprintf("<%d>%s", priority, l)
		}
		c.Node.note("%s", l)
	}
}

// banner rewrites the text above the login prompt and has the prompts that
// nobody types at shown again.
func (c *Console) banner(ctx context.Context, what string, more ...string) {
	unlock := c.Node.lockBanner()
	changed := c.writeBanner(what, more...)
	unlock()
	if changed {
		c.Node.reloadPrompts(ctx)
	}
}

// reloadPrompts has the login prompts that nobody types at shown again.
func (n *Node) reloadPrompts(ctx context.Context) {
	if n.exists("usr/sbin/agetty") {
		_ = n.command(ctx, "agetty", "--reload")
	}
}

// writeBanner reports whether the banner changed.
func (c *Console) writeBanner(what string, more ...string) bool {
	name := "This machine"
	if c.Node.Host != nil {
		name = fmt.Sprintf("%s (role %s)", c.Node.fqdn(), c.Node.Host.Role)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "SCI-CD: %s %s.\n", name, what)
	for _, m := range more {
		if m != "" {
			fmt.Fprintf(&b, "  %s\n", m)
		}
	}
	b.WriteString("  Details: sci-agent status\n\n")
	// agetty(8) reads backslash sequences in an issue file.
	text := strings.ReplaceAll(printable(b.String()), `\`, `\\`)
	changed, err := c.Node.put([]file{{bannerFile, text, 0o644}}, nil)
	if err != nil {
		c.journal(4, "cannot write the banner: "+err.Error())
	}
	return changed
}

// where lists the host's addresses: "lan 192.168.50.11, backbone 10.101.200.11".
func (c *Console) where() string {
	if c.Node.Host == nil {
		return ""
	}
	var list []string
	for name, a := range c.Node.Host.Addresses {
		list = append(list, name+" "+a.String())
	}
	sort.Sort(sort.Reverse(sort.StringSlice(list))) // lan first
	return strings.Join(list, ", ")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// printable keeps escape sequences in what a command printed off the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0) {
			return '?'
		}
		return r
	}, s)
}
