package lock

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

const heading = `# Written by "sci-cd lock". It belongs beside the site file, under version control.
# A line a package: kind, name, version, architecture, uses, pocket, size, SHA-256,
# priority, section, path.
`

// Bytes returns the file. It depends on what l holds only, not on the order.
func (l *Lock) Bytes() []byte {
	sorted := *l
	sorted.Releases, sorted.Indexes, sorted.Packages = slices.Clone(l.Releases), slices.Clone(l.Indexes), slices.Clone(l.Packages)
	sorted.Sort()
	var b bytes.Buffer
	b.WriteString(heading)
	fmt.Fprintf(&b, "format %d\nrelease %s %s\ninputs %s\n", l.format(), word(l.Codename), word(l.Arch), word(l.Inputs))
	for _, r := range sorted.Releases {
		fmt.Fprintf(&b, "pocket %s %s %s %s %s\n", word(r.Pocket), word(r.Suite), word(r.Version), r.Date.UTC().Format(time.RFC3339), r.SHA256)
	}
	for _, x := range sorted.Indexes {
		fmt.Fprintf(&b, "index %s %d %s %s\n", word(x.Pocket), x.Size, x.SHA256, word(x.Path))
	}
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	for _, p := range sorted.Packages {
		// A bytes.Buffer does not fail, nor does the tabwriter before it.
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n",
			p.Kind, word(p.Name), word(p.Version), word(p.Architecture), word(strings.Join(p.Uses, ",")), word(p.Pocket),
			p.Size, p.SHA256, word(p.Priority), word(p.Section), word(p.Path))
	}
	_ = w.Flush()
	fmt.Fprintf(&b, "end %d\n", len(sorted.Packages))
	return b.Bytes()
}

// format is that of the file: the lowest that can hold the lock.
func (l *Lock) format() int {
	if len(l.Indexes) > 0 {
		return max(l.Format, FormatIndexes)
	}
	return max(l.Format, Format)
}

func word(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Write puts the lock at path, replacing what is there in one step. It refuses
// a lock that Parse would not read.
func (l *Lock) Write(path string) error {
	data := l.Bytes()
	if _, err := Parse(path, data); err != nil {
		return fmt.Errorf("cannot write lock: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".sci.lock-*")
	if err != nil {
		return fmt.Errorf("cannot write lock: %w", err)
	}
	defer os.Remove(f.Name()) // fails when it was renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("cannot write lock %s: %w", path, err)
	}
	return nil
}

// Read reads the lock at path. A missing file is an error that matches
// fs.ErrNotExist.
func Read(path string) (*Lock, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read lock: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read lock: %w", err)
	}
	return Parse(path, data)
}
