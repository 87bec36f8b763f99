package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/site"
)

// captureArgument on the kernel's command line names the class to be captured.
const captureArgument = "sci.capture="

// Capture is the verb capture: it installs a class of machines from packages on
// the disk with the serial number image.SystemDisk and leaves it as an image on
// the one with image.OutputDisk. It runs instead of Debian's installer, in a
// virtual machine that sci-cd capture starts.
func Capture(ctx context.Context, o Options) error {
	o = o.withDefaults()
	say(o.Console, "installer started")
	class, err := captureClass(o)
	if err != nil {
		return err
	}
	s, err := loadSite(o)
	if err != nil {
		return err
	}
	h, err := classHost(s, class)
	if err != nil {
		return err
	}
	say(o.Console, "capture of %s", class)
	if err := errors.Join(remember(o, "capture", class), remember(o, "host", h.Name)); err != nil {
		return err
	}
	nameMachine(o, h)
	for _, f := range []func(context.Context, Options) error{Medium, Disks, Base, Packages, captureImage} {
		if err := f(ctx, o); err != nil {
			return err
		}
	}
	say(o.Console, "captured, powering off")
	unix.Sync()
	return nil
}

// captureClass reads the class off the kernel's command line.
func captureClass(o Options) (string, error) {
	data, err := readBounded(filepath.Join(o.Proc, "cmdline"), 64<<10)
	if err != nil {
		return "", fmt.Errorf("cannot read the kernel's command line: %w", err)
	}
	for _, word := range strings.Fields(string(data)) {
		if class, ok := strings.CutPrefix(word, captureArgument); ok {
			return class, nil
		}
	}
	return "", hint.New(errors.New("no class to capture is named"), "use sci-cd capture")
}

// classHost is a host that stands for its class.
func classHost(s *site.Site, class string) (*site.Host, error) {
	for i := range s.Hosts {
		if s.Hosts[i].Class() == class {
			return &s.Hosts[i], nil
		}
	}
	if class == site.InstanceRole && slices.Contains(s.Classes(), class) { // none of them is in the site file
		return &site.Host{Name: class, Role: class, Virtual: true}, nil
	}
	return nil, fmt.Errorf("no host of the site is of class %q", class)
}

// capturing reports whether this is a capture, where the disks are named by us
// and no boot loader is installed.
func capturing(o Options) bool {
	_, err := recall(o, "capture")
	return err == nil
}

// captureImage writes the image: the system without a boot loader, and what the
// packages of either boot loader add to it.
func captureImage(ctx context.Context, o Options) error {
	head, err := prepareImage(ctx, o)
	if err != nil {
		return err
	}
	f, err := outputDisk(o)
	if err != nil {
		return err
	}
	return errors.Join(writeImage(ctx, o, f, head), f.Close())
}

// prepareImage does what is left to do but for the boot loader: overlay and
// initramfs.
func prepareImage(ctx context.Context, o Options) (head image.DiskHead, err error) {
	say(o.Console, "phase image")
	s, h, err := currentHost(o)
	if err != nil {
		return head, err
	}
	if err := overlay(o, h); err != nil {
		return head, err
	}
	err = within(ctx, o, func(c *chroot) error {
		if err := c.initramfs(ctx); err != nil {
			return err
		}
		head, err = c.describe(ctx, s, h)
		return err
	})
	return head, err
}

// writeImage writes the layers. The packages of the one firmware's boot loader
// are taken away again before those of the other are installed: they conflict.
func writeImage(ctx context.Context, o Options, f *os.File, head image.DiskHead) error {
	d, err := image.NewDiskWriter(f)
	if err != nil {
		return err
	}
	base, err := image.List(ctx, o.Target)
	if err != nil {
		return fmt.Errorf("cannot list the system: %w", err)
	}
	err = d.Layer(image.Base, nil, func(w io.Writer) error { return image.Pack(ctx, w, o.Target, nil) })
	if err != nil {
		return err
	}
	if err := firmwareLayer(ctx, o, d, base, false); err != nil {
		return err
	}
	r, err := d.Reader(image.Base)
	if err != nil {
		return err
	}
	if err := image.Restore(ctx, r, o.Target, base); err != nil {
		return err
	}
	if err := firmwareLayer(ctx, o, d, base, true); err != nil {
		return err
	}
	return d.Commit(head)
}

// firmwareLayer installs a boot loader's packages, without installing the boot
// loader, and writes what has changed by it.
func firmwareLayer(ctx context.Context, o Options, d *image.DiskWriter, base image.Listing, uefi bool) error {
	name := image.BIOS
	if uefi {
		name = image.UEFI
	}
	say(o.Console, "phase image, %s", name)
	err := within(ctx, o, func(c *chroot) error {
		return c.install(ctx, bootSelections(uefi, ""), bootPackages(nil, uefi))
	})
	if err != nil {
		return err
	}
	removed, err := image.Removed(o.Target, base)
	if err != nil {
		return err
	}
	return d.Layer(name, removed, func(w io.Writer) error { return image.Pack(ctx, w, o.Target, base) })
}

// describe says what is in the image.
func (c *chroot) describe(ctx context.Context, s *site.Site, h *site.Host) (image.DiskHead, error) {
	head := image.DiskHead{Class: h.Class(), Traces: []string{s.FQDN(h.Name)}}
	images, err := filepath.Glob(filepath.Join(c.o.Target, "boot/vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return head, errors.New("no kernel was installed")
	}
	head.Kernel = strings.TrimPrefix(filepath.Base(images[len(images)-1]), "vmlinuz-")
	if id, err := readBounded(filepath.Join(c.o.Target, "etc/machine-id"), 64); err == nil {
		head.Traces = append(head.Traces, strings.TrimSpace(string(id)))
	}
	out, err := c.run(ctx, nil, "dpkg-query", "-W", "-f", `${Package} ${Version} ${Architecture} ${db:Status-Abbrev}\n`)
	if err != nil {
		return head, fmt.Errorf("cannot list the packages: %w", err)
	}
	for _, line := range strings.Split(out, "\n") {
		f := strings.Fields(line)
		if len(f) != 4 || f[3] != "ii" {
			return head, fmt.Errorf("package %q is not properly installed", line)
		}
		head.Packages = append(head.Packages, image.Package{Name: f[0], Version: f[1], Architecture: f[2]})
	}
	return head, nil
}

// outputDisk opens the disk that the image is written to.
func outputDisk(o Options) (*os.File, error) {
	hw, err := readHardware(o)
	if err != nil {
		return nil, err
	}
	for _, d := range hw.Disks {
		if same(d.Serial, image.OutputDisk) && len(d.InUse) == 0 {
			return openExclusive(d.Path)
		}
	}
	return nil, hint.New(&DiskError{Reason: "no disk for the image", Disks: hw.Disks}, "use sci-cd capture")
}

// captureHost is the host with the disk of a capture.
func captureHost(h *site.Host) *site.Host {
	c := *h
	c.Disk = site.Disk{Serial: image.SystemDisk}
	return &c
}
