// Sci-cd turns a description of a site into an installer ISO. See docs/ and
// `sci-cd help`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the Makefile.
var version = "0.1.0"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second Ctrl-C ends what the first could not
	p := program{version: version, agent: agentBinary, guest: guestBinary}
	os.Exit(p.run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
