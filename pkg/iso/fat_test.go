package iso

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/tree"
)

func TestFATErrors(t *testing.T) {
	file := func(name string) *tree.Tree {
		tr := &tree.Tree{}
		must(t, tr.AddBytes(name, 0o644, []byte("x")))
		return tr
	}
	entry := func(e tree.Entry) *tree.Tree {
		tr := &tree.Tree{}
		must(t, tr.Add(e))
		return tr
	}
	both := file("grub.cfg")
	must(t, both.AddBytes("GRUB.CFG", 0o644, nil))
	wide := &tree.Tree{}
	for i := range 200 {
		must(t, wide.AddBytes(fmt.Sprintf("a name that is long %d", i), 0o644, nil))
	}
	for _, test := range []struct {
		summary string
		tree    *tree.Tree
		label   string
		time    time.Time
		want    string
	}{
		{"label in lower case", file("x"), "esp", testTime, `label "esp" is not at most 11 of`},
		{"long label", file("x"), "ABCDEFGHIJKL", testTime, `is not at most 11 of`},
		{"link", entry(tree.Entry{Path: "l", Mode: fs.ModeSymlink, Link: "x"}), "", testTime, `"l" is neither a file nor a directory`},
		{"colon", file("a:b"), "", testTime, `"a:b": not a name that FAT can hold`},
		{"dot at the end", file("a."), "", testTime, `"a.": not a name that FAT can hold`},
		{"case only", both, "", testTime, `"grub.cfg": differs from "GRUB.CFG" by case only`},
		{"old", file("x"), "", time.Date(1979, 12, 31, 0, 0, 0, 0, time.UTC), `"x": year 1979 is outside 1980 to 2107`},
		{"too large", entry(source(32<<20, nil)), "", testTime, `"file" has 33554432 bytes; want at most 32505856`},
		{"too large with its tables", entry(source(31<<20, nil)), "", testTime, `do not fit into 32505856`},
		{"too short", entry(tree.Entry{Path: "x", Size: 9, Open: file("x").Entries()[0].Open}), "", testTime, `cannot read "x": unexpected EOF`},
		{"too long", entry(tree.Entry{Path: "x", Size: 0, Open: file("x").Entries()[0].Open}), "", testTime, `cannot read "x": longer than its 0 bytes`},
		{"wide root", wide, "", testTime, `records in the root are more than 511`},
	} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := FAT(test.tree, test.label, 0, test.time)
			if err == nil || !strings.HasPrefix(err.Error(), "cannot write FAT image: ") || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v; want %q", err, test.want)
			}
		})
	}
}

// TestFATSizes has content from nothing to as much as fits.
func TestFATSizes(t *testing.T) {
	for _, test := range []struct{ content, want int64 }{
		{0, 8 << 20}, {7 << 20, 8 << 20}, {8 << 20, 9 << 20}, {30 << 20, 31 << 20},
	} {
		tr := &tree.Tree{}
		must(t, tr.AddBytes("EFI/x", 0o644, make([]byte, test.content)))
		img, err := FAT(tr, "", 1, testTime)
		must(t, err)
		if got := int64(len(img)); got != test.want {
			t.Errorf("%d bytes give an image of %d; want %d", test.content, got, test.want)
		}
	}
}
