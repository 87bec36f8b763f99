package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/site"
)

func newCheck(ui *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "check SITE",
		Short: "Say what is wrong in a site file",
		Long: `Say what is wrong in a site file and in the profiles that it names: everything
at once, each with its file, line and column, and with a hint. It needs no
network, so it cannot know whether the archive has the packages: see lock.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: files("yaml", "yml"),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := profile.LoadSite(args[0], scicd.Profiles())
			if err != nil {
				return err
			}
			r, err := summarize(s)
			if err != nil {
				return err
			}
			for _, n := range r.Notes {
				ui.note(n)
			}
			return ui.result(r, "%s", r)
		},
	}
}

// siteSummary is what a good site file says.
type siteSummary struct {
	Site    string   `json:"site"`
	Release string   `json:"release"`
	Hosts   []string `json:"hosts"`
	Notes   []string `json:"notes"`
}

func summarize(s *site.Site) (*siteSummary, error) {
	r := &siteSummary{Site: s.Name, Release: s.Release, Notes: []string{}}
	for _, h := range s.Hosts {
		r.Hosts = append(r.Hosts, s.FQDN(h.Name)+" ("+h.Class()+")")
	}
	for _, class := range s.Classes() {
		sel, err := profile.Select(s, class, scicd.Profiles())
		if err != nil {
			return nil, err
		}
		r.Notes = append(r.Notes, sel.Notes...)
	}
	if s.Root.PasswordHash == "" && len(s.Root.SSHKeys) == 0 {
		r.Notes = append(r.Notes, "nobody can log in to the machines: root has no passwordHash and no sshKeys")
	}
	return r, nil
}

func (r *siteSummary) String() string {
	return fmt.Sprintf("site %s, Debian %s, %d hosts: %s\n", r.Site, r.Release, len(r.Hosts), strings.Join(r.Hosts, ", "))
}
