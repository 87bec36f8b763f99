package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/agentdeb"
	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/resolve"
)

// Uses of packages other than by a class of machines.
const (
	useInstaller = "installer" // files for the initrd
	useBoot      = "boot"      // boot loaders, the netboot image
)

// arch is the only architecture for now.
const arch = "amd64"

// bootPackages hold what boots the medium.
var bootPackages = []string{"grub-efi-amd64-signed", "isolinux", "shim-helpers-amd64-signed", "shim-signed", "syslinux-common"}

// selectClasses returns what each class of machines of the site gets, by the
// name of the class.
func selectClasses(o Options) ([]*profile.Selection, error) {
	var classes []*profile.Selection
	for _, name := range o.Site.Classes() {
		sel, err := profile.Select(o.Site, name, o.Profiles)
		if err != nil {
			return nil, err
		}
		for _, n := range sel.Notes {
			o.note("%s", n)
		}
		classes = append(classes, sel)
	}
	return classes, nil
}

// currentLock reads the site's lock, or makes it where there is none. A lock
// that was made for other wishes is an error.
func currentLock(ctx context.Context, o Options, classes []*profile.Selection) (l *lock.Lock, isNew bool, err error) {
	want, err := inputs(o, classes)
	if err != nil {
		return nil, false, err
	}
	l, err = lock.Read(o.Lock)
	if errors.Is(err, fs.ErrNotExist) {
		plan, err := MakePlan(ctx, o)
		if err != nil {
			return nil, false, err
		}
		return plan.Lock, true, plan.Lock.Write(o.Lock)
	}
	if err != nil {
		return nil, false, err
	}
	return l, false, l.Check(want)
}

// inputs is the digest over everything that decides which packages a lock
// names, the archive itself apart.
func inputs(o Options, classes []*profile.Selection) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "release %s\narch %s\n", o.Site.Release, arch)
	for _, c := range classes {
		fmt.Fprintf(&b, "class %s\npackages %s\ndownloads %s\nudebs %s\nexcludes %s\n", c.Role,
			strings.Join(c.Packages, " "), strings.Join(c.Downloads, " "), strings.Join(c.Udebs, " "), strings.Join(c.Excludes, " "))
	}
	parts, err := readParts(o.Preseed)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "installer %v %v\nboot %v\n", parts.udebs, parts.tools, bootPackages)
	locals, err := localPackages(o.Site)
	if err != nil {
		return "", err
	}
	for _, p := range locals {
		fmt.Fprintf(&b, "local %s %s %s\n", p.Name, p.Version, p.SHA256)
	}
	control, err := agentControl(o)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "agent %s\n", control.Get("Depends"))
	if wantsIndexes(o) {
		b.WriteString("indexes 1\n") // locks from before there were any are stale
	}
	return digest([]byte(b.String())), nil
}

// Plan is a lock and the reasons behind it.
type Plan struct {
	Lock    *lock.Lock
	results []*resolve.Result
	classes []*profile.Selection
}

// Why says why a package is on the medium: for each class of machines that has
// it, the chain from what was asked for to the package.
func (p *Plan) Why(name string) []string {
	var lines []string
	for i, r := range p.results {
		if chain := r.Why(name); chain != nil {
			lines = append(lines, p.classes[i].Role+":")
			for _, step := range chain {
				lines = append(lines, "  "+step)
			}
			if origin := p.classes[i].Origin[strings.SplitN(chain[0], ":", 2)[0]]; origin != nil {
				lines = append(lines, "  asked for by "+strings.Join(origin, ", "))
			}
		}
	}
	for _, l := range p.Lock.Packages {
		for _, use := range l.Uses {
			if l.Name == name && (use == useInstaller || use == useBoot) {
				lines = append(lines, "medium: part of the "+use+" files")
			}
		}
	}
	return lines
}

// planner turns verified indexes into a lock.
type planner struct {
	universe *resolve.Universe
	source   map[*deb.Package]archive.Package
	udebs    map[string]*deb.Package
	debs     map[string]*deb.Package
	locked   map[string]*lock.Package // by SHA-256
}

