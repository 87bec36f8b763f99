package installer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// seedBench is a medium and the root of a new service machine.
type seedBench struct {
	*testing.T
	medium, target string
	key            *pgp.Key
	files          map[string]string
}

func newSeedBench(t *testing.T) *seedBench {
	t.Helper()
	key, err := pgp.NewKey("Site", "", "root@lab.example", time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	b := &seedBench{T: t, medium: t.TempDir(), target: t.TempDir(), key: key, files: map[string]string{
		"debian/debian/dists/trixie/InRelease":                             "Codename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\n",
		"debian/debian/dists/trixie/main/binary-amd64/Packages.xz":         "packages of main",
		"debian/debian/dists/trixie/main/binary-amd64/by-hash/SHA256/1234": "packages of main",
		"debian/debian/pool/main/h/hello/hello_1_amd64.deb":                "hello",
		"debian/security/dists/trixie-security/InRelease":                  "Date: Sun, 22 Nov 2026 00:53:03 UTC\n",
		"debian/security/pool/updates/main/b/bye/bye_1+x_amd64.deb":        "bye",
		"dists/trixie/InRelease":                                           "Date: Sun, 22 Nov 2026 02:09:05 UTC\n",
		"dists/trixie/main/binary-amd64/Packages.gz":                       "packages of the site",
		"pool/main/h/hello/hello_1_amd64.deb":                              "hello",
		"pool/main/u/udeb/udeb_1_amd64.udeb":                               "a udeb",
		"pool/site/sci-agent_1_amd64.deb":                                  "the agent",
		"install/vmlinuz":                                                  "a kernel",
	}}
	b.write()
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/:\n", "etc/group": "root:x:0:\n"} {
		text += fmt.Sprintf("approx:x:%d:%d::/:\n", os.Getuid(), os.Getgid())
		if name == "etc/group" {
			text = fmt.Sprintf("root:x:0:\napprox:x:%d:\n", os.Getgid())
		}
		b.put(filepath.Join(b.target, name), text)
	}
	return b
}

func (b *seedBench) put(name, text string) {
	b.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
}

// write writes the medium and its signed list.
func (b *seedBench) write() {
	b.Helper()
	var sums strings.Builder
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		b.put(filepath.Join(b.medium, name), b.files[name])
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256([]byte(b.files[name])), name)
	}
	b.put(filepath.Join(b.medium, "SHA256SUMS"), sums.String())
	signature, err := b.key.DetachSign(strings.NewReader(sums.String()), time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), true)
	if err != nil {
		b.Fatal(err)
	}
	b.put(filepath.Join(b.medium, "SHA256SUMS.asc"), string(signature))
}

func (b *seedBench) options() SeedOptions {
	b.Helper()
	ring, err := b.key.Keyring()
	if err != nil {
		b.Fatal(err)
	}
	return SeedOptions{Medium: b.medium, Target: b.target, Keyring: ring}
}

// cache lists what is in the cache: names and contents.
func (b *seedBench) cache() map[string]string {
	b.Helper()
	got := make(map[string]string)
	root := filepath.Join(b.target, SeedDir)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		rel, _ := filepath.Rel(root, name)
		got[rel] = string(data)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return got
}

// seeded is what the cache should hold.
func (b *seedBench) seeded() map[string]string {
	want := make(map[string]string)
	for name, text := range b.files {
		switch {
		case strings.HasPrefix(name, "debian/"):
			want[strings.TrimPrefix(name, "debian/")] = text
		case strings.HasPrefix(name, "dists/"), strings.HasSuffix(name, ".deb"):
			want["site/"+name] = text
		}
	}
	return want
}

