package scicd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/skycover/sci-cd"

// layer is a group of packages and the layers that they may import. Why is
// printed with each import that breaks the rule.
type layer struct {
	name     string
	packages []string // below pkg/, or whole paths below the module
	imports  []string
	why      string
}

// layers are the import directions of the project, from the bottom. doc.go
// shows them as a map.
var layers = []layer{
	{
		name:     "formats",
		packages: []string{"pkg/cache", "pkg/deb", "pkg/hint", "pkg/image", "pkg/iso", "pkg/kmod", "pkg/pgp", "pkg/run", "pkg/tree"},
		imports:  []string{"formats"},
		why:      "a format is described by a standard, not by this product: it knows of no site, no step and no machine",
	},
	{
		name:     "intent",
		packages: []string{"pkg/profile", "pkg/site"},
		imports:  []string{"formats", "intent"},
		why:      "what a site wants is the same whatever is made of it: an ISO, a report, an installed machine",
	},
	{
		name: "steps",
		packages: []string{
			"pkg/agentdeb", "pkg/archive", "pkg/initrd", "pkg/lock", "pkg/media", "pkg/preseed", "pkg/repo",
			"pkg/resolve",
		},
		imports: []string{"formats", "intent"},
		why:     "a step knows nothing of the step before or behind it: pkg/build alone hands things from one to the next",
	},
	{
		name:     "compose",
		packages: []string{"pkg/build"},
		imports:  []string{"formats", "intent", "steps"},
		why:      "pkg/build knows the order of the steps, and neither machines under test nor command lines",
	},
	{
		name:     "fakes",
		packages: []string{"pkg/archive/testarchive", "pkg/build/buildtest"},
		imports:  []string{"formats", "intent", "steps", "compose", "fakes", "assets"},
		why:      "what tests are fed with may use the whole builder, and nothing but tests may use it",
	},
	{
		name:     "inspection",
		packages: []string{"pkg/device", "pkg/inspect", "pkg/verify"},
		imports:  []string{"formats", "steps"},
		why:      "inspect, verify and write take a finished ISO, wherever it came from: they need no site file and no archive",
	},
	{
		name:     "agent",
		packages: []string{"pkg/agent", "pkg/installer"},
		imports:  []string{"formats", "intent", "agent"},
		why:      "the agent runs on machines without a mirror, as root: what builds media has no place in it",
	},
	{
		name:     "harness",
		packages: []string{"pkg/benchinstall", "pkg/capture", "pkg/installtest", "pkg/sitetest", "pkg/vm"},
		imports:  []string{"formats", "harness"},
		why:      "the harness judges a finished ISO from outside: sharing code with the builder would share its mistakes",
	},
	{
		name:     "guest",
		packages: []string{"pkg/guest", "cmd/sci-guest"},
		imports:  []string{"guest"},
		why:      "the guest is the whole of an instance's user space, sent to each node: it holds nothing but itself",
	},
	{
		name:     "assets",
		packages: []string{""},
		imports:  nil,
		why:      "the root package carries files and no code",
	},
	{
		name:     "builder's command",
		packages: []string{"cmd/sci-cd"},
		imports:  []string{"formats", "intent", "steps", "compose", "inspection", "harness", "assets"},
		why:      "cmd/sci-cd wires the builder and the harness; the agent goes along as a binary, not as a library",
	},
	{
		name:     "benchmark's command",
		packages: []string{"cmd/bench-install"},
		imports:  []string{"formats", "intent", "steps", "compose", "inspection", "harness", "assets"},
		why:      "cmd/bench-install makes a medium to compare with and has it measured; sci-cd cannot make one",
	},
	{
		name:     "agent's command",
		packages: []string{"cmd/sci-agent"},
		imports:  []string{"formats", "intent", "agent"},
		why:      "cmd/sci-agent is what lands on every machine: agent and installer, nothing of the builder",
	},
}

// importer is what `go list -json` tells of a package.
type importer struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func TestLayering(t *testing.T) {
	for _, p := range list(t) {
		name := local(p.ImportPath)
		from := layerOf(name)
		if from == nil {
			t.Errorf("package %q has no layer: name it in layers above and in doc.go, where its imports fit", name)
			continue
		}
		for _, path := range p.Imports {
			if !ours(path) {
				continue
			}
			target := local(path)
			to := layerOf(target)
			if to != nil && slices.Contains(from.imports, to.name) {
				continue
			}
			t.Errorf("%q (%s) imports %q: %s", name, from.name, target, from.why)
		}
	}
}

// TestAgentIsSmall looks at everything that the agent's binary links.
func TestAgentIsSmall(t *testing.T) {
	allowed := []string{"agent", "agent's command", "formats", "intent"}
	for _, p := range list(t) {
		if local(p.ImportPath) != "cmd/sci-agent" {
			continue
		}
		for _, path := range p.Deps {
			if !ours(path) {
				continue
			}
			if l := layerOf(local(path)); l == nil || !slices.Contains(allowed, l.name) {
				t.Errorf("the agent links %q: the binary on every installed machine holds nothing of the builder", local(path))
			}
		}
		return
	}
	t.Error("go list does not name cmd/sci-agent")
}

// TestPurity holds packages to what their documentation promises.
func TestPurity(t *testing.T) {
	for name, banned := range map[string][]string{
		"pkg/resolve": {"io/fs", "net", "net/http", "os", "os/exec", "time"},
		"pkg/tree":    {"net", "net/http", "os/exec"},
		"pkg/deb":     {"net", "net/http", "os/exec"},
		"pkg/pgp":     {"net", "net/http", "os/exec"},
		"pkg/site":    {"net/http", "os/exec"},
	} {
		for _, p := range list(t) {
			if local(p.ImportPath) != name {
				continue
			}
			for _, path := range p.Imports {
				if slices.Contains(banned, path) {
					t.Errorf("%q imports %q: it works on what it is given, so that tests need no machine around it", name, path)
				}
			}
		}
	}
	for _, p := range list(t) {
		name := local(p.ImportPath)
		if strings.HasPrefix(name, "cmd/") {
			continue
		}
		for _, path := range p.Imports {
			if path == "log" || path == "flag" || strings.HasPrefix(path, "github.com/spf13/") {
				t.Errorf("%q imports %q: packages return errors and take options; printing and flags are the command line's", name, path)
			}
		}
	}
}

// list returns the module's packages without their tests: a test may look at
// anything.
func list(t *testing.T) []importer {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.Bytes())
	}
	var packages []importer
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p importer
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 20 {
		t.Fatalf("go list names %d packages only", len(packages))
	}
	return packages
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

func local(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, module), "/")
}

func layerOf(name string) *layer {
	for i := range layers {
		if slices.Contains(layers[i].packages, name) {
			return &layers[i]
		}
	}
	return nil
}
