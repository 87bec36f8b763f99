package agent

import (
	"math"
	"strconv"
	"strings"
)

// expositionType is Prometheus's text format, version 0.0.4.
const expositionType = "text/plain; version=0.0.4; charset=utf-8"

// exposition writes that format: families of samples, each with its HELP and
// TYPE. All of ours are gauges.
type exposition struct {
	b    strings.Builder
	name string // of the family
	help string // of the family; "" once it is written
}

// family begins a family; one without samples is not written.
func (e *exposition) family(name, help string) { e.name, e.help = name, help }

// sample adds one; labels are names and values in turn.
func (e *exposition) sample(value float64, labels ...string) {
	if e.help != "" {
		e.b.WriteString("# HELP " + e.name + " " + helpEscape.Replace(e.help) + "\n# TYPE " + e.name + " gauge\n")
		e.help = ""
	}
	e.b.WriteString(e.name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		e.b.WriteString(sep + labels[i] + `="` + labelEscape.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")) + `"`)
	}
	if len(labels) > 0 {
		e.b.WriteByte('}')
	}
	e.b.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
}

var (
	helpEscape  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	labelEscape = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// exposition is the report for Prometheus. docs/install.md has the list.
func (r *Report) exposition(version string) string {
	e := new(exposition)
	e.family("sci_build_info", "The agent; always 1.")
	e.sample(1, "version", version)
	e.family("sci_agent_ready", "1 if this machine is what its site file says.")
	e.sample(truth(r.State.State == IsReady))
	e.family("sci_agent_stopped", "1 if the agent waits for a person.")
	e.sample(truth(r.State.State == IsStopped))
	e.family("sci_agent_step_ok", "1 if the step of the plan is done.")
	for _, s := range r.Steps {
		e.sample(truth(s.State == StepOK), "step", s.Name)
	}
	if r.Cluster != nil {
		r.Cluster.exposition(e)
	}
	if r.DRBD != nil {
		r.DRBD.exposition(e)
	}
	e.family("sci_report_unreadable", "1 for each part of this report that could not be read.")
	for _, n := range r.NotRead {
		if n.Why != needsRoot { // which this is not
			e.sample(1, "what", n.What)
		}
	}
	return e.b.String()
}

func (v *ClusterView) exposition(e *exposition) {
	e.family("sci_cluster_info", "The cluster and its master, as this node knows them; always 1.")
	e.sample(1, "cluster", v.Name, "master", v.Master)
	e.family("sci_cluster_master", "1 if this node takes itself for the master.")
	e.sample(truth(v.Role == RoleMaster))
	e.family("sci_cluster_instances", "How many instances the cluster has.")
	e.sample(float64(v.Instances))
	e.family("sci_cluster_node_offline", "1 if the node is marked offline.")
	for _, n := range v.Nodes {
		e.sample(truth(n.Role == RoleOffline), "node", n.Name)
	}
	e.family("sci_cluster_node_up", "1 if the node's daemon took a connection from this node.")
	for _, n := range v.Nodes {
		if n.Up != nil {
			e.sample(truth(*n.Up), "node", n.Name)
		}
	}
}

func (d *DRBD) exposition(e *exposition) {
	each := func(name, help string, value func(Minor) float64) {
		e.family(name, help)
		for _, m := range d.Minors {
			if m.Configured() {
				e.sample(value(m), "minor", strconv.Itoa(m.Minor))
			}
		}
	}
	each("sci_drbd_connected", "1 if this node and its peer talk about the disk.", func(m Minor) float64 { return truth(m.Connected()) })
	each("sci_drbd_uptodate", "1 if this node has all of the disk's data.", func(m Minor) float64 { return truth(m.Disk == "UpToDate") })
	each("sci_drbd_peer_uptodate", "1 if the peer is known to have all of the disk's data.", func(m Minor) float64 { return truth(m.PeerDisk == "UpToDate") })
	each("sci_drbd_primary", "1 if the disk is in use on this node.", func(m Minor) float64 { return truth(m.Role == "Primary") })
	each("sci_drbd_out_of_sync_bytes", "What the two sides are known to differ in.", func(m Minor) float64 { return float64(m.OutOfSync) })
	e.family("sci_drbd_sync_ratio", "How far copying or comparing is, while it goes on: 0 to 1.")
	for _, m := range d.Minors {
		if m.Sync != nil {
			e.sample(math.Round(m.Sync.Percent*10)/1000, "minor", strconv.Itoa(m.Minor))
		}
	}
}
