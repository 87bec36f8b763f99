package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/hint"
)

// program is what a test may replace.
type program struct {
	version string
	agent   func() ([]byte, error) // the static binary sci-agent
	guest   func() ([]byte, error) // the static binary sci-guest
}

// run is the whole command: arguments in, exit code out.
func (p program) run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	ui := newUI(stdout, stderr)
	root := p.root(ui)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil && err != nil {
		err = interrupted{context.Cause(ctx)}
	}
	ui.close()
	if err != nil {
		ui.failure(err)
	}
	return codeOf(err)
}

// interrupted is the end by a signal; whatever failed because of it is not
// worth telling.
type interrupted struct{ cause error }

func (e interrupted) Error() string { return "interrupted: " + e.cause.Error() }
func (e interrupted) Unwrap() error { return e.cause }

func (p program) root(ui *ui) *cobra.Command {
	root := &cobra.Command{
		Use:   "sci-cd",
		Short: "Turn a description of a site into a Debian installer ISO",
		Long: `Turn a description of a site into a Debian installer ISO.

  sci-cd init            write a site file, with comments, to be changed
  sci-cd check FILE      what is wrong in it, all at once
  sci-cd build FILE      the ISO`,
		Version:       p.version,
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
	root.AddCommand(newInit(ui), newCheck(ui), newBuild(ui, p), newLock(ui, p), newInspect(ui), newVerify(ui), newWrite(ui), newCapture(ui, p), newTest(ui, p), newVersion(ui, p))
	root.SetUsageTemplate(root.UsageTemplate() + "\n" + exitHelp())
	root.InitDefaultCompletionCmd("completion") // now, so that its errors become ours
	root.InitDefaultHelpCmd()
	root.SuggestionsMinimumDistance = 2 // cobra's default, which it sets elsewhere
	root.Args = unknownCommand
	claim(root)
	if help, _, err := root.Find([]string{"help"}); err == nil {
		help.Args = knownTopic
	}
	return root
}

// unknownCommand names the nearest command.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	advice := "see: " + c.CommandPath() + " --help"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		advice = "did you mean: " + c.CommandPath() + " " + near[0]
	}
	return usageError{hint.New(fmt.Errorf("%s does not know the command %q", c.CommandPath(), args[0]), advice)}
}

// knownTopic refuses help for a command that is not there.
func knownTopic(c *cobra.Command, args []string) error {
	found, rest, err := c.Root().Find(args)
	if err != nil || len(rest) == 0 || !found.HasSubCommands() {
		return err
	}
	return unknownCommand(found, rest)
}

// claim makes what cobra's own commands say of their arguments a wrong command
// line.
func claim(c *cobra.Command) {
	for _, sub := range c.Commands() {
		claim(sub)
		check := sub.Args
		if check == nil && sub.HasSubCommands() {
			check = unknownCommand
		}
		if check == nil {
			continue
		}
		sub.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			if err == nil || as[usageError](err) {
				return err
			}
			return usageError{hint.New(err, "see: "+c.CommandPath()+" --help")}
		}
		if sub.HasSubCommands() && !sub.Runnable() {
			sub.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
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
	case least < most:
		return fmt.Sprintf("%d to %d arguments", least, most)
	case most == 1:
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", most)
}

// files completes names of files with an extension.
func files(extensions ...string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return extensions, cobra.ShellCompDirectiveFilterFileExt
	}
}
