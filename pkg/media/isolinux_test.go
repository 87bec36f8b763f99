package media

import (
	"strings"
	"testing"
)

// TestIsolinuxDigest guards that what the ISO writer patches, and only that,
// does not count.
func TestIsolinuxDigest(t *testing.T) {
	plain := []byte(strings.Repeat("x", 100))
	want := IsolinuxDigest(plain)
	for i := range plain {
		other := append([]byte(nil), plain...)
		other[i]++
		if patched := i >= 8 && i < 64; (IsolinuxDigest(other) == want) != patched {
			t.Errorf("byte %d: counts %v; want %v", i, patched, !patched)
		}
	}
	for _, n := range []int{0, 5, 30} {
		_ = IsolinuxDigest(plain[:n]) // shorter than the table
	}
}
