package installtest

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDepartures: an excuse is for something that is named, and for one thing
// once.
func TestDepartures(t *testing.T) {
	classes := []string{"text"}
	for _, c := range new(Facts).classes() {
		classes = append(classes, c.name)
	}
	reasons, names := map[string]bool{}, map[string]bool{}
	for _, p := range departures {
		if p.reason == "" || reasons[p.reason] || len(p.facts) == 0 {
			t.Errorf("reason %q is empty, there twice, or of nothing", p.reason)
		}
		reasons[p.reason] = true
		for _, f := range p.facts {
			if !slices.Contains(classes, f.class) || f.stock == none && f.ours == none || f.stock == f.ours && f.stock != some {
				t.Errorf("%s %s: no such class, or no difference", f.class, f.names)
			}
			if f.same != nil && (f.stock != some || f.ours != some) {
				t.Errorf("%s %s: what is to be the same is not on both sides", f.class, f.names)
			}
			for _, name := range strings.Split(f.names, ", ") {
				switch _, err := path.Match(name, "x"); {
				case err != nil || name == "" || name != strings.TrimSpace(name):
					t.Errorf("%s %q: %v", f.class, name, err)
				case names[f.class+" "+name]:
					t.Errorf("%s %s comes twice", f.class, name)
				case strings.HasPrefix(strings.TrimPrefix(name, "/etc/"), "*") && f.same == nil:
					t.Errorf("%s %s excuses everything", f.class, name)
				}
				names[f.class+" "+name] = true
			}
		}
	}
}

