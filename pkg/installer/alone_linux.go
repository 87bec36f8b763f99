package installer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// aloneEnv marks the process that Alone started.
const aloneEnv = "SCI_OS_ALONE"

// IsAlone reports whether this process is the one that Alone started.
func IsAlone() bool { return os.Getenv(aloneEnv) != "" && os.Getpid() == 1 }

// Alone runs this program once more, with the same arguments, in namespaces of its
// own: of mounts, processes, IPC and networks. When it ends, or is killed, or we
// are, then the kernel takes away what it mounted, the processes that packages'
// scripts left, and with its last user the loop device. It reaches no network and
// no socket of the node. The error of a program that failed is an *exec.ExitError.
func Alone(ctx context.Context) error {
	// The child gets its signal when the thread ends that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), aloneEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	err := cmd.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		return fmt.Errorf("cannot work alone: %w", err)
	}
	return err
}

// seclude gives the process that Alone started a view of its own: of processes,
// and of devices only those that any program needs and the disk. It is called
// while the disk is attached.
func seclude(o OSOptions, d *virtualDisk) error {
	for _, m := range []struct {
		device, point, filesystem string
		flags                     uintptr
		data                      string
	}{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", o.Work, "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=700"},
		{"tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"tmpfs", "/run/udev", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
	} {
		if err := os.MkdirAll(m.point, 0o755); err != nil {
			return fmt.Errorf("cannot work alone: %w", err)
		}
		if err := unix.Mount(m.device, m.point, m.filesystem, m.flags, m.data); err != nil {
			return fmt.Errorf("cannot work alone: mount on %s: %w", m.point, err)
		}
	}
	if err := makeDev(); err != nil {
		return fmt.Errorf("cannot work alone: %w", err)
	}
	return makeNode(d.node)
}

// makeDev fills an empty /dev with what programs expect.
func makeDev() error {
	old := unix.Umask(0)
	defer unix.Umask(old)
	for _, n := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		if err := unix.Mknod(filepath.Join("/dev", n.name), unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil { //nolint:gosec // small
			return fmt.Errorf("/dev/%s: %w", n.name, err)
		}
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
		"stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"pts", "disk/by-uuid"} {
		if err := os.MkdirAll(filepath.Join("/dev", dir), 0o755); err != nil {
			return err
		}
	}
	return os.Mkdir("/dev/shm", 0o1777)
}
