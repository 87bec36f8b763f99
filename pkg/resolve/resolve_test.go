package resolve

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
)

// universe reads an index in short form: a line a package, "name version",
// then fields as "Depends: …", separated by ";".
func universe(t testing.TB, index string) *Universe {
	t.Helper()
	var b strings.Builder
	for _, l := range strings.Split(index, "\n") {
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		parts := strings.Split(l, ";")
		name, version, _ := strings.Cut(strings.TrimSpace(parts[0]), " ")
		if version == "" {
			version = "1"
		}
		b.WriteString("Package: " + name + "\nVersion: " + version + "\n")
		architecture, priority := "amd64", "optional"
		for _, p := range parts[1:] {
			switch key, value, _ := strings.Cut(strings.TrimSpace(p), ": "); key {
			case "Architecture":
				architecture = value
			case "Priority":
				priority = value
			default:
				b.WriteString(key + ": " + value + "\n")
			}
		}
		b.WriteString("Architecture: " + architecture + "\nPriority: " + priority + "\n\n")
	}
	var pkgs []*deb.Package
	if err := deb.ScanPackages(strings.NewReader(b.String()), func(p *deb.Package) error {
		pkgs = append(pkgs, p)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return NewUniverse("amd64", pkgs)
}

// names writes a closure as "name" or, if there are several versions of it in
// the index, "name=version".
func names(r *Result) string {
	var all []string
	for _, p := range r.Packages {
		name := p.Name
		if p.Version != "1" {
			name += "=" + p.Version
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

func TestResolve(t *testing.T) {
	for _, test := range []struct {
		summary string
		index   string
		request Request
		want    string
	}{{
		summary: "dependencies of dependencies, Pre-Depends among them",
		index: `a; Depends: b
			b; Pre-Depends: c
			c
			d`,
		request: Request{Seeds: []string{"a"}},
		want:    "a b c",
	}, {
		summary: "circles end",
		index: `a; Depends: b
			b; Depends: a`,
		request: Request{Seeds: []string{"a"}},
		want:    "a b",
	}, {
		summary: "Recommends only where wanted",
		index: `a; Recommends: b, none
			b; Suggests: c
			c`,
		request: Request{Seeds: []string{"a"}},
		want:    "a",
	}, {
		summary: "Recommends wanted, one of them missing",
		index: `a; Recommends: b, none
			b; Suggests: c
			c`,
		request: Request{Seeds: []string{"a"}, Recommends: true},
		want:    "a b",
	}, {
		summary: "the highest version of all pockets",
		index: `a 1; Depends: b
			a 1+deb13u1; Depends: c
			a 1~rc1
			b
			c`,
		request: Request{Seeds: []string{"a"}},
		want:    "a=1+deb13u1 c",
	}, {
		summary: "the first alternative",
		index: `a; Depends: b | c
			b
			c; Priority: required`,
		request: Request{Seeds: []string{"a"}},
		want:    "a b",
	}, {
		summary: "an alternative that is a seed",
		index: `a; Depends: b | c
			b
			c`,
		request: Request{Seeds: []string{"a", "c"}},
		want:    "a c",
	}, {
		summary: "an alternative that comes with another seed's dependency",
		index: `a; Depends: x
			x; Depends: b | c
			b
			c
			z; Depends: c`,
		request: Request{Seeds: []string{"z", "a"}},
		want:    "a c x z",
	}, {
		summary: "the second alternative where the first cannot be had",
		index: `a; Depends: b | c
			b; Depends: none
			c`,
		request: Request{Seeds: []string{"a"}},
		want:    "a c",
	}, {
		summary: "the second alternative where the first conflicts with a seed",
		index: `a; Depends: b | c
			b
			c
			z; Conflicts: b`,
		request: Request{Seeds: []string{"z", "a"}},
		want:    "a c z",
	}, {
		summary: "what a failed attempt left behind goes",
		index: `a; Depends: b | c
			b; Depends: left, deep
			deep; Depends: none
			left
			c`,
		request: Request{Seeds: []string{"a"}},
		want:    "a c",
	}, {
		summary: "a real package before those that provide its name",
		index: `a; Depends: mta
			exim; Provides: mta; Priority: standard
			mta`,
		request: Request{Seeds: []string{"a"}},
		want:    "a mta",
	}, {
		summary: "the provider of higher priority",
		index: `a; Depends: awk
			gawk; Provides: awk
			mawk; Provides: awk; Priority: required
			original-awk; Provides: awk`,
		request: Request{Seeds: []string{"a"}},
		want:    "a mawk",
	}, {
		summary: "of equal providers the one mentioned last",
		index: `a; Depends: mail, x
			x; Suggests: exim
			courier; Provides: mail
			exim; Provides: mail
			postfix; Provides: mail`,
		request: Request{Seeds: []string{"a"}},
		want:    "a postfix x",
	}, {
		summary: "mentioned is mentioned, even in another package",
		index: `a; Depends: mail; Suggests: postfix, exim
			courier; Provides: mail
			exim; Provides: mail
			postfix; Provides: mail`,
		request: Request{Seeds: []string{"a"}},
		want:    "a courier",
	}, {
		summary: "versioned Provides meet versioned dependencies, unversioned do not",
		index: `a; Depends: v (>= 2)
			p; Provides: v
			q; Provides: v (= 1)
			r; Provides: v (= 2)`,
		request: Request{Seeds: []string{"a"}},
		want:    "a r",
	}, {
		summary: ":any needs Multi-Arch: allowed",
		index: `a; Depends: python:any | perl:any
			python; Multi-Arch: foreign
			perl; Multi-Arch: allowed`,
		request: Request{Seeds: []string{"a"}},
		want:    "a perl",
	}, {
		summary: "Provides of a Multi-Arch: allowed package count for :any",
		index: `a; Depends: python3-supported:any (>= 3.13)
			python3; Multi-Arch: allowed; Provides: python3-supported (= 3.13)`,
		request: Request{Seeds: []string{"a"}},
		want:    "a python3",
	}, {
		summary: "another architecture is not ours",
		index: `a; Depends: b:i386 | c:amd64
			b
			b 2; Architecture: i386
			c`,
		request: Request{Seeds: []string{"a"}},
		want:    "a c",
	}, {
		summary: "Architecture: all competes with ours by version",
		index: `a
			a 2; Architecture: all`,
		request: Request{Seeds: []string{"a"}},
		want:    "a=2",
	}, {
		summary: "Essential packages come by themselves",
		index: `a
			bash; Essential: yes; Depends: libc6
			libc6
			other`,
		request: Request{Seeds: []string{"a"}},
		want:    "a bash libc6",
	}, {
		summary: "priorities",
		index: `req; Priority: required
			imp; Priority: important; Depends: lib
			std; Priority: standard
			lib
			opt`,
		request: Request{Priorities: []string{"required", "important"}},
		want:    "imp lib req",
	}, {
		summary: "excluded from a priority, from Essential and from alternatives",
		index: `req; Priority: required
			req2; Priority: required
			ess; Essential: yes
			a; Depends: b | c
			b
			c`,
		request: Request{Seeds: []string{"a"}, Priorities: []string{"required"}, Excludes: []string{"req2", "b", "ess", "unknown"}},
		want:    "a c req",
	}, {
		summary: "a virtual seed with one provider",
		index: `exim4-daemon-light
			default-mta-package; Provides: default-mta; Depends: exim4-daemon-light`,
		request: Request{Seeds: []string{"default-mta"}},
		want:    "default-mta-package exim4-daemon-light",
	}, {
		summary: "a package may conflict with what it provides itself",
		index: `a; Provides: mta; Conflicts: mta
			b; Depends: mta`,
		request: Request{Seeds: []string{"b"}},
		want:    "a b",
	}, {
		summary: "Breaks of an older version is no obstacle",
		index: `a; Breaks: b (<< 2)
			b 2`,
		request: Request{Seeds: []string{"a", "b"}},
		want:    "a b=2",
	}, {
		summary: "a package that comes late and conflicts with a choice made early",
		index: `a; Depends: b | c
			b
			c
			z; Depends: y
			y; Conflicts: b`,
		request: Request{Seeds: []string{"a", "z"}},
		want:    "a c y z",
	}, {
		summary: "a seed twice",
		index:   `a`,
		request: Request{Seeds: []string{"a", "a"}},
		want:    "a",
	}} {
		t.Run(test.summary, func(t *testing.T) {
			test.request.Name = "test"
			r, err := universe(t, test.index).Resolve(test.request)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(r); got != test.want {
				t.Errorf("got %s; want %s", got, test.want)
			}
		})
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		summary    string
		index      string
		request    Request
		want, hint string
		kinds      []Kind
	}{{
		summary: "seeds that do not exist, all at once, with the nearest names",
		index: `ganeti
			ganeti-htools
			lvm2
			zsh`,
		request: Request{Name: "node", Seeds: []string{"gnaeti", "lvm2", "lvm", "frobnicate"}},
		want: `cannot resolve role "node": 3 problems
  package "gnaeti" is not in the archive
  package "lvm" is not in the archive
  package "frobnicate" is not in the archive`,
		hint:  `names near to "gnaeti": ganeti; names near to "lvm": lvm2`,
		kinds: []Kind{Missing, Missing, Missing},
	}, {
		summary: "a virtual seed with several providers",
		index: `exim; Provides: mta
			postfix; Provides: mta`,
		request: Request{Name: "node", Seeds: []string{"mta"}},
		want:    `cannot resolve role "node": package "mta" is virtual, provided by exim, postfix`,
		hint:    `name one of the packages that provide "mta": exim, postfix`,
		kinds:   []Kind{Virtual},
	}, {
		summary: "asked for and excluded",
		index:   `a`,
		request: Request{Name: "node", Seeds: []string{"a"}, Excludes: []string{"a"}},
		want:    `cannot resolve role "node": package "a" is asked for and excluded`,
		kinds:   []Kind{Excluded},
	}, {
		summary: "needed and excluded",
		index: `a; Depends: b
			b; Depends: c
			c`,
		request: Request{Name: "node", Seeds: []string{"a"}, Excludes: []string{"c"}},
		want: `cannot resolve role "node": package "c" is needed and excluded
    a: Depends: b
    b: Depends: c`,
		kinds: []Kind{Excluded},
	}, {
		summary: "seeds in conflict",
		index: `a
			b; Conflicts: a`,
		request: Request{Name: "node", Seeds: []string{"a", "b"}},
		want: `cannot resolve role "node": packages "a" and "b" exclude each other
    b: Conflicts: a`,
		kinds: []Kind{Conflict},
	}, {
		summary: "dependencies in conflict",
		index: `a; Depends: x
			x; Depends: y
			y
			b; Depends: z
			z; Breaks: y (<< 2)`,
		request: Request{Name: "node", Seeds: []string{"a", "b"}},
		want: `cannot resolve role "node": packages "y" and "z" exclude each other
    b: Depends: z
    z: Breaks: y (<< 2)
    and
    a: Depends: x
    x: Depends: y`,
		kinds: []Kind{Conflict},
	}, {
		summary: "dependencies in conflict, the other way round",
		index: `a; Depends: x
			x; Depends: y
			y
			b; Depends: z
			z; Breaks: y (<< 2)`,
		request: Request{Name: "node", Seeds: []string{"b", "a"}},
		want: `cannot resolve role "node": packages "y" and "z" exclude each other
    a: Depends: x
    x: Depends: y
    and
    b: Depends: z
    z: Breaks: y (<< 2)`,
		kinds: []Kind{Conflict},
	}, {
		summary: "conflict through Provides",
		index: `exim; Provides: mta; Conflicts: mta
			postfix; Provides: mta; Conflicts: mta`,
		request: Request{Name: "service", Seeds: []string{"exim", "postfix"}},
		want: `cannot resolve role "service": packages "exim" and "postfix" exclude each other
    exim: Conflicts: mta (provided by postfix)`,
		kinds: []Kind{Conflict},
	}, {
		summary: "nothing has the version, with the way to it",
		index: `a; Depends: b
			b; Depends: c (>= 2)
			c 1.5`,
		request: Request{Name: "node", Seeds: []string{"a"}},
		want: `cannot resolve role "node": b needs c (>= 2), the archive has 1.5
    a: Depends: b
    b: Depends: c (>= 2)`,
		kinds: []Kind{Unsatisfiable},
	}, {
		summary: "nothing has the name",
		index: `a; Depends: b
			b; Depends: libfoo2
			libfoo3`,
		request: Request{Name: "node", Seeds: []string{"a"}},
		want: `cannot resolve role "node": b needs libfoo2, which the archive does not have
    a: Depends: b
    b: Depends: libfoo2`,
		hint:  `names near to "libfoo2": libfoo3`,
		kinds: []Kind{Unsatisfiable},
	}, {
		summary: "no alternative will do",
		index: `a; Depends: b | c (>= 2) | d:any
			c
			d`,
		request: Request{Name: "node", Seeds: []string{"a"}},
		want: `cannot resolve role "node": a needs b, which the archive does not have, or c (>= 2), the archive has 1, or d:any, which the archive does not have
    a: Depends: b | c (>= 2) | d:any`,
		kinds: []Kind{Unsatisfiable},
	}, {
		summary: "two problems in one role",
		index: `a; Depends: none
			b; Conflicts: c
			c`,
		request: Request{Name: "node", Seeds: []string{"a", "b", "c"}},
		want: `cannot resolve role "node": 2 problems
  a needs none, which the archive does not have
    a: Depends: none
  packages "b" and "c" exclude each other
    b: Conflicts: c`,
		kinds: []Kind{Unsatisfiable, Conflict},
	}, {
		summary: "a relation field that makes no sense",
		index:   `a; Depends: b (`,
		request: Request{Name: "node", Seeds: []string{"a"}},
		want:    `cannot resolve role "node": a 1: cannot read relations: byte 3 of "b (": "" is no comparison`,
		kinds:   []Kind{Unreadable},
	}} {
		t.Run(test.summary, func(t *testing.T) {
			_, err := universe(t, test.index).Resolve(test.request)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v; want an *Error", err)
			}
			if d := cmp.Diff(test.want, err.Error()); d != "" {
				t.Error(d)
			}
			if got := hint.Of(err); got != test.hint {
				t.Errorf("hint %q; want %q", got, test.hint)
			}
			var kinds []Kind
			for _, p := range e.Problems {
				kinds = append(kinds, p.Kind)
			}
			if d := cmp.Diff(test.kinds, kinds); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestWhy(t *testing.T) {
	u := universe(t, `
		ganeti; Depends: ganeti-3.1, lvm2 (>= 2.02)
		ganeti-3.1; Depends: lvm2, default-mta | mail-transport-agent
		lvm2 2.03; Depends: libdevmapper (>= 1)
		libdevmapper
		postfix; Provides: mail-transport-agent
		bash; Essential: yes; Pre-Depends: libc6
		libc6
		init; Priority: important
		unused`)
	r, err := u.Resolve(Request{Name: "node", Seeds: []string{"ganeti"}, Priorities: []string{"important"}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"bash", "init", "ganeti"}, r.Seeds); d != "" {
		t.Error(d)
	}
	for name, want := range map[string][]string{
		"libdevmapper": {"ganeti: asked for", "ganeti: Depends: lvm2 (>= 2.02)", "lvm2: Depends: libdevmapper (>= 1)"},
		"postfix":      {"ganeti: asked for", "ganeti: Depends: ganeti-3.1", "ganeti-3.1: Depends: default-mta | mail-transport-agent (provided by postfix)"},
		"libc6":        {"bash: Essential", "bash: Pre-Depends: libc6"},
		"init":         {"init: Priority: important"},
		"ganeti":       {"ganeti: asked for"},
		"unused":       nil,
		"unknown":      nil,
	} {
		if d := cmp.Diff(want, r.Why(name)); d != "" {
			t.Errorf("Why(%q): %s", name, d)
		}
	}
}

func TestNearest(t *testing.T) {
	u := universe(t, `
		openssh-server
		openssh-client
		qemu-system-x86
		puppet-agent
		puppetserver
		bind9`)
	for name, want := range map[string][]string{
		"opensshserver":  {"openssh-server"},
		"openssh-sevrer": {"openssh-server"},
		"puppet":         {"puppet-agent", "puppetserver"},
		"bind":           {"bind9"},
		"x":              {},
	} {
		if d := cmp.Diff(want, u.nearest(name)); d != "" {
			t.Errorf("nearest(%q): %s", name, d)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"ganeti", "gnaeti", 1}, {"lvm", "lvm2", 1}, {"kitten", "sitting", 3}, {"abc", "xyz", 3}} {
		if got := distance(test.a, test.b, 10); got != test.want {
			t.Errorf("distance(%q, %q) = %d; want %d", test.a, test.b, got, test.want)
		}
		if got := distance(test.b, test.a, 10); got != test.want {
			t.Errorf("distance(%q, %q) = %d; want %d", test.b, test.a, got, test.want)
		}
	}
	if got := distance("abcdefgh", "zzzzzzzz", 2); got != 3 {
		t.Errorf("bounded distance = %d; want 3", got)
	}
}

// FuzzResolve feeds indexes that others wrote: whatever they hold, the end is a
// closure without broken packages, or an *Error.
func FuzzResolve(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nArchitecture: amd64\nDepends: b | c (>= 2)\n\nPackage: b\nVersion: 1\nArchitecture: all\nConflicts: a\n\nPackage: c\nVersion: 2\nArchitecture: all\nProvides: a, b (= 3)\nMulti-Arch: allowed\n", "a")
	f.Add("Package: a\nVersion: 1\nArchitecture: amd64\nPre-Depends: b:any, a\nBreaks: c\n\nPackage: b\nVersion: 1\nArchitecture: all\nEssential: yes\n", "b")
	f.Fuzz(func(t *testing.T, index, seed string) {
		var pkgs []*deb.Package
		if err := deb.ScanPackages(strings.NewReader(index), func(p *deb.Package) error {
			pkgs = append(pkgs, p)
			return nil
		}); err != nil || len(pkgs) > 100 {
			return
		}
		r, err := NewUniverse("amd64", pkgs).Resolve(Request{Name: "fuzz", Seeds: []string{seed}})
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || len(e.Problems) == 0 {
				t.Fatalf("%v holds no problem", err)
			}
			return
		}
		s := &solver{u: r.u, state: r.state}
		for _, p := range r.Packages {
			if s.broken(r.u.nodes[p.Name]) {
				t.Fatalf("%s is broken", p.Name)
			}
			if r.Why(p.Name) == nil {
				t.Fatalf("nobody knows why %s is there", p.Name)
			}
		}
	})
}
