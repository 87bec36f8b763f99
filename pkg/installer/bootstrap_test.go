package installer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/tree"

	"golang.org/x/sync/errgroup"
)

// makeDeb writes a small package; fields are further lines of its control
// file, files are paths.
func makeDeb(t testing.TB, dir, name, fields string, files ...string) string {
	t.Helper()
	c, err := deb.ParseControl([]byte("Package: " + name + "\nVersion: 1.0\nArchitecture: amd64\nMaintainer: Test <test@lab.example>\nDescription: test\n" + fields))
	if err != nil {
		t.Fatal(err)
	}
	tr := &tree.Tree{}
	for _, f := range files {
		if err := tr.AddBytes(f, 0o755, []byte(name+"\n")); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := deb.Write(&b, deb.Spec{Control: c, Files: tr, Time: releaseDate}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, name+".deb")
	write(t, out, b.String(), 0o644)
	return out
}

// testMedium is a medium with a handful of packages.
func testMedium(t testing.TB, dir string, key *pgp.Key) {
	t.Helper()
	debs := t.TempDir()
	medium(t, dir, "trixie", key, []string{
		makeDeb(t, debs, "base-files", "Essential: yes\nPriority: required\nPre-Depends: awk\n", "etc/debian_version", "usr/share/doc/base-files/README"),
		makeDeb(t, debs, "base-passwd", "Essential: yes\nPriority: required\nDepends: libc6 (>= 0.9), debconf (>= 2) | cdebconf\n", "bin/passwd-tool"),
		makeDeb(t, debs, "libc6", "Priority: optional\n", "lib/libc.so.6"),
		makeDeb(t, debs, "cdebconf", "Priority: optional\n", "usr/bin/cdebconf"),
		makeDeb(t, debs, "debconf", "Priority: required\n", "usr/bin/debconf"),
		makeDeb(t, debs, "gawk", "Priority: optional\nProvides: awk\n", "usr/bin/gawk"),
		makeDeb(t, debs, "mawk", "Priority: required\nProvides: awk\n", "usr/bin/mawk"),
		makeDeb(t, debs, "apt", "Priority: important\nDepends: sqv | gpgv\n", "usr/bin/apt-get"),
		makeDeb(t, debs, "gpgv", "Priority: optional\n", "usr/bin/gpgv"),
		makeDeb(t, debs, "vim", "Priority: optional\n", "usr/bin/vim"),
	})
}

func names(list []*deb.Package) string {
	var n []string
	for _, p := range list {
		n = append(n, p.Name)
	}
	return strings.Join(n, " ")
}

func ring(t testing.TB, key *pgp.Key) pgp.Keyring {
	t.Helper()
	k, err := key.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBootstrapSet(t *testing.T) {
	dir, key := t.TempDir(), testKey(t)
	testMedium(t, dir, key)
	r, err := openRepository(dir, "trixie", ring(t, key), releaseDate.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	essential, all, err := r.bootstrapSet()
	if err != nil {
		t.Fatal(err)
	}
	// debconf is there in version 1.0 only, so that cdebconf satisfies
	// base-passwd; awk is provided by mawk, whose priority is higher.
	if got, want := names(essential), "base-files base-passwd cdebconf libc6 mawk"; got != want {
		t.Errorf("essential = %s; want %s", got, want)
	}
	if got, want := names(all), "apt base-files base-passwd cdebconf debconf gpgv libc6 mawk"; got != want {
		t.Errorf("all = %s; want %s", got, want)
	}
}

func TestOpenRepositoryErrors(t *testing.T) {
	edit := func(name string, f func([]byte) []byte) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, name), string(f(data)), 0o644)
		}
	}
	remove := func(names ...string) func(testing.TB, string) {
		return func(t testing.TB, dir string) {
			for _, n := range names {
				if err := os.Remove(filepath.Join(dir, n)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	replace := func(old, new string) func([]byte) []byte {
		return func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(new), 1) }
	}
	tests := []struct {
		summary string
		tamper  func(testing.TB, string)
		suite   string
		key     bool // another key than the one that signed
		want    string
	}{
		{"no InRelease", remove("dists/trixie/InRelease"), "trixie", false, "cannot read the medium's archive: open DIR/dists/trixie/InRelease: no such file or directory"},
		{"altered InRelease", edit("dists/trixie/InRelease", replace("Origin: test", "Origin: tset")), "trixie", false, "cannot trust DIR/dists/trixie/InRelease: "},
		{"unsigned InRelease", edit("dists/trixie/InRelease", func([]byte) []byte { return []byte("Codename: trixie\n") }), "trixie", false, "cannot trust DIR/dists/trixie/InRelease: "},
		{"another key", func(testing.TB, string) {}, "trixie", true, "cannot trust DIR/dists/trixie/InRelease: "},
		{"altered Packages", edit("dists/trixie/main/binary-amd64/Packages", replace("Package: vim", "Package: vin")), "trixie", false, "cannot trust main/binary-amd64/Packages: its content is not what InRelease says"},
		{"shortened Packages", edit("dists/trixie/main/binary-amd64/Packages", func(b []byte) []byte { return b[:len(b)/2] }), "trixie", false, "cannot trust main/binary-amd64/Packages: its content is not what InRelease says"},
		{"no Packages", remove("dists/trixie/main/binary-amd64/Packages", "dists/trixie/main/binary-amd64/Packages.gz"), "trixie", false, "the medium has no Packages index of component main for amd64"},
		{"another release under the name", func(t testing.TB, dir string) {
			if err := os.Symlink("trixie", filepath.Join(dir, "dists/forky")); err != nil {
				t.Fatal(err)
			}
		}, "forky", false, `cannot use DIR/dists/forky/InRelease: its Codename is "trixie", not "forky"`},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			dir, key := t.TempDir(), testKey(t)
			testMedium(t, dir, key)
			test.tamper(t, dir)
			if test.key {
				key = testKey(t)
			}
			_, err := openRepository(dir, test.suite, ring(t, key), releaseDate)
			if err == nil || !strings.HasPrefix(strings.ReplaceAll(err.Error(), dir, "DIR"), test.want) {
				t.Errorf("error %v; want %s", err, test.want)
			}
		})
	}
}

