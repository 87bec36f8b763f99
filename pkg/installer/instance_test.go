package installer

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

const instanceSite = `{
  "apiVersion": "sci-cd/v1", "name": "lab", "domain": "lab.example", "release": "trixie",
  "root": {"passwordHash": "$6$abcdefgh$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
  "networks": {"backbone": {"subnet": "10.101.200.0/24"}, "lan": {"subnet": "192.168.50.0/24"}},
  "cluster": {"name": "cluster", "address": "192.168.50.10"},
  "hosts": [
    {"name": "node1", "role": "node", "match": {"serial": "SN-1"}, "addresses": {"lan": "192.168.50.11"}},
    {"name": "sci", "role": "service", "virtual": true, "addresses": {"lan": "192.168.50.20"}},
    {"name": "web", "role": "web", "virtual": true, "profiles": ["extra"], "addresses": {"lan": "192.168.50.21"}}
  ]
}`

// instanceNode is a node as far as the scripts look at it.
func instanceNode(t *testing.T) OSOptions {
	t.Helper()
	o := OSOptions{Root: t.TempDir()}.withDefaults()
	if err := writeFile(o.path(nodeSiteFile), []byte(instanceSite), 0o600); err != nil {
		t.Fatal(err)
	}
	return o
}

// ganetiEnv is the environment of a script, as OSEnvironment of Ganeti 3.1
// (lib/backend.py) makes it.
func ganetiEnv(more ...string) []string {
	return append([]string{"OS_API_VERSION=20", "OS_NAME=sci", "OS_VARIANT=instance", "INSTANCE_NAME=db.lab.example", "INSTANCE_OS=sci+instance",
		"HYPERVISOR=kvm", "DISK_COUNT=2", "DISK_0_PATH=/dev/drbd0", "DISK_0_ACCESS=rw", "DISK_1_PATH=/dev/drbd1",
		"NIC_COUNT=3", "NIC_0_MAC=aa:00:00:01:02:03", "NIC_0_IP=192.168.50.31", "NIC_0_LINK=lan", "NIC_0_BRIDGE=lan",
		"NIC_1_MAC=aa:00:00:01:02:04", "NIC_1_IP=10.101.200.31", "NIC_1_LINK=backbone", "NIC_2_MAC=aa:00:00:01:02:05", "NIC_2_LINK=dmz"}, more...)
}

func TestReadInstance(t *testing.T) {
	in, err := readInstance(ganetiEnv("OLD_INSTANCE_NAME=old.lab.example", "EXPORT_DEVICE=/dev/xenvg/snap", "EXPORT_INDEX=1"))
	if err != nil {
		t.Fatal(err)
	}
	if in.name != "db.lab.example" || in.old != "old.lab.example" || in.class != "instance" || in.device != "/dev/xenvg/snap" || in.index != 1 {
		t.Errorf("readInstance = %+v", in)
	}
	if disk, err := in.systemDisk(); disk != "/dev/drbd0" || err != nil {
		t.Errorf("systemDisk = %q, %v", disk, err)
	}
	if len(in.nics) != 3 || in.nics[0].ip.String() != "192.168.50.31" || in.nics[2].ip.IsValid() || in.nics[2].link != "dmz" {
		t.Errorf("nics = %+v", in.nics)
	}
	for _, bad := range []string{"DISK_COUNT=many", "NIC_COUNT=-1", "NIC_1_IP=here", "NIC_COUNT=9999", "IMPORT_INDEX=x"} {
		if _, err := readInstance(ganetiEnv(bad, "IMPORT_DEVICE=/dev/null")); err == nil {
			t.Errorf("readInstance takes %s", bad)
		}
	}
	if in, err := readInstance([]string{"DISK_COUNT=1"}); err != nil {
		t.Error(err)
	} else if _, err := in.systemDisk(); err == nil {
		t.Error("a disk without a path is a disk")
	}
}

