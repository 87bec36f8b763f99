package installtest

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func tinyPNG(t *testing.T) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, 64, 40))
	for i := range 64 * 40 {
		img.Set(i%64, i/64, color.RGBA{20, 40, uint8(i % 64 * 4), 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sample is a report with everything that a page may show.
func sample(t *testing.T) *Report {
	s := time.Second
	return &Report{
		Title:      "sci-cd-trixie-amd64.iso: installation on bios from CD",
		Properties: []Property{{"Image", "dist/sci-cd-trixie-amd64.iso"}, {"Host", "node1.lab.example, role node"}},
		Started:    time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC),
		Duration:   1000 * s,
		Phases: []Phase{{Name: "firmware, boot loader, kernel", Until: 45 * s}, {Name: "install: disks", From: 45 * s, Until: 60 * s}, {Name: "install: base", From: 60 * s, Until: 400 * s},
			{Name: "install: <packages>", From: 400 * s, Until: 900 * s}, {Name: "checks", From: 900 * s, Until: 1000 * s}},
		Checks: []*Check{
			{Stage: "boot", Name: "the medium boots to the installer", Want: "a line \"sci-agent: installer started\"", Done: true, Duration: 45 * s},
			{Stage: "system", Name: "hostname", Want: "node1.lab.example", Script: "hostname -f", Output: "node1\n", Done: true, Problem: `got "node1"; want "node1.lab.example"`, Duration: s / 4},
			{Stage: "system", Name: "binary <output> & more", Want: "none", Output: "a\x00\x1b[31m]]>\xff<b>", Done: true, Duration: s},
			{Stage: "system", Name: "never asked", Want: "an answer"},
		},
		Accepted: []Difference{
			{"content", "/etc/machine-id", "aa", "bb", "each machine draws its own"},
			{"path", "/etc/.pwd.lock", "file 0600 root:root", "", "an <empty> file"},
		},
		CPU: []MachineTime{{"install", 900 * s}}, PeakMemory: 412,
		Screens: []Screen{{Caption: "the machine is ready", File: "screen-01.png", PNG: tinyPNG(t)}},
		Logs:    []Log{{"install.ttyS0.log", "sci-agent: ready\n</pre><script>alert(1)</script>\n"}},
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

func TestJUnit(t *testing.T) {
	got, err := sample(t).JUnit()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "junit.golden.xml", got)
	var back junitSuites
	if err := xml.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if back.Tests != 4 || back.Failures != 2 {
		t.Errorf("tests=%d failures=%d; want 4 and 2", back.Tests, back.Failures)
	}
}

func TestHTML(t *testing.T) {
	r := sample(t)
	got, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	// What the page says, without its style and the picture's bytes.
	body := got[bytes.Index(got, []byte("<body")):]
	body = regexp.MustCompile(`base64,[A-Za-z0-9+/=]+`).ReplaceAll(body, []byte("base64,PNG"))
	golden(t, "report.golden.html", body)
	page := string(got)
	for _, outside := range []string{"http://", "https://", "src=\"/", "<script", "<link", "@import", "ZgotmplZ"} {
		if strings.Contains(page, outside) {
			t.Errorf("the page contains %q", outside)
		}
	}
	// The markup is well-formed enough for a strict reader.
	d := xml.NewDecoder(strings.NewReader(strings.ToValidUTF8(strings.ReplaceAll(string(body), "\x00", ""), "")))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil && !strings.Contains(err.Error(), "illegal character code") {
			t.Fatal(err)
		} else if err != nil {
			break
		}
	}
}

// site is a report of several hosts: their phases and checks are mixed, as they
// ran at the same time.
func site() *Report {
	s := time.Second
	return &Report{
		Title: "lab.iso: the site lab, 2 machines", Started: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), Duration: 1000 * s,
		Phases: []Phase{
			{Name: "install: base", Until: 300 * s, Host: "node1"}, {Name: "install: base", Until: 320 * s, Host: "node2"},
			{Name: "step: cluster", From: 320 * s, Until: 700 * s, Host: "node1"}, {Name: "behind step: hostname", From: 330 * s, Until: 900 * s, Host: "node2"},
		},
		Checks: []*Check{
			{Host: "node1", Stage: "install", Name: "the installer finishes unattended", Want: "power off", Done: true, Duration: 300 * s},
			{Host: "node2", Stage: "install", Name: "the installer finishes unattended", Want: "power off", Done: true, Duration: 320 * s},
			{Host: "node1", Stage: "first boot", Name: "the agent gets the machine ready", Want: "ready", Done: true, Duration: 400 * s},
			{Host: "node2", Stage: "first boot", Name: "the agent gets the machine ready", Want: "ready", Done: true, Problem: "the agent says: failed: no answer", Duration: 500 * s},
			{Stage: "instance", Name: "an instance is made", Done: true, Skipped: "QEMU is too old"},
		},
	}
}

func TestSeveralHosts(t *testing.T) {
	page, err := site().HTML()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "site.golden.html", page[bytes.Index(page, []byte("<body")):])
	junit, err := site().JUnit()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "site.golden.xml", junit)
	if got, want := site().Summary(), "1 of 4 checks failed, 1 skipped, 1000 s"; got != want {
		t.Errorf("Summary = %q; want %q", got, want)
	}
}

