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

	t.Run("excludes", func(t *testing.T) {
		r := roles[0]
		r.Excludes = []string{"mawk", "gawk", "dbus-user-session"}
		a.exclude(t, r.Excludes)
		compare(t, u, a, []resolve.Request{r})
	})
}

// compare wants apt and us to agree on every request: on the set, or that
// there is none.
func compare(t *testing.T, u *resolve.Universe, a *apt, requests []resolve.Request) {
	same, none := 0, 0
	for _, r := range requests {
		ours, err := u.Resolve(r)
		if err != nil {
			seeds := append(essential(u, t), r.Seeds...)
			if apts, aptErr := a.simulate(seeds); aptErr == nil {
				t.Errorf("%s %v: apt installs %d packages, we say: %v", r.Name, r.Seeds, len(apts), err)
				continue
			}
			same, none = same+1, none+1
			continue
		}
		apts, err := a.simulate(ours.Seeds)
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
// apt's own simulation, both with warm caches and in turns. The ratios are
// what matters: the goal is 0.5 or less.
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
	simulate := append([]string{"install", "-s", "--no-install-recommends"}, r.Seeds...)
	if out, err := a.run(simulate...); err != nil { // builds apt's cache
		b.Fatalf("%v\n%s", err, out)
	}
	var ours, apts, oursCPU, aptsCPU, resolving time.Duration
	for b.Loop() {
		start, cpu := time.Now(), ownCPU(b)
		u := resolve.NewUniverse("amd64", openArchive(b, "trixie", true, dir))
		resolveStart := time.Now()
		if _, err := u.Resolve(request); err != nil {
			b.Fatal(err)
		}
		resolving += time.Since(resolveStart)
		ours, oursCPU = ours+time.Since(start), oursCPU+ownCPU(b)-cpu

		start = time.Now()
		cmd := a.command(simulate...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		apts, aptsCPU = apts+time.Since(start), aptsCPU+cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	}
	b.ReportMetric(ours.Seconds()/apts.Seconds(), "wall/apt")
	b.ReportMetric(oursCPU.Seconds()/aptsCPU.Seconds(), "cpu/apt")
	b.ReportMetric(ours.Seconds()*1000/float64(b.N), "ours-ms")
	b.ReportMetric(resolving.Seconds()*1000/float64(b.N), "resolve-ms")
	b.ReportMetric(apts.Seconds()*1000/float64(b.N), "apt-ms")
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
