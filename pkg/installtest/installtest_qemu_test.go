//go:build qemu

package installtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

// testImage is the ISO under test: SCI_CD_TEST_ISO, set by `make test`.
func testImage(t *testing.T) string {
	t.Helper()
	iso := os.Getenv("SCI_CD_TEST_ISO")
	if iso != "" {
		return iso
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("SCI_CD_TEST_ISO names no image")
	}
	t.Skip("SCI_CD_TEST_ISO names no image")
	return ""
}

// reportDir is kept under SCI_CD_TEST_REPORT, if that is set.
func reportDir(t *testing.T, name string) string {
	if dir := os.Getenv("SCI_CD_TEST_REPORT"); dir != "" {
		return filepath.Join(dir, name)
	}
	return t.TempDir()
}

// The image must come to the installer on everything that it may be booted
// with.
func TestBoot(t *testing.T) {
	iso := testImage(t)
	accel, why, err := vm.Probe(t.Context(), "", os.Getenv(vm.AccelVariable))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %s", accel, why)
	for _, test := range []struct {
		firmware vm.Firmware
		medium   Medium
	}{
		{vm.BIOS, CD}, {vm.BIOS, USB}, {vm.UEFI, CD}, {vm.UEFI, USB}, {vm.SecureBoot, CD},
	} {
		name := string(test.firmware) + "-" + string(test.medium)
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			r, err := Run(ctx, Options{ISO: iso, Firmware: test.firmware, Medium: test.medium, Stage: Boot, Accel: accel,
				PressEnter: true, ReportDir: reportDir(t, name), Progress: func(line string) { t.Log(line) }})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(r.Summary())
			for _, c := range r.Failed() {
				t.Errorf("%s: %s\n%s", c.Name, c.problem(), c.Output)
			}
		})
	}
}
