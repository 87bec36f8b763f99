package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// builtin are profiles as values.
func builtin() fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range map[string]string{
		"default.description":      "# for people\nEvery machine\n",
		"default.packages":         "lvm2  # volumes\n\n# a comment\nopenssh-server chrony\n\tlvm2\n",
		"default.packages.amd64":   "linux-image-amd64\n",
		"default.packages.arm64":   "linux-image-arm64\n",
		"default.packages.trixie":  "linux-sysctl-defaults lvm2\n",
		"default.packages.sid":     "unstable\n",
		"default.downloads":        "grub-pc\ngrub-efi-amd64\n",
		"default.preseed":          "# answers\nd-i time/zone string \\\n  Etc/UTC\n",
		"node.packages":            "ganeti\n",
		"node.postinst":            "#!/bin/sh\necho node\n",
		"node.udebs":               "mdadm-udeb\n",
		"service.packages":         "bind9\n",
		"service.excludes":         "popularity-contest\n",
		"service.conf":             "locale=de_DE\n",
		"README":                   "no profile\n",
		"default.packages.orig~":   "left by an editor\n",
		"broken.packages":          "Bad_Name\n  x\ngood\n",
		"broken.preseed":           "d-i\n",
		"broken.postinst":          "echo no interpreter\n",
		"broken.extra":             "absent.txt\n../outside\n",
		"contradiction.packages":   "nano\n",
		"contradiction.excludes":   "lvm2\nnano\n",
		"simplecdd.udebs":          "# the udeb needed for simple-cdd\nsimple-cdd-profiles\n",
		"SCI-amd64.packages":       "mc\n",
		"SCI-amd64.files/junk.txt": "directories are not looked at\n",
	} {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

// folder writes a site's folder: site.yaml, and files of its own.
func folder(t *testing.T, text string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	files["site.yaml"] = text
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "site.yaml")
}

const siteText = `apiVersion: sci-cd/v1
name: lab
domain: lab.example
networks: {lan: {subnet: 10.0.0.0/24}}
hosts:
  - {name: n1, role: node, match: {serial: A1}, addresses: {lan: 10.0.0.1}}
`

func TestLoad(t *testing.T) {
	list, err := Load(builtin(), nil, []string{"default", "service"}, "trixie")
	if err != nil {
		t.Fatal(err)
	}
	want := []Profile{{
		Name: "default", Description: "Every machine", Origin: "builtin",
		Packages:  []string{"lvm2", "openssh-server", "chrony", "linux-image-amd64", "linux-sysctl-defaults"},
		Downloads: []string{"grub-pc", "grub-efi-amd64"},
		Preseed:   "# answers\nd-i time/zone string \\\n  Etc/UTC\n",
	}, {
		Name: "service", Origin: "builtin", Packages: []string{"bind9"}, Excludes: []string{"popularity-contest"},
		Notes: []string{"builtin/service.conf is not read: what simple-cdd takes from there stands in the site file"},
	}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("Load (-want +got):\n%s", diff)
	}
}

// TestLoadFaults: everything that is wrong in a profile comes at once.
func TestLoadFaults(t *testing.T) {
	_, err := Load(builtin(), nil, []string{"broken"}, "trixie")
	want := `builtin/broken.packages:1:1: "Bad_Name" is no package name
builtin/broken.packages:2:3: "x" is no package name
builtin/broken.preseed:1:1: no debconf answer
builtin/broken.postinst:1:1: a script begins with #! and its interpreter
builtin/broken.extra:1:1: open absent.txt: file does not exist
builtin/broken.extra:2:1: "../outside" lies outside the site's folder`
	if err == nil || err.Error() != want {
		t.Errorf("Load = %v\nwant %s", err, want)
	}
}

func TestMissing(t *testing.T) {
	for _, c := range []struct{ name, want, advice string }{
		{"nodes", `profile "nodes" does not exist`, `did you mean "node"?`},
		{"zz", `profile "zz" does not exist`, "profiles that exist: SCI-amd64, broken, contradiction, default, node, service, simplecdd"},
		{"../etc", `cannot read profile "../etc": no valid name`, ""},
	} {
		_, err := Load(builtin(), nil, []string{c.name}, "trixie")
		if err == nil || err.Error() != c.want || hint.Of(err) != c.advice {
			t.Errorf("Load(%q) = %v, hint %q; want %s, hint %q", c.name, err, hint.Of(err), c.want, c.advice)
		}
	}
}

