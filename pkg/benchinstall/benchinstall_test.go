package benchinstall

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/installtest"
)

func TestTable(t *testing.T) {
	t.Parallel()
	figures := []Figures{
		{Installation: Installation{Name: "stock"}, CPU: 2142 * time.Second, Wall: 2500 * time.Second},
		{Installation: Installation{Name: "lean", Goal: 0.5}, CPU: 1000 * time.Second, Wall: 1300 * time.Second},
		{Installation: Installation{Name: "image", Goal: 0.2}, CPU: 428400 * time.Millisecond, Wall: 500 * time.Second},
	}
	var b strings.Builder
	if err := Table(&b, figures); err != nil {
		t.Fatal(err)
	}
	want := `   installation   CPU s   wall s   CPU ratio   wall ratio    goal
          stock    2142     2500        1.00         1.00        
           lean    1000     1300        0.47         0.52   ≤ 0.5
          image     428      500        0.20         0.20   ≤ 0.2
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	list := []installtest.Difference{
		{Class: "path", Name: "/etc/a", A: "file", Expected: "once"},
		{Class: "path", Name: "/etc/b", A: "file", Expected: "twice"},
		{Class: "path", Name: "/etc/c", A: "file", Expected: "twice"},
	}
	var b strings.Builder
	if err := Differences(&b, list); err != nil {
		t.Fatal(err)
	}
	expected := "    2  twice\n    1  once\n"
	if diff := cmp.Diff(expected, b.String()); diff != "" {
		t.Errorf("all expected (-want +got):\n%s", diff)
	}
	b.Reset()
	err := Differences(&b, append(list, installtest.Difference{Class: "package", Name: "tasksel:all", A: "3.81 ii"}))
	if err == nil || !strings.HasPrefix(err.Error(), "1 differences have no reason") {
		t.Errorf("a difference without a reason: %v", err)
	}
	if diff := cmp.Diff(expected+"not expected:\n  package tasksel:all: 3.81 ii; there none\n", b.String()); diff != "" {
		t.Errorf("one not expected (-want +got):\n%s", diff)
	}
}

// TestStockFlow guards that the files of the stock installer are there, and
// that its answers leave no question of d-i's to the agent.
func TestStockFlow(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"installer.udebs", "installer.tools", "preseed.cfg"} {
		data, err := fs.ReadFile(StockFlow(), name)
		if err != nil || len(data) == 0 {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
		if strings.Contains(string(data), "sci-agent") {
			t.Errorf("%s names the agent", name)
		}
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"sci-agent: failed: no disk":                       true,
		"[    1.2] Kernel panic - not syncing: VFS":        true,
		"An installation step failed. You can try to run":  true,
		"sci-agent: phase packages":                        false,
		"Installing the base system  ... 2%... 10%... 20%": false,
	} {
		if got := regexp.MustCompile(stuck).MatchString(text); got != want {
			t.Errorf("stuck matches %q: %v; want %v", text, got, want)
		}
	}
	for text, want := range map[string]bool{
		"Prompt: '?' for help, default=1> ": true,
		"[Press enter to continue]":         true,
		"Installing the base system  ... ":  false,
	} {
		if got := regexp.MustCompile(prompt).MatchString(text); got != want {
			t.Errorf("prompt matches %q: %v; want %v", text, got, want)
		}
	}
}
