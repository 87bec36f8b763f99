package ganeti

import (
	"context"
	"errors"
	"strings"

	"github.com/skycover/sci-cd/pkg/run"
)

// Verdict is what gnt-cluster verify said.
type Verdict struct {
	Problems []string // its lines of errors and warnings
}

// Verify has Ganeti check the whole cluster, on its master. The error is that
// of a check which could not be made.
func (c *Cluster) Verify(ctx context.Context) (Verdict, error) {
	out, err := c.command(ctx, "gnt-cluster", "verify")
	v := parseVerdict(string(out))
	if e := new(run.Error); errors.As(err, &e) && ctx.Err() == nil && len(v.Problems) > 0 {
		return v, nil // it says no by its exit status, and why by its lines
	}
	return v, err
}

// parseVerdict picks the lines "- ERROR: …" and "- WARNING: …", as they are with
// and without --error-codes.
func parseVerdict(out string) Verdict {
	var v Verdict
	for line := range strings.Lines(out) {
		text := strings.TrimSpace(line)
		// Lines of a job begin with its time: "Mon Nov 22 12:00:00 2026   - ERROR: …".
		if i := strings.Index(text, "- ERROR"); i >= 0 {
			v.Problems = append(v.Problems, text[i+2:])
		} else if i := strings.Index(text, "- WARNING"); i >= 0 {
			v.Problems = append(v.Problems, text[i+2:])
		}
	}
	return v
}
