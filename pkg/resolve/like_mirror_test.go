//go:build realmirror

package resolve_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/resolve"
)

// TestLikeApt compares closures with what apt would install: the lists of each
// role, with each package that is only on the medium beside them, and 20
// random sets.
func TestLikeApt(t *testing.T) {
	pkgs := openArchive(t, "trixie", false, cacheDir(t))
	a := newApt(t, "trixie")
	u := resolve.NewUniverse("amd64", pkgs)
	t.Logf("%d stanzas", len(pkgs))

	roles := roleRequests(t)
	t.Run("roles", func(t *testing.T) { compare(t, u, a, roles) })

	var all []string
	for _, p := range pkgs {
		all = append(all, p.Name)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	rng := rand.New(rand.NewPCG(13, 7))
	var random []resolve.Request
	for i := range 20 {
		r := resolve.Request{Name: fmt.Sprintf("random %d", i)}
		for range 1 + rng.IntN(25) {
			r.Seeds = append(r.Seeds, all[rng.IntN(len(all))])
		}
		random = append(random, r)
	}
	t.Run("random", func(t *testing.T) { compare(t, u, a, random) })

	// Where seeds clash, directly or further down, and where a later seed
	// undoes the choice made for an earlier one.
	var clashes []resolve.Request
	for _, seeds := range []string{
		"postfix exim4", "logrotate bcron", "chrony systemd-timesyncd", "init runit-init", "init sysvinit-core",
		"systemd-sysv sysvinit-core", "linux-image-amd64 dracut", "fuse sshfs", "grub-pc grub-efi-amd64",
	} {
		clashes = append(clashes, resolve.Request{Name: seeds, Seeds: strings.Fields(seeds)})
	}
	t.Run("clashes", func(t *testing.T) { compare(t, u, a, clashes) })

	t.Run("excludes", func(t *testing.T) {
		r := roles[0]
		r.Excludes = []string{"mawk", "gawk", "dbus-user-session"}
		a.exclude(t, r.Excludes)
		compare(t, u, a, []resolve.Request{r})
	})
}

// TestSimulate makes sure that what TestLikeApt compares with is what apt's
// simulation installs.
func TestSimulate(t *testing.T) {
	a := newApt(t, "trixie")
	u := resolve.NewUniverse("amd64", openArchive(t, "trixie", false, cacheDir(t)))
	for _, r := range roleRequests(t) {
		if strings.Contains(r.Name, " with ") {
			continue
		}
		ours, err := u.Resolve(r)
		if err != nil {
			t.Fatal(err)
		}
		chosen, err := a.choose(ours.Seeds)
		if err != nil {
			t.Fatal(err)
		}
		simulated, err := a.simulate(ours.Seeds)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(simulated, chosen); d != "" {
			t.Errorf("%s: -simulated +chosen:\n%s", r.Name, d)
		}
		if d := cmp.Diff(simulated, list(ours)); d != "" {
			t.Errorf("%s: -apt +ours:\n%s", r.Name, d)
		}
		t.Logf("%s: %d packages", r.Name, len(simulated))
	}
}

// compare wants apt and us to agree on every request: on the set, or that
// there is none.
func compare(t *testing.T, u *resolve.Universe, a *apt, requests []resolve.Request) {
	same, none := 0, 0
	for _, r := range requests {
		ours, err := u.Resolve(r)
		if err != nil {
			seeds := append(essential(u, t), r.Seeds...)
			if apts, aptErr := a.choose(seeds); aptErr == nil {
				t.Errorf("%s %v: apt installs %d packages, we say: %v", r.Name, r.Seeds, len(apts), err)
				continue
			}
			same, none = same+1, none+1
			continue
		}
		apts, err := a.choose(ours.Seeds)
		if err != nil {
			t.Errorf("%s %v: we install %d packages, apt says: %v", r.Name, r.Seeds, len(ours.Packages), err)
			continue
		}
		if d := cmp.Diff(apts, list(ours)); d != "" {
			t.Errorf("%s %v: apt has %d packages, we %d (-apt +ours):\n%s", r.Name, r.Seeds, len(apts), len(ours.Packages), d)
			continue
		}
		t.Logf("%s: %d packages", r.Name, len(apts))
		same++
	}
	t.Logf("%d of %d identical; in %d of them, nothing can be installed", same, len(requests), none)
}

// roleRequests makes what a build asks for out of profiles/*.packages, and with
// each package of the role's own downloads. Our own packages are no part of
// Debian and left out.
func roleRequests(t *testing.T) []resolve.Request {
	t.Helper()
	base := words(t, "default.packages")
	files, err := filepath.Glob("../../profiles/*.packages")
	if err != nil || len(files) < 2 {
		t.Fatalf("no role lists: %v, %v", files, err)
	}
	var all []resolve.Request
	for _, f := range files {
		role := strings.TrimSuffix(filepath.Base(f), ".packages")
		r := resolve.Request{Name: role, Priorities: []string{"required", "important"}, Seeds: slices.Clone(base)}
		extra := words(t, role+".downloads")
		if role != "default" {
			r.Seeds = append(r.Seeds, words(t, role+".packages")...)
		}
		all = append(all, r)
		for _, name := range extra {
			with := r
			with.Name, with.Seeds = role+" with "+name, append(slices.Clone(r.Seeds), name)
			all = append(all, with)
		}
	}
	return all
}

// words reads a list of packages; a missing file is empty.
func words(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("../../profiles", name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var all []string
	for line := range bytes.Lines(data) {
		text, _, _ := bytes.Cut(line, []byte("#"))
		for _, word := range strings.Fields(string(text)) {
			if !strings.HasPrefix(word, "sci-") {
				all = append(all, word)
			}
		}
	}
	return all
}

// BenchmarkLikeApt measures loading the indexes and resolving the node against
// apt, both with warm caches and in turns: apt's simulation (the goal is 0.5 or
// less), and apt without its ordering of the installation, which we don't do
// either.
func BenchmarkLikeApt(b *testing.B) {
	dir := cacheDir(b)
	openArchive(b, "trixie", false, dir)
	a := newApt(b, "trixie")
	request := resolve.Request{
		Name: "node", Priorities: []string{"required", "important"},
		Seeds: []string{"linux-image-amd64", "lvm2", "openssh-server", "chrony", "ganeti", "qemu-system-x86", "drbd-utils"},
	}
	r, err := resolve.NewUniverse("amd64", openArchive(b, "trixie", true, dir)).Resolve(request)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := a.choose(r.Seeds); err != nil { // builds apt's cache
		b.Fatal(err)
	}
	var ours, resolving, simulate, choose clock
	for b.Loop() {
		ours.time(b, func() time.Duration {
			u := resolve.NewUniverse("amd64", openArchive(b, "trixie", true, dir))
			resolving.time(b, func() time.Duration {
				if _, err := u.Resolve(request); err != nil {
					b.Fatal(err)
				}
				return ownCPU(b)
			})
			return ownCPU(b)
		})
		simulate.time(b, a.cpu(b, append([]string{"install", "-s", "--no-install-recommends"}, r.Seeds...)))
		choose.time(b, a.cpu(b, append([]string{"install", "--print-uris", "-qq", "--no-install-recommends"}, r.Seeds...)))
	}
	n := float64(b.N)
	b.ReportMetric(ours.wall.Seconds()/simulate.wall.Seconds(), "wall/apt-simulate")
	b.ReportMetric(ours.cpu.Seconds()/simulate.cpu.Seconds(), "cpu/apt-simulate")
	b.ReportMetric(ours.cpu.Seconds()/choose.cpu.Seconds(), "cpu/apt-unordered")
	b.ReportMetric(ours.cpu.Seconds()*1000/n, "ours-cpu-ms")
	b.ReportMetric(resolving.cpu.Seconds()*1000/n, "resolve-cpu-ms")
	b.ReportMetric(simulate.cpu.Seconds()*1000/n, "apt-simulate-cpu-ms")
	b.ReportMetric(choose.cpu.Seconds()*1000/n, "apt-unordered-cpu-ms")
}

// clock adds up wall and processor time.
type clock struct{ wall, cpu time.Duration }

// time runs f, which returns the processor time of its process so far.
func (c *clock) time(b *testing.B, f func() time.Duration) {
	b.Helper()
	start, cpu := time.Now(), ownCPU(b)
	end := f()
	c.wall += time.Since(start)
	c.cpu += end - cpu
}

// cpu runs apt and counts its processor time as if it were ours.
func (a *apt) cpu(b *testing.B, args []string) func() time.Duration {
	return func() time.Duration {
		start := ownCPU(b)
		cmd := a.command(args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		return start + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
}

// ownCPU is the processor time of this process so far.
func ownCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
