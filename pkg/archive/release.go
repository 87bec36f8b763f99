package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
)

// maxRelease bounds InRelease, Release and Release.gpg, in bytes. trixie's
// InRelease has 140 kB.
const maxRelease = 16 << 20

// maxAhead is how far a Release file may be dated ahead of the clock.
const maxAhead = time.Hour

// release is a parsed Release file.
type release struct {
	suite, codename, version string
	date, validUntil         time.Time
	byHash                   bool
	archs                    []string
	noAll                    bool            // binary-ARCH holds the packages for all, too
	files                    map[string]file // by path below the pocket
}

// file is what a Release file says of an index.
type file struct {
	sum  string
	size int64
}

// parseRelease reads the fields that we need. Nothing is believed of it but
// what the signature covers: hand it verified bytes only.
func parseRelease(data []byte) (*release, error) {
	c, err := deb.ParseControl(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read Release: %w", err)
	}
	r := &release{
		suite:    c.Get("Suite"),
		codename: c.Get("Codename"),
		version:  c.Get("Version"),
		byHash:   c.Get("Acquire-By-Hash") == "yes",
		archs:    strings.Fields(c.Get("Architectures")),
		noAll:    slices.Contains(strings.Fields(c.Get("No-Support-for-Architecture-all")), "Packages"),
	}
	if r.date, err = parseDate(c.Get("Date")); err != nil {
		return nil, fmt.Errorf("cannot read Release: Date: %w", err)
	}
	if until := c.Get("Valid-Until"); until != "" {
		if r.validUntil, err = parseDate(until); err != nil {
			return nil, fmt.Errorf("cannot read Release: Valid-Until: %w", err)
		}
	}
	if r.files, err = parseSums(c.Get("SHA256")); err != nil {
		return nil, fmt.Errorf("cannot read Release: SHA256: %w", err)
	}
	return r, nil
}

// parseSums reads lines "DIGEST SIZE PATH".
func parseSums(text string) (map[string]file, error) {
	files := make(map[string]file)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 || !isSum(words[0]) {
			return nil, fmt.Errorf("bad line %.100q", strings.TrimSpace(line))
		}
		size, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("bad size in line %.100q", strings.TrimSpace(line))
		}
		f := file{words[0], size}
		if old, ok := files[words[2]]; ok && old != f {
			return nil, fmt.Errorf("%.100q is there twice", words[2])
		}
		files[words[2]] = f
	}
	if len(files) == 0 {
		return nil, errors.New("no files listed")
	}
	return files, nil
}

