package agentdeb

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/deb"
)

var when = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// binary is the agent as the Makefile builds it, built once.
var binaryOnce = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "agentdeb")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	name := filepath.Join(dir, "sci-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=0.1", "-o", name, "github.com/skycover/sci-cd/cmd/sci-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build the agent: %w\n%s", err, out)
	}
	return os.ReadFile(name)
})

func binary(t *testing.T) []byte {
	t.Helper()
	data, err := binaryOnce()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeDeb(t *testing.T, bin []byte) string {
	t.Helper()
	spec, err := Build(bin, "0.1", when)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := deb.Write(&b, spec); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "sci-agent_0.1_amd64.deb")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// tool runs an outside judge; where it is missing the test skips, in CI it fails.
func tool(t *testing.T, argv ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", argv[0])
		}
		t.Skipf("%s is not installed", argv[0])
	}
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	return string(out), err
}

func TestContents(t *testing.T) {
	name := writeDeb(t, binary(t))
	out, err := tool(t, "dpkg-deb", "--contents", name)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	for l := range strings.Lines(out) {
		f := strings.Fields(l) // mode owner size date time name
		if strings.HasPrefix(f[0], "d") && f[5] != "./etc/sci/" {
			continue
		}
		got = append(got, f[0]+" "+f[1]+" "+f[3]+" "+f[5])
	}
	want := []string{
		"drwxr-xr-x root/root 2026-11-22 ./etc/sci/",
		"-rwxr-xr-x root/root 2026-11-22 ./usr/sbin/sci-agent",
		"-rw-r--r-- root/root 2026-11-22 ./usr/lib/systemd/system/sci-agent.service",
		"-rw-r--r-- root/root 2026-11-22 ./usr/lib/systemd/system/sci-agent-banner.service",
		"-rw-r--r-- root/root 2026-11-22 ./usr/lib/systemd/system/sci-agent-banner.timer",
		"-rw-r--r-- root/root 2026-11-22 ./usr/lib/systemd/system/sci-agent-metrics.service",
		"-rw-r--r-- root/root 2026-11-22 ./usr/share/doc/sci-agent/changelog.gz",
		"-rw-r--r-- root/root 2026-11-22 ./usr/share/doc/sci-agent/copyright",
		"-rw-r--r-- root/root 2026-11-22 ./usr/share/lintian/overrides/sci-agent",
		"-rw-r--r-- root/root 2026-11-22 ./usr/share/man/man8/sci-agent.8.gz",
	}
	if d := cmp.Diff(sorted(want), sorted(got)); d != "" {
		t.Errorf("contents (-want +got):\n%s", d)
	}
}

func sorted(list []string) map[string]bool {
	m := make(map[string]bool)
	for _, s := range list {
		m[s] = true
	}
	return m
}

func TestReproducible(t *testing.T) {
	bin := binary(t)
	var sums [2][]byte
	for i := range sums {
		data, err := os.ReadFile(writeDeb(t, bin))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = data
	}
	if !bytes.Equal(sums[0], sums[1]) {
		t.Error("two packages of the same binary, version and time differ")
	}
	t.Logf("binary %d bytes, package %d bytes", len(bin), len(sums[0]))
}

func TestBuildRefuses(t *testing.T) {
	const script = "#!/bin/sh\nexit 0\n# longer than an ELF header, which has 64 bytes on this architecture\n"
	bin := binary(t)
	arm := bytes.Clone(bin)
	arm[18] = 0xb7 // e_machine, ELF-64 object file format
	interp := bytes.Clone(bin)
	interp[64] = 3 // p_type of the first program header: PT_INTERP
	for _, c := range []struct {
		summary, version string
		binary           []byte
		err              string
	}{
		{"a script", "0.1", []byte(script), "the agent's binary is no executable: "},
		{"of another machine", "0.1", arm, "the agent's binary is for EM_AARCH64, want EM_X86_64"},
		{"dynamically linked", "0.1", interp, "the agent's binary is linked dynamically; build it with CGO_ENABLED=0"},
		{"a version that dpkg refuses", "0.1 beta", bin, ""},
	} {
		_, err := Build(c.binary, c.version, when)
		if err == nil || !strings.HasPrefix(err.Error(), "cannot build package sci-agent: "+c.err) {
			t.Errorf("%s: Build = %v; want %s", c.summary, err, c.err)
		}
	}
}

func TestLintian(t *testing.T) {
	name := writeDeb(t, binary(t))
	out, err := tool(t, "lintian", "--allow-root", "--fail-on", "error,warning", name)
	if err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

func TestScripts(t *testing.T) {
	for _, s := range []string{"postinst", "prerm", "postrm"} {
		if out, err := tool(t, "shellcheck", filepath.Join("files", s)); err != nil {
			t.Errorf("shellcheck: %v\n%s", err, out)
		}
	}
}

func TestUnit(t *testing.T) {
	dir := t.TempDir()
	units := []string{"sci-agent.service", "sci-agent-banner.service", "sci-agent-banner.timer", "sci-agent-metrics.service"}
	argv := []string{"systemd-analyze", "verify", "--man=no"}
	for _, u := range units {
		unit, err := os.ReadFile("files/" + u)
		if err != nil {
			t.Fatal(err)
		}
		// The judge wants the program to be there; it need not be ours.
		name := filepath.Join(dir, u)
		text := strings.ReplaceAll(string(unit), "/usr/sbin/sci-agent", "/bin/true")
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		argv = append(argv, name)
	}
	out, err := tool(t, argv...)
	for l := range strings.Lines(out) {
		if strings.Contains(l, "sci-agent") {
			t.Errorf("systemd-analyze: %s", l)
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// TestMetricsSandbox has systemd judge how little the service of the metrics may
// do: it is the only thing of ours that listens all the time.
func TestMetricsSandbox(t *testing.T) {
	unit, err := filepath.Abs("files/sci-agent-metrics.service")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := tool(t, "systemd-analyze", "security", "--offline=yes", "--threshold=20", "--no-pager", unit); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
