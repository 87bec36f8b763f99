package site

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/skycover/sci-cd/pkg/hint"
)

// sizeLimit bounds a site file: a thousand hosts take about 300 KiB.
const sizeLimit = 1 << 20

// Load reads and checks the site file at path, and that the directories which
// it names exist. What is wrong in the file comes back as Problems, all at
// once. With Problems the Site holds what could be read, so that a caller may
// look for further problems; it is nil if that was nothing.
func Load(path string) (*Site, error) {
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	s, problems := parse(path, data)
	if s == nil {
		return nil, problems
	}
	s.Dir = filepath.Dir(path)
	problems = append(problems, s.checkDirs()...)
	return s, problems.err()
}

// Parse reads and checks a site file that was read already; name is for the
// messages. What comes back is as with Load.
func Parse(name string, data []byte) (*Site, error) {
	if len(data) > sizeLimit {
		return nil, fmt.Errorf("cannot read site file %q: larger than %d MiB", name, sizeLimit>>20)
	}
	s, problems := parse(name, data)
	if s == nil {
		return nil, problems
	}
	return s, problems.err()
}

func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	ps.Sort()
	return ps
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.New(fmt.Errorf("cannot read site file %q: it does not exist", path), "write an example with: sci-cd init")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read site file: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, sizeLimit+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read site file: %w", err)
	}
	if len(data) > sizeLimit {
		return nil, fmt.Errorf("cannot read site file %q: larger than %d MiB", path, sizeLimit>>20)
	}
	return data, nil
}

func parse(name string, data []byte) (*Site, Problems) {
	d := &decoder{file: name, pos: make(positions), bad: make(map[string]bool)}
	root := d.parse(data)
	if root == nil {
		return nil, d.problems
	}
	s := &Site{file: name, pos: d.pos}
	d.structure("", root, reflect.ValueOf(s).Elem())
	s.setDefaults()
	c := &checker{s: s, given: true, bad: d.bad, problems: d.problems}
	c.site()
	c.problems.Sort()
	return s, c.problems
}

// setDefaults fills in what the file left out; the values stand in the fields'
// default tags for the documentation too.
func (s *Site) setDefaults() {
	v := reflect.ValueOf(s).Elem()
	for _, f := range fieldsOf(v.Type()) {
		if f.def == "" || !v.Field(f.index).IsZero() {
			continue
		}
		switch v.Field(f.index).Kind() {
		case reflect.String:
			v.Field(f.index).SetString(f.def)
		case reflect.Slice:
			v.Field(f.index).Set(reflect.ValueOf([]string{f.def}))
		}
	}
}

// JSON renders the site for the agent, root's hash included: whoever writes it
// to a file gives that file mode 0600.
func (s *Site) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot render site %q as JSON: %w", s.Name, err)
	}
	return append(data, '\n'), nil
}

// FromJSON reads and checks what JSON wrote.
func FromJSON(data []byte) (*Site, error) {
	if len(data) > sizeLimit {
		return nil, fmt.Errorf("cannot read site as JSON: larger than %d MiB", sizeLimit>>20)
	}
	s := &Site{file: "site.json"}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("cannot read site as JSON: %w", err)
	}
	s.setDefaults()
	c := &checker{s: s, bad: make(map[string]bool)}
	c.site()
	if err := c.problems.err(); err != nil {
		return nil, err
	}
	return s, nil
}

// Problem makes a problem of this site's file, placed where the value at path
// stands: "hosts[0].role", "profiles[1]".
func (s *Site) Problem(path, message, advice string) Problem {
	p := s.pos[path]
	return Problem{File: s.file, Line: p.line, Column: p.column, Message: message, Hint: advice}
}

// checkDirs looks for the directories that the site file names.
func (s *Site) checkDirs() Problems {
	var problems Problems
	for _, d := range []struct{ path, dir string }{{"profileDir", s.ProfileDir}, {"localDebs", s.LocalDebs}} {
		if d.dir == "" || !filepath.IsLocal(d.dir) {
			continue
		}
		full := s.beside(d.dir)
		info, err := os.Stat(full)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			problems = append(problems, s.Problem(d.path, fmt.Sprintf("%s: directory %q does not exist beside the site file", d.path, d.dir), "make it, or leave "+d.path+" out"))
		case err != nil:
			problems = append(problems, s.Problem(d.path, fmt.Sprintf("%s: %v", d.path, err), ""))
		case !info.IsDir():
			problems = append(problems, s.Problem(d.path, fmt.Sprintf("%s: %q is no directory", d.path, d.dir), ""))
		}
	}
	return problems
}
