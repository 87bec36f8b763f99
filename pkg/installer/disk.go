package installer

import (
	"fmt"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// DiskError says why no disk was taken. Its text is the reason, the disks that
// were seen, and what those hold that would have been taken.
type DiskError struct {
	Reason   string
	Disks    []Disk
	Findings []Finding
}

func (e *DiskError) Error() string {
	var b strings.Builder
	b.WriteString(e.Reason)
	for _, d := range e.Disks {
		b.WriteString("\ndisk     " + d.String())
	}
	for _, f := range e.Findings {
		fmt.Fprintf(&b, "\nfound    %-10s %s", f.Where, f.What)
	}
	if len(e.Disks) == 0 {
		b.WriteString("\ndisk     none")
	}
	return b.String()
}

// ChooseDisk returns the disk to install on. It goes by properties only: never
// the medium, never a read-only disk, a removable or USB disk only where the
// host names its serial number. Several candidates are an error, and so is a
// disk in use. A disk that holds anything is taken only if the host says
// disk.wipe, or if what it holds is an installation of ours that did not come
// to its end. groups are the volume groups to be made: a group of that name on
// any other disk is an error too, because LVM could not tell them apart.
func ChooseDisk(h *site.Host, hw Hardware, groups []string, probe func(Disk) ([]Finding, error)) (Disk, error) {
	fail := func(advice string, findings []Finding, format string, args ...any) (Disk, error) {
		return Disk{}, hint.New(&DiskError{fmt.Sprintf(format, args...), hw.Disks, findings}, advice)
	}
	var fits []Disk
	for _, d := range hw.Disks {
		if candidate(h.Disk, d) {
			fits = append(fits, d)
		}
	}
	switch {
	case len(fits) == 0:
		return fail("name the disk in the site file: hosts, "+h.Name+", disk", nil,
			"no disk of this machine may be used for host %s (%s)", h.Name, rule(h.Disk))
	case len(fits) > 1:
		return fail("say which one in the site file: hosts, "+h.Name+", disk: {serial: …}", nil,
			"%d disks may be used for host %s (%s), and none is guessed", len(fits), h.Name, rule(h.Disk))
	}
	d := fits[0]
	if len(d.InUse) > 0 {
		return fail("release the disk, or boot the installer afresh", nil, "disk %s is in use", d.Path)
	}
	found, err := probe(d)
	if err != nil {
		return Disk{}, err
	}
	if len(found) > 0 && !h.Disk.Wipe && !unfinished(found) {
		return fail("if its data may be lost, say so in the site file: hosts, "+h.Name+", disk: {wipe: true}", found,
			"disk %s is not empty", d.Path)
	}
	for _, other := range hw.Disks {
		if other.Path == d.Path || other.Medium {
			continue
		}
		if found, err = probe(other); err != nil {
			return Disk{}, err
		}
		for _, f := range found {
			for _, g := range groups {
				if f.Group == g {
					return fail("remove that disk, or rename the group on it", []Finding{f},
						"another disk, %s, holds a volume group %s already", other.Path, g)
				}
			}
		}
	}
	return d, nil
}

// candidate reports whether a disk may be used by the rule, whatever it holds.
func candidate(want site.Disk, d Disk) bool {
	if d.Medium || d.ReadOnly {
		return false
	}
	named := want.Serial != "" && (same(want.Serial, d.Serial) || same(want.Serial, d.WWN))
	if (d.Removable || d.USB) && !named {
		return false
	}
	return (want.Serial == "" || named) &&
		(want.Model == "" || same(want.Model, d.Model)) &&
		d.Size >= int64(want.MinSize)
}

func same(a, b string) bool { return strings.EqualFold(strings.TrimSpace(a), strings.TrimSpace(b)) }

// unfinished reports whether all that was found is ours and half done.
func unfinished(found []Finding) bool {
	for _, f := range found {
		if f.Unfinished {
			return true
		}
	}
	return false
}

// rule is the host's rule in words.
func rule(d site.Disk) string {
	var parts []string
	if d.Serial != "" {
		parts = append(parts, fmt.Sprintf("serial %q", d.Serial))
	}
	if d.Model != "" {
		parts = append(parts, fmt.Sprintf("model %q", d.Model))
	}
	if d.MinSize > 0 {
		parts = append(parts, "at least "+size(int64(d.MinSize)))
	}
	if len(parts) == 0 {
		return "any internal disk"
	}
	return strings.Join(parts, ", ")
}
