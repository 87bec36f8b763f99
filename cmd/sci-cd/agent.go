package main

import (
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// carried holds agent/sci-agent.gz and guest/sci-guest.gz when make has built
// them. The guest serves `sci-cd test --site`; it goes onto no medium.
//
//go:embed agent guest
var carried embed.FS

// agentBinary returns the agent that is embedded. In a `go run` of the sources
// it is built by the Go toolchain, which is there then.
func agentBinary() ([]byte, error) {
	agent, err := embeddedAgent()
	if errors.Is(err, fs.ErrNotExist) {
		return compile("sci-agent", errNoAgent)
	}
	return agent, err
}

// guestBinary is to the guest what agentBinary is to the agent.
func guestBinary() ([]byte, error) {
	guest, err := embedded("guest/sci-guest.gz")
	if errors.Is(err, fs.ErrNotExist) {
		return compile("sci-guest", errNoGuest)
	}
	return guest, err
}

// embeddedAgent returns the agent that make has put into this binary.
func embeddedAgent() ([]byte, error) { return embedded("agent/sci-agent.gz") }

func embedded(name string) ([]byte, error) {
	packed, err := carried.ReadFile(name)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %s: %w", name, err)
	}
	return io.ReadAll(z)
}

// compile builds a command of ours from the sources.
func compile(command string, missing error) ([]byte, error) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		return nil, missing
	}
	dir, err := os.MkdirTemp("", command+"-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out := filepath.Join(dir, command)
	cmd := exec.Command(goTool, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version="+version, "-o", out, "github.com/skycover/sci-cd/cmd/"+command)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w\n%s", missing, cmd, err, text)
	}
	return os.ReadFile(out)
}
