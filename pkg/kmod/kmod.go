// Package kmod knows Linux kernel modules: it reads a module's .modinfo
// section, finds the closure of a set of modules, and writes the indexes that
// libkmod's modprobe reads (modules.dep, modules.dep.bin, modules.alias.bin,
// modules.softdep, modules.devname), as depmod(8) does, at build time.
//
// Sources: depmod(8), modules.dep.bin(5), and the description of the on-disk
// trie in kmod's libkmod-index.h. Symbol indexes are not written: nothing in
// the installer asks for "symbol:" aliases, and dependencies come from the
// "depends" fields that modpost has put into every module.
package kmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxModule bounds an unpacked module, in bytes. The largest of Debian's
// kernel 6.12 has 12 MB.
const maxModule = 64 << 20

// Module is one module file and what its .modinfo section says.
type Module struct {
	// Path is relative to lib/modules/ABI: "kernel/fs/ext4/ext4.ko.xz".
	Path string `json:"path"`
	// Depends are the names of the modules whose symbols it uses.
	Depends []string `json:"depends,omitempty"`
	Aliases []string `json:"aliases,omitempty"`
	// Softdep, Weakdep are the texts behind "softdep=" and "weakdep=".
	Softdep []string `json:"softdep,omitempty"`
	Weakdep []string `json:"weakdep,omitempty"`
	// Firmware are the firmware files that the module may ask for.
	Firmware []string `json:"firmware,omitempty"`
	// Vermagic begins with the kernel's ABI name.
	Vermagic string `json:"vermagic,omitempty"`
}

// Name returns the module's name for the kernel: "ext4".
func (m Module) Name() string { return Name(m.Path) }

// Name returns the module name of a file: suffixes off, "-" as "_".
func Name(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// IsModule says whether a path names a module file (.ko, .ko.xz, .ko.zst).
func IsModule(file string) bool {
	return strings.HasSuffix(file, ".ko") || strings.HasSuffix(file, ".ko.xz") || strings.HasSuffix(file, ".ko.zst")
}

// Read parses the module file at path p (relative to lib/modules/ABI), whose
// suffix tells its compression.
func Read(p string, r io.Reader) (Module, error) {
	m := Module{Path: p}
	data, err := unpack(p, r)
	if err != nil {
		return m, fmt.Errorf("cannot read module %q: %w", p, err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return m, fmt.Errorf("cannot read module %q: %w", p, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return m, fmt.Errorf("cannot read module %q: no .modinfo section", p)
	}
	info, err := section.Data()
	if err != nil {
		return m, fmt.Errorf("cannot read module %q: .modinfo: %w", p, err)
	}
	m.parse(info)
	return m, nil
}

func unpack(p string, r io.Reader) ([]byte, error) {
	switch {
	case strings.HasSuffix(p, ".xz"):
		x, err := xz.NewReader(r)
		if err != nil {
			return nil, err
		}
		r = x
	case strings.HasSuffix(p, ".zst"):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2*maxModule))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		r = z
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = errors.New("larger than 64 MiB")
	}
	return data, err
}

// parse takes the NUL-separated "key=value" strings of .modinfo.
func (m *Module) parse(info []byte) {
	for _, field := range bytes.Split(info, []byte{0}) {
		key, value, ok := strings.Cut(string(field), "=")
		if !ok {
			continue
		}
		switch key {
		case "depends":
			for _, d := range strings.Split(value, ",") {
				if d != "" {
					m.Depends = append(m.Depends, strings.ReplaceAll(d, "-", "_"))
				}
			}
		case "alias":
			m.Aliases = append(m.Aliases, value)
		case "softdep":
			m.Softdep = append(m.Softdep, value)
		case "weakdep":
			m.Weakdep = append(m.Weakdep, value)
		case "firmware":
			m.Firmware = append(m.Firmware, value)
		case "vermagic":
			m.Vermagic = value
		}
	}
}

// ABI returns the kernel that the module was built for.
func (m Module) ABI() string {
	abi, _, _ := strings.Cut(m.Vermagic, " ")
	return abi
}

// Set is a set of modules by name.
type Set map[string]Module

// Closure returns the modules that keep accepts and everything that these
// depend on, hard ("depends") and soft ("softdep pre/post", where present),
// sorted by path. A hard dependency that is neither in the set nor in builtin
// is an error.
func (s Set) Closure(builtin map[string]bool, keep func(Module) bool) ([]Module, error) {
	chosen := make(map[string]bool)
	var missing []string
	var add func(name, by string)
	add = func(name, by string) {
		if chosen[name] || builtin[name] {
			return
		}
		m, ok := s[name]
		if !ok {
			if by != "" {
				missing = append(missing, fmt.Sprintf("%s (for %s)", name, by))
			}
			return
		}
		chosen[name] = true
		for _, d := range m.Depends {
			add(d, name)
		}
		for _, d := range softNames(m.Softdep) {
			add(d, "")
		}
	}
	for _, name := range s.names() {
		if keep(s[name]) {
			add(name, "")
		}
	}
	if len(missing) > 0 {
		sort.Strings(missing)
		return nil, fmt.Errorf("cannot find modules: %s", strings.Join(missing, ", "))
	}
	var list []Module
	for name := range chosen {
		list = append(list, s[name])
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	return list, nil
}

func (s Set) names() []string {
	names := make([]string, 0, len(s))
	for name := range s {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// softNames returns the module names in softdep texts such as
// "pre: a b post: c".
func softNames(deps []string) []string {
	var names []string
	for _, d := range deps {
		for _, w := range strings.Fields(d) {
			if !strings.HasSuffix(w, ":") {
				names = append(names, strings.ReplaceAll(w, "-", "_"))
			}
		}
	}
	return names
}
