// Package resolve computes the closure of a role: the set of packages that
// apt-get install --no-install-recommends would put on an empty machine, given
// the same indexes and the same names in the same order.
//
// It is pure: it takes packages and names, and returns packages, chains of
// reasons, or a list of everything that is wrong. Nothing is read, written or
// fetched.
//
// # Why it decides as apt does
//
// Debian's dependencies rarely leave one solution. What apt picks among
// alternatives is what users know and what Debian tests, so the closure has to
// be the same set, not merely a correct one. The rules followed here are those
// of apt's internal solver for a machine on which nothing is installed (no
// upgrades, no removals, no holds, one architecture), in the order of its
// steps:
//
//   - mark.go: pkgDepCache::MarkInstall, which walks the dependencies depth
//     first, in the order Pre-Depends, Depends, Conflicts, Breaks (and
//     Recommends where wanted), protects what seeds need without a choice, and
//     drops a candidate that fails
//   - repair.go: pkgProblemResolver, for what is broken after that
//   - sweep.go: pkgDepCache::MarkAndSweep, as attempts that failed leave
//     packages behind that nobody needs
//
// The solver is the same in apt 2.6 (bookworm) and 3.0 (trixie); the test
// TestLikeApt compares with the apt of the machine that it runs on.
//
// # Rules
//
// Candidate: the highest version of a name over all pockets; of equal versions
// the one that stands first. No pins, but a Request may exclude names.
//
// Multi-Arch (https://wiki.ubuntu.com/MultiarchSpec): with one architecture,
// "name:any" is met only by packages that are Multi-Arch: allowed, and a
// relation to another architecture is never met.
//
// Provides (policy 7.5): an unversioned Provides meets no versioned relation.
//
// Order among those that meet one alternative: protected ones, the package of
// that very name, Essential, Important (policy 3.8; "Protected: yes" is the
// same to apt), priority, and at last the one whose name the indexes mention
// later, the way apt numbers packages when it reads them.
//
// Essential packages are part of every closure.
package resolve
