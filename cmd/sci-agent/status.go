package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
	"github.com/skycover/sci-cd/pkg/hint"
)

func newStatus() *cobra.Command {
	var asJSON bool
	var root string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how far this machine is",
		RunE: func(c *cobra.Command, _ []string) error {
			return status(c.OutOrStdout(), root, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the state as JSON")
	cmd.Flags().StringVar(&root, "root", "/", "look at the system below this directory")
	return cmd
}

func status(w io.Writer, root string, asJSON bool) error {
	name := filepath.Join(root, agent.StateFile)
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return hint.New(errors.New("cannot show the status: the agent has not run on this machine yet"),
			"see: systemctl status sci-agent")
	}
	st, err := agent.ReadState(name)
	if err != nil {
		return hint.New(err, "start it anew: systemctl restart sci-agent")
	}
	show := st.Print
	if asJSON {
		show = st.PrintJSON
	}
	if err := show(w); err != nil {
		return err
	}
	if st.State != agent.IsReady {
		return errNotReady
	}
	return nil
}
