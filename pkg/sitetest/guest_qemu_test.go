//go:build qemu

package sitetest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/guest"
	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/kmod"
	"github.com/skycover/sci-cd/pkg/vm"
)

// kernel unpacks Debian's kernel: the package that SCI_CD_TEST_KERNEL names, or
// the one on the image that SCI_CD_TEST_ISO names. It returns the kernel and a
// directory as /lib/modules/VERSION with what the guest needs of it.
func kernel(t *testing.T) (vmlinuz, modules string) {
	t.Helper()
	dir := t.TempDir()
	path := os.Getenv("SCI_CD_TEST_KERNEL")
	if path == "" {
		path = filepath.Join(dir, "linux.deb")
		fromISO(t, path)
	}
	pkg, err := deb.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer pkg.Close()
	modules = filepath.Join(dir, "modules")
	mods := make(kmod.Set)
	err = pkg.Data(func(h *tar.Header, r io.Reader) error {
		_, inside, isModule := strings.Cut(h.Name, "lib/modules/")
		_, inside, _ = strings.Cut(inside, "/")
		to := filepath.Join(modules, inside)
		switch {
		case strings.HasPrefix(h.Name, "boot/vmlinuz-"):
			vmlinuz = filepath.Join(dir, "vmlinuz")
			to = vmlinuz
		case isModule && inside == "modules.builtin":
		case isModule && (strings.HasPrefix(inside, "kernel/drivers/virtio/") || strings.HasPrefix(inside, "kernel/drivers/net/") && strings.Count(inside, "/") == 3 || strings.HasSuffix(inside, "/virtio_blk.ko.xz") || strings.HasSuffix(inside, "/failover.ko.xz")):
		default:
			return nil
		}
		data, err := io.ReadAll(r)
		if err != nil || h.Typeflag != tar.TypeReg {
			return err
		}
		if kmod.IsModule(inside) {
			m, err := kmod.Read(inside, bytes.NewReader(data))
			if err != nil {
				return err
			}
			mods[m.Name()] = m
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	needed, err := mods.Closure(nil, func(m kmod.Module) bool {
		return slices.Contains([]string{"virtio_pci", "virtio_blk", "virtio_net"}, m.Name())
	})
	if err != nil {
		t.Fatal(err)
	}
	index, err := kmod.Indexes(needed, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(modules, "modules.dep"), index["modules.dep"], 0o644); err != nil {
		t.Fatal(err)
	}
	return vmlinuz, modules
}

func fromISO(t *testing.T, to string) {
	t.Helper()
	name := os.Getenv("SCI_CD_TEST_ISO")
	if name == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("neither SCI_CD_TEST_KERNEL nor SCI_CD_TEST_ISO is set")
		}
		t.Skip("neither SCI_CD_TEST_KERNEL (a linux-image .deb) nor SCI_CD_TEST_ISO (an image that holds one) is set")
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	img, err := iso.Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	err = fs.WalkDir(img.FS(), "pool", func(p string, d fs.DirEntry, err error) error {
		if ok, _ := filepath.Match("linux-image-[0-9]*.deb", d.Name()); err == nil && ok {
			data, err = fs.ReadFile(img.FS(), p)
		}
		return err
	})
	if err == nil && data == nil {
		err = fmt.Errorf("%s holds no kernel", name)
	}
	if err == nil {
		err = os.WriteFile(to, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// program builds the guest and packs it for a kernel.
func program(t *testing.T, modules string) (initrd string) {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "sci-guest")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", bin, "github.com/skycover/sci-cd/cmd/sci-guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOAMD64=v1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var b bytes.Buffer
	if err := guest.Pack(t.Context(), &b, bin, modules); err != nil {
		t.Fatal(err)
	}
	initrd = filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return initrd
}

// Two machines talk TCP over a switch; a cut cable, and a link that is down,
// stop them, and both can be mended. A guest whose power fails goes on where its
// disk ends.
func TestGuestsOnASwitch(t *testing.T) {
	vmlinuz, modules := kernel(t)
	initrd := program(t, modules)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	lan := vm.NewSwitch()
	cables := []*vm.Port{lan.Port("a"), lan.Port("b")}
	dir := t.TempDir()
	start := func(i int, more string) *vm.Machine {
		t.Helper()
		m, err := vm.Start(ctx, vm.Options{Name: string(rune('a' + i)), Dir: dir, Memory: 256, CPUs: 1, NoReboot: true,
			QEMURoot: os.Getenv("SCI_CD_QEMU_ROOT"),
			Kernel:   vmlinuz, Initrd: initrd, Append: fmt.Sprintf("console=ttyS0 quiet panic=-1 sci.ip=10.1.1.%d/24 %s", i+1, more),
			Disks: []vm.Disk{{Path: filepath.Join(dir, fmt.Sprint("disk", i)), Size: 64 << 20}},
			NICs:  []vm.NIC{{MAC: fmt.Sprintf("52:54:00:00:00:%02x", i+1), Port: cables[i]}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Kill)
		return m
	}
	expect := func(m *vm.Machine, what string) string {
		t.Helper()
		line, err := m.Expect(ctx, what)
		if err != nil {
			for _, l := range m.Console.Tail(20) {
				t.Log(l.Text)
			}
			t.Fatal(err)
		}
		t.Logf("%s", line.Text)
		return line.Groups[len(line.Groups)-1]
	}
	a := start(0, "")
	expect(a, `guest: ready: start 1, found {"records": 0,`)
	b := start(1, "sci.ask=http://10.1.1.1/fill?bytes=1000000")
	expect(b, "guest: ready: start 1")
	for range 5 {
		expect(b, "guest: answer: 1000000 bytes in")
	}
	t.Logf("a: %+v, b: %+v", cables[0].Stats(), cables[1].Stats())
	for _, s := range []vm.PortStats{cables[0].Stats(), cables[1].Stats()} {
		if s.Dropped > 0 {
			t.Errorf("%d frames were dropped", s.Dropped)
		}
	}

	cables[0].Cut(true)
	expect(b, "guest: no answer: ")
	cables[0].Cut(false)
	expect(b, "guest: answer: 1000000 bytes in")
	if err := b.SetLink(ctx, 0, false); err != nil {
		t.Fatal(err)
	}
	expect(b, "guest: no answer: ")
	if err := b.SetLink(ctx, 0, true); err != nil {
		t.Fatal(err)
	}
	expect(b, "guest: answer: 1000000 bytes in")

	a.Kill()
	before, err := guest.ScanFile(filepath.Join(dir, "disk0"))
	t.Logf("behind the power cut: %+v", before)
	if err != nil || before.Damage != "" || before.Records == 0 || before.Boot != 1 {
		t.Errorf("%+v, %v", before, err)
	}
	a = start(0, "")
	expect(a, fmt.Sprintf(`guest: ready: start 2, found {"records": %d, "boot": 1, "damage": ""}`, before.Records))
	expect(b, "guest: answer: 1000000 bytes in")
	b.Kill()
	time.Sleep(time.Second)
	a.Kill()
	after, err := guest.ScanFile(filepath.Join(dir, "disk0"))
	if err != nil || after.Damage != "" || after.Records <= before.Records || after.Boot != 2 {
		t.Errorf("%+v, %v", after, err)
	}
}
