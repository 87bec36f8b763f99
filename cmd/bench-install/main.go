// Bench-install measures installations against Debian's own installer with the
// same packages: see `make bench-install` and docs/performance.md. It is a tool
// of this repository and no part of the product.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	scicd "github.com/skycover/sci-cd"
	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/benchinstall"
	"github.com/skycover/sci-cd/pkg/build"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/inspect"
	"github.com/skycover/sci-cd/pkg/installtest"
	"github.com/skycover/sci-cd/pkg/media"
	"github.com/skycover/sci-cd/pkg/profile"
	"github.com/skycover/sci-cd/pkg/vm"
)

// version is set by the Makefile: the stock medium carries the agent's package
// under it, as the others do.
var version = "0.1.0"

// The installations and their goals, as parts of the processor time of stock.
const (
	stock = "stock"
	lean  = "lean"
	image = "image"

	leanGoal  = 0.5
	imageGoal = 0.2
)

// settings are the flags.
type settings struct {
	site, agent, leanISO, imageISO, only, dir string

	keep, buildOnly, compare bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := flags().run(ctx)
	stop()
	if err == nil {
		return
	}
	say("bench-install: %v", err)
	if advice := hint.Of(err); advice != "" {
		say("hint: %s", advice)
	}
	os.Exit(1)
}

func flags() settings {
	var s settings
	flag.StringVar(&s.site, "site", "dist/site.yaml", "the site file that the media are made of")
	flag.StringVar(&s.agent, "agent", "bin/sci-agent", "the agent's binary, for its package on the stock medium")
	flag.StringVar(&s.leanISO, "lean", "dist/sci-cd-trixie-amd64.iso", "our ISO of the site, install: packages")
	flag.StringVar(&s.imageISO, "image", "", "our ISO of the site, install: image; none: that row is left out")
	flag.StringVar(&s.only, "only", "", "names of the installations to measure, separated by commas")
	flag.StringVar(&s.dir, "dir", "dist/bench-install", "receives media, logs and disks")
	flag.BoolVar(&s.keep, "keep", false, "keep the installed disks")
	flag.BoolVar(&s.buildOnly, "build", false, "make the stock medium and stop")
	flag.BoolVar(&s.compare, "compare", false, "compare what an earlier run has left in -dir, or the facts in two other directories, STOCK and OURS, and stop")
	flag.Parse()
	return s
}

