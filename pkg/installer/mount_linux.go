package installer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skycover/sci-cd/pkg/run"
)

// openExclusive opens a block device the way that fails with EBUSY while
// anybody has it mounted or claimed (O_EXCL on a block device, open(2)).
func openExclusive(device string) (*os.File, error) {
	return os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
}

// reread makes the kernel read the partition table and waits for the nodes.
func reread(ctx context.Context, disk string, partitions []string) error {
	var err error
	for range 20 { // udev may have the disk open for a moment
		if err = rereadOnce(disk); !errors.Is(err, unix.EBUSY) {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(250 * time.Millisecond):
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make the kernel read the partitions of %s: %w", disk, err)
	}
	// Closing the disk makes udev read the table once more, and while it does
	// the partitions' nodes go and come again.
	settle := run.Cmd{Argv: []string{"udevadm", "settle", "--timeout=30"}}
	if _, err := (run.Host{}).Run(ctx, settle); err != nil && !errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("cannot wait for the partitions of %s: %w", disk, err)
	}
	return waitFor(ctx, partitions, 30*time.Second)
}

func rereadOnce(disk string) error {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
}

// mountFS is mount(2) with the options of an fstab.
func mountFS(device, point, filesystem, options string) error {
	flags, rest := uintptr(0), []string(nil)
	for _, o := range strings.Split(options, ",") {
		switch o {
		case "", "defaults":
		case "ro":
			flags |= unix.MS_RDONLY
		case "bind":
			flags |= unix.MS_BIND
		case "nosuid":
			flags |= unix.MS_NOSUID
		case "nodev":
			flags |= unix.MS_NODEV
		case "noexec":
			flags |= unix.MS_NOEXEC
		default:
			rest = append(rest, o)
		}
	}
	return unix.Mount(device, point, filesystem, flags, strings.Join(rest, ","))
}

// unmountFS is umount(2).
func unmountFS(point string) error { return unix.Unmount(point, 0) }

// unmountAll unmounts dir and everything below it, inner mounts first. Nothing
// mounted is no error.
func unmountAll(proc, dir string) error {
	data, err := readBounded(filepath.Join(proc, "mounts"), 4<<20)
	if err != nil {
		return fmt.Errorf("cannot unmount %s: %w", dir, err)
	}
	var points []string
	for _, line := range strings.Split(string(data), "\n") {
		f := strings.Fields(line)
		if len(f) > 1 {
			if p := unescapeMount(f[1]); p == dir || strings.HasPrefix(p, dir+"/") {
				points = append(points, p)
			}
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(points)))
	for _, p := range points {
		if err := unix.Unmount(p, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("cannot unmount %s: %w", p, err)
		}
	}
	return nil
}

// unescapeMount undoes the octal escapes of /proc/mounts.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// endProcesses ends what a package's script left running in the target: first
// politely, then by SIGKILL. Only processes whose root directory is the target
// are touched.
func endProcesses(ctx context.Context, proc, target string) error {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL, 0} {
		pids, err := processesIn(proc, target)
		if err != nil || len(pids) == 0 {
			return err
		}
		if sig == 0 {
			return fmt.Errorf("processes %v in %s cannot be ended", pids, target)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, sig)
		}
		for range 30 {
			if pids, err = processesIn(proc, target); err != nil || len(pids) == 0 {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

func processesIn(proc, target string) ([]int, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("cannot look for processes in %s: %w", target, err)
	}
	want, err := filepath.EvalSymlinks(target)
	if err != nil {
		return nil, fmt.Errorf("cannot look for processes in %s: %w", target, err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if root, err := os.Readlink(filepath.Join(proc, e.Name(), "root")); err == nil && root == want {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func setClock(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}
