//go:build qemu

package vm

import (
	"context"
	"errors"
	"image/png"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The guest of the probe must run where nothing but software is under it;
// otherwise Probe would call a good KVM broken.
func TestProbeGuest(t *testing.T) {
	rom := filepath.Join(t.TempDir(), "rom")
	if err := os.WriteFile(rom, probeROM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runProbe(t.Context(), "qemu-system-x86_64", rom, TCG); err != nil {
		t.Error(err)
	}
	accel, why, err := Probe(t.Context(), "", "")
	t.Logf("Probe = %s (%s)", accel, why)
	if err != nil {
		t.Error(err)
	}
}

// A machine without any medium shows its firmware, answers QMP and can be
// killed, whatever the firmware is.
func TestFirmware(t *testing.T) {
	for _, f := range []Firmware{BIOS, UEFI, SecureBoot} {
		t.Run(string(f), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			dir := t.TempDir()
			m, err := Start(ctx, Options{Dir: dir, Firmware: f, VGA: true, Memory: 256, Shell: true, QEMURoot: os.Getenv("SCI_CD_QEMU_ROOT"),
				Disks: []Disk{{Path: filepath.Join(dir, "disk"), Size: 1 << 20, Serial: "D0"}}, NICs: []NIC{{MAC: "52:54:00:00:00:01"}},
				SMBIOS: SMBIOS{Serial: "S,N", AssetTag: "A"}})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Kill()
			var status struct{ Status string }
			if err := m.QMP(ctx, "query-status", nil, &status); err != nil || status.Status != "running" {
				t.Errorf("status %q, %v", status.Status, err)
			}
			if err := m.Keys(ctx, "esc", "alt-f2"); err != nil {
				t.Error(err)
			}
			if err := m.SetLink(ctx, 0, false); err != nil {
				t.Error(err)
			}
			file0 := filepath.Join(dir, "bytes")
			if err := os.WriteFile(file0, make([]byte, 1000), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the place is free again
				if err := m.PlugStick(ctx, "STICK1", file0); err != nil {
					t.Error(err)
				}
				if err := m.UnplugStick(ctx, "STICK1"); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(time.Second)
			shot := filepath.Join(dir, "screen.png")
			if err := m.Screenshot(ctx, shot); err != nil {
				t.Fatal(err)
			}
			file, err := os.Open(shot)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if img, err := png.Decode(file); err != nil || img.Bounds().Dx() < 320 {
				t.Errorf("screenshot: %v, %v", img, err)
			}
			if err := m.QMP(ctx, "quit", nil, nil); err != nil && !errors.Is(err, ErrEnded) {
				t.Error(err)
			}
			if reason, err := m.Wait(ctx); err != nil || reason != "host-qmp-quit" {
				t.Errorf("Wait = %q, %v", reason, err)
			}
		})
	}
}

func TestNoScreenWithoutCard(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := Start(ctx, Options{Dir: t.TempDir(), Memory: 64})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	if err := m.Screenshot(ctx, filepath.Join(t.TempDir(), "x.png")); err == nil {
		t.Error("a screenshot without a graphics card: no error")
	}
}
