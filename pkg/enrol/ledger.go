package enrol

import (
	"errors"
	"net/netip"
	"time"
)

// Window is how long after the master's first boot the hosts may join, unless
// LedgerOptions say otherwise. It counts while the master runs.
const Window = 24 * time.Hour

// LedgerOptions are what a ledger is made from.
type LedgerOptions struct {
	// Credential is the master's own; it is kept in the ledger. Nil: the ledger
	// has one already.
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

// OpenLedger opens the ledger at path and makes it where there is none. A
// damaged one is an error: it is not begun anew behind an admin's back.
func OpenLedger(path string, o LedgerOptions) (*Ledger, error) {
	return &Ledger{path, o}, errors.New("not written yet")
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
	Machine    string // of the host keys, see Machine
	Credential string // SHA-256 of its certificate, hex
	CA         string // SHA-256 of the authority's certificate, hex
	Address    netip.Addr
	Request    Request
}

// Claim decides whether a machine may join as a host and binds the host to it.
// The same machine may claim again until it has joined. A refusal is a
// *RefusedError.
func (l *Ledger) Claim(c Claim) error { return errors.New("not written yet") }

// Joined records that the host is in the cluster: its credential is worth
// nothing from now on.
func (l *Ledger) Joined(host string) error { return errors.New("not written yet") }

// Open lets a host join once more, whatever it was: an admin's word. window
// counts from now, 0 means as in LedgerOptions. newer, where it is not nil, is
// the credential of the master from the medium that the host was installed
// from: from now on that medium alone admits this host.
func (l *Ledger) Open(host string, window time.Duration, newer *Credential) error {
	return errors.New("not written yet")
}

// Expired reports whether the host's time to join is over and it has not joined.
func (l *Ledger) Expired(host string) (bool, error) { return false, errors.New("not written yet") }

// Entries are what the ledger says of all hosts, in the order of their names.
func (l *Ledger) Entries() ([]Entry, error) { return nil, errors.New("not written yet") }

// Claims are the machines that are to be taken in, by the hosts' names: claimed
// in time and not joined.
func (l *Ledger) Claims() ([]Claim, error) { return nil, errors.New("not written yet") }

// Pending are the hosts that may still join: neither joined nor expired.
func (l *Ledger) Pending() ([]string, error) { return nil, errors.New("not written yet") }

// Tick counts the running time. Server does it once a minute.
func (l *Ledger) Tick() error { return errors.New("not written yet") }
