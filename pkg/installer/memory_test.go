package installer

import (
	"bytes"
	"testing"
)

func TestMemory(t *testing.T) {
	var console bytes.Buffer
	o := Options{Proc: t.TempDir(), State: t.TempDir(), Console: &console}
	write(t, o.Proc+"/meminfo", "MemTotal:        1024000 kB\nMemFree:           1000 kB\nMemAvailable:     512000 kB\n", 0o644)
	watchMemory(o)()
	write(t, o.Proc+"/meminfo", "MemTotal:        1024000 kB\nMemFree:           1000 kB\nMemAvailable:     912000 kB\n", 0o644)
	watchMemory(o)() // a later verb that needs less
	sayMemory(o)
	if got, want := console.String(), "sci-agent: memory: 500 MiB at most of 1000 MiB\n"; got != want {
		t.Errorf("said %q; want %q", got, want)
	}
	for _, text := range []string{"", "MemTotal: 1 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n"} {
		write(t, o.Proc+"/meminfo", text, 0o644)
		if _, _, err := memory(o.Proc); err == nil {
			t.Errorf("memory of %q: no error", text)
		}
	}
}
