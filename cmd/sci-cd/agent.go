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

// agentFiles holds sci-agent.gz when make has built it.
//
//go:embed agent
var agentFiles embed.FS

const agentPackage = "github.com/skycover/sci-cd/cmd/sci-agent"

// agentBinary returns the agent that is embedded. In a `go run` of the sources
// it is built by the Go toolchain, which is there then.
func agentBinary() ([]byte, error) {
	agent, err := embeddedAgent()
	if errors.Is(err, fs.ErrNotExist) {
		return compileAgent()
	}
	return agent, err
}

// embeddedAgent returns the agent that make has put into this binary.
func embeddedAgent() ([]byte, error) {
	packed, err := agentFiles.ReadFile("agent/sci-agent.gz")
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack the agent: %w", err)
	}
	return io.ReadAll(z)
}

func compileAgent() ([]byte, error) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		return nil, errNoAgent
	}
	dir, err := os.MkdirTemp("", "sci-agent-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out := filepath.Join(dir, "sci-agent")
	cmd := exec.Command(goTool, "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X main.version="+version, "-o", out, agentPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w\n%s", errNoAgent, cmd, err, text)
	}
	return os.ReadFile(out)
}
