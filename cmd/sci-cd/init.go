package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

func newInit(ui *ui) *cobra.Command {
	return &cobra.Command{
		Use:   "init [PATH]",
		Short: "Write a commented site file",
		Long: `Write a commented site file, an example that builds as it is, to PATH (default
site.yaml). A file that is there already stays as it is. With - it goes to
standard output.`,
		Args:              arguments(0, 1),
		ValidArgsFunction: files("yaml", "yml"),
		RunE: func(_ *cobra.Command, args []string) error {
			path := "site.yaml"
			if len(args) > 0 {
				path = args[0]
			}
			if path == "-" {
				_, err := ui.out.Write(site.Example())
				return err
			}
			if err := create(path, site.Example()); err != nil {
				return err
			}
			return ui.result(map[string]string{"site": path}, "%s\n  change it, then: sci-cd check %s\n", path, path)
		},
	}
}

// create writes a new file; what is there is never touched.
func create(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return hint.New(fmt.Errorf("cannot write site file: %w", err), "name another path, or remove it")
	}
	if err != nil {
		return fmt.Errorf("cannot write site file: %w", err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("cannot write site file: %w", err), os.Remove(path))
	}
	return nil
}
