package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/site"
)

// Options are the inputs of Build and MakeLock.
type Options struct {
	Site *site.Site
	// Lock and Key are the paths of the lock file and of the site's private
	// key. Both are made where they are missing.
	Lock, Key string
	// SiteFile is the path of the site file, for advice.
	SiteFile string
	// Images is the directory of the site's golden images.
	Images string
	// Output is the path of the ISO.
	Output string
	Cache  *cache.Cache
	// Mirrors override the site file's; empty fields don't.
	Mirrors archive.Mirrors
	// Keyring is the archive's; nil is Debian's, which is in the binary.
	Keyring *pgp.Keyring
	// Offline forbids all network traffic.
	Offline bool
	// Agent is the static linux/amd64 binary sci-agent.
	Agent []byte
	// Version of the builder, for the manifest and the agent's package.
	Version string
	// Preseed, Profiles and Overlay are the directories of those names.
	Preseed, Profiles, Overlay fs.FS
	// Progress of downloads; nil shows none.
	Progress archive.Progress
	// Step is told the name of each step as it begins; nil is silence.
	Step func(name string)
	// Note is told what a person should know but what stops nothing.
	Note func(text string)
	// Now is the current time: it decides whether a Release file has expired,
	// and nothing else.
	Now time.Time
}

// Result is what Build made.
type Result struct {
	Output      string
	Size        int64
	SHA256      string
	Payload     int64 // bytes of all files, shared ones counted each time
	Packages    int
	NewLock     bool
	NewKey      bool
	Fingerprint string
}

// Build makes the medium of a site.
func Build(ctx context.Context, o Options) (*Result, error) {
	o.step("profiles")
	classes, err := selectClasses(o) // what each class of machines gets
	if err != nil {
		return nil, err
	}
	l, isNew, err := currentLock(ctx, o, classes) // sci.lock: checked, or made from the archive
	if err != nil {
		return nil, err
	}
	o.step("packages")
	files, err := fetch(ctx, o, l) // every locked file, verified, in the cache
	if err != nil {
		return nil, err
	}
	key, newKey, err := siteKey(o, l)
	if err != nil {
		return nil, err
	}
	when := sourceTime(l)
	agent, err := packAgent(o, when) // sci-agent_*.deb
	if err != nil {
		return nil, err
	}
	o.step("repository")
	repository, err := makeRepository(o, l, files, agent, key, when) // pool/ and dists/, signed
	if err != nil {
		return nil, err
	}
	debian, debianLines, err := debianTree(ctx, o, l, files) // Debian's own indexes, for the service machine's package cache
	if err != nil {
		return nil, err
	}
	o.step("installer")
	boot, err := makeInstaller(ctx, o, l, files, classes, key, when) // kernel, initrd, boot loaders
	if err != nil {
		return nil, err
	}
	roles, err := roleFiles(o, classes, when) // what the agent reads from the medium
	if err != nil {
		return nil, err
	}
	images, err := goldenImages(ctx, o, roles, l, classes, key) // sci-cd capture's, where the site wants them
	if err != nil {
		return nil, err
	}
	drivers, err := firmware(o, l, files)
	if err != nil {
		return nil, err
	}
	about := manifest(o, l, classes, images, agent, key, boot, when)
	about.Debian = debianLines
	t, image, err := media.Tree(media.Options{
		Manifest: about, Repository: repository, Debian: debian,
		Kernel: boot.kernel, Initrd: boot.initrd, Loaders: boot.loaders, Roles: roles, Firmware: drivers, Key: key, Time: when,
	})
	if err != nil {
		return nil, err
	}
	o.step("image")
	image.Hash = true
	written, err := writeISO(ctx, o.Output, func(f *os.File) (*iso.Result, error) { return iso.Write(ctx, f, t, *image) })
	if err != nil {
		return nil, err
	}
	return &Result{
		Output: o.Output, Size: written.Size, SHA256: written.SHA256, Payload: written.Payload,
		Packages: len(l.Packages), NewLock: isNew, NewKey: newKey, Fingerprint: key.Fingerprint(),
	}, nil
}

// siteKey is the key that signs the medium, made where there is none.
func siteKey(o Options, l *lock.Lock) (key *pgp.Key, isNew bool, err error) {
	return pgp.LoadOrCreate(o.Key, "SCI-CD site "+o.Site.Name, "", "root@"+o.Site.Domain, l.Time())
}

func (o Options) step(name string) {
	if o.Step != nil {
		o.Step(name)
	}
}

func (o Options) note(format string, args ...any) {
	if o.Note != nil {
		o.Note(fmt.Sprintf(format, args...))
	}
}

// sourceTime is the time of everything we write: SOURCE_DATE_EPOCH where it is
// set (https://reproducible-builds.org/specs/source-date-epoch/), else the
// newest Release file of the lock. Never the clock.
func sourceTime(l *lock.Lock) time.Time {
	var seconds int64
	if v := os.Getenv("SOURCE_DATE_EPOCH"); v != "" {
		if _, err := fmt.Sscanf(v, "%d", &seconds); err == nil {
			return time.Unix(seconds, 0).UTC()
		}
	}
	return l.Time().UTC()
}

// writeISO writes beside the output and renames, so that a failed build leaves
// no file and a reader never sees half of one.
func writeISO(ctx context.Context, output string, write func(*os.File) (*iso.Result, error)) (*iso.Result, error) {
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return nil, fmt.Errorf("cannot write %q: %w", output, err)
	}
	f, err := os.CreateTemp(filepath.Dir(output), "."+filepath.Base(output)+".*")
	if err != nil {
		return nil, fmt.Errorf("cannot write %q: %w", output, err)
	}
	defer func() { _ = os.Remove(f.Name()); _ = f.Close() }()
	result, err := write(f)
	if err != nil {
		return nil, fmt.Errorf("cannot write %q: %w", output, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := f.Chmod(0o644); err != nil {
		return nil, fmt.Errorf("cannot write %q: %w", output, err)
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("cannot write %q: %w", output, err)
	}
	if err := os.Rename(f.Name(), output); err != nil {
		return nil, fmt.Errorf("cannot write %q: %w", output, err)
	}
	return result, nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