// TestPackagesGz: the packed index serves where the plain one is not there.
func TestPackagesGz(t *testing.T) {
	dir, key := t.TempDir(), testKey(t)
	testMedium(t, dir, key)
	if err := os.Remove(filepath.Join(dir, "dists/trixie/main/binary-amd64/Packages")); err != nil {
		t.Fatal(err)
	}
	r, err := openRepository(dir, "trixie", ring(t, key), releaseDate)
	if err != nil || r.byName["vim"] == nil {
		t.Errorf("openRepository = %v", err)
	}
}

func TestUnpackAll(t *testing.T) {
	dir, key := t.TempDir(), testKey(t)
	testMedium(t, dir, key)
	r, err := openRepository(dir, "trixie", ring(t, key), releaseDate)
	if err != nil {
		t.Fatal(err)
	}
	essential, all, err := r.bootstrapSet()
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target")
	for range 2 { // a repeated verb finds what the first one left
		if err := unpackAll(context.Background(), target, r, essential, all); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"usr/lib/libc.so.6", "usr/bin/passwd-tool", "usr/bin/mawk", "var/lib/dpkg/status"} {
		if _, err := os.Lstat(filepath.Join(target, name)); err != nil {
			t.Errorf("not unpacked: %v", err)
		}
	}
	for _, name := range []string{"usr/share/doc/base-files/README", "usr/bin/apt-get", "usr/bin/vim"} {
		if _, err := os.Lstat(filepath.Join(target, name)); err == nil {
			t.Errorf("%s was unpacked", name)
		}
	}
	// A package that is not what the index says ends it, needed or not.
	damaged := filepath.Join(dir, r.byName["gpgv"].Filename)
	data, err := os.ReadFile(damaged)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	write(t, damaged, string(data), 0o644)
	err = unpackAll(context.Background(), filepath.Join(t.TempDir(), "t"), r, essential, all)
	if err == nil || !strings.HasPrefix(err.Error(), "cannot trust package gpgv: ") {
		t.Errorf("unpackAll = %v", err)
	}
	write(t, damaged, string(data[:10]), 0o644)
	err = unpackAll(context.Background(), filepath.Join(t.TempDir(), "t"), r, essential, all)
	if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("unpackAll = %v", err)
	}
}

