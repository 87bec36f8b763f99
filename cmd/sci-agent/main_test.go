package main

import (
	"context"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sci-agent": func() { os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireExplicitExec: true})
}

// The agent runs on nodes and in d-i's initramfs: what builds media stays out.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	builder := []string{"archive", "resolve", "lock", "repo", "preseed", "initrd", "media", "build", "iso", "profile", "vm", "installtest"}
	for p := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(p, "github.com/skycover/sci-cd/pkg/") && slices.Contains(builder, path.Base(p)) {
			t.Errorf("the agent imports %s, a step of the builder", p)
		}
	}
}
