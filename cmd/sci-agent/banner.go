package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
	"github.com/skycover/sci-cd/pkg/run"
)

func newBanner() *cobra.Command {
	return &cobra.Command{
		Use:   "banner",
		Short: "Write the banner above the login prompt anew (a timer runs this)",
		RunE: func(c *cobra.Command, _ []string) error {
			return agent.RefreshBanner(c.Context(), agent.Options{
				Root: "/", Runner: run.Host{}, Journal: c.ErrOrStderr(), Systemd: os.Getenv("JOURNAL_STREAM") != "",
			})
		},
	}
}
