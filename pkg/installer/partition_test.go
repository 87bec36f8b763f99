package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/run"
)

// tool skips the test where an outside judge is missing, and fails it in CI.
func tool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
}

func shippedRecipe(t testing.TB) *Recipe {
	t.Helper()
	data, err := os.ReadFile("../../preseed/disk.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseRecipe("disk.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// String is a layout as lines, for comparison.
func (l *Layout) String() string {
	var b strings.Builder
	for _, p := range l.Partitions {
		fmt.Fprintf(&b, "%d %s %s %d+%d MiB %s %s\n", p.Number, p.Name, p.Type, p.Start/mib, p.Size/mib, p.Filesystem, p.Mount)
	}
	for _, v := range l.Volumes {
		fmt.Fprintf(&b, "%s/%s %d MiB %s %s\n", v.Group, v.Name, v.Size/mib, v.Filesystem, v.Mount)
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	tests := []struct {
		summary      string
		size, sector int64
		want         string
	}{{
		"a small disk: the volumes get their least", 8 << 30, 512, `1 bios bios-boot 1+1 MiB  
2 efi efi 2+512 MiB vfat /boot/efi
3 boot linux 514+1024 MiB ext4 /boot
4 lvm lvm 1538+6653 MiB  
xenvg/root 4096 MiB ext4 /
xenvg/swap 1024 MiB swap 
`}, {
		"a server's disk: the volumes get their most", 960197124096, 4096, `1 bios bios-boot 1+1 MiB  
2 efi efi 2+512 MiB vfat /boot/efi
3 boot linux 514+1024 MiB ext4 /boot
4 lvm lvm 1538+914177 MiB  
xenvg/root 10240 MiB ext4 /
xenvg/swap 4096 MiB swap 
`}, {
		"between", 24 << 30, 512, `1 bios bios-boot 1+1 MiB  
2 efi efi 2+512 MiB vfat /boot/efi
3 boot linux 514+1024 MiB ext4 /boot
4 lvm lvm 1538+23037 MiB  
xenvg/root 6908 MiB ext4 /
xenvg/swap 2300 MiB swap 
`}, {
		"too small for the volumes", 6 << 30, 512,
		`cannot divide disk /dev/x of 6144 MiB: group xenvg of 4604 MiB has no room for volume "swap" of 1024 MiB`,
	}, {
		"too small for the partitions", 1 << 30, 512,
		`cannot divide disk /dev/x: 1024 MiB are too small for partition "boot"`,
	}, {
		"nothing", 4096, 512, `cannot divide disk /dev/x: a disk of 4096 bytes is too small for a partition table`,
	}, {
		"odd sectors", 1 << 40, 520, `cannot divide disk /dev/x: sector size 520 is not supported`,
	}}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			l, err := shippedRecipe(t).Plan(Disk{Path: "/dev/x", Size: test.size, Sector: test.sector})
			got := ""
			if err != nil {
				got = err.Error()
			} else {
				got = l.String()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("layout (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRecipeErrors(t *testing.T) {
	tests := []struct{ summary, recipe, want string }{
		{"no YAML", "partitions: [", "cannot read the disk recipe"},
		{"unknown key", "partitoins: []", "unknown field"},
		{"empty", "{}", "nothing is mounted on /"},
		{"rest in the middle", "partitions: [{name: a, type: linux, size: rest}, {name: b, type: linux, size: 1G, filesystem: ext4, mount: /}]", "only the last partition has size rest"},
		{"bad size", "partitions: [{name: a, type: linux, size: 1T, filesystem: ext4, mount: /}]", `"1T" is no size`},
		{"bad type", "partitions: [{name: a, type: zfs, size: 1G, filesystem: ext4, mount: /}]", `type is "zfs"`},
		{"name that a shell would read", "partitions: [{name: 'a b', type: linux, size: 1G, filesystem: ext4, mount: /}]", `the name is empty, strange`},
		{"same mount point twice", "partitions: [{name: a, type: linux, size: 1G, filesystem: ext4, mount: /}, {name: b, type: linux, size: 1G, filesystem: ext4, mount: /}]", `"/" is no mount point, or is used twice`},
		{"mount point that leads out", "partitions: [{name: a, type: linux, size: 1G, filesystem: ext4, mount: /../x}]", `is no mount point`},
		{"group without partition", "partitions: [{name: a, type: linux, size: 1G, filesystem: ext4, mount: /}]\nvolumes: [{group: g, name: v, share: 1%, min: 1G, max: 2G, filesystem: ext4}]", `no partition makes the group "g"`},
		{"min above max", "partitions: [{name: a, type: lvm, size: rest, group: g}]\nvolumes: [{group: g, name: v, share: 1%, min: 3G, max: 2G, filesystem: ext4, mount: /}]", "min 3G is more than max 2G"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			_, err := ParseRecipe("r.yaml", []byte(test.recipe))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ParseRecipe = %v; want an error with %q", err, test.want)
			}
		})
	}
}

func sparse(t testing.TB, size int64) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	return name
}

func output(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// TestTable lets sgdisk, sfdisk and go-diskfs judge the partition table.
func TestTable(t *testing.T) {
	disk := sparse(t, 10<<30)
	l, err := shippedRecipe(t).Plan(Disk{Path: disk, Size: 10 << 30, Sector: 512})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeTable(PartitionOptions{Layout: l, Rand: rand.New(rand.NewSource(1))}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	table, err := gpt.Read(f, 512, 512)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Verify(f, 10<<30); err != nil {
		t.Errorf("go-diskfs: %v", err)
	}
	if got := table.Partitions[1]; got.Name != "efi" || got.Type != gpt.EFISystemPartition {
		t.Errorf("go-diskfs reads %+v", got)
	}
	found, err := ProbeDisk(Disk{Path: disk, Size: 10 << 30, Sector: 512})
	if err != nil || len(found) != 1 || !found[0].Unfinished {
		t.Errorf("ProbeDisk = %v, %v; want our unfinished installation", found, err)
	}
	if err := finishTable(disk, 10<<30, 512, "bios"); err != nil {
		t.Fatal(err)
	}
	found, err = ProbeDisk(Disk{Path: disk, Size: 10 << 30, Sector: 512})
	if err != nil || len(found) != 1 || found[0].Unfinished || found[0].What != "GPT with 4 partitions" {
		t.Errorf("ProbeDisk = %v, %v; want a GPT with 4 partitions", found, err)
	}
	t.Run("sgdisk", func(t *testing.T) {
		tool(t, "sgdisk")
		if out := output(t, "sgdisk", "--verify", disk); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk --verify:\n%s", out)
		}
	})
	t.Run("sfdisk", func(t *testing.T) {
		tool(t, "sfdisk")
		if out := output(t, "sfdisk", "--verify", disk); !strings.Contains(out, "No errors detected") {
			t.Errorf("sfdisk --verify:\n%s", out)
		}
		if out := output(t, "sfdisk", "--dump", disk); !strings.Contains(out, `type=21686148-6449-6E6F-744E-656564454649`) || !strings.Contains(out, `name="bios"`) {
			t.Errorf("sfdisk --dump:\n%s", out)
		}
	})
}

// TestFinishKeepsBootCode: the rename at the end must not take GRUB's boot
// sector away.
func TestFinishKeepsBootCode(t *testing.T) {
	disk := sparse(t, 8<<30)
	l, err := shippedRecipe(t).Plan(Disk{Path: disk, Size: 8 << 30, Sector: 512})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeTable(PartitionOptions{Layout: l, Rand: rand.New(rand.NewSource(1))}); err != nil {
		t.Fatal(err)
	}
	code := bytes.Repeat([]byte{0xeb}, 440)
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt(code, 0); err != nil {
		t.Fatal(err)
	}
	if err := finishTable(disk, 8<<30, 512, "bios"); err != nil {
		t.Fatal(err)
	}
	got, err := readAt(f, 0, 512)
	if err != nil || !bytes.Equal(got[:440], code) || got[510] != 0x55 || got[450] != 0xee {
		t.Errorf("sector 0 is %x, %v", got, err)
	}
}

// TestProbe lets the real tools write what ProbeDisk must find.
func TestProbe(t *testing.T) {
	tests := []struct {
		want string
		argv []string
	}{
		{"ext2, ext3 or ext4 file system", []string{"mkfs.ext4", "-q", "-F"}},
		{"FAT file system", []string{"mkfs.fat", "-F", "32"}},
		{"FAT file system", []string{"mkfs.fat", "-F", "16"}},
		{"XFS file system", []string{"mkfs.xfs", "-q"}},
		{"Btrfs file system", []string{"mkfs.btrfs", "-q"}},
		{"swap space", []string{"mkswap"}},
		{"LUKS volume", []string{"cryptsetup", "-q", "luksFormat", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/etc/os-release"}},
	}
	for _, test := range tests {
		t.Run(test.argv[0], func(t *testing.T) {
			tool(t, test.argv[0])
			disk := sparse(t, 400<<20)
			output(t, append(test.argv, disk)...)
			found, err := ProbeDisk(Disk{Path: disk, Size: 400 << 20, Sector: 512})
			if err != nil || len(found) == 0 || found[0].What != test.want {
				t.Errorf("ProbeDisk = %v, %v; want %s", found, err, test.want)
			}
		})
	}
	disk := sparse(t, 400<<20)
	if found, err := ProbeDisk(Disk{Path: disk, Size: 400 << 20, Sector: 512}); err != nil || len(found) > 0 {
		t.Errorf("ProbeDisk of an empty disk = %v, %v", found, err)
	}
}

// TestProbeLVM reads a physical volume made by LVM itself, on a loop device.
func TestProbeLVM(t *testing.T) {
	tool(t, "vgcreate")
	tool(t, "losetup")
	disk := sparse(t, 64<<20)
	out, err := exec.Command("losetup", "--find", "--show", disk).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { output(t, "losetup", "-d", loop) })
	probe := func() []Finding {
		found, err := ProbeDisk(Disk{Path: loop, Size: 64 << 20, Sector: 512})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	output(t, "pvcreate", "--config", lvmConfig, "-ff", "-y", loop)
	want := []Finding{{Where: loop, What: "LVM2 physical volume without a group"}}
	if diff := cmp.Diff(want, probe()); diff != "" {
		t.Errorf("after pvcreate (-want +got):\n%s", diff)
	}
	output(t, "vgcreate", "--config", lvmConfig, "-y", "scitestvg", loop)
	for _, lv := range []string{"root", "swap"} {
		// Without device-mapper in the kernel LVM still writes its metadata.
		output(t, "lvcreate", "--config", "global { activation=0 }", "-an", "-Zn", "-Wn", "-y", "-l", "2", "-n", lv, "scitestvg")
	}
	want = []Finding{{Where: loop, What: "LVM2 physical volume of group scitestvg: root, swap", Group: "scitestvg"}}
	if diff := cmp.Diff(want, probe()); diff != "" {
		t.Errorf("after lvcreate (-want +got):\n%s", diff)
	}
}

// recorder answers commands by doing nothing and writes them down.
type recorder struct {
	lines []string
	fail  string
}

func (r *recorder) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv, " ")
	r.lines = append(r.lines, strings.ReplaceAll(line, lvmConfig, "CONFIG"))
	if r.fail != "" && strings.HasPrefix(line, r.fail) {
		return nil, &run.Error{Argv: c.Argv, Output: "no", Err: errors.New("exit status 5")}
	}
	return nil, nil
}

var (
	uuids     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	fatSerial = regexp.MustCompile(`[0-9A-F]{4}-[0-9A-F]{4}`)
)

func TestPartition(t *testing.T) {
	disk := sparse(t, 32<<30)
	l, err := shippedRecipe(t).Plan(Disk{Path: disk, Size: 32 << 30, Sector: 512})
	if err != nil {
		t.Fatal(err)
	}
	dev := t.TempDir()
	write(t, filepath.Join(dev, "mapper/xenvg-swap"), strings.Repeat("x", 64<<10), 0o600)
	var r recorder
	var mounted []string
	o := PartitionOptions{
		Runner: &r, Layout: l, Groups: []string{"xenvg"}, Dev: dev, Target: filepath.Join(t.TempDir(), "target"),
		Rand:   rand.New(rand.NewSource(7)),
		Reread: func(_ context.Context, _ string, nodes []string) error { return nil },
		Mount: func(device, point, filesystem, options string) error {
			mounted = append(mounted, strings.Join([]string{filepath.Base(device), filesystem, options}, " "))
			return nil
		},
	}
	if err := Partition(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	got := strings.NewReplacer(disk, "DISK", dev, "DEV").Replace(strings.Join(r.lines, "\n"))
	want := `modprobe dm-mod
pvcreate --config CONFIG -ff -y DISK4
vgcreate --config CONFIG -y xenvg DISK4
lvcreate --config CONFIG -y -W y -Z y -l 2342 -n root xenvg
lvcreate --config CONFIG -y -W y -Z y -l 780 -n swap xenvg
mkfs.fat -F 32 -n EFI -i SERIAL DISK2
mkfs.ext4 -q -F -U UUID -L boot DISK3
mkfs.ext4 -q -F -U UUID -L root DEV/mapper/xenvg-root`
	normal := func(s string) string { return uuids.ReplaceAllString(s, "UUID") }
	got = regexp.MustCompile(`-i [0-9a-f]{8} `).ReplaceAllString(got, "-i SERIAL ")
	if diff := cmp.Diff(normal(want), normal(got)); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	wantMounts := []string{"xenvg-root ext4 errors=remount-ro", "disk3 ext4 ", "disk2 vfat umask=0077"}
	if diff := cmp.Diff(wantMounts, mounted); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	fstab, err := os.ReadFile(filepath.Join(o.Target, "etc/fstab"))
	if err != nil {
		t.Fatal(err)
	}
	wantTab := `# /etc/fstab: written by the installer of SCI-CD (sci-agent), see fstab(5).
# Partitions are named by UUID, logical volumes by name.
# volume xenvg/swap
/dev/mapper/xenvg-swap none swap sw 0 0
# volume xenvg/root
/dev/mapper/xenvg-root / ext4 errors=remount-ro 0 1
# partition boot
UUID /boot ext4 defaults 0 2
# partition efi
UUID /boot/efi vfat umask=0077 0 2
`
	gotTab := fatSerial.ReplaceAllString(normal(string(fstab)), "UUID")
	if diff := cmp.Diff(wantTab, strings.ReplaceAll(gotTab, "UUID=UUID", "UUID")); diff != "" {
		t.Errorf("fstab (-want +got):\n%s", diff)
	}
	tool(t, "blkid")
	if out := output(t, "blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "VERSION", filepath.Join(dev, "mapper/xenvg-swap")); out != "swap\n1\n" && out != "1\nswap\n" {
		t.Errorf("blkid takes our swap space for %q", out)
	}
}

// TestPartitionStops: a command that fails ends it, and says which.
func TestPartitionStops(t *testing.T) {
	disk := sparse(t, 32<<30)
	l, err := shippedRecipe(t).Plan(Disk{Path: disk, Size: 32 << 30, Sector: 512})
	if err != nil {
		t.Fatal(err)
	}
	r := recorder{fail: "vgcreate"}
	err = Partition(context.Background(), PartitionOptions{
		Runner: &r, Layout: l, Groups: []string{"xenvg"}, Dev: t.TempDir(), Target: t.TempDir(),
		Reread: func(context.Context, string, []string) error { return nil },
		Mount:  func(_, _, _, _ string) error { t.Error("mounted"); return nil },
	})
	var failed *run.Error
	if !errors.As(err, &failed) || !strings.HasPrefix(err.Error(), "cannot make the volume groups: ") {
		t.Errorf("Partition = %v", err)
	}
}

func FuzzProbe(f *testing.F) {
	f.Add([]byte("LABELONE"), int64(512))
	f.Fuzz(func(t *testing.T, data []byte, sector int64) {
		disk := Disk{Path: "/dev/x", Size: int64(len(data)), Sector: sector, Partitions: []Part{{Name: "x1", Start: 512, Size: int64(len(data)) - 512}}}
		_, _ = probe(bytes.NewReader(data), disk)
		_, _ = readGPT(bytes.NewReader(data), int64(len(data)), sector)
	})
}
