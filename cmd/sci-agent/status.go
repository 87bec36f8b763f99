package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

func newStatus() *cobra.Command {
	var asJSON bool
	var root string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far this machine is, and its cluster as it sees it",
		RunE: func(c *cobra.Command, _ []string) error {
			return status(c.Context(), c.OutOrStdout(), root, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all of it as JSON")
	cmd.Flags().StringVar(&root, "root", "/", "look at the files of the system below this directory, and nothing else")
	return cmd
}

func status(ctx context.Context, w io.Writer, root string, asJSON bool) error {
	name := filepath.Join(root, agent.StateFile)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return hint.New(errors.New("cannot show the status: the agent has not run on this machine yet"),
			"see: systemctl status sci-agent")
	}
	o := agent.ReportOptions{Root: root, Superuser: true}
	if filepath.Clean(root) == "/" { // else it is not about the machine that runs
		o = agent.ReportOptions{Root: "/", Runner: run.Host{}, Ask: true, Superuser: os.Geteuid() == 0}
	}
	r, err := agent.ReadReport(ctx, o)
	if err != nil {
		return hint.New(err, "start it anew: systemctl restart sci-agent")
	}
	show := r.Print
	if asJSON {
		show = r.PrintJSON
	}
	if err := show(w); err != nil {
		return err
	}
	if r.State.State != agent.IsReady {
		return errNotReady
	}
	return nil
}
