package installer

import (
	"fmt"
	"path"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// Recipe says how a disk is divided; preseed/disk.yaml is the one we ship and
// explains every field.
type Recipe struct {
	Partitions []RecipePartition `yaml:"partitions"`
	Volumes    []RecipeVolume    `yaml:"volumes"`
}

// RecipePartition is one partition of a recipe.
type RecipePartition struct {
	Name       string `yaml:"name"` // the partition's name in the GPT
	Type       string `yaml:"type"` // bios-boot, efi, linux or lvm
	Size       string `yaml:"size"` // 512M, 1G, or rest
	Filesystem string `yaml:"filesystem"`
	Mount      string `yaml:"mount"`
	Options    string `yaml:"options"` // of mount; empty is defaults
	Group      string `yaml:"group"`   // the volume group of an lvm partition
}

// RecipeVolume is one logical volume of a recipe.
type RecipeVolume struct {
	Group      string `yaml:"group"`
	Name       string `yaml:"name"`
	Share      string `yaml:"share"` // of the group, 30%
	Min        string `yaml:"min"`
	Max        string `yaml:"max"`
	Filesystem string `yaml:"filesystem"`
	Mount      string `yaml:"mount"`
	Options    string `yaml:"options"`
}

// Layout is a recipe applied to one disk: every size is known.
type Layout struct {
	Disk       string // "/dev/vda"
	Size       int64  // of the disk, bytes
	Sector     int64  // bytes
	Partitions []LayoutPartition
	Volumes    []LayoutVolume
}

// LayoutPartition is a partition to be made.
type LayoutPartition struct {
	Number                          int
	Name, Type                      string // Type as in the recipe
	Start, Size                     int64  // bytes
	Filesystem, Mount, MountOptions string
	Group                           string
}

// LayoutVolume is a logical volume to be made.
type LayoutVolume struct {
	Group, Name                     string
	Size                            int64 // bytes, a multiple of the extent
	Filesystem, Mount, MountOptions string
}

// extent is LVM's default physical extent.
const extent = 4 << 20

// partitionTypes are the recipe's names of GPT types.
func partitionType(name string) (string, bool) {
	switch name {
	case "bios-boot":
		return typeBIOSBoot, true
	case "efi":
		return typeESP, true
	case "linux":
		return typeLinux, true
	case "lvm":
		return typeLVM, true
	}
	return "", false
}

// ParseRecipe reads a recipe. name is used in errors.
func ParseRecipe(name string, data []byte) (*Recipe, error) {
	var r Recipe
	if err := yaml.UnmarshalWithOptions(data, &r, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("cannot read the disk recipe %s: %w", name, err)
	}
	if problems := r.check(); len(problems) > 0 {
		return nil, fmt.Errorf("cannot use the disk recipe %s:\n%s", name, strings.Join(problems, "\n"))
	}
	return &r, nil
}

// plainName is what partitions, groups and volumes may be called: no character
// that a shell, LVM or device-mapper escapes (a hyphen is doubled by the last).
var plainName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)

func (r *Recipe) check() []string {
	var problems []string
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	groups, mounts, names := map[string]bool{}, map[string]bool{}, map[string]bool{}
	mount := func(what, point, filesystem string) {
		if point != "" && (mounts[point] || !path.IsAbs(point) || path.Clean(point) != point || strings.ContainsAny(point, " \t\n\\")) {
			bad("%s: %q is no mount point, or is used twice", what, point)
		}
		if point != "" && filesystem != "ext4" && filesystem != "vfat" {
			bad("%s: mount needs the filesystem ext4 or vfat", what)
		}
		mounts[point] = point != ""
	}
	if len(r.Partitions) == 0 || len(r.Partitions) > 16 || len(r.Volumes) > 64 {
		bad("want 1 to 16 partitions and at most 64 volumes")
	}
	for i, p := range r.Partitions {
		what := fmt.Sprintf("partition %q", p.Name)
		if !plainName.MatchString(p.Name) || names[p.Name] {
			bad("%s: the name is empty, strange, or used twice", what)
		}
		names[p.Name] = true
		if _, ok := partitionType(p.Type); !ok {
			bad("%s: type is %q; want bios-boot, efi, linux or lvm", what, p.Type)
		}
		if p.Size == "rest" && i != len(r.Partitions)-1 {
			bad("%s: only the last partition has size rest", what)
		} else if _, err := bytesOf(p.Size); err != nil && p.Size != "rest" {
			bad("%s: %v", what, err)
		}
		if !known(p.Filesystem) {
			bad("%s: filesystem is %q; want ext4, vfat, swap or none", what, p.Filesystem)
		}
		if (p.Type == "lvm") != (p.Group != "") || p.Group != "" && (groups[p.Group] || !plainName.MatchString(p.Group)) {
			bad("%s: a partition of type lvm, and no other, names a group of its own", what)
		}
		groups[p.Group] = p.Group != ""
		mount(what, p.Mount, p.Filesystem)
	}
	for _, v := range r.Volumes {
		what := fmt.Sprintf("volume %q", v.Name)
		if !plainName.MatchString(v.Name) || !groups[v.Group] || names[v.Group+"/"+v.Name] {
			bad("%s: the name is strange or used twice, or no partition makes the group %q", what, v.Group)
		}
		names[v.Group+"/"+v.Name] = true
		if _, _, _, err := v.bounds(); err != nil {
			bad("%s: %v", what, err)
		}
		if v.Filesystem == "" || !known(v.Filesystem) {
			bad("%s: filesystem is %q; want ext4, vfat or swap", what, v.Filesystem)
		}
		mount(what, v.Mount, v.Filesystem)
	}
	if !mounts["/"] {
		bad("nothing is mounted on /")
	}
	return problems
}

