package installer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// SeedDir is approx's cache below the root of the service machine, and SeedList
// the list of what Seed has put there: a path below SeedDir on each line, behind
// the digest of the medium. What is on it the clean-up must keep.
const (
	SeedDir  = "var/cache/approx"
	SeedList = "var/lib/sci/approx-seed"
)

const maxSeedSums = 16 << 20 // bytes of SHA256SUMS

// SeedOptions say what to fill a package cache from.
type SeedOptions struct {
	// Medium is where the medium is mounted; empty means /media/sci.
	Medium string
	// Target is the root directory of the service machine, which has the package
	// approx already.
	Target string
	// Keyring is the site's: the list of the medium's files must be signed by it.
	Keyring pgp.Keyring
	// Tell hears how many of the bytes are there, now and then; nil is deaf.
	Tell func(done, total int64)
}

// Seed fills the package cache of a new service machine from the medium:
// Debian's own indexes and packages as repositories debian, updates and
// security, the site's own signed repository as site. Every byte is held against
// the medium's signed list while it is copied. It may be killed and called again:
// what is there whole is not copied again, and what is done is nothing to do.
func Seed(ctx context.Context, o SeedOptions) error {
	if o.Medium == "" {
		o.Medium = "/media/sci"
	}
	s := &seeder{SeedOptions: o, at: make(map[string]string), dates: make(map[string]time.Time)}
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("cannot fill the package cache: %w", err)
	}
	return nil
}

// seedFile is a file to be in the cache.
type seedFile struct {
	from string // below the medium
	to   string // below SeedDir
	sum  string
	size int64
}

type seeder struct {
	SeedOptions
	uid, gid int
	files    []seedFile
	at       map[string]string    // by digest: the first copy, below SeedDir
	dates    map[string]time.Time // by repository: of its Release file
	done     int64
	total    int64
}

func (s *seeder) run(ctx context.Context) error {
	sums, err := s.sums()
	if err != nil {
		return err
	}
	digest := sha256.Sum256(sums)
	stamp := hex.EncodeToString(digest[:])
	list := filepath.Join(s.Target, SeedList)
	if data, err := readBounded(list, maxSeedSums); err == nil && strings.HasPrefix(string(data), stamp+"\n") {
		return nil
	}
	if s.uid, s.gid, err = owner(s.Target, "approx"); err != nil {
		return err
	}
	if err := s.plan(sums); err != nil {
		return err
	}
	if err := s.room(); err != nil {
		return err
	}
	for _, f := range s.files {
		if err := s.put(ctx, f); err != nil {
			return err
		}
	}
	return s.finish(list, stamp)
}

// sums is the medium's list of files, after its signature was verified. The
// clock of a new machine may be anywhere: the signature's own time counts.
func (s *seeder) sums() ([]byte, error) {
	sums, err := readBounded(filepath.Join(s.Medium, "SHA256SUMS"), maxSeedSums)
	if err != nil {
		return nil, hint.New(err, "is the medium mounted on "+s.Medium+"?")
	}
	signature, err := readBounded(filepath.Join(s.Medium, "SHA256SUMS.asc"), 64<<10)
	if err != nil {
		return nil, err
	}
	if _, err := s.Keyring.VerifyDetached(bytes.NewReader(sums), signature, time.Time{}); err != nil {
		return nil, fmt.Errorf("cannot trust %s: %w", filepath.Join(s.Medium, "SHA256SUMS"), err)
	}
	return sums, nil
}

// owner is a user of the target, with its group of the same name.
func owner(target, name string) (uid, gid int, err error) {
	for _, f := range []struct {
		file string
		id   *int
	}{{"etc/passwd", &uid}, {"etc/group", &gid}} {
		data, err := readBounded(filepath.Join(target, f.file), 1<<20)
		if err != nil {
			return 0, 0, err
		}
		if *f.id, err = idOf(data, name); err != nil {
			return 0, 0, hint.New(fmt.Errorf("/%s: %w", f.file, err), "is the package approx installed there?")
		}
	}
	return uid, gid, nil
}

// idOf reads passwd(5) or group(5): in both the third field is the number.
func idOf(data []byte, name string) (int, error) {
	for l := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimRight(l, "\n"), ":"); len(f) > 2 && f[0] == name {
			return strconv.Atoi(f[2])
		}
	}
	return 0, fmt.Errorf("there is no %q", name)
}

// plan lists what goes where, Debian's repositories first: the site's packages
// are mostly the same files.
func (s *seeder) plan(sums []byte) error {
	in := bufio.NewScanner(bytes.NewReader(sums))
	for in.Scan() {
		sum, name, ok := strings.Cut(in.Text(), "  ")
		if !ok || len(sum) != 2*sha256.Size || !fs.ValidPath(name) {
			return fmt.Errorf("SHA256SUMS: bad line %.200q", in.Text())
		}
		to, ok := seedPlace(name)
		if !ok {
			continue
		}
		info, err := os.Lstat(filepath.Join(s.Medium, name))
		if err != nil {
			return hint.New(err, damaged)
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is no file", name)
		}
		s.files = append(s.files, seedFile{name, to, sum, info.Size()})
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("SHA256SUMS: %w", err)
	}
	if !slices.ContainsFunc(s.files, func(f seedFile) bool { return strings.HasPrefix(f.to, "debian/dists/") }) {
		return hint.New(errors.New("the medium has no indexes of Debian"), "build a medium of a site file that has a service machine")
	}
	slices.SortStableFunc(s.files, func(a, b seedFile) int { return siteLast(a.to) - siteLast(b.to) })
	seen := make(map[string]bool)
	for _, f := range s.files {
		if path.Base(f.to) == "InRelease" {
			if err := s.date(f); err != nil {
				return err
			}
		}
		if !seen[f.sum] {
			s.total += f.size
		}
		seen[f.sum] = true
	}
	return nil
}

