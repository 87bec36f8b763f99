// Package initrd turns Debian's netboot initrd into the initrd of our medium
// without rewriting it: the stock archive stays as it is, byte for byte, and a
// second cpio archive behind it adds what an installation from a medium needs.
// The kernel unpacks concatenated archives one over the other (Linux
// Documentation/driver-api/early-userspace/buffer-format.rst).
//
// The second archive holds
//
//   - udebs, unpacked and registered, so that anna has nothing to fetch: files
//     below usr/, control files as var/lib/dpkg/info/NAME.*, a stanza in
//     var/lib/dpkg/status;
//   - tools from ordinary packages, where a mirror has no udeb of them;
//   - kernel modules from the kernel's own package, with the indexes that
//     depmod(8) would write;
//   - whatever the caller adds: the agent, its menu items, answers, keys.
//
// All modules and the kernel must be of one ABI, and every program must find
// its shared libraries; both are checked here, where an error costs seconds,
// and not in a server room.
package initrd
