package installer

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// Bounds on what is read from the medium, in bytes.
const (
	maxRelease = 16 << 20
	maxIndex   = 256 << 20
	maxDeb     = 1 << 30
)

// repository is the medium's archive after its signature and its index digests
// were checked.
type repository struct {
	root       string // the medium's mount point
	suite      string
	components []string
	date       time.Time      // of the Release file
	packages   []*deb.Package // the highest version of each name, sorted by name
	byName     map[string]*deb.Package
	providers  map[string][]*deb.Package
}

// openRepository verifies dists/SUITE/InRelease with the keyring, and the
// Packages index of every component by its digest. now decides whether keys
// have expired; a clock that is behind the medium's own date is no clock, and
// then the signatures' own time is used.
func openRepository(root, suite string, keys pgp.Keyring, now time.Time) (*repository, error) {
	name := filepath.Join(root, "dists", suite, "InRelease")
	data, err := readBounded(name, maxRelease)
	if err != nil {
		return nil, fmt.Errorf("cannot read the medium's archive: %w", err)
	}
	body, _, err := keys.VerifyClearsigned(data, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("cannot trust %s: %w", name, err)
	}
	release, err := deb.ParseControl(body)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	r := &repository{root: root, suite: suite, components: strings.Fields(release.Get("Components"))}
	if r.date, err = time.Parse(time.RFC1123, release.Get("Date")); err != nil {
		return nil, fmt.Errorf("cannot read %s: bad Date: %w", name, err)
	}
	if !now.Before(r.date) {
		if _, _, err := keys.VerifyClearsigned(data, now); err != nil {
			return nil, fmt.Errorf("cannot trust %s: %w", name, err)
		}
	}
	if got := release.Get("Codename"); got != suite {
		return nil, fmt.Errorf("cannot use %s: its Codename is %q, not %q", name, got, suite)
	}
	if err := r.readIndexes(release); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *repository) readIndexes(release deb.Control) error {
	sums, err := releaseSums(release.Get("SHA256"))
	if err != nil {
		return fmt.Errorf("cannot read the medium's Release file: %w", err)
	}
	arch := ""
	for _, a := range strings.Fields(release.Get("Architectures")) {
		if a != "all" {
			arch = a
		}
	}
	best := make(map[string]*deb.Package)
	for _, c := range r.components {
		if c != filepath.Base(c) || strings.HasPrefix(c, ".") {
			return fmt.Errorf("cannot read the medium's Release file: component %q", c)
		}
		if err := r.readIndex(c, arch, sums, best); err != nil {
			return err
		}
	}
	if len(best) == 0 {
		return fmt.Errorf("the medium's archive holds no package for %s", arch)
	}
	r.index(best)
	return nil
}