// MakePlan reads the archive and resolves what the site asks for.
func MakePlan(ctx context.Context, o Options) (*Plan, error) {
	classes, err := selectClasses(o)
	if err != nil {
		return nil, err
	}
	o.step("archive")
	a, err := archive.Open(ctx, archiveOptions(o))
	if err != nil {
		return nil, &ArchiveError{err}
	}
	for _, n := range a.Notes() {
		o.note("%s", n)
	}
	p, err := newPlanner(o, a)
	if err != nil {
		return nil, err
	}
	o.step("resolve")
	plan := &Plan{classes: classes}
	for _, c := range classes {
		result, err := p.class(c)
		if err != nil {
			return nil, err
		}
		plan.results = append(plan.results, result)
	}
	if err := p.medium(ctx, o, a, classes); err != nil {
		return nil, err
	}
	want, err := inputs(o, classes)
	if err != nil {
		return nil, err
	}
	plan.Lock = p.lock(o, a, want)
	if err := lockIndexes(ctx, o, a, plan.Lock); err != nil {
		return nil, err
	}
	plan.Lock.Sort() // as it will be read back: a build with a new lock gives the same bytes
	return plan, nil
}

func archiveOptions(o Options) archive.Options {
	m := archive.Mirrors{Main: o.Site.Mirrors.Main, Security: o.Site.Mirrors.Security, Updates: o.Site.Mirrors.Updates}
	for _, f := range []struct {
		dst *string
		src string
	}{{&m.Main, o.Mirrors.Main}, {&m.Security, o.Mirrors.Security}, {&m.Updates, o.Mirrors.Updates}} {
		if f.src != "" {
			*f.dst = f.src
		}
	}
	apt := archive.AptMirrors(os.DirFS("/"))
	if m.Main == "" {
		m.Main = apt.Main
	}
	if m.Security == "" {
		m.Security = apt.Security
	}
	if m.Updates == "" {
		m.Updates = m.Main
	}
	out := archive.Options{Mirrors: m, Codename: o.Site.Release, Arch: arch, Cache: o.Cache, Now: o.Now, Progress: o.Progress, Offline: o.Offline}
	if o.Keyring != nil {
		out.Keyring = *o.Keyring
	}
	return out
}

func newPlanner(o Options, a *archive.Archive) (*planner, error) {
	p := &planner{
		source: make(map[*deb.Package]archive.Package), udebs: make(map[string]*deb.Package),
		debs: make(map[string]*deb.Package), locked: make(map[string]*lock.Package),
	}
	var all []*deb.Package
	take := func(pkg archive.Package) {
		p.source[pkg.Package] = pkg
		newest := p.debs
		if pkg.Kind == archive.Udeb {
			newest = p.udebs
		} else {
			all = append(all, pkg.Package)
		}
		if old := newest[pkg.Name]; old == nil || deb.Compare(pkg.Version, old.Version) > 0 {
			newest[pkg.Name] = pkg.Package
		}
	}
	for _, pkg := range a.Packages() {
		take(pkg)
	}
	locals, err := localPackages(o.Site)
	if err != nil {
		return nil, err
	}
	for _, l := range locals {
		take(archive.Package{Package: l, Pocket: localPocket, Kind: archive.Deb})
	}
	agent, err := agentStanza(o)
	if err != nil {
		return nil, err
	}
	all = append(all, agent)
	p.universe = resolve.NewUniverse(arch, all)
	return p, nil
}

// class resolves what a class of machines installs, and each package that is
// only on the medium together with it.
func (p *planner) class(c *profile.Selection) (*resolve.Result, error) {
	request := resolve.Request{Name: c.Role, Seeds: c.Packages, Excludes: c.Excludes, Priorities: []string{"required", "important"}}
	result, err := p.universe.Resolve(request)
	if err != nil {
		return nil, err
	}
	p.use(c.Role, result.Packages)
	for _, extra := range c.Downloads {
		request := request
		request.Name = c.Role + " with " + extra
		request.Seeds = append(slices.Clone(c.Packages), extra)
		more, err := p.universe.Resolve(request)
		if err != nil {
			return nil, err
		}
		p.use(c.Role, more.Packages)
	}
	return result, nil
}

// medium adds what the medium itself is made of: the installer and the boot
// loaders.
func (p *planner) medium(ctx context.Context, o Options, a *archive.Archive, classes []*profile.Selection) error {
	parts, err := readParts(o.Preseed)
	if err != nil {
		return err
	}
	netboot := p.debs[netbootName(a.Releases()[0].Version)]
	if netboot == nil {
		return fmt.Errorf("cannot find package %q in the archive", netbootName(a.Releases()[0].Version))
	}
	p.use(useBoot, []*deb.Package{netboot})
	for _, name := range bootPackages {
		if err := p.useNamed(useBoot, p.debs, name); err != nil {
			return err
		}
	}
	for _, tool := range parts.tools {
		if err := p.useNamed(useInstaller, p.debs, tool.names...); err != nil {
			return err
		}
	}
	for _, u := range parts.udebs {
		if u.optional && !p.available(ctx, o, u.name) {
			continue
		}
		if err := p.useNamed(useInstaller, p.udebs, u.name); err != nil {
			return err
		}
	}
	for _, c := range classes {
		for _, name := range c.Udebs {
			if err := p.useNamed(useInstaller, p.udebs, name); err != nil {
				return err
			}
		}
	}
	// The kernel's name is inside the netboot image.
	path, err := fetchOne(ctx, o, p.source[netboot].Item())
	if err != nil {
		return err
	}
	image, err := readNetboot(o, path, netboot.SHA256)
	if err != nil {
		return err
	}
	return p.useNamed(useInstaller, p.debs, "linux-image-"+image.stock.ABI)
}

