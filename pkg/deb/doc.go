// Package deb reads and writes what Debian packages are made of: the stanzas
// of a Packages index, version numbers, relations between packages, and the
// .deb and .udeb files themselves. It knows nothing of where files come from,
// and it takes no part in choosing packages.
//
// Sources:
//   - stanzas: Debian policy chapter 5, "Control files and their fields", and
//     deb822(5)
//   - versions: policy 5.6.12 and deb-version(7); the order is that of
//     pault.ag/go/debian/version
//   - relations: policy chapter 7
//   - the file format: deb(5), deb-control(5)
//
// Everything read is bounded: a stanza is at most 1 MiB, a control member at
// most 16 MiB, the unpacked data at most 32 GiB, a compressor's window at most
// 128 MiB.
//
// What it refuses on purpose: data.tar.bz2 and data.tar.lzma (gone from Debian
// since 2014), the old 0.939 format, file names that leave the root, build
// profiles and substitution variables in relations (both belong into source
// packages only).
package deb
