package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/hint"
)

// run is the whole command: arguments in, exit code out.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	ui := newUI(stdout, stderr)
	root := newRoot(ui)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	ui.close()
	if err != nil {
		ui.failure(err)
	}
	return codeOf(err)
}

func newRoot(ui *ui) *cobra.Command {
	root := &cobra.Command{
		Use:           "sci-cd",
		Short:         "Turn a description of a site into a Debian installer ISO",
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(*cobra.Command, []string) error {
			return usageError{hint.New(errors.New("no command given"), "see: sci-cd help")}
		},
	}
	root.PersistentFlags().BoolVar(&ui.json, "json", false, "results and progress as JSON lines")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{hint.New(err, "see: "+c.CommandPath()+" --help")}
	})
	root.AddCommand(newInit(ui), newCheck(ui), newBuild(ui), newLock(ui), newInspect(ui), newVerify(ui), newWrite(ui), newTest(ui), newVersion(ui))
	root.SetUsageTemplate(root.UsageTemplate() + "\n" + exitHelp())
	return root
}

// arguments checks the number of arguments and names the usage.
func arguments(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		return usageError{hint.New(fmt.Errorf("%s takes %s, not %d", c.CommandPath(), count(least, most), len(args)), "usage: "+c.UseLine())}
	}
}

func count(least, most int) string {
	switch {
	case least == most && least == 1:
		return "1 argument"
	case least == most:
		return fmt.Sprintf("%d arguments", least)
	}
	return fmt.Sprintf("%d to %d arguments", least, most)
}
