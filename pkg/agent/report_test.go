package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/run"
)

const reportConfig = `{"serial_no": 42, "cluster": {"cluster_name": "cluster.lab.example", "master_node": "u1"},
  "nodes": {"u1": {"name": "node1.lab.example", "primary_ip": "192.168.50.11", "secondary_ip": "10.101.200.11", "master_candidate": true},
    "u2": {"name": "node2.lab.example", "primary_ip": "192.168.50.12", "secondary_ip": "10.101.200.12", "master_candidate": true},
    "u3": {"name": "node3.lab.example", "primary_ip": "192.168.50.13", "secondary_ip": "192.168.50.13", "master_candidate": true, "drained": true}},
  "instances": {"i1": {"name": "web.lab.example", "primary_node": "u1", "admin_state": "up", "disks": ["d1"]}},
  "disks": {"d1": {"dev_type": "drbd", "logical_id": ["u1", "u2", 11000, 0, 12, "secret"]}}}`

// reportFiles are those of a node of the cluster.
func reportFiles(host string) map[string]string {
	dir := "var/lib/ganeti/"
	return map[string]string{
		StateFile: `{"format": 1, "state": "ready", "host": "` + host + `.lab.example", "role": "node", "since": "2026-11-22T12:00:09Z",
  "steps": [{"name": "verify", "state": "ok", "tries": 1, "finished": "2026-11-22T12:00:01Z"}]}`,
		dir + "ssconf_cluster_name":       "cluster.lab.example\n",
		dir + "ssconf_master_node":        "node1.lab.example\n",
		dir + "ssconf_node_list":          "node1.lab.example\nnode2.lab.example\nnode3.lab.example\n",
		dir + "ssconf_node_primary_ips":   "node1.lab.example 192.168.50.11\nnode2.lab.example 192.168.50.12\n",
		dir + "ssconf_node_secondary_ips": "node1.lab.example 10.101.200.11\nnode2.lab.example 10.101.200.12\n",
		dir + "ssconf_master_candidates":  "node1.lab.example\nnode2.lab.example\n",
		dir + "ssconf_offline_nodes":      "node2.lab.example\n",
		dir + "ssconf_instance_list":      "web.lab.example\n",
		dir + "config.data":               reportConfig,
		"usr/bin/chronyc":                 "",
		drbdProc:                          drbdHead + drbdConnected + drbdSource + drbdNone,
	}
}

// answers is a runner that knows what each program says.
type answers map[string]func(context.Context) (string, error)

func (a answers) Run(ctx context.Context, c run.Cmd) ([]byte, error) {
	f := a[c.Argv[0]]
	if f == nil {
		return nil, &run.Error{Argv: c.Argv, Err: errors.New("executable file not found in $PATH")}
	}
	out, err := f(ctx)
	return []byte(out), err
}

func says(text string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return text, nil }
}

func healthy() answers {
	return answers{
		"vgs":     says("  107374182400 64424509440\n"),
		"chronyc": says("C0A83201,192.168.50.1,3,1763812809.1234,-0.000012500,0.00001,0.00002,-3.1,0.002,0.1,0.02,0.001,64.2,Normal\n"),
	}
}

func reportRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, data := range files {
		if err := writeFile(filepath.Join(root, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// dialReport has node1 answer, node2 refuse and node3 say nothing.
func dialReport(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	switch to.String() {
	case "192.168.50.11:1811":
		c, _ := net.Pipe()
		return c, nil
	case "192.168.50.12:1811":
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}}
	}
	<-ctx.Done()
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
}

func reportText(t *testing.T, o ReportOptions) (human, document string) {
	t.Helper()
	r, err := ReadReport(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var h, d bytes.Buffer
	if err := errors.Join(r.Print(&h), r.PrintJSON(&d)); err != nil {
		t.Fatal(err)
	}
	return h.String(), d.String()
}

func wantText(t *testing.T, what, want, got string) {
	t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestReportMaster(t *testing.T) {
	files := reportFiles("node1")
	root := reportRoot(t, files)
	up := func() (string, time.Duration, error) { return "b00t", time.Hour, nil }
	w := newLab(t) // for a credential
	credential, err := enrol.ReadCredential(w.nodes["node1"].path(enrol.File))
	if err != nil {
		t.Fatal(err)
	}
	_, err = enrol.OpenLedger(filepath.Join(root, enrol.LedgerFile), enrol.LedgerOptions{Credential: &credential, Uptime: up,
		Hosts: []enrol.Host{{Name: "node4", FQDN: "node4.lab.example", Addresses: []netip.Addr{netip.MustParseAddr("192.168.50.14")}}}})
	if err != nil {
		t.Fatal(err)
	}
	// One that the ledger has no credential for: of a cluster that was taken over.
	_, err = enrol.OpenLedger(filepath.Join(root, enrol.LedgerFile), enrol.LedgerOptions{Uptime: up,
		Hosts: []enrol.Host{{Name: "node2", FQDN: "node2.lab.example"}, {Name: "node5", FQDN: "node5.lab.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		human, document := reportText(t, ReportOptions{Root: root, Runner: healthy(), Ask: true, Superuser: true, Dial: dialReport, Uptime: up})
		if took := time.Since(start); took != nodeLimit {
			t.Errorf("it took %v; want the time of one node that says nothing, %v", took, nodeLimit)
		}
		wantText(t, "for people", `node1.lab.example (role node): ready since 2026-11-22 12:00:09Z

STEP    STATE  TRIES  STARTED  FINISHED
verify  ok     1      -        2026-11-22 12:00:01Z

Cluster cluster.lab.example: master node1.lab.example; this machine: master; 1 instance; configuration 42

NODE               ADDRESS        REPLICATION    ROLE       NODE DAEMON
node1.lab.example  192.168.50.11  10.101.200.11  master     answers
node2.lab.example  192.168.50.12  10.101.200.12  candidate  NO ANSWER: connection refused
node3.lab.example  192.168.50.13  -              drained    NO ANSWER: no answer within 2s

Not in the cluster yet:
  node4: may join within 23h0m0s of running
  node5: its time to join is over; when it is there: sci-agent join node5

DRBD 8.4.11: 2 disks mirrored: 1 UpToDate, 1 being synchronised

MINOR  INSTANCE         CONNECTION    ROLE/PEER          DISK/PEER              DIFFERS BY  PROGRESS
0      web.lab.example  Connected     Primary/Secondary  UpToDate/UpToDate      0           -
1      -                SyncSource    Primary/Secondary  UpToDate/Inconsistent  707.1 MiB   11.9 %, 35s left
12     -                Unconfigured  -                  -                      -           -

Volume group xenvg: 100.0 GiB, 60.0 GiB of them free
Time: 0.000013 s fast of 192.168.50.1 (stratum 3)
`, human)
		var keys map[string]json.RawMessage
		if err := json.Unmarshal([]byte(document), &keys); err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{
			"state": `"ready"`, "host": `"node1.lab.example"`,
			"enrolment":   `[{"host":"node4","state":"open","leftSeconds":82800},{"host":"node5","state":"open","leftSeconds":0}]`,
			"volumeGroup": `{"name":"xenvg","sizeBytes":107374182400,"freeBytes":64424509440}`,
			"clock":       `{"synchronised":true,"source":"192.168.50.1","stratum":3,"offsetSeconds":0.0000125}`,
			"notRead":     "",
		} {
			var have bytes.Buffer
			if len(keys[key]) > 0 {
				if err := json.Compact(&have, keys[key]); err != nil {
					t.Fatal(err)
				}
			}
			if have.String() != want {
				t.Errorf("%s = %s; want %s", key, have.String(), want)
			}
		}
		if !strings.Contains(document, `"up": false,
        "problem": "connection refused"`) {
			t.Errorf("the document does not say who is down:\n%s", document)
		}
	})
}

// Somebody who is not root gets what he may see, on a node that was told less.
func TestReportWithoutRoot(t *testing.T) {
	files := reportFiles("node3")
	root := reportRoot(t, files)
	human, _ := reportText(t, ReportOptions{Root: root, Runner: healthy()})
	_, after, _ := strings.Cut(human, "\nCluster ")
	wantText(t, "for people", `cluster.lab.example: master node1.lab.example; this machine: regular; 1 instance

NODE               ADDRESS        REPLICATION    ROLE     NODE DAEMON
node1.lab.example  192.168.50.11  10.101.200.11  master   not asked
node2.lab.example  192.168.50.12  10.101.200.12  offline  not asked
node3.lab.example  -              -              regular  not asked
`, after[:strings.Index(after, "\nDRBD")])
	wantText(t, "the end", "Not shown: volumeGroup: only root may read it\n", after[strings.Index(after, "Not shown"):])

	human, _ = reportText(t, ReportOptions{Root: reportRoot(t, reportFiles("node1"))})
	wantText(t, "on the master", "Not shown: configuration: only root may read it\nNot shown: enrolment: only root may read it\n",
		human[strings.Index(human, "Not shown"):])
}

// A machine in trouble still has a report: a program that cannot be killed, one
// that is missing, files that are damaged.
func TestReportDegrades(t *testing.T) {
	files := reportFiles("node1")
	files["var/lib/ganeti/config.data"] = "{"
	files[enrol.LedgerFile] = "{"
	files[drbdProc] = "version: 9.2.11 (api:2/proto:86-122)\n"
	root := reportRoot(t, files)
	synctest.Test(t, func(t *testing.T) {
		dead := make(chan struct{})
		defer close(dead)
		human, document := reportText(t, ReportOptions{Root: root, Superuser: true, Runner: answers{
			"vgs":     func(context.Context) (string, error) { <-dead; return "", nil },
			"chronyc": says("506 Cannot talk to daemon\n"),
		}})
		for _, want := range []string{
			"Not shown: clock: chronyc says \"506 Cannot talk to daemon\"\n",
			"Not shown: configuration: cannot read Ganeti's configuration: unexpected end of JSON input\n",
			"Not shown: drbd: it is from DRBD \"9.2.11\", which keeps its state elsewhere\n",
			"Not shown: enrolment: cannot read the ledger: ",
			"Not shown: volumeGroup: no answer within 5s\n",
			"\nnode1.lab.example  192.168.50.11  10.101.200.11  master   not asked\n",
		} {
			if !strings.Contains(human, want) {
				t.Errorf("the report does not say %q:\n%s", want, human)
			}
		}
		if !strings.Contains(document, `"what": "volumeGroup"`) {
			t.Errorf("the document names nothing that was not read:\n%s", document)
		}
	})
}

// Before a machine is in a cluster, and while its cluster is half made, the
// report is the state alone.
func TestReportWithoutCluster(t *testing.T) {
	files := reportFiles("node1")
	for _, forming := range []bool{false, true} {
		if forming {
			files[formingFile] = "17\n"
		} else {
			files["var/lib/ganeti/ssconf_cluster_name"] = ""
		}
		human, document := reportText(t, ReportOptions{Root: reportRoot(t, files), Superuser: true})
		if strings.Contains(human, "luster") || strings.Contains(document, "luster") {
			t.Errorf("the report speaks of a cluster:\n%s%s", human, document)
		}
		files["var/lib/ganeti/ssconf_cluster_name"] = "cluster.lab.example\n"
	}
}

func TestParseTracking(t *testing.T) {
	for _, c := range []struct {
		summary, out string
		want         *Clock
		text         string
	}{
		{"nobody to follow", "00000000,,0,0.0,0.000000000,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised",
			&Clock{}, "Time: not synchronised"},
		{"behind", "7F7F0101,192.168.50.1,10,1763812809.1,12.5,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Normal",
			&Clock{Synchronised: true, Source: "192.168.50.1", Stratum: 10, Offset: -12.5}, "Time: 12.500000 s slow of 192.168.50.1 (stratum 10)"},
		{"not a number", "7F7F0101,192.168.50.1,10,1763812809.1,NaN,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Normal", nil, ""},
		{"another language", "506 Cannot talk to daemon", nil, ""},
	} {
		got, err := parseTracking(c.out)
		if (err != nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.summary, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.summary, diff)
		}
		if got != nil && got.String() != c.text {
			t.Errorf("%s: %q; want %q", c.summary, got, c.text)
		}
	}
}
