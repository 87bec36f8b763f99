// Package benchinstall measures what an installation costs: `make
// bench-install`. It installs several media one after the other in QEMU, the
// same machine each time, and compares processor time and wall time from power
// on to power off. Seconds of an emulated machine say little; their ratios, from
// one run on one machine, hold elsewhere too.
//
// The measure of all is Debian's own installer with the same packages. What
// makes a medium of it stands in the directory stock; each file says where it
// leaves Debian's way and why.
//
// What the two make is compared as well: a saving must not be had by leaving out
// what makes a Debian. The differences that we want stand in pkg/installtest.
package benchinstall
