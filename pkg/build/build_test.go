package build_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/archive/testarchive"
	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/build/buildtest"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
	"github.com/skycover/sci-cd/pkg/verify"
)

// bench is a site folder and an archive on the loopback.
type bench struct {
	t        *testing.T
	dir      string
	archive  *testarchive.Archive
	files    map[string][]byte
	requests atomic.Int64
	// refuse, where set, answers in place of the archive.
	refuse func(w http.ResponseWriter, r *http.Request) bool
	url    string
	notes  []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), archive: buildtest.Archive(t)}
	b.write("site.yaml", string(site.Example()))
	b.render()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		if b.refuse != nil && b.refuse(w, r) {
			return
		}
		testarchive.Handler(b.files).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	b.url = srv.URL
	return b
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) render() {
	b.t.Helper()
	files, err := b.archive.Render()
	if err != nil {
		b.t.Fatal(err)
	}
	b.files = files
}

// options are those of a build of the site folder into out.iso.
func (b *bench) options() build.Options {
	b.t.Helper()
	file := filepath.Join(b.dir, "site.yaml")
	s, err := profile.LoadSite(file, scicd.Profiles())
	if err != nil {
		b.t.Fatal(err)
	}
	store, err := cache.Open(filepath.Join(b.dir, "cache"))
	if err != nil {
		b.t.Fatal(err)
	}
	ring := b.archive.Keyring(b.t)
	b.notes = nil
	return build.Options{
		Site: s, Lock: filepath.Join(b.dir, "sci.lock"), Key: filepath.Join(b.dir, "sci.key"), Output: filepath.Join(b.dir, "out.iso"),
		Cache: store, Mirrors: archive.Mirrors{Main: b.url, Security: b.url}, Keyring: &ring,
		Agent: buildtest.Agent(), Version: "1.2.3", Now: buildtest.Date(),
		Preseed: scicd.Preseed(), Profiles: scicd.Profiles(), Overlay: scicd.Overlay(),
		Note: func(text string) { b.notes = append(b.notes, text) },
	}
}

func (b *bench) build() *build.Result {
	b.t.Helper()
	r, err := build.Build(b.t.Context(), b.options())
	if err != nil {
		b.t.Fatalf("Build: %v\nhint: %s", err, hint.Of(err))
	}
	return r
}

// openISO opens an ISO that was built, until the test ends.
func openISO(t *testing.T, name string) (f *os.File, size int64, img *iso.Image) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if img, err = iso.Open(f, info.Size()); err != nil {
		t.Fatal(err)
	}
	return f, info.Size(), img
}

// fails builds and compares the error and the hint; what a failed build leaves
// beside lock and key is an error too.
func (b *bench) fails(want, advice string) error {
	b.t.Helper()
	_, err := build.Build(b.t.Context(), b.options())
	if err == nil {
		b.t.Fatal("Build succeeded")
	}
	if got := strings.ReplaceAll(strings.ReplaceAll(err.Error(), b.url, "URL"), b.dir, "DIR"); !strings.Contains(got, want) {
		b.t.Errorf("Build = %s\nwant it to contain %s", got, want)
	}
	if got := hint.Of(err); !strings.Contains(got, advice) {
		b.t.Errorf("hint = %q; want it to contain %q", got, advice)
	}
	b.noOutput()
	return err
}

func (b *bench) noOutput() {
	b.t.Helper()
	for _, name := range b.entries() {
		if strings.Contains(name, "iso") {
			b.t.Errorf("left behind: %s", name)
		}
	}
}

