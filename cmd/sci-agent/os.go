package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/installer"
)

// errSaid is a failure that another process of ours has printed.
var errSaid = errors.New("failed, see above")

// newOS has the scripts of the Ganeti OS definition sci as commands; the step os
// of a node writes the scripts.
func newOS() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "os",
		Short: "Do the work of the Ganeti OS definition sci (Ganeti runs it on a node)",
		RunE: func(*cobra.Command, []string) error {
			return usageError{hint.New(errors.New("no verb given"), "see: sci-agent os --help")}
		},
	}
	for _, verb := range installer.OSVerbs() {
		cmd.AddCommand(&cobra.Command{
			Use:   verb,
			Short: osVerb(verb),
			Args:  cobra.ArbitraryArgs, // verify gets the names of checks
			RunE: func(c *cobra.Command, _ []string) error {
				if verb != "verify" && !installer.IsAlone() {
					err := installer.Alone(c.Context())
					if errors.As(err, new(*exec.ExitError)) {
						return errSaid
					}
					return err
				}
				// Ganeti keeps standard error in a file below /var/log/ganeti/os.
				return installer.RunOS(c.Context(), verb, osOptions())
			},
		})
	}
	return cmd
}

func osOptions() installer.OSOptions {
	return installer.OSOptions{Console: os.Stderr, Log: os.Stderr, In: os.Stdin, Out: os.Stdout}
}

// osVerb is the help line of a verb.
func osVerb(verb string) string {
	for _, v := range []struct{ verb, help string }{
		{"create", "Put a system onto an instance's disk"},
		{"import", "Put an exported system onto an instance's disk"},
		{"export", "Write an instance's system to standard output"},
		{"rename", "Give an instance's system another name"},
		{"verify", "Check the variant and the parameters"},
	} {
		if v.verb == verb {
			return v.help
		}
	}
	return fmt.Sprintf("Do the script %s", verb)
}
