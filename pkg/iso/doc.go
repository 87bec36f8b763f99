// Package iso writes a tree as a hybrid boot image and reads such images back.
//
// The image is ISO 9660 (ECMA-119, 4th edition) with Rock Ridge names (SUSP
// 1.12, RRIP 1.10), El Torito boot entries for BIOS and UEFI (El Torito 1.0,
// UEFI 2.10 section 13.3.2), and a partition table in its system area, so that
// the same bytes boot from a disc and from a USB stick.
//
// # How it is laid out
//
//	sector 0      MBR: isohdpfx.bin, LBA of isolinux.bin, disk id, partitions
//	16            primary volume descriptor (ECMA-119 8.4)
//	17            boot record (El Torito 2.0), if there is anything to boot
//	18            volume descriptor set terminator
//	19            boot catalog
//	20            path tables, little endian, then big endian (ECMA-119 9.4)
//	…             directories in path table order, each followed by its
//	              continuation areas (SUSP 5.1)
//	…             the boot images, then the files in the order of their paths
//	end           zeros up to the next MiB
//
// Everything is placed before the first byte of a file is read; then the image
// is written from its start to its end. Files go from descriptor to descriptor
// (copy_file_range where the kernel has it); holes stay holes. The bytes depend
// on the tree and on Options only, never on clock, environment or locale.
//
// # What it does not do, and why
//
//   - Joliet: Windows would show the short names of ECMA-119. Nobody installs
//     Debian from there, and a second directory tree doubles what can differ.
//   - Device nodes, sockets, hard links, extended attributes: a tree has none.
//   - Relocation of deep directories (RRIP 4.1.5): Linux, GRUB and xorriso read
//     more than the eight levels of ECMA-119 6.8.2.1 as they are.
//   - A GPT. See the comment at masterBootRecord.
package iso