// available says whether the mirror has the file of a udeb. Partial mirrors
// list udebs in their indexes whose files they do not have.
func (p *planner) available(ctx context.Context, o Options, name string) bool {
	u := p.udebs[name]
	if u == nil {
		o.note("the archive has no udeb %s; the installer does without it", name)
		return false
	}
	_, err := fetchOne(ctx, o, p.source[u].Item())
	if len(archive.NotFound(err)) > 0 {
		o.note("the mirror has not the file of udeb %s; the installer does without it", name)
		return false
	}
	return true // any other trouble comes up when all is fetched
}

// useNamed marks the first of the names that there is.
func (p *planner) useNamed(use string, from map[string]*deb.Package, names ...string) error {
	for _, name := range names {
		if pkg := from[name]; pkg != nil {
			p.use(use, []*deb.Package{pkg})
			return nil
		}
	}
	return hint.New(fmt.Errorf("cannot find %s in the archive; it is needed for the %s", strings.Join(names, " or "), use),
		"is the mirror complete, and does it carry debian-installer?")
}

func (p *planner) use(use string, packages []*deb.Package) {
	for _, pkg := range packages {
		src, ok := p.source[pkg]
		if !ok { // the agent: built, not locked
			continue
		}
		l := p.locked[pkg.SHA256]
		if l == nil {
			l = &lock.Package{
				Name: pkg.Name, Version: pkg.Version, Architecture: pkg.Architecture, Kind: string(src.Kind),
				Pocket: src.Pocket, Path: pkg.Filename, SHA256: pkg.SHA256, Size: pkg.Size,
				Priority: pkg.Priority, Section: pkg.Section,
			}
			p.locked[pkg.SHA256] = l
		}
		if !slices.Contains(l.Uses, use) {
			l.Uses = append(l.Uses, use)
			slices.Sort(l.Uses)
		}
	}
}

func (p *planner) lock(o Options, a *archive.Archive, want string) *lock.Lock {
	l := &lock.Lock{Format: lock.Format, Codename: o.Site.Release, Arch: arch, Inputs: want}
	for _, r := range a.Releases() {
		l.Releases = append(l.Releases, lock.Release{Pocket: r.Pocket, Suite: r.Suite, Version: r.Version, SHA256: r.SHA256, Date: r.Date})
	}
	for _, pkg := range p.locked {
		l.Packages = append(l.Packages, *pkg)
	}
	return l
}

// netbootName is the package with the installer's images: by the release's
// major number.
func netbootName(version string) string {
	major, _, _ := strings.Cut(version, ".")
	return "debian-installer-" + major + "-netboot-" + arch
}

// agentControl is the control stanza of the agent's package.
func agentControl(o Options) (deb.Control, error) {
	spec, err := agentdeb.Build(o.Agent, agentVersion(o.Version), time.Unix(0, 0))
	return spec.Control, err
}

func agentStanza(o Options) (*deb.Package, error) {
	c, err := agentControl(o)
	if err != nil {
		return nil, err
	}
	return stanzaPackage(c), nil
}

func stanzaPackage(c deb.Control) *deb.Package {
	return &deb.Package{
		Name: c.Get("Package"), Version: c.Get("Version"), Architecture: c.Get("Architecture"),
		MultiArch: c.Get("Multi-Arch"), Priority: c.Get("Priority"), Section: c.Get("Section"),
		Essential: c.Get("Essential") == "yes", PreDepends: c.Get("Pre-Depends"), Depends: c.Get("Depends"),
		Recommends: c.Get("Recommends"), Conflicts: c.Get("Conflicts"), Breaks: c.Get("Breaks"),
		Provides: c.Get("Provides"), Replaces: c.Get("Replaces"),
	}
}

// agentVersion makes a Debian version of the builder's.
func agentVersion(v string) string {
	v = strings.TrimPrefix(v, "v")
	if v == "" || deb.Valid(v) != nil {
		return "0~dev"
	}
	return v
}
