package profile

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/site"
)

// Arch is the only architecture that media are built for.
const Arch = "amd64"

// Selection is what machines of one class get: all their profiles together.
type Selection struct {
	// Role is the class that was asked for: a role ("node"), or a role with
	// hosts' own profiles ("node+monitoring"), see site.Host.Class.
	Role string
	// Profiles are the names of the profiles, in the order of application.
	Profiles  []string
	Packages  []string // each once; sorted
	Downloads []string
	Udebs     []string
	Excludes  []string
	Preseed   []string // one text a profile, in order
	Scripts   []Script // in order
	Extra     []Extra
	Notes     []string
	// Origin says for every name in Packages, Downloads and Udebs which lists
	// named it: "profile node", "site file".
	Origin map[string][]string
}

// Script is a profile's postinst.
type Script struct {
	Name string // of the profile
	Data []byte
}

// Select puts together what machines of that class get: the profiles default,
// the role's, the site's, and those that the class names; then the site's own
// packages. builtin holds our profiles at its root.
//
// A package that one profile installs and another one merely downloads is
// installed. A package that is installed by one profile and excluded by another
// one is an error.
func Select(s *site.Site, class string, builtin fs.FS) (*Selection, error) {
	names := profileNames(s, class)
	list, err := Load(builtin, dirs(s), names, s.Release)
	if err != nil {
		return nil, err
	}
	sel := &Selection{Role: class, Profiles: names, Origin: make(map[string][]string)}
	for _, p := range list {
		sel.add(p)
	}
	for _, name := range s.Packages {
		sel.Packages = sel.name(sel.Packages, name, "site file")
	}
	if err := sel.settle(); err != nil {
		return nil, fmt.Errorf("cannot combine the profiles of %q: %w", class, err)
	}
	return sel, nil
}

// profileNames are the profiles of a class in order, each once.
func profileNames(s *site.Site, class string) []string {
	role, own, _ := strings.Cut(class, "+")
	names := append([]string{Default, role}, s.Profiles...)
	if own != "" {
		names = append(names, strings.Split(own, "+")...)
	}
	var once []string
	for _, n := range names {
		if !slices.Contains(once, n) {
			once = append(once, n)
		}
	}
	return once
}

func dirs(s *site.Site) []string {
	if dir := s.ProfilePath(); dir != "" {
		return []string{dir}
	}
	return nil
}

func (sel *Selection) add(p Profile) {
	origin := "profile " + p.Name
	for _, name := range p.Packages {
		sel.Packages = sel.name(sel.Packages, name, origin)
	}
	for _, name := range p.Downloads {
		sel.Downloads = sel.name(sel.Downloads, name, origin)
	}
	for _, name := range p.Udebs {
		sel.Udebs = sel.name(sel.Udebs, name, origin)
	}
	for _, name := range p.Excludes {
		if !slices.Contains(sel.Excludes, name) {
			sel.Excludes = append(sel.Excludes, name)
		}
	}
	if p.Preseed != "" {
		sel.Preseed = append(sel.Preseed, p.Preseed)
	}
	if p.Postinst != nil {
		sel.Scripts = append(sel.Scripts, Script{p.Name, p.Postinst})
	}
	sel.Extra = append(sel.Extra, p.Extra...)
	sel.Notes = append(sel.Notes, p.Notes...)
}

func (sel *Selection) name(list []string, name, origin string) []string {
	if !slices.Contains(sel.Origin[name], origin) {
		sel.Origin[name] = append(sel.Origin[name], origin)
	}
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

// settle sorts the lists and looks for what contradicts.
func (sel *Selection) settle() error {
	sel.Downloads = slices.DeleteFunc(sel.Downloads, func(n string) bool { return slices.Contains(sel.Packages, n) || slices.Contains(sel.Excludes, n) })
	for _, list := range [][]string{sel.Packages, sel.Downloads, sel.Udebs, sel.Excludes} {
		slices.Sort(list)
	}
	var faults []error
	for _, n := range sel.Packages {
		if slices.Contains(sel.Excludes, n) {
			faults = append(faults, fmt.Errorf("%s is installed (%s) and excluded", n, strings.Join(sel.Origin[n], ", ")))
		}
	}
	slices.SortFunc(sel.Extra, func(a, b Extra) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(sel.Extra); i++ {
		if sel.Extra[i].Name == sel.Extra[i-1].Name {
			faults = append(faults, fmt.Errorf("two profiles put a file %q onto the medium", sel.Extra[i].Name))
		}
	}
	return errors.Join(faults...)
}

// LoadSite is site.Load and the profiles of its hosts: everything that is wrong
// in the site file comes back at once as site.Problems, each role and profile
// that does not exist among them. What is wrong in a profile's own files comes
// back as another error.
func LoadSite(file string, builtin fs.FS) (*site.Site, error) {
	s, err := site.Load(file)
	var problems site.Problems
	if err != nil && !errors.As(err, &problems) || s == nil {
		return nil, err
	}
	more, err := Check(s, builtin)
	if problems = append(problems, more...); len(problems) > 0 {
		problems.Sort()
		return s, problems
	}
	return s, err
}

// Check looks for roles and profiles that the site file names and that do not
// exist.
func Check(s *site.Site, builtin fs.FS) (site.Problems, error) {
	type use struct{ path, name, what string }
	uses := []use{}
	for i, h := range s.Hosts {
		uses = append(uses, use{fmt.Sprintf("hosts[%d].role", i), h.Role, "role"})
		for j, p := range h.Profiles {
			uses = append(uses, use{fmt.Sprintf("hosts[%d].profiles[%d]", i, j), p, "profile"})
		}
	}
	for i, p := range s.Profiles {
		uses = append(uses, use{fmt.Sprintf("profiles[%d]", i), p, "profile"})
	}
	var problems site.Problems
	var faults []error
	seen := map[string]error{}
	for _, u := range uses {
		if u.name == "" || !validName(u.name) {
			continue // said already
		}
		err, known := seen[u.name]
		if !known {
			_, err = Load(builtin, dirs(s), []string{u.name}, s.Release)
			seen[u.name] = err
		}
		var absent *NotFoundError
		switch {
		case errors.As(err, &absent):
			message := fmt.Sprintf("%s: profile %q does not exist", u.path, u.name)
			if u.what == "role" {
				message = fmt.Sprintf("%s: role %q has no profile", u.path, u.name)
			}
			problems = append(problems, s.Problem(u.path, message, hint.Of(err)))
		case err != nil && !known:
			faults = append(faults, err)
		}
	}
	return problems, errors.Join(faults...)
}
