//go:build realiso

package build

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/skycover/sci-cd/pkg/media"
)

// These tests judge the ISO that `make iso` has built from the real archive by
// programs that are not ours. SCI_CD_ISO names it.

func realISO(t *testing.T) string {
	t.Helper()
	path := os.Getenv("SCI_CD_ISO")
	if path == "" {
		path = "../../dist/sci-cd-trixie-amd64.iso"
	}
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v\nhint: make iso", err)
	}
	return path
}

// judge runs an outside program and returns what it printed.
func judge(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// extract copies paths of the ISO into a new directory.
func extract(t *testing.T, iso string, paths ...string) string {
	t.Helper()
	dir := t.TempDir()
	argv := []string{"xorriso", "-osirrox", "on:auto_chmod_on", "-indev", iso}
	for _, p := range paths {
		argv = append(argv, "-extract", "/"+p, filepath.Join(dir, p))
	}
	judge(t, argv...)
	return dir
}

func TestRealMedia(t *testing.T) {
	out := judge(t, "xorriso", "-indev", realISO(t), "-check_media", "use=indev", "--", "-report_el_torito", "plain", "-report_system_area", "plain")
	for _, want := range []string{
		`El Torito boot img :   1  BIOS  y   none`,
		`El Torito boot img :   2  UEFI  y   none`,
		`El Torito img opts :   1  boot-info-table isohybrid-suitable`,
		`El Torito img path :   2  /boot/grub/efi\.img`,
		`System area summary: MBR isohybrid`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("xorriso does not say %q:\n%s", want, out)
		}
	}
	if regexp.MustCompile(`(?m)^Media region.*-[^+]`).MatchString(out) && strings.Contains(out, "unreadable") {
		t.Errorf("xorriso finds unreadable blocks:\n%s", out)
	}
}

func TestRealIsoinfo(t *testing.T) {
	out := judge(t, "isoinfo", "-R", "-f", "-i", realISO(t))
	for _, want := range []string{"/.disk/info", "/install/vmlinuz", "/install/initrd.gz", "/dists/trixie/InRelease", "/isolinux/isolinux.bin", "/EFI/boot/bootx64.efi"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("isoinfo -R does not list %s", want)
		}
	}
	plain := judge(t, "isoinfo", "-f", "-i", realISO(t))
	if !strings.Contains(plain, "/ISOLINUX/ISOLINUX.BIN") {
		t.Error("isoinfo lists no /ISOLINUX/ISOLINUX.BIN among the plain names, by which isolinux finds its files")
	}
}

