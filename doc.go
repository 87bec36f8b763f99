// Package scicd is the root of SCI-CD: the map of its source, and the files
// that travel in its binary.
//
// SCI-CD makes one installer ISO from the description of a site. The source is
// read best in the order in which a build goes through it:
//
//	cmd/sci-cd        the builder's command line: flags and wiring, a file a verb
//	pkg/build         the only one that knows the order; Build reads as that order
//
//	pkg/site          the site file, strict, validated as a whole
//	pkg/profile       what a role installs, in simple-cdd's files; the overlays
//
//	pkg/archive       a Debian archive: verified indexes, files by their digest
//	  testarchive     a signed archive made of values, for tests that tamper
//	pkg/resolve       pure: indexes and wishes to the set of packages that apt takes
//	pkg/lock          that set, pinned in a text file
//	pkg/agentdeb      the agent as a Debian package
//	pkg/repo          pool/ and the signed dists/ of the medium
//	pkg/preseed       the answers to Debian's installer
//	pkg/initrd        the stock initrd and what goes behind it
//	pkg/media         everything, as the tree that stands on the disc
//
//	pkg/tree          the currency of all steps: paths, modes, sources of bytes
//	pkg/iso           a tree to one image for CD and USB, BIOS and UEFI; and back
//	pkg/deb           control files, versions, packages read and written
//	pkg/pgp           signatures, made and verified; Debian's keyring
//	pkg/cache         files by SHA-256, shared by builds that run at once
//	pkg/kmod          kernel modules and depmod's indexes
//	pkg/image         golden images: a class of machines as archives
//	pkg/run           commands whose errors carry argv and output
//	pkg/hint          a fact and its advice, kept apart
//	pkg/enrol         how a node joins: credentials, the master's ledger, both ends
//
// A finished ISO is taken up by
//
//	pkg/inspect       what is on it
//	pkg/verify        whether it is what was built
//	pkg/device        onto a USB stick, and read back
//	pkg/vm            QEMU: disks, serial lines, screenshots
//	pkg/capture       a class of machines, installed once in QEMU, as a golden image
//	pkg/installtest   an installation in QEMU, judged from outside
//	pkg/sitetest      all machines of a site in QEMU, and the cluster they form
//	pkg/guest         what runs in an instance there: numbered records, HTTP
//	cmd/sci-guest     that as one static program, which sci-cd carries
//	pkg/benchinstall  what an installation costs, beside Debian's own installer
//	cmd/bench-install makes that one's medium (build.Stock) and prints the ratios
//
// On the machine that is installed there is
//
//	cmd/sci-agent     one static binary, in the installer's initrd and on the disk
//	pkg/installer     inside Debian's installer: which host, which disk, install it
//	pkg/agent         at every boot: an idempotent plan of steps until "ready"
//	pkg/ganeti        Ganeti's commands with typed arguments, its configuration
//
// What people may read and change stands outside of the code:
//
//	preseed/          answers, the disk recipe, what goes into the initrd
//	profiles/         the lists of packages by role
//	overlay/          files laid over the installed system, by role
//	docs/             for people
//	testdata/         what the tests of the whole product are made with
//	scripts/          what the Makefile calls
//
// Imports go one way: cmd, build, steps, intent, formats. The agent links none
// of the builder's steps, the harness neither. layering_test.go holds this;
// docs_test.go holds that what README.md and docs/
// name exists.
package scicd
