package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// fakeQEMU answers QMP on a unix socket as its script says: command name to
// raw lines, with ID replaced by the command's id.
func fakeQEMU(t *testing.T, greeting string, script map[string]string) net.Conn {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "qmp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Write([]byte(greeting))
		for s := bufio.NewScanner(c); s.Scan(); {
			var cmd struct {
				Execute string          `json:"execute"`
				ID      json.RawMessage `json:"id"`
			}
			if json.Unmarshal(s.Bytes(), &cmd) != nil {
				return
			}
			answer, ok := script[cmd.Execute]
			if !ok {
				return
			}
			c.Write([]byte(strings.ReplaceAll(answer, "ID", string(cmd.ID))))
		}
	}()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}` + "\r\n"

func TestQMP(t *testing.T) {
	events := make(chan Event, 4)
	q := newQMP(fakeQEMU(t, greeting, map[string]string{
		"qmp_capabilities": `{"return": {}, "id": ID}` + "\n",
		"query-status": `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}` + "\n" +
			`{"return": {"status": "late answer to nobody"}, "id": 4711}` + "\n" +
			`{"return": {"status": "running", "running": true}, "id": ID}` + "\n",
		"screendump": `{"id": ID, "error": {"class": "GenericError", "desc": "no surface"}}` + "\n",
	}), func(e Event) { events <- e })
	ctx := testContext(t)
	if err := q.handshake(ctx); err != nil {
		t.Fatal(err)
	}
	var status struct{ Status string }
	if err := q.execute(ctx, "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("query-status = %q, %v; want running", status.Status, err)
	}
	if e := <-events; e.Name != "RESUME" {
		t.Errorf("event = %q; want RESUME", e.Name)
	}
	err := q.execute(ctx, "screendump", map[string]any{"filename": "x"}, nil)
	if qe := (*Error)(nil); !errors.As(err, &qe) || err.Error() != "QMP screendump: no surface" {
		t.Errorf("screendump: %v", err)
	}
	if err := q.execute(ctx, "quit", nil, nil); !errors.Is(err, errClosed) {
		t.Errorf("quit: %v; want %v", err, errClosed)
	}
	if err := q.execute(ctx, "quit", nil, nil); err == nil {
		t.Error("command on a closed connection: no error")
	}
}

func TestQMPBadPeers(t *testing.T) {
	for _, test := range []struct{ summary, greeting, want string }{
		{"no JSON", "SSH-2.0-OpenSSH\r\n", "cannot read QMP"},
		{"endless line", strings.Repeat("x", maxMessage+2), "token too long"},
		{"silence", "", "no QMP greeting: context deadline exceeded"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		q := newQMP(fakeQEMU(t, test.greeting, nil), func(Event) {})
		if err := q.handshake(ctx); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", test.summary, err, test.want)
		}
		cancel()
	}
}

func TestStrip(t *testing.T) {
	for _, test := range []struct{ summary, in, want string }{
		{"plain", "one\r\ntwo\n", "one\ntwo"},
		{"colours", "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39msci-agent.service\x1b[0m.\r\n", "[  OK  ] Started sci-agent.service."},
		{"systemd's progress", "\r\x1b[M\x1b[K[ ***  ] A start job\r\x1b[K[  OK  ] done\n", "[ ***  ] A start job\n[  OK  ] done"},
		{"OVMF clears the screen", "\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe: loading\r\n", "BdsDxe: loading"},
		{"GRUB's countdown", "\x1b[5;78H\x1b[22;1H   in 9s.    \x1b[5;78H\x1b[22;1H   in 8s.", "   in 9s.\n   in 8s."},
		{"window title", "\x1b]0;root@node1\x07# \x1b]0;x\x1b\\y\n", "# y"},
		{"character set", "\x1b(Bx\x1b)0y\n", "xy"},
		{"backspace", "25%\b\b\b50%\n", "50%"},
		{"broken sequence", "\x1b[31\nnext\n", "next"},
		{"unfinished line", "node1 login: ", "node1 login: "},
		{"bad UTF-8", "a\xffb\n", "a\uFFFDb"},
	} {
		if got := Strip([]byte(test.in)); got != test.want {
			t.Errorf("%s: Strip(%q) = %q; want %q", test.summary, test.in, got, test.want)
		}
	}
}

func FuzzStrip(f *testing.F) {
	f.Add([]byte("\x1b[0;32mOK\x1b[0m\r\n"), 3)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		whole := (&stripper{}).feed(data)
		cut = max(0, min(cut, len(data)))
		var s stripper
		parts := append(s.feed(data[:cut]), s.feed(data[cut:])...)
		if d := cmp.Diff(whole, parts); d != "" {
			t.Errorf("cut at %d: %s", cut, d)
		}
		for _, l := range whole {
			if len(l) > 3*maxLine || strings.ContainsAny(l, "\x1b\n\r") {
				t.Errorf("bad line %q", l)
			}
		}
	})
}

func TestSerial(t *testing.T) {
	ours, theirs := net.Pipe()
	log := filepath.Join(t.TempDir(), "log")
	s, err := newSerial(ours, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	go theirs.Write([]byte("noise\r\n... 20%sci-agent: phase base\r\nsci-agent: ready\r\nnode1 login: "))
	for _, want := range []string{"phase base", "ready"} {
		m, err := s.Expect(ctx, `sci-agent: (.*)$`)
		if err != nil || m.Groups[1] != want {
			t.Fatalf("Expect = %q, %v; want %q", m.Groups, err, want)
		}
	}
	if err := s.Prompt(ctx, "login: $"); err != nil {
		t.Error(err)
	}
	if l, ok := s.Contains(regexp.MustCompile("20%")); !ok || l.Text != "... 20%sci-agent: phase base" {
		t.Errorf("Contains = %q, %v", l.Text, ok)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := s.Expect(short, "never"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Expect: %v; want deadline exceeded", err)
	}
	theirs.Close()
	if _, err := s.Expect(ctx, "never"); !errors.Is(err, ErrEnded) {
		t.Errorf("Expect: %v; want %v", err, ErrEnded)
	}
	if got, want := len(s.Tail(2)), 2; got != want {
		t.Errorf("len(Tail(2)) = %d; want %d", got, want)
	}
	if raw, _ := os.ReadFile(log); !strings.Contains(string(raw), "noise\r\n") {
		t.Errorf("raw log = %q", raw)
	}
}

// A shell on this machine stands in for the one on ttyS1.
func TestShell(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh")
	cmd.Stdin, cmd.Stdout = theirs, theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	serial, err := newSerial(ours, filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	sh, ctx := Shell{serial}, testContext(t)
	for _, test := range []struct {
		summary, script, want string
		status                int
	}{
		{"plain", "echo hello", "hello\n", 0},
		{"status", "echo out; echo err >&2; exit 3", "out\nerr\n", 3},
		{"quotes and newlines", "cat <<'E'\n\"$x\" 'y' \\ `z`\nE\n", "\"$x\" 'y' \\ `z`\n", 0},
		{"nothing", "true", "", 0},
		{"binary", `printf 'a\000\033[31m\r\nb'`, "a\x00\x1b[31m\r\nb", 0},
		{"reads its input", "cat; echo done", "done\n", 0},
		{"long", "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done | wc -l", "2000\n", 0},
	} {
		out, err := sh.Run(ctx, test.script)
		exit := (*ExitError)(nil)
		if errors.As(err, &exit) != (test.status != 0) || exit != nil && exit.Status != test.status {
			t.Errorf("%s: %v; want status %d", test.summary, err, test.status)
		}
		if out != test.want {
			t.Errorf("%s: %q; want %q", test.summary, out, test.want)
		}
	}
	if out, err := sh.Run(ctx, "head -c 3000000 /dev/zero"); len(out) != maxShellOutput || err == nil {
		t.Errorf("flood: %d bytes, %v; want %d and an error", len(out), err, maxShellOutput)
	}
	ours.Close()
	cmd.Wait()
	if _, err := sh.Run(ctx, "true"); err == nil {
		t.Error("closed shell: no error")
	}
}

func TestArguments(t *testing.T) {
	o := Options{
		Name: "node1", Dir: "/d", CDROM: "/i,1.iso", NoReboot: true, Shell: true,
		Disks:  []Disk{{Path: "/d/disk0", Serial: "D0"}, {Path: "/d/disk1", Backing: "/k/disk"}},
		NICs:   []NIC{{MAC: "52:54:00:00:00:01"}, {MAC: "52:54:00:00:00:02", Port: NewSwitch().Port("lan")}, {MAC: "52:54:00:00:00:03", Port: NewSwitch().Port("backbone")}},
		SMBIOS: SMBIOS{Serial: "SN1", AssetTag: "A1"},
	}.withDefaults()
	argv, err := o.argv()
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`(?m)(credential.binary:.*?)=.*$`).ReplaceAllString(strings.Join(argv, "\n"), "$1=BASE64") + "\n"
	want := readGolden(t, "argv.golden", got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("argv (-want +got):\n%s", d)
	}
	o.USB = "/stick"
	o.CDROM, o.VGA, o.Accel = "", true, KVM
	argv, err = o.argv()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(argv, " ")
	for _, part := range []string{"-accel kvm -cpu host", "snapshot=on", "usb-storage,bus=xhci.0,removable=on", "-vga std"} {
		if !strings.Contains(all, part) {
			t.Errorf("argv lacks %q: %s", part, all)
		}
	}
}

func readGolden(t *testing.T, name, got string) string {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(want)
}

// A QEMU that refuses its arguments must be quoted, not reported as a broken
// connection.
func TestClock(t *testing.T) {
	now := time.Date(2026, 12, 31, 23, 30, 1, 0, time.FixedZone("CET", 3600))
	for _, c := range []struct {
		ahead time.Duration
		want  string
	}{
		{0, "base=utc"}, {time.Hour, "base=2026-12-31T23:30:01"}, {2 * time.Hour, "base=2027-01-01T00:30:01"}, {-time.Hour, "base=2026-12-31T21:30:01"},
	} {
		if got := (Options{Clock: c.ahead}).rtc(now); got != c.want {
			t.Errorf("%v ahead: %s; want %s", c.ahead, got, c.want)
		}
	}
}

func TestStartQuotesQEMU(t *testing.T) {
	fake := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\necho 'qemu: no such device: pigeon' >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Start(testContext(t), Options{Dir: t.TempDir(), QEMU: fake})
	if err == nil || !strings.Contains(err.Error(), "no such device: pigeon") || !errors.Is(err, ErrEnded) {
		t.Errorf("Start: %v", err)
	}
	if _, err := Start(testContext(t), Options{Dir: t.TempDir(), QEMU: "/no/qemu"}); err == nil || !strings.Contains(err.Error(), `cannot start "/no/qemu"`) {
		t.Errorf("Start: %v", err)
	}
}

func TestKillEndsTheProcess(t *testing.T) {
	fake := filepath.Join(t.TempDir(), "qemu")
	script := "#!/bin/sh\necho '{\"QMP\": {}}' >&3\nread l <&3\necho '{\"return\": {}, \"id\": 1}' >&3\necho booting >&4\nread never <&5\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := Start(testContext(t), Options{Dir: t.TempDir(), QEMU: fake})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expect(testContext(t), "^booting$"); err != nil {
		t.Error(err)
	}
	m.Kill()
	m.Kill()
	if _, err := m.Expect(testContext(t), "more"); !errors.Is(err, ErrEnded) {
		t.Errorf("Expect: %v", err)
	}
	if _, err := m.Wait(testContext(t)); !errors.Is(err, ErrEnded) {
		t.Errorf("Wait: %v", err)
	}
}

func TestProbeOverride(t *testing.T) {
	for override, want := range map[string]Accel{"tcg": TCG, "kvm": KVM} {
		if got, _, err := Probe(testContext(t), "/no/qemu", override); got != want || err != nil {
			t.Errorf("Probe(%q) = %q, %v", override, got, err)
		}
	}
	if _, _, err := Probe(testContext(t), "", "xen"); err == nil || err.Error() != `cannot use SCI_CD_ACCEL="xen": want tcg or kvm` {
		t.Errorf("Probe: %v", err)
	}
}

func TestProbeSource(t *testing.T) {
	for _, tool := range []string{"as", "ld"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir := t.TempDir()
	obj, bin := filepath.Join(dir, "o"), filepath.Join(dir, "bin")
	for _, argv := range [][]string{
		{"as", "--32", "-o", obj, filepath.Join("testdata", "probe.S")},
		{"ld", "-m", "elf_i386", "-Ttext", "0", "--oformat", "binary", "-o", bin, obj},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v\n%s", argv, err, out) // no assembler for x86
		}
	}
	if got, err := os.ReadFile(bin); err != nil || string(got) != string(probeROM()) {
		t.Errorf("proberom.go is not what probe.S assembles to (%v)", err)
	}
}
