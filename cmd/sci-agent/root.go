package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
	"github.com/skycover/sci-cd/pkg/hint"
)

// The exit codes. The unit sci-agent.service knows exitStopped and exitSignal.
const (
	exitOK       = 0
	exitFailed   = 1
	exitUsage    = 2
	exitStopped  = 3
	exitNotReady = 4
	exitSignal   = 130
)

const exitTable = `
Exit codes:
  0    done; status: the machine is ready
  1    failed; the message says why
  2    wrong usage
  3    run: stopped, only a person can go on
  4    status: not ready yet
  130  ended by a signal; the next run goes on from there
`

var errNotReady = errors.New("not ready yet")

// usageError is a wrong command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := newRoot()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	code := exitCode(err)
	if err == nil || code == exitNotReady || errors.Is(err, errSaid) {
		return code
	}
	_, _ = fmt.Fprintf(stderr, "sci-agent: %v\n", err)
	if advice := hint.Of(err); advice != "" {
		_, _ = fmt.Fprintf(stderr, "hint: %s\n", advice)
	}
	return code
}

func exitCode(err error) int {
	var stop *agent.StopError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNotReady):
		return exitNotReady
	case errors.As(err, &stop):
		return exitStopped
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitSignal
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sci-agent",
		Short: "Make this machine the host that its site file describes",
		Long: "sci-agent goes through a plan of steps at each boot: which host is this, its name,\n" +
			"its networks, time, apt's sources, and on nodes the cluster. What is done is not done\n" +
			"again; what fails is tried again until it succeeds.",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(*cobra.Command, []string) error {
			return usageError{hint.New(errors.New("no command given"), "see: sci-agent --help")}
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpTemplate(root.HelpTemplate() + exitTable)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{hint.New(err, "see: "+c.CommandPath()+" --help")}
	})
	root.AddCommand(newRun(), newStatus(), newJoin(), newTakeOver(), newMetrics(), newChallenge(), newAutosign(), newApprox(), newBanner(), newInstaller(), newOS(), newVersion())
	for _, c := range append(root.Commands(), root) {
		if c.Args == nil {
			c.Args = noArguments
		}
		c.SuggestionsMinimumDistance = 2 // cobra's default, which it sets elsewhere
	}
	return root
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	advice := "see: " + c.CommandPath() + " --help"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		advice = "did you mean: " + c.CommandPath() + " " + near[0]
	}
	return usageError{hint.New(fmt.Errorf("%s does not know %q", c.CommandPath(), args[0]), advice)}
}
