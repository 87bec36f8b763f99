package initrd

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/kmod"
	"github.com/skycover/sci-cd/pkg/tree"
)

//go:embed modules.txt
var modulesList string

// rules are the lines of modules.txt.
type rules struct{ take, leave []string }

func parseRules(text string) rules {
	var r rules
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch rest, minus := strings.CutPrefix(line, "- "); {
		case line == "" || line[0] == '#':
		case minus:
			r.leave = append(r.leave, rest)
		default:
			r.take = append(r.take, line)
		}
	}
	return r
}

// match says whether the module at p ("kernel/fs/ext4/ext4.ko.xz") is wanted.
func (r rules) match(p string) bool {
	p = strings.TrimPrefix(p, "kernel/")
	hit := func(list []string) bool {
		for _, prefix := range list {
			if strings.HasPrefix(p, prefix) {
				return true
			}
		}
		return false
	}
	return hit(r.take) && !hit(r.leave)
}

// addModules adds the kernel's modules that modules.txt names and the stock
// initrd lacks, and the indexes over all modules.
func addModules(ctx context.Context, t *tree.Tree, o Options) error {
	wanted := parseRules(modulesList)
	inStock := make(map[string]bool)
	for _, p := range o.Stock.Modules {
		inStock[kmod.Name(p)] = true
	}
	data, err := kernelModules(ctx, o.Kernel, o.Stock.ABI)
	if err != nil {
		return err
	}
	set := make(kmod.Set)
	// The first round reads what is named, each further one what that needs.
	need := func(p string) bool { return wanted.match(p) || inStock[kmod.Name(p)] }
	for need != nil {
		before := len(set)
		if err := readModules(o.Stock.ABI, set, data, need); err != nil {
			return fmt.Errorf("cannot take modules from %q: %w", o.Kernel, err)
		}
		if need = missing(set, o.Stock.builtin()); len(set) == before {
			break // what is missing is not there: Closure says so
		}
	}
	mods, err := set.Closure(o.Stock.builtin(), func(kmod.Module) bool { return true })
	if err != nil {
		return err
	}
	dir := o.Stock.Place(path.Join(modulesDir, o.Stock.ABI))
	for _, m := range mods {
		if inStock[m.Name()] {
			continue
		}
		if err := t.AddBytes(path.Join(dir, m.Path), 0o644, data[m.Path]); err != nil {
			return err
		}
	}
	indexes, err := kmod.Indexes(mods, o.Stock.Order)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(indexes) {
		if err := t.AddBytes(path.Join(dir, name), 0o644, indexes[name]); err != nil {
			return err
		}
	}
	return nil
}

// missing returns a test for the paths of modules that set depends on and does
// not hold, or nil if there are none.
func missing(set kmod.Set, builtin map[string]bool) func(string) bool {
	names := make(map[string]bool)
	for _, m := range set {
		for _, d := range m.Depends {
			if _, ok := set[d]; !ok && !builtin[d] {
				names[d] = true
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return func(p string) bool { return names[kmod.Name(p)] }
}

// kernelModules returns the module files of a kernel package as they are
// packed, by their path below lib/modules/ABI: some 100 MB, read once, because
// unpacking the package takes longer than all the rest.
func kernelModules(ctx context.Context, file, abi string) (map[string][]byte, error) {
	f, err := deb.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	prefix := path.Join(modulesDir, abi) + "/"
	data := make(map[string][]byte)
	err = f.Data(func(h *tar.Header, r io.Reader) error {
		p, ok := strings.CutPrefix(strings.TrimPrefix(h.Name, "usr/"), prefix)
		if !ok || h.Typeflag != tar.TypeReg || !kmod.IsModule(p) {
			return ctx.Err()
		}
		raw, err := io.ReadAll(io.LimitReader(r, maxFile))
		if err != nil {
			return err
		}
		data[p] = raw
		return ctx.Err()
	})
	if err == nil && len(data) == 0 {
		err = fmt.Errorf("it holds no modules for kernel %s", abi)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot take modules from %q: %w", file, err)
	}
	return data, nil
}

// readModules puts the modules that need accepts into the set, several at a
// time.
func readModules(abi string, set kmod.Set, data map[string][]byte, need func(string) bool) error {
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	var mu sync.Mutex
	for _, p := range sortedKeys(data) {
		mu.Lock()
		_, known := set[kmod.Name(p)]
		mu.Unlock()
		if known || !need(p) {
			continue
		}
		group.Go(func() error {
			m, err := kmod.Read(p, bytes.NewReader(data[p]))
			if err != nil {
				return err
			}
			if m.ABI() != abi {
				return fmt.Errorf("%q is for kernel %q, the installer's is %q", p, m.ABI(), abi)
			}
			mu.Lock()
			set[m.Name()] = m
			mu.Unlock()
			return nil
		})
	}
	return group.Wait()
}

// Digest changes whenever the list of wanted modules does.
func Digest() string {
	sum := sha256.Sum256([]byte(modulesList))
	return hex.EncodeToString(sum[:])
}
