package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/preseed"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
	"github.com/skycover/sci-cd/pkg/tree"
)

// imageVersion is part of an image's inputs: raise it when the same inputs give
// another image.
const imageVersion = "1"

// Image is a golden image that a site has or is to have.
type Image struct {
	// Manifest is the image's own where it is current, else what is known of
	// it beforehand.
	Manifest image.Manifest
	Dir      string
	// Current says that the image is there and was made from the same inputs.
	Current bool
	Key     *pgp.Key
}

// Images lists the golden images of some classes of machines, nil for all that
// the installer installs.
func Images(ctx context.Context, o Options, roles []string) ([]Image, error) {
	classes, err := selectClasses(o)
	if err != nil {
		return nil, err
	}
	if roles == nil {
		roles = installed(o.Site)
	}
	l, _, err := currentLock(ctx, o, classes)
	if err != nil {
		return nil, err
	}
	key, _, err := siteKey(o, l)
	if err != nil {
		return nil, err
	}
	var list []Image
	for _, role := range roles {
		i := slices.IndexFunc(classes, func(c *profile.Selection) bool { return c.Role == role })
		if i < 0 {
			return nil, hint.New(fmt.Errorf("the site has no host of role %q", role), fmt.Sprintf("its roles: %q", o.Site.Classes()))
		}
		img, err := findImage(o, l, classes[i], key)
		if err != nil {
			return nil, err
		}
		list = append(list, *img)
	}
	return list, nil
}

// installed are the classes of machines that the installer installs.
func installed(s *site.Site) []string {
	var list []string
	for i := range s.Hosts {
		if h := &s.Hosts[i]; !h.Virtual && !slices.Contains(list, h.Class()) {
			list = append(list, h.Class())
		}
	}
	slices.Sort(list)
	return list
}

// findImage looks for the image of a class.
func findImage(o Options, l *lock.Lock, c *profile.Selection, key *pgp.Key) (*Image, error) {
	inputs, err := imageInputs(o, l, c, key)
	if err != nil {
		return nil, err
	}
	img := &Image{Dir: filepath.Join(o.Images, c.Role), Key: key}
	img.Manifest = image.Manifest{Class: c.Role, Codename: l.Codename, Arch: arch, Inputs: inputs, Time: sourceTime(l)}
	keys, err := key.Keyring()
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(img.Dir); errors.Is(err, fs.ErrNotExist) {
		return img, nil
	}
	m, err := image.Open(img.Dir, keys)
	if err != nil {
		o.note("the image in %s is of no use: %v", img.Dir, err)
		return img, nil
	}
	if img.Current = m.Inputs == inputs; img.Current {
		img.Manifest = *m
	}
	return img, nil
}

// imageInputs is the digest of everything that an image is made from.
func imageInputs(o Options, l *lock.Lock, c *profile.Selection, key *pgp.Key) (string, error) {
	answers, _, err := preseed.Render(o.Preseed, o.Site, c)
	if err != nil {
		return "", err
	}
	overlay, err := profile.Overlay(o.Overlay, c.Role)
	if err != nil {
		return "", err
	}
	packed, err := packTar(overlay, time.Unix(0, 0))
	if err != nil {
		return "", err
	}
	s := o.Site
	return digest(fmt.Appendf(nil, "image %s\nclass %s\nlock %s\nkey %s\nagent %s\nsite %s %s %s\npackages %s\nanswers %s\noverlay %s\n",
		imageVersion, c.Role, digest(l.Bytes()), key.Fingerprint(), digest(o.Agent), s.Locale, s.Keyboard, s.Timezone,
		strings.Join(c.Packages, " "), digest(answers), digest(packed))), nil
}

// goldenImages adds the images to what stands below sci/ on the medium, where
// the site is installed from images, and returns them by class.
func goldenImages(ctx context.Context, o Options, t *tree.Tree, l *lock.Lock, classes []*profile.Selection, key *pgp.Key) (map[string]*image.Manifest, error) {
	images := make(map[string]*image.Manifest)
	if o.Site.Install != site.FromImage {
		return images, nil
	}
	for _, c := range classes {
		img, err := findImage(o, l, c, key)
		if err != nil {
			return nil, err
		}
		if !img.Current && !slices.Contains(installed(o.Site), c.Role) {
			o.note("no current image of %s in %s: the cluster makes such machines from packages", c.Role, o.Images)
			continue
		}
		if !img.Current {
			return nil, hint.New(fmt.Errorf("the site is installed from images, and there is no current one of %s in %s", c.Role, o.Images),
				"run: sci-cd capture "+strings.TrimSpace(o.SiteFile)+" --role "+c.Role)
		}
		if err := addImage(ctx, t, img); err != nil {
			return nil, err
		}
		images[c.Role] = &img.Manifest
	}
	return images, nil
}

func addImage(ctx context.Context, t *tree.Tree, img *Image) error {
	m := &img.Manifest
	for _, name := range []string{image.ManifestFile, image.SignatureFile} {
		data, err := os.ReadFile(filepath.Join(img.Dir, name))
		if err != nil {
			return fmt.Errorf("cannot read image: %w", err)
		}
		if err := t.AddBytes(path.Join(m.Class, name), 0o644, data); err != nil {
			return err
		}
	}
	for _, l := range m.Layers {
		if err := l.Verify(ctx, img.Dir); err != nil {
			return hint.New(err, "remove "+img.Dir+" and run sci-cd capture")
		}
		if err := t.AddFile(path.Join(m.Class, l.File()), 0o644, filepath.Join(img.Dir, l.File()), l.SHA256); err != nil {
			return err
		}
	}
	return nil
}
