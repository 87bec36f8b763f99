//go:build realmirror

package installer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/site"
)

// TestImage installs the same real packages in two ways, one by one and from an
// image that was captured for it, for both kinds of firmware, and compares the
// systems file by file. It needs root.
func TestImage(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts and chroot")
	}
	ctx := context.Background()
	dir := t.TempDir()
	packages := strings.Fields("linux-image-amd64 initramfs-tools zstd e2fsprogs openssh-server iputils-ping locales")
	s, key := testSite(t), testKey(t)
	o := installerFiles(t, dir, s, key)
	o.Sys = fstest.MapFS{}
	bios := append([]string{"grub-pc"}, packages...)
	efi := append([]string{"grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed"}, packages...)
	medium(t, o.Medium, "trixie", key, fetchPackages(t, "trixie", bios, efi)) // GRUB's packages conflict
	write(t, filepath.Join(o.Medium, "sci/node/packages"), strings.Join(packages, "\n")+"\n", 0o644)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() }) // after the parallel parts
	o.Log = log
	t.Cleanup(func() {
		if err := unmountAll("/proc", dir); err != nil {
			t.Error(err)
		}
	})
	uefi := fstest.MapFS{"firmware/efi/fw_platform_size": {Data: []byte("64\n")}}

	capture := at(t, o, "capture")
	write(t, filepath.Join(capture.State, "capture"), "node\n", 0o644)
	write(t, filepath.Join(capture.Target, "etc/fstab"), "/dev/mapper/xenvg-root / ext4 defaults 0 1\n", 0o644)
	runVerbs(ctx, t, capture, "base", "packages")
	capture = capture.withDefaults()
	head, err := prepareImage(ctx, capture)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.Create(sparse(t, 8<<30))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }()
	if err := writeImage(ctx, capture, disk, head); err != nil {
		t.Fatal(err)
	}
	_, err = image.Make(ctx, image.MakeOptions{
		Disk: disk, DiskSize: 8 << 30, Key: key, Dir: filepath.Join(o.Medium, "sci/node-image"),
		Manifest: image.Manifest{Class: "node", Codename: "trixie", Arch: "amd64", Inputs: "test", Time: releaseDate},
	})
	if err != nil {
		t.Fatal(err)
	}

	placeImage(t, o.Medium)
	for _, firmware := range []struct {
		name string
		sys  fs.FS
	}{{"bios", fstest.MapFS{}}, {"uefi", uefi}} {
		t.Run(firmware.name, func(t *testing.T) {
			t.Parallel()
			one := at(t, o, firmware.name+"-packages")
			one.Sys = firmware.sys
			runVerbs(ctx, t, one, "base", "packages")
			checkSystem(t, one.Target)

			other := at(t, o, firmware.name+"-image")
			other.Sys = firmware.sys
			imageSite(t, &other, s)
			if err := checkImage(ctx, other.withDefaults(), mustSite(t, other), &mustSite(t, other).Hosts[0]); err != nil {
				t.Fatal(err)
			}
			runVerbs(ctx, t, other, "base", "packages")
			compareSystems(t, one.Target, other.Target)
			if key, err := os.ReadFile(filepath.Join(other.Target, "etc/ssh/ssh_host_ed25519_key")); err != nil || len(key) == 0 {
				t.Errorf("no host key was made: %v", err)
			}
		})
	}
}

// at gives the options a target and a state of their own.
func at(t *testing.T, o Options, name string) Options {
	t.Helper()
	o.Target, o.State = filepath.Join(filepath.Dir(o.Target), name), filepath.Join(filepath.Dir(o.State), name+"-state")
	for _, dir := range []string{o.Target, o.State} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(o.State, "host"), "node1\n", 0o644)
	return o
}

// placeImage puts the image to what else the medium has of the class.
func placeImage(t *testing.T, medium string) {
	t.Helper()
	for _, name := range []string{"image.json", "image.json.asc", "base.tar.zst", "bios.tar.zst", "uefi.tar.zst"} {
		if err := os.Rename(filepath.Join(medium, "sci/node-image", name), filepath.Join(medium, "sci/node", name)); err != nil {
			t.Fatal(err)
		}
	}
}

