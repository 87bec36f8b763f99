package installer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/site"
)

// Files that exist in the target during the installation only.
const (
	policyFile = "/usr/sbin/policy-rc.d"
	unsafeIO   = "/etc/dpkg/dpkg.cfg.d/sci-installer"
)

// Files that stay.
const (
	siteKeyFile = "/etc/apt/keyrings/sci-site.gpg"
	sourcesFile = "/etc/apt/sources.list.d/sci-medium.sources"
)

// Base is the verb base: it takes the place of d-i's bootstrap-base. Everything
// essential is unpacked by us, in parallel and straight from the verified
// bytes; then dpkg, from inside, installs the same packages once more and apt
// with them, so that its database and every script are dpkg's own doing.
func Base(ctx context.Context, o Options) error {
	o = o.withDefaults()
	say(o.Console, "phase base")
	s, h, err := currentHost(o)
	if err != nil {
		return err
	}
	g, err := goldenImage(o, s, h)
	if err != nil {
		return err
	}
	if g != nil {
		if err := advanceClock(o, g.manifest.Time); err != nil {
			return err
		}
		if err := unpackImage(ctx, o, g); err != nil {
			return err
		}
		return within(ctx, o, func(c *chroot) error { return c.personal(ctx, s, h) })
	}
	keys, err := siteKeys(o)
	if err != nil {
		return err
	}
	repo, err := openRepository(o.Medium, s.Release, keys, o.Now())
	if err != nil {
		return err
	}
	if err := advanceClock(o, repo.date); err != nil {
		return err
	}
	essential, all, err := repo.bootstrapSet()
	if err != nil {
		return err
	}
	if err := unpackAll(ctx, o.Target, repo, essential, all); err != nil {
		return err
	}
	return within(ctx, o, func(c *chroot) error { return c.bootstrap(ctx, s, h, all) })
}

// advanceClock sets a clock that is behind the medium's own date to it.
func advanceClock(o Options, date time.Time) error {
	if !o.Now().Before(date) {
		return nil
	}
	say(o.Console, "the clock is behind the medium's date, set to %s", date.UTC().Format("2006-01-02 15:04:05 UTC"))
	if err := o.SetClock(date); err != nil {
		return fmt.Errorf("cannot set the clock: %w", err)
	}
	return nil
}

// siteKeys reads the site's public key.
func siteKeys(o Options) (pgp.Keyring, error) {
	data, err := readBounded(o.Key, 1<<20)
	if err != nil {
		return pgp.Keyring{}, fmt.Errorf("cannot read the site's key: %w", err)
	}
	keys, err := pgp.ReadKeyring(bytes.NewReader(data))
	if err != nil {
		return pgp.Keyring{}, fmt.Errorf("cannot read the site's key %s: %w", o.Key, err)
	}
	return keys, nil
}

// unpackAll checks the digest of all packages and unpacks the essential ones.
func unpackAll(ctx context.Context, target string, repo *repository, essential, all []*deb.Package) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("cannot unpack the base system: %w", err)
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return fmt.Errorf("cannot unpack the base system: %w", err)
	}
	defer func() { _ = root.Close() }()
	if err := prepareRoot(root); err != nil {
		return fmt.Errorf("cannot unpack the base system: %w", err)
	}
	unpack := make(map[string]bool, len(essential))
	for _, p := range essential {
		unpack[p.Name] = true
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.NumCPU()))
	for _, p := range all {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			data, err := repo.read(p)
			if err != nil || !unpack[p.Name] {
				return err
			}
			return unpackDeb(root, p.Name, data)
		})
	}
	return g.Wait()
}

