package installer

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/repo"
	"github.com/skycover/sci-cd/pkg/site"
	"github.com/skycover/sci-cd/pkg/tree"
)

// releaseDate is the Date of every archive made by these tests.
var releaseDate = time.Date(2026, 9, 5, 10, 0, 0, 0, time.UTC)

const siteText = `
apiVersion: sci-cd/v1
name: lab
domain: lab.example
release: trixie
console: [tty0, "ttyS0,115200n8"]
root: {passwordHash: "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/", sshKeys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl test"]}
networks:
  lan: {subnet: 192.168.50.0/24}
hosts:
  - {name: node1, role: node, match: {mac: ["52:54:00:5c:1c:01"]}, addresses: {lan: 192.168.50.11}}
  - {name: node2, role: node, match: {mac: ["52:54:00:5c:1c:02"]}, addresses: {lan: 192.168.50.12}}
  - {name: sci, role: service, match: {serial: CZJ1234567, assetTag: RACK-7}, addresses: {lan: 192.168.50.13}}
`

func testSite(t testing.TB) *site.Site {
	t.Helper()
	s, err := site.Parse("site.yaml", []byte(siteText))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testKey(t testing.TB) *pgp.Key {
	t.Helper()
	key, err := pgp.NewKey("lab", "test", "root@lab.example", releaseDate.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// medium writes a medium with the given .deb files below dir.
func medium(t testing.TB, dir, codename string, key *pgp.Key, debs []string) {
	t.Helper()
	var packages []repo.Package
	for _, name := range debs {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		f, err := deb.New(name, bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := f.Control()
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, repo.Package{
			Path: "pool/" + c.Get("Package") + "_" + c.Get("Architecture") + ".deb", File: name,
			SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data)), Priority: c.Get("Priority"),
		})
	}
	files, err := repo.Build(repo.Options{
		Origin: "test", Label: "test", Suite: "stable", Codename: codename, Arch: "amd64",
		Packages: packages, Key: key, Time: releaseDate,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := files.AddBytes(".disk/info", 0o644, []byte("test\n")); err != nil {
		t.Fatal(err)
	}
	writeTree(t, dir, files)
}

func writeTree(t testing.TB, dir string, files *tree.Tree) {
	t.Helper()
	for _, e := range files.Entries() {
		name := filepath.Join(dir, e.Path)
		var err error
		switch e.Mode.Type() {
		case fs.ModeDir:
			err = os.MkdirAll(name, 0o755)
		case fs.ModeSymlink:
			err = os.Symlink(e.Link, name)
		default:
			var data []byte
			if data, err = e.ReadAll(maxDeb); err == nil {
				err = os.WriteFile(name, data, e.Mode.Perm())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// write writes a file of a test and the directories above it.
func write(t testing.TB, name, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// installerFiles writes what the initrd holds and returns options that point
// to it.
func installerFiles(t testing.TB, dir string, s *site.Site, key *pgp.Key) Options {
	t.Helper()
	data, err := s.JSON()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "sci/site.json"), string(data), 0o600)
	write(t, filepath.Join(dir, "sci/site.gpg"), string(key.Public()), 0o644)
	recipe, err := os.ReadFile("../../preseed/disk.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "sci/disk.yaml"), string(recipe), 0o644)
	return Options{
		Console: testLog{t}, Site: filepath.Join(dir, "sci/site.json"), Key: filepath.Join(dir, "sci/site.gpg"),
		Recipe: filepath.Join(dir, "sci/disk.yaml"), Medium: filepath.Join(dir, "cdrom"),
		Target: filepath.Join(dir, "target"), State: filepath.Join(dir, "state"),
		Logs: []string{}, Patience: time.Millisecond,
	}
}

// testLog sends the console's lines to the test's log.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
