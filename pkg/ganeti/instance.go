package ganeti

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Status is what gnt-instance list says of an instance, gnt-instance(8).
type Status struct {
	Name      string // full name
	Condition string // running, ADMIN_down, ERROR_down, ERROR_nodedown, …
	Up        bool   // it is to run
	Tags      []string
}

// Running is the condition of an instance that runs where it should.
const Running = "running"

// Tagged reports whether the instance has a tag.
func (s *Status) Tagged(tag string) bool { return slices.Contains(s.Tags, tag) }

// Instance asks the cluster of one instance; nil if there is none of that name.
func (c *Cluster) Instance(ctx context.Context, name string) (*Status, error) {
	out, err := c.command(ctx, "gnt-instance", "list", "--no-headers", "--separator=|", "--output=name,status,admin_state,tags")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(line), "|")
		if len(f) != 4 {
			return nil, fmt.Errorf("cannot read gnt-instance list: %q", line)
		}
		if f[0] == name {
			return &Status{Name: name, Condition: f[1], Up: f[2] == "up", Tags: strings.FieldsFunc(f[3], func(r rune) bool { return r == ',' || r == ' ' })}, nil
		}
	}
	return nil, nil
}

// NIC is a network card of an instance to be made.
type NIC struct {
	Link string // bridge of the nodes
	IP   string // its address; "" for none
}

// NewInstance describes an instance to be made.
type NewInstance struct {
	Name string // full name
	OS   string // "sci+service"
	// Nodes are the primary and the secondary; a single one gives a disk that is
	// not mirrored.
	Nodes        []string
	Memory, Disk int64 // MiB
	CPUs         int
	NICs         []NIC
	Tags         []string // from its first moment on
}

// AddInstance makes an instance and starts it. It takes as long as its operating
// system takes to be installed; if that fails, the instance stays.
func (c *Cluster) AddInstance(ctx context.Context, i NewInstance) error {
	template := "plain"
	if len(i.Nodes) > 1 {
		template = "drbd"
	}
	argv := []string{"gnt-instance", "add",
		"--disk-template=" + template,
		"--node=" + strings.Join(i.Nodes, ":"),
		"--os-type=" + i.OS,
		fmt.Sprintf("--disk=0:size=%dM", i.Disk),
		fmt.Sprintf("--backend-parameters=maxmem=%dM,minmem=%dM,vcpus=%d", i.Memory, i.Memory, i.CPUs),
		"--hypervisor-parameters=kvm:boot_order=disk",
		"--no-wait-for-sync",
	}
	for k, n := range i.NICs {
		nic := fmt.Sprintf("--net=%d:link=%s", k, n.Link)
		if n.IP != "" {
			nic += ",ip=" + n.IP
		}
		argv = append(argv, nic)
	}
	if len(i.Tags) > 0 {
		argv = append(argv, "--tags="+strings.Join(i.Tags, ","))
	}
	_, err := c.command(ctx, append(argv, i.Name)...)
	return err
}

// RemoveInstance removes an instance and its disks.
func (c *Cluster) RemoveInstance(ctx context.Context, name string) error {
	_, err := c.command(ctx, "gnt-instance", "remove", "--force", "--ignore-failures", "--shutdown-timeout=0", name)
	return err
}

// StartInstance starts an instance.
func (c *Cluster) StartInstance(ctx context.Context, name string) error {
	_, err := c.command(ctx, "gnt-instance", "startup", name)
	return err
}

// TagInstance gives an instance a tag.
func (c *Cluster) TagInstance(ctx context.Context, name, tag string) error {
	_, err := c.command(ctx, "gnt-instance", "add-tags", name, tag)
	return err
}

// UntagInstance takes a tag off an instance.
func (c *Cluster) UntagInstance(ctx context.Context, name, tag string) error {
	_, err := c.command(ctx, "gnt-instance", "remove-tags", name, tag)
	return err
}

// Job is one job of Ganeti's queue, gnt-job(8).
type Job struct {
	ID     string
	Status string // queued, waiting, canceling, running, success, error, canceled
}

