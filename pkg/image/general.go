package image

import (
	"io/fs"
	"path"
	"strings"
)

// Part says how much of a file goes into an image.
type Part int

// The parts.
const (
	Whole Part = iota
	Empty      // a directory without what is in it, a file of length 0
	None       // nothing, for a directory nothing of what is in it either
)

// rule is a path.Match pattern and what goes into an image of what matches it.
// The first rule that matches counts.
type rule struct {
	pattern string
	part    Part
}

// rules are what belongs to one machine, or to nobody. Paths are relative to
// the root directory.
var rules = []rule{
	// not on the disk
	{"dev", Empty}, {"proc", Empty}, {"run", Empty}, {"sys", Empty},
	{"lost+found", None}, {"boot/lost+found", None},
	// file systems of their own, made by the installer
	{"boot/efi", Empty}, {"media/sci", Empty}, {"srv/sci", None},
	// of no use in another minute
	{"tmp", Empty}, {"var/tmp", Empty},
	{"var/cache/apt/*.bin", None}, {"var/cache/apt/archives/*.deb", None}, {"var/cache/apt/archives/partial/*", None},
	// logs: the files that packages expect stay, empty
	{"var/log/btmp", Empty}, {"var/log/wtmp", Empty}, {"var/log/lastlog", Empty}, {"var/log/faillog", Empty},
	{"var/log/installer", None},
	// who the machine is
	{"etc/machine-id", None}, {"var/lib/dbus/machine-id", None},
	{"etc/hostname", None}, {"etc/hosts", None}, {"etc/resolv.conf", None},
	{"etc/sci/*", None}, // enrol.json with them: what a node proves itself with
	{"var/lib/sci/*", None},
	{"etc/iscsi/initiatorname.iscsi", None}, {"etc/nvme/hostid", None}, {"etc/nvme/hostnqn", None},
	// its keys and other secrets
	{"etc/ssh/ssh_host_*", None}, {"root/.ssh", Empty}, {"root/.bash_history", None}, {"root/.lesshst", None},
	{"etc/bind/rndc.key", None},
	{"etc/ssl/private/ssl-cert-snakeoil.key", None}, {"etc/ssl/certs/ssl-cert-snakeoil.pem", None},
	{"var/lib/systemd/random-seed", None}, {"var/lib/systemd/credential.secret", None},
	{"var/lib/urandom/random-seed", None}, {"var/lib/ganeti/*.pem", None}, {"var/lib/ganeti/*.key", None},
	// its disks
	{"etc/fstab", None}, {"etc/lvm/archive/*", None}, {"etc/lvm/backup/*", None}, {"etc/lvm/devices/*", None},
	{"etc/initramfs-tools/conf.d/resume", None}, {"etc/mdadm/mdadm.conf", None},
	{"boot/grub/*.cfg", None}, {"boot/grub/grubenv", None}, {"boot/grub/device.map", None}, {"etc/default/grub.d/60-sci-console.cfg", None},
	// there during the installation only
	{"usr/sbin/policy-rc.d", None}, {"etc/dpkg/dpkg.cfg.d/sci-installer", None},
}

// General says how much of a file goes into an image that is not of one
// machine.
func General(name string, mode fs.FileMode) Part {
	for _, r := range rules {
		if ok, _ := path.Match(r.pattern, name); ok {
			return r.part
		}
	}
	if strings.HasPrefix(name, "var/log/") && mode.IsRegular() {
		return None // written during the installation
	}
	return Whole
}
