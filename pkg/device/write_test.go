//go:build linux

package device

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// image is random bytes; its length is no multiple of anything.
func image(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	if _, err := r.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWriteFile(t *testing.T) {
	for _, n := range []int{1000, head, head + 4096, 9<<20 + 77} {
		want := image(t, n)
		path := filepath.Join(t.TempDir(), "stick.img")
		if err := os.WriteFile(path, bytes.Repeat([]byte{0xee}, 20<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		target, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var last []string
		err = Write(t.Context(), target, Options{Image: bytes.NewReader(want), Size: int64(n), Progress: func(part string, done, total int64) {
			if done == total {
				last = append(last, part)
			}
		}})
		if err := errors.Join(err, target.Close()); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:n], want) {
			t.Errorf("%d bytes: the file is not the image", n)
		}
		if len(last) < 2 || last[0] != Writing || last[len(last)-1] != Comparing {
			t.Errorf("%d bytes: finished %q", n, last)
		}
	}
}

// stick is a target in memory that fails as sticks do.
type stick struct {
	data  []byte
	syncs int
	// fake is the size above which writes go back to the start: sticks that
	// say that they are larger than they are.
	fake int64
	stop func(s *stick)
}

func (s *stick) WriteAt(b []byte, at int64) (int, error) {
	if s.fake > 0 {
		at %= s.fake
	}
	if int(at)+len(b) > len(s.data) {
		return 0, io.ErrShortWrite
	}
	return copy(s.data[at:], b), nil
}

func (s *stick) Sync() error {
	s.syncs++
	if s.stop != nil {
		s.stop(s)
	}
	return nil
}

func (s *stick) Reread() (io.ReaderAt, error) { return bytes.NewReader(s.data), nil }
func (s *stick) Close() error                 { return nil }

func TestWriteFaulty(t *testing.T) {
	const n = 32 << 20
	want := image(t, n)
	for _, test := range []struct {
		summary string
		stick   *stick
		want    string
	}{
		{"smaller than it says", &stick{data: make([]byte, n), fake: 16 << 20},
			"cannot use what was written: what is on it differs from the image at byte 1048576: the medium is faulty, or not as large as it says"},
		{"ends early", &stick{data: make([]byte, n/2)}, "cannot write image: short write"},
		{"loses a bit", &stick{data: make([]byte, n), stop: func(s *stick) { s.data[5<<20] = want[5<<20] ^ 1 }},
			"cannot use what was written: what is on it differs from the image at byte 5242880: the medium is faulty, or not as large as it says"},
	} {
		err := Write(t.Context(), test.stick, Options{Image: bytes.NewReader(want), Size: n})
		if err == nil {
			t.Errorf("%s: no error", test.summary)
			continue
		}
		if diff := cmp.Diff(test.want, err.Error()); diff != "" {
			t.Errorf("%s: %s", test.summary, diff)
		}
	}
}

// TestWriteInterrupted guards that a stick with half an image neither boots nor
// shows partitions.
func TestWriteInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &stick{data: bytes.Repeat([]byte{0xee}, 32<<20)}
	s.stop = func(s *stick) {
		if s.syncs == 3 {
			cancel()
		}
	}
	err := Write(ctx, s, Options{Image: bytes.NewReader(image(t, 32<<20)), Size: 32 << 20})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v; want context.Canceled", err)
	}
	if !bytes.Equal(s.data[:head], make([]byte, head)) {
		t.Error("the head of the stick is not empty")
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:        "cannot write to " + file + ": it is no block device",
		"/dev/null": "cannot write to /dev/null: it is no block device",
	} {
		if _, err := Open(path); err == nil || err.Error() != want {
			t.Errorf("Open(%s) = %v; want %s", path, err, want)
		}
	}
	if _, err := OpenFile("/dev/null"); err == nil {
		t.Error("OpenFile took /dev/null")
	}
}

// TestWriteDevice writes to a real block device, a loop device, and guards that
// the kernel refuses it while it is mounted.
func TestWriteDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(path, make([]byte, 24<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", loop).Run() })
	target, err := Open(loop)
	if err != nil {
		t.Fatal(err)
	}
	want := image(t, 20<<20)
	err = Write(t.Context(), target, Options{Image: bytes.NewReader(want), Size: 20 << 20})
	if err := errors.Join(err, Reload(target), target.Close()); err != nil {
		t.Log("partitions are not read again: ", err) // without partition support
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got[:20<<20], want) {
		t.Errorf("the device is not the image: %v", err)
	}
	if err := exec.Command("mkfs.ext4", "-qF", loop).Run(); err != nil {
		t.Skipf("no file system to mount: %v", err)
	}
	dir := t.TempDir()
	if err := exec.Command("mount", loop, dir).Run(); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	defer func() { _ = exec.Command("umount", dir).Run() }()
	if _, err := Open(loop); err == nil || err.Error() != "cannot write to "+loop+": the kernel says that it is in use" {
		t.Errorf("Open of a mounted device = %v", err)
	}
}

// TestDiscard guards that a file of ours goes and a file of others stays.
func TestDiscard(t *testing.T) {
	dir := t.TempDir()
	ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
	if err := os.WriteFile(theirs, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, stays := range map[string]bool{ours: false, theirs: true} {
		target, err := OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(target.Close(), Discard(target)); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil != stays {
			t.Errorf("%s: %v; want it to stay: %v", path, err, stays)
		}
	}
}

func TestBuffer(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 10000} {
		b := Buffer(n)
		if len(b) != n || cap(b) != n || n > 0 && addressOf(b) != 0 {
			t.Errorf("Buffer(%d): %d bytes, %d behind a boundary", n, len(b), addressOf(b))
		}
	}
}
