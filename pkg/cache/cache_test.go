package cache_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/cache"
)

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

func open(t *testing.T) *cache.Cache {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// files lists the regular files below dir, relative to it.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			list = append(list, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestPutAndRead(t *testing.T) {
	c := open(t)
	data := []byte("hello")
	got, err := c.PutBytes(data)
	if err != nil || got != sum(data) {
		t.Fatalf("PutBytes = %q, %v; want %q", got, err, sum(data))
	}
	path, ok := c.Path(got)
	if !ok {
		t.Fatal("Path does not find what was put")
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o444 {
		t.Errorf("mode %v, %v; want 0444", info.Mode(), err)
	}
	if read, err := c.ReadFile(got, 5); err != nil || !bytes.Equal(read, data) {
		t.Errorf("ReadFile = %q, %v", read, err)
	}
	if _, err := c.ReadFile(got, 4); err == nil || !strings.Contains(err.Error(), "5 bytes are over the limit of 4") {
		t.Errorf("ReadFile over the limit: %v", err)
	}
	if want := []string{"sha256/" + got[:2] + "/" + got}; fmt.Sprint(files(t, c.Dir())) != fmt.Sprint(want) {
		t.Errorf("files %q, want %q", files(t, c.Dir()), want)
	}
}

func TestDamagedFileIsDropped(t *testing.T) {
	for _, how := range []string{"ReadFile", "Verify"} {
		c := open(t)
		s, err := c.PutBytes([]byte("hello"))
		if err != nil {
			t.Fatal(err)
		}
		path, _ := c.Path(s)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("hellO"), 0o644); err != nil {
			t.Fatal(err)
		}
		if how == "Verify" {
			err = c.Verify(s)
		} else {
			_, err = c.ReadFile(s, 100)
		}
		if err == nil || !strings.Contains(err.Error(), "was damaged") {
			t.Errorf("%s: error %v", how, err)
		}
		if _, ok := c.Path(s); ok {
			t.Errorf("%s: damaged file is still there", how)
		}
	}
}

func TestBadDigests(t *testing.T) {
	c := open(t)
	for _, s := range []string{"", "../../etc/passwd", strings.Repeat("A", 64), strings.Repeat("a", 63), strings.Repeat("a", 63) + "/"} {
		if _, ok := c.Path(s); ok {
			t.Errorf("Path(%q) found something", s)
		}
		if _, err := c.Writer(s, 1); err == nil {
			t.Errorf("Writer(%q) was given", s)
		}
		if _, err := c.Open(s); err == nil {
			t.Errorf("Open(%q) was given", s)
		}
		if err := c.Drop(s); err == nil {
			t.Errorf("Drop(%q) said nothing", s)
		}
		if err := c.Record("k", "key", s); err == nil {
			t.Errorf("Record(%q) said nothing", s)
		}
	}
	if _, err := c.Open(sum(nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a missing file: %v", err)
	}
}

func TestWriter(t *testing.T) {
	data := []byte("0123456789")
	tests := []struct {
		summary string
		size    int64
		writes  []string
		err     string   // of the last Write or of Commit
		left    []string // files
	}{
		{"whole", 10, []string{"01234", "56789"}, "", []string{"sha256/84/" + sum(data)}},
		{"short", 10, []string{"01234"}, "5 bytes, want 10", []string{"part/" + sum(data) + ".part"}},
		{"long", 10, []string{"0123456789", "x"}, "longer than the 10 bytes expected", []string{"part/" + sum(data) + ".part"}},
		{"wrong", 10, []string{"012345678X"}, "SHA-256 is ", nil},
		{"size too small in the index", 5, []string{"01234"}, "SHA-256 is ", nil},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			c := open(t)
			w, err := c.Writer(sum(data), tt.size)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.writes {
				if _, err = io.WriteString(w, s); err != nil {
					break
				}
			}
			if err == nil {
				err = w.Commit()
			}
			if cerr := w.Close(); cerr != nil {
				t.Error(cerr)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if got := files(t, c.Dir()); fmt.Sprint(got) != fmt.Sprint(tt.left) {
				t.Errorf("files %q, want %q", got, tt.left)
			}
		})
	}
}

func TestResume(t *testing.T) {
	c := open(t)
	data := []byte("0123456789")
	w, err := c.Writer(sum(data), 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data[:4]); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w, err = c.Writer(sum(data), 10); err != nil {
		t.Fatal(err)
	}
	if w.Offset() != 4 {
		t.Fatalf("Offset = %d, want 4", w.Offset())
	}
	if _, err := w.Write(data[4:]); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(sum(data)); err != nil {
		t.Error(err)
	}
}

func TestPartialLongerThanTheFileIsThrownAway(t *testing.T) {
	c := open(t)
	data := []byte("0123456789")
	part := filepath.Join(c.Dir(), "part", sum(data)+".part")
	if err := os.WriteFile(part, bytes.Repeat([]byte("x"), 11), 0o644); err != nil {
		t.Fatal(err)
	}
	w, err := c.Writer(sum(data), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if w.Offset() != 0 {
		t.Errorf("Offset = %d, want 0", w.Offset())
	}
}

func TestBusy(t *testing.T) {
	c := open(t)
	data := []byte("0123456789")
	w, err := c.Writer(sum(data), 10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Writer(sum(data), 10); !errors.Is(err, cache.ErrBusy) {
		t.Errorf("second writer: %v, want ErrBusy", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w2, err := c.Writer(sum(data), 10)
	if err != nil {
		t.Fatalf("writer after Close: %v", err)
	}
	if err := w2.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestNotes(t *testing.T) {
	c := open(t)
	s, err := c.PutBytes([]byte("derived"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Record("index", "key 1", s); err != nil {
		t.Fatal(err)
	}
	if got, ok := c.Lookup("index", "key 1"); !ok || got != s {
		t.Errorf("Lookup = %q, %v; want %q", got, ok, s)
	}
	for _, k := range [][2]string{{"index", "key 2"}, {"kmod", "key 1"}, {"../index", "key 1"}, {"", "key 1"}} {
		if got, ok := c.Lookup(k[0], k[1]); ok {
			t.Errorf("Lookup(%q, %q) = %q", k[0], k[1], got)
		}
	}
	if err := c.Record("../x", "key", s); err == nil {
		t.Error("Record took a kind with a slash")
	}
	if err := c.Drop(s); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.Lookup("index", "key 1"); ok {
		t.Error("Lookup names a file that is gone")
	}
}

// TestProcesses lets several processes write the same files at once into one
// cache; each must end with all of them.
func TestProcesses(t *testing.T) {
	if dir := os.Getenv("SCI_CD_TEST_CACHE"); dir != "" {
		c, err := cache.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		writeAll(t, c)
		return
	}
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestProcesses$", "-test.count=1")
			cmd.Env = append(os.Environ(), "SCI_CD_TEST_CACHE="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := files(t, dir)
	if len(list) != 50 {
		t.Errorf("%d files, want 50: %q", len(list), list)
	}
	for i := range 50 {
		if err := c.Verify(sum(content(i))); err != nil {
			t.Error(err)
		}
	}
}

func content(i int) []byte { return bytes.Repeat([]byte{byte(i), 1, 2}, 1000+i) }

func writeAll(t *testing.T, c *cache.Cache) {
	for i := range 50 {
		data := content(i)
		for {
			if _, ok := c.Path(sum(data)); ok {
				break
			}
			w, err := c.Writer(sum(data), int64(len(data)))
			if errors.Is(err, cache.ErrBusy) {
				time.Sleep(time.Millisecond)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data[w.Offset():]); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
}
