package deb

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pault.ag/go/debian/dependency"
)

func TestParseRelations(t *testing.T) {
	for _, test := range []struct {
		in   string
		want []Alternatives
	}{
		{"", []Alternatives{}},
		{" , ,", []Alternatives{}},
		{"a", []Alternatives{{{Name: "a"}}}},
		{"a, b | c,", []Alternatives{{{Name: "a"}}, {{Name: "b"}, {Name: "c"}}}},
		{"libstdc++6:any(>=14~)", []Alternatives{{{Name: "libstdc++6", Arch: "any", Op: ">=", Version: "14~"}}}},
		{"a ( << 1:2-3 ) [ amd64 !i386 ]\n , b", []Alternatives{{{Name: "a", Op: "<<", Version: "1:2-3", Archs: []string{"amd64", "!i386"}}}, {{Name: "b"}}}},
		{"a (< 1) | b (> 1) | c (= 1) | d (>> 1) | e (<= 1)", []Alternatives{{
			{Name: "a", Op: "<=", Version: "1"}, {Name: "b", Op: ">=", Version: "1"}, {Name: "c", Op: "=", Version: "1"},
			{Name: "d", Op: ">>", Version: "1"}, {Name: "e", Op: "<=", Version: "1"},
		}}},
	} {
		got, err := ParseRelations(test.in)
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%q: %s", test.in, diff)
		}
	}
}

func TestParseRelationsErrors(t *testing.T) {
	for in, want := range map[string]string{
		"a b":               `cannot read relations: byte 2 of "a b": unexpected 'b'`,
		"|a":                `cannot read relations: byte 0 of "|a": no package name`,
		"a |":               `cannot read relations: byte 3 of "a |": no package name`,
		"a | , b":           `cannot read relations: byte 4 of "a | , b": no package name`,
		"a:":                `cannot read relations: byte 2 of "a:": no architecture after the colon`,
		"a (1)":             `cannot read relations: byte 3 of "a (1)": "" is no comparison`,
		"a (== 1)":          `cannot read relations: byte 5 of "a (== 1)": "==" is no comparison`,
		"a (= 1":            `cannot read relations: byte 6 of "a (= 1": parenthesis is not closed`,
		"a (= 1 2)":         `cannot read relations: byte 7 of "a (= 1 2)": parenthesis is not closed`,
		"a (>= )":           `cannot read relations: byte 6 of "a (>= )": no version after ">="`,
		"a [amd64":          `cannot read relations: byte 3 of "a [amd64": bracket is not closed`,
		"a <!nocheck>":      `cannot read relations: byte 2 of "a <!nocheck>": unexpected '<'`,
		"${shlibs:Depends}": `cannot read relations: byte 0 of "${shlibs:Depends}": no package name`,
		"-a":                `cannot read relations: byte 2 of "-a": "-a" is no package name`,
	} {
		if _, err := ParseRelations(in); err == nil || err.Error() != want {
			t.Errorf("ParseRelations(%q)\n got %v\nwant %s", in, err, want)
		}
	}
}

func TestSatisfiedBy(t *testing.T) {
	for _, test := range []struct {
		op, holds string // for the versions 1, 2 and 3 against 2
	}{{"", "123"}, {"<<", "1"}, {"<=", "12"}, {"=", "2"}, {">=", "23"}, {">>", "3"}, {"?", ""}} {
		got := ""
		for _, v := range []string{"1", "2", "3"} {
			if (Relation{Name: "a", Op: test.op, Version: "2"}).SatisfiedBy(v) {
				got += v
			}
		}
		if got != test.holds {
			t.Errorf("%q 2 is satisfied by %q; want %q", test.op, got, test.holds)
		}
	}
}

// libraryRelations is the same field through pault.ag/go/debian.
func libraryRelations(s string) ([]Alternatives, error) {
	d, err := dependency.Parse(strings.Trim(strings.TrimSpace(s), ","))
	if err != nil {
		return nil, err
	}
	groups := []Alternatives{}
	for _, rel := range d.Relations {
		var group Alternatives
		for _, p := range rel.Possibilities {
			r := Relation{Name: p.Name}
			if p.Arch != nil {
				r.Arch = p.Arch.String()
			}
			if p.Version != nil {
				r.Op, r.Version = p.Version.Operator, p.Version.Number
			}
			group = append(group, r)
		}
		groups = append(groups, group)
	}
	return groups, nil
}

// compareRelations reads all relation fields of p by both parsers.
func compareRelations(t testing.TB, p *Package) (n int) {
	t.Helper()
	for _, s := range []string{p.PreDepends, p.Depends, p.Recommends, p.Suggests, p.Conflicts, p.Breaks, p.Provides, p.Replaces} {
		got, err := ParseRelations(s)
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		if s == "" {
			continue
		}
		want, err := libraryRelations(s)
		if err != nil {
			t.Errorf("%s: the library: %v", p.Name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %q: %s", p.Name, s, diff)
		}
		for _, g := range got {
			n += len(g)
		}
	}
	return n
}

func TestParseRelationsOfTrixie(t *testing.T) {
	data, err := os.ReadFile("testdata/Packages")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range scan(t, string(data)) {
		compareRelations(t, p)
	}
}

func FuzzParseRelations(f *testing.F) {
	f.Add("a, b:any (>= 1:2~) | c [amd64 !i386], d(<<3)")
	f.Add(",,a|b")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseRelations(s)
		if err != nil {
			return
		}
		parts := make([]string, len(got))
		for i, g := range got {
			parts[i] = g.String()
		}
		again, err := ParseRelations(strings.Join(parts, ", "))
		if err != nil {
			t.Fatalf("%q: %v", parts, err)
		}
		// An empty restriction "[]" is written as none.
		ignoreEmpty := cmp.Comparer(func(a, b []string) bool { return strings.Join(a, " ") == strings.Join(b, " ") })
		if diff := cmp.Diff(got, again, ignoreEmpty); diff != "" {
			t.Errorf("%q: %s", s, diff)
		}
	})
}

func BenchmarkParseRelations(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRelations("libboost-filesystem1.83.0 (>= 1.83.0), libc6 (>= 2.39), libcurl3t64-gnutls (>= 7.32.0) | x, libenet7:any"); err != nil {
			b.Fatal(err)
		}
	}
}
