package enrol

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Window is how long after the master's first boot the hosts may join, unless
// LedgerOptions say otherwise. It counts while the master runs.
const Window = 24 * time.Hour

// LedgerOptions are what a ledger is made from.
type LedgerOptions struct {
	// Credential is the master's own; it is kept in the ledger. Nil: the ledger
	// has one already, or nobody may join until Open is given one.
	Credential *Credential
	// Hosts may join: the site's nodes without the master.
	Hosts []Host
	// Others are the names of the site's other hosts: they may not join, and are
	// told so.
	Others []string
	// Window is how long hosts may join, 0 means the constant Window. It counts
	// from the master's first boot.
	Window time.Duration
	// Uptime is the boot that the machine is in and how long it has been running
	// since; nil asks the kernel.
	Uptime func() (boot string, up time.Duration, err error)
}

// Ledger is the master's memory of who may join, who has claimed and who has
// joined. Each method reads the file, and those that change it write it anew
// before they return, under a lock: several processes may use one ledger.
type Ledger struct {
	path string
	o    LedgerOptions
}

// EntryState is how far a host is in the ledger.
type EntryState string

// The states of an entry.
const (
	StateOpen    EntryState = "open"    // nobody has claimed it
	StateClaimed EntryState = "claimed" // a machine has, and is to be taken in
	StateJoined  EntryState = "joined"
)

// Entry is what the ledger says of a host.
type Entry struct {
	Host  string
	State EntryState
	// Left is how long the host may still join, 0 if its time is over. It has
	// no meaning once the host has joined.
	Left time.Duration
	// ByAdmin: the time was set by Open.
	ByAdmin bool
	// Claim is the claim of the machine, nil before it.
	Claim *Claim
	// Times by the master's wall clock, for people; zero before.
	Opened, Claimed, Joined time.Time
}

// Claim is a machine that wants to be a host, and has proved that it has the
// host's credential.
type Claim struct {
	Host       string
	Machine    string // SHA-256 of its SSH host keys, hex
	Credential string // SHA-256 of its certificate, hex
	CA         string // SHA-256 of the authority's certificate, hex
	Address    netip.Addr
	Request    Request
}

