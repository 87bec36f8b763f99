package device

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Open opens a disk for this process alone.
func Open(path string) (Target, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, hint.New(fmt.Errorf("cannot write to %s: the kernel says that it is in use", path), "a file system, swap, RAID or volume group may be on it")
	case errors.Is(err, os.ErrPermission):
		return nil, hint.New(fmt.Errorf("cannot write to %s: %w", path, err), "run it as root, or as a member of the group that owns the device")
	case err != nil:
		return nil, fmt.Errorf("cannot write to device: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice {
		err = errors.New("it is no block device")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot write to %s: %w", path, err), f.Close())
	}
	return &file{File: f, path: path}, nil
}

// OpenFile opens a regular file in place of a disk, and makes it if needed.
func OpenFile(path string) (Target, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o644)
	made := err == nil
	if errors.Is(err, os.ErrExist) {
		f, err = os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write to file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot write to %s: %w", path, err), f.Close())
	}
	return &file{File: f, path: path, made: made}, nil
}

// Sync writes what the kernel holds back.
func (f *file) Sync() error { return unix.Fdatasync(int(f.Fd())) }

// Reread opens the same file past the kernel's memory; where the file system
// has no direct I/O, what is in memory is dropped first.
func (f *file) Reread() (io.ReaderAt, error) {
	if err := f.Sync(); err != nil {
		return nil, err
	}
	_ = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0) // a file has none
	r, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EINVAL) {
		r, err = os.Open(f.path)
		if err == nil {
			err = unix.Fadvise(int(r.Fd()), 0, 0, unix.FADV_DONTNEED)
		}
	}
	if err != nil {
		return nil, err
	}
	f.read = r
	return r, nil
}

// Reload makes the kernel read the partition table anew.
func Reload(t Target) error {
	f, ok := t.(*file)
	if !ok {
		return nil
	}
	return unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
}

func addressOf(b []byte) int { return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % block) }

// Supported says whether disks can be written to on this system.
func Supported() error { return nil }
