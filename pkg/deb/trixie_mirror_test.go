//go:build realmirror

package deb_test

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ulikunitz/xz"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/deb"
)

func get(t *testing.T, path string) []byte {
	t.Helper()
	url := archive.AptMirrors(os.DirFS("/")).Main + "/" + path
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func index(t *testing.T, path string) []byte {
	t.Helper()
	r, err := xz.NewReader(bytes.NewReader(get(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func packages(t *testing.T, data []byte) []*deb.Package {
	t.Helper()
	var list []*deb.Package
	start := time.Now()
	err := deb.ScanPackages(bytes.NewReader(data), func(p *deb.Package) error {
		list = append(list, p)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d packages of %d bytes in %v", len(list), len(data), time.Since(start))
	return list
}

// Every stanza, relation and version of trixie, through two readers each.
func TestTrixieIndexes(t *testing.T) {
	deb.NeedTool(t, "dpkg")
	for _, path := range []string{
		"dists/trixie/main/binary-amd64/Packages.xz",
		"dists/trixie/main/debian-installer/binary-amd64/Packages.xz",
		"dists/trixie/non-free-firmware/binary-amd64/Packages.xz",
	} {
		t.Run(path, func(t *testing.T) {
			data := index(t, path)
			relations := 0
			list := packages(t, data)
			for i, p := range list {
				relations += deb.CompareRelations(t, p)
				if err := deb.Valid(p.Version); err != nil {
					t.Errorf("%s: %v", p.Name, err)
				}
				if i > 0 && i%(len(list)/200+1) == 0 {
					askDpkg(t, list[i-1].Version, p.Version)
				}
			}
			t.Logf("%d stanzas, %d relations agree", deb.CompareReaders(t, data), relations)
		})
	}
}

// askDpkg compares our order of two versions with dpkg's.
func askDpkg(t *testing.T, a, b string) {
	t.Helper()
	op := "eq"
	switch c := deb.Compare(a, b); {
	case c < 0:
		op = "lt"
	case c > 0:
		op = "gt"
	}
	if err := exec.Command("dpkg", "--compare-versions", a, op, b).Run(); err != nil {
		t.Errorf("dpkg: %q %s %q does not hold: %v", a, op, b, err)
	}
}

// Some real packages, read by us and by dpkg-deb.
func TestTrixiePackages(t *testing.T) {
	deb.NeedTool(t, "dpkg-deb")
	wanted := map[string]bool{
		"base-files": true, "libc6": true, "dpkg": true, "tzdata": true, "sudo": true, "drbd-utils": true, "perl-base": true,
		"rootskel": true, "main-menu": true,
	}
	list := packages(t, index(t, "dists/trixie/main/binary-amd64/Packages.xz"))
	list = append(list, packages(t, index(t, "dists/trixie/main/debian-installer/binary-amd64/Packages.xz"))...)
	for _, p := range list {
		if !wanted[p.Name] {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			data := get(t, p.Filename)
			if sum := fmt.Sprintf("%x", sha256.Sum256(data)); sum != p.SHA256 || int64(len(data)) != p.Size {
				t.Fatalf("the mirror gave %d bytes with digest %s", len(data), sum)
			}
			path := filepath.Join(t.TempDir(), filepath.Base(p.Filename))
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			compareWithDpkgDeb(t, p, path)
		})
	}
}

func compareWithDpkgDeb(t *testing.T, p *deb.Package, path string) {
	f, err := deb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	c, err := f.Control()
	if err != nil {
		t.Fatal(err)
	}
	if c.Get("Package") != p.Name || c.Get("Version") != p.Version {
		t.Errorf("control says %s %s", c.Get("Package"), c.Get("Version"))
	}
	files, err := f.ControlFiles()
	if err != nil {
		t.Fatal(err)
	}
	tarfile, err := exec.Command("dpkg-deb", "--fsys-tarfile", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	theirs := tar.NewReader(bytes.NewReader(tarfile))
	if h, err := theirs.Next(); err != nil || h.Name != "./" {
		t.Fatalf("first entry %v, error %v", h, err)
	}
	sums := make(map[string]string)
	err = f.Data(func(h *tar.Header, r io.Reader) error {
		want, err := theirs.Next()
		if err != nil {
			return err
		}
		if name := strings.TrimSuffix(strings.TrimPrefix(want.Name, "./"), "/"); name != h.Name || want.Mode != h.Mode || want.Size != h.Size || want.Typeflag != h.Typeflag {
			return fmt.Errorf("%v differs from dpkg-deb's %v", h, want)
		}
		digest := md5.New()
		if _, err := io.Copy(digest, r); err != nil {
			return err
		}
		sums[h.Name] = fmt.Sprintf("%x", digest.Sum(nil))
		if h.Typeflag == tar.TypeLink {
			sums[h.Name] = sums[h.Linkname]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Next(); err != io.EOF {
		t.Errorf("dpkg-deb sees more entries: %v", err)
	}
	for line := range strings.Lines(string(files["md5sums"])) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if sums[name] != sum {
			t.Errorf("%s has the sum %s; md5sums says %s", name, sums[name], sum)
		}
	}
}
