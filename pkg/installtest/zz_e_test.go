//go:build esession

package installtest

import (
	"os"
	"testing"
	"fmt"
	"time"

	"github.com/skycover/sci-cd/pkg/vm"
)

func TestE(t *testing.T) {
	o := Options{ISO: os.Getenv("ISO"), Firmware: vm.Firmware(os.Getenv("FW")), Medium: Medium(os.Getenv("MEDIUM")), Stage: Stage(os.Getenv("STAGE")), ReportDir: os.Getenv("REPORT"),
		PressEnter: true, DiskSize: 4 << 30, Host: Host{Name: "node1", Role: "node", Domain: "lab.example", MACs: []string{"52:54:00:5c:1c:01"}, LAN: "192.168.50.11/24", Packages: []string{"systemd", "ganeti", "lvm2"}},
		Limits: Limits{Boot: 15*time.Minute, Install: 8*time.Minute, First: 8*time.Minute, Check: 60*time.Second},
		Progress: func(s string) { fmt.Println(s) }}
	r, err := Run(t.Context(), o)
	if err != nil { t.Fatal(err) }
	fmt.Println(r.Summary())
	for _, c := range r.Failed() { fmt.Println("FAILED", c.Name, c.problem()) }
}

func TestFirst(t *testing.T) {
	o := Options{ISO: "/tmp/s/e/fast.iso", ReportDir: os.Getenv("REPORT"), WorkDir: "/tmp/s/e/w",
		DiskSize: 4 << 30, Host: Host{Name: "node1", Role: "node", Domain: "lab.example", MACs: []string{"52:54:00:5c:1c:01"}, LAN: "192.168.50.11/24", Packages: []string{"systemd", "ganeti", "lvm2"}},
		Limits: Limits{First: 15*time.Minute, Check: 3*time.Minute},
		Progress: func(s string) { fmt.Println(s) }}
	o = o.withDefaults()
	os.MkdirAll(o.ReportDir, 0o755)
	r := &run{o: o, report: newReport(o)}
	fmt.Println(r.firstBoot(t.Context()))
	r.report.finish(r.logFiles())
	fmt.Println(r.report.write(o.ReportDir), r.report.Summary())
	for _, c := range r.report.Failed() { fmt.Println("FAILED", c.Name, c.problem()) }
}

func TestVT(t *testing.T) {
	o := Options{ISO: "/tmp/s/e/real.iso", ReportDir: "/tmp/s/e/rep-vt", Stage: Boot, PressEnter: true, Firmware: vm.Firmware(os.Getenv("FW")), Progress: func(s string) { fmt.Println(s) }, WorkDir: t.TempDir()}
	o = o.withDefaults()
	os.MkdirAll(o.ReportDir, 0o755)
	r := &run{o: o, report: newReport(o)}
	m, err := r.start(t.Context(), "install", func(v *vm.Options) { v.VGA = true; v.CDROM = o.ISO })
	if err != nil { t.Fatal(err) }
	defer m.Kill()
	fmt.Println(r.bootMedium(t.Context(), m, false))
	var info string
	m.QMP(t.Context(), "human-monitor-command", map[string]any{"command-line": "info mice"}, &info)
	fmt.Println(info)
	fmt.Println(m.Keys(t.Context(), "alt-f2")); pause(t.Context(), 5*time.Second); r.screen(t.Context(), m, "a")
	fmt.Println(m.Keys(t.Context(), "ret")); pause(t.Context(), 5*time.Second); r.screen(t.Context(), m, "b")
	fmt.Println(m.Keys(t.Context(), "d", "m", "e", "s", "g", "ret")); pause(t.Context(), 5*time.Second); r.screen(t.Context(), m, "c")
}
