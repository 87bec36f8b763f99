package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
	"github.com/skycover/sci-cd/pkg/run"
)

func newRun() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Set this machine up and end when it is ready (the service runs this)",
		RunE: func(c *cobra.Command, _ []string) error {
			return agent.Run(c.Context(), agent.Options{
				Root:    "/",
				Runner:  run.Host{},
				Journal: c.ErrOrStderr(),
				Version: version,
				Systemd: os.Getenv("JOURNAL_STREAM") != "",
			})
		},
	}
}
