package installer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

// grubFile is read after the overlay's own drop-ins.
const grubFile = "/etc/default/grub.d/60-sci-console.cfg"

// modulesFile is read by mkinitramfs after the overlay's own drop-ins.
const modulesFile = "/etc/initramfs-tools/conf.d/60-sci-modules"

// Boot is the verb boot: the role's overlay, because the initramfs and GRUB's
// menu are made from files that it holds; the one initramfs; and GRUB where the
// firmware that booted us looks for it.
func Boot(ctx context.Context, o Options) error {
	o = o.withDefaults()
	say(o.Console, "phase boot")
	s, h, err := currentHost(o)
	if err != nil {
		return err
	}
	disk, err := recall(o, "disk")
	if err != nil {
		return fmt.Errorf("it is not known which disk to boot from: %w", err)
	}
	if err := overlay(o, h); err != nil {
		return err
	}
	uefi := exists(o.Sys, "firmware/efi")
	g, err := goldenImage(o, s, h)
	if err != nil {
		return err
	}
	return within(ctx, o, func(c *chroot) error {
		stale, err := c.driverChoice(ctx, h)
		if err != nil {
			return err
		}
		if g == nil || stale { // else it is in the image
			if err := c.initramfs(ctx); err != nil {
				return err
			}
		}
		if err := c.write(grubFile, grubDefaults(consoles(s, h)), 0o644); err != nil {
			return err
		}
		if err := c.answer(ctx, bootSelections(uefi, grubDisk(o, h, disk))); err != nil {
			return err
		}
		if err := c.grub(ctx, disk, uefi); err != nil {
			return err
		}
		if _, err := c.run(ctx, nil, "update-grub"); err != nil {
			return fmt.Errorf("cannot write GRUB's menu: %w", err)
		}
		return nil
	})
}

// driverChoice writes what the initramfs of this machine is to hold, and says
// whether one that was made elsewhere will not do.
func (c *chroot) driverChoice(ctx context.Context, h *site.Host) (stale bool, err error) {
	if h.Disk.Fixed {
		err := c.write(modulesFile, "# Written by the installer of SCI-CD (sci-agent): the site file says disk.fixed.\nMODULES=dep\n", 0o644)
		return true, err
	}
	// The menu item notes the display drivers that the initramfs has to hold.
	modules, err := readBounded(filepath.Join(c.o.Target, "etc/initramfs-tools/modules"), 1<<20)
	if err == nil {
		lines := strings.Split(string(modules), "\n")
		stale = slices.Contains(lines, "bochs") || slices.Contains(lines, "cirrus")
	}
	// The arrays' names are in the initramfs; mdadm's own script lists them.
	const mkconf = "usr/share/mdadm/mkconf"
	if _, err := os.Stat(filepath.Join(c.o.Target, mkconf)); err != nil {
		return stale, nil
	}
	if _, err := c.run(ctx, nil, "/"+mkconf, "force-generate", "/etc/mdadm/mdadm.conf"); err != nil {
		return false, fmt.Errorf("cannot list the RAID arrays: %w", err)
	}
	return true, nil
}

// initramfs builds the initramfs of every kernel that was installed.
func (c *chroot) initramfs(ctx context.Context) error {
	images, err := filepath.Glob(filepath.Join(c.o.Target, "boot/vmlinuz-*"))
	if err != nil {
		return err
	}
	if len(images) == 0 {
		return errors.New("no kernel was installed: the role's packages lack linux-image-amd64")
	}
	sort.Strings(images)
	for _, image := range images {
		version := strings.TrimPrefix(filepath.Base(image), "vmlinuz-")
		do := "-c"
		if _, err := os.Stat(filepath.Join(c.o.Target, "boot/initrd.img-"+version)); err == nil {
			do = "-u"
		}
		if _, err := c.run(ctx, nil, "update-initramfs", do, "-k", version); err != nil {
			return fmt.Errorf("cannot build the initramfs of kernel %s: %w", version, err)
		}
		// The kernel's script made /vmlinuz and no /initrd.img: there was none.
		if _, err := c.run(ctx, nil, "env", "-u", noInitramfs, "linux-update-symlinks", "upgrade", version, "/boot/vmlinuz-"+version); err != nil {
			return fmt.Errorf("cannot link /initrd.img of kernel %s: %w", version, err)
		}
	}
	return nil
}

