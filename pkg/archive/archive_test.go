package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/archive/testarchive"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// options opens the archive at url, a day after its date, with little patience.
func options(t *testing.T, a *testarchive.Archive, url string) archive.Options {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return archive.Options{
		Mirrors:  archive.Mirrors{Main: url, Security: url},
		Codename: "trixie", Keyring: a.Keyring(t), Cache: c, Now: testarchive.Date().AddDate(0, 0, 1),
		Retries: 2, Backoff: time.Millisecond, Stall: 5 * time.Second,
	}
}

func list(a *archive.Archive) string {
	var b strings.Builder
	for _, p := range a.Packages() {
		fmt.Fprintf(&b, "%s %s %s %s %s\n", p.Pocket, p.Kind, p.Name, p.Version, p.Architecture)
	}
	return b.String()
}

const wantAll = `trixie deb hello 2.10-5 amd64
trixie deb libhello1 1.0-1 amd64
trixie deb hello-doc 2.10-5 all
trixie udeb hello-udeb 2.10-5 amd64
trixie deb hello-firmware 1 amd64
trixie-updates deb tzdata 2026f-0 all
trixie-security deb libhello1 1.0-1+deb13u1 amd64
`

func TestOpen(t *testing.T) {
	tests := []struct {
		summary string
		change  func(*testarchive.Suite)
		want    string
	}{
		{"as it is", func(*testarchive.Suite) {}, wantAll},
		{"without by-hash", func(s *testarchive.Suite) { s.ByHash = false }, wantAll},
		{"xz only", func(s *testarchive.Suite) { s.Compressions = []string{".xz"} }, wantAll},
		{"uncompressed only", func(s *testarchive.Suite) { s.Compressions = []string{""} }, wantAll},
		{"gz is listed, the mirror holds xz only", func(s *testarchive.Suite) {
			s.Compressions, s.Listed = []string{".xz"}, []string{"", ".gz"}
		}, wantAll},
		{"Release and Release.gpg", func(s *testarchive.Suite) { s.Detached = true }, wantAll},
		{"packages for all in their own index", func(s *testarchive.Suite) { s.AllApart = true }, `trixie deb hello 2.10-5 amd64
trixie deb libhello1 1.0-1 amd64
trixie deb hello-doc 2.10-5 all
trixie udeb hello-udeb 2.10-5 amd64
trixie deb hello-firmware 1 amd64
trixie-updates deb tzdata 2026f-0 all
trixie-security deb libhello1 1.0-1+deb13u1 amd64
`},
		{"one file in two pockets is there once", func(s *testarchive.Suite) {
			if s.Dir == "trixie-updates" {
				s.Packages = append(s.Packages, testarchive.Deb("libhello1", "1.0-1", "amd64"))
			}
		}, wantAll},
		{"a pocket without a component", func(s *testarchive.Suite) {
			if s.Dir == "trixie-updates" {
				s.Components = []string{"main"}
			}
		}, wantAll},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			ta := testarchive.New(t)
			for _, s := range ta.Suites {
				tt.change(s)
			}
			o := options(t, ta, ta.Serve(t))
			for _, how := range []string{"cold", "warm"} {
				a, err := archive.Open(t.Context(), o)
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				if diff := cmp.Diff(tt.want, list(a)); diff != "" {
					t.Errorf("%s: packages (-want +got):\n%s", how, diff)
				}
			}
		})
	}
}

// indexesOf are the files that apt asks a pocket for.
func indexesOf(files map[string][]byte, dir string) (list []archive.Index) {
	for _, name := range []string{
		"main/binary-amd64/Packages.xz", "main/i18n/Translation-en.xz",
		"non-free-firmware/binary-amd64/Packages.xz", "non-free-firmware/i18n/Translation-en.xz",
	} {
		data := files["dists/"+dir+"/"+name]
		list = append(list, archive.Index{Path: name, SHA256: digest(data), Size: int64(len(data))})
	}
	return list
}

