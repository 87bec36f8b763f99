package build

import (
	"io/fs"
	"strings"

	"github.com/skycover/sci-cd/pkg/initrd"
)

// removed are packages of the stock initrd that want a network, a second
// medium or a person.
var removed = []string{
	"anna", "brltty-udeb", "choose-mirror", "choose-mirror-bin", "download-installer", "ethdetect",
	"load-cdrom", "media-retriever", "net-retriever", "netcfg", "network-preseed",
}

// menu are the agent's steps in the installer's main menu. The numbers are
// those of the Debian packages whose place they take (installer/doc/devel/
// menu-item-numbers.txt): cdrom-detect 1300, partman-base 4200,
// bootstrap-base 6500, grub-installer 7400, finish-install 7800. The last is
// there only where the mirror had no finish-install.
func menu(has func(udeb string) bool) []initrd.MenuItem {
	items := []initrd.MenuItem{
		{Name: "sci-medium", Number: 1300, Description: "Find and mount the installation medium",
			Provides: "cdrom-detect", Postinst: step("medium")},
		{Name: "sci-firmware", Number: 1400, Description: "Load firmware that drivers ask for", Depends: "sci-medium", Postinst: firmwareStep},
		{Name: "sci-disks", Number: 4200, Description: "Partition the disk by the site file", Depends: "sci-medium",
			Provides: "partitioned-harddrives, created-fstab, made-filesystems, mounted-partitions, harddrive-detection", Postinst: step("disks")},
		{Name: "sci-base", Number: 6500, Description: "Install the base system", Depends: "mounted-partitions, created-fstab",
			Provides: "base-installer, kernel-installer", Postinst: step("base")},
		{Name: "sci-packages", Number: 7000, Description: "Install the host's packages", Depends: "sci-base",
			Provides: "installed-base", Postinst: step("packages") + firmwareInstall},
		{Name: "sci-boot", Number: 7400, Description: "Install the boot loader", Depends: "sci-packages",
			Provides: "bootable-system", Postinst: step("boot", displayDriver)},
	}
	if !has("finish-install") {
		items = append(items, initrd.MenuItem{Name: "sci-end", Number: 7800, Description: "Finish the installation",
			Depends: "installed-base, created-fstab, bootable-system", Postinst: endStep})
	}
	return items
}

// endStep does what the udeb finish-install does.
const endStep = `#!/bin/sh
# Made by sci-cd (pkg/build).
for hook in /usr/lib/finish-install.d/*; do
	[ ! -x "$hook" ] || log-output -t sci-end "$hook" || logger -t sci-end "warning: $hook failed"
done
umount /target/run 2>/dev/null
rm -rf /target/run/*
exec /lib/debian-installer/exit
`

// step is the postinst of a menu item: debconf's channel stays untouched, what
// commands print goes to the installer's log. The lines of before come first.
func step(verb string, before ...string) string {
	return `#!/bin/sh
set -e
# Made by sci-cd (pkg/build). The agent does the work and speaks on the console;
# debconf's descriptors are not for what it runs.
` + strings.Join(before, "") + `/usr/bin/sci-agent installer ` + verb + ` </dev/null >>/var/log/sci-agent.log 2>&1 3>&- 4>&- 5>&- 6>&-
`
}

// firmwareStep looks for firmware on the medium, but only where a driver has
// missed some: the look takes its time.
const firmwareStep = `#!/bin/sh
# Made by sci-cd (pkg/build).
dmesg | grep -q -e 'firmware: failed to load' -e 'Direct firmware load for' || exit 0
exec check-missing-firmware -n
`

// firmwareInstall installs in the new system the firmware packages that
// check-missing-firmware has loaded.
const firmwareInstall = `[ ! -d /var/cache/firmware ] || /usr/lib/pre-pkgsel.d/50install-firmware >>/var/log/sci-agent.log 2>&1
`

// displayDriver is what finish-install's 10update-initramfs does for machines
// with these display drivers (Debian bug 1036019), but before the one initramfs
// is made, where Debian makes another.
const displayDriver = `for module in bochs cirrus; do
	! grep -q "^$module " /proc/modules || grep -qx $module /target/etc/initramfs-tools/modules ||
		echo $module >>/target/etc/initramfs-tools/modules
done
`

// needless are Debian's last steps that have nothing to do on a machine of ours.
// Each costs a log, a line on the console and some processes even so.
var needless = []string{
	"05localechooser",         // queues libfribidi0 for right-to-left languages; nothing reads the queue
	"07brltty",                // Braille: sets up desktops
	"07speakup",               // speech: sets up desktops
	"07rootskel",              // the theme: sets up desktops
	"08hw-detect",             // queues guest tools by hypervisor: here they are packages of a profile
	"10update-initramfs",      // a second initramfs: see displayDriver
	"50config-target-network", // /etc/network/interfaces, for an ifupdown that is not there
	"55netcfg-copy-config",    // there was no netcfg
	"60cleanup",               // apt-get clean was done; apt-cache gencaches makes what the first apt makes
	"80hvcgetty",              // riscv64
	"94random-seed",           // for sysvinit
	"97release-dhcp-lease",    // there was no DHCP
}

