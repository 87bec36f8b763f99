package ganeti

import (
	"slices"
	"strings"
)

// Told is what the master has told every node of the cluster, in the files
// ssconf_*. Anybody on the machine may read them. They are not newer than the
// master's last word: a node that was away has those of before.
type Told struct {
	Name       string   // of the cluster, full; "" in none
	Master     string   // full name
	Nodes      []Node   // by name; Drained is not among what is told
	Instances  []string // full names
	Candidates []string // full names
}

// Told reads what this node was told.
func (c *Cluster) Told() (*Told, error) {
	var err error
	read := func(key string) string {
		text, e := c.ssconf(key)
		if err == nil {
			err = e
		}
		return text
	}
	t := &Told{
		Name: read("cluster_name"), Master: read("master_node"),
		Instances: strings.Fields(read("instance_list")), Candidates: strings.Fields(read("master_candidates")),
	}
	primary, secondary := pairs(read("node_primary_ips")), pairs(read("node_secondary_ips"))
	offline := strings.Fields(read("offline_nodes"))
	for _, name := range strings.Fields(read("node_list")) {
		t.Nodes = append(t.Nodes, Node{Name: name, Primary: primary[name], Secondary: secondary[name],
			Candidate: slices.Contains(t.Candidates, name), Offline: slices.Contains(offline, name)})
	}
	return t, err
}

// pairs reads lines of a name and a value.
func pairs(text string) map[string]string {
	m := make(map[string]string)
	for l := range strings.Lines(text) {
		if f := strings.Fields(l); len(f) == 2 {
			m[f[0]] = f[1]
		}
	}
	return m
}