// TestIndexes: in the form that is listed, none for an archive that apt cannot
// ask for an InRelease.
func TestIndexes(t *testing.T) {
	for _, tt := range []struct {
		summary string
		change  func(*testarchive.Suite)
		want    []string
	}{
		{"gz only", func(s *testarchive.Suite) { s.Compressions = []string{".gz"} }, []string{
			"main/binary-amd64/Packages.gz", "main/i18n/Translation-en.gz",
			"non-free-firmware/binary-amd64/Packages.gz", "non-free-firmware/i18n/Translation-en.gz"}},
		{"all apart", func(s *testarchive.Suite) {
			s.AllApart, s.Components = true, []string{"main"}
			s.Packages = slices.DeleteFunc(s.Packages, func(p *testarchive.Package) bool { return p.Component != "" && p.Component != "main" })
		}, []string{
			"main/binary-amd64/Packages.xz", "main/binary-all/Packages.xz", "main/i18n/Translation-en.xz"}},
		{"Release and Release.gpg", func(s *testarchive.Suite) { s.Detached = true }, nil},
	} {
		ta := testarchive.New(t)
		for _, s := range ta.Suites {
			tt.change(s)
		}
		o := options(t, ta, ta.Serve(t))
		o.Components = ta.Suites[0].Components
		a, err := archive.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range a.Releases()[0].Indexes {
			got = append(got, x.Path)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: indexes (-want +got):\n%s", tt.summary, diff)
		}
	}
}

