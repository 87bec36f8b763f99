package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
	"github.com/skycover/sci-cd/pkg/hint"
)

func newMetrics() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "metrics",
		Short: "Show this machine's state to Prometheus (a service runs this if the site says so)",
		RunE: func(c *cobra.Command, _ []string) error {
			if listen == "" {
				return usageError{hint.New(errors.New("--listen is needed"), fmt.Sprintf("as in: sci-agent metrics --listen 127.0.0.1:%d", agent.MetricsPort))}
			}
			at, err := netip.ParseAddrPort(listen)
			if err != nil {
				return usageError{fmt.Errorf("--listen: %w", err)}
			}
			l, err := agent.ListenMetrics(c.Context(), at)
			if err != nil {
				return err
			}
			return agent.ServeMetrics(c.Context(), l, agent.ReportOptions{Root: "/", Ask: true}, version)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "the address and port to listen at")
	return cmd
}
