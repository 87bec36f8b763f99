package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/skycover/sci-cd/pkg/initrd"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/tree"
)

// stockPreseed is the file of Options.Preseed with the answers of a stock
// installation: a text/template over stockValues.
const stockPreseed = "preseed.cfg"

// stockRemoved are packages of the stock initrd that load further parts of the
// installer, from a network or from the medium: all parts are there.
var stockRemoved = []string{
	"brltty-udeb", "choose-mirror", "download-installer", "load-cdrom", "media-retriever", "net-retriever", "network-preseed",
}

// stockValues are what the preseed file of a stock installation sees.
type stockValues struct {
	Host, Domain, Locale, Keyboard, Timezone, Password string

	Packages []string
}

// Stock makes a medium that installs the class of the site's first machine with
// Debian's own installer, unchanged: partman, debootstrap, apt-setup, pkgsel,
// grub-installer. It is what `make bench-install` measures ours against, and
// good for nothing else. Options.Preseed holds installer.udebs, installer.tools
// and preseed.cfg of that installer instead of ours; Options.Lock is a lock of
// its own.
func Stock(ctx context.Context, o Options) (*Result, error) {
	classes, err := selectClasses(o)
	if err != nil {
		return nil, err
	}
	l, isNew, err := currentLock(ctx, o, classes)
	if err != nil {
		return nil, err
	}
	files, err := fetch(ctx, o, l)
	if err != nil {
		return nil, err
	}
	key, newKey, err := pgp.LoadOrCreate(o.Key, "SCI-CD site "+o.Site.Name, "", "root@"+o.Site.Domain, l.Time())
	if err != nil {
		return nil, err
	}
	when := sourceTime(l)
	agent, err := packAgent(o, when)
	if err != nil {
		return nil, err
	}
	repository, err := makeRepository(o, l, files, agent, key, when)
	if err != nil {
		return nil, err
	}
	// As on Debian's own discs: apt-cdrom believes the disc, and fails over a
	// signature, for it looks for gpgv, which trixie's base system has not.
	for _, name := range []string{"InRelease", "Release.gpg"} {
		repository.Remove(path.Join("dists", l.Codename, name))
	}
	boot, err := stockInstaller(ctx, o, l, files, classes, when)
	if err != nil {
		return nil, err
	}
	drivers, err := firmware(o, l, files)
	if err != nil {
		return nil, err
	}
	t, image, err := media.Tree(media.Options{
		Manifest: manifest(o, l, classes, nil, agent, key, boot, when), Repository: repository, Kernel: boot.kernel, Initrd: boot.initrd,
		Loaders: boot.loaders, Roles: &tree.Tree{}, Firmware: drivers, Key: key, Time: when,
	})
	if err != nil {
		return nil, err
	}
	written, err := writeISO(ctx, o.Output, func(f *os.File) (*iso.Result, error) { return iso.Write(ctx, f, t, *image) })
	if err != nil {
		return nil, err
	}
	return &Result{Output: o.Output, Size: written.Size, Packages: len(l.Packages), NewLock: isNew, NewKey: newKey, Fingerprint: key.Fingerprint()}, nil
}

// stockInstaller is makeInstaller without anything of ours.
func stockInstaller(ctx context.Context, o Options, l *lock.Lock, files map[string]string, classes []*profile.Selection, when time.Time) (*boot, error) {
	parts, err := readParts(o.Preseed)
	if err != nil {
		return nil, err
	}
	var image *netboot
	opts := initrd.Options{Remove: stockRemoved}
	for _, p := range l.Packages {
		file := files[p.SHA256]
		switch boot, installer := slices.Contains(p.Uses, useBoot), slices.Contains(p.Uses, useInstaller); {
		case boot && strings.HasPrefix(p.Name, "debian-installer-"):
			if image, err = readNetboot(o, file, p.SHA256); err != nil {
				return nil, err
			}
		case !installer:
		case p.Kind == "udeb":
			opts.Udebs = append(opts.Udebs, file)
		case strings.HasPrefix(p.Name, "linux-image-"):
			opts.Kernel = file
		default:
			for _, t := range parts.tools {
				if slices.Contains(t.names, p.Name) {
					opts.Tools = append(opts.Tools, initrd.Tool{Deb: file, Files: t.files})
				}
			}
		}
	}
	if image == nil {
		return nil, errors.New("cannot find the netboot image in the lock")
	}
	opts.Stock = image.stock // and no locale: all translations, as Debian has them
	base, err := initrd.Base(ctx, opts)
	if err != nil {
		return nil, err
	}
	answers, err := stockAnswers(o, classes)
	if err != nil {
		return nil, err
	}
	if err := base.AddBytes("preseed.cfg", 0o644, answers); err != nil {
		return nil, err
	}
	// GNU screen makes a serial console's log unreadable; our medium has it not.
	if err := base.AddBytes("usr/bin/screen", 0o644, nil); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := initrd.Write(&b, image.stock, base, when); err != nil {
		return nil, err
	}
	loaders, err := readLoaders(l, files)
	if err != nil {
		return nil, err
	}
	return &boot{kernel: image.kernel, initrd: concat([][]byte{image.gz, b.Bytes()}), loaders: *loaders, abi: image.stock.ABI}, nil
}

// stockAnswers renders the preseed file for the site's first machine of iron.
func stockAnswers(o Options, classes []*profile.Selection) ([]byte, error) {
	source, err := fs.ReadFile(o.Preseed, stockPreseed)
	if err != nil {
		return nil, err
	}
	t, err := template.New(stockPreseed).Option("missingkey=error").Parse(string(source))
	if err != nil {
		return nil, err
	}
	for _, h := range o.Site.Hosts {
		i := slices.IndexFunc(classes, func(c *profile.Selection) bool { return c.Role == h.Class() })
		if h.Virtual || i < 0 {
			continue
		}
		v := stockValues{
			Host: h.Name, Domain: o.Site.Domain, Locale: o.Site.Locale, Keyboard: o.Site.Keyboard, Timezone: o.Site.Timezone,
			Password: string(o.Site.Root.PasswordHash), Packages: classes[i].Packages,
		}
		if v.Password == "" {
			v.Password = "*"
		}
		var b bytes.Buffer
		err := t.Execute(&b, v)
		return b.Bytes(), err
	}
	return nil, fmt.Errorf("cannot make a stock medium: site %s has virtual hosts only", o.Site.Name)
}
