package benchinstall

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/installtest"
)

// Differences writes in what two installed systems differ: how many differences
// each reason has, most first, then those without a reason, which are the error.
func Differences(w io.Writer, list []installtest.Difference) error {
	count := make(map[string]int)
	var reasons []string
	var unexpected []string
	for _, d := range list {
		if d.Expected == "" {
			unexpected = append(unexpected, d.String())
			continue
		}
		if count[d.Expected]++; count[d.Expected] == 1 {
			reasons = append(reasons, d.Expected)
		}
	}
	slices.SortStableFunc(reasons, func(a, b string) int { return count[b] - count[a] })
	for _, reason := range reasons {
		if _, err := fmt.Fprintf(w, "%5d  %s\n", count[reason], reason); err != nil {
			return err
		}
	}
	if len(unexpected) == 0 {
		return nil
	}
	if _, err := fmt.Fprintf(w, "not expected:\n  %s\n", strings.Join(unexpected, "\n  ")); err != nil {
		return err
	}
	return hint.New(fmt.Errorf("%d differences have no reason in the table of pkg/installtest/stock.go", len(unexpected)),
		"mend what makes them, or name them there")
}
