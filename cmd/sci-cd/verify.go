package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/verify"
)

func newVerify(ui *ui) *cobra.Command {
	var key, keyring string
	c := &cobra.Command{
		Use:   "verify ISO",
		Short: "Check every digest and signature of an ISO, offline",
		Long: `Check an ISO, or a disk with one on it, offline: every file by SHA256SUMS and
that by its signature, that no file is missing or extra, the repository from its
InRelease to every package, and what boots: El Torito, boot code, partitions.

The key on the medium proves that the medium is whole, not whose it is: whoever
changes a medium can sign it anew and put his own key on it. Say with --key which
key it must be: the file sci.key from beside the site file, its public half, or
the fingerprint that the build printed.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: files("iso"),
		RunE: func(c *cobra.Command, args []string) error {
			o := verify.Options{Progress: func(done, total int64) { ui.transfer("read", done, total) }}
			if key != "" {
				if err := believe(&o, key); err != nil {
					return err
				}
			}
			if keyring != "" {
				var err error
				if o.Debian, err = pgp.LoadKeyring(keyring); err != nil {
					return err
				}
			}
			f, length, err := openImage(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			r, err := verify.Image(c.Context(), f, length, o)
			if err != nil {
				return err
			}
			return judge(ui, r, args[0])
		},
	}
	c.Flags().StringVar(&keyring, "keyring", os.Getenv("SCI_CD_KEYRING"), "keys that the archive's own indexes are believed by, instead of Debian's (SCI_CD_KEYRING)")
	c.Flags().StringVar(&key, "key", "", "the site's key, from elsewhere than the medium: a `FILE`, public or private, or its fingerprint")
	return c
}

// fingerprint is one of OpenPGP, version 4.
var fingerprint = regexp.MustCompile("^[0-9A-F]{40}$")

// believe takes a key's fingerprint, or the key from a file.
func believe(o *verify.Options, key string) (err error) {
	if hex := strings.ToUpper(strings.ReplaceAll(key, " ", "")); fingerprint.MatchString(hex) {
		o.Fingerprint = hex
		return nil
	}
	o.Key, err = pgp.LoadPublic(key)
	return err
}

// judge prints what was found; problems make the command fail.
func judge(ui *ui, r *verify.Report, path string) error {
	text := ""
	for _, p := range r.Problems {
		text += p.String() + "\n"
	}
	if len(r.Problems) == 0 {
		text = fmt.Sprintf("%s: %d files, %d packages, %s: all as built\n  sha256 %s\n  key    %s, %s\n", path, r.Files, r.Packages, size(r.Size), r.SHA256, r.Fingerprint, trust(r))
		if len(r.Debian) > 0 {
			text += fmt.Sprintf("  debian %s: indexes signed by the archive's keys\n", strings.Join(r.Debian, ", "))
		}
	}
	if err := ui.result(r, "%s", text); err != nil || len(r.Problems) == 0 {
		return err
	}
	problems := "1 problem"
	if n := len(r.Problems); n != 1 {
		problems = fmt.Sprintf("%d problems", n)
	}
	return checkError{hint.New(errors.New(path+" is not as it was built: "+problems), "do not install from it; build or download it anew")}
}

func trust(r *verify.Report) string {
	if r.Trusted {
		return "the one given"
	}
	return "from the medium itself: it proves that the medium is whole, not whose it is (see --key)"
}
