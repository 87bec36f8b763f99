package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/skycover/sci-cd/pkg/inspect"
	"github.com/skycover/sci-cd/pkg/media"
)

func newInspect(ui *ui) *cobra.Command {
	var list bool
	c := &cobra.Command{
		Use:   "inspect ISO",
		Short: "Say what is on an ISO",
		Long: `Say what is on an ISO: release, hosts, profiles, ways to boot, packages, sizes.
With --json everything, each package with its version and digest. What the
medium says of itself is believed: see verify.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: files("iso"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, length, err := openImage(args[0])
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			s, err := inspect.Image(f, length)
			if err != nil {
				return err
			}
			return ui.result(s, "%s", describe(s, list))
		},
	}
	c.Flags().BoolVar(&list, "packages", false, "list every package")
	return c
}

func describe(s *inspect.Summary, list bool) string {
	var b strings.Builder
	m := s.About
	fmt.Fprintf(&b, "%s\n", s.Volume)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { _, _ = fmt.Fprintf(w, "  "+name+"\t"+format+"\n", args...) }
	row("release", "Debian %s (%s) %s", m.Version, m.Codename, m.Arch)
	row("site", "%s, domain %s", m.Site, m.Domain)
	row("made by", "%s, packages as of %s", m.Builder, m.Time.UTC().Format("2006-01-02 15:04 UTC"))
	row("kernel", "%s (of the installer)", m.Kernel)
	row("key", "%s", m.Fingerprint)
	row("lock", "sha256 %s", m.LockSHA256)
	row("boot", "%s; %s", ways(s.Boot), map[bool]string{true: "installs unattended", false: "waits at the menu"}[m.Unattended])
	row("size", "%s", size(s.Size))
	for _, p := range s.Parts {
		row("  "+p.Name, "%s in %d files", size(p.Size), p.Files)
	}
	_ = w.Flush() // into memory
	b.WriteString("hosts\n")
	for _, h := range m.Hosts {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", h.FQDN, h.Role, known(h))
	}
	_ = w.Flush()
	b.WriteString("roles\n")
	for _, r := range m.Roles {
		n, bytes := uses(m.Packages, r.Name)
		from := ""
		if r.Image != "" {
			from = ", installed from a golden image"
		}
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%d asked for, %d packages, %s%s\n", r.Name, strings.Join(r.Profiles, " + "), len(r.Packages), n, size(bytes), from)
	}
	_ = w.Flush()
	if list {
		b.WriteString("packages\n")
		for _, p := range m.Packages {
			_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.Version, p.Architecture, p.Kind, size(p.Size), strings.Join(p.Uses, ", "))
		}
		_ = w.Flush()
	}
	return b.String()
}

// ways lists the ways to boot: "BIOS cd+usb, UEFI cd+usb".
func ways(boots []inspect.Boot) string {
	var names []string
	media := make(map[string][]string)
	for _, b := range boots {
		if b.File == "" {
			continue
		}
		if media[b.Firmware] == nil {
			names = append(names, b.Firmware)
		}
		media[b.Firmware] = append(media[b.Firmware], b.Medium)
	}
	for i, name := range names {
		names[i] = name + " " + strings.Join(media[name], "+")
	}
	return strings.Join(names, ", ")
}

// known says how the installer knows a host.
func known(h media.HostLine) string {
	var by []string
	if h.Virtual {
		by = append(by, "virtual")
	}
	by = append(by, h.MACs...)
	if h.Serial != "" {
		by = append(by, "serial "+h.Serial)
	}
	if h.AssetTag != "" {
		by = append(by, "asset tag "+h.AssetTag)
	}
	return strings.Join(by, ", ")
}

// uses sums up the packages of a role.
func uses(packages []media.Package, role string) (n int, bytes int64) {
	for _, p := range packages {
		if slices.Contains(p.Uses, role) {
			n++
			bytes += p.Size
		}
	}
	return n, bytes
}
