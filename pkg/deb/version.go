package deb

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"pault.ag/go/debian/version"
)

// Compare orders two versions as dpkg does (policy 5.6.12): negative if a is
// lower, 0 if they are equal, positive if a is higher. It takes any string, so
// that sorting needs no error; Valid tells whether a version is well-formed.
func Compare(a, b string) int {
	if a == b {
		return 0
	}
	return version.Compare(split(a), split(b))
}

// split cuts a version into its parts without checking them.
func split(s string) version.Version {
	var v version.Version
	if colon := strings.IndexByte(s, ':'); colon >= 0 {
		if epoch, err := strconv.ParseUint(s[:colon], 10, 31); err == nil {
			v.Epoch, s = uint(epoch), s[colon+1:]
		}
	}
	v.Version = s
	if hyphen := strings.LastIndexByte(s, '-'); hyphen >= 0 {
		v.Version, v.Revision = s[:hyphen], s[hyphen+1:]
	}
	return v
}

// Valid returns nil for a version that dpkg takes without a warning, else an
// error that says what is wrong with it.
func Valid(s string) error {
	err := func() error {
		if s != strings.TrimSpace(s) {
			return errors.New("white space around it")
		}
		v, err := version.Parse(s)
		if err != nil {
			return err
		}
		epoch, _, found := strings.Cut(s, ":")
		switch {
		case found && strings.Trim(epoch, "0123456789") != "":
			return errors.New("epoch is no number")
		case v.Epoch > 1<<31-1:
			return errors.New("epoch is too big")
		case v.Version == "":
			return errors.New("nothing before the revision")
		case v.Version[0] < '0' || '9' < v.Version[0]:
			return errors.New("version number does not start with digit")
		case strings.HasSuffix(s, "-"):
			return errors.New("revision is empty")
		}
		return nil
	}()
	if err != nil {
		return fmt.Errorf("%q is no version: %w", s, err)
	}
	return nil
}
