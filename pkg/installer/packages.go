package installer

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/skycover/sci-cd/pkg/site"
)

// Packages is the verb packages: it takes the place of apt-setup and pkgsel.
// One run of apt-get installs everything that the role wants, kernel and boot
// loader included.
func Packages(ctx context.Context, o Options) error {
	o = o.withDefaults()
	say(o.Console, "phase packages")
	s, h, err := currentHost(o)
	if err != nil {
		return err
	}
	g, err := goldenImage(o, s, h)
	if g != nil || err != nil { // they are there already
		return err
	}
	list := filepath.Join(roleDir(o, h), "packages")
	data, err := readBounded(list, 4<<20)
	if err != nil {
		return fmt.Errorf("cannot read the role's packages: %w", err)
	}
	names, err := parsePackages(list, data)
	if err != nil {
		return err
	}
	answers, err := packageAnswers(o, h)
	if err != nil {
		return err
	}
	if capturing(o) {
		names = withoutBoot(names)
	} else {
		uefi := exists(o.Sys, "firmware/efi")
		// GRUB's own script would install it on the disk; the verb boot does.
		names, answers = bootPackages(names, uefi), answers+bootSelections(uefi, "")
	}
	return within(ctx, o, func(c *chroot) error { return c.install(ctx, answers, names) })
}

// install brings the answers and the packages.
func (c *chroot) install(ctx context.Context, answers string, names []string) error {
	if err := c.answer(ctx, answers); err != nil {
		return err
	}
	if err := c.resume(ctx); err != nil {
		return err
	}
	if _, err := c.run(ctx, nil, append(apt(), "update")...); err != nil {
		return fmt.Errorf("cannot read the medium's archive with apt: %w", err)
	}
	count := &counter{console: c.o.Console, what: "packages"}
	if err := c.logged(ctx, count, append(append(apt(), "install"), names...)...); err != nil {
		return fmt.Errorf("cannot install the role's packages: %w", err)
	}
	return nil
}

// answer sets answers to packages' questions.
func (c *chroot) answer(ctx context.Context, answers string) error {
	if answers == "" {
		return nil
	}
	if _, err := c.run(ctx, strings.NewReader(answers), "debconf-set-selections"); err != nil {
		return fmt.Errorf("cannot answer the packages' questions: %w", err)
	}
	return nil
}

// resume lets dpkg go on where it was interrupted: apt refuses to work as long
// as dpkg's journal (/var/lib/dpkg/updates) is not empty.
func (c *chroot) resume(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(c.o.Target, "var/lib/dpkg/updates"))
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := c.run(ctx, nil, "dpkg", "--configure", "-a"); err != nil {
		return fmt.Errorf("cannot go on with an interrupted installation: %w", err)
	}
	return nil
}

// apt is apt-get reading the medium and nothing else, asking nothing.
func apt() []string {
	return []string{"apt-get", "--yes", "-q",
		"-o", "Dir::Etc::SourceList=" + sourcesFile,
		"-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Acquire::Languages=none",
		"-o", "APT::Install-Recommends=false",
		"-o", "Dpkg::Use-Pty=false",
	}
}

// packageSpec is NAME or NAME=VERSION, as Debian policy 5.6.1 and 5.6.12 have
// them, with an architecture where one is given.
var packageSpec = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$`)

// parsePackages reads a list of packages: names, or NAME=VERSION, apart by
// white space; "#" starts a comment.
func parsePackages(name string, data []byte) ([]string, error) {
	var list []string
	sc := bufio.NewScanner(strings.NewReader(string(data)))
	sc.Buffer(nil, 1<<20)
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		for _, word := range strings.Fields(line) {
			if !packageSpec.MatchString(word) {
				return nil, fmt.Errorf("%s:%d: %q is no package", name, n, word)
			}
			list = append(list, word)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return list, nil
}

// bootPackages replaces the boot loaders in the list by those of the firmware:
// grub-pc and grub-efi-amd64 conflict, and the signed one is protected against
// removal where it does not belong.
func bootPackages(names []string, uefi bool) []string {
	want := biosPackages
	if uefi {
		want = uefiPackages
	}
	var list []string
	have := make(map[string]bool)
	for _, n := range names {
		base := packageName(n)
		have[base] = true
		if slices.Contains(want, base) || !isBoot(base) {
			list = append(list, n)
		}
	}
	for _, n := range want {
		if !have[n] {
			list = append(list, n)
		}
	}
	return list
}

var (
	biosPackages = []string{"grub-pc"}
	uefiPackages = []string{"grub-efi-amd64", "grub-efi-amd64-signed", "shim-signed"}
)

func isBoot(name string) bool {
	return slices.Contains(biosPackages, name) || slices.Contains(uefiPackages, name)
}

// withoutBoot drops the boot loaders.
func withoutBoot(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return isBoot(packageName(n)) })
}

// packageName is the name in NAME[:ARCH][=VERSION].
func packageName(spec string) string {
	name, _, _ := strings.Cut(spec, "=")
	name, _, _ = strings.Cut(name, ":")
	return name
}

// packageAnswers are the lines of the role's preseed file that do not belong
// to d-i.
func packageAnswers(o Options, h *site.Host) (string, error) {
	list, err := classAnswers(o, h)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, a := range list {
		if a.Owner != "d-i" {
			b.WriteString(a.line())
		}
	}
	return b.String(), nil
}

func (a Answer) line() string {
	return a.Owner + " " + a.Question + " " + a.Type + " " + a.Value + "\n"
}

// selections are the answers that the site file gives to Debian's packages.
func selections(s *site.Site) string {
	area, zone, ok := strings.Cut(s.Timezone, "/")
	if !ok {
		area, zone = "Etc", s.Timezone
	}
	charset := s.Locale
	if _, cs, ok := strings.Cut(s.Locale, "."); ok {
		charset, _, _ = strings.Cut(cs, "@")
	}
	list := []Answer{
		{"tzdata", "tzdata/Areas", "select", area},
		{"tzdata", "tzdata/Zones/" + area, "select", zone},
		{"keyboard-configuration", "keyboard-configuration/layoutcode", "string", s.Keyboard},
		{"keyboard-configuration", "keyboard-configuration/xkb-keymap", "select", s.Keyboard},
	}
	if s.Locale != "C.UTF-8" { // which libc-bin has built in
		list = append(list,
			Answer{"locales", "locales/locales_to_be_generated", "multiselect", s.Locale + " " + charset},
			Answer{"locales", "locales/default_environment_locale", "select", s.Locale})
	}
	var b strings.Builder
	for _, a := range list {
		b.WriteString(a.line())
	}
	return b.String()
}

// stableName is the name of a disk that survives a reboot, from by-id, where
// udev has one; grub-pc keeps it for its upgrades.
func stableName(dev, disk string) string {
	if disk == "" {
		return ""
	}
	dir := filepath.Join(dev, "disk/by-id")
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return disk
	}
	for _, e := range entries {
		target, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name()))
		if err == nil && filepath.Base(target) == filepath.Base(disk) && !strings.Contains(e.Name(), "-part") {
			return "/dev/disk/by-id/" + e.Name()
		}
	}
	return disk
}
