package installer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/run"
)

// image is the beginning of an ISO 9660 image of n sectors, and more behind it,
// as a USB stick has.
func isoImage(n, more int) []byte {
	data := make([]byte, (n+more)*2048)
	d := data[16*2048:]
	d[0] = 1
	copy(d[1:], "CD001")
	binary.LittleEndian.PutUint32(d[80:], uint32(n))
	binary.LittleEndian.PutUint16(d[128:], 2048)
	return data
}

func TestCopyMedium(t *testing.T) {
	dir := t.TempDir()
	o := installerFiles(t, dir, testSite(t), testKey(t)).withDefaults()
	o.Proc = filepath.Join(dir, "proc")
	stick := filepath.Join(dir, "dev/a stick")
	write(t, stick, string(isoImage(100, 50)), 0o600)
	write(t, filepath.Join(o.Target, "etc/fstab"), "# fstab\n", 0o644)
	write(t, filepath.Join(o.Proc, "mounts"), "proc /proc proc rw 0 0\n"+strings.ReplaceAll(stick, " ", `\040`)+" "+o.Medium+" iso9660 ro 0 0\n", 0o644)
	for range 2 { // a repeated verb adds no second line to the fstab
		if err := copyMedium(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(o.Target, "srv/sci/media.iso"))
	if err != nil || !bytes.Equal(got, isoImage(100, 0)) {
		t.Errorf("copy has %d bytes, %v; want %d", len(got), err, 100*2048)
	}
	fstab, err := os.ReadFile(filepath.Join(o.Target, "etc/fstab"))
	want := "# fstab\n# the copy of the installation medium, for apt\n/srv/sci/media.iso /media/sci iso9660 loop,ro,nofail 0 0\n"
	if diff := cmp.Diff(want, string(fstab)); diff != "" || err != nil {
		t.Errorf("fstab %v (-want +got):\n%s", err, diff)
	}
	// Cut short: the reader's error, and no half copy.
	write(t, stick, string(isoImage(100, 0)[:90*2048]), 0o600)
	if err := os.Remove(filepath.Join(o.Target, "srv/sci/media.iso")); err != nil {
		t.Fatal(err)
	}
	if err := copyMedium(context.Background(), o); err == nil {
		t.Error("a medium cut short was copied without an error")
	}
	if left, err := os.ReadDir(filepath.Join(o.Target, "srv/sci")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestIsoSizeErrors(t *testing.T) {
	for summary, data := range map[string][]byte{
		"empty": nil, "no image": make([]byte, 64<<10), "no size": isoImage(100, 0)[:17*2048-1],
		"zero sectors": func() []byte { d := isoImage(100, 0); clear(d[16*2048+80:][:4]); return d }(),
	} {
		if n, err := isoSize(bytes.NewReader(data)); err == nil {
			t.Errorf("%s: isoSize = %d; want an error", summary, n)
		}
	}
}

func TestMediumIsNoDisc(t *testing.T) {
	dir := t.TempDir()
	o := installerFiles(t, dir, testSite(t), testKey(t)).withDefaults()
	o.Proc = filepath.Join(dir, "proc")
	write(t, filepath.Join(o.Proc, "mounts"), "tmpfs "+o.Medium+" tmpfs rw 0 0\n", 0o644)
	want := "cannot copy the medium: nothing that is a disc is mounted on " + o.Medium
	if err := copyMedium(context.Background(), o); err == nil || err.Error() != want {
		t.Errorf("copyMedium = %v; want %s", err, want)
	}
}

// inputs records commands with what they read.
type inputs struct{ lines []string }

func (r *inputs) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv[2:], " ") // without chroot DIR
	if c.Stdin != nil {
		var b bytes.Buffer
		_, _ = b.ReadFrom(c.Stdin)
		line += " < " + b.String()
	}
	r.lines = append(r.lines, line)
	return nil, nil
}

// TestRootAccount: the hash travels by standard input, never as an argument.
func TestRootAccount(t *testing.T) {
	dir := t.TempDir()
	s := testSite(t)
	var r inputs
	o := installerFiles(t, dir, s, testKey(t)).withDefaults()
	o.Runner = &r
	if err := os.MkdirAll(o.Target, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &chroot{o: o}
	if err := c.rootAccount(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	want := []string{"chpasswd --encrypted < root:" + string(s.Root.PasswordHash) + "\n"}
	if diff := cmp.Diff(want, r.lines); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	for name, mode := range map[string]os.FileMode{"root/.ssh": 0o700, "root/.ssh/authorized_keys": 0o600} {
		info, err := os.Stat(filepath.Join(o.Target, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode(), err, mode)
		}
	}
	s.Root.PasswordHash, s.Root.SSHKeys, r.lines = "", nil, nil
	if err := c.rootAccount(context.Background(), s); err != nil || len(r.lines) > 0 {
		t.Errorf("without hash and keys: %v, %q", err, r.lines)
	}
}

func TestScripts(t *testing.T) {
	dir := t.TempDir()
	s := testSite(t)
	var r inputs
	o := installerFiles(t, dir, s, testKey(t)).withDefaults()
	o.Runner = &r
	h, _ := s.Host("node1")
	c := &chroot{o: o}
	if err := c.scripts(context.Background(), h); err != nil { // none is no error
		t.Fatal(err)
	}
	for _, name := range []string{"20-second", "10-first"} {
		write(t, filepath.Join(o.Medium, "sci/node/scripts", name), "#!/bin/sh\n", 0o444)
	}
	if err := os.MkdirAll(o.Target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.scripts(context.Background(), h); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/run/sci-10-first", "/run/sci-20-second"}, r.lines); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(o.Target, "run/sci-10-first")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("script: %v, %v", info.Mode(), err)
	}
	write(t, filepath.Join(o.Medium, "sci/node/scripts/first.bak"), "", 0o444)
	if err := c.scripts(context.Background(), h); err == nil {
		t.Error("a backup file was taken for a script")
	}
}

// TestResume: power lost in the middle of the packages left apt refusing to
// work ("dpkg was interrupted") when the verb was repeated.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	var r inputs
	o := installerFiles(t, dir, testSite(t), testKey(t)).withDefaults()
	o.Runner = &r
	updates := filepath.Join(o.Target, "var/lib/dpkg/updates")
	if err := os.MkdirAll(updates, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &chroot{o: o}
	if err := c.resume(context.Background()); err != nil || len(r.lines) > 0 {
		t.Errorf("clean: %v, %q", err, r.lines)
	}
	write(t, filepath.Join(updates, "0001"), "", 0o644)
	if err := c.resume(context.Background()); err != nil || len(r.lines) != 1 || r.lines[0] != "dpkg --configure -a" {
		t.Errorf("interrupted: %v, %q", err, r.lines)
	}
}

// TestIdentity: the site file may hold the hash of root's password.
func TestIdentity(t *testing.T) {
	dir := t.TempDir()
	s := testSite(t)
	o := installerFiles(t, dir, s, testKey(t)).withDefaults()
	if err := os.MkdirAll(o.Target, 0o755); err != nil {
		t.Fatal(err)
	}
	h, _ := s.Host("node1")
	if err := (&chroot{o: o}).identity(h, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(o.Target, "etc/sci/site.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("site.json: %v, %v; want 0600", info.Mode(), err)
	}
}

// TestCredential guards that a machine gets its own credential and nobody
// else's, that none is needed, and that none of another host is taken.
func TestCredential(t *testing.T) {
	dir := t.TempDir()
	s := testSite(t)
	o := installerFiles(t, dir, s, testKey(t)).withDefaults()
	if err := os.MkdirAll(o.Target, 0o755); err != nil {
		t.Fatal(err)
	}
	issued, err := enrol.Issue(make([]byte, 32), []enrol.Host{{Name: "node1", FQDN: "node1.lab.example"}, {Name: "node2", FQDN: "node2.lab.example"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range issued {
		write(t, filepath.Join(dir, enrol.MediumDir, name+".json"), string(c.Bytes()), 0o600)
	}
	c := &chroot{o: o}
	h, _ := s.Host("node2")
	if err := c.identity(h, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	got, err := enrol.ReadCredential(filepath.Join(o.Target, enrol.File)) // refuses any mode but 0600
	if diff := cmp.Diff(issued["node2"], got); diff != "" || err != nil {
		t.Errorf("credential of node2: %v (-want +got):\n%s", err, diff)
	}
	files, err := os.ReadDir(filepath.Join(o.Target, "etc/sci"))
	if err != nil || len(files) != 3 {
		t.Errorf("etc/sci: %v, %v; want enrol.json, host, site.json", files, err)
	}
	if err := os.Remove(filepath.Join(o.Target, enrol.File)); err != nil {
		t.Fatal(err)
	}
	h, _ = s.Host("sci") // no node
	if err := c.identity(h, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(o.Target, enrol.File)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("credential of sci: %v; want none", err)
	}
	write(t, filepath.Join(dir, enrol.MediumDir, "sci.json"), string(issued["node1"].Bytes()), 0o600)
	if err := c.identity(h, []byte("{}")); err == nil || !strings.Contains(err.Error(), "is that of node1") {
		t.Errorf("with node1's credential: %v", err)
	}
	write(t, filepath.Join(dir, enrol.MediumDir, "sci.json"), "{}", 0o600)
	if err := c.identity(h, []byte("{}")); err == nil {
		t.Error("a broken credential was taken")
	}
}
