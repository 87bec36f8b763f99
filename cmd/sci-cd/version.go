package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/pgp"
)

// versions is what decides, beside the site folder, which bytes a build makes.
type versions struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Agent   string `json:"agentSHA256"` // "" where none is embedded
	Keyring string `json:"debianArchiveKeyring"`
}

func newVersion(ui *ui, p program) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which sci-cd this is",
		Long:  `Say which sci-cd this is, and what is in it: the agent, Debian's keys.`,
		Args:  arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			v := versions{Version: p.version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, Keyring: pgp.DebianKeyringVersion}
			agent, err := embeddedAgent()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			about := "none: compiled from the sources at each build"
			if err == nil {
				sum := sha256.Sum256(agent)
				v.Agent = hex.EncodeToString(sum[:])
				about = "sha256 " + v.Agent
			}
			return ui.result(v, "sci-cd %s (%s, %s/%s)\n  agent                   %s\n  debian-archive-keyring  %s\n", v.Version, v.Go, v.OS, v.Arch, about, v.Keyring)
		},
	}
}
