package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/run"
	"github.com/skycover/sci-cd/pkg/site"
)

const sciName = "sci.lab.example"

// ganetiWorld is a cluster as its commands show it.
type ganetiWorld struct {
	t        *testing.T
	node     *Node
	instance string // the line of gnt-instance list without the name; "" for none
	job      string // the status of the job that makes it; "" for none
	end      string // what it becomes while somebody waits
	left     string // a volume that a creation left on node2
	serial   int
	behind   bool // node2 did not hear of the last change
	calls    []string
	fail     string // the command that fails, by its begin
}

func newGanetiWorld(t *testing.T, nodes ...string) *ganetiWorld {
	t.Helper()
	w := &ganetiWorld{t: t, serial: 7}
	s, err := site.FromJSON([]byte(clusterSite))
	if err != nil {
		t.Fatal(err)
	}
	w.node = &Node{Root: t.TempDir(), Runner: w, Site: s, Journal: t.Output(), Pause: time.Millisecond}
	w.node.Host, _ = s.Host("node1")
	w.put("var/lib/ganeti/ssconf_master_node", "node1.lab.example\n")
	w.put("var/lib/ganeti/ssconf_cluster_name", "cluster.lab.example\n")
	w.put("sys/class/net/lan/bridge/stp_state", "0\n")
	w.put("var/lib/ganeti/config.data", w.config(nodes...))
	return w
}

func (w *ganetiWorld) put(name, data string) {
	w.t.Helper()
	if err := writeFile(w.node.path(name), []byte(data), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *ganetiWorld) config(nodes ...string) string {
	var list []string
	for _, n := range append([]string{"node1"}, nodes...) {
		name, offline, _ := strings.Cut(n, " ")
		list = append(list, fmt.Sprintf(`"u-%s": {"name": "%s.lab.example", "master_candidate": true, "offline": %t}`, name, name, offline != ""))
	}
	return fmt.Sprintf(`{"serial_no": %d, "cluster": {"cluster_name": "cluster.lab.example"}, "nodes": {%s}}`, w.serial, strings.Join(list, ","))
}

// Run does what the command would do.
func (w *ganetiWorld) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	line := strings.Join(c.Argv, " ")
	if c.Argv[0] == "ssh" {
		line = "node2: " + c.Argv[len(c.Argv)-1]
	}
	w.calls = append(w.calls, line)
	if w.fail != "" && strings.HasPrefix(line, w.fail) {
		return nil, &run.Error{Argv: c.Argv, Err: errors.New("exit status 1")}
	}
	out := ""
	switch {
	case strings.HasPrefix(line, "gnt-instance list "):
		out = "other.lab.example|running|up|web\n"
		if w.instance != "" {
			out += sciName + "|" + w.instance + "\n"
		}
	case strings.HasPrefix(line, "gnt-job list "):
		out = "1|success|CLUSTER_VERIFY\n2|error|INSTANCE_CREATE(other.lab.example)\n"
		if w.job != "" {
			out += "3|" + w.job + "|INSTANCE_CREATE(" + sciName + ")\n"
		}
	case line == "gnt-job wait 3":
		w.job, w.instance = "error", w.end
		if strings.HasPrefix(w.end, "running") {
			w.job = "success"
		}
	case strings.HasPrefix(line, "gnt-instance add-tags "):
		w.instance += "," + readyTag
	case strings.HasPrefix(line, "gnt-instance remove-tags "):
		w.instance = strings.ReplaceAll(w.instance, makingTag+",", "")
	case strings.HasPrefix(line, "gnt-instance add "):
		w.instance = "running|up|" + makingTag
	case strings.HasPrefix(line, "gnt-instance remove "):
		w.instance = ""
	case strings.HasPrefix(line, "gnt-instance startup "):
		w.instance = strings.Replace(w.instance, "ERROR_down|", "running|", 1)
	case line == "gnt-cluster redist-conf":
		w.behind = false
	case strings.HasPrefix(line, "node2: cat "):
		if w.behind {
			w.serial--
			defer func() { w.serial++ }()
		}
		out = w.config("node2")
	case strings.HasPrefix(line, "node2: lvs "):
		out = "  root|\n" + w.left
	case strings.HasPrefix(line, "node2: lvremove "):
		w.left = ""
	case strings.HasPrefix(line, "lvs "), strings.HasPrefix(line, "node2: drbdsetup "):
	default:
		w.t.Errorf("unexpected command %q", line)
	}
	return []byte(out), nil
}

// changes are the commands that change something.
func (w *ganetiWorld) changes() []string {
	return slices.DeleteFunc(slices.Clone(w.calls), func(l string) bool {
		return strings.Contains(l, " list ") || strings.Contains(l, "lvs ") || strings.Contains(l, "node2: cat") || l == "gnt-cluster redist-conf"
	})
}

const addLine2 = "gnt-instance add --disk-template=drbd --node=node1.lab.example:node2.lab.example --os-type=sci+service --disk=0:size=20480M " +
	"--backend-parameters=maxmem=2048M,minmem=2048M,vcpus=1 --hypervisor-parameters=kvm:boot_order=disk --no-wait-for-sync --net=0:link=lan,ip=127.50.0.20 --tags=sci:making " + sciName