// Open reports whether the job has not come to its end.
func (j *Job) Open() bool {
	return slices.Contains([]string{"queued", "waiting", "running", "canceling"}, j.Status)
}

// Creation is the last job that was to make an instance; nil if the queue, which
// forgets jobs after some hours, has none.
func (c *Cluster) Creation(ctx context.Context, name string) (*Job, error) {
	out, err := c.command(ctx, "gnt-job", "list", "--no-headers", "--separator=|", "--output=id,status,summary")
	if err != nil {
		return nil, err
	}
	var last *Job
	for line := range strings.Lines(string(out)) {
		f := strings.SplitN(strings.TrimSpace(line), "|", 3)
		if len(f) == 3 && f[2] == "INSTANCE_CREATE("+name+")" { // in the order of their numbers
			last = &Job{ID: f[0], Status: f[1]}
		}
	}
	return last, nil
}

// AwaitJob waits for the end of a job; that it failed is no error here.
func (c *Cluster) AwaitJob(ctx context.Context, id string) error {
	_, err := c.command(ctx, "gnt-job", "wait", id)
	if err != nil && ctx.Err() == nil {
		return nil // the queue says how it ended
	}
	return err
}

// Leftovers are volumes that a creation which was cut off has left on a node: they
// bear the name of an instance that the cluster has not. "" is this node.
func (c *Cluster) Leftovers(ctx context.Context, node, group, instance string) ([]string, error) {
	out, err := c.on(ctx, node, "lvs", "--noheadings", "--separator=|", "--options=lv_name,lv_tags", group)
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(out)) {
		name, tags, _ := strings.Cut(strings.TrimSpace(line), "|")
		// lib/cmdlib/instance_utils.py, GetInstanceInfoText
		if slices.Contains(strings.Split(tags, ","), "originstname+"+instance) && plainLV(name) {
			list = append(list, name)
		}
	}
	return list, nil
}

// plainLV reports whether a name is one that Ganeti gives volumes: a UUID and what
// it is for.
func plainLV(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "" && name[0] != '-' && strings.Contains(name, ".disk")
}

// RemoveLeftovers removes volumes from a node, and first the DRBD devices over
// them.
func (c *Cluster) RemoveLeftovers(ctx context.Context, node, group string, volumes []string) error {
	if len(volumes) == 0 {
		return nil
	}
	quiet := *c
	quiet.Log = nil // it shows the secrets of DRBD's connections
	out, err := quiet.on(ctx, node, "drbdsetup", "show")
	if err != nil {
		return err
	}
	for _, r := range resourcesOver(out, group, volumes) {
		if _, err := c.on(ctx, node, "drbdsetup", "down", r); err != nil {
			return err
		}
	}
	argv := []string{"lvremove", "--yes", "--force"}
	for _, v := range volumes {
		argv = append(argv, group+"/"+v)
	}
	_, err = c.on(ctx, node, argv...)
	return err
}

// resourcesOver are the DRBD resources with a disk or metadata on these volumes,
// in the output of drbdsetup show.
func resourcesOver(out []byte, group string, volumes []string) []string {
	found := make(map[string]bool)
	resource := ""
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if name, ok := strings.CutPrefix(line, "resource "); ok {
			resource = strings.Trim(strings.TrimSuffix(name, "{"), ` "`)
		}
		for _, v := range volumes {
			if resource != "" && strings.Contains(line, `"/dev/`+group+`/`+v+`"`) {
				found[resource] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// on runs a command on a node of the cluster, "" for this one. No argument has a
// character that a shell knows.
func (c *Cluster) on(ctx context.Context, node string, argv ...string) ([]byte, error) {
	if node == "" {
		return c.command(ctx, argv...)
	}
	for _, a := range argv {
		if strings.Trim(a, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,=/+") != "" && a != "--separator=|" {
			return nil, errors.New("an argument needs quoting: " + a)
		}
	}
	command := strings.ReplaceAll(strings.Join(argv, " "), "--separator=|", "'--separator=|'")
	return c.SSH(ctx, node, command)
}