func TestReleasesAndFetch(t *testing.T) {
	ta := testarchive.New(t)
	url := ta.Serve(t)
	o := options(t, ta, url)
	o.Updates = url + "/" // a slash too many does no harm
	a, err := archive.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	files, err := ta.Render()
	if err != nil {
		t.Fatal(err)
	}
	var want []archive.Release
	for _, s := range ta.Suites {
		name := "dists/" + s.Dir + "/InRelease"
		want = append(want, archive.Release{
			Pocket: s.Dir, Suite: s.Suite, Codename: s.Codename, Version: s.Version, SHA256: digest(files[name]),
			Date: s.Date, ValidUntil: s.ValidUntil, URL: url + "/" + name, Size: int64(len(files[name])),
			Indexes: indexesOf(files, s.Dir),
		})
	}
	if diff := cmp.Diff(want, a.Releases()); diff != "" {
		t.Errorf("Releases (-want +got):\n%s", diff)
	}
	var items []archive.Item
	for _, p := range a.Packages() {
		items = append(items, p.Item())
	}
	f := archive.NewFetcher(o)
	if err := f.Fetch(t.Context(), append(items, items...)); err != nil {
		t.Fatal(err)
	}
	for _, p := range a.Packages() {
		path, ok := o.Cache.Path(p.SHA256)
		if !ok {
			t.Errorf("%s is not in the cache", p.Name)
			continue
		}
		file, err := deb.Open(path)
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		if c, err := file.Control(); err != nil || c.Get("Package") != p.Name {
			t.Errorf("%s holds %q, %v", p.Name, c.Get("Package"), err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A mirror may be a directory, say a mounted medium.
func TestFileMirror(t *testing.T) {
	ta := testarchive.New(t)
	files, err := ta.Render()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "a medium")
	if err := os.CopyFS(dir, testarchive.FS(files)); err != nil {
		t.Fatal(err)
	}
	o := options(t, ta, "file://"+strings.ReplaceAll(dir, " ", "%20"))
	a, err := archive.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantAll, list(a)); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	var items []archive.Item
	for _, p := range a.Packages() {
		items = append(items, p.Item())
	}
	if err := os.Remove(filepath.Join(dir, filepath.FromSlash(a.Packages()[0].Filename))); err != nil {
		t.Fatal(err)
	}
	err = archive.NewFetcher(o).Fetch(t.Context(), items)
	if got := archive.NotFound(err); len(got) != 1 || got[0] != "hello 2.10-5" {
		t.Errorf("NotFound = %q (%v), want hello alone", got, err)
	}
}

// An archive opened once can be opened offline, an unknown one cannot.
func TestOffline(t *testing.T) {
	ta := testarchive.New(t)
	files, err := ta.Render()
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(testarchive.Handler(files))
	o := options(t, ta, srv.URL)
	if _, err := archive.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	srv.Close()
	o.Offline = true
	a, err := archive.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantAll, list(a)); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	var items []archive.Item
	for _, p := range a.Packages() {
		items = append(items, p.Item())
	}
	want := "cannot fetch hello 2.10-5, libhello1 1.0-1, hello-doc 2.10-5, hello-udeb 2.10-5, hello-firmware 1 and 2 more: not in the cache, and offline"
	if err := archive.NewFetcher(o).Fetch(t.Context(), items); err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	o.Codename = "forky"
	want = "cannot open archive forky: cannot fetch URL/dists/forky/InRelease: not in the cache, and offline"
	o.Updates, o.Security = archive.None, archive.None
	if _, err := archive.Open(t.Context(), o); err == nil || strings.ReplaceAll(err.Error(), srv.URL, "URL") != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

// TestTampered changes one thing a row, and wants a certain error. URL stands
// for the mirror, KEY for the archive's key.
func TestTampered(t *testing.T) {
	other, err := pgp.NewKey("Other", "", "other@example.org", testarchive.Date().AddDate(-1, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	final := func(suffix string, change func([]byte) []byte) func(string, []byte) []byte {
		return func(path string, data []byte) []byte {
			if strings.HasSuffix(path, suffix) {
				return change(bytes.Clone(data))
			}
			return data
		}
	}
	gone := func([]byte) []byte { return nil }
	index := func(old, new string) func(string, string) string {
		return func(path, text string) string {
			if path != "main/binary-amd64/Packages" {
				return text
			}
			return strings.Replace(text, old, new, 1)
		}
	}
	release := func(old, new string) func(string) string {
		return func(text string) string { return strings.Replace(text, old, new, 1) }
	}
	stanza := func(name, field, value string) func(*testarchive.Suite) {
		return func(s *testarchive.Suite) {
			s.Package(name).Stanza = deb.Control{{Name: field, Value: value}}
		}
	}
	tests := []struct {
		summary string
		suite   string // empty means trixie
		change  func(*testarchive.Suite)
		want    string
		hint    string // part of it
	}{{
		summary: "one word of InRelease altered after signing",
		change: func(s *testarchive.Suite) {
			s.Final = final("/InRelease", func(b []byte) []byte { return bytes.Replace(b, []byte("Suite: stable"), []byte("Suite: stubble"), 1) })
		},
		want: "cannot open archive trixie: URL/dists/trixie/InRelease: cannot verify signature: signature does not match the content: KEY Test archive (not for use) <test@example.org>",
	}, {
		summary: "signed by another key",
		change:  func(s *testarchive.Suite) { s.Key = other },
		want:    "cannot open archive trixie: URL/dists/trixie/InRelease: cannot verify signature: signed by a key that is not in the keyring: OTHER",
	}, {
		summary: "detached signature by another key",
		change:  func(s *testarchive.Suite) { s.Key, s.Detached = other, true },
		want:    "cannot open archive trixie: URL/dists/trixie/Release: cannot verify signature: signed by a key that is not in the keyring: OTHER",
	}, {
		summary: "unsigned text in place of InRelease",
		change: func(s *testarchive.Suite) {
			s.Final = final("/InRelease", func(b []byte) []byte {
				_, text, _ := bytes.Cut(b, []byte("\n\n"))
				text, _, _ = bytes.Cut(text, []byte("-----BEGIN"))
				return text
			})
		},
		want: "cannot open archive trixie: URL/dists/trixie/InRelease: cannot verify signature: not signed",
	}, {
		summary: "a field slipped in before the signed message",
		change: func(s *testarchive.Suite) {
			s.Final = final("/InRelease", func(b []byte) []byte { return append([]byte("Codename: evil\n\n"), b...) })
		},
		want: "cannot open archive trixie: URL/dists/trixie/InRelease: cannot verify signature: not signed",
	}, {
		summary: "a field slipped in after the signature",
		change: func(s *testarchive.Suite) {
			s.Final = final("/InRelease", func(b []byte) []byte { return append(b, "Codename: evil\n"...) })
		},
		want: "cannot open archive trixie: URL/dists/trixie/InRelease: cannot verify signature: malformed signature: text after the signature",
	}, {
		summary: "Release without any signature",
		change:  func(s *testarchive.Suite) { s.Key = nil },
		want:    "cannot open archive trixie: URL/dists/trixie/Release has no signature: neither InRelease nor Release.gpg is there",
	}, {
		summary: "no Release file at all",
		change:  func(s *testarchive.Suite) { s.Final = final("/InRelease", gone) },
		want:    "cannot open archive trixie: there is neither InRelease nor Release at URL/dists/trixie/",
		hint:    "check the mirror's URL",
	}, {
		summary: "no Release file of a pocket that one may do without",
		suite:   "trixie-updates",
		change:  func(s *testarchive.Suite) { s.Final = final("/InRelease", gone) },
		want:    "cannot open archive trixie-updates: there is neither InRelease nor Release at URL/dists/trixie-updates/",
		hint:    `a mirror "none" leaves the pocket out`,
	}, {
		summary: "truncated InRelease",
		change: func(s *testarchive.Suite) {
			s.Final = final("/InRelease", func(b []byte) []byte { return b[:len(b)/2] })
		},
		want: "cannot open archive trixie: URL/dists/trixie/InRelease: cannot verify signature: malformed signature: no complete clearsigned message",
	}, {
		summary: "another release's genuine file in its place",
		change:  func(s *testarchive.Suite) { s.Codename, s.Suite = "bookworm", "oldstable" },
		want:    `cannot open archive trixie: URL/dists/trixie/InRelease: the Release file is for codename "bookworm", want "trixie"`,
		hint:    "check the mirror's URL",
	}, {
		summary: "expired Valid-Until",
		suite:   "trixie-security",
		change:  func(s *testarchive.Suite) { s.ValidUntil = s.Date.Add(time.Hour) },
		want:    "cannot open archive trixie-security: URL/dists/trixie-security/InRelease: the Release file expired at 2026-09-12 08:55 UTC, and it is 2026-09-13 07:55 UTC",
		hint:    "the mirror is no longer updated",
	}, {
		summary: "dated ahead of the clock",
		change: func(s *testarchive.Suite) {
			s.SignedAt = s.Date
			s.Date = s.Date.AddDate(0, 0, 3)
		},
		want: "cannot open archive trixie: URL/dists/trixie/InRelease: the Release file is dated 2026-09-15 07:55 UTC, and it is 2026-09-13 07:55 UTC",
		hint: "clock",
	}, {
		summary: "no date",
		change:  func(s *testarchive.Suite) { s.Release = release("Date: ", "Datum: ") },
		want:    `cannot open archive trixie: URL/dists/trixie/InRelease: cannot read Release: Date: "" is no date in UTC`,
	}, {
		summary: "a date of unknown zone",
		change:  func(s *testarchive.Suite) { s.Release = release("07:55:41 UTC", "07:55:41 CEST") },
		want:    `cannot open archive trixie: URL/dists/trixie/InRelease: cannot read Release: Date: "Sat, 12 Sep 2026 07:55:41 CEST" is no date in UTC`,
	}, {
		summary: "only MD5 sums",
		change:  func(s *testarchive.Suite) { s.Release = release("SHA256:", "MD5Sum:") },
		want:    `cannot open archive trixie: URL/dists/trixie/InRelease: cannot read Release: SHA256: no files listed`,
	}, {
		summary: "architecture missing",
		change: func(s *testarchive.Suite) {
			s.Release = release("Architectures: all amd64 arm64", "Architectures: all arm64")
		},
		want: `cannot open archive trixie: URL/dists/trixie/InRelease: the archive has no architecture "amd64", only all, arm64`,
	}, {
		summary: "component missing",
		change:  func(s *testarchive.Suite) { s.Components, s.Packages = []string{"main"}, s.Packages[:2] },
		want:    `cannot open archive trixie: URL/dists/trixie/InRelease: the archive lists no non-free-firmware/binary-amd64/Packages`,
		hint:    "check the mirror's URL",
	}, {
		summary: "index of the wrong size",
		change: func(s *testarchive.Suite) {
			s.Compressions, s.ByHash = []string{".gz"}, false
			s.Final = final("main/binary-amd64/Packages.gz", func(b []byte) []byte { return append(b, 0) })
		},
		want: "cannot open archive trixie: cannot fetch trixie main/binary-amd64/Packages.gz from URL/dists/trixie/main/binary-amd64/Packages.gz: not the file that the index names: N bytes, want N",
		hint: "the mirror is being updated",
	}, {
		summary: "index altered, same size",
		change: func(s *testarchive.Suite) {
			s.Compressions, s.ByHash = []string{".gz"}, false
			s.Final = final("main/binary-amd64/Packages.gz", func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		},
		want: "cannot open archive trixie: cannot fetch trixie main/binary-amd64/Packages.gz from URL/dists/trixie/main/binary-amd64/Packages.gz: not the file that the index names: SHA-256 is SUM, want SUM",
		hint: "the mirror is being updated",
	}, {
		summary: "index gone",
		change: func(s *testarchive.Suite) {
			s.ByHash, s.Compressions, s.Listed = false, nil, []string{"", ".gz", ".xz"}
		},
		want: "cannot open archive trixie: cannot fetch trixie main/binary-amd64/Packages: the mirror does not have it: URL/dists/trixie/main/binary-amd64/Packages\n" +
			"cannot fetch trixie main/debian-installer/binary-amd64/Packages: the mirror does not have it: URL/dists/trixie/main/debian-installer/binary-amd64/Packages\n" +
			"cannot fetch trixie non-free-firmware/binary-amd64/Packages: the mirror does not have it: URL/dists/trixie/non-free-firmware/binary-amd64/Packages",
		hint: "the mirror is being updated",
	}, {
		summary: "compressed and plain index differ",
		change: func(s *testarchive.Suite) {
			s.Release = func(text string) string {
				lines := strings.SplitAfter(text, "\n")
				for i, l := range lines {
					if strings.HasSuffix(l, " main/binary-amd64/Packages\n") {
						lines[i] = " " + strings.Repeat("0", 64) + l[65:]
					}
				}
				return strings.Join(lines, "")
			}
		},
		want: "cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: unpacked: SHA-256 is SUM, want SUM",
	}, {
		summary: "a decompression bomb",
		change: func(s *testarchive.Suite) {
			s.Release = func(text string) string {
				lines := strings.SplitAfter(text, "\n")
				for i, l := range lines {
					if strings.HasSuffix(l, " main/binary-amd64/Packages\n") {
						lines[i] = l[:66] + "12 main/binary-amd64/Packages\n"
					}
				}
				return strings.Join(lines, "")
			}
		},
		want: "cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: unpacks to more than the 12 bytes listed",
	}, {
		summary: "an index is listed twice",
		change: func(s *testarchive.Suite) {
			s.Release = func(text string) string {
				return strings.TrimRight(text, "\n") + "\n " + strings.Repeat("0", 64) + " 12 main/binary-amd64/Packages.gz\n"
			}
		},
		want: `cannot open archive trixie: URL/dists/trixie/InRelease: cannot read Release: SHA256: "main/binary-amd64/Packages.gz" is there twice`,
	}, {
		summary: "path traversal in Filename",
		change:  stanza("hello", "Filename", "pool/../../../etc/passwd"),
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: package "hello": bad Filename "pool/../../../etc/passwd"`,
	}, {
		summary: "absolute Filename",
		change:  stanza("hello", "Filename", "/etc/passwd"),
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: package "hello": bad Filename "/etc/passwd"`,
	}, {
		summary: "path traversal in Package",
		change:  stanza("hello", "Package", "../hello"),
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: package "../hello": bad name`,
	}, {
		summary: "path traversal in Version",
		change:  stanza("hello", "Version", "1/../../x"),
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: package "hello": bad Version "1/../../x"`,
	}, {
		summary: "no SHA256 in the index",
		change:  stanza("hello", "SHA256", ""),
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: package "hello": no SHA256`,
	}, {
		summary: "a SHA256 that is none",
		change:  stanza("hello", "SHA256", "../../etc/passwd"),
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: package "hello": bad SHA256 "../../etc/passwd"`,
	}, {
		summary: "size 0",
		change:  stanza("hello", "Size", "0"),
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: package "hello": bad Size 0`,
	}, {
		summary: "a package for another architecture",
		change:  stanza("hello", "Architecture", "arm64"),
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: package "hello": field Architecture is "arm64" in the index of "amd64"`,
	}, {
		summary: "an index that is none",
		change:  func(s *testarchive.Suite) { s.Index = index("Package: hello\n", "hello\n") },
		want:    `cannot open archive trixie: URL/dists/trixie/main/binary-amd64/Packages.gz: cannot read Packages: line 1: no field name in "hello"`,
	}}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			ta := testarchive.New(t)
			if tt.suite == "" {
				tt.suite = "trixie"
			}
			tt.change(ta.Suite(tt.suite))
			url := ta.Serve(t)
			o := options(t, ta, url)
			_, err := archive.Open(t.Context(), o)
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.NewReplacer(url, "URL", keyID(ta.Key), "KEY", keyID(other), "OTHER").Replace(err.Error())
			got = maskNumbers(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if h := hint.Of(err); !strings.Contains(h, tt.hint) || (h != "" && tt.hint == "" && !strings.Contains(h, "clock")) {
				t.Errorf("hint %q, want %q", h, tt.hint)
			}
		})
	}
}

// Nothing that came wrong stays in the cache under its wanted digest, and the
// wanted file can be had afterwards.
func TestTamperedPackage(t *testing.T) {
	ta := testarchive.New(t)
	files, err := ta.Render()
	if err != nil {
		t.Fatal(err)
	}
	var bad atomic.Bool
	good, evil := testarchive.Handler(files), tampered(files)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if bad.Load() {
			evil.ServeHTTP(w, r)
		} else {
			good.ServeHTTP(w, r)
		}
	}))
	defer srv.Close()
	o := options(t, ta, srv.URL)
	a, err := archive.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	p := a.Packages()[0]
	bad.Store(true)
	err = archive.NewFetcher(o).Fetch(t.Context(), []archive.Item{p.Item()})
	want := "cannot fetch hello 2.10-5 from URL/pool/main/h/hello/hello_2.10-5_amd64.deb: not the file that the index names: SHA-256 is SUM, want SUM"
	if err == nil || maskNumbers(strings.ReplaceAll(err.Error(), srv.URL, "URL")) != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
	if _, ok := o.Cache.Path(p.SHA256); ok {
		t.Error("a wrong file is in the cache")
	}
	parts, err := fs.Glob(os.DirFS(o.Cache.Dir()), "part/*")
	if err != nil || len(parts) != 0 {
		t.Errorf("partial files are left: %q, %v", parts, err)
	}
	bad.Store(false)
	if err := archive.NewFetcher(o).Fetch(t.Context(), []archive.Item{p.Item()}); err != nil {
		t.Error(err)
	}
}