// readIndex reads the first form of a component's Packages that the Release
// file names and that is there.
func (r *repository) readIndex(component, arch string, sums map[string]releaseSum, best map[string]*deb.Package) error {
	for _, form := range []string{"Packages", "Packages.gz"} {
		rel := component + "/binary-" + arch + "/" + form
		sum, ok := sums[rel]
		if !ok {
			continue
		}
		data, err := readBounded(filepath.Join(r.root, "dists", r.suite, rel), maxIndex)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read the medium's archive: %w", err)
		}
		if got := sha256.Sum256(data); int64(len(data)) != sum.size || hex.EncodeToString(got[:]) != sum.sha256 {
			return hint.New(fmt.Errorf("cannot trust %s: its content is not what InRelease says", rel),
				"the medium is damaged: write it anew and compare its SHA-256")
		}
		var in io.Reader = bytes.NewReader(data)
		if strings.HasSuffix(form, ".gz") {
			z, err := gzip.NewReader(in)
			if err != nil {
				return fmt.Errorf("cannot read %s: %w", rel, err)
			}
			in = io.LimitReader(z, maxIndex)
		}
		err = deb.ScanPackages(in, func(p *deb.Package) error {
			if old := best[p.Name]; old == nil || deb.Compare(p.Version, old.Version) > 0 {
				best[p.Name] = p
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", rel, err)
		}
		return nil
	}
	return fmt.Errorf("the medium has no Packages index of component %s for %s", component, arch)
}

// index sorts the packages and notes who provides what.
func (r *repository) index(best map[string]*deb.Package) {
	r.byName, r.providers = best, make(map[string][]*deb.Package)
	for _, p := range best {
		r.packages = append(r.packages, p)
	}
	sort.Slice(r.packages, func(i, j int) bool { return r.packages[i].Name < r.packages[j].Name })
	for _, p := range r.packages {
		groups, err := deb.ParseRelations(p.Provides)
		if err != nil {
			continue // a package that nobody can depend on by this name
		}
		for _, g := range groups {
			for _, rel := range g {
				r.providers[rel.Name] = append(r.providers[rel.Name], p)
			}
		}
	}
}

type releaseSum struct {
	sha256 string
	size   int64
}

// releaseSums reads the SHA256 field of a Release file.
func releaseSums(field string) (map[string]releaseSum, error) {
	sums := make(map[string]releaseSum)
	for _, line := range strings.Split(field, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || len(f[0]) != 64 {
			return nil, fmt.Errorf("bad line %q", line)
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("bad line %q: %w", line, err)
		}
		sums[f[2]] = releaseSum{f[0], n}
	}
	return sums, nil
}

// read returns the bytes of a package's .deb after checking their digest.
func (r *repository) read(p *deb.Package) ([]byte, error) {
	if p.Filename == "" || !fs.ValidPath(p.Filename) {
		return nil, fmt.Errorf("package %s has the path %q", p.Name, p.Filename)
	}
	if p.Size < 0 || p.Size > maxDeb {
		return nil, fmt.Errorf("package %s has %d bytes", p.Name, p.Size)
	}
	f, err := os.Open(filepath.Join(r.root, filepath.FromSlash(p.Filename)))
	if err != nil {
		return nil, fmt.Errorf("cannot read package %s: %w", p.Name, err)
	}
	defer func() { _ = f.Close() }()
	data := make([]byte, p.Size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, hint.New(fmt.Errorf("cannot read package %s: %s: %w", p.Name, p.Filename, err), damaged)
	}
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != p.SHA256 {
		return nil, hint.New(fmt.Errorf("cannot trust package %s: %s is not what the index says", p.Name, p.Filename), damaged)
	}
	return data, nil
}

const damaged = "the medium is damaged: write it anew and compare its SHA-256"

// bootstrapSet is what has to be there before apt can work: essential are the
// packages marked Essential and what they need, all of which is unpacked
// before the first script runs; all adds what is of priority required, apt,
// and what those need. Both are sorted by name.
func (r *repository) bootstrapSet() (essential, all []*deb.Package, err error) {
	set := make(map[string]*deb.Package)
	var seeds []string
	for _, p := range r.packages {
		if p.Essential {
			seeds = append(seeds, p.Name)
		}
	}
	if len(seeds) == 0 {
		return nil, nil, errors.New("the medium's archive holds no essential package")
	}
	if err := r.close(set, seeds); err != nil {
		return nil, nil, err
	}
	essential = sorted(set)
	seeds = []string{"apt"}
	for _, p := range r.packages {
		if p.Priority == "required" {
			seeds = append(seeds, p.Name)
		}
	}
	if err := r.close(set, seeds); err != nil {
		return nil, nil, err
	}
	return essential, sorted(set), nil
}

func sorted(set map[string]*deb.Package) []*deb.Package {
	list := make([]*deb.Package, 0, len(set))
	for _, p := range set {
		list = append(list, p)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// close adds the seeds to the set, and what they depend on. What has one
// candidate only comes first; of a choice the first alternative is taken that
// the medium has, a real package before its providers.
func (r *repository) close(set map[string]*deb.Package, seeds []string) error {
	var queue []*deb.Package
	add := func(p *deb.Package) {
		if set[p.Name] == nil {
			set[p.Name] = p
			queue = append(queue, p)
		}
	}
	for _, name := range seeds {
		p := r.byName[name]
		if p == nil {
			return fmt.Errorf("package %s is not on the medium", name)
		}
		add(p)
	}
	type choice struct {
		of    *deb.Package
		group deb.Alternatives
	}
	var choices []choice
	for len(queue) > 0 || len(choices) > 0 {
		if len(queue) == 0 {
			c := choices[0]
			choices = choices[1:]
			if !r.satisfied(set, c.group) {
				candidates := r.candidates(c.group)
				if len(candidates) == 0 {
					return fmt.Errorf("package %s depends on %v, which is not on the medium", c.of.Name, c.group)
				}
				add(candidates[0])
			}
			continue
		}
		p := queue[0]
		queue = queue[1:]
		for _, field := range []string{p.PreDepends, p.Depends} {
			groups, err := deb.ParseRelations(field)
			if err != nil {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
			for _, g := range groups {
				if c := r.candidates(g); len(c) == 1 {
					add(c[0])
				} else {
					choices = append(choices, choice{p, g})
				}
			}
		}
	}
	return nil
}

// candidates are the packages that meet a dependency, best first.
func (r *repository) candidates(g deb.Alternatives) []*deb.Package {
	var list []*deb.Package
	for _, rel := range g {
		if p := r.byName[rel.Name]; p != nil && rel.SatisfiedBy(p.Version) {
			list = append(list, p)
		}
		if rel.Op != "" {
			continue
		}
		provided := append([]*deb.Package(nil), r.providers[rel.Name]...)
		sort.SliceStable(provided, func(i, j int) bool {
			return priority(provided[i]) < priority(provided[j])
		})
		list = append(list, provided...)
	}
	return list
}

func (r *repository) satisfied(set map[string]*deb.Package, g deb.Alternatives) bool {
	for _, p := range r.candidates(g) {
		if set[p.Name] != nil {
			return true
		}
	}
	return false
}

func priority(p *deb.Package) int {
	for i, name := range []string{"required", "important", "standard", "optional"} {
		if p.Priority == name {
			return i
		}
	}
	return 4
}
