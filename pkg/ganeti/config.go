package ganeti

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Config is what is read of Ganeti's configuration, config.data. Only the
// master and its candidates have it.
type Config struct {
	Serial      int // counts its changes
	Name        string
	Master      string // full name
	KVM         map[string]string
	DRBD        map[string]string
	ReservedLVs []string
	Nodes       []Node     // by name
	Instances   []Instance // by name
}

// Instance is one instance of the cluster.
type Instance struct {
	Name    string // full name
	Primary string // full name of the node that it runs on
	// Secondaries are the other nodes of its mirrored disks; none for plain ones.
	Secondaries []string
	Up          bool // it is to run
	// Minors are the DRBD minors of its disks by node.
	Minors map[string][]int
}

// On are the instances that run on a node, and those that have a mirror there.
func (c *Config) On(node string) (primary, secondary []Instance) {
	for _, i := range c.Instances {
		if i.Primary == node {
			primary = append(primary, i)
		} else if slices.Contains(i.Secondaries, node) {
			secondary = append(secondary, i)
		}
	}
	return primary, secondary
}

// Node is one node of the cluster.
type Node struct {
	Name      string // full name
	Primary   string // address
	Secondary string // address; Primary without a network for replication
	Candidate bool   // keeps a copy of the configuration; the master is one
	Offline   bool
	Drained   bool
}

// Node returns the node of that full name.
func (c *Config) Node(name string) (Node, bool) {
	i := slices.IndexFunc(c.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return c.Nodes[i], true
}

// Config reads the configuration that this node has.
func (c *Cluster) Config() (*Config, error) {
	data, err := readFile(c.path("config.data"))
	if err != nil {
		return nil, err
	}
	return parseConfig(data)
}

// ConfigOf reads the configuration that another candidate has.
func (c *Cluster) ConfigOf(ctx context.Context, node string) (*Config, error) {
	quiet := *c
	quiet.Log = nil // it is long, and parameters of instances may be private
	data, err := quiet.SSH(ctx, node, "cat /"+DataDir+"/config.data")
	if err != nil {
		return nil, err
	}
	return parseConfig(data)
}

// scalar is a JSON scalar in the form that the command line takes.
type scalar string

func (s *scalar) UnmarshalJSON(data []byte) error {
	switch {
	case len(data) > 0 && data[0] == '"':
		return json.Unmarshal(data, (*string)(s))
	case bytes.Equal(data, []byte("null")):
		*s = ""
	default: // numbers and booleans are written alike; lists and maps are no scalars
		*s = scalar(data)
	}
	return nil
}

// configData is the layout of config.data, as far as it is needed.
type configData struct {
	Serial  int `json:"serial_no"`
	Cluster struct {
		Name        string                       `json:"cluster_name"`
		Master      string                       `json:"master_node"`
		HVParams    map[string]map[string]scalar `json:"hvparams"`
		DiskParams  map[string]map[string]scalar `json:"diskparams"`
		ReservedLVs []string                     `json:"reserved_lvs"`
	} `json:"cluster"`
	Nodes map[string]struct {
		Name      string `json:"name"`
		Primary   string `json:"primary_ip"`
		Secondary string `json:"secondary_ip"`
		Candidate bool   `json:"master_candidate"`
		Offline   bool   `json:"offline"`
		Drained   bool   `json:"drained"`
	} `json:"nodes"`
	Instances map[string]struct {
		Name    string   `json:"name"`
		Primary string   `json:"primary_node"`
		Disks   []string `json:"disks"`
		Admin   string   `json:"admin_state"`
	} `json:"instances"`
	Disks map[string]struct {
		Type string            `json:"dev_type"`
		ID   []json.RawMessage `json:"logical_id"`
	} `json:"disks"`
}

func parseConfig(data []byte) (*Config, error) {
	var d configData
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("cannot read Ganeti's configuration: %w", err)
	}
	if d.Cluster.Name == "" || d.Serial <= 0 {
		return nil, errors.New("cannot read Ganeti's configuration: no cluster_name or no serial_no")
	}
	c := &Config{
		Serial: d.Serial, Name: d.Cluster.Name, ReservedLVs: d.Cluster.ReservedLVs,
		KVM: texts(d.Cluster.HVParams["kvm"]), DRBD: texts(d.Cluster.DiskParams["drbd"]),
		Master: d.Nodes[d.Cluster.Master].Name,
	}
	for _, n := range d.Nodes {
		c.Nodes = append(c.Nodes, Node(n))
	}
	for id := range d.Instances {
		c.Instances = append(c.Instances, d.instance(id))
	}
	slices.SortFunc(c.Instances, func(a, b Instance) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return c, nil
}

// instance puts an instance and its disks together. The logical id of a DRBD
// disk is: two nodes, a port, their minors, a secret.
func (d *configData) instance(id string) Instance {
	in := d.Instances[id]
	i := Instance{Name: in.Name, Primary: d.Nodes[in.Primary].Name, Up: in.Admin == "up", Minors: make(map[string][]int)}
	for _, disk := range in.Disks {
		l := d.Disks[disk]
		if l.Type != "drbd" || len(l.ID) < 5 {
			continue
		}
		for k := range 2 {
			var node string
			var minor int
			if json.Unmarshal(l.ID[k], &node) != nil || json.Unmarshal(l.ID[3+k], &minor) != nil {
				continue
			}
			name := d.Nodes[node].Name
			i.Minors[name] = append(i.Minors[name], minor)
			if node != in.Primary && !slices.Contains(i.Secondaries, name) {
				i.Secondaries = append(i.Secondaries, name)
			}
		}
	}
	return i
}

func texts(m map[string]scalar) map[string]string {
	t := make(map[string]string, len(m))
	for k, v := range m {
		t[k] = string(v)
	}
	return t
}
