package agent

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Print writes the state for people: a headline, a line a step, and below it
// the last error of a step that is not done.
func (st *State) Print(w io.Writer) error {
	host := "this machine"
	if st.Host != "" {
		host = fmt.Sprintf("%s (role %s)", st.Host, st.Role)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s since %s\n\n", host, st.State, stamp(st.Since))
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "STEP\tSTATE\tTRIES\tSTARTED\tFINISHED")
	for _, r := range st.Steps {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\n", r.Name, r.State, r.Tries, stamp(r.Started), stamp(r.Finished))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, r := range st.Steps {
		if r.LastError == "" || r.State == StepOK {
			continue
		}
		fmt.Fprintf(&b, "\n%s, at %s:\n", r.Name, stamp(r.LastFail))
		for l := range strings.Lines(r.LastError) {
			b.WriteString("  " + strings.TrimRight(l, "\n") + "\n")
		}
		if !r.NextTry.IsZero() {
			fmt.Fprintf(&b, "  next try at %s\n", stamp(r.NextTry))
		}
	}
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
