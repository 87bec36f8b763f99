package lock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
)

const (
	digestA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	digestC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

func example() *Lock {
	day := func(d int) time.Time { return time.Date(2026, 9, d, 8, 0, 0, 0, time.UTC) }
	return &Lock{
		Format: Format, Codename: "trixie", Arch: "amd64", Inputs: digestC,
		Releases: []Release{
			{Pocket: "trixie", Suite: "stable", Version: "13.7", SHA256: digestA, Date: day(5)},
			{Pocket: "trixie-security", Suite: "stable-security", SHA256: digestB, Date: day(9)},
		},
		Packages: []Package{
			{"lvm2", "2.03.31-2", "amd64", "deb", "trixie", "pool/main/l/lvm2/lvm2_2.03.31-2_amd64.deb", digestA, 1234, "optional", "admin", []string{"node", "service"}},
			{"openssl", "3.5.1-1+deb13u1", "amd64", "deb", "trixie-security", "pool/updates/main/o/openssl/openssl_3.5.1-1+deb13u1_amd64.deb", digestB, 99, "optional", "utils", []string{"service"}},
			{"sci-agent", "0.1", "amd64", "deb", Local, "sci-agent_0.1_amd64.deb", digestC, 7, "", "", []string{"node"}},
			{"anna", "1.94", "amd64", "udeb", "trixie", "pool/main/a/anna/anna_1.94_amd64.udeb", digestC, 5, "standard", "debian-installer", []string{"installer"}},
		},
	}
}

const exampleText = `# Written by "sci-cd lock". It belongs beside the site file, under version control.
# A line a package: kind, name, version, architecture, uses, pocket, size, SHA-256,
# priority, section, path.
format 1
release trixie amd64
inputs cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
pocket trixie stable 13.7 2026-09-05T08:00:00Z aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
pocket trixie-security stable-security - 2026-09-09T08:00:00Z bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
deb  lvm2      2.03.31-2       amd64 node,service trixie          1234 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa optional admin            pool/main/l/lvm2/lvm2_2.03.31-2_amd64.deb
deb  openssl   3.5.1-1+deb13u1 amd64 service      trixie-security 99   bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb optional utils            pool/updates/main/o/openssl/openssl_3.5.1-1+deb13u1_amd64.deb
deb  sci-agent 0.1             amd64 node         local           7    cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc -        -                sci-agent_0.1_amd64.deb
udeb anna      1.94            amd64 installer    trixie          5    cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc standard debian-installer pool/main/a/anna/anna_1.94_amd64.udeb
end 4
`

func TestBytes(t *testing.T) {
	if d := cmp.Diff(exampleText, string(example().Bytes())); d != "" {
		t.Error(d)
	}
	shuffled := example()
	p := shuffled.Packages
	p[0], p[3] = p[3], p[0]
	p[3].Uses = []string{"service", "node", "node"}
	shuffled.Releases[0], shuffled.Releases[1] = shuffled.Releases[1], shuffled.Releases[0]
	if d := cmp.Diff(exampleText, string(shuffled.Bytes())); d != "" {
		t.Errorf("the order of the fields reaches the file: %s", d)
	}
	if p[0].Name != "anna" {
		t.Error("Bytes changed the lock")
	}
}

func TestParse(t *testing.T) {
	got, err := Parse("sci.lock", []byte(exampleText))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(example(), got); d != "" {
		t.Error(d)
	}
	if got, want := got.Time(), time.Date(2026, 9, 9, 8, 0, 0, 0, time.UTC); !got.Equal(want) {
		t.Errorf("Time() = %s; want %s", got, want)
	}
}

// TestParseErrors damages one line of the example at a time.
func TestParseErrors(t *testing.T) {
	for _, test := range []struct {
		summary, old, new string
		want              string
	}{
		{"cut off", "end 4\n", "", `sci.lock:13: lock is cut off: no "end" line`},
		{"cut in a line", "debian-installer pool/main/a/anna/anna_1.94_amd64.udeb\nend 4\n", "debian-inst",
			`sci.lock:12: udeb takes 10 words, here are 9`},
		{"line lost", "deb  openssl", "# deb openssl", `sci.lock:13: 4 packages are announced, there are 3`},
		{"text after the end", "end 4\n", "end 4\nextra\n", `sci.lock:14: "extra" after the end`},
		{"empty", exampleText, "", `sci.lock:1: lock is empty`},
		{"only comments", exampleText, "# nothing\n", `sci.lock:2: lock is empty`},
		{"newer format", "format 1", "format 3", `sci.lock:4: format 3 is not known, only 1 and 2 are`},
		{"no format", "format 1\n", "", `sci.lock:4: the first line must be "format 1", not "release"`},
		{"no inputs", "inputs " + digestC + "\n", "", `sci.lock:13: no "inputs" line`},
		{"second release", "inputs ", "release bookworm amd64\ninputs ", `sci.lock:6: release stands in line 5 already`},
		{"digest", "amd64 node,service trixie          1234 aaaa", "amd64 node,service trixie          1234 aaa",
			`sci.lock:9: "` + digestA[1:] + `" is no SHA-256`},
		{"upper case digest", "inputs cccc", "inputs CCCC", `sci.lock:6: "CCCC` + digestC[4:] + `" is no SHA-256`},
		{"size", " 1234 ", " 12x4 ", `sci.lock:9: size "12x4" is no number above 0`},
		{"size 0", " 1234 ", " 0 ", `sci.lock:9: size "0" is no number above 0`},
		{"version", "2.03.31-2 ", "x2.03 ", `sci.lock:9: "x2.03" is no version: version number does not start with digit`},
		{"path leaves the archive", "pool/main/l/lvm2/", "../", `sci.lock:9: "../lvm2_2.03.31-2_amd64.deb" is no path below an archive`},
		{"absolute path", "pool/main/l/lvm2/", "/", `sci.lock:9: "/lvm2_2.03.31-2_amd64.deb" is no path below an archive`},
		{"pocket", " trixie-security 99", " trixie-backports 99", `sci.lock:10: pocket "trixie-backports" is not named above`},
		{"pocket twice", "pocket trixie-security", "pocket trixie", `sci.lock:8: second pocket "trixie"`},
		{"date", "2026-09-05T08:00:00Z", "yesterday", `sci.lock:7: "yesterday" is no date like 2006-01-02T15:04:05Z`},
		{"uses not sorted", "node,service", "service,node", `sci.lock:9: uses "service,node" are not names in order`},
		{"no use", "installer    trixie", "-            trixie", `sci.lock:12: package "anna" has no use`},
		{"architecture", "2.03.31-2       amd64", "2.03.31-2       arm64", `sci.lock:9: package "lvm2" is for arm64, the lock is for amd64`},
		{"twice", "deb  openssl   3.5.1-1+deb13u1", "deb  lvm2      2.03.31-2", `sci.lock:10: deb lvm2 2.03.31-2 amd64 stands in line 9 already`},
		{"keyword", "udeb anna", "udep anna", `sci.lock:12: unknown keyword "udep"`},
		{"merge conflict", "udeb anna", "<<<<<<< HEAD\nudeb anna", `sci.lock:12: unresolved merge conflict`},
		{"control characters", "lvm2  ", "lv\x1b[2m  ", `sci.lock:9: "lv\x1b[2m" is not plain text`},
		{"several", "1234", "big", "sci.lock:9: size \"big\" is no number above 0\nsci.lock:10: size \"none\" is no number above 0"},
	} {
		t.Run(test.summary, func(t *testing.T) {
			text := strings.Replace(exampleText, test.old, test.new, 1)
			if test.summary == "several" {
				text = strings.Replace(text, " 99 ", " none ", 1)
			}
			_, err := Parse("sci.lock", []byte(text))
			if err == nil {
				t.Fatal("accepted")
			}
			if first := strings.TrimSuffix(err.Error(), "\n"+after(err.Error(), test.want)); first != test.want {
				t.Errorf("got  %s\nwant %s", err, test.want)
			}
			if hint.Of(err) == "" {
				t.Error("no advice")
			}
		})
	}
}

// after returns what follows the wanted lines: damage often shows twice.
func after(got, want string) string {
	rest, ok := strings.CutPrefix(got, want+"\n")
	if !ok {
		return "\x00"
	}
	return rest
}

func TestParseBounds(t *testing.T) {
	if _, err := Parse("l", []byte("format 1\n"+strings.Repeat("x", maxLine+1))); err == nil || !strings.Contains(err.Error(), "l:2: line is longer") {
		t.Errorf("long line: %v", err)
	}
	_, err := Parse("l", []byte("format 1\n"+strings.Repeat("junk\n", 1000)))
	if n := strings.Count(err.Error(), "\n") + 1; n != maxProblems {
		t.Errorf("%d problems reported; want %d", n, maxProblems)
	}
}

func TestCheck(t *testing.T) {
	l := example()
	if err := l.Check(digestC); err != nil {
		t.Errorf("the same inputs are stale: %v", err)
	}
	err := l.Check(digestA)
	if err == nil || err.Error() != "lock is stale: it was made for inputs cccccccccccc, these are aaaaaaaaaaaa" {
		t.Errorf("got %v", err)
	}
	if got, want := hint.Of(err), "run: sci-cd lock SITE"; got != want {
		t.Errorf("hint %q; want %q", got, want)
	}
}

func TestWriteRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sci.lock")
	if _, err := Read(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a missing file: %v", err)
	}
	if err := example().Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(example(), got); d != "" {
		t.Error(d)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	bad := example()
	bad.Packages[0].SHA256 = ""
	if err := bad.Write(path); err == nil {
		t.Error("a lock without a digest was written")
	}
	if data, _ := os.ReadFile(path); string(data) != exampleText {
		t.Error("a failed write changed the file")
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

func TestByUse(t *testing.T) {
	var got []string
	for _, p := range example().ByUse("service") {
		got = append(got, p.Name)
	}
	if d := cmp.Diff([]string{"lvm2", "openssl"}, got); d != "" {
		t.Error(d)
	}
}

func TestDiff(t *testing.T) {
	a, b := example(), example()
	b.Packages[0].Version, b.Packages[0].SHA256 = "2.03.31-2+deb13u1", digestB
	b.Packages[1].Version = "3.5.1-1"
	b.Packages[2] = Package{"zsh", "5.9", "amd64", "deb", "trixie", "pool/z.deb", digestA, 1, "", "", []string{"node"}}
	b.Packages[3].Uses = []string{"boot", "installer"}
	var got []string
	for _, c := range Diff(a, b) {
		got = append(got, c.String())
	}
	want := []string{
		"upgraded lvm2 2.03.31-2 to 2.03.31-2+deb13u1 (node, service)",
		"downgraded openssl 3.5.1-1+deb13u1 to 3.5.1-1 (service)",
		"removed sci-agent 0.1 (node)",
		"added zsh 5.9 (node)",
		"used udeb anna 1.94 by boot, installer instead of installer",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := Diff(a, a); len(got) != 0 {
		t.Errorf("Diff(a, a) = %v", got)
	}
	if got := Diff(nil, a); len(got) != 4 || got[0].Verb() != "added" {
		t.Errorf("Diff(nil, a) = %v", got)
	}
	b = example()
	b.Packages[0].SHA256 = digestB
	if got := Diff(a, b); len(got) != 1 || got[0].Verb() != "replaced" {
		t.Errorf("other bytes under one version: %v", got)
	}
}

// TestDiffVersions: two versions of one name may stand side by side.
func TestDiffVersions(t *testing.T) {
	with := func(versions ...string) *Lock {
		l := example()
		l.Packages = nil
		for _, v := range versions {
			l.Packages = append(l.Packages, Package{"linux", v, "amd64", "deb", "trixie", "pool/l.deb", digestA, 1, "", "", []string{"node"}})
		}
		return l
	}
	var got []string
	for _, c := range Diff(with("1", "2"), with("2", "3")) {
		got = append(got, c.String())
	}
	if d := cmp.Diff([]string{"upgraded linux 1 to 3 (node)"}, got); d != "" {
		t.Error(d)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(exampleText))
	f.Add([]byte("format 1\nend 0\n"))
	f.Add([]byte("format 1\nrelease a b\ninputs " + digestA + "\npocket a - - 2026-09-05T08:00:00+02:00 " + digestA + "\nend 0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse("l", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "l:") {
				t.Fatalf("error without a place: %v", err)
			}
			return
		}
		again, err := Parse("l", l.Bytes())
		if err != nil {
			t.Fatalf("own output is refused: %v\n%s", err, l.Bytes())
		}
		l.Sort()
		if d := cmp.Diff(l, again); d != "" {
			t.Fatal(d)
		}
	})
}
