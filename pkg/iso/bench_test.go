package iso

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/tree"
)

// poolTree is about 512 MiB in 600 files, sized like packages.
func poolTree(b *testing.B, dir string) (*tree.Tree, []string) {
	b.Helper()
	tr := &tree.Tree{}
	r := rand.New(rand.NewPCG(1, 2))
	chunk := make([]byte, 1<<20)
	for i := range chunk {
		chunk[i] = byte(r.Uint32())
	}
	var paths []string
	for i := range 600 {
		size := 2000 + r.IntN(300_000)
		if i%10 == 0 {
			size = r.IntN(15 << 20)
		}
		data := bytes.Repeat(chunk, size/len(chunk)+1)[:size]
		p := filepath.Join(dir, fmt.Sprintf("package%03d_1.0-%d_amd64.deb", i, i))
		must(b, os.WriteFile(p, data, 0o644))
		must(b, tr.AddFile(fmt.Sprintf("pool/main/p/package%d/%s", i/3, filepath.Base(p)), 0o644, p, ""))
		paths = append(paths, p)
	}
	return tr, paths
}

// cost is what one run took; CPU counts user and system time.
type cost struct{ cpu, wall time.Duration }

func spent(u *syscall.Rusage) time.Duration {
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// self measures work in this process, run does so for an outside program. The
// smallest of several runs is the least disturbed one.
func self(b *testing.B, work func()) cost {
	b.Helper()
	var before, after syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	start := time.Now()
	work()
	wall := time.Since(start)
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	return cost{spent(&after) - spent(&before), wall}
}

func run(b *testing.B, command string, args ...string) cost {
	b.Helper()
	needs(b, args[0])
	cmd := exec.Command("sh", append([]string{"-c", command, "sh"}, args...)...)
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", command, err, out)
	}
	return cost{spent(cmd.ProcessState.SysUsage().(*syscall.Rusage)), time.Since(start)}
}

func least(a, c cost) cost {
	if a.wall == 0 {
		return c
	}
	return cost{min(a.cpu, c.cpu), min(a.wall, c.wall)}
}

// BenchmarkWrite compares Write, without and with the digest, with cat of the
// same files into one and with xorriso. The aim is at most 1.2 times the CPU
// time of cat, and an image at most one per cent larger than its files.
func BenchmarkWrite(b *testing.B) {
	dir := b.TempDir()
	tr, paths := poolTree(b, dir)
	out := filepath.Join(b.TempDir(), "out")
	write := func(hash bool) (res *Result) {
		f, err := os.Create(out)
		must(b, err)
		res, err = Write(b.Context(), f, tr, Options{VolumeID: "BENCH", Time: testTime, Hash: hash})
		must(b, err)
		must(b, f.Close())
		return res
	}
	var plain, hashed, cat, xorriso cost
	var res *Result
	for b.Loop() {
		for range 3 {
			plain = least(plain, self(b, func() { res = write(false) }))
			must(b, os.Remove(out))
			cat = least(cat, run(b, `"$@" >`+out, append([]string{"cat"}, paths...)...))
			must(b, os.Remove(out))
		}
		hashed = least(hashed, self(b, func() { write(true) }))
		must(b, os.Remove(out))
		xorriso = least(xorriso, run(b, `"$@"`, "xorriso", "-as", "mkisofs", "-quiet", "-r", "-o", out, dir))
		must(b, os.Remove(out))
	}
	b.ReportMetric(plain.cpu.Seconds(), "cpu-s")
	b.ReportMetric(float64(plain.cpu)/float64(cat.cpu), "cpu/cat")
	b.ReportMetric(float64(plain.wall)/float64(cat.wall), "wall/cat")
	b.ReportMetric(float64(plain.cpu)/float64(xorriso.cpu), "cpu/xorriso")
	b.ReportMetric(float64(plain.wall)/float64(xorriso.wall), "wall/xorriso")
	b.ReportMetric(float64(hashed.wall)/float64(plain.wall), "hashed-wall/wall")
	b.ReportMetric(float64(res.Size)/float64(res.Payload), "image/payload")
	b.ReportMetric(float64(res.Payload)/(1<<20), "MiB")
}

// BenchmarkMemory writes files that come from readers, not from descriptors: B/op
// is what Write allocates for 256 MiB.
func BenchmarkMemory(b *testing.B) {
	tr := &tree.Tree{}
	for i := range 16 {
		e := source(16<<20, func() io.Reader { return io.LimitReader(zeros{}, 16<<20) })
		e.Path = fmt.Sprint(i)
		must(b, tr.Add(e))
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "out"))
	must(b, err)
	b.ReportAllocs()
	for b.Loop() {
		_, err := Write(b.Context(), f, tr, Options{VolumeID: "BENCH", Time: testTime})
		must(b, err)
	}
	must(b, f.Close())
}
