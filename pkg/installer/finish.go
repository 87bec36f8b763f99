package installer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// mediaImage is the copy of the medium on the installed system; apt reads it
// through a loop mount on mediaDir.
const mediaImage = "/srv/sci/media.iso"

// maxScript bounds one profile script, in bytes.
const maxScript = 16 << 20

// Finish is the verb finish: what lies over Debian's packages.
func Finish(ctx context.Context, o Options) error {
	o = o.withDefaults()
	say(o.Console, "phase finish")
	s, h, err := currentHost(o)
	if err != nil {
		return err
	}
	siteJSON, err := readBounded(o.Site, 4<<20)
	if err != nil {
		return fmt.Errorf("cannot read the site file: %w", err)
	}
	err = within(ctx, o, func(c *chroot) error {
		if err := c.identity(h, siteJSON); err != nil {
			return err
		}
		if err := c.rootAccount(ctx, s); err != nil {
			return err
		}
		if err := c.scripts(ctx, h); err != nil {
			return err
		}
		return c.tidy(ctx)
	})
	if err != nil {
		return err
	}
	if err := copyMedium(ctx, o); err != nil {
		return err
	}
	if err := keepLogs(o); err != nil {
		return err
	}
	if err := endOfInstallation(o); err != nil {
		return err
	}
	sayMemory(o)
	if o.PowerOff {
		say(o.Console, "installed, powering off")
	} else {
		say(o.Console, "installed, rebooting")
	}
	return nil
}

// identity writes what the agent reads at first boot: who the machine is, and
// what it proves it with.
func (c *chroot) identity(h *site.Host, siteJSON []byte) error {
	// It may hold the hash of root's password.
	if err := c.write("/etc/sci/site.json", string(siteJSON), 0o600); err != nil {
		return err
	}
	if err := c.credential(h); err != nil {
		return err
	}
	return c.write("/etc/sci/host", h.Name+"\n", 0o644)
}

// credential hands over this host's credential for joining the cluster, if the
// medium has one, and no other host's.
func (c *chroot) credential(h *site.Host) error {
	name := filepath.Join(filepath.Dir(c.o.Site), path.Base(enrol.MediumDir), h.Name+".json")
	own, err := enrol.ReadCredential(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no node, or no cluster
	}
	if err != nil {
		return err
	}
	if own.Host != h.Name {
		return fmt.Errorf("the credential %s is that of %s", name, own.Host)
	}
	return c.write("/"+enrol.File, string(own.Bytes()), 0o600)
}

// rootAccount sets root's password and keys. Without a hash the account stays
// as Debian makes it: locked.
func (c *chroot) rootAccount(ctx context.Context, s *site.Site) error {
	if s.Root.PasswordHash != "" {
		// By standard input: arguments are seen by everybody and kept in logs.
		in := strings.NewReader("root:" + string(s.Root.PasswordHash) + "\n")
		if _, err := c.run(ctx, in, "chpasswd", "--encrypted"); err != nil {
			return fmt.Errorf("cannot set root's password: %w", err)
		}
	}
	if len(s.Root.SSHKeys) == 0 {
		return nil
	}
	if err := c.write("/root/.ssh/authorized_keys", strings.Join(s.Root.SSHKeys, "\n")+"\n", 0o600); err != nil {
		return err
	}
	return os.Chmod(filepath.Join(c.o.Target, "root/.ssh"), 0o700)
}

// scriptName is NN-name: what run-parts(8) would take, and no editor's backup.
var scriptName = regexp.MustCompile(`^[0-9]{2}-[A-Za-z0-9_-]+$`)

// scripts runs the role's profile scripts inside the system, in the order of
// their names. They get the host's name and role in the environment.
func (c *chroot) scripts(ctx context.Context, h *site.Host) error {
	dir := filepath.Join(roleDir(c.o, h), "scripts")
	entries, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot run the profile scripts: %w", err)
	}
	with := *c
	with.env = append(append([]string(nil), c.env...), "SCI_HOST="+h.Name, "SCI_ROLE="+h.Role)
	for _, e := range entries {
		if !scriptName.MatchString(e.Name()) {
			return fmt.Errorf("cannot run the profile script %q: its name is not NN-name", e.Name())
		}
		data, err := readBounded(filepath.Join(dir, e.Name()), maxScript)
		if err != nil {
			return fmt.Errorf("cannot run the profile scripts: %w", err)
		}
		say(c.o.Console, "script %s", e.Name())
		inside := "/run/sci-" + e.Name()
		if err := c.write(inside, string(data), 0o755); err != nil {
			return err
		}
		if _, err := with.run(ctx, nil, inside); err != nil {
			return fmt.Errorf("profile script %s failed: %w", e.Name(), err)
		}
	}
	return nil
}