func (b *bench) entries() []string {
	b.t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestBuild builds and lets package verify examine the medium.
func TestBuild(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.build()
	if !r.NewKey || !r.NewLock {
		t.Errorf("NewKey, NewLock = %v, %v; want both", r.NewKey, r.NewLock)
	}
	if diff := cmp.Diff([]string{"cache", "out.iso", "sci.key", "sci.lock", "site.yaml"}, b.entries()); diff != "" {
		t.Errorf("the site folder (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(b.dir, "sci.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("sci.key: %v, %v; want mode 0600", info.Mode(), err)
	}
	data, err := os.ReadFile(r.Output)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); r.SHA256 != got || r.Size != int64(len(data)) {
		t.Errorf("Result says %s, %d bytes; the file has %s, %d", r.SHA256, r.Size, got, len(data))
	}
	report, err := verify.Image(t.Context(), bytes.NewReader(data), int64(len(data)), verify.Options{Debian: b.archive.Keyring(t)})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Problems) > 0 || report.Fingerprint != r.Fingerprint {
		t.Errorf("verify: %v, key %s; want nothing, key %s", report.Problems, report.Fingerprint, r.Fingerprint)
	}
	if bytes.Contains(data, []byte("PRIVATE KEY")) {
		t.Error("the site's private key is on the medium")
	}
}

// TestUpgrade guards that the pocket with the newer version is taken.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build()
	l, err := lock.Read(filepath.Join(b.dir, "sci.lock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range l.Packages {
		if p.Name == buildtest.Upgraded && (p.Version != "1.0-1+deb13u1" || p.Pocket != "trixie-security") {
			t.Errorf("%s %s of %s is locked; want the one of trixie-security", p.Name, p.Version, p.Pocket)
		}
	}
}

// TestSameBytes guards that the folder's path, the umask, the locale, the
// cache and the order of downloads do not reach the medium.
func TestSameBytes(t *testing.T) {
	b := newBench(t)
	first := b.build()
	other := newBench(t)
	other.archive, other.files = b.archive, b.files
	for _, name := range []string{"sci.lock", "sci.key"} {
		data, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(other.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("LC_ALL", "C")
	second := other.build()
	if second.NewKey || second.NewLock {
		t.Error("key or lock were made anew")
	}
	if first.SHA256 != second.SHA256 {
		t.Errorf("SHA-256 %s and %s; want the same", first.SHA256, second.SHA256)
	}
	if third := b.build(); third.SHA256 != first.SHA256 {
		t.Errorf("with a warm cache: SHA-256 %s; want %s", third.SHA256, first.SHA256)
	}
}

// TestSourceDateEpoch guards that the variable is the time on the medium, and
// that nothing else changes the bytes.
func TestSourceDateEpoch(t *testing.T) {
	b := newBench(t)
	plain := b.build().SHA256
	t.Setenv("SOURCE_DATE_EPOCH", "1800000000")
	set := b.build().SHA256
	if set == plain || set != b.build().SHA256 {
		t.Errorf("SHA-256 %s without, %s with SOURCE_DATE_EPOCH; want two that differ, the second one twice", plain, set)
	}
}

// TestOffline guards that a lock and a warm cache need no network: the
// archive may be gone for good.
func TestOffline(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.build()
	b.requests.Store(0)
	b.refuse = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	second := b.build()
	o := b.options()
	o.Offline = true
	third, err := build.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if first.SHA256 != second.SHA256 || first.SHA256 != third.SHA256 {
		t.Error("other bytes without the network")
	}
	if n := b.requests.Load(); n != 0 {
		t.Errorf("%d requests; want none", n)
	}
}

func TestOfflineCold(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build()
	if err := os.RemoveAll(filepath.Join(b.dir, "cache")); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(b.dir, "out.iso"))
	o := b.options()
	o.Offline = true
	_, err := build.Build(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "not in the cache") {
		t.Errorf("Build = %v; want an error that says what is not in the cache", err)
	}
	b.noOutput()
}

// TestStaleLock guards that a lock of other wishes is refused with advice.
func TestStaleLock(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.build()
	_ = os.Remove(filepath.Join(b.dir, "out.iso"))
	b.write("site.yaml", strings.Replace(string(site.Example()), "packages: []  ", "packages: [hello]", 1))
	err := b.fails("lock is stale", "sci-cd lock")
	if stale := new(lock.StaleError); !errors.As(err, &stale) {
		t.Errorf("%v is no *lock.StaleError", err)
	}
}

// TestUnrelatedChange guards that a lock stays good when what changed decides
// over no package.
func TestUnrelatedChange(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	first := b.build()
	b.write("site.yaml", strings.Replace(string(site.Example()), "keyboard: us", "keyboard: de", 1))
	if second := b.build(); second.NewLock || second.SHA256 == first.SHA256 {
		t.Error("the keyboard made a new lock, or did not reach the medium")
	}
}

// TestGone guards the commonest failure of an old lock: the archive has newer
// versions by now.
func TestGone(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := b.options()
	plan, err := build.MakePlan(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Lock.Write(o.Lock); err != nil {
		t.Fatal(err)
	}
	delete(b.files, "pool/main/g/ganeti/ganeti_1.0-1_amd64.deb")
	err = b.fails("cannot fetch ganeti 1.0-1: the mirror does not have it: URL/pool/main/g/ganeti/ganeti_1.0-1_amd64.deb", "run sci-cd lock to renew the lock")
	if gone := new(archive.NotFoundError); !errors.As(err, &gone) {
		t.Errorf("%v is no *archive.NotFoundError", err)
	}
}

// TestChanged guards that other bytes under a locked name are refused.
func TestChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	name := "pool/main/g/ganeti/ganeti_1.0-1_amd64.deb"
	data := bytes.Clone(b.files[name])
	data[len(data)/2] ^= 1
	b.files[name] = data
	err := b.fails("cannot fetch ganeti 1.0-1 from URL/pool/main/g/ganeti/ganeti_1.0-1_amd64.deb: not the file that the index names", "the mirror is being updated")
	if wrong := new(archive.WrongFileError); !errors.As(err, &wrong) {
		t.Errorf("%v is no *archive.WrongFileError", err)
	}
}

// TestMissingPackage guards that a name that nobody has is told with the
// nearest ones.
func TestMissingPackage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.write("site.yaml", strings.Replace(string(site.Example()), "packages: []  ", "packages: [ganetti]", 1))
	b.fails(`"ganetti"`, "ganeti")
}

