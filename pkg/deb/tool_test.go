package deb

import (
	"os"
	"os/exec"
	"testing"
)

// needTool skips where a judge is missing, but never in CI.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

// judge runs a command that has to succeed and returns its standard output.
func judge(t *testing.T, argv ...string) string {
	t.Helper()
	needTool(t, argv[0])
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		stderr := ""
		if e, ok := err.(*exec.ExitError); ok {
			stderr = string(e.Stderr)
		}
		t.Fatalf("%q: %v\n%s%s", argv, err, out, stderr)
	}
	return string(out)
}