func known(filesystem string) bool {
	switch filesystem {
	case "", "ext4", "vfat", "swap":
		return true
	}
	return false
}

// bounds are a volume's share in percent and its limits in bytes.
func (v RecipeVolume) bounds() (share int, low, high int64, err error) {
	digits, ok := strings.CutSuffix(v.Share, "%")
	share, err = strconv.Atoi(digits)
	if !ok || err != nil || share < 0 || share > 100 {
		return 0, 0, 0, fmt.Errorf("share is %q; want 0%% to 100%%", v.Share)
	}
	if low, err = bytesOf(v.Min); err != nil {
		return 0, 0, 0, err
	}
	if high, err = bytesOf(v.Max); err != nil {
		return 0, 0, 0, err
	}
	if low > high {
		return 0, 0, 0, fmt.Errorf("min %s is more than max %s", v.Min, v.Max)
	}
	return share, low, high, nil
}

// bytesOf reads 512M or 10G.
func bytesOf(s string) (int64, error) {
	for _, u := range []struct {
		suffix string
		unit   int64
	}{{"M", mib}, {"G", 1 << 30}} {
		digits, ok := strings.CutSuffix(s, u.suffix)
		n, err := strconv.ParseInt(digits, 10, 32)
		if ok && err == nil && n > 0 {
			return n * u.unit, nil
		}
	}
	return 0, fmt.Errorf("%q is no size; want 512M or 10G", s)
}

// Groups are the volume groups that the recipe makes, sorted.
func (r *Recipe) Groups() []string {
	var groups []string
	for _, p := range r.Partitions {
		if p.Group != "" {
			groups = append(groups, p.Group)
		}
	}
	sort.Strings(groups)
	return groups
}

// Plan applies the recipe to a disk. It is an error if the disk is too small
// for what the recipe asks at least.
func (r *Recipe) Plan(d Disk) (*Layout, error) {
	geometry, err := gptLayout(d.Size, d.Sector)
	if err != nil {
		return nil, fmt.Errorf("cannot divide disk %s: %w", d.Path, err)
	}
	l := &Layout{Disk: d.Path, Size: d.Size, Sector: d.Sector}
	at, end := int64(mib), (geometry.last+1)*d.Sector&^(mib-1)
	for i, p := range r.Partitions {
		n := end - at
		if p.Size != "rest" {
			if n, err = bytesOf(p.Size); err != nil {
				return nil, err
			}
		}
		if n < mib || at+n > end {
			return nil, fmt.Errorf("cannot divide disk %s: %s are too small for partition %q", d.Path, size(d.Size), p.Name)
		}
		l.Partitions = append(l.Partitions, LayoutPartition{
			Number: i + 1, Name: p.Name, Type: p.Type, Start: at, Size: n,
			Filesystem: p.Filesystem, Mount: p.Mount, MountOptions: p.Options, Group: p.Group,
		})
		at += n
		if p.Group != "" {
			if err := r.planGroup(l, p.Group, n); err != nil {
				return nil, fmt.Errorf("cannot divide disk %s of %s: %w", d.Path, size(d.Size), err)
			}
		}
	}
	return l, nil
}

// planGroup sizes the volumes of one group. LVM keeps its metadata in the
// first MiB; the rest is whole extents.
func (r *Recipe) planGroup(l *Layout, group string, bytes int64) error {
	free := (bytes - mib) / extent * extent
	all := free
	for _, v := range r.Volumes {
		if v.Group != group {
			continue
		}
		share, low, high, err := v.bounds()
		if err != nil {
			return err
		}
		n := min(max(all/100*int64(share), low), high) / extent * extent
		if n > free {
			return fmt.Errorf("group %s of %s has no room for volume %q of %s", group, size(all), v.Name, size(n))
		}
		free -= n
		l.Volumes = append(l.Volumes, LayoutVolume{
			Group: group, Name: v.Name, Size: n,
			Filesystem: v.Filesystem, Mount: v.Mount, MountOptions: v.Options,
		})
	}
	return nil
}
