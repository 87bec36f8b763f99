package resolve

import (
	"os"
	"testing"

	"github.com/skycover/sci-cd/pkg/deb"
)

func BenchmarkExp(b *testing.B) {
	if os.Getenv("EXP") == "" {
		b.Skip()
	}
	f, _ := os.Open("/tmp/s/Packages.txt")
	var pkgs []*deb.Package
	deb.ScanPackages(f, func(p *deb.Package) error { pkgs = append(pkgs, p); return nil })
	f.Close()
	b.Run("universe", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			NewUniverse("amd64", pkgs)
		}
	})
	req := Request{Name: "node", Priorities: []string{"required", "important"},
		Seeds: []string{"linux-image-amd64", "lvm2", "openssh-server", "chrony", "ganeti", "qemu-system-x86", "drbd-utils"}}
	b.Run("resolve-first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			u := NewUniverse("amd64", pkgs)
			b.StartTimer()
			u.Resolve(req)
		}
	})
	u := NewUniverse("amd64", pkgs)
	b.Run("resolve", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			u.Resolve(req)
		}
	})
}
