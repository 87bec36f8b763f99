// Command sci-guest is the guest of package guest: /init in an instance, and on
// a node the tool that packs it and asks it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/skycover/sci-cd/pkg/guest"
)

func main() {
	if os.Getpid() == 1 {
		guest.Init(func(line string) { fmt.Println(line) })
	}
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sci-guest:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: sci-guest pack MODULES OUT | get URL | scan DISK")

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 3 && args[0] == "pack":
		return pack(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == "get":
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		body, err := guest.Get(ctx, args[1])
		fmt.Print(body)
		return err
	case len(args) == 2 && args[0] == "scan":
		s, err := guest.ScanFile(args[1])
		fmt.Println(s.JSON())
		return err
	}
	return errUsage
}

// pack writes the initramfs beside out and renames it.
func pack(ctx context.Context, modules, out string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	f, err := os.Create(out + ".new")
	if err != nil {
		return err
	}
	err = guest.Pack(ctx, f, self, modules)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(out+".new", out)
	}
	if err != nil {
		_ = os.Remove(out + ".new")
	}
	return err
}
