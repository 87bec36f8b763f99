package testarchive_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/archive/testarchive"
)

// TestApt lets apt judge: it must update from the archive, see its packages,
// and fetch one of each pocket, with nothing but the archive's key to trust.
func TestApt(t *testing.T) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("apt-get is not installed")
		}
		t.Skip("apt-get is not installed")
	}
	for _, detached := range []bool{false, true} {
		a := testarchive.New(t)
		for _, s := range a.Suites {
			// apt goes by the clock.
			s.Date, s.Detached = time.Now().Add(-time.Hour), detached
			if !s.ValidUntil.IsZero() {
				s.ValidUntil = time.Now().Add(time.Hour)
			}
		}
		dir := t.TempDir()
		apt := aptConfig(t, dir, a)
		apt("apt-get", "update")
		got := apt("apt-cache", "search", "--names-only", ".")
		for _, name := range []string{"hello ", "hello-doc ", "libhello1 ", "hello-firmware ", "tzdata "} {
			if !strings.Contains(got, name) {
				t.Errorf("apt does not see %q:\n%s", name, got)
			}
		}
		if policy := apt("apt-cache", "policy", "libhello1"); !strings.Contains(policy, "Candidate: 1.0-1+deb13u1") {
			t.Errorf("apt's candidate is not that of security:\n%s", policy)
		}
		apt("apt-get", "download", "hello", "libhello1", "tzdata", "hello-firmware")
		debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		if err != nil || len(debs) != 4 {
			t.Errorf("apt fetched %q, %v", debs, err)
		}
	}
}

// aptConfig makes a private configuration of apt in dir, and returns a function
// that runs apt's commands with it.
func aptConfig(t *testing.T, dir string, a *testarchive.Archive) func(...string) string {
	t.Helper()
	url := a.Serve(t)
	key := filepath.Join(dir, "key.asc")
	files := map[string]string{
		"key.asc": string(a.Key.PublicArmor()),
		"status":  "",
		"sources.list": "deb [signed-by=" + key + "] " + url + " trixie main non-free-firmware\n" +
			"deb [signed-by=" + key + "] " + url + " trixie-updates main\n" +
			"deb [signed-by=" + key + "] " + url + " trixie-security main\n",
		"apt.conf": `Dir "` + dir + `/";
Dir::State "` + dir + `/state"; Dir::State::status "` + dir + `/status"; Dir::Cache "` + dir + `/cache";
Dir::Etc "` + dir + `"; Dir::Etc::sourcelist "` + dir + `/sources.list"; Dir::Etc::sourceparts "-"; Dir::Etc::trustedparts "-";
Dir::Bin::methods "/usr/lib/apt/methods"; Dir::Log "` + dir + `";
APT::Architecture "amd64"; APT::Architectures "amd64"; APT::Sandbox::User "root"; Acquire::http::Proxy "DIRECT";
`,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "apt.conf.d", "preferences.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return func(argv ...string) string {
		t.Helper()
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(dir, "apt.conf"), "LC_ALL=C")
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), "\nW: ") || strings.Contains(string(out), "\nE: ") {
			t.Fatalf("%q: %v\n%s", argv, err, out)
		}
		return string(out)
	}
}

// The same values give the same bytes.
func TestDeterministic(t *testing.T) {
	a := testarchive.New(t)
	first, err := a.Render()
	if err != nil {
		t.Fatal(err)
	}
	second, err := a.Render()
	if err != nil {
		t.Fatal(err)
	}
	if len(first) != len(second) {
		t.Errorf("%d and %d files", len(first), len(second))
	}
	for name, data := range first {
		if string(second[name]) != string(data) {
			t.Errorf("%s differs", name)
		}
	}
}
