//go:build realmirror

package installer

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/resolve"
	"github.com/skycover/sci-cd/pkg/run"
)

// TestBootstrap installs a real system into a directory, from real packages
// with a site key of its own, and compares the base with debootstrap's. It
// needs root. SCI_CD_TEST_DIR keeps the result.
func TestBootstrap(t *testing.T) {
	for _, codename := range []string{"trixie", "bookworm"} {
		t.Run(codename, func(t *testing.T) { bootstrapReal(t, codename) })
	}
}

func bootstrapReal(t *testing.T, codename string) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts and chroot")
	}
	dir := os.Getenv("SCI_CD_TEST_DIR")
	if dir == "" {
		dir = t.TempDir()
	}
	dir = filepath.Join(dir, codename)
	seeds := strings.Fields(os.Getenv("SCI_CD_TEST_PACKAGES"))
	if len(seeds) == 0 {
		seeds = strings.Fields("linux-image-amd64 initramfs-tools zstd lvm2 openssh-server locales")
	}
	seeds = append(seeds, "grub-pc")
	ctx := context.Background()
	s, key := testSite(t), testKey(t)
	s.Release = codename
	o := installerFiles(t, dir, s, key)
	o.Sys = fstest.MapFS{} // BIOS
	debs := fetchPackages(t, codename, seeds)
	medium(t, o.Medium, codename, key, debs)
	write(t, filepath.Join(o.Medium, "sci/node/packages"), strings.Join(seeds, "\n")+"\n", 0o644)
	write(t, filepath.Join(o.State, "host"), "node1\n", 0o644)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	o.Log = log
	disk := loopDisk(ctx, t, o)
	t.Cleanup(func() {
		if err := unmountAll("/proc", o.Target); err != nil {
			t.Error(err)
		}
	})
	for _, verb := range []string{"base", "packages"} {
		start := time.Now()
		if err := Run(ctx, verb, o); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s took %v", verb, time.Since(start).Round(time.Millisecond))
	}
	checkSystem(t, o.Target)
	if disk == "" {
		t.Log("not checked on this machine: boot loader and initramfs")
		return
	}
	write(t, filepath.Join(o.State, "disk"), disk+"\n", 0o644)
	start := time.Now()
	if err := Run(ctx, "boot", o); err != nil {
		t.Fatal(err)
	}
	t.Logf("boot took %v", time.Since(start).Round(time.Millisecond))
	checkBoot(t, o.Target, disk)
}

// loopDisk divides a loop device by a recipe without LVM, which needs a kernel
// with device-mapper, and mounts it on the target. It returns "" where the
// kernel cannot: then the target is a plain directory and cannot boot.
func loopDisk(ctx context.Context, t *testing.T, o Options) string {
	t.Helper()
	const size = 8 << 30
	out, err := exec.Command("losetup", "--find", "--show", "--partscan", sparse(t, size)).Output()
	if err != nil {
		t.Logf("no loop device: %v", err)
		return ""
	}
	disk := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := unmountAll("/proc", o.Target); err != nil {
			t.Error(err)
		}
		output(t, "losetup", "--detach", disk)
	})
	recipe, err := ParseRecipe("test", []byte("partitions:\n"+
		"  - {name: bios, type: bios-boot, size: 1M}\n"+
		"  - {name: boot, type: linux, size: 1G, filesystem: ext4, mount: /boot}\n"+
		"  - {name: root, type: linux, size: rest, filesystem: ext4, mount: /}\n"))
	if err != nil {
		t.Fatal(err)
	}
	layout, err := recipe.Plan(Disk{Path: disk, Size: size, Sector: 512})
	if err != nil {
		t.Fatal(err)
	}
	err = Partition(ctx, PartitionOptions{Runner: run.Host{}, Layout: layout, Dev: "/dev", Target: o.Target})
	if _, missing := os.Stat(disk + "p1"); missing != nil {
		t.Logf("this kernel reads no GPT: %v", err)
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// checkBoot looks for GRUB in the boot sector, one initramfs, and a menu with
// the site's consoles.
func checkBoot(t *testing.T, target, disk string) {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if sector, err := readAt(f, 0, 512); err != nil || !strings.Contains(string(sector), "GRUB") {
		t.Errorf("no GRUB in the boot sector: %v", err)
	}
	if images, err := filepath.Glob(filepath.Join(target, "boot/initrd.img-*")); err != nil || len(images) != 1 {
		t.Errorf("initramfs: %v, %v; want one", images, err)
	}
	for _, link := range []string{"vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"} {
		if to, err := os.Readlink(filepath.Join(target, link)); err != nil || !strings.HasPrefix(to, "boot/") {
			t.Errorf("/%s is %q, %v; want a link to /boot", link, to, err)
		}
	}
	menu, err := os.ReadFile(filepath.Join(target, "boot/grub/grub.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"console=tty0 console=ttyS0,115200n8", "serial --unit=0 --speed=115200", "initrd\t/initrd.img-"} {
		if !strings.Contains(string(menu), want) {
			t.Errorf("grub.cfg lacks %q", want)
		}
	}
}

// checkSystem asks the installed system's own dpkg.
func checkSystem(t *testing.T, target string) {
	t.Helper()
	out, err := exec.Command("chroot", target, "dpkg", "--audit").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("dpkg --audit: %v\n%s", err, out)
	}
	out, err = exec.Command("chroot", target, "dpkg", "--verify").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("dpkg --verify: %v\n%s", err, out)
	}
	if left, err := filepath.Glob(filepath.Join(target, "boot/initrd.img-*")); err != nil || len(left) > 0 {
		t.Errorf("an initramfs was built too early: %v %v", left, err)
	}
	for _, dir := range []string{"proc", "dev", "run", "sys", "media/sci"} {
		entries, err := os.ReadDir(filepath.Join(target, dir))
		if err != nil || dir != "dev" && len(entries) > 0 {
			t.Errorf("%s is not empty after leaving: %v %v", dir, entries, err)
		}
	}
}

// fetchPackages fetches the closures of what every Debian has and one list of
// seeds each, and returns their files, each once.
func fetchPackages(t *testing.T, codename string, lists ...[]string) []string {
	t.Helper()
	dir := os.Getenv("SCI_CD_TEST_CACHE")
	if dir == "" {
		dir = t.TempDir()
	}
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	opts := archive.Options{Mirrors: archive.AptMirrors(os.DirFS("/")), Codename: codename, Cache: c}
	a, err := archive.Open(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	items := make(map[*deb.Package]archive.Item)
	var all []*deb.Package
	for _, p := range a.Packages() {
		if p.Kind == "deb" {
			all = append(all, p.Package)
			items[p.Package] = p.Item()
		}
	}
	universe := resolve.NewUniverse("amd64", all)
	var want []archive.Item
	taken := make(map[*deb.Package]bool)
	for _, seeds := range lists {
		r, err := universe.Resolve(resolve.Request{
			Name: "test", Seeds: append([]string{"apt"}, seeds...), Priorities: []string{"required", "important"},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Packages {
			if !taken[p] {
				taken[p] = true
				want = append(want, items[p])
			}
		}
	}
	var files []string
	if err := archive.NewFetcher(opts).Fetch(ctx, want); err != nil {
		t.Fatal(err)
	}
	for _, it := range want {
		name, ok := c.Path(it.SHA256)
		if !ok {
			t.Fatal(errors.New("not in the cache: " + it.Name))
		}
		files = append(files, name)
	}
	t.Logf("%d packages", len(files))
	return files
}