// imageSite makes the site one that is installed from images.
func imageSite(t *testing.T, o *Options, s *site.Site) {
	t.Helper()
	fromImage := *s
	fromImage.Install = site.FromImage
	data, err := fromImage.JSON()
	if err != nil {
		t.Fatal(err)
	}
	o.Site = filepath.Join(o.State, "site.json")
	write(t, o.Site, string(data), 0o600)
}

func mustSite(t *testing.T, o Options) *site.Site {
	t.Helper()
	s, err := loadSite(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func runVerbs(ctx context.Context, t *testing.T, o Options, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := Run(ctx, name, o); err != nil {
			t.Fatal(err)
		}
	}
}

// differs are paths that are not the same on two machines, or not the same
// before and after the initramfs was built, and why.
var differs = map[string]string{
	"etc/machine-id":                "identity",
	"var/lib/dbus/machine-id":       "identity",
	"etc/fstab":                     "written when the disk is divided",
	"etc/ssh/ssh_host_*":            "the machine's own keys",
	"boot/initrd.img-*":             "an image holds it, the verb boot makes it otherwise",
	"initrd.img*":                   "link to the initramfs",
	"var/log/*":                     "logs of the installation",
	"var/log/apt/*":                 "logs of the installation",
	"var/cache/apt/*":               "apt makes it again",
	"var/cache/debconf/*":           "the order of questions; compared by what debconf says",
	"var/cache/ldconfig/aux-cache":  "holds inode numbers",
	"var/lib/apt/extended_states":   "the order of packages",
	"var/lib/dpkg/status*":          "the order of packages and of conffiles; compared by what dpkg says",
	"var/lib/dpkg/diversions-old":   "one step behind",
	"var/lib/dpkg/statoverride-old": "one step behind",
	"var/lib/dpkg/triggers/*":       "",
	"var/lib/initramfs-tools/*":     "sums of the initramfs",
	"var/lib/systemd/catalog/*":     "holds times",
	"etc/ld.so.cache":               "holds the order of directories",
	"var/lib/apt/lists/*":           "times of reading",
	"etc/passwd-":                   "one step behind",
	"etc/group-":                    "one step behind",
	"etc/shadow-":                   "one step behind",
	"etc/gshadow-":                  "one step behind",
	"var/lib/ucf/*":                 "one step behind",
	"var/lib/systemd/deb-systemd-*": "",
	"tmp":                           "time",
	"var/tmp":                       "time",
}

// compareSystems compares two installed systems by content.
func compareSystems(t *testing.T, one, other string) {
	t.Helper()
	if diff := cmp.Diff(dpkg(t, one), dpkg(t, other)); diff != "" {
		t.Errorf("packages differ (-packages +image):\n%s", diff)
	}
	if diff := cmp.Diff(contents(t, one), contents(t, other)); diff != "" {
		t.Errorf("files differ (-packages +image):\n%s", diff)
	}
	if out := output(t, "chroot", other, "dpkg", "--verify"); len(strings.TrimSpace(out)) > 0 {
		t.Errorf("dpkg --verify: %s", out)
	}
}

func dpkg(t *testing.T, root string) []string {
	t.Helper()
	list := strings.Split(output(t, "chroot", root, "dpkg-query", "-W", "-f", `${Package} ${Version} ${db:Status-Abbrev}\n`), "\n")
	return append(list, strings.Split(output(t, "chroot", root, "apt-mark", "showmanual"), "\n")...)
}

func contents(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, name)
		for pattern := range differs {
			if ok, _ := filepath.Match(pattern, rel); ok {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v %d:%d", rel, info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(data))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		names := make([]byte, 4096)
		if n, err := unix.Llistxattr(name, names); err == nil && n > 0 {
			line += fmt.Sprintf(" %q", names[:n])
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