// tampered serves packages with one bit changed.
func tampered(files map[string][]byte) http.Handler {
	changed := make(map[string][]byte, len(files))
	for name, data := range files {
		if strings.HasPrefix(name, "pool/") {
			data = bytes.Clone(data)
			data[len(data)/2] ^= 1
		}
		changed[name] = data
	}
	return testarchive.Handler(changed)
}

// A mirror that is updated between InRelease and the index is read again; one
// that never becomes consistent is named.
func TestMirrorChangesUnderTheRun(t *testing.T) {
	for _, byHash := range []bool{true, false} {
		old, new := testarchive.New(t), testarchive.New(t)
		new.Key = old.Key
		for _, s := range append(old.Suites, new.Suites...) {
			s.ByHash, s.Key = byHash, old.Key
		}
		s := new.Suite("trixie")
		s.Date = s.Date.Add(time.Hour)
		s.Packages = append(s.Packages, testarchive.Deb("late", "1", "all"))
		before, err := old.Render()
		if err != nil {
			t.Fatal(err)
		}
		after, err := new.Render()
		if err != nil {
			t.Fatal(err)
		}
		var served atomic.Bool
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/dists/trixie/InRelease" && !served.Swap(true) {
				testarchive.Handler(before).ServeHTTP(w, r)
				return
			}
			testarchive.Handler(after).ServeHTTP(w, r)
		}))
		defer srv.Close()
		a, err := archive.Open(t.Context(), options(t, old, srv.URL))
		if err != nil {
			t.Errorf("by-hash %v: %v", byHash, err)
			continue
		}
		if !strings.Contains(list(a), "trixie deb late 1 all\n") {
			t.Errorf("by-hash %v: the new package is not there:\n%s", byHash, list(a))
		}
	}
}