func (s settings) run(ctx context.Context) error {
	if s.compare {
		return s.differences(flag.Args())
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	list, err := s.installations()
	if err != nil {
		return err
	}
	if list[0].Name == stock {
		say("making the medium with Debian's own installer")
		if err := s.buildStock(ctx, list[0].ISO); err != nil {
			return err
		}
	}
	host, err := s.sameMachine(list)
	if err != nil || s.buildOnly {
		return err
	}
	accel, why, err := vm.Probe(ctx, "", os.Getenv(vm.AccelVariable))
	if err != nil {
		return err
	}
	say("QEMU runs with %s: %s", accel, why)
	o := benchinstall.Options{
		Installations: list, Dir: s.dir, Keep: s.keep, MAC: host.MACs[0], Accel: accel,
		Booted:   s.facts,
		Progress: func(line string) { say("%s", line) },
	}
	circumstances := benchinstall.Circumstances(ctx, o, time.Now())
	figures, err := benchinstall.Run(ctx, o)
	if len(figures) > 0 {
		fmt.Println(circumstances)
		if terr := benchinstall.Table(os.Stdout, figures); err == nil {
			err = terr
		}
	}
	if err == nil && list[0].Name == stock && slices.ContainsFunc(list, func(i benchinstall.Installation) bool { return i.Name == lean }) {
		err = s.differences(nil)
	}
	return err
}

// differences compares the system that Debian's installer made with ours from
// packages: the facts in the two directories, or those of this run.
func (s settings) differences(dirs []string) error {
	switch len(dirs) {
	case 0:
		dirs = []string{filepath.Join(s.dir, stock), filepath.Join(s.dir, lean)}
	case 2:
	default:
		return fmt.Errorf("cannot compare %d directories: want STOCK and OURS, or none", len(dirs))
	}
	theirs, err := installtest.ReadFacts(dirs[0])
	if err != nil {
		return err
	}
	ours, err := installtest.ReadFacts(dirs[1])
	if err != nil {
		return err
	}
	fmt.Printf("\n%s differs from %s:\n", dirs[1], dirs[0])
	return benchinstall.Differences(os.Stdout, installtest.CompareStock(theirs, ours))
}

// installations are those asked for, stock first.
func (s settings) installations() ([]benchinstall.Installation, error) {
	var only []string
	if s.only != "" {
		only = strings.Split(s.only, ",")
	}
	for _, name := range only {
		if !slices.Contains([]string{stock, lean, image}, name) {
			return nil, fmt.Errorf("cannot measure %q: want %s, %s or %s", name, stock, lean, image)
		}
	}
	var list []benchinstall.Installation
	for _, i := range []benchinstall.Installation{
		{Name: stock, ISO: filepath.Join(s.dir, "stock.iso")},
		{Name: lean, ISO: s.leanISO, Finished: "sci-agent: installed", Ready: "sci-agent: ready", Goal: leanGoal},
		{Name: image, ISO: s.imageISO, Finished: "sci-agent: installed", Goal: imageGoal},
	} {
		switch {
		case only != nil && !slices.Contains(only, i.Name):
		case i.ISO == "":
			say("no ISO for %q is named: it is left out", i.Name)
		default:
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		return nil, errors.New("there is nothing to measure")
	}
	return list, nil
}

// buildStock makes the medium that the others are compared with. Its lock
// stands beside it: the installer's parts are others than ours.
func (s settings) buildStock(ctx context.Context, output string) error {
	site, err := profile.LoadSite(s.site, scicd.Profiles())
	if err != nil {
		return err
	}
	dir := os.Getenv("SCI_CD_CACHE")
	if dir == "" {
		if dir, err = cache.Default(); err != nil {
			return err
		}
	}
	store, err := cache.Open(dir)
	if err != nil {
		return err
	}
	agent, err := os.ReadFile(s.agent)
	if err != nil {
		return hint.New(err, "make agent")
	}
	_, err = build.Stock(ctx, build.Options{
		Site: site, Lock: filepath.Join(s.dir, "stock.lock"), Key: filepath.Join(filepath.Dir(s.site), "sci.key"), Output: output, Cache: store,
		Mirrors: archive.Mirrors{
			Main: os.Getenv("SCI_CD_MIRROR"), Security: os.Getenv("SCI_CD_MIRROR_SECURITY"), Updates: os.Getenv("SCI_CD_MIRROR_UPDATES"),
		},
		Agent: agent, Version: version, Preseed: benchinstall.StockFlow(), Profiles: scicd.Profiles(), Overlay: scicd.Overlay(),
		Note: func(text string) { say("%s", text) }, Now: time.Now(),
	})
	return err
}

// sameMachine makes sure that all media install the same packages for the same
// host, and returns it: the first one that is no virtual machine.
func (s settings) sameMachine(list []benchinstall.Installation) (*media.HostLine, error) {
	var host *media.HostLine
	var packages []string
	for _, i := range list {
		m, err := manifest(i.ISO)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(m.Hosts, func(h media.HostLine) bool { return !h.Virtual })
		if at < 0 || len(m.Hosts[at].MACs) == 0 {
			return nil, fmt.Errorf("cannot install %q: no host of its site is known by a MAC address", i.ISO)
		}
		names := pool(m, m.Hosts[at].Role)
		if host == nil {
			host, packages = &m.Hosts[at], names
			continue
		}
		if !slices.Equal(names, packages) {
			return nil, hint.New(fmt.Errorf("cannot compare %q with %q: they hold other packages", i.ISO, list[0].ISO),
				"renew both: remove "+filepath.Join(s.dir, "stock.lock")+", run sci-cd lock, build again")
		}
	}
	return host, nil
}

// pool lists what a medium has for a role, in versions, the agent aside: it is
// built anew.
func pool(m *media.Manifest, role string) []string {
	var names []string
	for _, p := range m.Packages {
		if p.Kind == "deb" && slices.Contains(p.Uses, role) {
			names = append(names, p.Name+" "+p.Version)
		}
	}
	slices.Sort(names)
	return names
}

func manifest(iso string) (*media.Manifest, error) {
	f, err := os.Open(iso)
	if err != nil {
		return nil, hint.New(err, "make iso")
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	summary, err := inspect.Image(f, info.Size())
	if err != nil {
		return nil, err
	}
	return summary.About, nil
}

// facts writes what a booted system is made of, for differences and for `sci-cd
// test --like`, and makes sure that it has the packages that it was to have.
func (s settings) facts(ctx context.Context, i benchinstall.Installation, sh *vm.Shell) error {
	f, err := installtest.CollectFacts(ctx, sh)
	if err != nil {
		return err
	}
	m, err := manifest(i.ISO)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(m.Hosts, func(h media.HostLine) bool { return !h.Virtual })
	var missing []string
	for _, r := range m.Roles {
		for _, name := range r.Packages {
			if r.Name == m.Hosts[at].Role && f.Packages[name+":amd64"] == "" && f.Packages[name+":all"] == "" {
				missing = append(missing, name)
			}
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the installed system lacks packages: %s", strings.Join(missing, " "))
	}
	dir := filepath.Join(s.dir, i.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	say("%s: %d packages are installed", i.Name, len(f.Packages))
	return f.Write(dir)
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