func TestRealSums(t *testing.T) {
	dir := extract(t, realISO(t), "SHA256SUMS", "SHA256SUMS.asc", "sci/site-key.asc", "dists")
	file := func(name string) string { return filepath.Join(dir, name) }
	judge(t, "sqv", "--keyring", file("sci/site-key.asc"), file("SHA256SUMS.asc"), file("SHA256SUMS"))
	judge(t, "sqv", "--keyring", file("sci/site-key.asc"), file("dists/trixie/Release.gpg"), file("dists/trixie/Release"))
	data, err := os.ReadFile(file("SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("SHA256SUMS"), append(data, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sqv", "--keyring", file("sci/site-key.asc"), file("SHA256SUMS.asc"), file("SHA256SUMS")).CombinedOutput(); err == nil {
		t.Errorf("sqv accepts a changed SHA256SUMS: %s", out)
	}
}

// TestRealApt lets apt, with an empty status and nothing but the medium, plan
// the installation of each role, and fetch a package.
func TestRealApt(t *testing.T) {
	iso := realISO(t)
	dir := extract(t, iso, "dists", "pool", "sci")
	var m media.Manifest
	data, err := os.ReadFile(filepath.Join(dir, "sci/manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	apt := aptRoot(t, dir, m.Codename)
	judge(t, append(apt, "apt-get", "update", "-qq", "--error-on=any")...)
	for _, role := range m.Roles {
		argv := append(append([]string{}, apt...), "apt-get", "install", "-s", "-qq", "--no-install-recommends")
		out := judge(t, append(argv, role.Packages...)...)
		if n := strings.Count(out, "\nInst ") + 1; n < 100 {
			t.Errorf("apt would install %d packages for %s", n, role.Name)
		}
	}
	out := judge(t, append(apt, "apt-get", "install", "-y", "-qq", "--download-only", "--no-install-recommends", "sci-agent")...)
	if strings.Contains(out, "unauthenticated") {
		t.Errorf("apt takes the medium for unauthenticated:\n%s", out)
	}
}

// TestRealAptTampered changes one byte of a package: apt has to refuse it.
func TestRealAptTampered(t *testing.T) {
	dir := extract(t, realISO(t), "dists", "pool/site", "sci/site-key.asc")
	debs, err := filepath.Glob(filepath.Join(dir, "pool/site/sci-agent_*.deb"))
	if err != nil || len(debs) != 1 {
		t.Fatalf("sci-agent in the pool: %v, %v", debs, err)
	}
	data, err := os.ReadFile(debs[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(debs[0], data, 0o644); err != nil {
		t.Fatal(err)
	}
	apt := aptRoot(t, dir, "trixie")
	judge(t, append(apt, "apt-get", "update", "-qq")...)
	argv := append(apt, "apt-get", "download", "sci-agent")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = t.TempDir()
	if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("Hash Sum mismatch")) {
		t.Errorf("apt on a changed package: %v\n%s", err, out)
	}
}

// aptRoot makes a private apt configuration whose only source is the
// repository in dir, believed by the site's key, and returns the words that
// run apt with it.
func aptRoot(t *testing.T, dir, codename string) []string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc/preferences.d", "etc/trusted.gpg.d", "etc/apt.conf.d"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("status", "")
	write("etc/sources.list", "deb [signed-by="+filepath.Join(dir, "sci/site-key.asc")+"] file:"+dir+" "+codename+" main\n")
	write("apt.conf", `Dir::State "`+root+`/state"; Dir::State::status "`+root+`/status"; Dir::Cache "`+root+`/cache";
Dir::Etc "`+root+`/etc"; Dir::Etc::sourcelist "`+root+`/etc/sources.list"; Dir::Etc::sourceparts "-"; Dir::Etc::trustedparts "`+root+`/etc/trusted.gpg.d";
APT::Architecture "amd64"; APT::Architectures "amd64"; APT::Sandbox::User "root"; APT::Get::List-Cleanup "false"; Debug::NoLocking "true";
`)
	// APT_CONFIG is read before the machine's own configuration, which must not
	// weaken the checks.
	return []string{"env", "-i", "PATH=" + os.Getenv("PATH"), "LC_ALL=C", "APT_CONFIG=" + filepath.Join(root, "apt.conf")}
}

func TestRealDebootstrap(t *testing.T) {
	dir := extract(t, realISO(t), "dists", "sci/site-key.asc")
	// debootstrap's --print-debs verifies the Release file and resolves the base.
	keyring := filepath.Join(t.TempDir(), "site.gpg")
	judge(t, "sh", "-c", "gpg --batch --homedir "+t.TempDir()+" --dearmor <"+filepath.Join(dir, "sci/site-key.asc")+" >"+keyring)
	out := judge(t, "debootstrap", "--print-debs", "--keyring="+keyring, "--arch=amd64", "trixie", filepath.Join(t.TempDir(), "target"), "file://"+dir)
	for _, want := range []string{"base-files", "apt", "systemd"} {
		if !regexp.MustCompile(`\b` + want + `\b`).MatchString(out) {
			t.Errorf("debootstrap does not name %s:\n%s", want, out)
		}
	}
}

func TestRealPayload(t *testing.T) {
	var m media.Manifest
	iso := realISO(t)
	dir := extract(t, iso, "sci", "install", "boot", "EFI", "isolinux", "debian/debian/dists", "debian/updates/dists", "debian/security/dists")
	data, err := os.ReadFile(filepath.Join(dir, "sci/manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	var payload int64
	for _, p := range m.Packages {
		payload += p.Size
	}
	err = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.IsDir() && info.Name() == "by-hash" {
			return filepath.SkipDir // the same bytes by another name
		}
		if err == nil && info.Mode().IsRegular() {
			payload += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(iso)
	if err != nil {
		t.Fatal(err)
	}
	ratio := float64(info.Size()) / float64(payload)
	t.Logf("image / payload = %.4f", ratio)
	if ratio > 1.02 {
		t.Errorf("image has %d bytes for %d bytes of packages and boot files", info.Size(), payload)
	}
}