// settings are what the installer itself must be told before its first step. In
// the new system language and keyboard are set by the agent. English and the
// American keyboard are what cdebconf and the kernel start with; to find out
// that they are wanted, localechooser and console-setup fork hundreds of
// processes.
type settings struct{ language, keyboard bool }

// see notes the settings in a preseed file that differ from the start.
func (s *settings) see(preseed []byte) {
	for line := range strings.Lines(string(preseed)) {
		f := append(strings.Fields(line), "", "", "", "")
		english := f[1] == "debian-installer/locale" && (f[3] == "C.UTF-8" || strings.HasPrefix(f[3], "en_") && strings.HasSuffix(f[3], ".UTF-8"))
		switch {
		case f[0] != "d-i" || english || f[1] == "keyboard-configuration/xkb-keymap" && f[3] == "us":
		case f[1] == "debian-installer/locale", f[1] == "debian-installer/language", f[1] == "debian-installer/country":
			s.language = true
		case strings.HasPrefix(f[1], "keyboard-configuration/"):
			s.keyboard = true
		}
	}
}

// unlessTold is a script that ends with skip, but carries out then in a rescue
// and where the boot menu's line has one of these words. It forks nothing.
func unlessTold(skip, then string, words ...string) string {
	return `#!/bin/sh
# Made by sci-cd (pkg/build): the site wants what the installer starts with.
read -r line </proc/cmdline
case $line in
*rescue/enable=true* | *` + strings.Join(words, "* | *") + `*) ` + then + ` ;;
esac
` + skip + `
`
}

type hook struct {
	path string
	mode fs.FileMode
	text string
}

// hooks are the small files by which the agent is called, and those that keep
// parts of the stock initrd from doing what this medium has no use for.
func hooks(ask settings) []hook {
	list := []hook{
		// Its presence makes reopen-console run one installer, on the preferred
		// console, instead of one on each.
		{"preseed.cfg", 0o644, "# The answers come from sci-agent: see /sci and lib/debian-installer-startup.d/S31sci.\n"},
		{"lib/debian-installer-startup.d/S31sci", 0o755, `#!/bin/sh
# Made by sci-cd (pkg/build): find the host, answer the installer's questions.
grep -qw rescue/enable=true /proc/cmdline && exit 0
cd /usr/lib/finish-install.d && rm -f ` + strings.Join(needless, " ") + `
cd /
if grep -q sci.capture= /proc/cmdline; then # in the virtual machine of sci-cd capture
	/usr/bin/sci-agent installer capture </dev/null >>/var/log/sci-agent.log 2>&1 || tail -n 100 /var/log/sci-agent.log >/dev/console
	exec poweroff -f
fi
export DEBIAN_FRONTEND=none
. /usr/share/debconf/confmodule
exec /usr/bin/sci-agent installer answers 2>>/var/log/sci-agent.log
`},
		{"usr/lib/finish-install.d/05sci", 0o755, `#!/bin/sh
# Made by sci-cd (pkg/build): what has to be done in the new system at the end.
exec /usr/bin/sci-agent installer finish </dev/null >>/var/log/sci-agent.log 2>&1 3>&- 4>&- 5>&- 6>&-
`},
		// Each of these starts a debconf of its own, which reads all questions.
		{"lib/debian-installer-startup.d/S30initrd-preseed", 0o644, "# left out: /preseed.cfg has no answers, S31sci has them\n"},
		{"lib/debian-installer-startup.d/S60auto-install", 0o644, "# left out: puts off language and keyboard until an answer file came over the network\n"},
		{"lib/debian-installer-startup.d/S60rescue-check", 0o644, "# left out: fetches rescue-mode, which is here already\n"},
		// In low memory mode: a note that waits for a key, and a udeb that anna,
		// which is not here, would fetch.
		{"lib/debian-installer-startup.d/S38lowmemwarn", 0o644, "# left out: nobody is there to read the note\n"},
		{"lib/debian-installer.d/S65theme", 0o644, "# left out: colours for the front ends newt and gtk\n"},
		// The kernel gathers entropy by itself for whoever waits for it (Linux 5.4,
		// try_to_generate_entropy in drivers/char/random.c).
		{"lib/debian-installer-startup.d/S50entropy-source", 0o644, "# left out: the kernel needs no haveged\n"},
		// hw-detect runs depmod over all modules whenever it finds the program;
		// the indexes are there already.
		{"sbin/depmod", 0o644, "# left out: the module indexes were made with the medium\n"},
		// GNU screen makes a serial console's log unreadable.
		{"usr/bin/screen", 0o644, "# left out: the installer speaks to the console as it is\n"},
	}
	if !ask.language {
		// tzsetup-udeb depends on it, so that main-menu runs it in any case.
		list = append(list, hook{"var/lib/dpkg/info/localechooser.postinst", 0o755,
			unlessTold("exit 0", "exec localechooser", "language=", "locale=", "country=")})
	}
	if !ask.keyboard {
		// main-menu(8) asks it whether to show and run the item.
		list = append(list, hook{"var/lib/dpkg/info/console-setup-udeb.isinstallable", 0o755,
			unlessTold("exit 1", "exit 0", "keymap=", "keyboard-configuration/")})
	}
	return list
}
