package tree

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lines writes a tree as people read it: path, mode, what is in it.
func lines(t *testing.T, tr *Tree) []string {
	t.Helper()
	var list []string
	for _, e := range tr.Entries() {
		line := fmt.Sprintf("%s %v", e.Path, e.Mode)
		switch e.Mode.Type() {
		case fs.ModeSymlink:
			line += " " + e.Link
		case 0:
			data, err := e.ReadAll(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %q %.8s", data, e.SHA256)
		}
		list = append(list, line)
	}
	return list
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestEntries(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("from disk"), 0o600))
	var tr Tree
	must(t,
		tr.AddBytes("usr/bin/tool", 0o755, []byte("x")),
		tr.AddFile("b", 0o644, file, ""),
		tr.AddLink("usr-link", "usr"),
		tr.AddDir("usr/bin", 0o700), // an implicit parent gets its own mode
		tr.AddDir("empty", 0o755),
	)
	want := []string{
		`b -rw-r--r-- "from disk" `,
		"empty drwxr-xr-x",
		"usr drwxr-xr-x",
		"usr-link Lrwxrwxrwx usr",
		"usr/bin drwx------",
		`usr/bin/tool -rwxr-xr-x "x" 2d711642`,
	}
	if diff := cmp.Diff(want, lines(t, &tr)); diff != "" {
		t.Errorf("Entries (-want +got):\n%s", diff)
	}
	if tr.Len() != len(want) {
		t.Errorf("Len = %d; want %d", tr.Len(), len(want))
	}
}

func TestAddRefuses(t *testing.T) {
	open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }
	tests := []struct {
		entry Entry
		want  string
	}{
		{Entry{Path: "", Open: open}, `cannot add "": not a clean relative path`},
		{Entry{Path: "/etc/passwd", Open: open}, `cannot add "/etc/passwd": not a clean relative path`},
		{Entry{Path: ".", Open: open}, `cannot add ".": not a clean relative path`},
		{Entry{Path: "..", Open: open}, `cannot add "..": not a clean relative path`},
		{Entry{Path: "../up", Open: open}, `cannot add "../up": not a clean relative path`},
		{Entry{Path: "a/../../up", Open: open}, `cannot add "a/../../up": not a clean relative path`},
		{Entry{Path: "a//b", Open: open}, `cannot add "a//b": not a clean relative path`},
		{Entry{Path: "a/", Open: open}, `cannot add "a/": not a clean relative path`},
		{Entry{Path: "a\x00b", Open: open}, `cannot add "a\x00b": NUL in path`},
		{Entry{Path: "a"}, `cannot add "a": regular file without a source`},
		{Entry{Path: "a", Mode: fs.ModeDevice}, `cannot add "a": unsupported type D---------`},
		{Entry{Path: "file", Open: open}, `cannot add "file": path is taken`},
		{Entry{Path: "dir", Open: open}, `cannot add "dir": path is taken`},
		{Entry{Path: "file", Mode: fs.ModeDir}, `cannot add "file": path is taken`},
		{Entry{Path: "file/below", Open: open}, `cannot add "file/below": "file" is no directory`},
		{Entry{Path: "link/far/below", Open: open}, `cannot add "link/far/below": "link" is no directory`},
	}
	for _, test := range tests {
		var tr Tree
		must(t, tr.AddBytes("file", 0o644, nil), tr.AddBytes("dir/file", 0o644, nil), tr.AddLink("link", "dir"))
		before := lines(t, &tr)
		if err := tr.Add(test.entry); err == nil || err.Error() != test.want {
			t.Errorf("Add(%q) = %v; want %s", test.entry.Path, err, test.want)
		}
		if diff := cmp.Diff(before, lines(t, &tr)); diff != "" {
			t.Errorf("Add(%q) failed and changed the tree:\n%s", test.entry.Path, diff)
		}
	}
	var tr Tree
	if err := tr.AddFile("a", 0o644, filepath.Join(t.TempDir(), "missing"), ""); err == nil {
		t.Error("a missing file was added")
	}
}

func TestMergeAndRemove(t *testing.T) {
	var tr, other Tree
	must(t, other.AddBytes("etc/a", 0o644, []byte("a")), other.AddBytes("etc.d/b", 0o644, []byte("b")))
	must(t, tr.AddBytes("target/etc/c", 0o644, []byte("c")), tr.Merge("target", &other))
	want := []string{
		"target drwxr-xr-x", "target/etc drwxr-xr-x", "target/etc.d drwxr-xr-x", `target/etc.d/b -rw-r--r-- "b" 3e23e816`,
		`target/etc/a -rw-r--r-- "a" ca978112`, `target/etc/c -rw-r--r-- "c" 2e7d2c03`,
	}
	if diff := cmp.Diff(want, lines(t, &tr)); diff != "" {
		t.Errorf("Merge (-want +got):\n%s", diff)
	}
	if err := tr.Merge("target", &other); err == nil {
		t.Error("one file was merged twice")
	}
	tr.Remove("target/etc")
	if diff := cmp.Diff([]string{"target drwxr-xr-x", "target/etc.d drwxr-xr-x", `target/etc.d/b -rw-r--r-- "b" 3e23e816`}, lines(t, &tr)); diff != "" {
		t.Errorf("Remove (-want +got):\n%s", diff)
	}
	if _, ok := tr.Lookup("target/etc/a"); ok {
		t.Error("what lay below is still there")
	}
}

func TestReadAllIsBounded(t *testing.T) {
	var tr Tree
	must(t, tr.AddBytes("a", 0o644, []byte("12345")))
	e, _ := tr.Lookup("a")
	if data, err := e.ReadAll(5); err != nil || string(data) != "12345" {
		t.Errorf("ReadAll(5) = %q, %v", data, err)
	}
	if _, err := e.ReadAll(4); err == nil || err.Error() != `cannot read "a": 5 bytes are more than the limit of 4` {
		t.Errorf("ReadAll(4) = %v", err)
	}
}
