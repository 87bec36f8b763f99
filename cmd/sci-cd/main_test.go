package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/archive/testarchive"
	"github.com/skycover/sci-cd/pkg/build/buildtest"
	"github.com/skycover/sci-cd/pkg/hint"
)

// testProgram is sci-cd with an agent that nobody has to compile.
func testProgram() program {
	return program{version: "1.2.3", agent: func() ([]byte, error) { return buildtest.Agent(), nil },
		guest: func() ([]byte, error) { return []byte("guest"), nil }}
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sci-cd": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			context.AfterFunc(ctx, stop)
			os.Exit(testProgram().run(ctx, os.Args[1:], os.Stdout, os.Stderr))
		},
	})
}

// mirror is the archive of one scene.
type mirror struct {
	mu      sync.Mutex
	archive *testarchive.Archive
	files   map[string][]byte
	hold    string        // requests whose path contains it are not answered
	held    chan struct{} // told of the first one
}

func newMirror(t testing.TB) *mirror {
	m := &mirror{archive: buildtest.Archive(t), held: make(chan struct{}, 1000)}
	if err := m.render(); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *mirror) render() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	files, err := m.archive.Render()
	m.files = files
	return err
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	files, hold := m.files, m.hold
	m.mu.Unlock()
	if hold != "" && strings.Contains(r.URL.Path, hold) {
		m.held <- struct{}{}
		<-r.Context().Done()
		return
	}
	testarchive.Handler(files).ServeHTTP(w, r)
}

type mirrorKey struct{}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", RequireExplicitExec: true, RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			m := newMirror(t)
			srv := httptest.NewServer(m)
			env.Defer(func() { srv.CloseClientConnections(); srv.Close() })
			env.Values[mirrorKey{}] = m
			keyring := filepath.Join(env.WorkDir, ".keyring.gpg")
			for name, value := range map[string]string{
				"MIRROR": srv.URL, "SCI_CD_MIRROR": srv.URL, "SCI_CD_MIRROR_SECURITY": srv.URL,
				"SCI_CD_KEYRING": keyring, "SCI_CD_CACHE": filepath.Join(env.WorkDir, ".cache"),
			} {
				env.Setenv(name, value)
			}
			return os.WriteFile(keyring, m.archive.Key.Public(), 0o644)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code": exitsWith, "flip": flip, "replace": replace, "mode": mode,
			"upgrade": upgrade, "withdraw": withdraw, "spoil": spoil, "interrupt": interrupt,
		},
	})
}

// exitsWith runs a command: code 3 sci-cd check site.yaml. Its output is there
// for stdout and stderr.
func exitsWith(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// flip changes a byte: flip FILE OFFSET, from the end if negative.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 1
	ts.Check(os.WriteFile(path, data, 0o644))
}

// replace changes a text: replace FILE OLD NEW.
func replace(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	if !bytes.Contains(data, []byte(args[1])) {
		ts.Fatalf("no %q in %s", args[1], args[0])
	}
	ts.Check(os.WriteFile(path, bytes.Replace(data, []byte(args[1]), []byte(args[2]), 1), 0o644))
}

// mode compares a file's permissions: mode 0600 FILE.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// upgrade puts a newer version into the archive: upgrade NAME VERSION.
func upgrade(ts *testscript.TestScript, _ bool, args []string) {
	m := ts.Value(mirrorKey{}).(*mirror)
	p := m.archive.Suite("trixie").Package(args[0])
	p.Control = p.Control.Set("Version", args[1])
	ts.Check(m.render())
}

// withdraw takes a file out of the pool, as mirrors do with old versions:
// withdraw TEXT-IN-PATH.
func withdraw(ts *testscript.TestScript, _ bool, args []string) {
	spoilt(ts, args[0], func([]byte) []byte { return nil })
}

// spoil changes a byte of a file of the archive: spoil TEXT-IN-PATH.
func spoil(ts *testscript.TestScript, _ bool, args []string) {
	spoilt(ts, args[0], func(data []byte) []byte {
		data = bytes.Clone(data)
		data[len(data)/2] ^= 1
		return data
	})
}

func spoilt(ts *testscript.TestScript, in string, change func([]byte) []byte) {
	m := ts.Value(mirrorKey{}).(*mirror)
	m.mu.Lock()
	defer m.mu.Unlock()
	found := false
	for name, data := range m.files {
		if strings.Contains(name, in) {
			found = true
			if m.files[name] = change(data); m.files[name] == nil {
				delete(m.files, name)
			}
		}
	}
	if !found {
		ts.Fatalf("no file with %q in the archive", in)
	}
}