// TestPartialMirror guards that a mirror may lack the udebs that are marked so,
// or only their files, and nothing else.
func TestPartialMirror(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	suite := b.archive.Suite("trixie")
	without := func(name string) {
		suite.Packages = slices.DeleteFunc(suite.Packages, func(p *testarchive.Package) bool { return p.Control.Get("Package") == name })
		b.render()
	}
	without("clock-setup")
	delete(b.files, "pool/main/f/finish-install/finish-install_1.0-1_amd64.udeb")
	first := b.build()
	want := []string{
		"the archive has no udeb clock-setup; the installer does without it",
		"the mirror has not the file of udeb finish-install; the installer does without it",
	}
	if diff := cmp.Diff(want, b.notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	if again := b.build(); again.SHA256 != first.SHA256 {
		t.Error("the second build gave other bytes")
	}
	_ = os.Remove(filepath.Join(b.dir, "out.iso"))
	_ = os.Remove(filepath.Join(b.dir, "sci.lock"))
	without("libmd0")
	b.fails("cannot find libmd0 in the archive; it is needed for the installer", "does it carry debian-installer?")
}

// TestLateUdebs guards that the medium is of the release that it installs, where
// the mirror has the installer's packages of the one before only.
func TestLateUdebs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	now := b.archive.Suite("trixie")
	then := *now
	then.Dir, then.Version = "stable", "13.6"
	now.Version, now.ByHash = "13.7", false
	b.archive.Suites = append(b.archive.Suites, &then)
	b.render()
	for _, ext := range []string{"", ".gz"} {
		b.files["dists/trixie/main/debian-installer/binary-amd64/Packages"+ext] = []byte("as it was")
	}
	r := b.build()
	want := []string{`the mirror does not have the installer's packages of trixie 13.7; taken as of trixie 13.6, which it has as "stable"`}
	if diff := cmp.Diff(want, b.notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	data, err := os.ReadFile(filepath.Join(b.dir, "sci.lock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"pocket stable stable 13.6 ", "pocket trixie stable 13.7 "} {
		if !strings.Contains(string(data), line) {
			t.Errorf("the lock has no line %q", line)
		}
	}
	_, _, img := openISO(t, r.Output)
	medium, err := media.ReadManifest(img.FS())
	if err != nil {
		t.Fatal(err)
	}
	if medium.Version != "13.7" {
		t.Errorf("the medium is of %s, want 13.7", medium.Version)
	}
	if again := b.build(); again.SHA256 != r.SHA256 {
		t.Error("the second build gave other bytes")
	}
}

// TestOtherKernel guards that the installer's kernel and its modules are of one
// ABI.
func TestOtherKernel(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, p := range b.archive.Suite("trixie").Packages {
		if p.Control.Get("Package") == "linux-image-"+buildtest.ABI {
			for _, e := range p.Files.Entries() {
				if strings.HasSuffix(e.Path, "fake_lib.ko") {
					p.Files.Remove(e.Path)
					if err := p.Files.AddBytes(e.Path, 0o644, buildtest.ELF([]byte("depends=\x00vermagic=5.10.0 SMP\x00"))); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	b.render()
	b.fails(`is for kernel "5.10.0", the installer's is "`+buildtest.ABI+`"`, "")
}

// TestInterrupted guards that Ctrl-C, wherever it comes, leaves no output and
// no half file, and that the next build succeeds.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"profiles", "archive", "resolve", "packages", "repository", "installer", "image"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			ctx, cancel := context.WithCancel(t.Context())
			o := b.options()
			o.Step = func(name string) {
				if name == at {
					cancel()
				}
			}
			if _, err := build.Build(ctx, o); !errors.Is(err, context.Canceled) {
				t.Errorf("Build = %v; want context.Canceled", err)
			}
			b.noOutput()
			if err := filepath.WalkDir(b.dir, func(name string, d fs.DirEntry, err error) error {
				if filepath.Base(filepath.Dir(name)) == "tmp" {
					t.Errorf("left behind: %s", name)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			b.build()
		})
	}
}

// TestLocalDebs guards a package of the site's own: on the medium, in the lock,
// and part of what makes a lock stale.
func TestLocalDebs(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	own := b.archive.Suite("trixie").Package("less")
	data := b.files["pool/main/l/less/less_1.0-1_amd64.deb"]
	if own == nil || data == nil {
		t.Fatal("no package less")
	}
	text := strings.Replace(string(site.Example()), "# localDebs:", "localDebs:", 1)
	b.write("site.yaml", text)
	if err := os.Mkdir(filepath.Join(b.dir, "debs"), 0o755); err != nil {
		t.Fatal(err)
	}
	own.Control = own.Control.Set("Version", "2.0-1")
	b.render()
	b.write("debs/less_2.0-1_amd64.deb", string(b.files["pool/main/l/less/less_2.0-1_amd64.deb"]))
	own.Control = own.Control.Set("Version", "1.0-1")
	b.render()
	b.build()
	l, err := lock.Read(filepath.Join(b.dir, "sci.lock"))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, p := range l.Packages {
		found = found || p.Name == "less" && p.Version == "2.0-1" && p.Pocket == "local"
	}
	if !found {
		t.Error("the site's own less 2.0-1 is not locked")
	}
	_ = os.Remove(filepath.Join(b.dir, "out.iso"))
	b.write("debs/less_2.0-1_amd64.deb", string(data))
	b.fails("lock is stale", "sci-cd lock")
}

// TestWhy guards the reasons that lock --why prints.
func TestWhy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	plan, err := build.MakePlan(t.Context(), b.options())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"linux-image-" + buildtest.ABI: "  linux-image-amd64: Depends: linux-image-" + buildtest.ABI,
		"isolinux":                     "medium: part of the boot files",
		"nothing":                      "",
	} {
		if got := strings.Join(plan.Why(name), "\n"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("Why(%q) = %s; want %s", name, got, want)
		}
	}
}
