package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Parameters are the guest's own on the kernel's command line.
type Parameters struct {
	Address netip.Prefix  // sci.ip=192.168.50.250/24; without it there is no network
	Disk    string        // sci.disk=, default /dev/vda
	Pause   time.Duration // sci.pause= between two records, default 50ms
	Ask     string        // sci.ask=http://…: another guest to ask again and again, for tests of a network
}

// ParseParameters reads a kernel's command line.
func ParseParameters(line string) (Parameters, error) {
	p := Parameters{Disk: "/dev/vda", Pause: 50 * time.Millisecond}
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "sci.ip":
			p.Address, err = netip.ParsePrefix(value)
			if err == nil && !p.Address.Addr().Is4() {
				err = errors.New("want an IPv4 address")
			}
		case "sci.disk":
			p.Disk = value
		case "sci.ask":
			p.Ask = value
		case "sci.pause":
			p.Pause, err = time.ParseDuration(value)
		}
		if err != nil {
			return p, fmt.Errorf("cannot read %s: %w", word, err)
		}
	}
	return p, nil
}

// Init is the guest's first and only process. It does not return: the kernel
// would panic and hide what is said here.
func Init(say func(string)) {
	err := work(say)
	say("guest: failed: " + err.Error())
	for {
		time.Sleep(time.Hour)
	}
}

func work(say func(string)) error {
	for _, m := range []struct{ kind, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cannot mount %s: %w", m.dir, err)
		}
	}
	if err := loadModules("/"); err != nil {
		return err
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	p, err := ParseParameters(string(line))
	if err != nil {
		return err
	}
	if p.Address.IsValid() {
		if err := configure(p.Address); err != nil {
			return err
		}
	}
	if err := await(p.Disk); err != nil {
		return err
	}
	disk, err := OpenDisk(p.Disk)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", ":80")
	if err != nil {
		return err
	}
	s := disk.status()
	say(fmt.Sprintf("guest: ready: start %d, found %s", s.Boot, s.Found.JSON()))
	if p.Ask != "" {
		go ask(p.Ask, say)
	}
	return run(disk, l, p.Pause, say)
}

// ask says what another guest answers, once a second.
func ask(url string, say func(string)) {
	for ; ; time.Sleep(time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		began := time.Now()
		body, err := Get(ctx, url)
		cancel()
		if err != nil {
			say("guest: no answer: " + err.Error())
			continue
		}
		say(fmt.Sprintf("guest: answer: %d bytes in %.3f s: %.200s", len(body), time.Since(began).Seconds(), strings.TrimSpace(body)))
	}
}

// run writes records and answers questions.
func run(disk *Disk, l net.Listener, pause time.Duration, say func(string)) error {
	began := time.Now()
	var broken atomic.Pointer[string]
	go func() {
		said := time.Now()
		for {
			if err := disk.Append(); err != nil {
				text := err.Error()
				broken.Store(&text)
				say("guest: " + text)
				return
			}
			if time.Since(said) > 10*time.Second {
				said = time.Now()
				s := disk.status()
				say(fmt.Sprintf("guest: start %d, %d records", s.Boot, s.Records))
			}
			time.Sleep(pause)
		}
	}()
	return serve(l, func(path string, query url.Values) (string, error) {
		s := disk.status()
		switch path {
		case "/status":
			s.Uptime = time.Since(began).Seconds()
			if text := broken.Load(); text != nil {
				s.Error = *text
			}
			return s.JSON(), nil
		case "/fill":
			n, err := strconv.ParseUint(query.Get("bytes"), 10, 64)
			if err != nil {
				return "", fmt.Errorf("cannot read bytes=: %w", err)
			}
			return strings.Repeat("x", int(min(n, maxBody))), nil
		case "/digest":
			n, err := strconv.ParseUint(query.Get("records"), 10, 64)
			if err != nil {
				return "", fmt.Errorf("cannot read records=: %w", err)
			}
			sum, err := disk.Digest(n)
			if err != nil {
				return "", err
			}
			return fmt.Sprintf(`{"boot": %d, "records": %d, "sha256": %q}`+"\n", s.Boot, n, sum), nil
		}
		return "", errNoPath
	})
}

// loadModules loads what Pack has packed.
func loadModules(dir string) error {
	order, err := os.ReadFile(filepath.Join(dir, orderFile))
	if err != nil {
		return fmt.Errorf("cannot load modules: %w", err)
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("cannot load modules: %w", err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close() // only read
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot load module %s: %w", name, err)
		}
	}
	return nil
}

// patience bounds the wait for a device whose driver is loaded.
const patience = 60 * time.Second

func await(path string) error {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("cannot find device: %w", err)
		}
	}
}

// configure brings up the loopback interface and the first other one
// (netdevice(7)).
func configure(address netip.Prefix) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot configure network: %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	if err := up(s, "lo"); err != nil {
		return err
	}
	name, err := card()
	if err != nil {
		return err
	}
	ip := address.Addr().As4()
	mask := net.CIDRMask(address.Bits(), 32)
	for _, set := range []struct {
		request uint
		value   []byte
	}{{unix.SIOCSIFADDR, ip[:]}, {unix.SIOCSIFNETMASK, mask}} {
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = r.SetInet4Addr(set.value)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, set.request, r)
		}
		if err != nil {
			return fmt.Errorf("cannot set address of %s: %w", name, err)
		}
	}
	return up(s, name)
}

func up(s int, name string) error {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, r)
	}
	if err == nil {
		r.SetUint16(r.Uint16() | unix.IFF_UP)
		err = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
	}
	if err != nil {
		return fmt.Errorf("cannot bring up %s: %w", name, err)
	}
	return nil
}

// card waits for a network card and returns its name.
func card() (string, error) {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		entries, err := os.ReadDir("/sys/class/net")
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if e.Name() != "lo" {
				return e.Name(), nil
			}
		}
		if time.Now().After(end) {
			return "", errors.New("cannot find a network card")
		}
	}
}