// tidy removes what was there for the installation only.
func (c *chroot) tidy(ctx context.Context) error {
	if _, err := c.run(ctx, nil, "apt-get", "clean"); err != nil {
		return fmt.Errorf("cannot tidy up: %w", err)
	}
	for _, name := range []string{policyFile, unsafeIO} {
		if err := os.Remove(filepath.Join(c.o.Target, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot tidy up: %w", err)
		}
	}
	return nil
}

// copyMedium copies the medium onto the system, so that apt has it without the
// disc. Its size is in the image's own volume descriptor (ECMA-119, 8.4.8),
// because a USB stick is longer than what was written to it.
func copyMedium(ctx context.Context, o Options) error {
	device, err := mediumDevice(o)
	if err != nil {
		return err
	}
	src, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("cannot copy the medium: %w", err)
	}
	defer func() { _ = src.Close() }()
	n, err := isoSize(src)
	if err != nil {
		return fmt.Errorf("cannot copy the medium %s: %w", device, err)
	}
	name := filepath.Join(o.Target, mediaImage)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("cannot copy the medium: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(o.Target, mediaDir), 0o755); err != nil {
		return fmt.Errorf("cannot copy the medium: %w", err)
	}
	if err := room(filepath.Dir(name), n); err != nil {
		return err
	}
	if err := copyFile(ctx, name, src, n); err != nil {
		return fmt.Errorf("cannot copy the medium: %w", err)
	}
	return addFstab(filepath.Join(o.Target, "etc/fstab"),
		"# the copy of the installation medium, for apt\n"+mediaImage+" "+mediaDir+" iso9660 loop,ro,nofail 0 0\n")
}

// mediumDevice is what is mounted on the medium's mount point.
func mediumDevice(o Options) (string, error) {
	mounts, err := readBounded(filepath.Join(o.Proc, "mounts"), 4<<20)
	if err != nil {
		return "", fmt.Errorf("cannot copy the medium: %w", err)
	}
	device := ""
	for _, line := range strings.Split(string(mounts), "\n") {
		if f := strings.Fields(line); len(f) > 2 && unescapeMount(f[1]) == o.Medium {
			device = unescapeMount(f[0]) // the last one is on top
		}
	}
	if !strings.HasPrefix(device, "/") {
		return "", hint.New(fmt.Errorf("cannot copy the medium: nothing that is a disc is mounted on %s", o.Medium),
			"boot the installer from the ISO or from a stick that it was written to")
	}
	return device, nil
}

// isoSize is the length of the image in bytes.
func isoSize(r io.ReaderAt) (int64, error) {
	d, err := readAt(r, 16*2048, 2048)
	if err != nil {
		return 0, err
	}
	if d[0] != 1 || string(d[1:6]) != "CD001" {
		return 0, errors.New("no ISO 9660 volume descriptor")
	}
	n := int64(binary.LittleEndian.Uint32(d[80:])) * int64(binary.LittleEndian.Uint16(d[128:]))
	if n < 17*2048 {
		return 0, fmt.Errorf("volume of %d bytes", n)
	}
	return n, nil
}

// room reports whether n more bytes leave the system enough to live with.
func room(dir string, n int64) error {
	const spare = 512 << 20
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("cannot copy the medium: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < n+spare {
		return hint.New(fmt.Errorf("cannot copy the medium: it has %s, the root file system has %s left", size(n), size(free)),
			"give the volume root a larger share in the disk recipe")
	}
	return nil
}

// copyFile copies n bytes into a file for root alone, in pieces, so that ctx can
// stop it, and renames at the end.
func copyFile(ctx context.Context, name string, src io.Reader, n int64) (err error) {
	tmp := name + ".part"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	for left := n; left > 0 && err == nil; {
		if err = ctx.Err(); err != nil {
			break
		}
		var done int64
		done, err = io.CopyN(f, src, min(left, 16<<20))
		left -= done
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, name)
}

// addFstab appends lines that are not there yet.
func addFstab(name, lines string) error {
	old, err := readBounded(name, 1<<20)
	if err != nil {
		return fmt.Errorf("cannot add to %s: %w", name, err)
	}
	if strings.Contains(string(old), lines) {
		return nil
	}
	return writeFile(name, append(old, lines...), 0o644)
}

// keepLogs copies the installer's logs to where d-i keeps its own.
func keepLogs(o Options) error {
	dir := filepath.Join(o.Target, "var/log/installer")
	for _, name := range o.Logs {
		data, err := readBounded(name, 64<<20)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = writeFile(filepath.Join(dir, filepath.Base(name)), data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("cannot keep the log: %w", err)
		}
	}
	return nil
}

// endOfInstallation takes the mark off the partition table, writes everything
// to the disk and unmounts the target.
func endOfInstallation(o Options) error {
	unix.Sync()
	path, err := recall(o, "disk")
	if err != nil {
		return fmt.Errorf("it is not known which disk was installed on: %w", err)
	}
	hw, err := readHardware(o)
	if err != nil {
		return err
	}
	name, err := recall(o, "partition")
	if err != nil {
		return fmt.Errorf("the first partition's name is not known: %w", err)
	}
	for _, d := range hw.Disks {
		if d.Path == path {
			if err := finishTable(d.Path, d.Size, d.Sector, name); err != nil {
				return err
			}
		}
	}
	if !o.Unmount {
		return nil
	}
	return unmountAll(o.Proc, o.Target)
}
