package build

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/initrd"
	"github.com/skycover/sci-cd/pkg/lock"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/pgp"
	"github.com/skycover/sci-cd/pkg/preseed"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/tree"
)

// segmentFormat is part of the key under which the part of the initrd that is
// the same for all sites is cached: raise it when that part is made in another way.
const segmentFormat = "3"

// boot is what the medium boots.
type boot struct {
	kernel  []byte
	initrd  tree.Entry
	loaders media.Loaders
	abi     string
}

// netboot is Debian's installer image for network boot.
type netboot struct {
	kernel []byte
	gz     []byte // initrd.gz
	stock  *initrd.Stock
}

// makeInstaller returns kernel, initrd and boot loaders. The initrd is the
// stock one, a segment that is the same for all sites, and a segment of this
// site.
func makeInstaller(ctx context.Context, o Options, l *lock.Lock, files map[string]string, classes []*profile.Selection, key *pgp.Key, when time.Time) (*boot, error) {
	var image *netboot
	for _, p := range l.ByUse(useBoot) {
		if strings.HasPrefix(p.Name, "debian-installer-") {
			var err error
			if image, err = readNetboot(o, files[p.SHA256], p.SHA256); err != nil {
				return nil, err
			}
		}
	}
	if image == nil {
		return nil, errors.New("cannot find the netboot image in the lock")
	}
	base, err := baseSegment(ctx, o, l, files, image.stock)
	if err != nil {
		return nil, err
	}
	own, err := siteSegment(o, image.stock, l, classes, key, when)
	if err != nil {
		return nil, err
	}
	loaders, err := readLoaders(l, files)
	if err != nil {
		return nil, err
	}
	segments := [][]byte{image.gz, base, own}
	return &boot{kernel: image.kernel, initrd: concat(segments), loaders: *loaders, abi: image.stock.ABI}, nil
}

// concat is a file of several parts, one after the other, without a copy of
// them. The kernel looks for a further archive at offsets that are multiples of
// four.
func concat(segments [][]byte) tree.Entry {
	var parts [][]byte
	var size int64
	sum := sha256.New()
	for _, s := range segments {
		padding := make([]byte, -len(s)&3)
		for _, part := range [][]byte{s, padding} {
			parts, size = append(parts, part), size+int64(len(part))
			sum.Write(part)
		}
	}
	return tree.Entry{Mode: 0o644, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)), Open: func() (io.ReadCloser, error) {
		readers := make([]io.Reader, len(parts))
		for i, part := range parts {
			readers[i] = bytes.NewReader(part)
		}
		return io.NopCloser(io.MultiReader(readers...)), nil
	}}
}

// readNetboot takes kernel and initrd out of the netboot package. The package
// is large, so both are kept in the cache.
func readNetboot(o Options, file, sum string) (*netboot, error) {
	kernel, err := derived(o, "netboot-linux", sum, func() ([]byte, error) { return member(file, "/text/debian-installer/"+arch+"/linux") })
	if err != nil {
		return nil, err
	}
	gz, err := derived(o, "netboot-initrd", sum, func() ([]byte, error) { return member(file, "/text/debian-installer/"+arch+"/initrd.gz") })
	if err != nil {
		return nil, err
	}
	stock, err := initrd.ReadStock(bytes.NewReader(gz))
	if err != nil {
		return nil, err
	}
	return &netboot{kernel, gz, stock}, nil
}

// derived returns something that is made from a package and kept in the cache.
func derived(o Options, kind, key string, produce func() ([]byte, error)) ([]byte, error) {
	if sum, ok := o.Cache.Lookup(kind, key); ok {
		if data, err := o.Cache.ReadFile(sum, 1<<30); err == nil {
			return data, nil
		}
	}
	data, err := produce()
	if err != nil {
		return nil, err
	}
	sum, err := o.Cache.PutBytes(data)
	if err != nil {
		return nil, err
	}
	return data, o.Cache.Record(kind, key, sum)
}

// errFound ends a walk over a package.
var errFound = errors.New("found")

// member returns the file of a package whose path has the suffix.
func member(file, suffix string) ([]byte, error) {
	f, err := deb.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var data []byte
	err = f.Data(func(h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg || !strings.HasSuffix(h.Name, suffix) {
			return nil
		}
		var err error
		if data, err = io.ReadAll(io.LimitReader(r, 1<<30)); err != nil {
			return err
		}
		return errFound
	})
	if err == nil {
		err = fmt.Errorf("it holds no file %q", suffix)
	}
	if !errors.Is(err, errFound) {
		return nil, fmt.Errorf("cannot read %q: %w", file, err)
	}
	return data, nil
}