func TestSeed(t *testing.T) {
	b := newSeedBench(t)
	var done, total int64
	o := b.options()
	o.Tell = func(d, all int64) { done, total = d, all }
	if err := Seed(t.Context(), o); err != nil {
		t.Fatalf("%v\nhint: %s", err, hint.Of(err))
	}
	if diff := cmp.Diff(b.seeded(), b.cache()); diff != "" {
		t.Errorf("the cache (-want +got):\n%s", diff)
	}
	if done != total || total == 0 {
		t.Errorf("%d bytes of %d were told", done, total)
	}
	at := func(name string) os.FileInfo {
		info, err := os.Stat(filepath.Join(b.target, SeedDir, name))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	const hello = "pool/main/h/hello/hello_1_amd64.deb"
	if !os.SameFile(at("debian/"+hello), at("site/"+hello)) {
		t.Error("a package of two repositories is there twice")
	}
	// approx asks the mirror for what is newer than the file.
	if got, want := at("debian/dists/trixie/InRelease").ModTime(), time.Date(2026, 11, 21, 9, 15, 44, 0, time.UTC); !got.Equal(want) {
		t.Errorf("InRelease is of %v, want %v", got, want)
	}
	list, err := os.ReadFile(filepath.Join(b.target, SeedList))
	if err != nil || strings.Count(string(list), "\n") != len(b.seeded())+1 {
		t.Errorf("%s: %v\n%s", SeedList, err, list)
	}
	// Done is done: what the admin removes stays away.
	if err := os.Remove(filepath.Join(b.target, SeedDir, "site", hello)); err != nil {
		t.Fatal(err)
	}
	if err := Seed(t.Context(), b.options()); err != nil {
		t.Fatal(err)
	}
	if _, there := b.cache()["site/"+hello]; there {
		t.Error("a finished seed was made anew")
	}
}

// TestSeedResumed: killed at any file it goes on from there, and what half a
// write or an attacker left is replaced.
func TestSeedResumed(t *testing.T) {
	b := newSeedBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	o := b.options()
	o.Tell = func(done, _ int64) {
		if done > 60 {
			cancel()
		}
	}
	if err := Seed(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("Seed = %v; want context.Canceled", err)
	}
	if _, err := os.Stat(filepath.Join(b.target, SeedList)); err == nil {
		t.Fatal("half a seed is noted as a whole one")
	}
	b.put(filepath.Join(b.target, SeedDir, "debian/pool/main/h/hello/hello_1_amd64.deb"), "hellO")
	b.put(filepath.Join(b.target, SeedDir, "site/pool/main/h/hello/hello_1_amd64.deb"), "HELLO")
	if err := Seed(t.Context(), b.options()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.seeded(), b.cache()); diff != "" {
		t.Errorf("the cache (-want +got):\n%s", diff)
	}
}

func TestSeedRefused(t *testing.T) {
	for _, tt := range []struct {
		summary string
		change  func(b *seedBench)
		want    string
	}{
		{"a tampered package", func(b *seedBench) {
			b.put(filepath.Join(b.medium, "debian/debian/pool/main/h/hello/hello_1_amd64.deb"), "hellO")
		}, "cannot trust debian/debian/pool/main/h/hello/hello_1_amd64.deb"},
		{"a tampered index", func(b *seedBench) {
			b.put(filepath.Join(b.medium, "debian/debian/dists/trixie/InRelease"), "Codename: trixie\nDate: Sat, 21 Nov 2026 09:15:45 UTC\n")
		}, "cannot trust debian/debian/dists/trixie/InRelease"},
		{"a tampered list", func(b *seedBench) {
			name := filepath.Join(b.medium, "SHA256SUMS")
			data, err := os.ReadFile(name)
			if err != nil {
				b.Fatal(err)
			}
			b.put(name, string(data)+strings.Repeat("0", 64)+"  debian/debian/x\n")
		}, "cannot trust"},
		{"a path that leads out", func(b *seedBench) {
			b.files["debian/../../x"] = "x"
			b.write()
		}, "bad line"},
		{"a link in place of a file", func(b *seedBench) {
			name := filepath.Join(b.medium, "debian/debian/dists/trixie/InRelease")
			if err := errors.Join(os.Remove(name), os.Symlink("/etc/passwd", name)); err != nil {
				b.Fatal(err)
			}
		}, "is no file"},
		{"a file less", func(b *seedBench) {
			if err := os.Remove(filepath.Join(b.medium, "pool/site/sci-agent_1_amd64.deb")); err != nil {
				b.Fatal(err)
			}
		}, "no such file"},
		{"a medium without indexes", func(b *seedBench) {
			maps.DeleteFunc(b.files, func(name, _ string) bool { return strings.HasPrefix(name, "debian/debian/dists") })
			b.write()
		}, "the medium has no indexes of Debian"},
		{"no approx there", func(b *seedBench) {
			b.put(filepath.Join(b.target, "etc/passwd"), "root:x:0:0::/:\n")
		}, `there is no "approx"`},
	} {
		t.Run(tt.summary, func(t *testing.T) {
			b := newSeedBench(t)
			tt.change(b)
			err := Seed(t.Context(), b.options())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Seed = %v; want %q", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(b.target, SeedList)); err == nil {
				t.Error("a refused seed is noted as a whole one")
			}
		})
	}
}