func TestCompareStock(t *testing.T) {
	stock := Facts{
		Host:         "node1",
		Packages:     Class{"nano:amd64": "8.4-1 ii", "lvm2:amd64": "2.03 ii"},
		Manual:       Class{"nano": "", "lvm2": ""},
		Users:        Class{"_chrony": "x:101:104:Chrony:/var/lib/chrony:/usr/sbin/nologin", "root": "x:0:0:root:/root:/bin/bash"},
		Groups:       Class{"_chrony": "x:104:", "netdev": "x:101:"},
		Debconf:      Class{"ca-certificates/enable_crts": `"b.crt, a.crt"`, "grub2/enable_os_prober": `"false"`, "console-setup/codesetcode": `"Lat15"`},
		Units:        Class{"systemd-networkd.service": "disabled, preset enabled", "networking.service": "enabled, preset enabled"},
		Alternatives: Class{"editor": "auto /bin/nano"},
		Etc:          Class{"/etc/nanorc": "file 0644 root:root", "/etc/machine-id": "file 0444 root:root"},
		Content:      Class{"/etc/nanorc": "1", "/etc/machine-id": "2"},
		Mounts:       Class{"/boot": "/dev/vda2 ext4 rw,relatime"},
		LVM:          Class{"vg xenvg": "vg_free=0"},
	}
	ours := func() Facts {
		return Facts{
			Host: "node1.lab.example", Site: "a",
			Packages:     Class{"lvm2:amd64": "2.03 ii"},
			Manual:       Class{"lvm2": ""},
			Users:        Class{"_chrony": "x:100:103:Chrony:/var/lib/chrony:/usr/sbin/nologin", "root": "x:0:0:root:/root:/bin/bash"},
			Groups:       Class{"_chrony": "x:103:"},
			Debconf:      Class{"ca-certificates/enable_crts": `"a.crt, b.crt" seen`, "grub2/enable_os_prober": `"false" seen`, "console-setup/codesetcode": `"guess"`},
			Units:        Class{"systemd-networkd.service": "enabled, preset enabled"},
			Alternatives: Class{"editor": "auto /usr/bin/vim.tiny"},
			Etc:          Class{"/etc/machine-id": "file 0444 root:root", "/etc/sci/host": "file 0644 root:root"},
			Content:      Class{"/etc/machine-id": "3", "/etc/sci/host": "4"},
			Mounts:       Class{"/boot": "/dev/vda3 ext4 rw,relatime"},
			LVM:          Class{"vg xenvg": "vg_free=9"},
		}
	}
	for _, c := range []struct {
		summary string
		change  func(*Facts)
		want    []string // without a reason
	}{
		{"all expected", func(*Facts) {}, nil},
		{"another version", func(f *Facts) { f.Packages["lvm2:amd64"] = "2.04 ii" }, []string{"package lvm2:amd64: 2.03 ii; there 2.04 ii"}},
		{"a package lacks", func(f *Facts) { delete(f.Packages, "lvm2:amd64") }, []string{"package lvm2:amd64: 2.03 ii; there none"}},
		{"a package too many", func(f *Facts) { f.Packages["tasksel:all"] = "3.81 ii" }, []string{"package tasksel:all: none; there 3.81 ii"}},
		{"a package is there half", func(f *Facts) { f.Packages["nano:amd64"] = "8.4-1 iU" }, []string{"package nano:amd64: 8.4-1 ii; there 8.4-1 iU"}},
		{"a mark lacks", func(f *Facts) { delete(f.Manual, "lvm2") }, []string{"manually installed lvm2: yes; there none"}},
		{"a mark too many", func(f *Facts) { f.Manual["libpopt0"] = "" }, []string{"manually installed libpopt0: none; there yes"}},
		{"dpkg --verify", func(f *Facts) { f.Verify = Class{"/usr/bin/x": "??5??????"} }, []string{"dpkg --verify /usr/bin/x: none; there ??5??????"}},
		{"another shell", func(f *Facts) { f.Users["_chrony"] = "x:100:103:Chrony:/var/lib/chrony:/bin/sh" },
			[]string{"user _chrony: x:101:104:Chrony:/var/lib/chrony:/usr/sbin/nologin; there x:100:103:Chrony:/var/lib/chrony:/bin/sh"}},
		{"root's number", func(f *Facts) { f.Users["_chrony"] = "x:0:103:Chrony:/var/lib/chrony:/usr/sbin/nologin" },
			[]string{"user _chrony: x:101:104:Chrony:/var/lib/chrony:/usr/sbin/nologin; there x:0:103:Chrony:/var/lib/chrony:/usr/sbin/nologin"}},
		{"another member", func(f *Facts) { f.Groups["_chrony"] = "x:103:root" }, []string{"group _chrony: x:104:; there x:103:root"}},
		{"another certificate", func(f *Facts) { f.Debconf["ca-certificates/enable_crts"] = `"a.crt, c.crt"` },
			[]string{`debconf ca-certificates/enable_crts: "b.crt, a.crt"; there "a.crt, c.crt"`}},
		{"another answer", func(f *Facts) { f.Debconf["grub2/enable_os_prober"] = `"true" seen` },
			[]string{`debconf grub2/enable_os_prober: "false"; there "true" seen`}},
		{"a unit is masked", func(f *Facts) { f.Units["systemd-networkd.service"] = "masked, preset enabled" },
			[]string{"unit systemd-networkd.service: disabled, preset enabled; there masked, preset enabled"}},
		{"another mode", func(f *Facts) { f.Etc["/etc/machine-id"] = "file 0644 root:root" },
			[]string{"path /etc/machine-id: file 0444 root:root; there file 0644 root:root"}},
		{"a file too many", func(f *Facts) { f.Etc["/etc/timezone"] = "file 0644 root:root" }, []string{"path /etc/timezone: none; there file 0644 root:root"}},
		{"another file system", func(f *Facts) { f.Mounts["/boot"] = "/dev/vda3 ext2 rw,relatime" },
			[]string{"mount /boot: /dev/vda2 ext4 rw,relatime; there /dev/vda3 ext2 rw,relatime"}},
		{"one machine-id", func(f *Facts) { f.Content["/etc/machine-id"] = "2" }, []string{"the same on both machines /etc/machine-id: 2; there 2"}},
	} {
		f := ours()
		c.change(&f)
		var got []string
		for _, d := range CompareStock(stock, f) {
			if d.Expected == "" {
				got = append(got, d.String())
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.summary, diff)
		}
	}
}
