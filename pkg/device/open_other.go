//go:build !linux

package device

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Supported says whether disks can be written to on this system.
func Supported() error {
	return hint.New(fmt.Errorf("cannot write to a disk: sci-cd does it on Linux only, this is %s", runtime.GOOS),
		"copy the image with this system's own tool; it is the whole disk's content, byte for byte")
}

// Open is for Linux only.
func Open(string) (Target, error) { return nil, Supported() }

// OpenFile is for Linux only.
func OpenFile(string) (Target, error) { return nil, Supported() }

// Sync is for Linux only.
func (f *file) Sync() error { return f.File.Sync() }

// Reread is for Linux only.
func (f *file) Reread() (io.ReaderAt, error) { return nil, Supported() }

// Reload is for Linux only.
func Reload(Target) error { return errors.ErrUnsupported }

func addressOf([]byte) int { return 0 }
