package installer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/site"
)

// golden is the image that the host is installed from, believed by the site's
// key.
type golden struct {
	dir      string
	manifest *image.Manifest
}

// goldenImage returns the image of the host's class, or nil where the site is
// installed from packages.
func goldenImage(o Options, s *site.Site, h *site.Host) (*golden, error) {
	if s.Install != site.FromImage || capturing(o) {
		return nil, nil
	}
	dir := roleDir(o, h)
	if _, err := os.Stat(filepath.Join(dir, image.ManifestFile)); errors.Is(err, fs.ErrNotExist) {
		if h.Virtual {
			return nil, nil // a medium may do without: the cluster then takes packages
		}
		return nil, hint.New(fmt.Errorf("the medium has no image of %s, and the site is installed from images", h.Class()),
			"run sci-cd capture and build the medium again")
	}
	keys, err := siteKeys(o)
	if err != nil {
		return nil, err
	}
	m, err := image.Open(dir, keys)
	if err != nil {
		return nil, err
	}
	if m.Class != h.Class() || m.Codename != s.Release {
		return nil, fmt.Errorf("cannot use image %s: it is of %s on %s, want %s on %s", dir, m.Class, m.Codename, h.Class(), s.Release)
	}
	return &golden{dir, m}, nil
}

// layers are those that a machine of this firmware needs, in order.
func (g *golden) layers(uefi bool) ([]image.Layer, error) {
	firmware := image.BIOS
	if uefi {
		firmware = image.UEFI
	}
	var list []image.Layer
	for _, name := range []string{image.Base, firmware} {
		l, ok := g.manifest.Layer(name)
		if !ok {
			return nil, fmt.Errorf("cannot use image %s: it has no layer %s", g.dir, name)
		}
		list = append(list, l)
	}
	return list, nil
}

// checkImage reads the whole image, if the host is installed from one, before
// anything is written to a disk. What was read is remembered by the manifest's
// digest.
func checkImage(ctx context.Context, o Options, s *site.Site, h *site.Host) error {
	g, err := goldenImage(o, s, h)
	if g == nil || err != nil {
		return err
	}
	layers, err := g.layers(exists(o.Sys, "firmware/efi"))
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := l.Verify(ctx, g.dir); err != nil {
			return err
		}
	}
	id, err := g.id()
	if err != nil {
		return err
	}
	say(o.Console, "image verified")
	return remember(o, "image", id)
}

func (g *golden) id() (string, error) {
	data, err := g.manifest.Bytes()
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), err
}

// unpackImage lays the image out on the new file systems.
func unpackImage(ctx context.Context, o Options, g *golden) error {
	id, err := g.id()
	if err != nil {
		return err
	}
	if verified, err := recall(o, "image"); err != nil || verified != id {
		return hint.New(errors.New("the image was not verified before the disk was divided"), "run the menu's step that partitions the disk")
	}
	layers, err := g.layers(exists(o.Sys, "firmware/efi"))
	if err != nil {
		return err
	}
	var all, before int64
	for _, l := range layers {
		all += l.Unpacked
	}
	said := int64(0)
	for _, l := range layers {
		if err := image.Remove(o.Target, l.Removed); err != nil {
			return err
		}
		progress := func(done int64) {
			if now := 10 * (before + done) / max(all, 1); now > said {
				said = now
				say(o.Console, "base %d %% of %d MB", 10*now, all/1e6)
			}
		}
		if err := unpackLayer(ctx, filepath.Join(g.dir, l.File()), o.Target, progress); err != nil {
			return err
		}
		before += l.Unpacked
	}
	return nil
}

func unpackLayer(ctx context.Context, name, target string, progress func(int64)) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("cannot unpack image: %w", err)
	}
	defer func() { _ = f.Close() }()
	z, err := image.Decompress(f)
	if err != nil {
		return fmt.Errorf("cannot unpack image: %w", err)
	}
	defer func() { _ = z.Close() }()
	return image.Unpack(ctx, z, target, image.UnpackOptions{Progress: progress})
}

// personal gives the machine what an image does not hold: its name, its
// identity, its keys.
func (c *chroot) personal(ctx context.Context, s *site.Site, h *site.Host) error {
	if err := c.hostFiles(s, h); err != nil {
		return err
	}
	id, err := machineID(rand.Reader)
	if err != nil {
		return err
	}
	if err := c.write("/etc/machine-id", id+"\n", 0o444); err != nil {
		return err
	}
	for _, k := range []struct {
		program string // what makes it, and whose package wants it
		argv    []string
	}{
		// as the packages' own scripts do
		{"usr/bin/ssh-keygen", []string{"ssh-keygen", "-q", "-A"}},
		{"usr/sbin/rndc-confgen", []string{"rndc-confgen", "-a", "-u", "bind"}},
		{"usr/sbin/make-ssl-cert", []string{"make-ssl-cert", "generate-default-snakeoil"}},
	} {
		if _, err := os.Stat(filepath.Join(c.o.Target, k.program)); err != nil {
			continue
		}
		if _, err := c.run(ctx, nil, k.argv...); err != nil {
			return fmt.Errorf("cannot make the machine's keys: %w", err)
		}
	}
	return nil
}

// machineID makes the content of /etc/machine-id: a random UUID of version 4
// without hyphens, machine-id(5).
func machineID(random io.Reader) (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return "", fmt.Errorf("cannot make a machine id: %w", err)
	}
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return hex.EncodeToString(id[:]), nil
}