// parseDate reads the date format of Release files, which is always in UTC.
func parseDate(s string) (time.Time, error) {
	zone := strings.TrimSpace(s)
	for _, utc := range []string{" UTC", " GMT", " +0000", " Z"} {
		if rest, ok := strings.CutSuffix(zone, utc); ok {
			if t, err := time.Parse("Mon, 2 Jan 2006 15:04:05", rest); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%.60q is no date in UTC", s)
}

func isSum(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// signed is a Release file whose signature was verified.
type signed struct {
	*release
	url  string
	sum  string // of the file at url
	size int64  // of the same
}

// readRelease gets the pocket's Release file, verifies and judges it. Like apt
// it stays with the newest file that it has seen at a mirror: an older one may
// be an attack, and at best is a mirror that is behind.
func (r *reader) readRelease(ctx context.Context, p pocket) (*signed, error) {
	dir := p.path()
	inRelease := join(p.base, dir+"InRelease")
	got, data, err := r.fetchRelease(ctx, p, dir, inRelease)
	if err != nil {
		return nil, err
	}
	if err := r.judge(p, got); err != nil {
		return nil, fmt.Errorf("%s: %w", show(got.url), err)
	}
	if got.url != inRelease || data == nil {
		return got, nil // detached signatures are not kept for offline use
	}
	if old, err := r.cachedRelease(inRelease); err == nil && old.date.After(got.date) && r.judge(p, old) == nil {
		return old, nil
	}
	sum, err := r.o.Cache.PutBytes(data)
	if err == nil {
		err = r.o.Cache.Record("inrelease", inRelease, sum)
	}
	return got, err
}

// fetchRelease gets InRelease, or Release with Release.gpg. data is what is
// worth keeping of it.
func (r *reader) fetchRelease(ctx context.Context, p pocket, dir, inRelease string) (*signed, []byte, error) {
	if r.o.Offline {
		s, err := r.cachedRelease(inRelease)
		return s, nil, err
	}
	data, err := r.f.read(ctx, "InRelease", inRelease, maxRelease)
	if errors.Is(err, errNotFound) {
		s, err := r.fetchDetached(ctx, p, dir)
		return s, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	s, err := r.verify(inRelease, data)
	return s, data, err
}

func (r *reader) fetchDetached(ctx context.Context, p pocket, dir string) (*signed, error) {
	url := join(p.base, dir+"Release")
	data, err := r.f.read(ctx, "Release", url, maxRelease)
	if errors.Is(err, errNotFound) {
		advice := hintMirror
		if !p.required {
			advice += `; a mirror "none" leaves the pocket out`
		}
		return nil, hint.New(fmt.Errorf("there is neither InRelease nor Release at %s", show(join(p.base, dir))), advice)
	}
	if err != nil {
		return nil, err
	}
	sig, err := r.f.read(ctx, "Release.gpg", url+".gpg", maxRelease)
	if errors.Is(err, errNotFound) {
		return nil, fmt.Errorf("%s has no signature: neither InRelease nor Release.gpg is there", show(url))
	}
	if err != nil {
		return nil, err
	}
	if _, err := r.o.Keyring.VerifyDetached(bytes.NewReader(data), sig, r.o.Now); err != nil {
		return nil, fmt.Errorf("%s: %w", show(url), err)
	}
	rel, err := parseRelease(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", show(url), err)
	}
	return &signed{rel, url, sumOf(data), int64(len(data))}, nil
}

func (r *reader) cachedRelease(inRelease string) (*signed, error) {
	sum, ok := r.o.Cache.Lookup("inrelease", inRelease)
	if !ok {
		return nil, fmt.Errorf("cannot fetch %s: not in the cache, and offline", show(inRelease))
	}
	data, err := r.o.Cache.ReadFile(sum, maxRelease)
	if err != nil {
		return nil, err
	}
	return r.verify(inRelease, data)
}

// verify checks a clearsigned Release file and parses what was signed.
func (r *reader) verify(url string, data []byte) (*signed, error) {
	body, _, err := r.o.Keyring.VerifyClearsigned(data, r.o.Now)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", show(url), err)
	}
	rel, err := parseRelease(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", show(url), err)
	}
	return &signed{rel, url, sumOf(data), int64(len(data))}, nil
}

// judge says whether a genuine Release file is the one to use: a signature
// alone does not keep a mirror from passing off bookworm as trixie, or last
// year's security updates as today's.
func (r *reader) judge(p pocket, s *signed) error {
	const day = "2006-01-02 15:04 UTC"
	switch {
	case s.codename != p.name && s.suite == p.name:
		return hint.New(fmt.Errorf("%q is a suite, its codename is %q", p.name, s.codename), "name the codename in the site file")
	case s.codename != p.name:
		return hint.New(fmt.Errorf("the Release file is for codename %q, want %q", s.codename, p.name), hintMirror)
	case s.date.After(r.o.Now.Add(maxAhead)):
		return hint.New(fmt.Errorf("the Release file is dated %s, and it is %s", s.date.Format(day), r.o.Now.UTC().Format(day)), hintClock)
	case !s.validUntil.IsZero() && s.validUntil.Before(r.o.Now):
		return hint.New(fmt.Errorf("the Release file expired at %s, and it is %s", s.validUntil.Format(day), r.o.Now.UTC().Format(day)),
			"the mirror is no longer updated, or "+hintClock)
	case !slices.Contains(s.archs, r.o.Arch):
		return fmt.Errorf("the archive has no architecture %q, only %s", r.o.Arch, strings.Join(s.archs, ", "))
	}
	return nil
}
