package resolve

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
)

func expUniverse(t testing.TB) *Universe {
	if os.Getenv("EXP") == "" {
		t.Skip("experiment")
	}
	f, err := os.Open("/tmp/s/Packages.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var pkgs []*deb.Package
	t0 := time.Now()
	if err := deb.ScanPackages(f, func(p *deb.Package) error { pkgs = append(pkgs, p); return nil }); err != nil {
		t.Fatal(err)
	}
	t1 := time.Now()
	u := NewUniverse("amd64", pkgs)
	t.Log("scan", t1.Sub(t0), "universe", time.Since(t1), len(pkgs))
	return u
}

func TestExp(t *testing.T) {
	u := expUniverse(t)
	rng := rand.New(rand.NewPCG(7, 2))
	var names []string
	for _, n := range u.list {
		if n.pkg != nil && (os.Getenv("HARD") == "" || n.pkg.Conflicts != "") {
			names = append(names, n.name)
		}
	}
	slices.Sort(names)
	same, n := 0, 0
	var total int
	fmt.Sscan(os.Getenv("EXP"), &total)
	hard := [][]string{}
	if f := os.Getenv("LIST"); f != "" {
		data, _ := os.ReadFile(f)
		for _, l := range strings.Split(strings.TrimSpace(string(data)), "\n") {
			hard = append(hard, strings.Fields(l))
		}
		total = len(hard)
	}
	for i := range total {
		size := 2 + rng.IntN(9)
		var seeds []string
		for range size {
			seeds = append(seeds, names[rng.IntN(len(names))])
		}
		if len(hard) > 0 {
			seeds = hard[i]
		}
		t0 := time.Now()
		r, err := u.Resolve(Request{Name: fmt.Sprint(i), Seeds: seeds})
		d := time.Since(t0)
		var ours []string
		args := seeds
		if err == nil {
			for _, p := range r.Packages {
				ours = append(ours, p.Name)
			}
			args = r.Seeds
		} else {
			args = nil
			for _, n := range u.byName(func(p *deb.Package) bool { return p.Essential }) {
				args = append(args, n.name)
			}
			args = append(args, seeds...)
		}
		apt, aerr := aptExp(args)
		n++
		if aerr != nil && err != nil {
			same++
			var e *Error
			if !errors.As(err, &e) {
				t.Error("not an *Error")
			}
			if os.Getenv("SHOW") != "" {
				t.Logf("%d both fail:\n%v\n%s", i, err, aerr)
			}
			continue
		}
		if aerr != nil || err != nil {
			t.Logf("%d FAIL differs %v: ours %v\napt %v", i, seeds, err, aerr)
			continue
		}
		if slices.Equal(ours, apt) {
			same++
			continue
		}
		var plus, minus []string
		for _, x := range ours {
			if !slices.Contains(apt, x) {
				plus = append(plus, x)
			}
		}
		for _, x := range apt {
			if !slices.Contains(ours, x) {
				minus = append(minus, x)
			}
		}
		t.Logf("%d %v differ %v: ours %d apt %d, only ours %v only apt %v", i, d, seeds, len(ours), len(apt), plus, minus)
	}
	t.Logf("%d of %d identical", same, n)
}

func aptExp(seeds []string) ([]string, error) {
	cmd := exec.Command("apt-get", append([]string{"install", "-s", "--no-install-recommends"}, seeds...)...)
	cmd.Env = []string{"APT_CONFIG=/tmp/s/b/apt/apt.conf", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	var names []string
	for _, l := range strings.Split(string(out), "\n") {
		if strings.HasPrefix(l, "Inst ") {
			names = append(names, strings.Fields(l)[1])
		}
	}
	slices.Sort(names)
	return names, nil
}
