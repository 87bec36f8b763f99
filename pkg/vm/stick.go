package vm

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// PlugStick plugs a read-only USB stick with the bytes of a file into the
// running machine: the fast way in for files that are on no medium. The guest
// finds them, padded to a multiple of 512 bytes, on the disk whose serial number
// is given; in Debian that is /dev/disk/by-id/usb-*SERIAL*.
func (m *Machine) PlugStick(ctx context.Context, serial, file string) error {
	padded := filepath.Join(m.dir, m.name+"."+serial+".stick")
	if err := pad(padded, file); err != nil {
		return err
	}
	abs, err := filepath.Abs(padded)
	if err != nil {
		return err
	}
	id := "stick-" + serial
	err = m.QMP(ctx, "blockdev-add", map[string]any{"driver": "raw", "node-name": id, "read-only": true,
		"file": map[string]any{"driver": "file", "filename": abs, "read-only": true}}, nil)
	if err != nil {
		return err
	}
	return m.QMP(ctx, "device_add", map[string]any{"driver": "usb-storage", "bus": "xhci.0", "id": id, "drive": id, "serial": serial, "removable": true}, nil)
}

// UnplugStick takes the stick out again.
func (m *Machine) UnplugStick(ctx context.Context, serial string) error {
	_ = os.Remove(filepath.Join(m.dir, m.name+"."+serial+".stick")) // QEMU has it open
	id := "stick-" + serial
	if err := m.QMP(ctx, "device_del", map[string]any{"id": id}, nil); err != nil {
		return err
	}
	// The device is in use until the guest's driver has let go.
	for try := 0; ; try++ {
		err := m.QMP(ctx, "blockdev-del", map[string]any{"node-name": id}, nil)
		if err == nil || try == 50 {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// pad copies a file and fills it up to whole sectors.
func pad(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("cannot make USB stick: %w", err)
	}
	defer func() { _ = in.Close() }() // only read
	out, err := os.Create(dst)
	if err != nil {
		return fmt.Errorf("cannot make USB stick: %w", err)
	}
	n, err := io.Copy(out, in)
	if err == nil {
		err = out.Truncate((n + 511) / 512 * 512)
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("cannot make USB stick: %w", err)
	}
	return nil
}
