package main

import (
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
)

func newApprox() *cobra.Command {
	var clean bool
	cmd := &cobra.Command{
		Use:    "approx",
		Short:  "Pass on the requests of one client of the package cache (approx@.service runs this)",
		Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			if clean {
				return agent.CleanApprox(c.Context(), "/", os.Stderr)
			}
			client, err := net.FileConn(os.Stdin)
			if err != nil {
				return usageError{fmt.Errorf("standard input is no socket: %w", err)}
			}
			defer func() { _ = client.Close() }()
			return agent.GuardApprox(c.Context(), client, []string{"/usr/sbin/approx"}, os.Stderr)
		},
	}
	cmd.Flags().BoolVar(&clean, "clean", false, "keep the package cache in bounds instead (sci-approx-clean.service runs this)")
	return cmd
}