func TestVerifyInstance(t *testing.T) {
	o := instanceNode(t)
	for _, test := range []struct {
		summary string
		environ []string
		want    string // in the error; "" for none
	}{
		{"what Ganeti calls it with", []string{"OS_NAME=sci", "OS_VARIANT=service"}, ""},
		{"a class of several profiles", []string{"OS_VARIANT=web+extra"}, ""},
		{"nodes are no virtual machines", []string{"OS_VARIANT=node"}, `no virtual machines of class "node"`},
		{"out of the directory", []string{"OS_VARIANT=../x"}, "no virtual machines"},
		{"a parameter", []string{"OS_VARIANT=service", "OSP_SIZE=1"}, "no parameter size"},
	} {
		o.Environ = test.environ
		err := RunOS(t.Context(), "verify", o)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", test.summary, err, test.want)
		}
		if err != nil && hint.Of(err) == "" {
			t.Errorf("%s: no advice", test.summary)
		}
	}
	if err := RunOS(t.Context(), "destroy", o); err == nil {
		t.Error("RunOS does what it does not know")
	}
}

// TestInstanceHost: what a machine is told of the site, and who may not be made.
func TestInstanceHost(t *testing.T) {
	o := instanceNode(t)
	s, err := nodeSite(o)
	if err != nil {
		t.Fatal(err)
	}
	host := func(env ...string) (*site.Site, *site.Host, error) {
		in, err := readInstance(ganetiEnv(env...))
		if err != nil {
			t.Fatal(err)
		}
		return instanceHost(s, in)
	}
	with, h, err := host()
	if err != nil {
		t.Fatal(err)
	}
	if h.Name != "db" || h.Role != site.InstanceRole || !h.Virtual || h.Addresses["lan"].String() != "192.168.50.31" || h.Addresses["backbone"].String() != "10.101.200.31" {
		t.Errorf("host = %+v", h)
	}
	data, err := with.JSON()
	if err != nil || bytes.Contains(data, []byte("$6$")) || len(with.Hosts) != 4 || len(s.Hosts) != 3 {
		t.Errorf("the site of the machine has %d hosts, the node's has %d, or root's password is in it: %v\n%s", len(with.Hosts), len(s.Hosts), err, data)
	}
	if _, h, err := host("NIC_0_IP=", "NIC_1_IP="); err != nil || len(h.Addresses) != 0 {
		t.Errorf("a machine without an address: %+v, %v", h, err)
	}
	if _, h, err := host("INSTANCE_NAME=sci.lab.example", "OS_VARIANT=service"); err != nil || h.Addresses["lan"].String() != "192.168.50.20" {
		t.Errorf("the service machine: %+v, %v", h, err)
	}
	if _, h, err := host("OS_VARIANT=web+extra"); err != nil || h.Class() != "web+extra" {
		t.Errorf("another machine of a class of the site: %+v, %v", h, err)
	}
	for _, test := range []struct {
		summary, want string
		env           []string
	}{
		{"an address that another has", "is the address of", []string{"NIC_0_IP=192.168.50.11"}},
		{"an address of another network", "is outside the network lan", []string{"NIC_0_IP=10.1.1.1"}},
		{"another domain", "is not NAME.lab.example", []string{"INSTANCE_NAME=db.example.org"}},
		{"a name below a name", "is not NAME.lab.example", []string{"INSTANCE_NAME=a.db.lab.example"}},
		{"the name of a node", "has a host node1", []string{"INSTANCE_NAME=node1.lab.example"}},
		{"the service machine as another class", "has a host sci", []string{"INSTANCE_NAME=sci.lab.example"}},
		{"a second service machine", "is not the site's service machine", []string{"OS_VARIANT=service"}},
	} {
		if _, _, err := host(test.env...); err == nil || !strings.Contains(err.Error(), test.want) || hint.Of(err) == "" {
			t.Errorf("%s: %v; want %q and advice", test.summary, err, test.want)
		}
	}
}

