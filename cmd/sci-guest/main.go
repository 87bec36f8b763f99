// Command sci-guest is the guest of package guest: /init in an instance, and on
// a node the tool that packs it and asks it, and that plays what is outside of the
// site.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
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

var errUsage = errors.New("usage: sci-guest pack MODULES OUT | get URL | scan DISK | outside ADDRESS ROOT,… NAME=ADDRESS…")

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
	case len(args) >= 3 && args[0] == "outside":
		return outside(args[1], args[2], args[3:])
	}
	return errUsage
}

// outside serves names and files at an address, until it is ended.
func outside(address, roots string, words []string) error {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	names, err := guest.ParseNames(words)
	if err != nil {
		return err
	}
	c, err := net.ListenPacket("udp", netip.AddrPortFrom(ip, 53).String())
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(ip, 80).String())
	if err != nil {
		return err
	}
	fmt.Println("outside: ready")
	return guest.Outside{Names: names, Roots: strings.Split(roots, ","), Say: func(line string) { fmt.Println(line) }}.Serve(c, l)
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
