package deb

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseControl(t *testing.T) {
	const text = `Package: x
Description: short
 long
 .
  indented
Conffiles:
 /etc/x 0123
Empty:
Tabbed:	value
`
	got, err := ParseControl([]byte("\n" + text + "\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Control{
		{"Package", "x"}, {"Description", "short\n long\n .\n  indented"},
		{"Conffiles", "\n /etc/x 0123"}, {"Empty", ""}, {"Tabbed", "value"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(strings.Replace(text, "Tabbed:\t", "Tabbed: ", 1), got.String()); diff != "" {
		t.Errorf("String: %s", diff)
	}
	var b bytes.Buffer
	if n, err := got.WriteTo(&b); err != nil || n != int64(b.Len()) || b.String() != got.String() {
		t.Errorf("WriteTo wrote %d bytes, said %d, error %v", b.Len(), n, err)
	}
	if got.Get("package") != "x" || got.Get("none") != "" || !got.Has("EMPTY") || got.Has("none") {
		t.Error("Get or Has is wrong")
	}
}

func TestControlSet(t *testing.T) {
	c := Control{{"Package", "x"}, {"Version", "1"}}
	d := c.Set("version", "2").Set("Size", "3").Delete("PACKAGE")
	if diff := cmp.Diff(Control{{"Version", "2"}, {"Size", "3"}}, d); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Control{{"Package", "x"}, {"Version", "1"}}, c); diff != "" {
		t.Errorf("the receiver changed: %s", diff)
	}
}

func TestParseControlErrors(t *testing.T) {
	for _, test := range []struct{ summary, data, want string }{
		{"empty", "", "cannot read control data: 0 stanzas, want one"},
		{"two", "A: b\n\nC: d\n", "cannot read control data: 2 stanzas, want one"},
		{"continuation first", " a\n", "cannot read control data: line 1: continuation line outside a field"},
		{"no colon", "A: b\nfoo\n", `cannot read control data: line 2: no field name in "foo"`},
		{"space in name", "A b: c\n", `cannot read control data: line 1: "A b" is no field name`},
		{"comment", "# a: b\n", `cannot read control data: line 1: "# a" is no field name`},
		{"armour", "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n", `cannot read control data: line 1: no field name in "-----BEGIN PGP SIGNED MESSAGE-----"`},
		{"twice", "A: b\na: c\n", "cannot read control data: line 2: second field a in one stanza"},
		{"long line", "A: " + strings.Repeat("x", maxStanza), "cannot read control data: line 1: line longer than 1048576 bytes"},
	} {
		if _, err := ParseControl([]byte(test.data)); err == nil || err.Error() != test.want {
			t.Errorf("%s:\n got %v\nwant %s", test.summary, err, test.want)
		}
	}
}

func TestControlCheck(t *testing.T) {
	for _, test := range []struct {
		summary string
		c       Control
		ok      bool
	}{
		{"good", Control{{"A", "b\n c\n .\n\td"}, {"B", ""}, {"C", "\n d"}}, true},
		{"twice", Control{{"A", "b"}, {"a", "b"}}, false},
		{"name", Control{{"A b", "c"}}, false},
		{"empty name", Control{{"", "c"}}, false},
		{"line that ends the stanza", Control{{"A", "b\n\nPackage: evil"}}, false},
		{"line of white space", Control{{"A", "b\n \n c"}}, false},
		{"line that is a field", Control{{"A", "b\nPackage: evil"}}, false},
		{"newline at the end", Control{{"A", "b\n"}}, false},
		{"space at the end", Control{{"A", "b "}}, false},
	} {
		if err := test.c.Check(); (err == nil) != test.ok {
			t.Errorf("%s: got %v", test.summary, err)
		}
	}
}

func FuzzParseControls(f *testing.F) {
	data, err := os.ReadFile("testdata/Packages")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:2000])
	f.Add([]byte("A: b\n c\n\n\n D: e"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseControls(bytes.NewReader(data))
		if err != nil {
			return
		}
		var out strings.Builder
		for _, c := range list {
			out.WriteString(c.String() + "\n")
		}
		again, err := ParseControls(strings.NewReader(out.String()))
		if err != nil {
			t.Fatalf("%q: %v", out.String(), err)
		}
		if diff := cmp.Diff(list, again); diff != "" {
			t.Error(diff)
		}
	})
}