// TestSiteFolder: a site's files replace ours of the same name, file by file,
// and a site's own profiles come on top.
func TestSiteFolder(t *testing.T) {
	file := folder(t, siteText+"profileDir: profiles\nprofiles: [web]\npackages: [tmux, lvm2]\n", map[string]string{
		"profiles/node.packages":     "ganeti-3.1\n",
		"profiles/node.preseed":      "ganeti ganeti/x boolean true\n",
		"profiles/web.packages":      "nginx-light\n",
		"profiles/web.packages.i386": "nginx-i386\n",
		"profiles/web.downloads":     "nginx-light\ntmux\nvim\n",
		"profiles/web.postinst":      "#!/bin/sh\necho web\n",
		"profiles/web.extra":         "files/logo.svg\nprofiles/web.packages\n",
		"files/logo.svg":             "<svg/>",
	})
	s, err := LoadSite(file, builtin())
	if err != nil {
		t.Fatal(err)
	}
	sel, err := Select(s, "node", builtin())
	if err != nil {
		t.Fatal(err)
	}
	want := &Selection{
		Role:      "node",
		Profiles:  []string{"default", "node", "web"},
		Packages:  []string{"chrony", "ganeti-3.1", "linux-image-amd64", "linux-sysctl-defaults", "lvm2", "nginx-light", "openssh-server", "tmux"},
		Downloads: []string{"grub-efi-amd64", "grub-pc", "vim"},
		Udebs:     []string{"mdadm-udeb"},
		Preseed:   []string{"# answers\nd-i time/zone string \\\n  Etc/UTC\n", "ganeti ganeti/x boolean true\n"},
		Scripts:   []Script{{"node", []byte("#!/bin/sh\necho node\n")}, {"web", []byte("#!/bin/sh\necho web\n")}},
		Extra:     []Extra{{"logo.svg", []byte("<svg/>")}, {"web.packages", []byte("nginx-light\n")}},
		Origin: map[string][]string{
			"chrony": {"profile default"}, "ganeti-3.1": {"profile node"}, "linux-image-amd64": {"profile default"}, "linux-sysctl-defaults": {"profile default"},
			"lvm2": {"profile default", "site file"}, "nginx-light": {"profile web"}, "openssh-server": {"profile default"},
			"tmux": {"profile web", "site file"}, "vim": {"profile web"}, "mdadm-udeb": {"profile node"},
			"grub-pc": {"profile default"}, "grub-efi-amd64": {"profile default"},
		},
	}
	if diff := cmp.Diff(want, sel); diff != "" {
		t.Errorf("Select (-want +got):\n%s", diff)
	}
	list, err := Load(builtin(), []string{s.ProfilePath()}, []string{"node"}, "trixie")
	if err != nil {
		t.Fatal(err)
	}
	if origin := strings.ReplaceAll(list[0].Origin, s.ProfilePath(), "profiles"); origin != "builtin, profiles" && origin != "profiles, builtin" {
		t.Errorf("Origin = %q; want builtin and the site's directory", origin)
	}
}

// TestClass: a host's own profiles come after those of all hosts.
func TestClass(t *testing.T) {
	s := &site.Site{Profiles: []string{"service"}, Hosts: []site.Host{{Name: "n1", Role: "node", Profiles: []string{"SCI-amd64", "node"}}}}
	sel, err := Select(s, s.Hosts[0].Class(), builtin())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"default", "node", "service", "SCI-amd64"}, sel.Profiles); diff != "" {
		t.Errorf("profiles of class %q (-want +got):\n%s", sel.Role, diff)
	}
	if len(sel.Notes) != 1 {
		t.Errorf("Notes = %q; want the one of service.conf", sel.Notes)
	}
}

func TestContradiction(t *testing.T) {
	_, err := Select(&site.Site{}, "contradiction", builtin())
	want := `cannot combine the profiles of "contradiction": lvm2 is installed (profile default) and excluded
nano is installed (profile contradiction) and excluded`
	if err == nil || err.Error() != want {
		t.Errorf("Select = %v; want %s", err, want)
	}
}

// TestSimpleCDD: the udeb that simple-cdd needs in its own default profile is
// none of ours.
func TestSimpleCDD(t *testing.T) {
	list, err := Load(builtin(), nil, []string{"simplecdd"}, "trixie")
	if err != nil {
		t.Fatal(err)
	}
	if len(list[0].Udebs) != 0 || len(list[0].Notes) != 1 {
		t.Errorf("udebs %q, notes %q; want none and one", list[0].Udebs, list[0].Notes)
	}
}

// TestCheck: roles and profiles that do not exist come together with all other
// problems of the site file, in the file's order.
func TestCheck(t *testing.T) {
	file := folder(t, strings.Replace(siteText, "role: node", "role: nod, profiles: [wbe]", 1)+"locale: xx\nprofiles: [service, nope]\nprofileDir: profiles\n",
		map[string]string{"profiles/web.packages": "nginx-light\n"})
	_, err := LoadSite(file, builtin())
	var problems site.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("LoadSite = %v; want Problems", err)
	}
	want := `site.yaml:6:22: hosts[0].role: role "nod" has no profile
  hint: did you mean "node"?
site.yaml:6:38: hosts[0].profiles[0]: profile "wbe" does not exist
  hint: did you mean "web"?
site.yaml:7:9: locale: "xx" is not known
  hint: the names are those of Debian's package locales, UTF-8 ones only
site.yaml:8:21: profiles[1]: profile "nope" does not exist
  hint: did you mean "node"?`
	if got := strings.ReplaceAll(err.Error(), filepath.Dir(file)+"/", ""); got != want {
		t.Errorf("LoadSite (-want +got):\n%s", cmp.Diff(want, got))
	}
}

