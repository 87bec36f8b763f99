package installer

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// recorded is a recorded tree of sysfs: lines PATH = "CONTENT" and PATH -> TARGET.
func recorded(t testing.TB, name string) fs.FS {
	t.Helper()
	f, err := os.Open("testdata/hw/" + name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	tree := fstest.MapFS{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		line := sc.Text()
		if strings.HasPrefix(line, "#") {
			continue
		}
		if path, target, ok := strings.Cut(line, " -> "); ok {
			tree[path] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
			continue
		}
		path, quoted, ok := strings.Cut(line, " = ")
		content, err := strconv.Unquote(quoted)
		if !ok || err != nil {
			t.Fatalf("%s: bad line %q", name, line)
		}
		tree[path] = &fstest.MapFile{Data: []byte(content), Mode: 0o444}
	}
	return tree
}

func TestRead(t *testing.T) {
	tests := []struct {
		summary, tree, mounts, swaps string
		want                         string
	}{{
		summary: "QEMU with virtio disks, booted from CD",
		tree:    "qemu-virtio", mounts: "/dev/sr0 /cdrom iso9660 ro 0 0\n",
		want: `machine  vendor "QEMU", product "Standard PC (Q35 + ICH9, 2009)", serial "", asset tag ""
card     enp0s2     52:54:00:5c:1c:01  driver virtio_net  link up
disk     /dev/vda      32 GiB  model ""  serial "sci-disk-0"
disk     /dev/vdb      10 GiB  model ""  serial "sci-disk-1"
`,
	}, {
		summary: "server with NVMe disks, booted from a USB stick",
		tree:    "server-nvme-usb", mounts: "/dev/sdb1 /cdrom iso9660 ro 0 0\n",
		want: `machine  vendor "Example Systems", product "ES-2U-1", serial "CZJ1234567", asset tag "RACK-7"
card     eno1       3c:ec:ef:00:00:01  driver ixgbe  link up
card     eno2       3c:ec:ef:00:00:02  driver ixgbe  link unknown
disk     /dev/nvme0n1   894 GiB  model "EXAMPLE MZ960"  serial "S64FNT0R100001"
disk     /dev/nvme1n1   894 GiB  model "EXAMPLE MZ960"  serial "S64FNT0R100002"
disk     /dev/sda    3726 GiB  model "EXAMPLE HDD-4T"  serial "ZA1B2C3D"
disk     /dev/sdb      14 GiB  model "Flash Disk"  serial ""  (installation medium, removable, USB)
`,
	}, {
		summary: "node of a cluster: RAID, LVM, a mount, swap, multipath",
		tree:    "node-in-use", mounts: "/dev/sdc1 /srv ext4 rw 0 0\n",
		swaps: "Filename Type Size Used Priority\n/dev/sde partition 1 0 -2\n",
		want: `machine  vendor "", product "", serial "", asset tag ""
card     eth0       00:25:90:aa:bb:cc  driver unknown  link unknown
disk     /dev/sda     476 GiB  model "EXAMPLE SSD"  serial "A1"  (md0 holds sda1)
disk     /dev/sdb     476 GiB  model "EXAMPLE SSD"  serial "B2"  (md0 holds sdb1)
disk     /dev/sdc      95 GiB  model ""  serial "C3"  (sdc1 is mounted on /srv)
disk     /dev/sdd      95 GiB  model ""  serial "D4"  (mpatha holds sdd)
disk     /dev/sde      95 GiB  model ""  serial "E5"  (read-only, sde is swap space)
`,
	}}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			hw, err := Read(recorded(t, test.tree), test.mounts, test.swaps, "/cdrom")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, hw.Table()); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadEmpty(t *testing.T) {
	hw, err := Read(fstest.MapFS{}, "", "", "/cdrom")
	if err != nil {
		t.Fatal(err)
	}
	want := "machine  vendor \"\", product \"\", serial \"\", asset tag \"\"\ncard     none\ndisk     none\n"
	if got := hw.Table(); got != want {
		t.Errorf("Table() = %q; want %q", got, want)
	}
}

func TestMatchHost(t *testing.T) {
	nic := func(mac string) Hardware { return Hardware{NICs: []NIC{{Name: "eth0", MAC: mac}}} }
	twice := Hardware{NICs: []NIC{{Name: "a", MAC: "52:54:00:5c:1c:01"}, {Name: "b", MAC: "52:54:00:5c:1c:02"}}}
	tests := []struct {
		summary string
		hw      Hardware
		want    string // host, or the beginning of the error
	}{
		{"by MAC", nic("52:54:00:5c:1c:02"), "node2"},
		{"by MAC in upper case", nic("52:54:00:5C:1C:01"), "node1"},
		{"by serial and asset tag", Hardware{Serial: "czj1234567", AssetTag: "RACK-7"}, "sci"},
		{"one property of two is not enough", Hardware{Serial: "CZJ1234567"}, "this machine is no host of the site\n"},
		{"a stranger", nic("52:54:00:00:00:99"), "this machine is no host of the site\n"},
		{"nothing known", Hardware{}, "this machine is no host of the site\n"},
		{"two hosts", twice, "this machine matches 2 hosts of the site: node1, node2\n"},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			h, err := MatchHost(testSite(t), test.hw)
			if err == nil {
				if h.Name != test.want {
					t.Errorf("MatchHost = %s; want %s", h.Name, test.want)
				}
				return
			}
			var none *NoMatch
			if !errors.As(err, &none) || hint.Of(err) == "" || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("error %q; want %q with a hint", err, test.want)
			}
			if !strings.Contains(err.Error(), "wanted   node1      MAC 52:54:00:5c:1c:01") {
				t.Errorf("error does not say what was wanted:\n%v", err)
			}
		})
	}
}

