package ganeti

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// DRBDHelper is what the drbd module must have been loaded with
// (usermode_helper): Ganeti decides what to do on DRBD's events.
const DRBDHelper = "/bin/true"

// Parameters are those of the whole cluster that a site decides on; what is not
// named keeps Ganeti's default.
type Parameters struct {
	KVM         map[string]string // hypervisor parameters, gnt-instance(8)
	DRBD        map[string]string // disk parameters, gnt-cluster(8)
	ReservedLVs []string          // regular expressions of VG/LV that are not Ganeti's
}

// Differ are those of p that the configuration has otherwise.
func (p Parameters) Differ(c *Config) Parameters {
	d := Parameters{KVM: differ(p.KVM, c.KVM), DRBD: differ(p.DRBD, c.DRBD)}
	if !slices.Equal(slices.Sorted(slices.Values(p.ReservedLVs)), slices.Sorted(slices.Values(c.ReservedLVs))) {
		d.ReservedLVs = p.ReservedLVs
	}
	return d
}

func differ(want, have map[string]string) map[string]string {
	var d map[string]string
	for k, v := range want {
		if h, ok := have[k]; !ok || h != v {
			if d == nil {
				d = make(map[string]string)
			}
			d[k] = v
		}
	}
	return d
}

// Empty reports whether nothing is named.
func (p Parameters) Empty() bool { return len(p.KVM)+len(p.DRBD)+len(p.ReservedLVs) == 0 }

// Modify changes parameters of the cluster, on its master.
func (c *Cluster) Modify(ctx context.Context, p Parameters) error {
	if p.Empty() {
		return nil
	}
	argv := []string{"gnt-cluster", "modify"}
	if len(p.KVM) > 0 {
		argv = append(argv, "--hypervisor-parameters=kvm:"+keyValues(p.KVM))
	}
	if len(p.DRBD) > 0 {
		argv = append(argv, "--disk-parameters=drbd:"+keyValues(p.DRBD))
	}
	if len(p.ReservedLVs) > 0 {
		argv = append(argv, "--reserved-lvs="+strings.Join(p.ReservedLVs, ","))
	}
	_, err := c.command(ctx, argv...)
	return err
}

// keyValues is a list of key=value as ganeti(7) wants it: commas and
// backslashes in values are escaped.
func keyValues(m map[string]string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, k+"="+strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(m[k]))
	}
	return strings.Join(list, ",")
}
