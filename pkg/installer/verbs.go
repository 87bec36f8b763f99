package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
	"github.com/skycover/sci-cd/pkg/site"
)

// Options say where everything is. An empty path is its place inside Debian's
// installer; tests give their own.
type Options struct {
	// Console gets the lines that a person or a test follows, each starting
	// "sci-agent: ". Nil drops them.
	Console io.Writer
	// Log gets what commands print. Nil drops it.
	Log io.Writer
	// Runner runs commands; nil is run.Host{}.
	Runner run.Runner
	// Sys is the kernel's sysfs; nil is /sys.
	Sys fs.FS
	// Proc is the kernel's procfs, default /proc.
	Proc string
	// Dev is where device nodes are, default /dev.
	Dev string
	// Site is the site file as JSON, default /sci/site.json. The answers for a
	// class of hosts are beside it, in CLASS/preseed.
	Site string
	// Key is the site's public key, binary or armored, default /sci/site.gpg.
	Key string
	// Recipe is the disk recipe, default /sci/disk.yaml.
	Recipe string
	// Medium is where the installation medium is mounted, default /cdrom. The
	// files of a class of hosts (its role and extra profiles, site.Host.Class)
	// are below sci/CLASS/ on it: packages, overlay.tar.gz, scripts/NN-name.
	Medium string
	// Target is where the new system is built, default /target.
	Target string
	// State is a directory for what one verb tells the next, default /run/sci.
	State string
	// Debconf is the confmodule channel; nil is the one that d-i handed over
	// (file descriptors 0 and 1, or 0 and 3 below confmodule). Only the verb
	// answers needs it.
	Debconf io.ReadWriter
	// Logs are files that finish copies into /var/log/installer of the new
	// system; default /var/log/sci-agent.log and /var/log/syslog.
	Logs []string
	// Unmount makes finish unmount the target. d-i does it itself, after its own
	// last scripts.
	Unmount bool
	// PowerOff says that d-i will power off at the end instead of rebooting;
	// it decides the last line only.
	PowerOff bool
	// Patience is how long answers waits for network cards to appear, default
	// one minute: their drivers are still being loaded when it starts.
	Patience time.Duration
	// MountMedium and UnmountMedium are mount(2) and umount(2) for the verb
	// medium; nil is the real ones.
	MountMedium   func(device, point, filesystem, options string) error
	UnmountMedium func(point string) error
	// Now is the clock, default time.Now.
	Now func() time.Time
	// SetClock sets the machine's clock where it is behind the medium's own
	// date; nil is settimeofday(2).
	SetClock func(time.Time) error
}

func (o Options) withDefaults() Options {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&o.Proc, "/proc")
	def(&o.Dev, "/dev")
	def(&o.Site, "/sci/site.json")
	def(&o.Key, "/sci/site.gpg")
	def(&o.Recipe, "/sci/disk.yaml")
	def(&o.Medium, "/cdrom")
	def(&o.Target, "/target")
	def(&o.State, "/run/sci")
	if o.MountMedium == nil {
		o.MountMedium = mountFS
	}
	if o.UnmountMedium == nil {
		o.UnmountMedium = unmountFS
	}
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	if o.Logs == nil {
		o.Logs = []string{"/var/log/sci-agent.log", "/var/log/syslog"}
	}
	if o.Console == nil {
		o.Console = io.Discard
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Runner == nil {
		o.Runner = run.Host{}
	}
	if o.Sys == nil {
		o.Sys = os.DirFS("/sys")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.SetClock == nil {
		o.SetClock = setClock
	}
	return o
}

// Verbs are the names that Run takes, sorted.
func Verbs() []string {
	names := make([]string, 0, len(verbs()))
	for name := range verbs() {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func verbs() map[string]func(context.Context, Options) error {
	return map[string]func(context.Context, Options) error{
		"answers":  Answers,
		"disks":    Disks,
		"medium":   Medium,
		"base":     Base,
		"packages": Packages,
		"boot":     Boot,
		"finish":   Finish,
		"install":  Install,
		"capture":  Capture,
	}
}

// Run runs one verb. A failure is printed on the console as
// "sci-agent: failed: …", with its hint on the next line, and returned.
func Run(ctx context.Context, verb string, o Options) error {
	f, ok := verbs()[verb]
	if !ok {
		return fmt.Errorf("unknown verb %q: want one of %s", verb, strings.Join(Verbs(), ", "))
	}
	o = o.withDefaults()
	stop := watchMemory(o)
	err := f(ctx, o)
	stop()
	if err != nil {
		report(o.Console, err)
	}
	return err
}

// Install runs every verb after answers.
func Install(ctx context.Context, o Options) error {
	for _, f := range []func(context.Context, Options) error{Disks, Base, Packages, Boot, Finish} {
		if err := f(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// report prints a failure the way installtest and people look for it: the
// marker on the first line, whatever the message's further lines are.
func report(w io.Writer, err error) {
	say(w, "failed: %v", err)
	if advice := hint.Of(err); advice != "" {
		say(w, "hint: %s", advice)
	}
}

// say prints one marker line; further lines of the text are kept apart by
// their indentation.
func say(w io.Writer, format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	lines := strings.Split(text, "\n")
	_, _ = io.WriteString(w, "sci-agent: "+strings.Join(lines, "\n    ")+"\n")
}

// loadSite reads the site file.
func loadSite(o Options) (*site.Site, error) {
	data, err := readBounded(o.Site, 4<<20)
	if err != nil {
		return nil, fmt.Errorf("cannot read the site file: %w", err)
	}
	s, err := site.FromJSON(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read the site file %s: %w", o.Site, err)
	}
	return s, nil
}

// currentHost is the host that the verb answers found.
func currentHost(o Options) (*site.Site, *site.Host, error) {
	s, err := loadSite(o)
	if err != nil {
		return nil, nil, err
	}
	name, err := recall(o, "host")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, hint.New(errors.New("it is not known yet which host this is"),
			"run: sci-agent installer answers")
	}
	if err != nil {
		return nil, nil, err
	}
	if class, err := recall(o, "capture"); err == nil {
		h, err := classHost(s, class)
		if err != nil {
			return nil, nil, err
		}
		return s, captureHost(h), nil
	}
	h, ok := s.Host(name)
	if !ok {
		return nil, nil, fmt.Errorf("host %q is not in the site file", name)
	}
	return s, h, nil
}

// remember keeps one value for the verbs that follow.
func remember(o Options, name, value string) error {
	if err := os.MkdirAll(o.State, 0o755); err != nil {
		return fmt.Errorf("cannot keep %s: %w", name, err)
	}
	return writeFile(filepath.Join(o.State, name), []byte(value+"\n"), 0o644)
}

func recall(o Options, name string) (string, error) {
	data, err := readBounded(filepath.Join(o.State, name), 64<<10)
	return strings.TrimSpace(string(data)), err
}

// readBounded reads a file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, nil
}

// writeFile writes beside and renames; the mode holds whatever the umask is.
func writeFile(name string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	tmp := name + ".sci-new"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	if err := os.Chmod(tmp, mode); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
