package agent

import (
	"errors"
	"slices"
	"strings"
)

// cpuModels are the models for instances, the best first, with the flags
// (/proc/cpuinfo) that a machine must have for it. They are old on purpose:
// every server since 2010 has the second, and an instance that was started with
// one can move to any other node. kvm64 and qemu64 are what gnt-cluster verify
// warns of: they lack the mitigations that guests look for.
func cpuModels() []cpuModel {
	nehalem := strings.Fields("cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3")
	return []cpuModel{
		{"Westmere", append(strings.Fields("aes pclmulqdq"), nehalem...)},
		{"Nehalem", nehalem},
		{"Conroe", strings.Fields("lahf_lm pni ssse3")},
	}
}

type cpuModel struct {
	name  string
	flags []string
}

// cpuFlags are those of this machine.
func (n *Node) cpuFlags() ([]string, error) {
	data, _, err := n.read("proc/cpuinfo")
	if err != nil {
		return nil, err
	}
	for l := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(key) == "flags" {
			return strings.Fields(value), nil
		}
	}
	return nil, errors.New("cannot tell the processor's flags: /proc/cpuinfo has none")
}

// cpuModel is the model for instances: the site's, or the best that this
// machine and those with the flags given have.
func (n *Node) cpuModel(others [][]string) (string, error) {
	if cpu := n.Site.Cluster.CPU; cpu != "" {
		return cpu, nil
	}
	own, err := n.cpuFlags()
	if err != nil {
		return "", err
	}
	for _, m := range cpuModels() {
		if !slices.ContainsFunc(append(others, own), func(flags []string) bool { return !containsAll(flags, m.flags) }) {
			return m.name, nil
		}
	}
	return "qemu64", nil
}

func containsAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(f string) bool { return !slices.Contains(have, f) })
}
