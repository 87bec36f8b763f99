package installer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// frontend is a debconf front end that knows the given questions; it writes
// down every command.
type frontend struct {
	known   map[string]bool
	answers map[string]string // a command's first words → its answer
	lines   []string
	done    chan struct{}
}

// newFrontend starts one and returns the client's end of its channel.
func newFrontend(t testing.TB, known ...string) (*frontend, io.ReadWriter) {
	t.Helper()
	client, server := net.Pipe()
	f := &frontend{known: map[string]bool{}, done: make(chan struct{})}
	for _, q := range known {
		f.known[q] = true
	}
	go func() {
		defer close(f.done)
		sc := bufio.NewScanner(server)
		for sc.Scan() {
			if _, err := io.WriteString(server, f.answer(sc.Text())+"\n"); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return f, client
}

func (f *frontend) answer(line string) string {
	f.lines = append(f.lines, line)
	for prefix, a := range f.answers {
		if strings.HasPrefix(line, prefix) {
			return a
		}
	}
	w := strings.SplitN(line, " ", 3)
	switch w[0] {
	case "REGISTER":
		f.known[w[2]] = true
		return "0"
	case "SET", "FSET", "SUBST":
		if !f.known[w[1]] {
			return "10 " + w[1] + " doesn't exist"
		}
		return "0 value set"
	}
	return "20 Unsupported command"
}

func TestParseAnswers(t *testing.T) {
	const text = "# a comment\n" +
		"\n" +
		"d-i debian-installer/locale string en_US.UTF-8\r\n" +
		"  d-i\tnetcfg/get_domain \t string   a value  with blanks  \n" +
		"d-i anna/choose_modules multiselect\n" +
		"d-i partman/early_command string first \\\n" +
		"   second \\\n" +
		"   third # no comment\n" +
		"tasksel tasksel/first seen false\n"
	got, err := ParseAnswers("p", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Answer{
		{"d-i", "debian-installer/locale", "string", "en_US.UTF-8"},
		{"d-i", "netcfg/get_domain", "string", "a value  with blanks  "},
		{"d-i", "anna/choose_modules", "multiselect", ""},
		{"d-i", "partman/early_command", "string", "first second third # no comment"},
		{"tasksel", "tasksel/first", "seen", "false"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{
		"d-i\n":                `p:1: "d-i": want OWNER QUESTION TYPE VALUE`,
		"\nd-i a/b\n":          `p:2: "d-i a/b": want OWNER QUESTION TYPE VALUE`,
		"d-i a/b string x \\":  "p: the last line goes on but there is no next one",
		"d-i a/b string x\x00": "p:1: NUL byte",
	} {
		if _, err := ParseAnswers("p", []byte(text)); err == nil || err.Error() != want {
			t.Errorf("ParseAnswers(%q) = %v; want %s", text, err, want)
		}
	}
}

func TestDebconf(t *testing.T) {
	f, channel := newFrontend(t, "a/known")
	err := NewDebconf(channel).Set([]Answer{
		{"d-i", "a/known", "string", "one two"},
		{"d-i", "a/new", "boolean", "true"},
		{"d-i", "a/known", "seen", "false"},
		{"d-i", "a/never", "seen", "false"}, // no error, as in debconf-set-selections
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"SET a/known one two", "FSET a/known seen true",
		"SET a/new true", "REGISTER debian-installer/dummy a/new", "SET a/new true", "SUBST a/new ID a/new", "FSET a/new seen true",
		"FSET a/known seen false",
		"FSET a/never seen false",
	}
	if diff := cmp.Diff(want, f.lines); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestDebconfErrors(t *testing.T) {
	tests := []struct {
		summary string
		answer  map[string]string
		list    []Answer
		want    string
	}{
		{"refused", map[string]string{"SET": "20 Bad"}, []Answer{{"d-i", "a/b", "string", "x"}}, "debconf refuses SET a/b: 20 Bad"},
		{"no template", map[string]string{"REGISTER": `10 No such template`}, []Answer{{"d-i", "a/b", "string", "x"}}, "debconf refuses REGISTER debian-installer/dummy: 10 No such template"},
		{"noise", map[string]string{"SET": "hello"}, []Answer{{"d-i", "a/b", "string", "x"}}, `debconf answered "hello" to SET`},
		{"a value with a line break would be a second command", nil, []Answer{{"d-i", "a/b", "string", "x\nSTOP"}}, `cannot send "SET a/b x\nSTOP" to debconf: line break in it`},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			f, channel := newFrontend(t)
			f.answers = test.answer
			if err := NewDebconf(channel).Set(test.list); err == nil || err.Error() != test.want {
				t.Errorf("Set = %v; want %s", err, test.want)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	dir := t.TempDir()
	f, channel := newFrontend(t, "passwd/root-login")
	o := installerFiles(t, dir, testSite(t), testKey(t))
	o.Sys, o.Debconf, o.Proc = recorded(t, "qemu-virtio"), channel, filepath.Join(dir, "proc")
	write(t, filepath.Join(dir, "proc/mounts"), "", 0o644)
	write(t, filepath.Join(dir, "sci/node/preseed"), "d-i passwd/root-login boolean true\n", 0o600)
	var console strings.Builder
	o.Console = &console
	if err := Run(context.Background(), "answers", o); err != nil {
		t.Fatal(err)
	}
	want := "sci-agent: installer started\nsci-agent: host node1 (role node)\nsci-agent: phase answers\n"
	if got := console.String(); got != want {
		t.Errorf("console %q; want %q", got, want)
	}
	if f.lines[0] != "SET passwd/root-login true" || len(f.lines) != 2+3*5 {
		t.Errorf("commands: %q", f.lines)
	}
	host, err := os.ReadFile(filepath.Join(o.State, "host"))
	if err != nil || string(host) != "node1\n" {
		t.Errorf("host is %q, %v", host, err)
	}
}

// TestAnswersOfAStranger: nothing is answered and nothing remembered.
func TestAnswersOfAStranger(t *testing.T) {
	dir := t.TempDir()
	f, channel := newFrontend(t)
	o := installerFiles(t, dir, testSite(t), testKey(t))
	o.Sys, o.Debconf, o.Proc = recorded(t, "node-in-use"), channel, filepath.Join(dir, "proc")
	write(t, filepath.Join(dir, "proc/mounts"), "", 0o644)
	var console strings.Builder
	o.Console = &console
	err := Run(context.Background(), "answers", o)
	var none *NoMatch
	if !errors.As(err, &none) || len(f.lines) > 0 {
		t.Errorf("Run = %v, commands %q", err, f.lines)
	}
	want := `sci-agent: installer started
sci-agent: failed: this machine is no host of the site
    machine  vendor "", product "", serial "", asset tag ""
    card     eth0       00:25:90:aa:bb:cc  driver unknown  link unknown
    disk     /dev/sda     476 GiB  model "EXAMPLE SSD"  serial "A1"  (md0 holds sda1)
`
	if !strings.HasPrefix(console.String(), want) || !strings.HasSuffix(console.String(), "sci-agent: hint: correct the host's match in the site file and build the medium again\n") {
		t.Errorf("console:\n%s", console.String())
	}
	if _, err := os.Stat(o.State); err == nil {
		t.Error("something was remembered")
	}
}

func TestRunUnknownVerb(t *testing.T) {
	err := Run(context.Background(), "dance", Options{})
	want := `unknown verb "dance": want one of answers, base, boot, capture, disks, finish, install, medium, packages`
	if err == nil || err.Error() != want {
		t.Errorf("Run = %v; want %s", err, want)
	}
}

func FuzzParseAnswers(f *testing.F) {
	f.Add([]byte("d-i a/b string c \\\n d\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseAnswers("p", data)
		if err != nil {
			return
		}
		for _, a := range list {
			if strings.ContainsAny(a.line()[:len(a.line())-1], "\n\x00") {
				t.Errorf("a line break in %q", a)
			}
		}
	})
}
