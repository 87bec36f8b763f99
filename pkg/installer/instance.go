package installer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/run"
)

// OSOptions say where everything is on a node that makes virtual machines. An
// empty path is its place in life; tests give their own.
type OSOptions struct {
	// Console gets the lines that a person follows, Log what commands print. In
	// Ganeti both end up in a file below /var/log/ganeti/os. Nil drops them.
	Console, Log io.Writer
	// In and Out are the stream of import and of export.
	In  io.Reader
	Out io.Writer
	// Environ is the environment that Ganeti gave; nil is our own.
	Environ []string
	// Runner runs commands; nil is run.Host{}.
	Runner run.Runner
	// Root is the node's root directory, default /.
	Root string
	// Work is an empty directory for what is there during the work only, default
	// /run/sci-os.
	Work string
	// Seed fills what the service machine serves out of the medium into its new
	// system, both named by their directories; nil leaves it empty.
	Seed func(ctx context.Context, medium, target string) error
}

func (o OSOptions) withDefaults() OSOptions {
	if o.Console == nil {
		o.Console = io.Discard
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	if o.Runner == nil {
		o.Runner = run.Host{}
	}
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Work == "" {
		o.Work = "/run/sci-os"
	}
	return o
}

func (o OSOptions) path(name string) string { return filepath.Join(o.Root, name) }

// OSVerbs are the scripts of a Ganeti OS definition that RunOS does the work of,
// sorted: ganeti-os-interface(7), API version 20.
func OSVerbs() []string {
	list := []string{"verify"}
	for name := range osVerbs() {
		list = append(list, name)
	}
	sort.Strings(list)
	return list
}

// osVerbs are those that work on a disk.
func osVerbs() map[string]func(context.Context, OSOptions, *instance) error {
	return map[string]func(context.Context, OSOptions, *instance) error{
		"create": createInstance,
		"import": importInstance,
		"export": exportInstance,
		"rename": renameInstance,
	}
}

// RunOS does the work of one script of the OS definition sci. But for verify it
// has to run alone, see Alone: what it mounts and attaches is gone when its
// process is.
func RunOS(ctx context.Context, verb string, o OSOptions) error {
	o = o.withDefaults()
	in, err := readInstance(o.Environ)
	if err != nil {
		return err
	}
	if verb == "verify" {
		return verifyInstance(o, in)
	}
	f, ok := osVerbs()[verb]
	if !ok {
		return fmt.Errorf("unknown verb %q: want one of %s", verb, strings.Join(OSVerbs(), ", "))
	}
	if in.name == "" {
		return hint.New(errors.New("INSTANCE_NAME is not set"), "Ganeti runs this: gnt-instance add -o sci+instance")
	}
	return f(ctx, o, in)
}

// instance is what Ganeti says of an instance, ganeti-os-interface(7).
type instance struct {
	name       string // full name
	old        string // rename: its full name before
	class      string // the OS variant
	disks      []string
	nics       []vnic
	parameters []string // names of OS parameters
	// device is the disk of an export or an import, index its place among the
	// instance's disks.
	device string
	index  int
}

// vnic is one network card of an instance.
type vnic struct {
	mac  string
	ip   netip.Addr // not valid: it has none
	link string     // the bridge
}

// maxAttached bounds the disks and the network cards; Ganeti allows 16 and 8.
const maxAttached = 64

func readInstance(environ []string) (*instance, error) {
	env := make(map[string]string)
	in := new(instance)
	for _, e := range environ {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
		if name, ok := strings.CutPrefix(k, "OSP_"); ok {
			in.parameters = append(in.parameters, strings.ToLower(name))
		}
	}
	slices.Sort(in.parameters)
	in.name, in.old, in.class = env["INSTANCE_NAME"], env["OLD_INSTANCE_NAME"], env["OS_VARIANT"]
	disks, err := count(env, "DISK_COUNT")
	if err != nil {
		return nil, err
	}
	for i := range disks {
		in.disks = append(in.disks, env[fmt.Sprintf("DISK_%d_PATH", i)])
	}
	nics, err := count(env, "NIC_COUNT")
	if err != nil {
		return nil, err
	}
	for i := range nics {
		key := func(what string) string { return fmt.Sprintf("NIC_%d_%s", i, what) }
		n := vnic{mac: env[key("MAC")], link: env[key("LINK")]}
		if ip := env[key("IP")]; ip != "" && ip != "none" {
			if n.ip, err = netip.ParseAddr(ip); err != nil {
				return nil, fmt.Errorf("%s: %w", key("IP"), err)
			}
		}
		in.nics = append(in.nics, n)
	}
	return in, in.readCopy(env)
}

// readCopy reads which disk an export or an import is about.
func (in *instance) readCopy(env map[string]string) error {
	for _, what := range []string{"EXPORT", "IMPORT"} {
		if in.device = env[what+"_DEVICE"]; in.device == "" {
			continue
		}
		if n := env[what+"_INDEX"]; n != "" {
			i, err := strconv.Atoi(n)
			if err != nil || i < 0 || i > maxAttached {
				return fmt.Errorf("%s_INDEX is %q", what, n)
			}
			in.index = i
		}
		return nil
	}
	return nil
}

func count(env map[string]string, name string) (int, error) {
	if env[name] == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(env[name])
	if err != nil || n < 0 || n > maxAttached {
		return 0, fmt.Errorf("%s is %q", name, env[name])
	}
	return n, nil
}

// systemDisk is the disk that the system is on.
func (in *instance) systemDisk() (string, error) {
	if len(in.disks) == 0 {
		return "", hint.New(fmt.Errorf("instance %s has no disk", in.name), "gnt-instance add … --disk 0:size=20G")
	}
	if in.disks[0] == "" {
		return "", hint.New(fmt.Errorf("disk 0 of instance %s is no device or file of this node", in.name), "take the disk template drbd, plain or file")
	}
	return in.disks[0], nil
}

// instanceClass is a class as the site file makes them, see site.Host.Class.
var instanceClass = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*(\+[A-Za-z0-9][A-Za-z0-9_-]*)*$`)

// verifyInstance is the script verify: the definition has no parameters, and a
// variant is a class of virtual machines on the medium.
func verifyInstance(o OSOptions, in *instance) error {
	if len(in.parameters) > 0 {
		return hint.New(fmt.Errorf("the OS definition sci knows no parameter %s", strings.Join(in.parameters, ", ")),
			"take the values out: gnt-os modify -O -NAME sci; what a machine has is decided by its variant and by Puppet")
	}
	s, err := nodeSite(o)
	if err != nil {
		return err
	}
	return checkClass(s, in.class)
}
