//go:build realmirror

package pgp_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/pgp"
)

func get(t *testing.T, url string) []byte {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mirrors() archive.Mirrors { return archive.AptMirrors(os.DirFS("/")) }

// The built-in keyring is that of the package in trixie, byte for byte. When
// this fails, Debian has a newer one: take it over.
func TestDebianKeyringIsCurrent(t *testing.T) {
	base := mirrors().Main
	index, err := xz.NewReader(bytes.NewReader(get(t, base+"/dists/trixie/main/binary-amd64/Packages.xz")))
	if err != nil {
		t.Fatal(err)
	}
	var keyring *deb.Package
	err = deb.ScanPackages(index, func(p *deb.Package) error {
		if p.Name == "debian-archive-keyring" {
			keyring = p
		}
		return nil
	})
	if err != nil || keyring == nil {
		t.Fatalf("package %v, error %v", keyring, err)
	}
	if keyring.Version != pgp.DebianKeyringVersion {
		t.Errorf("trixie has debian-archive-keyring %s; built in is %s", keyring.Version, pgp.DebianKeyringVersion)
	}
	data := get(t, base+"/"+keyring.Filename)
	f, err := deb.New("debian-archive-keyring.deb", bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var found []byte
	err = f.Data(func(h *tar.Header, r io.Reader) (err error) {
		if h.Name == "usr/share/keyrings/debian-archive-keyring.pgp" {
			found, err = io.ReadAll(r)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(found, pgp.DebianBytes()) {
		t.Error("the built-in keyring is not that of the package")
	}
}

// What Debian signs today, in both forms, verifies; gpgv and sqv agree.
func TestDebianSignatures(t *testing.T) {
	pgp.NeedTool(t, "gpgv")
	pgp.NeedTool(t, "sqv")
	ring, err := pgp.Debian()
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{
		mirrors().Main + "/dists/trixie", mirrors().Main + "/dists/bookworm", mirrors().Security + "/dists/trixie-security",
	} {
		t.Run(filepath.Base(base), func(t *testing.T) {
			dir := t.TempDir()
			write := func(name string, data []byte) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			now := time.Now()
			inRelease, release, sig := get(t, base+"/InRelease"), get(t, base+"/Release"), get(t, base+"/Release.gpg")
			body, signers, err := ring.VerifyClearsigned(inRelease, now)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(body, release) {
				t.Error("the text of InRelease is not Release")
			}
			t.Logf("InRelease: %v", signers)
			if _, _, err := ring.VerifyClearsigned(inRelease, now.AddDate(40, 0, 0)); !errors.Is(err, pgp.ErrKeyExpired) {
				t.Errorf("in forty years: %v", err)
			}
			keys := write("keys.gpg", pgp.DebianBytes())
			if out, err := exec.Command("gpgv", "--keyring", keys, write("InRelease", inRelease)).CombinedOutput(); err != nil {
				t.Errorf("gpgv: %v\n%s", err, out)
			}
			// A mirror may hold a Release.gpg of another day: then nobody may accept it.
			_, ours := ring.VerifyDetached(bytes.NewReader(release), sig, now)
			for _, tool := range []string{"gpgv", "sqv"} {
				out, err := exec.Command(tool, "--keyring", keys, write("Release.gpg", sig), write("Release", release)).CombinedOutput()
				if (err == nil) != (ours == nil) {
					t.Errorf("Release.gpg: we say %v; %s says %v\n%s", ours, tool, err, out)
				}
			}
			t.Logf("Release.gpg: %v", ours)
		})
	}
}
