package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/lock"
)

func newLock(ui *ui, p program) *cobra.Command {
	var f siteFlags
	var why string
	c := &cobra.Command{
		Use:   "lock [SITE]",
		Short: "Write or renew the lock: which packages, of which versions",
		Long: `Write or renew the lock of a site (sci.lock, beside the site file): which
packages of which versions go onto the medium, by their SHA-256. What changed is
printed. Without SITE it is the embedded example's, in ` + exampleDir + `/.

With --why nothing is written: it says by which chain of dependencies a package
comes to be on the medium.`,
		Args:              arguments(0, 1),
		ValidArgsFunction: files("yaml", "yml"),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := f.options(ui, p, args)
			if err != nil {
				return err
			}
			plan, err := build.MakePlan(c.Context(), o)
			if err != nil {
				return err
			}
			if why != "" {
				return printWhy(ui, plan, why)
			}
			return renew(ui, plan.Lock, o.Lock)
		},
	}
	f.add(c)
	c.Flags().StringVar(&why, "why", "", "say why `PACKAGE` is on the medium; writes nothing")
	return c
}

func printWhy(ui *ui, plan *build.Plan, name string) error {
	lines := plan.Why(name)
	if len(lines) == 0 {
		return hint.New(fmt.Errorf("package %q is not on the medium", name), "a host gets it by packages: in the site file, or by a profile")
	}
	return ui.result(map[string]any{"package": name, "why": lines}, "%s\n", strings.Join(lines, "\n"))
}

// change is a line of the difference between two locks.
type change struct {
	Change string   `json:"change"`
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	Old    string   `json:"old,omitempty"`
	New    string   `json:"new,omitempty"`
	Uses   []string `json:"uses"`
	text   string
}

// renewal is the result of the verb.
type renewal struct {
	Lock     string   `json:"lock"`
	Packages int      `json:"packages"`
	Written  bool     `json:"written"`
	Changes  []change `json:"changes"`
	// Releases are what was read of the archive: a mirror that withholds
	// updates shows by their dates.
	Releases []release `json:"releases"`
	first    bool
}

// release is a pocket of the archive.
type release struct {
	Pocket  string    `json:"pocket"`
	Suite   string    `json:"suite"`
	Version string    `json:"version,omitempty"`
	Date    time.Time `json:"date"`
}

// renew writes the lock if it says anything new. The old one may be
// unreadable: to renew it is the cure.
func renew(ui *ui, l *lock.Lock, path string) error {
	old, err := lock.Read(path)
	first := errors.Is(err, fs.ErrNotExist)
	if err != nil && !first {
		ui.note("the old lock is replaced: " + err.Error())
	}
	r := renewal{Lock: path, Packages: len(l.Packages), Changes: []change{}, first: first}
	for _, c := range lock.Diff(old, l) {
		r.Changes = append(r.Changes, toChange(c))
	}
	for _, p := range l.Releases {
		r.Releases = append(r.Releases, release{p.Pocket, p.Suite, p.Version, p.Date.UTC()})
	}
	if old == nil || !bytes.Equal(old.Bytes(), l.Bytes()) {
		if err := l.Write(path); err != nil {
			return err
		}
		r.Written = true
	}
	return ui.result(r, "%s", r)
}

func toChange(c lock.Change) change {
	out := change{Change: c.Verb(), text: c.String()}
	for _, p := range []*lock.Package{c.Old, c.New} {
		if p != nil {
			out.Kind, out.Name, out.Uses = p.Kind, p.Name, p.Uses
		}
	}
	if c.Old != nil {
		out.Old = c.Old.Version
	}
	if c.New != nil {
		out.New = c.New.Version
	}
	return out
}

func (r renewal) String() string {
	var b strings.Builder
	count := make(map[string]int)
	for _, c := range r.Changes {
		count[c.Change]++
		if !r.first { // a new lock is all additions
			b.WriteString(c.text + "\n")
		}
	}
	switch {
	case r.first:
		fmt.Fprintf(&b, "%s: new, %d packages\n", r.Lock, r.Packages)
	case !r.Written:
		fmt.Fprintf(&b, "%s: nothing new, %d packages\n", r.Lock, r.Packages)
	default:
		fmt.Fprintf(&b, "%s: renewed, %d packages%s\n", r.Lock, r.Packages, tally(count))
	}
	for _, p := range r.Releases {
		fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(fmt.Sprintf("%s of %s  %s", p.Pocket, p.Date.Format("2006-01-02 15:04 UTC"), p.Version)))
	}
	return b.String()
}

func tally(count map[string]int) string {
	text := ""
	for _, verb := range []string{"added", "removed", "upgraded", "downgraded", "replaced", "used"} {
		if n := count[verb]; n > 0 {
			text += fmt.Sprintf(", %d %s", n, verb)
		}
	}
	return text
}