// grub installs GRUB. On UEFI it goes to Debian's directory with an entry in
// the firmware's variables, and to EFI/BOOT as well: a machine that lost its
// variables still boots. The signed shim and GRUB are taken, so that Secure
// Boot may be on.
func (c *chroot) grub(ctx context.Context, disk string, uefi bool) error {
	if !uefi {
		if _, err := c.run(ctx, nil, "grub-install", "--target=i386-pc", "--no-floppy", disk); err != nil {
			return fmt.Errorf("cannot install GRUB on %s: %w", disk, err)
		}
		return nil
	}
	argv := []string{"grub-install", "--target=x86_64-efi", "--efi-directory=/boot/efi",
		"--bootloader-id=debian", "--uefi-secure-boot", "--force-extra-removable"}
	_, err := c.run(ctx, nil, argv...)
	if err != nil {
		// Firmware whose variables are full or read-only; the removable path
		// boots without any.
		say(c.o.Console, "the firmware keeps no boot entry, relying on EFI/BOOT")
		if _, again := c.run(ctx, nil, append(argv, "--no-nvram")...); again != nil {
			return fmt.Errorf("cannot install GRUB: %w", err)
		}
	}
	for _, name := range []string{"EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/BOOT/BOOTX64.EFI"} {
		if _, err := os.Stat(filepath.Join(c.o.Target, "boot/efi", name)); err != nil {
			return fmt.Errorf("cannot install GRUB: grub-install reported success but: %w", err)
		}
	}
	return nil
}

// bootSelections are the answers that make later upgrades of GRUB do what we
// did.
func bootSelections(uefi bool, disk string) string {
	list := []Answer{{"grub-pc", "grub2/linux_cmdline", "string", ""},
		{"grub-pc", "grub2/linux_cmdline_default", "string", "quiet"},
		{"grub-pc", "grub2/enable_os_prober", "boolean", "false"}}
	if uefi {
		list = []Answer{{"grub-efi-amd64", "grub2/force_efi_extra_removable", "boolean", "true"},
			{"grub-efi-amd64", "grub2/update_nvram", "boolean", "true"},
			{"grub-efi-amd64", "grub2/enable_os_prober", "boolean", "false"}}
	} else {
		list = append(list, Answer{"grub-pc", "grub-pc/install_devices", "multiselect", disk},
			Answer{"grub-pc", "grub-pc/install_devices_empty", "boolean", strconv.FormatBool(disk == "")})
	}
	var b strings.Builder
	for _, a := range list {
		b.WriteString(a.line())
	}
	return b.String()
}

// grubDisk is the disk that later upgrades of GRUB install it on: in a virtual
// machine Ganeti's paravirtual one.
func grubDisk(o Options, h *site.Host, disk string) string {
	if h.Virtual {
		return "/dev/vda"
	}
	return stableName(o.Dev, disk)
}

// consoles are the kernel's: a virtual machine has a serial port, which
// gnt-instance console shows.
func consoles(s *site.Site, h *site.Host) []string {
	if h.Virtual {
		return []string{"tty0", "ttyS0,115200n8"}
	}
	return s.Console
}

// serialConsole is a kernel console on a serial port: port, speed.
var serialConsole = regexp.MustCompile(`^ttyS([0-9]+)(?:,([0-9]+))?`)

// grubDefaults is the drop-in for grub-mkconfig: the site's consoles, and a
// menu on the serial port where the site has one. It comes after
// /etc/default/grub, which stays as Debian wrote it.
func grubDefaults(consoles []string) string {
	var b strings.Builder
	b.WriteString("# Written by the installer of SCI-CD (sci-agent): the site's consoles.\n" +
		"# Read after /etc/default/grub; run update-grub after a change.\n")
	var args []string
	serial := ""
	for _, con := range consoles {
		args = append(args, "console="+con)
		if m := serialConsole.FindStringSubmatch(con); m != nil {
			serial = "serial --unit=" + m[1] + " --speed=" + first(m[2], "9600")
		}
	}
	fmt.Fprintf(&b, "GRUB_CMDLINE_LINUX=%q\n", strings.Join(args, " "))
	b.WriteString("GRUB_CMDLINE_LINUX_DEFAULT=\"\"\n")
	if serial != "" {
		fmt.Fprintf(&b, "GRUB_TERMINAL=\"console serial\"\nGRUB_SERIAL_COMMAND=%q\n", serial)
	}
	b.WriteString("# Other systems on other disks are none of our business, and looking for\n" +
		"# them takes minutes and opens instances' disks.\n" +
		"GRUB_DISABLE_OS_PROBER=true\n")
	return b.String()
}
