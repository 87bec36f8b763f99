//go:build realmirror

package resolve_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/resolve"
)

// components are those that a build reads.
var components = []string{"main", "non-free-firmware"}

// apt is this machine's apt with a configuration of its own: no package is
// installed, and the sources are those of a build.
type apt struct {
	dir string
	env []string
}

// newApt makes the configuration and updates the lists.
func newApt(t testing.TB, codename string) *apt {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("apt-get is the judge of this test and is missing")
		}
		t.Skip("apt-get is the judge of this test and is missing")
	}
	keyring, err := filepath.Abs("../pgp/debian-archive-keyring.gpg")
	if err != nil {
		t.Fatal(err)
	}
	a := &apt{dir: t.TempDir()}
	a.env = []string{"APT_CONFIG=" + filepath.Join(a.dir, "apt.conf"), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	for _, proxy := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		a.env = append(a.env, proxy+"="+os.Getenv(proxy))
	}
	for _, dir := range []string{"etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d", "state/lists/partial", "cache/archives/partial", "log"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m := archive.AptMirrors(os.DirFS("/"))
	if m.Updates == "" {
		m.Updates = m.Main
	}
	var sources strings.Builder
	for _, s := range [][2]string{{m.Main, ""}, {m.Updates, "-updates"}, {m.Security, "-security"}} {
		fmt.Fprintf(&sources, "deb [arch=amd64 signed-by=%s] %s %s %s\n", keyring, s[0], codename+s[1], strings.Join(components, " "))
	}
	a.write(t, "etc/sources.list", sources.String())
	a.write(t, "status", "")
	a.write(t, "apt.conf", fmt.Sprintf(`
Dir %[1]q;
Dir::Etc "%[1]s/etc";
Dir::Etc::parts "%[1]s/etc/apt.conf.d";
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
Dir::Log "%[1]s/log";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
`, a.dir))
	if out, err := a.run("update"); err != nil {
		t.Fatalf("apt-get update: %v\n%s", err, out)
	}
	return a
}

func (a *apt) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (a *apt) command(args ...string) *exec.Cmd {
	cmd := exec.Command("apt-get", args...)
	cmd.Env = a.env
	return cmd
}

func (a *apt) run(args ...string) (string, error) {
	out, err := a.command(args...).CombinedOutput()
	return string(out), err
}

// simulate returns what apt would install, as "name version", sorted.
func (a *apt) simulate(seeds []string) ([]string, error) {
	out, err := a.run(append([]string{"install", "-s", "--no-install-recommends"}, seeds...)...)
	if err != nil {
		return nil, fmt.Errorf("%w:\n%s", err, out)
	}
	var all []string
	for _, l := range strings.Split(out, "\n") {
		// Inst bash (5.2.37-2+b5 Debian:13.1/stable [amd64])
		if f := strings.Fields(l); len(f) > 2 && f[0] == "Inst" {
			all = append(all, strings.TrimSuffix(f[1], ":amd64")+" "+strings.TrimPrefix(f[2], "("))
		}
	}
	slices.Sort(all)
	return all, nil
}

// choose returns the same as simulate for a sixth of its time: apt does not
// put the packages into the order of their installation.
func (a *apt) choose(seeds []string) ([]string, error) {
	out, err := a.run(append([]string{"install", "--print-uris", "-qq", "--no-install-recommends"}, seeds...)...)
	if err != nil {
		return nil, fmt.Errorf("%w:\n%s", err, out)
	}
	var all []string
	for _, l := range strings.Split(out, "\n") {
		// 'http://…' bind9_1%3a9.20.11-4_amd64.deb 538452 SHA256:…
		if f := strings.Fields(l); len(f) > 2 && strings.HasPrefix(l, "'") {
			parts := strings.Split(f[1], "_")
			if len(parts) != 3 {
				return nil, fmt.Errorf("cannot read %q", l)
			}
			all = append(all, parts[0]+" "+strings.ReplaceAll(parts[1], "%3a", ":"))
		}
	}
	slices.Sort(all)
	return all, nil
}

// exclude bars packages from being chosen.
func (a *apt) exclude(t testing.TB, names []string) {
	t.Helper()
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "Package: %s\nPin: version *\nPin-Priority: -1\n\n", name)
	}
	a.write(t, "etc/preferences.d/excludes", b.String())
}

// openArchive reads the same pockets through pkg/archive.
func openArchive(t testing.TB, codename string, offline bool, dir string) []*deb.Package {
	t.Helper()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(context.Background(), archive.Options{
		Mirrors: archive.AptMirrors(os.DirFS("/")), Codename: codename, Arch: "amd64",
		Components: components, Cache: c, Now: time.Now(), Offline: offline,
	})
	if err != nil {
		t.Fatal(err)
	}
	var all []*deb.Package
	for _, p := range a.Packages() {
		if p.Kind == archive.Deb {
			all = append(all, p.Package)
		}
	}
	return all
}

// cacheDir is kept in SCI_CD_TEST_CACHE if that is set.
func cacheDir(t testing.TB) string {
	if dir := os.Getenv("SCI_CD_TEST_CACHE"); dir != "" {
		return dir
	}
	return t.TempDir()
}

func list(r *resolve.Result) []string {
	var all []string
	for _, p := range r.Packages {
		all = append(all, p.Name+" "+p.Version)
	}
	slices.Sort(all)
	return all
}

// essential names what every closure has among its seeds.
func essential(u *resolve.Universe, t testing.TB) []string {
	t.Helper()
	r, err := u.Resolve(resolve.Request{Name: "essential"})
	if err != nil {
		t.Fatal(err)
	}
	return r.Seeds
}
