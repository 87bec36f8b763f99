package build

import (
	"fmt"
	"io/fs"
	"strings"
)

// parts are the lists of what goes into the installer's initrd.
type parts struct {
	udebs []udebLine
	tools []toolLine
}

// udebLine is a udeb. An optional one is left out where the mirror lacks it.
type udebLine struct {
	name     string
	optional bool
}

// toolLine is a package, under the names that it has had, and the files of it.
type toolLine struct {
	names, files []string
}

// readParts reads installer.udebs and installer.tools.
func readParts(preseed fs.FS) (parts, error) {
	var p parts
	err := eachLine(preseed, "installer.udebs", func(line string) error {
		for _, word := range strings.Fields(line) {
			name, optional := strings.CutSuffix(word, "?")
			p.udebs = append(p.udebs, udebLine{name, optional})
		}
		return nil
	})
	if err != nil {
		return p, err
	}
	err = eachLine(preseed, "installer.tools", func(line string) error {
		names, files, ok := strings.Cut(line, ":")
		if !ok || len(strings.Fields(files)) == 0 {
			return fmt.Errorf("want \"PACKAGE: FILE…\", got %q", line)
		}
		p.tools = append(p.tools, toolLine{strings.Split(names, "|"), strings.Fields(files)})
		return nil
	})
	return p, err
}

// eachLine calls each for the lines of a list, without comments.
func eachLine(fsys fs.FS, name string, each func(string) error) error {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return fmt.Errorf("cannot read list: %w", err)
	}
	for i, line := range strings.Split(string(data), "\n") {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("%s:%d: %w", name, i+1, err)
		}
	}
	return nil
}
