package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/skycover/sci-cd/pkg/run"
)

// chroot is the new system with everything mounted that its tools need.
type chroot struct {
	o   Options
	env []string
}

// mediaDir is where the medium's archive is inside the new system, now by a
// bind mount, later by the copy of the medium.
const mediaDir = "/media/sci"

// noInitramfs is the variable that kernel packages' hooks look at.
const noInitramfs = "INITRD"

// enter mounts /proc, /sys, /dev, /run and the medium inside the target. leave
// undoes it. What a verb that failed left mounted is undone first.
func enter(ctx context.Context, o Options) (*chroot, error) {
	c := &chroot{o: o, env: []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TERM=linux", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true",
		"LVM_SUPPRESS_FD_WARNINGS=1", // of the descriptors that d-i left open
		// The kernel package's hook builds no initramfs then: the verb boot
		// builds the only one (/etc/kernel/postinst.d/initramfs-tools).
		noInitramfs + "=No",
	}}
	if err := c.leave(ctx); err != nil {
		return nil, err
	}
	for _, m := range c.mounts() {
		point := filepath.Join(o.Target, m.point)
		err := os.MkdirAll(point, 0o755)
		if err == nil {
			err = mountFS(m.device, point, m.filesystem, m.options)
		}
		if err != nil && m.optional {
			say(o.Console, "cannot mount %s: %v", m.device, err)
			continue
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot mount %s on %s: %w", m.device, point, err), c.leave(ctx))
		}
	}
	if err := os.MkdirAll(filepath.Join(o.Target, "run/lock"), 0o1777); err != nil {
		return nil, errors.Join(err, c.leave(ctx))
	}
	return c, nil
}

type mountPoint struct {
	device, point, filesystem, options string
	// optional: the installation goes on without it.
	optional bool
}

func (c *chroot) mounts() []mountPoint {
	list := []mountPoint{
		{device: "proc", point: "proc", filesystem: "proc", options: "nosuid,nodev,noexec"},
		{device: "/sys", point: "sys", options: "bind"},
		{device: c.o.Dev, point: "dev", options: "bind"},
		{device: "devpts", point: "dev/pts", filesystem: "devpts", options: "nosuid,noexec,gid=5,mode=620,ptmxmode=666"},
		// A /run of its own: no socket of the installer is seen by packages'
		// scripts, and nothing stays behind.
		{device: "tmpfs", point: "run", filesystem: "tmpfs", options: "nosuid,nodev,mode=755"},
		{device: c.o.Medium, point: mediaDir, options: "bind"},
	}
	// LVM's and GRUB's tools ask udev's database, and wait 10 s a device for it.
	if _, err := os.Stat("/run/udev"); err == nil {
		list = append(list, mountPoint{device: "/run/udev", point: "run/udev", options: "bind"})
	}
	// efibootmgr writes the firmware's variables; without them the removable
	// path boots.
	if exists(c.o.Sys, "firmware/efi/efivars") {
		list = append(list, mountPoint{device: "efivarfs", point: "sys/firmware/efi/efivars",
			filesystem: "efivarfs", options: "nosuid,nodev,noexec", optional: true})
	}
	return list
}

// leave ends what still runs in the target and unmounts what enter mounted.
func (c *chroot) leave(ctx context.Context) error {
	if _, err := os.Stat(c.o.Target); err != nil {
		return fmt.Errorf("the target is not there: %w", err)
	}
	if err := endProcesses(ctx, c.o.Proc, c.o.Target); err != nil {
		return err
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", mediaDir} {
		if err := unmountAll(c.o.Proc, filepath.Join(c.o.Target, dir)); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command in the new system.
func (c *chroot) run(ctx context.Context, stdin io.Reader, argv ...string) (string, error) {
	out, err := c.o.Runner.Run(ctx, run.Cmd{
		Argv: append([]string{"chroot", c.o.Target}, argv...), Env: c.env, Stdin: stdin, Log: c.o.Log,
	})
	return strings.TrimSpace(string(out)), err
}

// write puts a file into the new system; name is absolute there. Symbolic
// links in the way are followed only inside the target.
func (c *chroot) write(name, content string, mode os.FileMode) error {
	root, err := os.OpenRoot(c.o.Target)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	defer func() { _ = root.Close() }()
	rel := strings.TrimPrefix(name, "/")
	err = root.MkdirAll(filepath.Dir(rel), 0o755)
	if err == nil {
		err = root.WriteFile(rel+".sci-new", []byte(content), mode)
	}
	if err == nil {
		err = root.Chmod(rel+".sci-new", mode)
	}
	if err == nil {
		err = root.Rename(rel+".sci-new", rel)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

// within enters the target, calls f, and leaves, whatever f says.
func within(ctx context.Context, o Options, f func(*chroot) error) error {
	c, err := enter(ctx, o)
	if err != nil {
		return err
	}
	err = f(c)
	// The clean-up is done even if ctx has ended.
	return errors.Join(err, c.leave(context.WithoutCancel(ctx)))
}
