package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/agentdeb"
	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/image"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/repo"
	"github.com/skycover/sci-cd/pkg/tree"
)

// packAgent builds the agent's package into the cache.
func packAgent(o Options, when time.Time) (repo.Package, error) {
	spec, err := agentdeb.Build(o.Agent, agentVersion(o.Version), when)
	if err != nil {
		return repo.Package{}, err
	}
	var b bytes.Buffer
	if err := deb.Write(&b, spec); err != nil {
		return repo.Package{}, fmt.Errorf("cannot build package %s: %w", agentdeb.Name, err)
	}
	sum, err := o.Cache.PutBytes(b.Bytes())
	if err != nil {
		return repo.Package{}, err
	}
	file, _ := o.Cache.Path(sum)
	name := fmt.Sprintf("%s_%s_%s.deb", agentdeb.Name, agentVersion(o.Version), arch)
	return repo.Package{Path: path.Join("pool", "site", name), File: file, SHA256: sum, Size: int64(b.Len())}, nil
}

// inPool says whether a locked package goes onto the medium as a package:
// what a class of machines uses, and udebs.
func inPool(p lock.Package) bool {
	return p.Kind == "udeb" || slices.ContainsFunc(p.Uses, func(u string) bool { return u != useBoot && u != useInstaller })
}

// place is where a locked package stands on the medium.
func place(p lock.Package) string {
	if strings.HasPrefix(p.Path, "pool/") {
		return p.Path
	}
	return path.Join("pool", p.Path) // security has updates in other directories
}

func makeRepository(o Options, l *lock.Lock, files map[string]string, agent repo.Package, key *pgp.Key, when time.Time) (*tree.Tree, error) {
	packages := []repo.Package{agent}
	for _, p := range l.Packages {
		if !inPool(p) {
			continue
		}
		packages = append(packages, repo.Package{
			Path: place(p), File: files[p.SHA256], SHA256: p.SHA256, Size: p.Size,
			Udeb: p.Kind == "udeb", Priority: p.Priority, Section: p.Section,
		})
	}
	return repo.Build(repo.Options{
		Origin: "SCI-CD", Label: o.Site.Name, Suite: l.Main().Suite, Codename: l.Codename, Version: l.Main().Version,
		Description: "Debian " + l.Main().Version + ", what site " + o.Site.Name + " needs of it", Arch: arch,
		Packages: packages, Key: key, Time: when,
		Control: func(p repo.Package) (deb.Control, error) { return cachedControl(o, p) },
	})
}

// cachedControl is repo.ReadControl with a memory: unpacking several hundred
// control members is the slowest part of a repository.
func cachedControl(o Options, p repo.Package) (deb.Control, error) {
	data, err := derived(o, "control", p.SHA256, func() ([]byte, error) {
		c, err := repo.ReadControl(p)
		return []byte(c.String()), err
	})
	if err != nil {
		return nil, err
	}
	return deb.ParseControl(data)
}

// roleFiles are the files below sci/ on the medium, a directory for each class
// of machines: its packages, its overlay, its scripts.
func roleFiles(o Options, classes []*profile.Selection, when time.Time) (*tree.Tree, error) {
	t := &tree.Tree{}
	for _, c := range classes {
		overlay, err := profile.Overlay(o.Overlay, c.Role)
		if err != nil {
			return nil, err
		}
		packed, err := packTar(overlay, when)
		if err != nil {
			return nil, err
		}
		if err := t.AddBytes(path.Join(c.Role, "overlay.tar.gz"), 0o644, packed); err != nil {
			return nil, err
		}
		if err := t.AddBytes(path.Join(c.Role, "packages"), 0o644, []byte(strings.Join(c.Packages, "\n")+"\n")); err != nil {
			return nil, err
		}
		for i, s := range c.Scripts {
			if err := t.AddBytes(path.Join(c.Role, "scripts", fmt.Sprintf("%02d-%s", i+1, s.Name)), 0o755, s.Data); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// packTar packs a tree as a deterministic .tar.gz.
func packTar(t *tree.Tree, when time.Time) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range t.Entries() {
		h := &tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm()), Size: e.Size, ModTime: when, Typeflag: tar.TypeReg, Uid: e.UID, Gid: e.GID, Format: tar.FormatPAX}
		switch e.Mode.Type() {
		case fs.ModeDir:
			h.Typeflag, h.Size, h.Name = tar.TypeDir, 0, e.Path+"/"
		case fs.ModeSymlink:
			h.Typeflag, h.Size, h.Linkname = tar.TypeSymlink, 0, e.Link
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := e.ReadAll(64 << 20)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func manifest(o Options, l *lock.Lock, classes []*profile.Selection, images map[string]*image.Manifest, agent repo.Package, key *pgp.Key, b *boot, when time.Time) media.Manifest {
	m := media.Manifest{
		Format: 1, Builder: "sci-cd " + o.Version, Site: o.Site.Name, Domain: o.Site.Domain,
		Codename: l.Codename, Version: l.Main().Version, Arch: arch, Kernel: b.abi,
		Unattended: o.Site.Unattended, Consoles: o.Site.Console, Time: when,
		LockSHA256: digest(l.Bytes()), Fingerprint: key.Fingerprint(), Networks: make(map[string]string),
	}
	for name, n := range o.Site.Networks {
		m.Networks[name] = n.Subnet.String()
	}
	for i := range o.Site.Hosts {
		h := &o.Site.Hosts[i]
		line := media.HostLine{
			Name: h.Name, FQDN: o.Site.FQDN(h.Name), Role: h.Class(), Virtual: h.Virtual,
			Serial: h.Match.Serial, AssetTag: h.Match.AssetTag, Addresses: make(map[string]string),
			Disk: h.Disk.Serial, MinDisk: int64(h.Disk.MinSize),
		}
		for _, mac := range h.Match.MAC {
			line.MACs = append(line.MACs, string(mac))
		}
		for network, address := range h.Addresses {
			line.Addresses[network] = address.String()
		}
		m.Hosts = append(m.Hosts, line)
	}
	for _, c := range classes {
		line := media.RoleLine{Name: c.Role, Profiles: c.Profiles, Packages: c.Packages}
		if img := images[c.Role]; img != nil {
			line.Image = img.Inputs
		}
		m.Roles = append(m.Roles, line)
	}
	for _, p := range l.Packages {
		if inPool(p) {
			m.Packages = append(m.Packages, media.Package{
				Name: p.Name, Version: p.Version, Architecture: p.Architecture, Kind: p.Kind,
				Size: p.Size, SHA256: p.SHA256, Path: place(p), Uses: p.Uses,
			})
		}
	}
	m.Packages = append(m.Packages, media.Package{
		Name: agentdeb.Name, Version: agentVersion(o.Version), Architecture: arch, Kind: "deb",
		Size: agent.Size, SHA256: agent.SHA256, Path: agent.Path, Uses: []string{"site"},
	})
	return m
}
