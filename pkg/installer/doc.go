// Package installer is what SCI-CD adds to Debian's installer (d-i): the eyes
// that find out which host of the site it runs on and which disk it may use,
// and the hands that put Debian there.
//
// It runs as one static binary inside d-i's initramfs, where libc is d-i's, the
// shell is busybox, and the only truth about trust is the site's public key.
// The verbs, in their order:
//
//	answers   read the hardware, find the host, answer d-i's questions
//	medium    find the installation medium by the site key's signature, mount it
//	disks     choose the disk, partition it, mount it on /target
//	base      verify the medium, lay out Essential and apt, dpkg configures them
//	packages  one apt-get install of everything that the role wants
//	boot      one initramfs, GRUB for the firmware that booted us
//	finish    overlay, profile scripts, site file, copy of the medium
//
// Each is a menu item of d-i (a pseudo-udeb), so that one that failed is
// repeated from the menu; the verb install runs everything after answers.
//
// Nothing is guessed. A machine that is no host of the site, or a disk that is
// not empty and was not given away by the site file, ends the verb with a table
// of what was seen, before the first byte is written.
//
// Trust: the medium's InRelease must carry a signature of the site's key, the
// Packages index must have the digest that InRelease names, every .deb the
// digest that Packages names. apt in the new system does the same once more,
// with the same key and no check switched off.
//
// Sources: Debian Installer Internals (the confmodule protocol in
// debconf-devel(7), the menu), debootstrap and mmdebstrap for the order of a
// bootstrap, the UEFI specification 2.10 clause 5 for the GPT, and the
// LVM2 and md on-disk formats for what is recognised on a disk.
package installer
