package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// wanted are the modules that the guest needs: disk and network of an instance
// as Ganeti's KVM makes them.
var wanted = [...]string{"virtio_pci", "virtio_blk", "virtio_net"}

// orderFile names, a line each, the modules in the order of loading.
const orderFile = "modules"

// Pack writes an initramfs (newc, see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst) with the program
// self as /init and the modules that it needs from dir, a /lib/modules/VERSION.
func Pack(ctx context.Context, w io.Writer, self, dir string) error {
	files, err := closure(dir, wanted[:])
	if err != nil {
		return err
	}
	init, err := os.ReadFile(self)
	if err != nil {
		return fmt.Errorf("cannot pack the program: %w", err)
	}
	c := cpio.NewWriter(w)
	// Mount points; /dev with its console is in the kernel's own initramfs.
	for _, d := range []string{"dev", "proc", "sys"} {
		if err := c.WriteHeader(&cpio.Header{Name: d, Mode: cpio.TypeDir | 0o755}); err != nil {
			return err
		}
	}
	var order bytes.Buffer
	for _, name := range files {
		data, err := unpack(ctx, filepath.Join(dir, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		plain := moduleName(name) + ".ko"
		fmt.Fprintln(&order, plain)
		if err := put(c, plain, 0o644, data); err != nil {
			return err
		}
	}
	if err := put(c, orderFile, 0o644, order.Bytes()); err != nil {
		return err
	}
	if err := put(c, "init", 0o755, init); err != nil {
		return err
	}
	return c.Close()
}

func put(c *cpio.Writer, name string, mode cpio.FileMode, data []byte) error {
	if err := c.WriteHeader(&cpio.Header{Name: name, Mode: cpio.TypeReg | mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := c.Write(data)
	return err
}

// unpack reads a module file; xz and zstd are programs of the node.
func unpack(ctx context.Context, file string) ([]byte, error) {
	for suffix, program := range map[string]string{".xz": "xz", ".zst": "zstd", ".gz": "gzip"} {
		if !strings.HasSuffix(file, suffix) {
			continue
		}
		cmd := exec.CommandContext(ctx, program, "-dc", file)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("cannot unpack module: %s: %w\n%s", cmd, err, said.Bytes())
		}
		return out, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read module: %w", err)
	}
	return data, nil
}

// moduleName is the kernel's name of a module file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// closure returns the files of modules and of those that they need, in the
// order of loading, as depmod has found it (modules.dep(5)). Built-in ones need
// none.
func closure(dir string, names []string) ([]string, error) {
	deps, err := readDeps(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	builtin, err := readBuiltin(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	var order []string
	seen := make(map[string]bool)
	add := func(file string) {
		if !seen[file] {
			seen[file] = true
			order = append(order, file)
		}
	}
	for _, name := range names {
		line, ok := deps[name]
		if !ok {
			if builtin[name] {
				continue
			}
			return nil, fmt.Errorf("cannot find module %s in %s", name, dir)
		}
		// A line names what is needed in the reverse order of loading.
		for i := len(line) - 1; i >= 0; i-- {
			add(line[i])
		}
	}
	return order, nil
}

// readDeps reads modules.dep: by the module's name its own file and those that
// it needs.
func readDeps(file string) (map[string][]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read modules: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	deps := make(map[string][]string)
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		own, rest, ok := strings.Cut(s.Text(), ":")
		if !ok {
			return nil, fmt.Errorf("cannot read %s: line %q has no colon", file, s.Text())
		}
		deps[moduleName(own)] = append([]string{own}, strings.Fields(rest)...)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", file, err)
	}
	return deps, nil
}

// readBuiltin reads modules.builtin; a kernel may have none.
func readBuiltin(file string) (map[string]bool, error) {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read modules: %w", err)
	}
	names := make(map[string]bool)
	for _, line := range strings.Fields(string(data)) {
		names[moduleName(line)] = true
	}
	return names, nil
}
