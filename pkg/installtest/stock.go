package installtest

import (
	"path"
	"slices"
	"strings"
)

// departure is a reason why an installation of ours differs from a stock one,
// and all that differs for it.
type departure struct {
	reason string
	facts  []departed
}

// departed are facts of one class.
type departed struct {
	class string
	names string // path.Match patterns, a comma and a blank between them
	// stock and ours are the two values: one of the words below, or the value
	// itself.
	stock, ours string
	// same makes of both values what must still agree; nil: nothing must.
	same func(value string) string
}

const (
	none = ""  // it is not there
	some = "*" // it is there
)

// CompareStock lists in what a system differs from one with the same packages
// that Debian's own installer has made (`make bench-install`). Difference.A is
// stock's. What departures name is expected, and what no two installations of
// one host share.
func CompareStock(stock, ours Facts) []Difference {
	return compare(stock, ours, func(d Difference) string {
		for _, p := range departures {
			if slices.ContainsFunc(p.facts, func(f departed) bool { return f.covers(d) }) {
				return p.reason
			}
		}
		return explain(expectations, d)
	})
}

func (f departed) covers(d Difference) bool {
	return f.class == d.Class && slices.ContainsFunc(strings.Split(f.names, ", "), func(pattern string) bool {
		ok, _ := path.Match(pattern, d.Name)
		return ok
	}) && isValue(f.stock, d.A) && isValue(f.ours, d.B) && (f.same == nil || f.same(d.A) == f.same(d.B))
}

func isValue(want, value string) bool { return want == value || want == some && value != none }

// unseen leaves out that a question was asked.
var unseen = without(` ?seen$`, "")

// unnumbered leaves out the numbers of users and groups that packages ask for
// without naming one, Debian policy 9.2.2.
var unnumbered = without(`:[1-9]\d\d\b`, ":N")