// baseSegment is the part of the initrd that depends on Debian's packages and
// the site's language alone: modules, udebs, tools and our menu items.
func baseSegment(ctx context.Context, o Options, l *lock.Lock, files map[string]string, stock *initrd.Stock) ([]byte, error) {
	parts, err := readParts(o.Preseed)
	if err != nil {
		return nil, err
	}
	opts := initrd.Options{Stock: stock, Remove: removed, Locale: o.Site.Locale}
	udebs := make(map[string]bool)
	key := segmentFormat + initrd.Digest() + o.Site.Locale + " "
	for _, p := range l.ByUse(useInstaller) {
		key += p.SHA256
		file := files[p.SHA256]
		switch {
		case p.Kind == "udeb":
			opts.Udebs = append(opts.Udebs, file)
			udebs[p.Name] = true
		case strings.HasPrefix(p.Name, "linux-image-"):
			opts.Kernel = file
		default:
			for _, t := range parts.tools {
				if slices.Contains(t.names, p.Name) {
					opts.Tools = append(opts.Tools, initrd.Tool{Deb: file, Files: t.files})
				}
			}
		}
	}
	opts.Menu = menu(func(name string) bool { return udebs[name] })
	for _, item := range opts.Menu {
		key += fmt.Sprint(item)
	}
	return derived(o, "initrd-base", digest([]byte(fmt.Sprint(key, parts, removed))), func() ([]byte, error) {
		t, err := initrd.Base(ctx, opts)
		if err != nil {
			return nil, err
		}
		var b bytes.Buffer
		err = initrd.Write(&b, stock, t, l.Time())
		return b.Bytes(), err
	})
}

// siteSegment is the part of the initrd that belongs to the site: the agent,
// the site file, the answers, the key by which the medium is believed, and what
// each node proves itself with.
func siteSegment(o Options, stock *initrd.Stock, l *lock.Lock, classes []*profile.Selection, key *pgp.Key, when time.Time) ([]byte, error) {
	t := &tree.Tree{}
	siteJSON, err := o.Site.JSON()
	if err != nil {
		return nil, err
	}
	disk, err := fs.ReadFile(o.Preseed, "disk.yaml")
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		t.AddBytes("usr/bin/sci-agent", 0o755, o.Agent),
		t.AddBytes("sci/site.json", 0o600, siteJSON),
		t.AddBytes("sci/site.gpg", 0o644, key.Public()),
		t.AddBytes("sci/disk.yaml", 0o644, disk),
	)
	if err != nil {
		return nil, err
	}
	if err := addCredentials(t, o, l, key); err != nil {
		return nil, err
	}
	var ask settings
	for _, c := range classes {
		text, notes, err := preseed.Render(o.Preseed, o.Site, c)
		if err != nil {
			return nil, err
		}
		ask.see(text)
		for _, n := range notes {
			o.note("%s", n)
		}
		if err := t.AddBytes(path.Join("sci", c.Role, "preseed"), 0o600, text); err != nil {
			return nil, err
		}
	}
	for _, h := range hooks(ask) {
		if err := t.AddBytes(stock.Place(h.path), h.mode, []byte(h.text)); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	if err := initrd.Write(&b, stock, t, when); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// readLoaders takes the boot loaders out of their packages.
func readLoaders(l *lock.Lock, files map[string]string) (*media.Loaders, error) {
	file := make(map[string]string)
	for _, p := range l.ByUse(useBoot) {
		file[p.Name] = files[p.SHA256]
	}
	var firstErr error
	get := func(pkg, suffix string) []byte {
		if firstErr != nil {
			return nil
		}
		data, err := member(file[pkg], suffix)
		if err != nil {
			firstErr = err
		}
		return data
	}
	out := &media.Loaders{
		Isolinux:  get("isolinux", "/ISOLINUX/isolinux.bin"),
		MBR:       get("isolinux", "/ISOLINUX/isohdpfx.bin"),
		Shim:      get("shim-signed", "/shimx64.efi.signed"),
		Grub:      get("grub-efi-amd64-signed", "/grubx64.efi.signed"),
		MokManage: get("shim-helpers-amd64-signed", "/mmx64.efi.signed"),
		Modules:   make(map[string][]byte),
	}
	for _, name := range []string{"ldlinux.c32", "libcom32.c32", "libutil.c32", "menu.c32"} {
		out.Modules[name] = get("syslinux-common", "/modules/bios/"+name)
	}
	return out, firstErr
}