// A proxy that keeps one compression of an index from before a mirror's update
// does not matter while another one is what the Release file names.
func TestOneCompressionIsOld(t *testing.T) {
	a := testarchive.New(t)
	for _, s := range a.Suites {
		s.ByHash, s.Compressions = false, []string{".gz", ".xz"}
	}
	files, err := a.Render()
	if err != nil {
		t.Fatal(err)
	}
	const name = "dists/trixie/main/binary-amd64/Packages.gz"
	files[name] = append(files[name], 0)
	srv := httptest.NewServer(testarchive.Handler(files))
	defer srv.Close()
	opened, err := archive.Open(t.Context(), options(t, a, srv.URL))
	if err != nil {
		t.Fatal(err)
	}
	if got := list(opened); !strings.Contains(got, "trixie deb hello ") {
		t.Errorf("the packages of the other compression are not there:\n%s", got)
	}
}

// Partial mirrors update the installer's packages late: dists/trixie is new but
// for them, dists/stable as old as they are.
func TestOldUdebs(t *testing.T) {
	const index = "dists/trixie/main/debian-installer/binary-amd64/Packages"
	const wrong = "cannot fetch trixie main/debian-installer/binary-amd64/Packages.gz"
	for _, tt := range []struct {
		summary string
		change  func(stable *testarchive.Suite, files map[string][]byte)
		want    string // of the error
	}{
		{"whole under the other name", nil, ""},
		{"not there", func(s *testarchive.Suite, _ map[string][]byte) { s.Dir = "elsewhere" }, wrong},
		{"of another key", func(s *testarchive.Suite, _ map[string][]byte) { s.Key = testarchive.New(t).Key }, wrong},
		{"not signed", func(s *testarchive.Suite, _ map[string][]byte) { s.Key = nil }, wrong},
		{"of another release", func(s *testarchive.Suite, _ map[string][]byte) { s.Codename = "bookworm" }, wrong},
		{"expired", func(s *testarchive.Suite, _ map[string][]byte) { s.ValidUntil = s.Date.Add(time.Hour) }, wrong},
		{"altered", func(s *testarchive.Suite, _ map[string][]byte) {
			s.Final = func(path string, data []byte) []byte {
				if strings.Contains(path, "debian-installer") {
					return append(data, 0)
				}
				return data
			}
		}, wrong},
		{"debs are old, too", func(_ *testarchive.Suite, files map[string][]byte) {
			for _, ext := range []string{"", ".gz", ".xz"} {
				files["dists/trixie/main/binary-amd64/Packages"+ext] = []byte("old")
			}
		}, "cannot fetch trixie main/binary-amd64/Packages.gz"},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			a := testarchive.New(t)
			now := a.Suite("trixie")
			then := *now
			then.Dir = "stable"
			now.Date, now.Version, now.ByHash = now.Date.Add(time.Hour), "13.8", false
			now.Packages = append(now.Packages[:len(now.Packages)-1:len(now.Packages)-1], testarchive.Deb("late", "1", "all"))
			newer := testarchive.Deb("hello-udeb", "2.10-6", "amd64")
			newer.Udeb = true
			now.Packages = append(now.Packages, newer)
			tampered := make(map[string][]byte)
			if tt.change != nil {
				tt.change(&then, tampered)
			}
			a.Suites = append(a.Suites, &then)
			files, err := a.Render()
			if err != nil {
				t.Fatal(err)
			}
			for name, data := range tampered {
				files[name] = data
			}
			for _, ext := range []string{"", ".gz", ".xz"} {
				files[index+ext] = []byte("as it was before the update")
			}
			srv := httptest.NewServer(testarchive.Handler(files))
			defer srv.Close()
			o := options(t, a, srv.URL)
			for _, how := range []string{"cold", "warm", "offline"} {
				o.Offline = how == "offline"
				opened, err := archive.Open(t.Context(), o)
				if tt.want != "" {
					if !o.Offline && (err == nil || !strings.Contains(err.Error(), tt.want)) || err == nil {
						t.Errorf("%s: %v, want %q", how, err, tt.want)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", how, err)
				}
				got := list(opened)
				for _, line := range []string{"trixie deb late 1 all\n", "stable udeb hello-udeb 2.10-5 amd64\n"} {
					if !strings.Contains(got, line) {
						t.Errorf("%s: no %q in\n%s", how, line, got)
					}
				}
				var pockets []string
				for _, r := range opened.Releases() {
					pockets = append(pockets, r.Pocket+" "+r.Version)
				}
				if d := cmp.Diff([]string{"trixie 13.8", "stable 13.7", "trixie-updates 13-updates", "trixie-security 13"}, pockets); d != "" {
					t.Errorf("%s: releases (-want +got):\n%s", how, d)
				}
				const note = `the mirror does not have the installer's packages of trixie 13.8; taken as of trixie 13.7, which it has as "stable"`
				if d := cmp.Diff([]string{note}, opened.Notes()); d != "" {
					t.Errorf("%s: notes (-want +got):\n%s", how, d)
				}
			}
		})
	}
}

