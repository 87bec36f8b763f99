package capture

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

// machines is a QEMU whose consoles say, one start after the other, what is in
// its list; the last one again and again.
func machines(t *testing.T, said ...string) (qemu string, starts func() int) {
	t.Helper()
	dir := t.TempDir()
	count := filepath.Join(dir, "starts")
	for i, text := range said {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("console", i+1)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf(`#!/bin/sh
echo >>%[1]s
n=$(wc -l <%[1]s)
[ $n -le %[2]d ] || n=%[2]d
echo '{"QMP": {}}' >&3
read l <&3
echo '{"return": {}, "id": 1}' >&3
cat %[3]s/console$n >&4
`, count, len(said), dir)
	qemu = filepath.Join(dir, "qemu")
	if err := os.WriteFile(qemu, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return qemu, func() int {
		data, err := os.ReadFile(count)
		if err != nil {
			t.Fatal(err)
		}
		return len(data)
	}
}

// A kernel that fails before the agent's first word is started again, nothing
// else is.
func TestInstallStartsAgain(t *testing.T) {
	const panicked = "[    3.4] Oops: int3: 0000 [#1]\n[    3.4] Kernel panic - not syncing: Fatal exception in interrupt\n"
	const well = "sci-agent: base\nsci-agent: captured\n"
	for _, c := range []struct {
		name   string
		said   []string
		starts int
		want   string
	}{
		{"well", []string{well}, 1, ""},
		{"at the third start", []string{panicked, panicked, well}, 3, ""},
		{"never", []string{panicked}, boots, "the kernel did not boot: [    3.4] Kernel panic"},
		{"in the middle", []string{"sci-agent: base\n" + panicked, well}, 1, "Kernel panic"},
		{"the agent fails", []string{"sci-agent: failed: no disk\n", well}, 1, "the agent says: failed: no disk"},
		{"silent", []string{"booting\n", well}, 1, "the machine ended before the image was made"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			qemu, starts := machines(t, c.said...)
			work := t.TempDir()
			disks := []vm.Disk{{Path: filepath.Join(work, "system.img"), Size: 1 << 20, Serial: "system"}}
			err := install(ctx, Options{Work: work, QEMU: qemu, Accel: vm.TCG}, "", "", disks)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("install: %v; want %q", err, c.want)
			}
			if n := starts(); n != c.starts {
				t.Errorf("%d starts, want %d", n, c.starts)
			}
		})
	}
}
