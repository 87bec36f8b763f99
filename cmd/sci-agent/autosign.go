package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/agent"
	"github.com/skycover/sci-cd/pkg/enrol"
	"github.com/skycover/sci-cd/pkg/hint"
)

// newAutosign is what Puppet's server asks whether to sign: puppet.conf(5),
// autosign, policy-based. It runs as puppet.
func newAutosign() *cobra.Command {
	var domain, keyFile, refused string
	cmd := &cobra.Command{
		Use:    "autosign CERTNAME <CSR",
		Short:  "Say by the exit code whether a machine gets a certificate (Puppet's server runs this)",
		Hidden: true,
		Args:   oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			data, err := readSmall(keyFile, 256)
			if err != nil {
				return fmt.Errorf("cannot read the key of challenges: %w", err)
			}
			p := enrol.Policy{Domain: domain}
			if p.Key, err = enrol.ParseChallengeKey(data); err != nil {
				return fmt.Errorf("%s: %w", keyFile, err)
			}
			if data, err = readSmall(refused, 1<<20); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot read who is to be refused: %w", err)
			}
			p.Refused = strings.Fields(string(data))
			if err := p.Judge(args[0], c.InOrStdin()); err != nil {
				return fmt.Errorf("no certificate for %.100q: %w", args[0], err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&domain, "domain", "", "the site's `DOMAIN`")
	cmd.Flags().StringVar(&keyFile, "key", "/"+enrol.ChallengeKeyFile, "`FILE` with the key of challenges")
	cmd.Flags().StringVar(&refused, "refused", "/etc/sci/puppet/refused", "`FILE` with names that get no certificate, if it exists")
	return cmd
}

// newChallenge is for machines that were made by hand.
func newChallenge() *cobra.Command {
	return &cobra.Command{
		Use:   "challenge HOST",
		Short: "Print by what a machine enrols at the site's Puppet server (on a node)",
		Long: `Print the challenge of a machine, for one that was made by hand: write it into
/etc/sci/puppet/challenge there, mode 0600. It is a secret: whoever has it gets the
certificate of a machine of that name. HOST is the full name.`,
		Args: oneArgument,
		RunE: func(c *cobra.Command, args []string) error {
			challenge, err := agent.Challenge("/", args[0])
			if err != nil {
				return hint.New(err, "run it as root on a node of the cluster, or on the service machine")
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), challenge)
			return err
		},
	}
}

// readSmall reads a file of at most limit bytes.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: more than %d bytes", name, limit)
	}
	return data, err
}