func TestChooseDisk(t *testing.T) {
	tests := []struct {
		summary, tree, mounts string
		rule                  site.Disk
		found                 map[string][]Finding // by disk
		want                  string               // path, or the first line of the error
	}{{
		summary: "the only internal disk is taken", tree: "one",
		want: "/dev/vda",
	}, {
		summary: "two candidates and no rule", tree: "qemu-virtio",
		want: "2 disks may be used for host node1 (any internal disk), and none is guessed",
	}, {
		summary: "by serial", tree: "qemu-virtio", rule: site.Disk{Serial: "sci-disk-1"},
		want: "/dev/vdb",
	}, {
		summary: "by size", tree: "qemu-virtio", rule: site.Disk{MinSize: 30 << 30},
		want: "/dev/vda",
	}, {
		summary: "by serial from VPD page 80", tree: "server-nvme-usb", rule: site.Disk{Serial: "ZA1B2C3D"},
		want: "/dev/sda",
	}, {
		summary: "by WWN", tree: "server-nvme-usb", rule: site.Disk{Serial: "eui.0025388b01000002"},
		want: "/dev/nvme1n1",
	}, {
		summary: "by model: two of a kind", tree: "server-nvme-usb", rule: site.Disk{Model: "example mz960"},
		want: `2 disks may be used for host node1 (model "example mz960"), and none is guessed`,
	}, {
		summary: "nothing fits", tree: "server-nvme-usb", rule: site.Disk{Serial: "X"},
		want: `no disk of this machine may be used for host node1 (serial "X")`,
	}, {
		summary: "a USB disk is not taken by its model", tree: "server-nvme-usb", rule: site.Disk{Model: "Flash Disk"},
		want: `no disk of this machine may be used for host node1 (model "Flash Disk")`,
	}, {
		summary: "a USB disk is taken by its serial", tree: "usb", rule: site.Disk{Serial: "U9"},
		want: "/dev/sdb",
	}, {
		summary: "the medium is never taken, not even by its serial", tree: "usb", mounts: "/dev/sdb /cdrom iso9660 ro 0 0\n",
		rule: site.Disk{Serial: "U9", Wipe: true},
		want: `no disk of this machine may be used for host node1 (serial "U9")`,
	}, {
		summary: "a read-only disk is never taken", tree: "node-in-use", rule: site.Disk{Serial: "E5", Wipe: true},
		want: `no disk of this machine may be used for host node1 (serial "E5")`,
	}, {
		summary: "a member of a running array is not taken, wipe or not", tree: "node-in-use", rule: site.Disk{Serial: "A1", Wipe: true},
		want: "disk /dev/sda is in use",
	}, {
		summary: "a mounted disk is not taken", tree: "node-in-use", mounts: "/dev/sdc1 /mnt ext4 rw 0 0\n", rule: site.Disk{Serial: "C3", Wipe: true},
		want: "disk /dev/sdc is in use",
	}, {
		summary: "a disk with a cluster's group", tree: "one",
		found: map[string][]Finding{"/dev/vda": {{Where: "/dev/vda3", What: "LVM2 physical volume of group xenvg: inst1", Group: "xenvg"}}},
		want:  "disk /dev/vda is not empty",
	}, {
		summary: "the same, given away", tree: "one", rule: site.Disk{Wipe: true},
		found: map[string][]Finding{"/dev/vda": {{Where: "/dev/vda3", What: "LVM2 physical volume of group xenvg: inst1", Group: "xenvg"}}},
		want:  "/dev/vda",
	}, {
		summary: "an installation of ours that did not end", tree: "one",
		found: map[string][]Finding{"/dev/vda": {{Where: "/dev/vda", What: "ours", Unfinished: true}, {Where: "/dev/vda3", What: "LVM2", Group: "xenvg"}}},
		want:  "/dev/vda",
	}, {
		summary: "a group of that name on another disk", tree: "qemu-virtio", rule: site.Disk{Serial: "sci-disk-0", Wipe: true},
		found: map[string][]Finding{"/dev/vdb": {{Where: "/dev/vdb", What: "LVM2", Group: "xenvg"}}},
		want:  "another disk, /dev/vdb, holds a volume group xenvg already",
	}}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			var hw Hardware
			var err error
			switch test.tree {
			case "one":
				hw.Disks = []Disk{{Name: "vda", Path: "/dev/vda", Size: 32 << 30}}
			case "usb":
				hw.Disks = []Disk{{Name: "sda", Path: "/dev/sda", Size: 32 << 30}, {Name: "sdb", Path: "/dev/sdb", Size: 32 << 30, Serial: "U9", USB: true, Removable: true}}
				markUsers(hw.Disks, test.mounts, "", "/cdrom")
			default:
				if hw, err = Read(recorded(t, test.tree), test.mounts, "", "/cdrom"); err != nil {
					t.Fatal(err)
				}
			}
			probe := func(d Disk) ([]Finding, error) { return test.found[d.Path], nil }
			d, err := ChooseDisk(&site.Host{Name: "node1", Disk: test.rule}, hw, []string{"xenvg"}, probe)
			got := d.Path
			if err != nil {
				got, _, _ = strings.Cut(err.Error(), "\n")
				if hint.Of(err) == "" || !strings.Contains(err.Error(), "\ndisk     ") {
					t.Errorf("error without a hint or a table:\n%v", err)
				}
			}
			if got != test.want {
				t.Errorf("ChooseDisk = %q; want %q", got, test.want)
			}
		})
	}
}
