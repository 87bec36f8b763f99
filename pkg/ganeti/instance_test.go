package ganeti

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestInstance(t *testing.T) {
	f := &fake{answer: func(string) (string, error) {
		return "sci.lab.example|running|up|sci:making,web\nweb.lab.example|ADMIN_down|down|\n", nil
	}}
	c := newCluster(t, f, nil)
	got, err := c.Instance(t.Context(), "sci.lab.example")
	want := &Status{Name: "sci.lab.example", Condition: Running, Up: true, Tags: []string{"sci:making", "web"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Instance (-want +got):\n%s%v", diff, err)
	}
	if !got.Tagged("sci:making") || got.Tagged("sci") {
		t.Error("Tagged takes a part of a tag for the tag")
	}
	if got, err := c.Instance(t.Context(), "sci"); got != nil || err != nil {
		t.Errorf("Instance of an unknown name = %v, %v", got, err)
	}
	f.answer = func(string) (string, error) { return "what|is this\n", nil }
	if _, err := c.Instance(t.Context(), "sci.lab.example"); err == nil {
		t.Error("Instance takes an output that it does not know")
	}
}

func TestAddInstance(t *testing.T) {
	f := &fake{}
	c := newCluster(t, f, nil)
	i := NewInstance{Name: "sci.lab.example", OS: "sci+service", Nodes: []string{"node1.lab.example"}, Memory: 1536, Disk: 6144, CPUs: 2,
		NICs: []NIC{{Link: "lan", IP: "192.168.50.20"}, {Link: "backbone"}}}
	if err := c.AddInstance(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	want := "gnt-instance add --disk-template=plain --node=node1.lab.example --os-type=sci+service --disk=0:size=6144M" +
		" --backend-parameters=maxmem=1536M,minmem=1536M,vcpus=2 --hypervisor-parameters=kvm:boot_order=disk --no-wait-for-sync" +
		" --net=0:link=lan,ip=192.168.50.20 --net=1:link=backbone sci.lab.example"
	if f.calls[0] != want {
		t.Errorf("AddInstance ran\n%s\nwant\n%s", f.calls[0], want)
	}
}

func TestCreation(t *testing.T) {
	f := &fake{answer: func(string) (string, error) {
		return "3|error|INSTANCE_CREATE(sci.lab.example)\n9|success|INSTANCE_CREATE(sci2.lab.example)\n12|waiting|INSTANCE_CREATE(sci.lab.example)\n13|success|TAGS_SET\n", nil
	}}
	c := newCluster(t, f, nil)
	got, err := c.Creation(t.Context(), "sci.lab.example")
	if diff := cmp.Diff(&Job{ID: "12", Status: "waiting"}, got); diff != "" || err != nil || !got.Open() {
		t.Errorf("Creation (-want +got):\n%s%v", diff, err)
	}
	if got, err := c.Creation(t.Context(), "web.lab.example"); got != nil || err != nil {
		t.Errorf("Creation of another = %v, %v", got, err)
	}
	f.answer = func(line string) (string, error) { return "", errors.New("exit status 1") }
	if err := c.AwaitJob(t.Context(), "12"); err != nil {
		t.Errorf("AwaitJob of a job that failed: %v", err)
	}
}

// drbdShow is what drbdsetup show prints.
const drbdShow = `resource "resource0" {
    options {
    }
    _this_host {
        volume 0 {
            device			minor 0;
            disk			"/dev/xenvg/aa-1.disk0_data";
            meta-disk			"/dev/xenvg/aa-1.disk0_meta";
        }
    }
}
resource resource1 {
    _this_host {
        volume 0 {
            disk			"/dev/xenvg/bb-2.disk0_data";
        }
    }
}
`

func TestLeftovers(t *testing.T) {
	f := &fake{answer: func(line string) (string, error) {
		switch {
		case strings.Contains(line, "lvs --noheadings '--separator=|' --options=lv_name,lv_tags xenvg"):
			return "  root|\n  aa-1.disk0_data|originstname+sci.lab.example\n  aa-1.disk0_meta|originstname+sci.lab.example\n" +
				"  bb-2.disk0_data|originstname+sci.lab.example.org\n  x;y.disk0|originstname+sci.lab.example\n", nil
		case strings.HasSuffix(line, "drbdsetup show"):
			return drbdShow, nil
		}
		return "", nil
	}}
	c := newCluster(t, f, map[string]string{DataDir + "/ssconf_cluster_name": "cluster.lab.example\n"})
	got, err := c.Leftovers(t.Context(), "node2.lab.example", "xenvg", "sci.lab.example")
	want := []string{"aa-1.disk0_data", "aa-1.disk0_meta"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("Leftovers (-want +got):\n%s%v", diff, err)
	}
	f.calls = nil
	if err := c.RemoveLeftovers(t.Context(), "node2.lab.example", "xenvg", got); err != nil {
		t.Fatal(err)
	}
	var tails []string
	for _, l := range f.calls {
		_, tail, _ := strings.Cut(l, "root@node2.lab.example ")
		tails = append(tails, tail)
	}
	want = []string{"drbdsetup show", "drbdsetup down resource0", "lvremove --yes --force xenvg/aa-1.disk0_data xenvg/aa-1.disk0_meta"}
	if diff := cmp.Diff(want, tails); diff != "" {
		t.Errorf("RemoveLeftovers (-want +got):\n%s", diff)
	}
	if _, err := c.on(t.Context(), "node2.lab.example", "lvremove", "a b"); err == nil {
		t.Error("an argument with a space goes to a shell")
	}
}
