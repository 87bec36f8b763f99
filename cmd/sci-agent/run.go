package main

import (
	"os"
	"path/filepath"
	"strings"

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
				Until:   credential("sci.agent.until"),
			})
		},
	}
}

// credential is what systemd was told for this service, systemd.exec(5); ""
// for nothing.
func credential(name string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return ""
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || len(data) > 64 {
		return ""
	}
	return strings.TrimSpace(string(data))
}
