package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/capture"
	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/site"
)

func newCapture(ui *ui, p program) *cobra.Command {
	var f siteFlags
	var roles []string
	var memory int
	var force bool
	c := &cobra.Command{
		Use:   "capture [SITE]",
		Short: "Make the golden images that a site is installed from",
		Long: `Install a role of the site once, from packages, in QEMU, and keep the result as a
golden image in images/ beside the site file. A site with "install: image" is
installed by unpacking it: the same machine in a fraction of the time.

Nothing of a single machine is in an image: no identity, key, name, address, log
or password. It is signed with the site's key. An image that was made from the
same lock, answers and overlay is left as it is; after sci-cd lock it is to be
made again. No root and no network are needed, but QEMU (qemu-system-x86).`,
		Args:              arguments(0, 1),
		ValidArgsFunction: files("yaml", "yml"),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.options(ui, p, args)
			if err != nil {
				return err
			}
			images, err := build.Images(c.Context(), o, roles)
			if err != nil {
				return err
			}
			return captureAll(c.Context(), ui, o, images, memory, force)
		},
	}
	f.add(c)
	flags := c.Flags()
	flags.StringSliceVar(&roles, "role", nil, "`ROLE` to capture, once or several times (default: all that are installed on machines)")
	flags.IntVar(&memory, "memory", 2048, "of the virtual machine, in `MiB`")
	flags.BoolVar(&force, "force", false, "make an image even if the one that is there is current")
	return c
}

// captured is the result of the verb for one role.
type captured struct {
	Role     string `json:"role"`
	Dir      string `json:"dir"`
	New      bool   `json:"new"`
	Size     int64  `json:"size"`
	Packages int    `json:"packages"`
}

func captureAll(ctx context.Context, ui *ui, o build.Options, images []build.Image, memory int, force bool) error {
	var todo []build.Image
	for _, img := range images {
		if !img.Current || force {
			todo = append(todo, img)
		}
	}
	made := make(map[string]*image.Manifest)
	if len(todo) > 0 {
		var err error
		if made, err = captureSome(ctx, ui, o, todo, memory); err != nil {
			return err
		}
	}
	results, text := []captured{}, ""
	for _, img := range images {
		m, isNew := &img.Manifest, made[img.Manifest.Class] != nil
		if isNew {
			m = made[img.Manifest.Class]
		}
		r := captured{Role: m.Class, Dir: img.Dir, New: isNew, Packages: len(m.Packages)}
		for _, l := range m.Layers {
			r.Size += l.Size
		}
		state := "current"
		if isNew {
			state = "new"
		}
		text += fmt.Sprintf("%s\n  %s, %s, %d packages\n", r.Dir, state, size(r.Size), r.Packages)
		results = append(results, r)
	}
	return ui.result(results, "%s", text)
}

// captureSome builds the medium that installs from packages and boots it once a
// role.
func captureSome(ctx context.Context, ui *ui, o build.Options, todo []build.Image, memory int) (map[string]*image.Manifest, error) {
	accel, err := accelerator(ctx, ui, "")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Images, 0o755); err != nil {
		return nil, fmt.Errorf("cannot capture: %w", err)
	}
	work := filepath.Join(o.Images, ".capture") // kept where it fails: it has the log
	if err := os.RemoveAll(work); err != nil {
		return nil, fmt.Errorf("cannot capture: %w", err)
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return nil, fmt.Errorf("cannot capture: %w", err)
	}
	s := *o.Site
	s.Install = site.FromPackages
	o.Site, o.Output = &s, filepath.Join(work, "medium.iso")
	if _, err := build.Build(ctx, o); err != nil {
		return nil, err
	}
	made := make(map[string]*image.Manifest)
	for _, img := range todo {
		ui.step("capture " + img.Manifest.Class)
		m, err := capture.Run(ctx, capture.Options{
			ISO: o.Output, Kernel: media.KernelPath, Initrd: media.InitrdPath,
			Manifest: img.Manifest, Key: img.Key, Dir: img.Dir, Work: work, Memory: memory, Accel: accel, Progress: ui.step,
		})
		if err != nil {
			return nil, err
		}
		made[m.Class] = m
	}
	return made, os.RemoveAll(work)
}
