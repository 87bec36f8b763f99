package installtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/iso"
	"github.com/skycover/sci-cd/pkg/tree"
)

const (
	uuidBoot  = "0c2f0b9e-1d5a-4c0e-9f1b-27d3a1a0c001"
	uuidESP   = "5A1C-0001"
	uuidTable = "7d7be1ee-54a7-4f0e-a6f2-0123456789ab"
	uuidVG    = "AbCdEf-0123-4567-89ab-cdef-0123-456789"
	uuidArray = "01234567-89ab-cdef-0123-456789abcdef"
)

// sampleParts is what the script prints of a small system, by part.
func sampleParts() map[string]string {
	sum := strings.Repeat("a", 64)
	report := func(kind, rows string) string {
		return `{"report": [{"` + kind + `": [` + rows + `]}]}`
	}
	return map[string]string{
		"host":         "node1\n",
		"site":         strings.Repeat("5", 64) + "  -\n",
		"packages":     "bash:amd64 5.2.37-2+b5 ii \nadduser:all 3.152 ii \n",
		"manual":       "bash\n",
		"verify":       "??5??????   c /etc/default/grub\nmissing     /usr/share/doc/a file (Permission denied)\n",
		"conffiles":    "bash:amd64\n /etc/bash.bashrc 3eb3e2b4\n /etc/old 77 obsolete\n\nadduser:all\n\n",
		"diversions":   "diversion of /bin/sh to /bin/sh.distrib by dash\n",
		"overrides":    "root messagebus 4754 /usr/lib/dbus-1.0/dbus-daemon-launch-helper\n",
		"alternatives": "awk                            auto     /usr/bin/mawk\n",
		"debconf":      "Name: grub-pc/timeout\nTemplate: grub-pc/timeout\nValue: 5\nOwners: grub-pc\nFlags: seen\nVariables:\n a = b\n\nName: man-db/auto-update\nTemplate: man-db/auto-update\nValue: \n\n",
		"users":        "root:x:0:0:root:/root:/bin/bash\n_chrony:x:101:102:Chrony daemon,,,:/var/lib/chrony:/usr/sbin/nologin\n",
		"groups":       "root:x:0:\n_chrony:x:102:\n",
		"shadow":       "root:set by method y:20414:0:99999:7:::\n_chrony:locked:20414::::::\n",
		"gshadow":      "root:locked::\n",
		"units":        "ssh.service enabled enabled\ngetty@.service enabled -\ndev-disk-by\\x2duuid-" + strings.ReplaceAll(uuidBoot, "-", `\x2d`) + ".swap generated\n",
		"etc":          "d 755 root:root\n\n/etc\x00f 644 root:root\n\n/etc/fstab\x00f 644 root:root\n\n/etc/a b\x00f 444 root:root\n\n/etc/machine-id\x00l 777 root:root\n../usr/share/zoneinfo/Etc/UTC\n/etc/localtime\x00f 600 root:root\n\n/etc/ssh/ssh_host_rsa_key\x00",
		"sums":         sum + "  /etc/fstab\x00" + sum + "  /etc/a b\x00" + sum + "  /etc/machine-id\x00" + sum + "  /etc/ssh/ssh_host_rsa_key\x00",
		"other":        "d 700 root:root\n\n/root\x00",
		"privileged":   "f 4755 root:root\n\n/usr/bin/su\x00",
		"capabilities": "/usr/bin/ping cap_net_raw=ep\n",
		"cmdline":      "BOOT_IMAGE=/vmlinuz-6.12 root=/dev/mapper/xenvg-root ro console=tty0 console=ttyS0,115200n8\n",
		"mounts": `TARGET="/" SOURCE="/dev/mapper/xenvg-root" FSTYPE="ext4" OPTIONS="rw,relatime,errors=remount-ro"` + "\n" +
			`TARGET="/run" SOURCE="tmpfs" FSTYPE="tmpfs" OPTIONS="rw,nosuid,size=151000k,mode=755"` + "\n" +
			`TARGET="/efi\x20a" SOURCE="systemd-1" FSTYPE="autofs" OPTIONS="rw,fd=33,pgrp=1,pipe_ino=1234"` + "\n",
		"blocks": `NAME="vda" TYPE="disk" SIZE="34359738368" FSTYPE="" LABEL="" PTTYPE="gpt" PARTTYPE="" PARTLABEL="" MOUNTPOINT="" UUID="" PARTUUID="" PTUUID="` + uuidTable + `"` + "\n" +
			`NAME="vda2" TYPE="part" SIZE="1000" FSTYPE="vfat" LABEL="" PTTYPE="gpt" PARTTYPE="c12a" PARTLABEL="" MOUNTPOINT="/boot/efi" UUID="` + uuidESP + `" PARTUUID="" PTUUID="` + uuidTable + `"` + "\n" +
			`NAME="vda3" TYPE="part" SIZE="2000" FSTYPE="ext4" LABEL="" PTTYPE="gpt" PARTTYPE="" PARTLABEL="" MOUNTPOINT="/boot" UUID="` + uuidBoot + `" PARTUUID="" PTUUID="` + uuidTable + `"` + "\n" +
			`NAME="md0" TYPE="raid1" SIZE="2000" FSTYPE="" LABEL="" PTTYPE="" PARTTYPE="" PARTLABEL="" MOUNTPOINT="" UUID="` + uuidArray + `" PARTUUID="" PTUUID=""` + "\n",
		"pvs":        report("pv", `{"pv_name": "/dev/vda4", "vg_name": "xenvg", "pv_uuid": "x"}`),
		"vgs":        report("vg", `{"vg_name": "xenvg", "vg_attr": "wz--n-", "vg_uuid": "`+uuidVG+`"}`),
		"lvs":        report("lv", `{"lv_name": "root", "vg_name": "xenvg", "lv_size": "100", "lv_uuid": ""}`),
		"/etc/fstab": "UUID=" + uuidBoot + " /boot ext4 defaults 0 2\nUUID=" + uuidESP + " /boot/efi vfat defaults 0 1\n# array " + colonUUID(uuidArray) + "\n",
	}
}

