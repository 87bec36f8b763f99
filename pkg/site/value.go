package site

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Secret is a value that no message and no log may show: every fmt verb prints
// a placeholder. string(s) is the value itself.
type Secret string

// String and the two below keep the value out of every formatted text.
func (Secret) String() string { return "(hidden)" }

// GoString is for %#v.
func (Secret) GoString() string { return "(hidden)" }

// Format is for all other verbs, %x and %q among them.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("(hidden)")) }

// MAC is an Ethernet address in its usual form: 52:54:00:5c:1c:01.
type MAC string

// UnmarshalText accepts upper case and hyphens as well.
func (m *MAC) UnmarshalText(text []byte) error {
	hw, err := net.ParseMAC(string(text))
	switch {
	case err != nil || len(text) != len("52:54:00:5c:1c:01"):
		return fmt.Errorf("%q is no MAC address", text)
	case hw.String() == "00:00:00:00:00:00":
		return fmt.Errorf("%q is no card's address: all zero", text)
	case hw[0]&1 != 0:
		return fmt.Errorf("%q is no card's address: a multicast one", text)
	}
	*m = MAC(hw.String())
	return nil
}

// Size is a number of bytes.
type Size int64

// sizeUnits are in falling order, so that String takes the largest that fits.
var sizeUnits = [...]struct {
	name   string
	factor int64
}{
	{"TiB", 1 << 40}, {"TB", 1e12}, {"T", 1e12}, {"GiB", 1 << 30}, {"GB", 1e9}, {"G", 1e9},
	{"MiB", 1 << 20}, {"MB", 1e6}, {"M", 1e6}, {"KiB", 1 << 10}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

// UnmarshalText reads a number with a unit: T, G, M (or TB, GB, MB) are powers
// of 1000, as disks are sold; TiB, GiB, MiB are powers of 1024.
func (z *Size) UnmarshalText(text []byte) error {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(string(text), u.name)
		digits = strings.TrimSuffix(digits, " ")
		if !ok || strings.Trim(digits, "0123456789.") != "" {
			continue
		}
		n, err := strconv.ParseFloat(digits, 64)
		if err == nil && n*float64(u.factor) < 1<<60 {
			*z = Size(n * float64(u.factor))
			return nil
		}
	}
	return fmt.Errorf("%q is no size", text)
}

// MarshalText writes the size in the largest unit that holds it exactly.
func (z Size) MarshalText() ([]byte, error) { return []byte(z.String()), nil }

func (z Size) String() string {
	for _, u := range sizeUnits {
		if int64(z) >= u.factor && int64(z)%u.factor == 0 {
			return strconv.FormatInt(int64(z)/u.factor, 10) + u.name
		}
	}
	return "0B"
}

// Duration is a number of whole hours.
type Duration time.Duration

// UnmarshalText reads a number of hours: 24h.
func (d *Duration) UnmarshalText(text []byte) error {
	digits, ok := strings.CutSuffix(string(text), "h")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil {
		return fmt.Errorf("%q is no number of hours", text)
	}
	*d = Duration(time.Duration(n) * time.Hour)
	return nil
}

// MarshalText writes the number of hours.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d Duration) String() string {
	return strconv.FormatInt(int64(time.Duration(d)/time.Hour), 10) + "h"
}