// TestBrokenProfile: what is wrong in a profile's own files is said once, with
// its own file and line.
func TestBrokenProfile(t *testing.T) {
	_, err := LoadSite(folder(t, siteText+"profileDir: profiles\nprofiles: [node]\n", map[string]string{"profiles/node.packages": "NO\n"}), builtin())
	if err == nil || strings.Count(err.Error(), `node.packages:1:1: "NO" is no package name`) != 1 {
		t.Errorf("LoadSite = %v; want one fault in node.packages", err)
	}
}

// TestBuiltin reads the profiles that the binary carries.
func TestBuiltin(t *testing.T) {
	names, err := Names(scicd.Profiles(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"default", "instance", "node", "service"}, names); diff != "" {
		t.Errorf("builtin profiles (-want +got):\n%s", diff)
	}
	s, err := site.Parse("example.yaml", site.Example())
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := Check(s, scicd.Profiles()); err != nil || len(problems) > 0 {
		t.Fatalf("Check of the example: %v, %v", problems, err)
	}
	loaders := []string{"grub-pc", "grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed", "efibootmgr"}
	for _, class := range s.Classes() {
		sel, err := Select(s, class, scicd.Profiles())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range append([]string{"linux-image-amd64", "lvm2", "openssh-server", "sci-agent"}, map[string][]string{"node": {"ganeti", "drbd-utils"}, "service": {"bind9", "approx"}}[class]...) {
			if !slices.Contains(sel.Packages, p) {
				t.Errorf("%s: %s is not installed", class, p)
			}
		}
		for _, p := range loaders {
			if !slices.Contains(sel.Downloads, p) || slices.Contains(sel.Packages, p) {
				t.Errorf("%s: %s must be on the medium and not in the list of packages", class, p)
			}
		}
	}
	profiles, err := Load(scicd.Profiles(), nil, names, "trixie")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range profiles {
		if p.Description == "" {
			t.Errorf("profile %s has no description", p.Name)
		}
	}
}

func TestOverlay(t *testing.T) {
	fsys := fstest.MapFS{
		"default/etc/motd":            {Data: []byte("a"), Mode: 0o600},
		"default/etc/cron.daily/tidy": {Data: []byte("#!/bin/sh\n"), Mode: 0o600},
		"default/usr/local/sbin/tool": {Data: []byte("\x7fELF"), Mode: 0o666},
		"node/etc/motd":               {Data: []byte("node"), Mode: 0o777},
		"node/etc/.hidden":            {Data: []byte("h")},
		"web/etc/web.conf":            {Data: []byte("w")},
	}
	got := map[string]string{}
	tr, err := Overlay(fsys, "node+web+nothing")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range tr.Entries() {
		data := ""
		if e.Mode.IsRegular() {
			b, err := e.ReadAll(100)
			if err != nil {
				t.Fatal(err)
			}
			data = string(b)
		}
		got[e.Path] = fmt.Sprintf("%v %d:%d %q", e.Mode, e.UID, e.GID, data)
	}
	want := map[string]string{
		"etc":                 `drwxr-xr-x 0:0 ""`,
		"etc/.hidden":         `-rw-r--r-- 0:0 "h"`,
		"etc/cron.daily":      `drwxr-xr-x 0:0 ""`,
		"etc/cron.daily/tidy": `-rwxr-xr-x 0:0 "#!/bin/sh\n"`,
		"etc/motd":            `-rw-r--r-- 0:0 "node"`,
		"etc/web.conf":        `-rw-r--r-- 0:0 "w"`,
		"usr":                 `drwxr-xr-x 0:0 ""`,
		"usr/local":           `drwxr-xr-x 0:0 ""`,
		"usr/local/sbin":      `drwxr-xr-x 0:0 ""`,
		"usr/local/sbin/tool": `-rwxr-xr-x 0:0 "\x7fELF"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Overlay (-want +got):\n%s", diff)
	}
}

// TestBuiltinOverlay: every file says where it is from, and DRBD's options are
// there before the module is loaded.
func TestBuiltinOverlay(t *testing.T) {
	for _, class := range []string{"node", "service"} {
		tr, err := Overlay(scicd.Overlay(), class)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range tr.Entries() {
			if !e.Mode.IsRegular() {
				continue
			}
			data, err := e.ReadAll(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(data), "From SCI-CD, overlay/") && !strings.Contains(string(data), "#!") {
				t.Errorf("%s: %s does not say where it is from", class, e.Path)
			}
		}
		if _, ok := tr.Lookup("etc/modprobe.d/drbd.conf"); ok != (class == "node") {
			t.Errorf("%s: etc/modprobe.d/drbd.conf there: %v", class, ok)
		}
	}
	err := fs.WalkDir(scicd.Overlay(), ".", func(name string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(name, "~") || strings.HasSuffix(name, ".swp") {
			t.Errorf("%s is an editor's left-over", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func FuzzList(f *testing.F) {
	f.Add([]byte("lvm2 # volumes\n# comment\n\tchrony\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, w := range words(data) {
			if w.text == "" || strings.ContainsAny(w.text, " \t\n") || w.line < 1 || w.column < 1 {
				t.Errorf("words(%q) has %+v", data, w)
			}
		}
	})
}
