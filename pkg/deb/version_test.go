package deb

import (
	"fmt"
	"os/exec"
	"testing"

	"pault.ag/go/debian/version"
)

// versions in ascending order.
var ascending = []string{
	"0~", "0-0~", "0", "0.0", "1~~", "1~~a", "1~", "1", "1a", "1+", "1.0~rc1-1", "1.", "1.0-1~bpo1", "1.0-1", "1.0-1+b1", "1.0-1.1",
	"1.0-9", "1.0-10", "1.0+dfsg-1", "1.2.3", "1.10", "2", "3.1.0~rc2-3", "20250101", "99999999999999999999999", "1:0", "1:0.1", "10:0",
}

func TestCompare(t *testing.T) {
	for i, a := range ascending {
		for j, b := range ascending {
			got := Compare(a, b)
			if (got < 0) != (i < j) || (got > 0) != (i > j) {
				if i != j {
					t.Errorf("Compare(%q, %q) = %d", a, b, got)
				}
			}
		}
	}
	for _, pair := range [][2]string{{"1.0", "1.00"}, {"0:1", "1"}, {"1-0", "1"}, {"1.0-01", "1.0-1"}, {"01", "1"}} {
		if got := Compare(pair[0], pair[1]); got != 0 {
			t.Errorf("Compare(%q, %q) = %d; want 0", pair[0], pair[1], got)
		}
	}
}

// dpkg is the judge of the order.
func TestCompareDpkg(t *testing.T) {
	needTool(t, "dpkg")
	for i, a := range ascending {
		for _, b := range ascending[i:] {
			op := "lt"
			if Compare(a, b) == 0 {
				op = "eq"
			}
			if out, err := exec.Command("dpkg", "--compare-versions", a, op, b).CombinedOutput(); err != nil {
				t.Errorf("dpkg: %q %s %q does not hold: %v %s", a, op, b, err, out)
			}
		}
	}
}

func TestValid(t *testing.T) {
	for _, v := range append([]string{"1:2.3-4+b1", "0.27.0-2+b1", "1.0~rc1+git-2-3"}, ascending...) {
		if err := Valid(v); err != nil {
			t.Error(err)
		}
	}
	for v, want := range map[string]string{
		"":             `"" is no version: version string is empty`,
		"1-":           `"1-" is no version: revision is empty`,
		"-1":           `"-1" is no version: nothing before the revision`,
		"a1":           `"a1" is no version: version number does not start with digit`,
		"1 2":          `"1 2" is no version: version string has embedded spaces`,
		" 1":           `" 1" is no version: white space around it`,
		"1\n":          `"1\n" is no version: white space around it`,
		"x:1":          `"x:1" is no version: epoch: strconv.ParseInt: parsing "x": invalid syntax`,
		"+1:1":         `"+1:1" is no version: epoch is no number`,
		"2147483648:1": `"2147483648:1" is no version: epoch is too big`,
		"1:":           `"1:" is no version: nothing after colon in version number`,
		"1_2":          `"1_2" is no version: invalid character in version number`,
		"1-2_3":        `"1-2_3" is no version: invalid character in revision number`,
		"1/../2":       `"1/../2" is no version: invalid character in version number`,
	} {
		if err := Valid(v); err == nil || err.Error() != want {
			t.Errorf("Valid(%q) = %v; want %s", v, err, want)
		}
	}
}

// Compare never panics, is antisymmetric, and agrees with the library on
// versions that are valid.
func FuzzCompare(f *testing.F) {
	for i := range len(ascending) - 1 {
		f.Add(ascending[i], ascending[i+1])
	}
	f.Add("1:x", "1:y")
	f.Add("99999999999:1", "-")
	f.Fuzz(func(t *testing.T, a, b string) {
		got := Compare(a, b)
		if back := Compare(b, a); (got < 0) != (back > 0) || (got == 0) != (back == 0) {
			t.Errorf("Compare(%q, %q) = %d, the other way %d", a, b, got, back)
		}
		if Valid(a) != nil || Valid(b) != nil {
			return
		}
		va, err := version.Parse(a)
		if err != nil {
			t.Fatal(err)
		}
		vb, err := version.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if want := version.Compare(va, vb); want != got {
			t.Errorf("Compare(%q, %q) = %d; the library says %d", a, b, got, want)
		}
	})
}

func ExampleCompare() {
	fmt.Println(Compare("1.0~rc1-1", "1.0-1") < 0)
	// Output: true
}
