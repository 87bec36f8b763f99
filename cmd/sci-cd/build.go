package main

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
)

// exampleDir is where the embedded example site and its ISO go.
const exampleDir = "dist"

// siteFlags are the flags of the verbs that read a site and an archive.
type siteFlags struct {
	mirrors  archive.Mirrors
	keyring  string
	cacheDir string
	offline  bool
}

func (f *siteFlags) add(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&f.mirrors.Main, "mirror", os.Getenv("SCI_CD_MIRROR"), "base URL of the Debian archive (SCI_CD_MIRROR; default: the site file's, else what this machine's apt sources name)")
	flags.StringVar(&f.mirrors.Security, "mirror-security", os.Getenv("SCI_CD_MIRROR_SECURITY"), "base URL of the security archive (SCI_CD_MIRROR_SECURITY)")
	flags.StringVar(&f.mirrors.Updates, "mirror-updates", os.Getenv("SCI_CD_MIRROR_UPDATES"), "base URL of the archive with RELEASE-updates (SCI_CD_MIRROR_UPDATES)")
	flags.StringVar(&f.keyring, "keyring", os.Getenv("SCI_CD_KEYRING"), "keys that the archive is believed by, instead of Debian's (SCI_CD_KEYRING)")
	flags.StringVar(&f.cacheDir, "cache", os.Getenv("SCI_CD_CACHE"), "directory of the download cache (SCI_CD_CACHE; default $XDG_CACHE_HOME/sci-cd)")
	flags.BoolVar(&f.offline, "offline", false, "no network: everything from the cache, or fail")
}

// options loads the site named by args, or the example, and fills in the rest.
func (f *siteFlags) options(ui *ui, p program, args []string) (build.Options, error) {
	path := filepath.Join(exampleDir, "site.yaml")
	if len(args) > 0 {
		path = args[0]
	} else if err := writeExample(path); err != nil {
		return build.Options{}, err
	}
	s, err := profile.LoadSite(path, scicd.Profiles())
	if err != nil {
		return build.Options{}, err
	}
	dir := f.cacheDir
	if dir == "" {
		if dir, err = cache.Default(); err != nil {
			return build.Options{}, err
		}
	}
	store, err := cache.Open(dir)
	if err != nil {
		return build.Options{}, err
	}
	agent, err := p.agent()
	if err != nil {
		return build.Options{}, err
	}
	o := build.Options{
		Site: s, SiteFile: path, Lock: beside(path, "sci.lock"), Key: beside(path, "sci.key"), Images: beside(path, "images"), Cache: store,
		Mirrors: f.mirrors, Offline: f.offline, Agent: agent, Version: p.version,
		Preseed: scicd.Preseed(), Profiles: scicd.Profiles(), Overlay: scicd.Overlay(),
		Progress: ui, Step: ui.step, Note: ui.note, Now: time.Now(),
	}
	if f.keyring != "" {
		k, err := pgp.LoadKeyring(f.keyring)
		if err != nil {
			return build.Options{}, err
		}
		o.Keyring = &k
	}
	return o, nil
}

func beside(path, name string) string { return filepath.Join(filepath.Dir(path), name) }

// writeExample writes the embedded site file unless one is there already.
func writeExample(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	err := create(path, site.Example())
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

func newBuild(ui *ui, p program) *cobra.Command {
	var f siteFlags
	var output string
	c := &cobra.Command{
		Use:   "build [SITE]",
		Short: "Build the ISO of a site",
		Long: `Build the ISO of a site.

SITE is the path of a site file; without it the embedded example is built in
` + exampleDir + `/. Beside the site file stand its lock (sci.lock: which packages, made at the
first build, renewed by sci-cd lock) and its key (sci.key: signs the medium;
keep it secret and keep it). The same site file, lock and key give the same
bytes, on any machine, in any year.`,
		Args:              arguments(0, 1),
		ValidArgsFunction: files("yaml", "yml"),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.options(ui, p, args)
			if err != nil {
				return err
			}
			o.Output = output
			if o.Output == "" {
				o.Output = "sci-cd-" + o.Site.Name + "-" + o.Site.Release + "-amd64.iso"
				if len(args) == 0 {
					o.Output = filepath.Join(exampleDir, "sci-cd-"+o.Site.Release+"-amd64.iso")
				}
			}
			r, err := build.Build(c.Context(), o)
			if err != nil {
				return err
			}
			if r.NewKey {
				ui.note("made the site's key " + o.Key + ": keep it secret, and keep it")
			}
			if r.NewLock {
				ui.note("made the lock " + o.Lock)
			}
			return ui.result(r, "%s\n  %s, %d packages\n  sha256 %s\n  key    %s\n", r.Output, size(r.Size), r.Packages, r.SHA256, r.Fingerprint)
		},
	}
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "", "path of the ISO")
	return c
}

var (
	errNoAgent = hint.New(errors.New("this sci-cd carries no agent"), noBinary)
	errNoGuest = hint.New(errors.New("this sci-cd carries no guest"), noBinary)
)

const noBinary = "build it with make, or run it from the sources with Go installed"
