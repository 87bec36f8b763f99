package vm

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// Version is the version of a QEMU.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// QEMUVersion asks the QEMU that a machine with these Options would run.
func QEMUVersion(ctx context.Context, qemu, root string) (Version, error) {
	argv := append(Options{QEMU: qemu, QEMURoot: root}.withDefaults().qemu(), "--version")
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		return Version{}, fmt.Errorf("cannot ask QEMU for its version: %w", err)
	}
	return parseVersion(string(out))
}

func parseVersion(out string) (Version, error) {
	m := regexp.MustCompile(`version (\d+)\.(\d+)`).FindStringSubmatch(out)
	if m == nil {
		return Version{}, fmt.Errorf("cannot tell QEMU's version: it says %.200q", out)
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return Version{major, minor}, nil
}