// TestUnpackerStaysInside: no archive writes outside of its directory.
func TestUnpackerStaysInside(t *testing.T) {
	outside := t.TempDir()
	tests := []struct {
		summary string
		headers []tar.Header
	}{
		{"dots", []tar.Header{{Name: "../x", Typeflag: tar.TypeReg}}},
		{"absolute", []tar.Header{{Name: "/x", Typeflag: tar.TypeReg}}},
		{"link out, then through it", []tar.Header{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "d/x", Typeflag: tar.TypeReg}}},
		{"relative link out", []tar.Header{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "../.."}, {Name: "d/x", Typeflag: tar.TypeReg}}},
		{"hard link out", []tar.Header{{Name: "x", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"}}},
		{"directory through a link", []tar.Header{{Name: "d", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "d/x", Typeflag: tar.TypeDir}}},
		{"device", []tar.Header{{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}}},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for _, h := range test.headers {
				h.Mode = 0o644
				h.Uid, h.Gid = os.Getuid(), os.Getgid()
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = root.Close() }()
			err = unpacker{root: root}.tarball(&b)
			if err == nil {
				t.Error("unpacked without an error")
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
				t.Errorf("written outside: %v, %v", entries, err)
			}
		})
	}
}

func TestOverlay(t *testing.T) {
	dir := t.TempDir()
	s := testSite(t)
	o := installerFiles(t, dir, s, testKey(t))
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range []tar.Header{
		{Name: "root/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "root/new/", Typeflag: tar.TypeDir, Mode: 0o750},
		{Name: "lib/tool", Typeflag: tar.TypeReg, Mode: 0o4755},
		{Name: "etc/link", Typeflag: tar.TypeSymlink, Linkname: "/elsewhere"},
	} {
		h.ModTime, h.Uid, h.Gid = releaseDate, os.Getuid(), os.Getgid()
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(o.Medium, "sci/node/overlay.tar.gz"), b.String(), 0o644)
	for _, d := range []string{"usr/lib", "root", "etc"} {
		if err := os.MkdirAll(filepath.Join(o.Target, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/lib", filepath.Join(o.Target, "lib")); err != nil {
		t.Fatal(err)
	}
	h, _ := s.Host("node1")
	if err := overlay(o.withDefaults(), h); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"root": "drwx------", "root/new": "drwxr-x---", "usr/lib/tool": "urwxr-xr-x", "lib": "Lrwxrwxrwx", "etc/link": "Lrwxrwxrwx",
	} {
		info, err := os.Lstat(filepath.Join(o.Target, name))
		if err != nil || info.Mode().String() != want {
			t.Errorf("%s: %v, %v; want %s", name, info.Mode(), err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(o.Target, "usr/lib/tool")); err != nil || !info.ModTime().Equal(releaseDate) {
		t.Errorf("time of tool: %v, %v", info.ModTime(), err)
	}
}

// TestBaseSetsTheClock: a machine whose battery is empty boots in 1970, and
// apt would take the medium's signature for one from the future.
func TestBaseSetsTheClock(t *testing.T) {
	dir, key := t.TempDir(), testKey(t)
	o := installerFiles(t, dir, testSite(t), key)
	testMedium(t, o.Medium, key)
	write(t, filepath.Join(o.State, "host"), "node1\n", 0o644)
	stop := errors.New("far enough")
	var set time.Time
	o.Now = func() time.Time { return time.Unix(86400, 0) }
	o.SetClock = func(t time.Time) error { set = t; return stop }
	if err := Run(context.Background(), "base", o); !errors.Is(err, stop) || !set.Equal(releaseDate) {
		t.Errorf("Run = %v, clock %v; want %v", err, set, releaseDate)
	}
}

// TestTimeZone: trixie has no /etc/timezone any more; a machine of ours had one.
func TestTimeZone(t *testing.T) {
	s := testSite(t)
	s.Timezone = "Europe/Berlin"
	o := installerFiles(t, t.TempDir(), s, testKey(t)).withDefaults()
	o.Runner = &inputs{}
	if err := os.MkdirAll(filepath.Join(o.Target, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	h, _ := s.Host("node1")
	if err := (&chroot{o: o}).bootstrap(context.Background(), s, h, nil); err != nil {
		t.Fatal(err)
	}
	if link, err := os.Readlink(filepath.Join(o.Target, "etc/localtime")); link != "/usr/share/zoneinfo/Europe/Berlin" {
		t.Errorf("/etc/localtime is %q, %v", link, err)
	}
	if _, err := os.Lstat(filepath.Join(o.Target, "etc/timezone")); err == nil {
		t.Error("there is an /etc/timezone")
	}
}

// TestInitramfsLinks: the link /initrd.img was missing until the first update of
// the kernel, for the kernel's script ran before there was an initramfs.
func TestInitramfsLinks(t *testing.T) {
	o := installerFiles(t, t.TempDir(), testSite(t), testKey(t)).withDefaults()
	var r inputs
	o.Runner = &r
	write(t, filepath.Join(o.Target, "boot/vmlinuz-6.12.1-amd64"), "", 0o644)
	if err := (&chroot{o: o}).initramfs(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"update-initramfs -c -k 6.12.1-amd64",
		"env -u INITRD linux-update-symlinks upgrade 6.12.1-amd64 /boot/vmlinuz-6.12.1-amd64",
	}
	if diff := cmp.Diff(want, r.lines); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestParsePackages(t *testing.T) {
	got, err := parsePackages("p", []byte("# all\nbash  g++-14=1:2~3+b1 # two\n\nlibc6:amd64\n"))
	if diff := cmp.Diff([]string{"bash", "g++-14=1:2~3+b1", "libc6:amd64"}, got); diff != "" || err != nil {
		t.Errorf("packages %v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"-o=x", "--force", "a", "Bash", "bash/stable", "bash-", "a;b"} {
		if list, err := parsePackages("p", []byte(bad)); err == nil {
			t.Errorf("parsePackages(%q) = %q; want an error", bad, list)
		}
	}
}

func TestBootPackages(t *testing.T) {
	in := []string{"bash", "grub-pc=2.12", "grub-efi-amd64", "lvm2"}
	if got, want := fmt.Sprint(bootPackages(in, false)), "[bash grub-pc=2.12 lvm2]"; got != want {
		t.Errorf("BIOS: %s; want %s", got, want)
	}
	if got, want := fmt.Sprint(bootPackages(in, true)), "[bash grub-efi-amd64 lvm2 grub-efi-amd64-signed shim-signed]"; got != want {
		t.Errorf("UEFI: %s; want %s", got, want)
	}
}

func TestGrubDefaults(t *testing.T) {
	want := `# Written by the installer of SCI-CD (sci-agent): the site's consoles.
# Read after /etc/default/grub; run update-grub after a change.
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200n8"
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_TERMINAL="console serial"
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
# Other systems on other disks are none of our business, and looking for
# them takes minutes and opens instances' disks.
GRUB_DISABLE_OS_PROBER=true
`
	if diff := cmp.Diff(want, grubDefaults(testSite(t).Console)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSelections(t *testing.T) {
	s := testSite(t)
	s.Timezone, s.Locale, s.Keyboard = "America/Argentina/Salta", "de_DE.UTF-8@euro", "de"
	want := `tzdata tzdata/Areas select America
tzdata tzdata/Zones/America select Argentina/Salta
keyboard-configuration keyboard-configuration/layoutcode string de
keyboard-configuration keyboard-configuration/xkb-keymap select de
locales locales/locales_to_be_generated multiselect de_DE.UTF-8@euro UTF-8
locales locales/default_environment_locale select de_DE.UTF-8@euro
`
	if diff := cmp.Diff(want, selections(s)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestCounter(t *testing.T) {
	var b strings.Builder
	c := &counter{console: &b, what: "packages"}
	_, _ = io.WriteString(c, "0 upgraded, 25 newly installed, 0 to remove and 0 not upgraded.\n")
	for i := range 25 {
		_, _ = fmt.Fprintf(c, "Unpacking p%d\nSetting up p%d (1) ...\n", i, i)
	}
	if got := strings.Count(b.String(), "\n"); got != 10 || !strings.HasSuffix(b.String(), "sci-agent: packages 100 % of 25 packages\n") {
		t.Errorf("%d lines:\n%s", got, b.String())
	}
}

// TestUnpackerSharesDirectories: packages are unpacked at the same time, and
// most of them bring the same directories.
func TestUnpackerSharesDirectories(t *testing.T) {
	for range 50 {
		root, err := os.OpenRoot(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for range 8 {
			g.Go(func() error {
				for _, name := range []string{"usr", "usr/share", "usr/share/doc", "usr/share/doc/a"} {
					h := &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, Uid: os.Getuid(), Gid: os.Getgid()}
					if err := (unpacker{root: root}).entry(h, nil); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := errors.Join(g.Wait(), root.Close()); err != nil {
			t.Fatal(err)
		}
	}
}