func siteLast(to string) int {
	if strings.HasPrefix(to, "site/") {
		return 1
	}
	return 0
}

// seedPlace is where a file of the medium stands in the cache, if it does.
func seedPlace(name string) (string, bool) {
	first, rest, _ := strings.Cut(name, "/")
	switch {
	case first == "debian":
		return rest, rest != ""
	case first == "dists":
		return "site/" + name, true
	case first == "pool" && path.Ext(name) == ".deb":
		return "site/" + name, true
	}
	return "", false
}

// date notes when a repository's Release file was made. approx asks the mirror
// for what is newer than the file: it must not look younger than it is.
func (s *seeder) date(f seedFile) error {
	data, err := readBounded(filepath.Join(s.Medium, f.from), maxRelease)
	if err != nil {
		return err
	}
	for l := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(l, "Date: "); ok {
			t, err := time.Parse(time.RFC1123, strings.TrimSpace(value))
			if err != nil {
				return fmt.Errorf("%s: %w", f.from, err)
			}
			repository, _, _ := strings.Cut(f.to, "/")
			s.dates[repository] = t
			return nil
		}
	}
	return fmt.Errorf("%s has no date", f.from)
}

// room refuses to begin what cannot end: a full disk would stop more than the
// package cache. What an earlier try has brought is there already.
func (s *seeder) room() error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(s.Target, &st); err != nil {
		return err
	}
	need := s.total + s.total/20
	for _, f := range s.files {
		if info, err := os.Lstat(s.path(f.to)); err == nil {
			need -= info.Size()
		}
	}
	if free := int64(st.Bavail) * st.Bsize; free < need {
		return hint.New(fmt.Errorf("it takes %d MB, and %s has %d MB left", need>>20, s.Target, free>>20),
			"give the service machine a larger disk")
	}
	return nil
}

func (s *seeder) path(to string) string { return filepath.Join(s.Target, SeedDir, to) }

// put brings one file into its place. A second name for the same bytes is a hard
// link.
func (s *seeder) put(ctx context.Context, f seedFile) error {
	to := s.path(f.to)
	if err := s.mkdir(path.Dir(f.to)); err != nil {
		return err
	}
	if first, ok := s.at[f.sum]; ok {
		if oneFile(s.path(first), to) {
			return nil
		}
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Link(s.path(first), to)
	}
	s.at[f.sum] = f.to
	if got, err := digestOf(to, f.size); err != nil || got != f.sum {
		if err := s.copy(ctx, f, to); err != nil {
			return err
		}
	}
	if s.done += f.size; s.Tell != nil {
		s.Tell(s.done, s.total)
	}
	repository, _, _ := strings.Cut(f.to, "/")
	if when, ok := s.dates[repository]; ok {
		if err := os.Chtimes(to, when, when); err != nil {
			return err
		}
	}
	return os.Lchown(to, s.uid, s.gid)
}

func oneFile(a, b string) bool {
	first, err := os.Lstat(a)
	if err != nil {
		return false
	}
	second, err := os.Lstat(b)
	return err == nil && os.SameFile(first, second)
}

// digestOf is the digest of a file of that size; any other one is an error.
func digestOf(name string, size int64) (string, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() != size {
		return "", errors.New("another file")
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// copy copies beside and renames, so that a name never stands for half a file.
func (s *seeder) copy(ctx context.Context, f seedFile, to string) error {
	in, err := os.Open(filepath.Join(s.Medium, f.from))
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	tmp := filepath.Join(s.Target, SeedDir, ".seed.new")
	out, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp) }() // fails when it was renamed
	h := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, h), io.LimitReader(readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return in.Read(b)
	}), f.size+1))
	if err := errors.Join(err, out.Chmod(0o644), out.Close()); err != nil {
		return fmt.Errorf("cannot copy %s: %w", f.from, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != f.sum {
		return hint.New(fmt.Errorf("cannot trust %s: it has the digest %s, and the signed list says %s", f.from, got, f.sum), damaged)
	}
	return os.Rename(tmp, to)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// mkdir makes a directory of the cache and those above it, all approx's own: it
// refuses to work below one that is not.
func (s *seeder) mkdir(dir string) error {
	if dir == "." {
		dir = ""
	} else if err := s.mkdir(path.Dir(dir)); err != nil {
		return err
	}
	name := s.path(dir)
	if dir == "" {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.Lchown(name, s.uid, s.gid)
}

// finish syncs and then notes that all is there, and what it is.
func (s *seeder) finish(list, stamp string) error {
	root, err := os.Open(filepath.Join(s.Target, SeedDir))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := unix.Syncfs(int(root.Fd())); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString(stamp + "\n")
	for _, f := range s.files {
		b.WriteString(f.to + "\n")
	}
	if err := os.MkdirAll(filepath.Dir(list), 0o755); err != nil {
		return err
	}
	tmp := list + ".new"
	if err := os.WriteFile(tmp, []byte(b.String()), 0o644); err != nil {
		return err
	}
	return errors.Join(os.Rename(tmp, list), unix.Syncfs(int(root.Fd())))
}