// TestService: whatever a creation left, the machine runs at the end, and none
// that ever ran is removed.
func TestService(t *testing.T) {
	mark := []string{"gnt-instance add-tags " + sciName + " sci:ready", "gnt-instance remove-tags " + sciName + " sci:making"}
	remove := "gnt-instance remove --force --ignore-failures --shutdown-timeout=0 " + sciName
	leftover := "  0a-1b.disk0_data|originstname+" + sciName + "\n  0a-1c.disk0_data|originstname+other.lab.example\n"
	tests := []struct {
		summary, instance, job, end, left string
		want                              []string
	}{
		{"nothing is there", "", "", "", "", append([]string{addLine2}, mark...)},
		{"a cut before Ganeti knew of it", "", "error", "", leftover, append([]string{
			"node2: drbdsetup show", "node2: lvremove --yes --force xenvg/0a-1b.disk0_data", addLine2}, mark...)},
		{"a cut in the installation", "ADMIN_down|down|sci:making", "error", "", "", append([]string{remove, addLine2}, mark...)},
		{"a cut, and the queue has forgotten", "ADMIN_down|down|sci:making", "", "", "", append([]string{remove, addLine2}, mark...)},
		{"the job goes on and fails", "ADMIN_down|down|sci:making", "running", "ADMIN_down|down|sci:making", "", append([]string{"gnt-job wait 3", remove, addLine2}, mark...)},
		{"the job goes on and succeeds", "ADMIN_down|down|sci:making", "running", "running|up|sci:making", "", append([]string{"gnt-job wait 3"}, mark...)},
		{"a cut after the installation", "ERROR_down|up|sci:making", "error", "", "", append([]string{"gnt-instance startup " + sciName}, mark...)},
		{"a cut between the two marks", "running|up|sci:making,sci:ready", "success", "", "", mark[1:]},
		{"it was ready, and is down", "ERROR_down|up|sci:ready", "", "", "", []string{"gnt-instance startup " + sciName}},
		{"the admin's own, not begun by the agent", "ADMIN_down|down|mine", "error", "", "", mark[:1]},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			w := newGanetiWorld(t, "node2")
			w.instance, w.job, w.end, w.left, w.behind = test.instance, test.job, test.end, test.left, true
			step := w.node.serviceStep()
			if done, err := step.Done(t.Context()); done || err != nil {
				t.Fatalf("before: serviceDone = %t, %v", done, err)
			}
			w.calls = nil
			if err := step.Do(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, w.changes()); diff != "" {
				t.Errorf("commands (-want +got):\n%s", diff)
			}
			if done, err := step.Done(t.Context()); !done || err != nil {
				t.Errorf("after: serviceDone = %t, %v; instance %q", done, err, w.instance)
			}
		})
	}
}

// TestServiceFails: what fails is done again from what it left.
func TestServiceFails(t *testing.T) {
	w := newGanetiWorld(t, "node2")
	w.fail = "gnt-instance add "
	if err := w.node.serviceDo(t.Context()); err == nil {
		t.Fatal("serviceDo says nothing of a failed gnt-instance add")
	}
	w.fail, w.instance, w.job = "", "ADMIN_down|down|sci:making", "error"
	if err := w.node.serviceDo(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.behind = true
	if done, err := w.node.serviceDone(t.Context()); done || err != nil {
		t.Errorf("serviceDone = %t, %v while a candidate has an old configuration", done, err)
	}
}

func TestServiceDoneElsewhere(t *testing.T) {
	w := newGanetiWorld(t, "node2")
	w.put("var/lib/ganeti/ssconf_master_node", "node2.lab.example\n")
	if done, err := w.node.serviceDone(t.Context()); !done || err != nil || len(w.calls) > 0 {
		t.Errorf("on another node than the master: serviceDone = %t, %v after %q", done, err, w.calls)
	}
	w = newGanetiWorld(t, "node2")
	w.instance = "ADMIN_down|down|sci:ready"
	if done, err := w.node.serviceDone(t.Context()); !done || err != nil {
		t.Errorf("shut down by an admin: serviceDone = %t, %v", done, err)
	}
}

func TestServiceNodes(t *testing.T) {
	w := newGanetiWorld(t)
	if got, err := w.node.serviceNodes(); err != nil || !slices.Equal(got, []string{"node1.lab.example"}) {
		t.Errorf("a cluster of one node: %q, %v", got, err)
	}
	w = newGanetiWorld(t, "node2 offline")
	var wait *Waiting
	if got, err := w.node.serviceNodes(); !errors.As(err, &wait) {
		t.Errorf("the other node is offline: %q, %v; want to wait", got, err)
	}
	w = newGanetiWorld(t, "nodeX", "node2")
	if got, err := w.node.serviceNodes(); err != nil || got[1] != "node2.lab.example" {
		t.Errorf("more nodes: %q, %v; want the site file's", got, err)
	}
}
