package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/pgp"
)

// maxSums bounds SHA256SUMS on the medium, in bytes.
const maxSums = 16 << 20

// Medium is the verb medium: it takes the place of cdrom-detect. It looks at
// every block device for an ISO 9660 file system whose SHA256SUMS the site's
// key has signed, and mounts it. Another site's medium, or a plain Debian disc
// in a second drive, is passed over. Until there is one it waits, and says so.
func Medium(ctx context.Context, o Options) error {
	o = o.withDefaults()
	say(o.Console, "phase medium")
	ring, err := siteKeys(o)
	if err != nil {
		return err
	}
	if believed(o, ring) == nil {
		return nil // mounted already
	}
	if err := os.MkdirAll(o.Medium, 0o755); err != nil {
		return fmt.Errorf("cannot mount the medium: %w", err)
	}
	told := false
	for start := o.Now(); ; {
		names, err := blockDevices(o.Sys)
		if err != nil {
			return fmt.Errorf("cannot look for the medium: %w", err)
		}
		var seen []string
		for _, name := range names {
			err := tryMedium(o, filepath.Join(o.Dev, name), ring)
			if err == nil {
				return nil
			}
			if !errors.Is(err, errNoISO) {
				seen = append(seen, fmt.Sprintf("%s: %v", name, err))
			}
		}
		if !told && o.Now().Sub(start) > o.Patience {
			told = true
			say(o.Console, "waiting for the installation medium; looked at %s\n%s", strings.Join(names, " "), strings.Join(seen, "\n"))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

// errNoISO says that a device holds no ISO 9660 file system.
var errNoISO = errors.New("no ISO 9660 file system")

// tryMedium mounts the device and keeps it mounted if it is the medium.
func tryMedium(o Options, device string, ring pgp.Keyring) error {
	if err := o.MountMedium(device, o.Medium, "iso9660", "ro,nosuid,nodev"); err != nil {
		return fmt.Errorf("%w: %w", errNoISO, err)
	}
	err := believed(o, ring)
	if err != nil {
		if more := o.UnmountMedium(o.Medium); more != nil {
			return errors.Join(err, more)
		}
	}
	return err
}

// believed checks the signature over the medium's list of digests.
func believed(o Options, ring pgp.Keyring) error {
	sums, err := readBounded(filepath.Join(o.Medium, "SHA256SUMS"), maxSums)
	if err != nil {
		return err
	}
	signature, err := readBounded(filepath.Join(o.Medium, "SHA256SUMS.asc"), 64<<10)
	if err != nil {
		return err
	}
	// The machine's clock may be anywhere: the signature's own time counts.
	_, err = ring.VerifyDetached(bytes.NewReader(sums), signature, time.Time{})
	return err
}

// blockDevices lists the devices that may hold the medium: optical drives
// first, then disks and sticks, whole before their partitions.
func blockDevices(sys fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(sys, "class/block")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, "loop") && !strings.HasPrefix(name, "ram") && !strings.HasPrefix(name, "dm-") && !strings.HasPrefix(name, "md") {
			names = append(names, name)
		}
	}
	optical := func(name string) bool { return strings.HasPrefix(name, "sr") }
	sort.SliceStable(names, func(i, j int) bool {
		if a, b := optical(names[i]), optical(names[j]); a != b {
			return a
		}
		return names[i] < names[j]
	})
	return names, nil
}