func pack(t *testing.T, parts map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for name, out := range parts {
		fmt.Fprintf(z, "%s 0 %d 4\n%swarn", name, len(out), out)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sampleFacts(t *testing.T, change ...string) Facts {
	t.Helper()
	parts := sampleParts()
	for i := 0; i < len(change); i += 3 {
		part, old, text := change[i], change[i+1], change[i+2]
		if !strings.Contains(parts[part], old) {
			t.Fatalf("part %q does not contain %q", part, old)
		}
		parts[part] = strings.ReplaceAll(parts[part], old, text)
	}
	f, err := parseFacts(pack(t, parts))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParseFacts(t *testing.T) {
	f := sampleFacts(t)
	sum := strings.Repeat("a", 64)
	want := Facts{
		Format: 1, Host: "node1", Site: strings.Repeat("5", 64),
		Identities: map[string]string{
			uuidTable: "partition table of vda", uuidESP: "UUID of vda2", uuidBoot: "UUID of vda3", uuidArray: "UUID of md0",
			uuidVG: "vg xenvg",
		},
		Packages:     Class{"bash:amd64": "5.2.37-2+b5 ii", "adduser:all": "3.152 ii"},
		Manual:       Class{"bash": ""},
		Verify:       Class{"/etc/default/grub": "??5?????? c", "/usr/share/doc/a file (Permission denied)": "missing"},
		Conffiles:    Class{"/etc/bash.bashrc": "3eb3e2b4 bash:amd64", "/etc/old": "77 obsolete bash:amd64"},
		Diversions:   Class{"diversion of /bin/sh to /bin/sh.distrib by dash": ""},
		Overrides:    Class{"/usr/lib/dbus-1.0/dbus-daemon-launch-helper": "root messagebus 4754"},
		Alternatives: Class{"awk": "auto /usr/bin/mawk"},
		Debconf:      Class{"grub-pc/timeout": `"5" seen`, "man-db/auto-update": `""`},
		Users:        Class{"root": "x:0:0:root:/root:/bin/bash", "_chrony": "x:101:102:Chrony daemon,,,:/var/lib/chrony:/usr/sbin/nologin"},
		Groups:       Class{"root": "x:0:", "_chrony": "x:102:"},
		Shadow:       Class{"root": "set by method y:20414:0:99999:7:::", "_chrony": "locked:20414::::::"},
		GShadow:      Class{"root": "locked::"},
		Units: Class{"ssh.service": "enabled, preset enabled", "getty@.service": "enabled, preset -",
			`dev-disk-by\x2duuid-0c2f0b9e\x2d1d5a\x2d4c0e\x2d9f1b\x2d27d3a1a0c001.swap`: "generated, preset -"},
		Etc: Class{"/etc": "dir 0755 root:root", "/etc/fstab": "file 0644 root:root", "/etc/a b": "file 0644 root:root", "/etc/machine-id": "file 0444 root:root",
			"/etc/localtime": "link root:root -> ../usr/share/zoneinfo/Etc/UTC", "/etc/ssh/ssh_host_rsa_key": "file 0600 root:root"},
		Content:      Class{"/etc/fstab": sum, "/etc/a b": sum, "/etc/machine-id": sum, "/etc/ssh/ssh_host_rsa_key": sum},
		Texts:        Class{"/etc/fstab": sampleParts()["/etc/fstab"]},
		Other:        Class{"/root": "dir 0700 root:root"},
		Privileged:   Class{"/usr/bin/su": "file 4755 root:root"},
		Capabilities: Class{"/usr/bin/ping": "cap_net_raw=ep"},
		Kernel:       Class{"BOOT_IMAGE": "/vmlinuz-6.12", "root": "/dev/mapper/xenvg-root", "ro": "", "console": "tty0; ttyS0,115200n8"},
		Mounts: Class{"/": "/dev/mapper/xenvg-root ext4 rw,relatime,errors=remount-ro", "/run": "tmpfs tmpfs rw,nosuid,size=151000k,mode=755",
			`/efi\x20a`: "systemd-1 autofs rw,fd=33,pgrp=1,pipe_ino=1234"},
		Blocks: Class{"vda": "type=disk size=34359738368 pttype=gpt", "vda2": "type=part size=1000 fstype=vfat pttype=gpt parttype=c12a mountpoint=/boot/efi",
			"vda3": "type=part size=2000 fstype=ext4 pttype=gpt mountpoint=/boot", "md0": "type=raid1 size=2000"},
		LVM: Class{"pv /dev/vda4": "vg_name=xenvg", "vg xenvg": "vg_attr=wz--n-", "lv xenvg/root": "lv_size=100 vg_name=xenvg"},
	}
	if d := cmp.Diff(want, f); d != "" {
		t.Errorf("facts (-want +got):\n%s", d)
	}
	for _, c := range f.classes() {
		if len(c.class) == 0 {
			t.Errorf("the sample has nothing of class %q", c.name)
		}
	}

	dir := t.TempDir()
	if err := f.Write(dir); err != nil {
		t.Fatal(err)
	}
	back, err := ReadFacts(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(f, back); d != "" {
		t.Errorf("facts read back (-want +got):\n%s", d)
	}
	if err := os.WriteFile(filepath.Join(dir, FactsFile), []byte(`{"format": 7}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFacts(dir); err == nil || !strings.Contains(err.Error(), "has format 7; want 1") {
		t.Errorf("ReadFacts: %v", err)
	}
	if _, err := ReadFacts(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFacts: %v", err)
	}
}

// What is not understood must not count as equal.
func TestParseFactsRefuses(t *testing.T) {
	for _, test := range []struct{ part, text, want string }{
		{"packages", "bash 5 ii extra\n", `part "packages": cannot read "bash 5 ii extra"`},
		{"manual", "a b\n", `part "manual": cannot read "a b"`},
		{"verify", "dpkg: error\n", `part "verify": cannot read "dpkg: error"`},
		{"conffiles", " /etc/x\n", `part "conffiles": cannot read " /etc/x"`},
		{"overrides", "root root /x\n", `part "overrides": cannot read "root root /x"`},
		{"debconf", "Name: a\nbroken\n", `part "debconf": cannot read "broken"`},
		{"debconf", "Value: a\n", `part "debconf": a stanza has no name: "Value: a\n"`},
		{"shadow", "root:$y$secret\n", `part "shadow": cannot read a line of 2 fields`},
		{"units", "a\n", `part "units": cannot read "a"`},
		{"etc", "f 644\n\n/etc/x\x00", `part "etc": cannot read "f 644"`},
		{"etc", "? 644 a:b\n\n/etc/x\x00", `part "etc": cannot read "? 644 a:b"`},
		{"sums", "abc  /etc/x\x00", `part "sums": cannot read "abc  /etc/x"`},
		{"capabilities", "Failed\n", `part "capabilities": cannot read "Failed"`},
		{"mounts", `TARGET="/" SOURCE="a"` + "\n", `part "mounts": cannot read "TARGET=\"/\" SOURCE=\"a\""`},
		{"lvs", "WARNING", `part "lvs": invalid character 'W' looking for beginning of value`},
		{"new", "x", `part "new": not expected`},
	} {
		parts := sampleParts()
		parts[test.part] = test.text
		_, err := parseFacts(pack(t, parts))
		if err == nil || err.Error() != test.want {
			t.Errorf("%s %q: %v; want %s", test.part, test.text, err, test.want)
		}
	}
	parts := sampleParts()
	delete(parts, "etc")
	if _, err := parseFacts(pack(t, parts)); err == nil || err.Error() != `part "etc": missing` {
		t.Errorf("without etc: %v", err)
	}
	for raw, want := range map[string]string{
		"a 1 2 3\nokbad":         `part "a": exit status 1: bad`,
		"a 0 20 0\nshort":        `part "a" is cut off`,
		"a 0 -2 0\n":             `cannot read header "a 0 -2 0"`,
		"what\n":                 `cannot read header "what"`,
		"a 0 1 0\nxa 0 1 0\nx":   `part "a" comes twice`,
		"sh: 1: find: not found": `cannot read header "sh: 1: find: not found"`,
	} {
		if _, err := splitParts([]byte(raw)); err == nil || err.Error() != want {
			t.Errorf("splitParts(%q) = %v; want %s", raw, err, want)
		}
	}
	if _, err := parseFacts([]byte("sh: syntax error")); err == nil || !strings.Contains(err.Error(), `"sh: syntax error"`) {
		t.Errorf("parseFacts: %v", err)
	}
}

// TestFactsScript runs the script in a directory instead of /: dpkg, find and
// awk are real, what asks a running system is replaced.
func TestFactsScript(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: files of several owners")
	}
	if _, err := exec.LookPath("dpkg-divert"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("dpkg is not installed")
	}
	root := t.TempDir()
	put := func(name, text string, mode fs.FileMode) {
		t.Helper()
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	parts := sampleParts()
	put("etc/hostname", "node1\n", 0o644)
	put("etc/fstab", parts["/etc/fstab"], 0o644)
	put("etc/a\nfile \xff", "", 0o600)
	put("etc/shadow", "root:$y$j9T$salt$hash:20000:0:99999:7:::\nnobody:*:20000:0:99999:7:::\nold:!$6$salt$hash:20000:0:99999:7:::\nopen::20000:0:99999:7:::\nodd:abc:1::::::\n", 0o640)
	put("etc/gshadow", "root:*::\nstaff:!::a,b\n", 0o640)
	put("etc/sci/site.json", "{\n  \"install\": \"image\",\n  \"name\": \"lab\"\n}\n", 0o600)
	put("usr/bin/su", "", 0o755)
	if err := os.Chmod(filepath.Join(root, "usr/bin/su"), fs.ModeSetuid|0o755); err != nil {
		t.Fatal(err)
	}
	put("srv/sci/pool", "", 0o644)
	put("srv/keep", "", 0o644)
	put("root/.ssh/authorized_keys", "", 0o600)
	put("var/cache/debconf/config.dat", parts["debconf"], 0o644)
	put("proc/cmdline", parts["cmdline"], 0o444)
	if err := os.Symlink("/usr/share/zoneinfo/Etc/UTC", filepath.Join(root, "etc/localtime")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"run", "boot", "home", "opt", "usr/local"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for program, part := range map[string]string{
		"systemctl": "units", "findmnt": "mounts", "lsblk": "blocks", "pvs": "pvs", "vgs": "vgs", "lvs": "lvs",
		"getcap": "capabilities", "apt-mark": "manual", "update-alternatives": "alternatives", "dpkg": "verify", "getent": "",
	} {
		put("answers/"+program, parts[part], 0o644)
		put("bin/"+program, "#!/bin/sh\ncat "+root+"/answers/"+program+"\n", 0o755)
	}
	put("answers/passwd", parts["users"], 0o644)
	put("answers/group", parts["groups"], 0o644)
	put("bin/getent", "#!/bin/sh\ncat "+root+"/answers/$1\n", 0o755)
	put("bin/dpkg-statoverride", "#!/bin/sh\nexit 1\n", 0o755)
	script := factsScript()
	for _, dir := range []string{"/etc", "/usr", "/srv", "/root", "/run", "/boot", "/home", "/opt", "/var", "/proc"} {
		script = strings.ReplaceAll(script, " "+dir, " "+root+dir)
		script = strings.ReplaceAll(script, "="+dir, "="+root+dir)
		script = strings.ReplaceAll(script, ">"+dir, ">"+root+dir)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Env = append(os.Environ(), "PATH="+root+"/bin:"+os.Getenv("PATH"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	packed, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	// What it found lies below the directory.
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	got, err := splitParts(raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, out := range got {
		if name != path.Base(name) {
			delete(got, name)
			name = strings.TrimPrefix(name, root)
		}
		got[name] = strings.ReplaceAll(out, root, "")
	}
	f, err := parseFacts(pack(t, got))
	if err != nil {
		t.Fatal(err)
	}
	if f.Host != "node1" || len(f.Site) != 64 || len(f.Packages) < 50 || len(f.Conffiles) < 10 || len(f.Overrides) != 0 {
		t.Errorf("host %q, site %q, %d packages, %d conffiles, %d overrides", f.Host, f.Site, len(f.Packages), len(f.Conffiles), len(f.Overrides))
	}
	for _, test := range []struct {
		name      string
		got, want any
	}{
		{"shadow", f.Shadow, Class{"root": "set by method y:20000:0:99999:7:::", "nobody": "locked:20000:0:99999:7:::", "old": "locked:20000:0:99999:7:::",
			"open": "none:20000:0:99999:7:::", "odd": "set:1::::::"}},
		{"gshadow", f.GShadow, Class{"root": "locked::", "staff": "locked::a,b"}},
		{"privileged", f.Privileged, Class{"/usr/bin/su": "file 4755 root:root"}},
		{"localtime", f.Etc["/etc/localtime"], "link root:root -> /usr/share/zoneinfo/Etc/UTC"},
		{"odd name", f.Etc["/etc/a\nfile \xff"], "file 0600 root:root"},
		{"its content", f.Content["/etc/a\nfile \xff"], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"text", f.Texts["/etc/fstab"], parts["/etc/fstab"]},
		{"key", f.Other["/root/.ssh/authorized_keys"], "file 0600 root:root"},
		{"medium", f.Other["/srv/sci/pool"], ""},
		{"beside it", f.Other["/srv/keep"], "file 0644 root:root"},
		{"verify", f.Verify, Class{"/etc/default/grub": "??5?????? c", "/usr/share/doc/a file (Permission denied)": "missing"}},
	} {
		if d := cmp.Diff(test.want, test.got); d != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, d)
		}
	}
	if strings.Contains(string(raw), "salt") {
		t.Error("the output contains the hash of a password")
	}
	if left, _ := os.ReadDir(filepath.Join(root, "run")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCompare(t *testing.T) {
	a := sampleFacts(t)
	other := "9c2f0b9e-1d5a-4c0e-9f1b-27d3a1a0c009"
	bs := func(id string) string { return strings.ReplaceAll(id, "-", `\x2d`) }
	sum, second := strings.Repeat("a", 64), strings.Repeat("b", 64)
	mine := sum + "  /etc/machine-id\x00" + sum + "  /etc/ssh/ssh_host_rsa_key"
	fresh := second + "  /etc/machine-id\x00" + second + "  /etc/ssh/ssh_host_rsa_key"
	for _, test := range []struct {
		summary string
		change  []string // part, old, new
		want    string   // the only difference that is not expected; empty: none
	}{
		{"a UUID, wherever it stands", []string{"blocks", uuidBoot, other, "/etc/fstab", uuidBoot, other, "units", bs(uuidBoot), bs(other), "sums", sum + "  /etc/fstab", second + "  /etc/fstab"}, ""},
		{"an array's UUID", []string{"blocks", uuidArray, other, "/etc/fstab", colonUUID(uuidArray), colonUUID(other), "sums", sum + "  /etc/fstab", second + "  /etc/fstab"}, ""},
		{"a UUID of another file system", []string{"/etc/fstab", uuidBoot, other, "sums", sum + "  /etc/fstab", second + "  /etc/fstab"},
			"text /etc/fstab: UUID={UUID of vda3} /boot ext4 defaults 0 2; there UUID=" + other + " /boot ext4 defaults 0 2"},
		{"a mount option in fstab", []string{"/etc/fstab", "vfat defaults", "vfat ro", "sums", sum + "  /etc/fstab", second + "  /etc/fstab"},
			"text /etc/fstab: UUID={UUID of vda2} /boot/efi vfat defaults 0 1; there UUID={UUID of vda2} /boot/efi vfat ro 0 1"},
		{"day of a password", []string{"shadow", "20414", "20415"}, ""},
		{"kind of a password", []string{"shadow", "set by method y", "locked"}, "shadow root: set by method y:20414:0:99999:7:::; there locked:20414:0:99999:7:::"},
		{"age of a password", []string{"shadow", ":99999:", ":90:"}, "shadow root: set by method y:20414:0:99999:7:::; there set by method y:20414:0:90:7:::"},
		{"memory", []string{"mounts", "size=151000k", "size=151004k"}, ""},
		{"memory, not named", []string{"mounts", "size=151000k,", ""}, ""},
		{"memory of /dev", []string{"mounts", `SOURCE="tmpfs" FSTYPE="tmpfs" OPTIONS="rw,nosuid,size=151000k`, `SOURCE="udev" FSTYPE="devtmpfs" OPTIONS="rw,nosuid,size=1k`},
			"mount /run: tmpfs tmpfs rw,nosuid,size=151000k,mode=755; there udev devtmpfs rw,nosuid,size=1k,mode=755"},
		{"memory, named in another way", []string{"mounts", "size=151000k,", "nr_inodes=1,"}, ""},
		{"the automounter", []string{"mounts", "fd=33", "fd=34", "mounts", "1234", "99"}, ""},
		{"both", []string{"mounts", "size=151000k", "size=151004k", "mounts", "fd=33", "fd=34,size=1"}, `mount /efi\x20a: systemd-1 autofs rw,fd=33,pgrp=1,pipe_ino=1234; there systemd-1 autofs rw,fd=34,size=1,pgrp=1,pipe_ino=1234`},
		{"the automounter's mount", []string{"mounts", `pipe_ino=1234"`, `pipe_ino=5"` + "\n" + `TARGET="/efi\x20a" SOURCE="vfat" FSTYPE="vfat" OPTIONS="rw"`},
			`mount /efi\x20a: systemd-1 autofs rw,fd=33,pgrp=1,pipe_ino=1234; there systemd-1 autofs rw,fd=33,pgrp=1,pipe_ino=5; vfat vfat rw`},
		{"a mount's option", []string{"mounts", "rw,nosuid,size=151000k", "rw,size=5k"}, "mount /run: tmpfs tmpfs rw,nosuid,size=151000k,mode=755; there tmpfs tmpfs rw,size=5k,mode=755"},
		{"a version", []string{"packages", "5.2.37-2+b5", "5.2.38"}, "package bash:amd64: 5.2.37-2+b5 ii; there 5.2.38 ii"},
		{"a package's state", []string{"packages", "b5 ii", "b5 hi"}, "package bash:amd64: 5.2.37-2+b5 ii; there 5.2.37-2+b5 hi"},
		{"a package more", []string{"packages", "bash:", "ash:all 1 ii\nbash:"}, "package ash:all: none; there 1 ii"},
		{"a mark", []string{"manual", "bash", "adduser\nbash"}, "manually installed adduser: none; there yes"},
		{"a changed file", []string{"verify", "missing", "??5?????? /usr/bin/su\nmissing"}, "dpkg --verify /usr/bin/su: none; there ??5??????"},
		{"a conffile", []string{"conffiles", "3eb3e2b4", "00"}, "conffile /etc/bash.bashrc: 3eb3e2b4 bash:amd64; there 00 bash:amd64"},
		{"a diversion", []string{"diversions", "by dash", "by me"}, "diversion diversion of /bin/sh to /bin/sh.distrib by dash: yes; there none\ndiversion diversion of /bin/sh to /bin/sh.distrib by me: none; there yes"},
		{"an override", []string{"overrides", "4754", "755"}, "stat override /usr/lib/dbus-1.0/dbus-daemon-launch-helper: root messagebus 4754; there root messagebus 755"},
		{"an alternative", []string{"alternatives", "auto ", "manual "}, "alternative awk: auto /usr/bin/mawk; there manual /usr/bin/mawk"},
		{"an answer", []string{"debconf", "Value: 5", "Value: 0"}, `debconf grub-pc/timeout: "5" seen; there "0" seen`},
		{"a user's number", []string{"users", ":101:", ":105:"}, "user _chrony: x:101:102:Chrony daemon,,,:/var/lib/chrony:/usr/sbin/nologin; there x:105:102:Chrony daemon,,,:/var/lib/chrony:/usr/sbin/nologin"},
		{"a group's member", []string{"groups", "102:", "102:root"}, "group _chrony: x:102:; there x:102:root"},
		{"a group's password", []string{"gshadow", "locked", "none"}, "gshadow root: locked::; there none::"},
		{"a unit", []string{"units", "ssh.service enabled", "ssh.service disabled"}, "unit ssh.service: enabled, preset enabled; there disabled, preset enabled"},
		{"a mode", []string{"etc", "f 644 root:root\n\n/etc/a b", "f 600 root:root\n\n/etc/a b"}, "path /etc/a b: file 0644 root:root; there file 0600 root:root"},
		{"the mode of a file that may differ", []string{"etc", "f 600 root:root\n\n/etc/ssh", "f 644 root:root\n\n/etc/ssh"}, "path /etc/ssh/ssh_host_rsa_key: file 0600 root:root; there file 0644 root:root"},
		{"a link", []string{"etc", "Etc/UTC", "Europe/Berlin"}, "path /etc/localtime: link root:root -> ../usr/share/zoneinfo/Etc/UTC; there link root:root -> ../usr/share/zoneinfo/Europe/Berlin"},
		{"content", []string{"sums", sum + "  /etc/a b", second + "  /etc/a b"}, "content /etc/a b: " + sum + "; there " + second},
		{"a file that is missing", []string{"etc", "f 644 root:root\n\n/etc/a b\x00", "", "sums", sum + "  /etc/a b\x00", ""}, "path /etc/a b: file 0644 root:root; there none"},
		{"a key that is missing", []string{"etc", "f 600 root:root\n\n/etc/ssh/ssh_host_rsa_key\x00", "", "sums", second + "  /etc/ssh/ssh_host_rsa_key\x00", ""}, "path /etc/ssh/ssh_host_rsa_key: file 0600 root:root; there none"},
		{"the lock of passwd", []string{"etc", "/etc/a b\x00", "/etc/a b\x00f 600 root:root\n\n/etc/.pwd.lock\x00"}, ""},
		{"LVM's archive", []string{"etc", "/etc/a b\x00", "/etc/a b\x00f 600 root:root\n\n/etc/lvm/archive/xenvg_00000-123.vg\x00"}, ""},
		{"a setuid file", []string{"privileged", "4755", "755"}, "setuid /usr/bin/su: file 4755 root:root; there file 0755 root:root"},
		{"capabilities", []string{"capabilities", "=ep", "+eip"}, "capabilities /usr/bin/ping: cap_net_raw=ep; there cap_net_raw+eip"},
		{"a kernel parameter", []string{"cmdline", " ro ", " rw "}, "kernel command line ro: yes; there none\nkernel command line rw: none; there yes"},
		{"a file in /root", []string{"other", "/root", "/root\x00f 600 root:root\n\n/root/.bash_history"}, "other path /root/.bash_history: none; there file 0600 root:root"},
		{"a partition's size", []string{"blocks", `SIZE="1000"`, `SIZE="1001"`}, "block device vda2: type=part size=1000 fstype=vfat pttype=gpt parttype=c12a mountpoint=/boot/efi; there type=part size=1001 fstype=vfat pttype=gpt parttype=c12a mountpoint=/boot/efi"},
		{"a volume", []string{"lvs", `"100"`, `"200"`}, "LVM lv xenvg/root: lv_size=100 vg_name=xenvg; there lv_size=200 vg_name=xenvg"},
		{"another site file", []string{"site", "5", "6", "etc", "/etc/a b", "/etc/sci/site.json", "sums", "/etc/a b", "/etc/sci/site.json"}, "path /etc/a b: file 0644 root:root; there none\npath /etc/sci/site.json: none; there file 0644 root:root"},
	} {
		b := sampleFacts(t, append([]string{"sums", mine, fresh}, test.change...)...)
		var got []string
		for _, d := range Compare(a, b) {
			if d.Expected == "" {
				got = append(got, d.String())
			}
		}
		if text := strings.Join(got, "\n"); text != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.summary, text, test.want)
		}
	}
}

// Each expectation must be one that holds for something, and say why.
func TestExpectations(t *testing.T) {
	for _, e := range append(slices.Clone(expectations), hostExpectations...) {
		if e.reason == "" {
			t.Errorf("%s %s: no reason", e.class, e.name)
		}
		name := strings.NewReplacer("/**", "/x/y", "*", "x").Replace(e.name)
		if !e.sameName(Difference{Class: e.class, Name: name, A: "a", B: "b"}) {
			t.Errorf("%s %s does not cover %s", e.class, e.name, name)
		}
		if e.same != nil && e.covers(Difference{Class: e.class, Name: name, A: "a"}) {
			t.Errorf("%s %s covers a missing %s", e.class, e.name, name)
		}
		if e.class == "content" && e.covers(Difference{Class: "path", Name: name, A: "a", B: "b"}) {
			t.Errorf("%s %s covers the mode of %s", e.class, e.name, name)
		}
	}
}

// What differed between two boots of one machine, or will between two media.
func TestCompareSeen(t *testing.T) {
	const auto = "systemd-1 autofs rw,relatime,fd=41,pgrp=1,timeout=0,minproto=5,maxproto=5,direct,pipe_ino=536"
	a, b := sampleFacts(t), sampleFacts(t)
	delete(a.Content, "/etc/machine-id")
	delete(a.Content, "/etc/ssh/ssh_host_rsa_key")
	b.Content = Class{"/etc/fstab": a.Content["/etc/fstab"], "/etc/a b": a.Content["/etc/a b"], "/etc/.updated": "b"}
	a.Content["/etc/.updated"] = "a"
	a.Mounts["/proc/sys/fs/binfmt_misc"] = strings.Replace(auto, "536", "99", 1)
	b.Mounts["/proc/sys/fs/binfmt_misc"] = auto + "; binfmt_misc binfmt_misc rw,nosuid"
	a.Blocks["loop0"] = "type=loop size=521142272 fstype=iso9660 label=SCI_LAB_TRIXIE pttype=dos mountpoint=/media/sci"
	b.Blocks["loop0"] = "type=loop size=421142272 fstype=iso9660 label=SCI_IMAGE pttype=dos mountpoint=/media/sci"
	list := Compare(a, b)
	if len(list) != 3 {
		t.Errorf("%d differences; want 3: %v", len(list), list)
	}
	for _, d := range list {
		if d.Expected == "" {
			t.Errorf("not expected: %v", d)
		}
	}
}

// Two machines with the same keys are one image's fault.
func TestCompareShared(t *testing.T) {
	a := sampleFacts(t)
	var got []string
	for _, d := range Compare(a, sampleFacts(t)) {
		got = append(got, d.Class+": "+d.Name)
	}
	want := []string{"the same on both machines: /etc/machine-id", "the same on both machines: /etc/ssh/ssh_host_rsa_key"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("differences (-want +got):\n%s", d)
	}
}

// The site file may differ by what it says of the way of the installation.
func TestCompareSite(t *testing.T) {
	a, b := sampleFacts(t), sampleFacts(t)
	a.Content, b.Content = Class{"/etc/sci/site.json": "a", "/etc/sci/host": "a"}, Class{"/etc/sci/site.json": "b", "/etc/sci/host": "a"}
	if list := Compare(a, b); len(list) != 1 || list[0].Expected == "" {
		t.Errorf("Compare = %v; want one expected difference", list)
	}
	b.Site = "other"
	if list := Compare(a, b); len(list) != 1 || list[0].Expected != "" {
		t.Errorf("Compare = %v; want one difference", list)
	}
	b.Site, b.Host = a.Site, "node2"
	b.Content["/etc/sci/host"] = "b"
	for _, d := range Compare(a, b) {
		if d.Expected == "" {
			t.Errorf("two hosts: %v", d)
		}
	}
}

// Two media of one site carry other credentials; that one carries none differs.
func TestCompareCredential(t *testing.T) {
	a, b := sampleFacts(t), sampleFacts(t)
	const file = "/etc/sci/enrol.json"
	a.Content, b.Content = Class{file: "a"}, Class{file: "b"}
	a.Etc[file], b.Etc[file] = "file 0600 root:root", "file 0600 root:root"
	if list := Compare(a, b); len(list) != 1 || list[0].Expected == "" {
		t.Errorf("Compare = %v; want one expected difference", list)
	}
	delete(b.Content, file)
	delete(b.Etc, file)
	if list := Compare(a, b); len(list) != 1 || list[0].Expected != "" {
		t.Errorf("Compare = %v; want one difference", list)
	}
}

// The report shows both kinds of differences, each in its place.
func TestRunCompare(t *testing.T) {
	like := sampleFacts(t)
	r := &run{o: Options{Like: "dir"}, report: &Report{}, like: &like}
	r.compare(sampleFacts(t, "shadow", "20414", "20500", "cmdline", " ro ", " ", "sums", "  /etc/machine-id", "  /etc/x", "sums", "  /etc/ssh/ssh_host_rsa_key", "  /etc/y"))
	if len(r.report.Checks) != 1 || r.report.Checks[0].Name != "the same machine as in dir" {
		t.Fatalf("checks = %v", r.report.Checks)
	}
	c := r.report.Checks[0]
	if c.Problem != "1 differences: kernel command line ro: none; there yes" || c.Output != "kernel command line ro: none; there yes" {
		t.Errorf("problem %q, output %q", c.Problem, c.Output)
	}
	if len(r.report.Accepted) != 2 {
		t.Errorf("accepted = %v; want the days of two accounts", r.report.Accepted)
	}
}

func FuzzParseFacts(f *testing.F) {
	f.Add([]byte("host 0 6 0\nnode1\n"))
	f.Add([]byte("debconf 0 12 0\nName: a\n b\n\netc 0 3 0\n\x00\n\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		if facts, err := parseFacts(b.Bytes()); err == nil {
			Compare(facts, facts)
		}
	})
}

func TestFlipBit(t *testing.T) {
	dir := t.TempDir()
	tr := &tree.Tree{}
	for name, data := range map[string][]byte{
		"sci/node/base.tar.zst": bytes.Repeat([]byte("image"), 1000), "sci/node/image.json": []byte("{}"), "sci/empty": nil, "a": []byte("x"),
	} {
		if err := tr.AddBytes(name, 0o644, data); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(dir, "a.iso")
	file, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	_, err = iso.Write(context.Background(), file, tr, iso.Options{VolumeID: "TEST", Time: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)})
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "b.iso")
	if name, err := FlipBit(image, "sci/*/base.tar.zst", out); err != nil || name != "sci/node/base.tar.zst" {
		t.Fatalf("FlipBit = %q, %v", name, err)
	}
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	bits := 0
	for i := range before {
		for x := before[i] ^ after[i]; x != 0; x &= x - 1 {
			bits++
		}
	}
	if len(before) != len(after) || bits != 1 {
		t.Errorf("%d bits of %d and %d bytes differ; want 1", bits, len(before), len(after))
	}
	img, err := iso.Open(bytes.NewReader(after), int64(len(after)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := fs.ReadFile(img.FS(), "sci/node/base.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	if want := bytes.Repeat([]byte("image"), 1000); data[2500] != want[2500]^1 {
		t.Errorf("the middle byte is %q", data[2500])
	}
	for pattern, want := range map[string]string{
		"none":      "the image has no such file",
		"sci/*/*":   `the image has several: ["sci/node/base.tar.zst" "sci/node/image.json"]`,
		"sci/empty": "the file is empty",
		"sci":       "not a regular file",
		"[":         "syntax error in pattern",
	} {
		if _, err := FlipBit(image, pattern, filepath.Join(dir, "c.iso")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("FlipBit(%q): %v; want %s", pattern, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "c.iso")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed FlipBit leaves a file: %v", err)
	}
}
