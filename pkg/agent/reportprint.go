package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/skycover/sci-cd/pkg/enrol"
)

// PrintJSON writes the report as one document. The state's keys stand at the
// top, as in the state file.
func (r *Report) PrintJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// Print writes the report for people: the state, then what there is of a
// cluster.
func (r *Report) Print(w io.Writer) error {
	if err := r.State.Print(w); err != nil {
		return err
	}
	var b strings.Builder
	if r.Cluster != nil {
		r.Cluster.print(&b)
	}
	printEnrolment(&b, r.Enrolment)
	if r.DRBD != nil {
		r.DRBD.print(&b)
	}
	var last []string
	if g := r.VolumeGroup; g != nil {
		last = append(last, fmt.Sprintf("Volume group %s: %s, %s of them free", g.Name, size(g.Size), size(g.Free)))
	}
	if r.Clock != nil {
		last = append(last, r.Clock.String())
	}
	for _, n := range r.NotRead {
		last = append(last, fmt.Sprintf("Not shown: %s: %s", n.What, n.Why))
	}
	if len(last) > 0 {
		b.WriteString("\n" + strings.Join(last, "\n") + "\n")
	}
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

func (v *ClusterView) print(b *strings.Builder) {
	role := "this machine is not among its nodes"
	if v.Role != "" {
		role = "this machine: " + v.Role
	}
	fmt.Fprintf(b, "\nCluster %s: master %s; %s; %s", v.Name, v.Master, role, count(v.Instances, "instance"))
	if v.Serial > 0 {
		fmt.Fprintf(b, "; configuration %d", v.Serial)
	}
	b.WriteString("\n\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "NODE\tADDRESS\tREPLICATION\tROLE\tNODE DAEMON")
	for _, n := range v.Nodes {
		daemon := "not asked"
		switch {
		case n.Up != nil && *n.Up:
			daemon = "answers"
		case n.Problem != "":
			daemon = "NO ANSWER: " + n.Problem
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", n.Name, dash(n.Address), dash(n.Secondary), n.Role, daemon)
	}
	_ = t.Flush() // into a strings.Builder
}

func printEnrolment(b *strings.Builder, list []Admission) {
	if len(list) == 0 {
		return
	}
	b.WriteString("\nNot in the cluster yet:\n")
	for _, a := range list {
		switch {
		case a.Left <= 0:
			fmt.Fprintf(b, "  %s: its time to join is over; when it is there: sci-agent join %s\n", a.Host, a.Host)
		case a.State == string(enrol.StateClaimed):
			fmt.Fprintf(b, "  %s: has proved who it is and is to be taken in\n", a.Host)
		default:
			fmt.Fprintf(b, "  %s: may join within %v of running\n", a.Host, time.Duration(a.Left)*time.Second)
		}
	}
}

func (d *DRBD) print(b *strings.Builder) {
	summary := d.Summary()
	if summary == "" {
		summary = "no disk is mirrored"
	}
	fmt.Fprintf(b, "\nDRBD %s: %s\n", d.Version, summary)
	if len(d.Minors) == 0 {
		return
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "MINOR\tINSTANCE\tCONNECTION\tROLE/PEER\tDISK/PEER\tDIFFERS BY\tPROGRESS")
	for _, m := range d.Minors {
		roles, disks, differs, progress := "-", "-", "-", "-"
		if m.Role != "" {
			roles, disks, differs = m.Role+"/"+m.PeerRole, m.Disk+"/"+m.PeerDisk, size(m.OutOfSync)
		}
		if m.Sync != nil {
			progress = m.Sync.String()
		}
		_, _ = fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Minor, dash(m.Instance), m.Connection, roles, disks, differs, progress)
	}
	_ = t.Flush()
}

// String is the clock for people.
func (c *Clock) String() string {
	if !c.Synchronised {
		return "Time: not synchronised"
	}
	how := "fast"
	if c.Offset < 0 {
		how = "slow"
	}
	return fmt.Sprintf("Time: %.6f s %s of %s (stratum %d)", math.Abs(c.Offset), how, c.Source, c.Stratum)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// size is a number of bytes in powers of 1024.
func size(n int64) string {
	units := []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	f, i := float64(n)/1024, 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
