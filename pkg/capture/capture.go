// Package capture makes golden images: it boots a site's medium in QEMU, lets
// the agent there install a class of machines from packages, and takes the
// image from the disk that the agent left it on. No network is attached, and
// the machine has no other disks.
package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/vm"
)

// Options are the inputs of Run.
type Options struct {
	ISO            string // installs from packages
	Kernel, Initrd string // their paths on the ISO
	Manifest       image.Manifest
	Key            *pgp.Key
	Dir            string // of the image, made
	Work           string // existing directory for disks and logs; the disks are removed
	Memory, CPUs   int    // MiB; defaults 2048 and 2
	Accel          vm.Accel
	QEMU           string
	// Limit bounds the run; default two hours.
	Limit    time.Duration
	Progress func(line string)
}

// Sizes of the sparse disks, in bytes: the recipe's largest root volume fits
// on the first, and its content on the second.
const (
	systemSize = 32 << 30
	outputSize = 16 << 30
)

// Run makes the image of one class.
func Run(ctx context.Context, o Options) (*image.Manifest, error) {
	if o.Limit == 0 {
		o.Limit = 2 * time.Hour
	}
	if o.Memory == 0 {
		o.Memory = 2048
	}
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	disks := []vm.Disk{
		{Path: filepath.Join(o.Work, "system.img"), Size: systemSize, Serial: image.SystemDisk},
		{Path: filepath.Join(o.Work, "image.img"), Size: outputSize, Serial: image.OutputDisk},
	}
	kernel, initrd, err := boot(o)
	if err != nil {
		return nil, err
	}
	defer func() { _ = remove(disks) }()
	if err := install(ctx, o, kernel, initrd, disks); err != nil {
		return nil, hint.New(fmt.Errorf("cannot capture %s: %w", o.Manifest.Class, err), "see "+filepath.Join(o.Work, "capture.ttyS0.log"))
	}
	f, err := os.Open(disks[1].Path)
	if err != nil {
		return nil, fmt.Errorf("cannot capture: %w", err)
	}
	defer func() { _ = f.Close() }()
	return image.Make(ctx, image.MakeOptions{Disk: f, DiskSize: outputSize, Manifest: o.Manifest, Key: o.Key, Dir: o.Dir})
}

// boots is how often the machine is started. QEMU's emulation of two processors
// now and then fails the kernel while that writes over its own code: QEMU 7.2,
// "Oops: int3" in the fourth second, once in some forty captures.
const boots = 3

// errNoBoot is a kernel that gave up before the agent said a word: no disk has
// been written to.
var errNoBoot = errors.New("the kernel did not boot")

func remove(disks []vm.Disk) error {
	for _, d := range disks {
		if err := os.Remove(d.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// install runs the machine until it has left the image's content on a disk.
func install(ctx context.Context, o Options, kernel, initrd string, disks []vm.Disk) error {
	for try := 1; ; try++ {
		if err := remove(disks); err != nil {
			return err
		}
		err := installOnce(ctx, o, kernel, initrd, disks)
		if !errors.Is(err, errNoBoot) || try == boots {
			return err
		}
		if o.Progress != nil {
			o.Progress(err.Error() + "; started once more")
		}
	}
}

func installOnce(ctx context.Context, o Options, kernel, initrd string, disks []vm.Disk) error {
	m, err := vm.Start(ctx, vm.Options{
		Name: "capture", Dir: o.Work, Memory: o.Memory, CPUs: o.CPUs, Accel: o.Accel, QEMU: o.QEMU,
		CDROM: o.ISO, Disks: disks, NoReboot: true, Kernel: kernel, Initrd: initrd,
		Append: "DEBIAN_FRONTEND=text console=ttyS0 sci.capture=" + o.Manifest.Class + " --- quiet",
	})
	if err != nil {
		return err
	}
	defer m.Kill()
	return follow(ctx, m, o.Progress)
}

// boot takes kernel and initrd off the medium: QEMU boots them directly, with
// our own command line.
func boot(o Options) (kernel, initrd string, err error) {
	f, err := os.Open(o.ISO)
	if err != nil {
		return "", "", fmt.Errorf("cannot capture: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", "", fmt.Errorf("cannot capture: %w", err)
	}
	img, err := iso.Open(f, info.Size())
	if err != nil {
		return "", "", err
	}
	kernel, initrd = filepath.Join(o.Work, "vmlinuz"), filepath.Join(o.Work, "initrd.gz")
	err = errors.Join(extract(img.FS(), o.Kernel, kernel), extract(img.FS(), o.Initrd, initrd))
	return kernel, initrd, err
}

func extract(from fs.FS, name, to string) error {
	in, err := from.Open(name)
	if err != nil {
		return fmt.Errorf("cannot read %s of the medium: %w", name, err)
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to)
	if err != nil {
		return fmt.Errorf("cannot capture: %w", err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("cannot read %s of the medium: %w", name, err)
	}
	return nil
}

// marker finds the agent's lines, and what ends a boot without any.
const marker = `sci-agent: (.+)$|Kernel panic - not syncing`

var captured = regexp.MustCompile(`sci-agent: captured`)

// follow reads the agent's lines until the machine powers off.
func follow(ctx context.Context, m *vm.Machine, progress func(string)) error {
	start, said := time.Now(), false
	for {
		line, err := m.Expect(ctx, marker)
		if errors.Is(err, vm.ErrEnded) {
			break
		}
		if err != nil {
			return err
		}
		text := strings.TrimSpace(line.Groups[1])
		if text == "" && !said {
			return fmt.Errorf("%w: %s", errNoBoot, line.Text)
		}
		if text == "" {
			return errors.New(line.Text)
		}
		said = true
		if progress != nil {
			progress(fmt.Sprintf("%6.0fs  %s", time.Since(start).Seconds(), text))
		}
		if strings.HasPrefix(text, "failed") {
			return errors.New("the agent says: " + text)
		}
	}
	if _, err := m.Wait(ctx); err != nil {
		return err
	}
	if _, ok := m.Console.Contains(captured); !ok {
		return errors.New("the machine ended before the image was made")
	}
	return nil
}