// prepareRoot makes what has to be there before the first package: the links
// of merged /usr, which every package's files then follow, and an empty dpkg
// database.
func prepareRoot(root *os.Root) error {
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := root.MkdirAll("usr/"+dir, 0o755); err != nil {
			return err
		}
		if _, err := root.Lstat(dir); err == nil {
			continue
		}
		if err := root.Symlink("usr/"+dir, dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "tmp"} {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := root.Chmod("tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	for _, name := range []string{"var/lib/dpkg/status", "var/lib/dpkg/available"} {
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func unpackDeb(root *os.Root, name string, data []byte) error {
	f, err := deb.New(name, bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	u := unpacker{root: root, skip: unneeded}
	return f.Data(u.entry)
}

// unneeded are the files that nothing needs before dpkg unpacks them again.
func unneeded(name string) bool {
	for _, dir := range []string{"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug"} {
		if name == dir || strings.HasPrefix(name, dir+"/") {
			return true
		}
	}
	return false
}

// bootstrap runs dpkg inside the target over the packages that apt needs.
func (c *chroot) bootstrap(ctx context.Context, s *site.Site, h *site.Host, all []*deb.Package) error {
	if err := c.hostFiles(s, h); err != nil {
		return err
	}
	key, err := readBounded(c.o.Key, 1<<20)
	if err != nil {
		return err
	}
	err = c.writeAll([]textFile{
		{siteKeyFile, string(key), 0o644},
		{sourcesFile, sources(s), 0o644},
	})
	if err != nil {
		return err
	}
	if err := c.localtime(s.Timezone); err != nil {
		return err
	}
	if _, err := c.run(ctx, strings.NewReader(selections(s)), "debconf-set-selections"); err != nil {
		return fmt.Errorf("cannot answer the packages' questions: %w", err)
	}
	argv := []string{"dpkg", "--install", "--force-depends"}
	for _, p := range firstPasswd(all) {
		argv = append(argv, path.Join(mediaDir, p.Filename))
	}
	count := &counter{console: c.o.Console, what: "base", total: len(all)}
	if err := c.logged(ctx, count, argv...); err != nil {
		return fmt.Errorf("cannot install the base system: %w", err)
	}
	return nil
}

// hostFiles writes what the machine is called, and what is there during the
// installation only.
func (c *chroot) hostFiles(s *site.Site, h *site.Host) error {
	if err := c.transientFiles(); err != nil {
		return err
	}
	return c.writeAll([]textFile{
		{"/etc/hostname", s.FQDN(h.Name) + "\n", 0o644},
		{"/etc/hosts", fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1 %s %s\n::1 localhost ip6-localhost ip6-loopback\n", s.FQDN(h.Name), h.Name), 0o644},
	})
}

// transientFiles writes the files that the verb finish removes.
func (c *chroot) transientFiles() error {
	return c.writeAll([]textFile{
		// Debian policy 9.11: no service starts in a system that does not run.
		{policyFile, "#!/bin/sh\n# No service starts while the system is being installed.\nexit 101\n", 0o755},
		// Power lost now means starting over anyway.
		{unsafeIO, "force-unsafe-io\n", 0o644},
	})
}

// textFile is a file to be written into the target.
type textFile struct {
	name, content string
	mode          os.FileMode
}

func (c *chroot) writeAll(files []textFile) error {
	for _, f := range files {
		if err := c.write(f.name, f.content, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// localtime is set before tzdata is configured, which then keeps it. No
// /etc/timezone: trixie's tzdata has given it up, bookworm's writes it by itself.
func (c *chroot) localtime(zone string) error {
	link := filepath.Join(c.o.Target, "etc/localtime")
	_ = os.Remove(link)
	if err := os.Symlink("/usr/share/zoneinfo/"+zone, link); err != nil {
		return fmt.Errorf("cannot set the time zone: %w", err)
	}
	return nil
}

// firstPasswd puts base-passwd in front: it makes the users and groups that
// other packages' files belong to.
func firstPasswd(all []*deb.Package) []*deb.Package {
	list := make([]*deb.Package, 0, len(all))
	for _, first := range []bool{true, false} {
		for _, p := range all {
			if (p.Name == "base-passwd") == first {
				list = append(list, p)
			}
		}
	}
	return list
}

// sources is apt's source of the medium, checked with the site's key.
func sources(s *site.Site) string {
	return "# Written by the installer of SCI-CD (sci-agent): the installation medium's\n" +
		"# archive, signed by the site's key.\n" +
		"Types: deb\nURIs: file:" + mediaDir + "\nSuites: " + s.Release +
		"\nComponents: main\nSigned-By: " + siteKeyFile + "\n"
}

// logged runs a command whose output goes to the log and past a watcher.
func (c *chroot) logged(ctx context.Context, w io.Writer, argv ...string) error {
	with := *c
	with.o.Log = io.MultiWriter(c.o.Log, w)
	_, err := with.run(ctx, nil, argv...)
	return err
}

// counter follows dpkg's "Unpacking" and "Setting up" lines and says every
// tenth of the way. It learns from apt-get how many packages there will be, if
// nobody told it.
type counter struct {
	console io.Writer
	what    string
	total   int // packages
	done    int // lines, two a package
	line    []byte
}

// aptTotal is apt-get's summary (apt-private/private-output.cc).
var aptTotal = regexp.MustCompile(`^[0-9]+ upgraded, ([0-9]+) newly installed`)

func (c *counter) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			if len(c.line) < 80 {
				c.line = append(c.line, b)
			}
			continue
		}
		if m := aptTotal.FindSubmatch(c.line); m != nil {
			c.total, _ = strconv.Atoi(string(m[1]))
		}
		if bytes.HasPrefix(c.line, []byte("Unpacking ")) || bytes.HasPrefix(c.line, []byte("Setting up ")) {
			c.step()
		}
		c.line = c.line[:0]
	}
	return len(p), nil
}

func (c *counter) step() {
	if c.total == 0 {
		return
	}
	before := 10 * c.done / (2 * c.total)
	c.done++
	if now := 10 * c.done / (2 * c.total); now > before && now <= 10 {
		say(c.console, "%s %d %% of %d packages", c.what, 10*now, c.total)
	}
}
