package lock

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// indexed is the example of a site with a service machine.
func indexed() *Lock {
	l := example()
	l.Format = FormatIndexes
	l.Indexes = []Index{
		{Pocket: "trixie", Path: "InRelease", SHA256: digestA, Size: 140},
		{Pocket: "trixie", Path: "main/binary-amd64/Packages.xz", SHA256: digestB, Size: 9679304},
		{Pocket: "trixie-security", Path: "InRelease", SHA256: digestB, Size: 44},
	}
	return l
}

func TestIndexes(t *testing.T) {
	const line = "index trixie 9679304 " + digestB + " main/binary-amd64/Packages.xz\n"
	text := string(indexed().Bytes())
	for _, want := range []string{"\nformat 2\n", line} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	got, err := Parse("l", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(indexed(), got); d != "" {
		t.Error(d)
	}
	shuffled := indexed()
	x := shuffled.Indexes
	x[0], x[2] = x[2], x[0]
	if d := cmp.Diff(text, string(shuffled.Bytes())); d != "" {
		t.Errorf("order matters: %s", d)
	}
	for _, bad := range []struct{ old, new, want string }{
		{"format 2", "format 1", "format 1 has no index"},
		{line, line + line, "stands in line"},
		{"index trixie 9679304", "index sid 9679304", `pocket "sid" is not named above`},
		{"index trixie 9679304", "index local 9679304", `pocket "local" is not named above`},
		{" main/binary-amd64/Packages.xz", " ../Packages.xz", "is no path below a pocket"},
		{"9679304", "0", "is no number above 0"},
	} {
		_, err := Parse("l", []byte(strings.Replace(text, bad.old, bad.new, 1)))
		if err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%q: error %v; want %q", bad.new, err, bad.want)
		}
	}
}

// TestOldLock: a lock of a site without a service machine is what it was before
// there were indexes.
func TestOldLock(t *testing.T) {
	l, err := Parse("l", []byte(exampleText))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(exampleText, string(l.Bytes())); d != "" {
		t.Error(d)
	}
}
