package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/installer"
)

// newInstaller has the verbs of pkg/installer as commands; d-i's menu items,
// made by pkg/initrd, call them.
func newInstaller() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "installer",
		Short: "Install this machine (only inside Debian's installer)",
		RunE: func(*cobra.Command, []string) error {
			return usageError{hint.New(errors.New("no verb given"), "see: sci-agent installer --help")}
		},
	}
	var o installer.Options
	var console, log string
	flags := cmd.PersistentFlags()
	flags.StringVar(&console, "console", "/dev/console", "where the lines for people and tests go")
	flags.StringVar(&log, "log", "/var/log/sci-agent.log", "where the output of commands goes; d-i keeps it in /var/log/installer of the new system")
	flags.StringVar(&o.Site, "site", "", "the site file as JSON (default /sci/site.json)")
	flags.StringVar(&o.Key, "key", "", "the site's public key (default /sci/site.gpg)")
	flags.StringVar(&o.Recipe, "recipe", "", "the disk recipe (default /sci/disk.yaml)")
	flags.StringVar(&o.Medium, "medium", "", "where the medium is mounted (default /cdrom)")
	flags.StringVar(&o.Target, "target", "", "where the new system is built (default /target)")
	flags.BoolVar(&o.PowerOff, "poweroff", false, "the installer powers off at the end instead of rebooting")
	for _, verb := range installer.Verbs() {
		cmd.AddCommand(&cobra.Command{
			Use:   verb,
			Short: installerVerb(verb),
			Args:  noArguments,
			RunE: func(c *cobra.Command, _ []string) error {
				w, err := os.OpenFile(console, os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					return fmt.Errorf("cannot open the console: %w", err)
				}
				defer func() { _ = w.Close() }()
				l, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
				if err != nil {
					return fmt.Errorf("cannot open the log: %w", err)
				}
				defer func() { _ = l.Close() }()
				o.Console, o.Log = w, l
				return installer.Run(c.Context(), verb, o)
			},
		})
	}
	return cmd
}

// installerVerb is the help line of a verb.
func installerVerb(verb string) string {
	for _, v := range []struct{ verb, help string }{
		{"answers", "Find out which host this is and answer the installer's questions"},
		{"medium", "Find the medium by the signature of the site and mount it"},
		{"disks", "Choose the disk, partition it and mount it"},
		{"base", "Verify the medium and lay out the base system"},
		{"packages", "Install the packages of the host's role"},
		{"boot", "Make the machine boot from its disk"},
		{"finish", "Lay out the site's files and the copy of the medium"},
		{"install", "Everything after answers, in order"},
		{"capture", "Install a class of machines and leave it as an image"},
	} {
		if v.verb == verb {
			return v.help
		}
	}
	return "Do the installer's step " + verb
}