// interrupt runs sci-cd until it asks the archive for a certain file, sends it
// SIGINT, and expects it to end at once: interrupt TEXT-IN-PATH ARGS…
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	m := ts.Value(mirrorKey{}).(*mirror)
	m.mu.Lock()
	m.hold = args[0]
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.hold = ""
		m.mu.Unlock()
	}()
	program, err := exec.LookPath("sci-cd")
	ts.Check(err)
	cmd := exec.Command(program, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "SCI_CD_MIRROR="+ts.Getenv("SCI_CD_MIRROR"), "SCI_CD_MIRROR_SECURITY="+ts.Getenv("SCI_CD_MIRROR"),
		"SCI_CD_KEYRING="+ts.Getenv("SCI_CD_KEYRING"), "SCI_CD_CACHE="+ts.Getenv("SCI_CD_CACHE"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-m.held:
	case err := <-ended:
		ts.Fatalf("sci-cd ended before it was interrupted: %v\n%s", err, &stderr)
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	select {
	case err = <-ended:
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		ts.Fatalf("sci-cd goes on after SIGINT")
	}
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.ExitCode() != 130 {
		ts.Fatalf("sci-cd ended with %v, want code 130\n%s", err, &stderr)
	}
	if !strings.HasSuffix(stderr.String(), "sci-cd: interrupted: interrupt signal received\n") {
		ts.Fatalf("sci-cd said\n%s", &stderr)
	}
}

// TestHelp guards that every help shows the exit codes and says more than its
// name.
func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		words := strings.Fields(c.CommandPath())[1:]
		var out, stderr bytes.Buffer
		if code := testProgram().run(t.Context(), append(words, "--help"), &out, &stderr); code != 0 || stderr.Len() > 0 {
			t.Errorf("%q --help: code %d, stderr %q", words, code, &stderr)
		}
		if !strings.Contains(out.String(), "\nExit codes:\n  0    done\n") || !strings.Contains(out.String(), "\n  130  interrupted\n") {
			t.Errorf("%q --help shows no exit codes:\n%s", words, &out)
		}
		if c.Short == "" {
			t.Errorf("%q has no short description", words)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(testProgram().root(newUI(new(bytes.Buffer), new(bytes.Buffer))))
}

// TestExitCodes guards the table: no code twice, none of those that a shell
// uses for its own.
func TestExitCodes(t *testing.T) {
	seen := map[int]bool{0: true, 1: true}
	for _, c := range exitCodes {
		if seen[c.code] || c.code > 125 && c.code != 130 || c.meaning == "" {
			t.Errorf("code %d: %q", c.code, c.meaning)
		}
		seen[c.code] = true
	}
	if got := codeOf(interrupted{context.Canceled}); got != 130 {
		t.Errorf("codeOf(interrupted) = %d; want 130", got)
	}
	if got := codeOf(fmt.Errorf("wrapped: %w", usageError{errors.New("x")})); got != 2 {
		t.Errorf("codeOf(wrapped usage) = %d; want 2", got)
	}
}

// TestUI guards the rules at the top of ui.go.
func TestUI(t *testing.T) {
	var out, stderr bytes.Buffer
	u := newUI(&out, &stderr)
	u.step("fetch")
	u.transfer("written", 1, 4000)
	u.transfer("written", 4000, 4000)
	u.note("mind this")
	u.failure(hint.New(errors.New("it failed"), "try again"))
	if err := u.result(map[string]int{"n": 1}, "n is %d\n", 1); err != nil {
		t.Fatal(err)
	}
	if got, want := stderr.String(), "fetch\n  written 4.0 kB of 4.0 kB\nnote: mind this\nsci-cd: it failed\nhint: try again\n"; got != want {
		t.Errorf("stderr = %q; want %q", got, want)
	}
	if got, want := out.String(), "n is 1\n"; got != want {
		t.Errorf("stdout = %q; want %q", got, want)
	}
	out.Reset()
	stderr.Reset()
	u.json = true
	u.step("fetch")
	u.transfer("compared", 7, 7)
	u.Start("a", 5)
	u.Add("a", 5)
	u.Done("a", nil)
	u.failure(hint.New(errors.New("it failed"), "try again"))
	if err := u.result(map[string]int{"n": 1}, "n is %d\n", 1); err != nil {
		t.Fatal(err)
	}
	want := `{"step":"fetch"}
{"bytes":7,"ofBytes":7,"progress":"compared"}
{"bytes":5,"files":1,"ofBytes":5,"ofFiles":1,"progress":"fetched"}
{"code":1,"error":"it failed","hint":"try again"}
`
	if got := stderr.String(); got != want {
		t.Errorf("stderr = %s\nwant %s", got, want)
	}
	if got, want := out.String(), "{\"n\":1}\n"; got != want {
		t.Errorf("stdout = %q; want %q", got, want)
	}
}

// TestBar guards the moving line: it never leaves letters of a longer one, and
// is gone before anything else is printed.
func TestBar(t *testing.T) {
	var stderr bytes.Buffer
	u := newUI(new(bytes.Buffer), &stderr)
	u.bar = true
	u.transfer("written", 100, 100)
	u.step("next")
	line := "  [########################] written 100 B of 100 B"
	if got, want := stderr.String(), "\r"+line+"\r"+strings.Repeat(" ", len(line))+"\rnext\n"; got != want {
		t.Errorf("stderr = %q; want %q", got, want)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 521142272: "521.1 MB", 32e9: "32.0 GB", 5e15: "5000.0 TB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q; want %q", n, got, want)
		}
	}
}
