// Package image is the format of golden images: a class of machines, installed
// once from packages, as archives that another machine of that class unpacks
// instead of installing the same packages again.
//
// An image is a directory:
//
//	image.json       Manifest: what it was made from, its packages, its layers
//	image.json.asc   the site key's signature over it
//	base.tar.zst     the system without a boot loader
//	bios.tar.zst     what GRUB for BIOS adds to it, the package database included
//	uefi.tar.zst     the same for UEFI
//
// A layer is a tar (POSIX.1-2001 pax, extended attributes as SCHILY.xattr
// records) in one zstd frame (RFC 8878) of at most 8 MiB window. The layers of
// the firmware hold files that differ from the base; what they remove is listed
// in the manifest.
//
// Nothing of a single machine is in an image: see General for what is left out
// and Check for what must not be found in it.
//
// On its way out of the virtual machine that made it an image is a raw disk:
// see DiskWriter.
package image
