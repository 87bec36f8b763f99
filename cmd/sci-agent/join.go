package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

func newJoin() *cobra.Command {
	var o agent.AdmitOptions
	cmd := &cobra.Command{
		Use:   "join HOST",
		Short: "Let a host join the cluster (on the master)",
		Long: `Let a host join the cluster: one that comes later than cluster.joinWithin of the
site file, one that was installed anew, or one that was lost and is back. Run it
on the master. A node that was lost and still has its disk is taken back at once;
any other host may join within the window, and the agent's service takes it in.

A host that only a newer site file names comes with --medium, the ISO that was
made of that file: its site file becomes that of all nodes.`,
		Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			o.Host, o.Out = args[0], c.OutOrStdout()
			return machine(c).Admit(c.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.Medium, "medium", "", "the `ISO` that the host was installed from, if it is newer than this machine's")
	cmd.Flags().DurationVar(&o.Window, "within", 0, "how long the host may join, in `TIME` of running such as 24h (default: the site file's cluster.joinWithin)")
	return cmd
}

func newTakeOver() *cobra.Command {
	var o agent.TakeOverOptions
	cmd := &cobra.Command{
		Use:   "takeover",
		Short: "Become the master in the place of one that is lost (on a survivor)",
		Long: `Become the master of the cluster in the place of one that is lost, and start here
what ran there. It refuses while the old master answers in any way, and unless
you say with --powered-off that it is switched off: nothing that this machine can
see tells a dead machine from a dead cable, and two masters ruin a cluster.

The lost host stays out of the cluster, whatever it believes, until you take it
back: sci-agent join HOST.`,
		RunE: func(c *cobra.Command, _ []string) error {
			o.Out = c.OutOrStdout()
			return machine(c).TakeOver(c.Context(), o)
		},
	}
	cmd.Flags().StringSliceVar(&o.PoweredOff, "powered-off", nil, "this `HOST` is switched off; I made sure (may be repeated)")
	return cmd
}

// machine is the one that the command runs on.
func machine(c *cobra.Command) *agent.Node {
	return &agent.Node{Root: "/", Runner: run.Host{}, Journal: c.ErrOrStderr(), Version: version, Settle: time.Minute}
}

func oneArgument(c *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return usageError{hint.New(errors.New(c.CommandPath()+" wants the name of one host"), "see: "+c.CommandPath()+" --help")}
}