// sections is a report on several tests.
func sections() *Report {
	s := time.Second
	return &Report{
		Title: "lab.iso: the site lab, 2 machines, faults", Started: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), Duration: 1000 * s,
		Sections: []*Section{
			{Name: "late", About: "One node comes much later.", Until: 400 * s},
			{Name: "three", About: "Three nodes <form> a cluster.", From: 400 * s, Until: 400 * s, Skipped: "this site has 2 nodes"},
			{Name: "clock", About: "A clock is off.", From: 400 * s, Until: 1000 * s},
		},
		Phases: []Phase{
			{Name: "step: cluster", From: 100 * s, Until: 400 * s, Host: "node1", Section: "late"},
			{Name: "step: cluster", From: 500 * s, Until: 700 * s, Host: "node1", Section: "clock"}, {Name: "no power", From: 600 * s, Until: 1000 * s, Host: "node2", Section: "clock"},
		},
		Checks: []*Check{
			{Section: "late", Stage: "late", Name: "node1 says for whom it waits", Want: "a line", Output: "step nodes retry 1", Done: true, Duration: 120 * s},
			{Section: "late", Host: "node2", Stage: "system", Name: "no failed units", Want: "none", Done: true, Duration: s},
			{Section: "late", Host: "node1", Stage: "system", Name: "no failed units", Want: "none", Done: true, Duration: s},
			{Section: "three", Name: "three", Done: true, Skipped: "this site has 2 nodes"},
			{Section: "clock", Stage: "clock", Name: "the clocks agree", Want: "less than 2m30s apart", Done: true, Problem: "they are up to 1h0m1s apart", Duration: 3 * s},
		},
	}
}

func TestSections(t *testing.T) {
	page, err := sections().HTML()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "sections.golden.html", page[bytes.Index(page, []byte("<body")):])
	junit, err := sections().JUnit()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "sections.golden.xml", junit)
	var titles []string
	for _, c := range sections().Checks {
		titles = append(titles, c.Title())
	}
	want := []string{"late: node1 says for whom it waits", "late: node2: no failed units", "late: node1: no failed units", "three", "clock: the clocks agree"}
	if d := cmp.Diff(want, titles); d != "" {
		t.Errorf("titles (-want +got):\n%s", d)
	}
}

// TestParts: what is noted belongs to the part that it is noted in, whichever
// others are open, and no phase goes on behind its end.
func TestParts(t *testing.T) {
	r := NewReport("x")
	a, b, c := r.Part("a", ""), r.Part("b", ""), r.Part("c", "")
	b.Close(b.Begin("", "b", "two", ""), "")
	a.PhaseAt("node1", "step", time.Now())
	a.Close(a.Begin("", "a", "one", ""), "no")
	b.End()
	a.End()
	c.SkipPart("no reason")
	if a, b := a.screenName("node1"), b.screenName("node1"); a != "node1-a-screen-01.png" || b != "node1-b-screen-01.png" {
		t.Errorf("screenshots are named %s, %s", a, b)
	}
	for _, p := range []*Report{a, b, c} {
		r.Add(p)
	}
	r.Close(r.Begin("", "", "behind all", ""), "")
	r.Finish(nil)
	var got []string
	for _, c := range r.Checks {
		got = append(got, c.Title())
	}
	if d := cmp.Diff([]string{"a: one", "b: two", "c", "behind all"}, got); d != "" {
		t.Errorf("checks (-want +got):\n%s", d)
	}
	if p := r.Phases[0]; p.Section != "a" || p.open || p.Until > r.Sections[0].Until {
		t.Errorf("phase %+v, section %+v", p, r.Sections[0])
	}
	if len(r.FailedIn("a")) != 1 || len(r.FailedIn("b")) != 0 || r.Sections[2].Skipped == "" {
		t.Errorf("failed in a: %d, in b: %d, sections %+v", len(r.FailedIn("a")), len(r.FailedIn("b")), r.Sections)
	}
}

func TestSummary(t *testing.T) {
	r := sample(t)
	if got, want := r.Summary(), "2 of 4 checks failed, 1000 s"; got != want {
		t.Errorf("Summary = %q; want %q", got, want)
	}
	r.Checks = r.Checks[:1]
	if got, want := r.Summary(), "1 checks hold, 1000 s"; got != want {
		t.Errorf("Summary = %q; want %q", got, want)
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", 1500 * time.Millisecond: "1.5 s", 75 * time.Second: "75 s", 3 * time.Minute: "3 min", 725 * time.Second: "12 min 5 s",
	} {
		if got := duration(d); got != want {
			t.Errorf("duration(%v) = %q; want %q", d, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	long := strings.Repeat("ä", 10<<10)
	if got := clip(long); len(got) > 9<<10 || !strings.Contains(got, "bytes left out") || strings.Contains(got, "\uFFFD") {
		t.Errorf("clip: %d bytes", len(got))
	}
	if got := clip("short"); got != "short" {
		t.Errorf("clip = %q", got)
	}
}

func ExampleReport_Summary() {
	r := Report{Checks: []*Check{{Done: true}, {Done: true}}, Duration: 61 * time.Second}
	fmt.Println(r.Summary())
	// Output: 2 checks hold, 61 s
}