// OpenLedger opens the ledger at path and makes it where there is none. A
// damaged one is an error: it is not begun anew behind an admin's back.
func OpenLedger(path string, o LedgerOptions) (*Ledger, error) {
	if o.Window == 0 {
		o.Window = Window
	}
	if o.Uptime == nil {
		o.Uptime = uptime
	}
	if o.Window < 0 || o.Window > forever {
		return nil, fmt.Errorf("cannot open the ledger: a window of %v", o.Window)
	}
	if o.Credential != nil {
		if err := o.Credential.check(); err != nil {
			return nil, fmt.Errorf("cannot open the ledger: credential: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("cannot open the ledger: %w", err)
	}
	l := &Ledger{path, o}
	return l, l.change(func(b *book) error {
		b.add(o.Hosts, o.Credential, o.Window)
		return nil
	})
}

// claim decides whether a machine may join as a host and binds the host to it.
// The same machine may claim again until it has joined. A refusal is a
// *RefusedError.
func (l *Ledger) claim(c Claim) error {
	return l.change(func(b *book) error {
		if refused := b.claim(c, l.people(), now()); refused != nil {
			return refused
		}
		return nil
	})
}

// Joined records that the host is in the cluster: its credential is worth
// nothing from now on.
func (l *Ledger) Joined(host string) error {
	return l.change(func(b *book) error { return b.joined(host, now()) })
}

// Open lets a host join once more, whatever it was: an admin's word. window
// counts from now, 0 means as in LedgerOptions. newer, where it is not nil, is
// the credential of the master from the medium that the host was installed
// from: from now on that medium alone admits this host.
func (l *Ledger) Open(host string, window time.Duration, newer *Credential) error {
	if window == 0 {
		window = l.o.Window
	}
	if newer != nil {
		if err := newer.check(); err != nil {
			return fmt.Errorf("cannot open the ledger for %s: credential: %w", host, err)
		}
	}
	err := l.change(func(b *book) error {
		if newer != nil && len(b.Media) > 0 && b.Media[0].Host != newer.Host {
			return hint.New(fmt.Errorf("the credential is that of %s", newer.Host), "give that of the master, "+b.Media[0].Host)
		}
		return b.open(host, window, newer, now())
	})
	if errors.Is(err, errNoMedium) {
		err = hint.New(err, "give the credential of this machine from the medium that "+host+" was installed from")
	}
	if err != nil {
		return fmt.Errorf("cannot let %s join: %w", host, err)
	}
	return nil
}

// Entries are what the ledger says of all hosts, in the order of their names.
func (l *Ledger) Entries() ([]Entry, error) {
	b, err := l.look()
	if err != nil {
		return nil, err
	}
	var list []Entry
	for _, name := range b.names(func(*record) bool { return true }) {
		list = append(list, b.entry(name))
	}
	return list, nil
}

// Claims are the machines that are to be taken in, by the hosts' names: claimed
// in time and not joined.
func (l *Ledger) Claims() ([]Claim, error) {
	b, err := l.look()
	if err != nil {
		return nil, err
	}
	var list []Claim
	for _, name := range b.names(func(r *record) bool { return r.State == StateClaimed && !b.expired(r) }) {
		list = append(list, *b.Hosts[name].Claim)
	}
	return list, nil
}

// Pending are the hosts that may still join: neither joined nor expired.
func (l *Ledger) Pending() ([]string, error) {
	b, err := l.look()
	if err != nil {
		return nil, err
	}
	return b.names(func(r *record) bool { return r.State != StateJoined && !b.expired(r) }), nil
}

// tick counts the running time. Server does it once a minute.
func (l *Ledger) tick() error { return l.change(func(*book) error { return nil }) }

// media are the master's credentials, one of each medium.
func (l *Ledger) media() ([]Credential, error) {
	b, err := l.look()
	if err != nil {
		return nil, err
	}
	return b.Media, nil
}

func (l *Ledger) people() people { return people{l.o.Hosts, l.o.Others} }

// look reads the book as it is now. Nothing is written: readers need no lock,
// since the file is only ever replaced as a whole.
func (l *Ledger) look() (*book, error) {
	b, err := l.read()
	if err != nil {
		return nil, fmt.Errorf("cannot read the ledger: %w", err)
	}
	return b, nil
}

// change reads the book, lets f change it and writes it, alone. If f fails,
// nothing is written, and its error comes back as it is.
func (l *Ledger) change(f func(*book) error) error {
	unlock, err := l.lock()
	if err != nil {
		return fmt.Errorf("cannot lock the ledger: %w", err)
	}
	defer unlock()
	b, err := l.look()
	if err != nil {
		return err
	}
	if err := f(b); err != nil {
		return err
	}
	data, err := b.bytes()
	if err == nil {
		err = writeFile(l.path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("cannot write the ledger: %w", err)
	}
	return nil
}

// lock holds a lock file of its own: the ledger itself is replaced.
func (l *Ledger) lock() (unlock func(), err error) {
	f, err := os.OpenFile(l.path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil // which unlocks
}

// read is the book with the time counted up to now. A missing file is an empty
// book.
func (l *Ledger) read() (*book, error) {
	b := &book{Hosts: make(map[string]*record)}
	f, err := os.Open(l.path)
	switch {
	case err == nil:
		defer func() { _ = f.Close() }()
		data, err := io.ReadAll(io.LimitReader(f, maxLedger+1))
		if err != nil {
			return nil, err
		}
		if len(data) > maxLedger {
			return nil, fmt.Errorf("%s has more than %d bytes", l.path, maxLedger)
		}
		if b, err = parseBook(data); err != nil {
			return nil, hint.New(fmt.Errorf("%s: %w", l.path, err), "move it away if nobody is to join any more, or if all who have joined are to be able to join again")
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	boot, up, err := l.o.Uptime()
	if err != nil {
		return nil, err
	}
	b.advance(boot, up)
	return b, nil
}

// uptime asks the kernel. /proc/uptime is CLOCK_BOOTTIME (proc_uptime(5)): no
// clock that anybody sets moves it, and time asleep counts.
func uptime() (boot string, up time.Duration, err error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0, fmt.Errorf("cannot tell how long the machine runs: %w", err)
	}
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return "", 0, fmt.Errorf("cannot tell how long the machine runs: %w", err)
	}
	seconds, _, _ := strings.Cut(string(data), " ")
	if up, err = time.ParseDuration(seconds + "s"); err != nil {
		return "", 0, fmt.Errorf("cannot tell how long the machine runs: %w", err)
	}
	return strings.TrimSpace(string(id)), up, nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
