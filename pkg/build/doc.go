// Package build is the only one that knows the order in which a medium is made.
// Build reads as that order; each step is a package of its own that knows
// nothing of the next.
package build