func TestDiskRecipe(t *testing.T) {
	for _, test := range []struct{ disk, swap int64 }{{3 << 30, 192 * mib}, {6 << 30, 384 * mib}, {1 << 40, 1 << 30}} {
		r := diskRecipe(test.disk)
		if problems := r.check(); len(problems) > 0 {
			t.Errorf("%d: %q", test.disk, problems)
		}
		l, err := r.Plan(Disk{Path: "/dev/loop0", Size: test.disk, Sector: sector})
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Partitions[swapPartition-1].Size; got != test.swap {
			t.Errorf("swap of a disk of %d is %d; want %d", test.disk, got, test.swap)
		}
		if p := l.Partitions[rootPartition-1]; p.Mount != "/" || len(l.Volumes) > 0 {
			t.Errorf("the last partition is %+v, volumes %v", p, l.Volumes)
		}
	}
}

func TestExportHead(t *testing.T) {
	var b bytes.Buffer
	want := exportHead{Content: tarContent, Size: 6 << 30, Root: "r-1", Swap: "s-2"}
	if err := want.write(&b); err != nil {
		t.Fatal(err)
	}
	b.WriteString("and the tar\n")
	r := bufio.NewReaderSize(&b, maxHead)
	got, err := readHead(r)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("readHead (-want +got):\n%s%v", diff, err)
	}
	if rest, _ := r.ReadString('\n'); rest != "and the tar\n" {
		t.Errorf("behind the head is %q", rest)
	}
	for _, bad := range []string{"", "\x1f\x8b\n", exportMagic + "{}\n", exportMagic + "x\n", exportMagic + `{"content":"tar","size":0}` + "\n", strings.Repeat("x", 2*maxHead)} {
		if _, err := readHead(bufio.NewReaderSize(strings.NewReader(bad), maxHead)); err == nil {
			t.Errorf("readHead takes %.20q", bad)
		}
	}
	fstab := "UUID=r-1 / ext4\nUUID=s-2 none swap\nUUID=other /data ext4\n"
	if got := renamed(fstab, map[string]string{"r-1": "r-9", "s-2": "s-9", "": "x"}); got != "UUID=r-9 / ext4\nUUID=s-9 none swap\nUUID=other /data ext4\n" {
		t.Errorf("renamed = %q", got)
	}
}

// TestChallenge: the service machine gets the key, others their challenge alone,
// and a node without a key makes machines all the same.
func TestChallenge(t *testing.T) {
	o := instanceNode(t)
	var said bytes.Buffer
	o.Console = &said
	s, err := nodeSite(o)
	if err != nil {
		t.Fatal(err)
	}
	c := &chroot{o: Options{Target: t.TempDir()}.withDefaults()}
	if err := c.write("/etc/group", "root:x:0:\npuppet:x:"+strconv.Itoa(os.Getgid())+":\n", 0o644); err != nil {
		t.Fatal(err)
	}
	web, _ := s.Host("web")
	if err := c.challenge(o, s, web); err != nil || !strings.Contains(said.String(), "no key for Puppet") {
		t.Errorf("without a key: %v, %q", err, said.String())
	}
	key := enrol.ChallengeKey{1, 2, 3}
	if err := writeFile(o.path(enrol.ChallengeKeyFile), []byte(key.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.challenge(o, s, web); err != nil {
		t.Fatal(err)
	}
	file := func(name string) (string, os.FileMode) {
		info, err := os.Stat(filepath.Join(c.o.Target, name))
		if err != nil {
			return "", 0
		}
		data, _ := os.ReadFile(filepath.Join(c.o.Target, name))
		return string(data), info.Mode()
	}
	if got, mode := file(enrol.ChallengeFile); got != key.Challenge("web.lab.example")+"\n" || mode != 0o600 {
		t.Errorf("challenge %v %q", mode, got)
	}
	if got, _ := file(enrol.ChallengeKeyFile); got != "" {
		t.Error("a machine that is not the service machine has the key")
	}
	if err := c.challenge(o, s, s.Service()); err != nil {
		t.Fatal(err)
	}
	if got, mode := file(enrol.ChallengeKeyFile); got != key.String()+"\n" || mode != 0o640 {
		t.Errorf("key of the service machine: %v, %d bytes", mode, len(got))
	}
}
