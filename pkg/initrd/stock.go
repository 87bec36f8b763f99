package initrd

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/cavaliergopher/cpio"

	"github.com/skycover/sci-cd/pkg/deb"
	"github.com/skycover/sci-cd/pkg/kmod"
)

const (
	statusPath = "var/lib/dpkg/status"
	infoDir    = "var/lib/dpkg/info"
	modulesDir = "lib/modules" // before Place

	maxEntry   = 256 << 20 // bytes of one file in the stock archive
	maxEntries = 100_000
)

// Stock is what we need to know of the netboot initrd.
type Stock struct {
	// ABI is the kernel's name: the directory below lib/modules.
	ABI string
	// Status are the stanzas of var/lib/dpkg/status.
	Status []deb.Control
	// Modules are the module files, relative to lib/modules/ABI.
	Modules []string
	// Builtin and Order are the texts of modules.builtin and modules.order.
	Builtin, Order []byte

	// Merged says that /bin, /sbin, /lib and /lib64 are symbolic links to
	// their namesakes below usr/ (Debian 13 and later).
	Merged bool

	paths        map[string]bool   // every path, for the check of shared libraries
	templates    map[string][]byte // the questions' texts, by path
	languageList []byte            // localechooser's
}

// Place maps a path to where this initrd has it. With merged-usr an archive
// that holds a directory "lib" would replace the symbolic link of that name,
// and the kernel would find no init.
func (s *Stock) Place(name string) string {
	if top, _, _ := strings.Cut(name, "/"); s.Merged && isTopDir(top) {
		return path.Join("usr", name)
	}
	return name
}

func isTopDir(name string) bool {
	return name == "bin" || name == "sbin" || name == "lib" || name == "lib64"
}

// ReadStock reads a gzip-compressed cpio archive (newc).
func ReadStock(r io.Reader) (*Stock, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read stock initrd: %w", err)
	}
	s := &Stock{paths: make(map[string]bool), templates: make(map[string][]byte)}
	archive := cpio.NewReader(z)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read stock initrd: %w", err)
		}
		if len(s.paths) >= maxEntries || h.Size > maxEntry {
			return nil, fmt.Errorf("cannot read stock initrd: %q: archive is larger than expected", h.Name)
		}
		if err := s.entry(h, archive); err != nil {
			return nil, fmt.Errorf("cannot read stock initrd: %q: %w", h.Name, err)
		}
	}
	if s.ABI == "" || len(s.Status) == 0 {
		return nil, errors.New("cannot use stock initrd: it holds no kernel modules or no dpkg status, so it is not the debian-installer's")
	}
	return s, nil
}

func (s *Stock) entry(h *cpio.Header, r io.Reader) error {
	name := path.Clean(strings.TrimPrefix(h.Name, "./"))
	s.paths[name] = true
	if path.Dir(name) == infoDir && strings.HasSuffix(name, templatesSuffix) {
		if h.Size > maxTemplates {
			return fmt.Errorf("%d bytes are more than expected", h.Size)
		}
		text, err := io.ReadAll(r)
		s.templates[name] = text
		return err
	}
	if name == "lib" && h.Mode&^cpio.ModePerm == cpio.TypeSymlink {
		s.Merged = true
	}
	name = strings.TrimPrefix(name, "usr/") // modules are below lib/ or usr/lib/
	if rest, ok := strings.CutPrefix(name, modulesDir+"/"); ok && kmod.IsModule(name) {
		abi, file, _ := strings.Cut(rest, "/")
		if s.ABI != "" && s.ABI != abi {
			return fmt.Errorf("modules of two kernels: %s and %s", s.ABI, abi)
		}
		s.ABI = abi
		s.Modules = append(s.Modules, file)
		return nil
	}
	switch {
	case name == strings.TrimPrefix(languageList, "usr/"):
		return readInto(&s.languageList, r)
	case h.Name == statusPath || h.Name == "./"+statusPath:
		stanzas, err := deb.ParseControls(r)
		s.Status = stanzas
		return err
	case strings.HasPrefix(name, modulesDir) && path.Base(name) == "modules.builtin":
		return readInto(&s.Builtin, r)
	case strings.HasPrefix(name, modulesDir) && path.Base(name) == "modules.order":
		return readInto(&s.Order, r)
	}
	return nil
}

func readInto(dst *[]byte, r io.Reader) error {
	var buf bytes.Buffer
	_, err := buf.ReadFrom(io.LimitReader(r, 8<<20))
	*dst = buf.Bytes()
	return err
}

func (s *Stock) builtin() map[string]bool {
	names := make(map[string]bool)
	for _, line := range strings.Fields(string(s.Builtin)) {
		names[kmod.Name(line)] = true
	}
	return names
}