// Like apt we do not go back to an older Release file of the same mirror.
func TestOlderReleaseIsNotTaken(t *testing.T) {
	ta := testarchive.New(t)
	before, err := ta.Render()
	if err != nil {
		t.Fatal(err)
	}
	s := ta.Suite("trixie")
	s.Date = s.Date.Add(time.Hour)
	s.Packages = append(s.Packages, testarchive.Deb("late", "1", "all"))
	after, err := ta.Render()
	if err != nil {
		t.Fatal(err)
	}
	var files atomic.Pointer[map[string][]byte]
	files.Store(&after)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		testarchive.Handler(*files.Load()).ServeHTTP(w, r)
	}))
	defer srv.Close()
	o := options(t, ta, srv.URL)
	for _, f := range []*map[string][]byte{&after, &before} {
		files.Store(f)
		a, err := archive.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Releases()[0].Date; !got.Equal(s.Date) {
			t.Errorf("Release of %v, want %v", got, s.Date)
		}
	}
}

// Damage to what the cache holds is found and mended.
func TestDamagedCache(t *testing.T) {
	ta := testarchive.New(t)
	o := options(t, ta, ta.Serve(t))
	if _, err := archive.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(filepath.Join(o.Cache.Dir(), "sha256"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, data[:len(data)-1], 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantAll, list(a)); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
}

func TestBadOptions(t *testing.T) {
	ta := testarchive.New(t)
	tests := []struct {
		change func(*archive.Options)
		want   string
	}{
		{func(o *archive.Options) { o.Codename = "" }, `cannot open archive: bad codename, architecture or component ""`},
		{func(o *archive.Options) { o.Codename = "../trixie" }, `cannot open archive: bad codename, architecture or component "../trixie"`},
		{func(o *archive.Options) { o.Components = []string{"main", ""} }, `cannot open archive: bad codename, architecture or component ""`},
		{func(o *archive.Options) { o.Cache = nil }, `cannot open archive: no cache given`},
		{func(o *archive.Options) { o.Main = "ftp://ftp.debian.org/debian" }, `cannot open archive: bad URL "ftp://ftp.debian.org/debian": want http://HOST/PATH, https://HOST/PATH or file:///PATH`},
		{func(o *archive.Options) { o.Main = "http://user:secret@/x?y" }, `cannot open archive: bad URL "http://user:xxxxx@/x?y"`},
		{func(o *archive.Options) { o.Main = "trixie" }, `cannot open archive: bad URL "trixie": want http://HOST/PATH, https://HOST/PATH or file:///PATH`},
	}
	for _, tt := range tests {
		o := options(t, ta, "http://127.0.0.1:1")
		tt.change(&o)
		if _, err := archive.Open(t.Context(), o); err == nil || err.Error() != tt.want {
			t.Errorf("error %v\nwant  %s", err, tt.want)
		}
	}
	o := options(t, ta, ta.Serve(t))
	o.Codename = "stable"
	ta.Suites[0].Dir = "stable"
	o.Main = ta.Serve(t)
	o.Updates, o.Security = archive.None, archive.None
	_, err := archive.Open(t.Context(), o)
	want := `cannot open archive stable: URL/dists/stable/InRelease: "stable" is a suite, its codename is "trixie"`
	if err == nil || strings.ReplaceAll(err.Error(), o.Main, "URL") != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

func TestCancelled(t *testing.T) {
	ta := testarchive.New(t)
	o := options(t, ta, ta.Serve(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := archive.Open(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context canceled", err)
	}
}