// sortedList is a debconf list in an order of its own.
func sortedList(value string) string {
	list := strings.Split(strings.Trim(unseen(value), `"`), ", ")
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// departures are all of them, for the example site's node on a machine with
// BIOS. What is not here is a difference that nobody wanted: mend it, or add a
// line with the reason. docs/performance.md tells of them in short.
var departures = []departure{
	// What we leave out of stock's base system.
	{"a class holds what Debian calls required, and what its list names: no second editor", []departed{
		{"package", "nano:amd64", some, none, nil},
		{"conffile", "/etc/nanorc", some, none, nil},
		{"path", "/etc/nanorc", some, none, nil},
		{"alternative", "editor", "auto /bin/nano", "auto /usr/bin/vim.tiny", nil},
		{"alternative", "pico", some, none, nil},
		{"path", "/etc/alternatives/editor, /etc/alternatives/editor.1.gz", some, some, nil},
		{"path", "/etc/alternatives/editor.*.1.gz", none, some, nil},
		{"path", "/etc/alternatives/pico, /etc/alternatives/pico.1.gz", some, none, nil},
	}},
	{"a class holds what Debian calls required, and what its list names: no dialogs and translations of debconf", []departed{
		{"package", "apt-utils:amd64, debconf-i18n:all, libtext-iconv-perl:amd64, whiptail:amd64, libnewt0.52:amd64, libslang2:amd64", some, none, nil},
	}},
	{"a class holds what Debian calls required, and what its list names: systemd-sysv, without its metapackage", []departed{
		{"package", "init:amd64", some, none, nil},
	}},
	{"a class holds what Debian calls required, and what its list names: the agent reads /sys, not the DMI table", []departed{
		{"package", "dmidecode:amd64", some, none, nil},
	}},
	{"a class holds what Debian calls required, and what its list names: no firewall that nobody has set up", []departed{
		{"package", "nftables:amd64, libnftables1:amd64, libnftnl11:amd64, libjansson4:amd64", some, none, nil},
		{"conffile", "/etc/nftables.conf", some, none, nil},
		{"path", "/etc/nftables.conf", some, none, nil},
		{"unit", "nftables.service", "disabled, preset enabled", none, nil},
	}},
	{"networks are systemd-networkd's, not ifupdown's and dhcpcd's", []departed{
		{"package", "ifupdown:amd64, dhcpcd-base:amd64", some, none, nil},
		{"conffile", "/etc/default/networking, /etc/init.d/networking, /etc/network/if-down.d/resolved, /etc/network/if-up.d/resolved, /etc/dhcpcd.conf", some, none, nil},
		{"user", "dhcpcd", some, none, nil},
		{"shadow", "dhcpcd", some, none, nil},
		{"group", "netdev", some, none, nil}, // ifupdown's postinst
		{"gshadow", "netdev", some, none, nil},
		{"unit", "ifup@.service, ifupdown-pre.service, ifupdown-wait-online.service, networking.service", some, none, nil},
		{"unit", "systemd-network-generator.service, systemd-networkd-wait-online.service, systemd-networkd.service, systemd-networkd.socket", "disabled, preset enabled", "enabled, preset enabled", nil},
		{"unit", "dbus-org.freedesktop.network1.service", none, "alias, preset -", nil},
		{"mount", "/run/credentials/systemd-networkd.service", none, some, nil},
		{"path", "/etc/default/networking, /etc/dhcpcd.conf, /etc/init.d/networking, /etc/rc[06].d/K01networking, /etc/rcS.d/S01networking", some, none, nil},
		{"path", "/etc/network/if-down.d/resolved, /etc/network/if-up.d/resolved, /etc/network/interfaces.d", some, none, nil},
		{"path", "/etc/systemd/system/multi-user.target.wants/networking.service, /etc/systemd/system/network-online.target.wants/networking.service", some, none, nil},
		{"path", "/etc/systemd/system/dbus-org.freedesktop.network1.service, /etc/systemd/system/multi-user.target.wants/systemd-networkd.service, /etc/systemd/system/network-online.target.wants/systemd-networkd-wait-online.service, /etc/systemd/system/sockets.target.wants/systemd-networkd.socket, /etc/systemd/system/sysinit.target.wants/systemd-network-generator.service", none, some, nil},
	}},
	{"microcode is on the medium, for hardware with that processor; hw-detect installs it", []departed{
		{"package", "amd64-microcode:amd64, intel-microcode:amd64, iucode-tool:amd64", some, none, nil},
		{"manually installed", "amd64-microcode, intel-microcode, iucode-tool", some, none, nil},
		{"conffile", "/etc/default/amd64-microcode, /etc/modprobe.d/amd64-microcode-blacklist.conf", some, none, nil},
		{"conffile", "/etc/default/intel-microcode, /etc/modprobe.d/intel-microcode-blacklist.conf, /etc/kernel/preinst.d/intel-microcode", some, none, nil},
		{"path", "/etc/default/amd64-microcode, /etc/modprobe.d/amd64-microcode-blacklist.conf", some, none, nil},
		{"path", "/etc/default/intel-microcode, /etc/modprobe.d/intel-microcode-blacklist.conf, /etc/kernel/preinst.d, /etc/kernel/preinst.d/intel-microcode", some, none, nil},
	}},
	{"apt takes for wanted what debootstrap installed: stock's base system is larger, in ours these are dependencies, or absent", []departed{
		{"manually installed", "apt-utils, debconf-i18n, dhcpcd-base, dmidecode, ifupdown, init, nano, nftables, whiptail", some, none, nil}, // absent
		{"manually installed", "libjansson4, libnewt0.52, libnftables1, libnftnl11, libslang2, libtext-iconv-perl", some, none, nil},         // absent
		{"manually installed", "adduser, cpio, cron-daemon-common, fdisk, keyboard-configuration, kmod, logsave, procps, readline-common, sensible-utils, systemd, vim-common", some, none, nil},
		{"manually installed", "libapparmor1, libbpf1, libcap2-bin, libcom-err2, libedit2, libelf1t64, libext2fs2t64, libfdisk1, libgssapi-krb5-2, libidn2-0, libk5crypto3, libkeyutils1, libkmod2, libkrb5-3, libkrb5support0", some, none, nil},
		{"manually installed", "liblocale-gettext-perl, libmnl0, libncursesw6, libpopt0, libproc2-0, libreadline8t64, libss2, libsystemd-shared, libtext-charwidth-perl, libtext-wrapi18n-perl, libtirpc-common, libtirpc3t64, libunistring5, libxtables12", some, none, nil},
		{"manually installed", "grub-common", some, none, nil}, // grub-installer asks for it; ours for grub-pc alone
	}},
	{"numbers of users and groups are given in the order of installation, Debian policy 9.2.2", []departed{
		{"user", "*", some, some, unnumbered},
		{"group", "*", some, some, unnumbered},
		{"content", "/etc/passwd, /etc/group, /etc/gshadow", some, some, nil}, // compared line by line as users and groups
	}},

	// What Debian's installer leaves, and ours does not.
	{"Debian's installer leaves answers to questions of packages that are not installed", []departed{
		{"debconf", "debian-installer/country, debian-installer/language, passwd/username, grub2/gnumach_cmdline", some, none, nil},
		{"debconf", "popularity-contest/participate, unattended-upgrades/enable_auto_updates", some, none, nil},
	}},
	{"Debian's installer leaves its disc as apt's source; ours the medium's copy and Debian's archive", []departed{
		{"path", "/etc/apt/sources.list, /etc/apt/sources.list~, /etc/apt/apt.conf.d/00CDMountPoint, /etc/apt/apt.conf.d/00trustcdrom", some, none, nil},
		{"path", "/etc/apt/keyrings/sci-site.gpg, /etc/apt/sources.list.d/sci-debian.sources, /etc/apt/sources.list.d/sci-medium.sources", none, some, nil},
		{"unit", "media-cdrom0.mount", some, none, nil},
		{"unit", "media-sci.mount", none, some, nil},
		{"mount", "/media/sci", none, some, nil},
		{"block device", "loop0", none, some, nil},
	}},
	{"Debian's installer makes a lack of Recommends the system's rule; ours lets apt have Debian's", []departed{
		{"path", "/etc/apt/apt.conf.d/00InstallRecommends", some, none, nil},
	}},
	{"Debian's installer writes what packages do without it as well", []departed{
		{"path", "/etc/kernel-img.conf", some, none, nil}, // the defaults of linux-base
		{"path", "/etc/securetty", some, none, nil},       // PAM in trixie reads it no more
	}},
	{"Debian's installer answers past debconf, or debconf was asked in another order", []departed{
		{"debconf", "keyboard-configuration/altgr, keyboard-configuration/compose, keyboard-configuration/layout, keyboard-configuration/model, keyboard-configuration/modelcode, keyboard-configuration/optionscode, keyboard-configuration/other, keyboard-configuration/store_defaults_in_debconf_db, keyboard-configuration/switch, keyboard-configuration/toggle, keyboard-configuration/variantcode", some, some, unseen},
		{"debconf", "grub-pc/install_devices_empty, grub2/enable_os_prober", some, some, unseen},
		{"debconf", "locales/default_environment_locale", `"None"`, `"en_US.UTF-8" seen`, nil},
		{"debconf", "locales/locales_to_be_generated", `""`, `"en_US.UTF-8 UTF-8" seen`, nil},
		{"content", "/etc/locale.conf, /etc/locale.gen", some, some, nil}, // quotes, and where the line stands
	}},
	{"the same certificates, sorted by the rules of another locale", []departed{
		{"debconf", "ca-certificates/enable_crts", some, some, sortedList},
		{"content", "/etc/ca-certificates.conf, /etc/ssl/certs/ca-certificates.crt", some, some, nil},
	}},
	{"the console's font is chosen when it is set, for the locale's characters: Latin, Cyrillic and Greek with UTF-8", []departed{
		{"debconf", "console-setup/codesetcode", `"Lat15"`, `"guess"`, nil},
		{"debconf", "console-setup/codeset47", some, `"Guess optimal character set" seen`, nil},
		{"content", "/etc/default/console-setup, /etc/console-setup/cached_setup_font.sh", some, some, nil},
		{"path", "/etc/console-setup/cached_Lat15-Fixed16.psf.gz", some, none, nil},
		{"path", "/etc/console-setup/cached_Uni2-Fixed16.psf.gz", none, some, nil},
	}},

	// What we add.
	{"the site's consoles, in a file of ours; Debian's installer edits /etc/default/grub", []departed{
		{"content", "/etc/default/grub", some, some, nil},
		{"path", "/etc/default/grub.d/60-sci-console.cfg", none, some, nil},
		{"kernel command line", "console", none, some, nil},
		{"kernel command line", "quiet", some, none, nil},
		{"unit", "serial-getty@.service", "disabled, preset enabled", "indirect, preset enabled", nil},
		{"mount", "/run/credentials/serial-getty@ttyS0.service", none, some, nil},
		{"other path", "/boot/grub/unicode.pf2", some, none, nil}, // the menu is text
	}},
	{"the overlay's settings", []departed{
		{"path", "/etc/default/grub.d/50-sci.cfg, /etc/initramfs-tools/conf.d/50-sci, /etc/modprobe.d/drbd.conf", none, some, nil},
		{"path", "/etc/sysctl.d/50-sci.conf, /etc/sysctl.d/60-sci-node.conf", none, some, nil},
		{"path", "/etc/systemd/journald.conf.d, /etc/systemd/journald.conf.d/50-sci.conf", none, some, nil},
		{"path", "/etc/systemd/system.conf.d, /etc/systemd/system.conf.d/50-sci.conf", none, some, nil},
		{"path", "/etc/initramfs-tools/conf.d/resume", some, none, nil}, // 50-sci says RESUME=none
	}},
	{"the agent makes the machine what the site file says", []departed{
		{"path", "/etc/sci/host, /etc/sci/site.json, /etc/sci/enrol.json, /etc/issue.d, /etc/issue.d/sci.issue", none, some, nil},
		{"path", "/etc/systemd/network/10-sci-lan.netdev, /etc/systemd/network/10-sci-lan.network, /etc/systemd/network/10-sci-lan-port.network", none, some, nil},
		{"path", "/etc/chrony/conf.d/sci-cluster.conf, /etc/chrony/sources.d/sci.sources", none, some, nil}, // the nodes' common time
		{"text", "/etc/hostname", some, some, nil}, // Ganeti wants the whole name
		{"text", "/etc/hosts", some, some, nil},
		{"content", "/etc/resolv.conf", some, some, nil},
	}},
	{"the networks that Debian's installer was given, as ifupdown has them", []departed{
		{"content", "/etc/networks", some, some, nil},
		{"path", "/etc/network/interfaces", some, none, nil},
	}},
	{"the disk recipe: a partition for EFI, names, a swap of fixed size, the rest of the group free", []departed{
		{"text", "/etc/fstab", some, some, nil},
		{"block device", "vda1", some, some, without(` partlabel=bios$`, "")},
		{"block device", "vda2, vda3, xenvg-root, xenvg-swap", some, some, nil},
		{"block device", "vda4", none, some, nil},
		{"LVM", "lv?xenvg/root, lv?xenvg/swap, vg?xenvg", some, some, nil},
		{"LVM", "pv?/dev/vda3", some, none, nil},
		{"LVM", "pv?/dev/vda4", none, some, nil},
		{"mount", "/boot", some, some, without(`^/dev/vda\d `, "")},
		{"mount", "/boot/efi", none, some, nil},
		{"other path", "/boot/efi", none, some, nil},
		{"unit", "boot-efi.mount", none, some, nil},
	}},
}
