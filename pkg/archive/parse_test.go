package archive

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/deb"
)

// full returns a package all of whose fields differ from each other and from
// zero. A new field of deb.Package is seen here.
func full(n int) deb.Package {
	var p deb.Package
	v := reflect.ValueOf(&p).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(fmt.Sprintf("%s %d", v.Type().Field(i).Name, n))
		case reflect.Int64:
			f.SetInt(int64(1000*n+i) << 20)
		case reflect.Bool:
			f.SetBool(true)
		default:
			panic("field of a kind that the codec does not know")
		}
	}
	return p
}

// TestIndexCodecKeepsAllFields fails when deb.Package gets a field that
// codec.go does not write.
func TestIndexCodecKeepsAllFields(t *testing.T) {
	for _, want := range [][]deb.Package{{}, {{}}, {full(1), {Name: "x", Essential: true}, {Important: true}, full(2)}} {
		got, err := decodeIndex(string(encodeIndex(want)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

func TestDamagedParsedIndex(t *testing.T) {
	data := string(encodeIndex([]deb.Package{full(1)}))
	for n := range data {
		if _, err := decodeIndex(data[:n]); err == nil {
			t.Errorf("cut after %d bytes: no error", n)
		}
	}
	if _, err := decodeIndex(data + "x"); err == nil {
		t.Error("something after the end: no error")
	}
}

func FuzzDecodeIndex(f *testing.F) {
	f.Add([]byte(indexFormat + "\n"))
	f.Add(encodeIndex([]deb.Package{full(1), full(2)}))
	f.Add([]byte(indexFormat + "\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pkgs, err := decodeIndex(string(data))
		if err != nil {
			return
		}
		again, err := decodeIndex(string(encodeIndex(pkgs)))
		if err != nil || !reflect.DeepEqual(pkgs, again) {
			t.Errorf("read again: %v", err)
		}
	})
}

const sampleRelease = `Origin: Debian
Suite: stable
Version: 13.7
Codename: trixie
Date: Sat, 12 Sep 2026 07:55:41 UTC
Valid-Until: Sat, 19 Sep 2026 07:55:41 UTC
Acquire-By-Hash: yes
No-Support-for-Architecture-all: Packages
Architectures: all amd64
Components: main
SHA256:
 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef  1961125 main/binary-amd64/Packages
 fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210        0 main/binary-all/Packages
`

func TestParseRelease(t *testing.T) {
	r, err := parseRelease([]byte(sampleRelease))
	if err != nil {
		t.Fatal(err)
	}
	want := &release{
		suite: "stable", codename: "trixie", version: "13.7",
		date: time.Date(2026, 9, 12, 7, 55, 41, 0, time.UTC), validUntil: time.Date(2026, 9, 19, 7, 55, 41, 0, time.UTC),
		byHash: true, archs: []string{"all", "amd64"}, noAll: true,
		files: map[string]file{
			"main/binary-amd64/Packages": {"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", 1961125},
			"main/binary-all/Packages":   {"fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210", 0},
		},
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("parseRelease = %+v\nwant           %+v", r, want)
	}
	tests := []struct{ old, new, want string }{
		{"  1961125", "  -1", "cannot read Release: SHA256: bad size in line"},
		{"  1961125", "  99999999999999999999", "cannot read Release: SHA256: bad size in line"},
		{"  1961125", "", "cannot read Release: SHA256: bad line"},
		{" 0123", " 012G", "cannot read Release: SHA256: bad line"},
		{"Valid-Until: Sat,", "Valid-Until: soon,", "cannot read Release: Valid-Until: "},
		{"Codename: trixie\n", "Codename trixie\n", "cannot read Release: "},
	}
	for _, tt := range tests {
		_, err := parseRelease([]byte(strings.Replace(sampleRelease, tt.old, tt.new, 1)))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%q → %q: error %v, want %q", tt.old, tt.new, err, tt.want)
		}
	}
}

func FuzzParseRelease(f *testing.F) {
	f.Add([]byte(sampleRelease))
	f.Add([]byte("Date: x\nSHA256:\n a b c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRelease(data)
		if err != nil {
			return
		}
		for name, file := range r.files {
			if name == "" || !isSum(file.sum) || file.size < 0 {
				t.Errorf("%q: %+v", name, file)
			}
		}
		if r.date.IsZero() && !bytes.Contains(data, []byte("0001")) {
			t.Error("no date")
		}
	})
}

func FuzzAptSources(f *testing.F) {
	f.Add([]byte("deb [ signed-by=/x ] http://mirror.example/debian trixie main\n"))
	f.Add([]byte("Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, s := range append(oneLineSources(data), deb822Sources(data)...) {
			if s.uri == "" || s.suite == "" {
				t.Errorf("%+v", s)
			}
		}
	})
}

func TestContentRange(t *testing.T) {
	tests := []struct {
		in           string
		first, total int64
		ok           bool
	}{
		{"bytes 5-9/10", 5, 10, true},
		{"bytes 5-9/*", 5, -1, true},
		{"bytes 5-10/10", 0, 0, false},
		{"bytes 5-4/10", 0, 0, false},
		{"bytes */10", 0, 0, false},
		{"bytes -5-9/10", 0, 0, false},
		{"bytes 5-9", 0, 0, false},
		{"octets 5-9/10", 0, 0, false},
		{"", 0, 0, false},
	}
	for _, tt := range tests {
		first, total, ok := contentRange(tt.in)
		if ok != tt.ok || ok && (first != tt.first || total != tt.total) {
			t.Errorf("contentRange(%q) = %d, %d, %v; want %d, %d, %v", tt.in, first, total, ok, tt.first, tt.total, tt.ok)
		}
	}
}

func TestJoin(t *testing.T) {
	tests := []struct{ base, path, want string }{
		{"http://h/debian", "pool/main/g/g++/g++_4%3a1_amd64.deb", "http://h/debian/pool/main/g/g++/g++_4%253a1_amd64.deb"},
		{"http://h/debian/", "pool/a b~1.deb", "http://h/debian/pool/a%20b~1.deb"},
		{"http://u:p@h:8080", "dists/trixie/InRelease", "http://u:p@h:8080/dists/trixie/InRelease"},
		{"file:///media/a%20b", "pool/x?y#z", "file:///media/a%20b/pool/x%3Fy%23z"},
	}
	for _, tt := range tests {
		if got := join(tt.base, tt.path); got != tt.want {
			t.Errorf("join(%q, %q) = %q; want %q", tt.base, tt.path, got, tt.want)
		}
	}
}
