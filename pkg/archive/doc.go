// Package archive reads Debian archives: from a mirror's signed Release files
// over verified Packages indexes to packages in the cache.
//
// The chain of trust has no gap and no switch to open one. The keyring verifies
// InRelease (or Release with Release.gpg), InRelease names size and SHA-256 of
// each index, an index those of each package. Mirrors, proxies and what lies
// on the way are never believed: what does not match never gets into the cache.
//
// A pocket is one directory below dists/: "trixie" itself, "trixie-updates"
// and "trixie-security". Open reads the pockets of one codename; Fetcher gets
// files by digest from any of several URLs.
//
// Sources: the Debian wiki's DebianRepository/Format for Release, Packages and
// by-hash; apt-secure(8) for Valid-Until and the refusal of older Release
// files; sources.list(5) for AptMirrors; RFC 9110 sections 14 and 15 for
// ranges and status codes. Of the digests only SHA-256 is looked at.
//
// Not supported, on purpose: pdiffs (they save bytes and cost time), flat
// archives without dists/, mirrors over ftp and rsync, unsigned archives.
package archive
