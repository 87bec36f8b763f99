package enrol

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	ledgerFormat = 1
	maxMedia     = 32
	maxLedger    = 8 << 20 // bytes
	// forever bounds every duration in the book: sums do not overflow.
	forever = 100 * 365 * 24 * time.Hour
)

// book is what stands in the ledger, and its rules. They know no file, no clock
// and no network.
type book struct {
	// Running is how long the master has been running since its first boot; Boot
	// and Up are when that was counted last.
	Running time.Duration
	Boot    string
	Up      time.Duration
	// Media are the master's own credentials, one of each medium that a host may
	// be installed from.
	Media []Credential
	Hosts map[string]*record
}

// record is what is known of one host.
type record struct {
	State EntryState
	// Until is when its time to join ends, on the scale of book.Running.
	Until   time.Duration
	ByAdmin bool
	// Authority is that of the medium that admits the host, "" for none.
	Authority               string
	Claim                   *Claim
	Opened, Claimed, Joined time.Time
}

// advance counts the running time: all of it since the boot, or what has passed
// in the same boot. A clock that goes back counts as one that stands.
func (b *book) advance(boot string, up time.Duration) {
	up = min(max(up, 0), forever)
	passed := up
	if boot == b.Boot {
		passed = max(up-b.Up, 0)
	}
	b.Running = min(b.Running+passed, forever)
	b.Boot, b.Up = boot, up
}

// add puts hosts into the book that it does not have. All have the same time
// from the master's first boot; without a credential of the master's they have
// none, until Open.
func (b *book) add(hosts []Host, own *Credential, window time.Duration) (changed bool) {
	for _, h := range hosts {
		if _, ok := b.Hosts[h.Name]; ok {
			continue
		}
		r := &record{State: StateOpen}
		if own != nil {
			b.admit(*own)
			r.Authority, r.Until = own.Authority(), window
		}
		b.Hosts[h.Name] = r
		changed = true
	}
	return changed
}

// admit adds a medium, and drops those that admit nobody any more.
func (b *book) admit(own Credential) {
	b.Media = slices.DeleteFunc(b.Media, func(c Credential) bool {
		for _, r := range b.Hosts {
			if r.Authority == c.Authority() {
				return false
			}
		}
		return true
	})
	for _, c := range b.Media {
		if c.Authority() == own.Authority() {
			return
		}
	}
	b.Media = append(b.Media, own)
}

func (b *book) expired(r *record) bool { return r.State != StateJoined && b.Running >= r.Until }

// people are the hosts that a claim is judged by.
type people struct {
	hosts  []Host
	others []string
}

func (p people) host(name string) (Host, bool) {
	i := slices.IndexFunc(p.hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		return Host{}, false
	}
	return p.hosts[i], true
}

// known finds the record of the host as which somebody has proved himself, if it
// is one that joins and he calls from where it lives.
func (b *book) known(c Claim, p people) (*record, *RefusedError) {
	h, ok := p.host(c.Host)
	r := b.Hosts[c.Host]
	switch {
	case slices.Contains(p.others, c.Host):
		return nil, refuse(WrongRole, "host %s is not one that joins the cluster", c.Host)
	case !ok || r == nil:
		return nil, refuse(UnknownHost, "the site of the master has no host %s", c.Host)
	case r.Authority == "" || r.Authority != c.CA:
		return nil, refuse(WrongMedium, "host %s is not admitted with the credential of this medium", c.Host)
	case !slices.Contains(unmapped(h.Addresses), c.Address.Unmap()):
		return nil, refuse(WrongAddress, "host %s called from %s, which is not its address", c.Host, c.Address.Unmap())
	}
	return r, nil
}

func unmapped(list []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, a.Unmap())
	}
	return out
}

// judge says whether the machine may be this host.
func (b *book) judge(r *record, c Claim) *RefusedError {
	switch {
	case r.State == StateJoined:
		return refuse(Used, "host %s has joined already: its credential has been used", c.Host)
	case b.expired(r):
		return refuse(Expired, "the time in which host %s could join is over", c.Host)
	case r.State == StateClaimed && r.Claim.Machine != c.Machine:
		return refuse(AnotherMachine, "another machine, at %s with other SSH host keys, has joined as host %s already", r.Claim.Address, c.Host)
	case r.State == StateClaimed && r.Claim.Credential != c.Credential:
		return refuse(WrongMedium, "host %s has claimed with another credential", c.Host)
	}
	return nil
}

// claim binds the host to the machine, or refuses.
func (b *book) claim(c Claim, p people, now time.Time) *RefusedError {
	r, refused := b.known(c, p)
	if refused != nil {
		return refused
	}
	if refused := b.judge(r, c); refused != nil {
		return refused
	}
	if r.State == StateOpen {
		r.Claimed = now
	}
	r.State, r.Claim = StateClaimed, &c
	return nil
}

// joined records that a host is in the cluster, however it got there.
func (b *book) joined(host string, now time.Time) error {
	r := b.Hosts[host]
	if r == nil {
		return fmt.Errorf("the ledger has no host %q", host)
	}
	if r.State != StateJoined {
		r.State, r.Joined = StateJoined, now
	}
	return nil
}

var errNoMedium = errors.New("the ledger has no credential of this master")

// open is an admin's word: the host may join once more.
func (b *book) open(host string, window time.Duration, newer *Credential, now time.Time) error {
	r := b.Hosts[host]
	if r == nil {
		return fmt.Errorf("the ledger has no host %q", host)
	}
	if window <= 0 || window > forever {
		return fmt.Errorf("a window of %v", window)
	}
	own := r.Authority
	if newer != nil {
		own = newer.Authority()
	}
	if own == "" {
		return errNoMedium
	}
	b.Hosts[host] = &record{State: StateOpen, Until: min(b.Running+window, forever), ByAdmin: true, Authority: own, Opened: now}
	if newer != nil {
		b.admit(*newer)
	}
	if len(b.Media) > maxMedia {
		return fmt.Errorf("more than %d media", maxMedia)
	}
	return nil
}

// names of the hosts for which f holds, sorted.
func (b *book) names(f func(*record) bool) []string {
	var list []string
	for name, r := range b.Hosts {
		if f(r) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// entry is a record for others to read.
func (b *book) entry(name string) Entry {
	r := b.Hosts[name]
	e := Entry{Host: name, State: r.State, ByAdmin: r.ByAdmin, Left: max(r.Until-b.Running, 0),
		Opened: r.Opened, Claimed: r.Claimed, Joined: r.Joined}
	if r.Claim != nil {
		c := *r.Claim
		e.Claim = &c
	}
	return e
}

// bookFile is a book as JSON. Durations are written as people read them.
type bookFile struct {
	Format  int                    `json:"format"`
	Running string                 `json:"running"`
	Boot    string                 `json:"boot"`
	Up      string                 `json:"up"`
	Media   []credentialFile       `json:"media"`
	Hosts   map[string]*recordFile `json:"hosts"`
}

type recordFile struct {
	State     EntryState `json:"state"`
	Until     string     `json:"until"`
	ByAdmin   bool       `json:"byAdmin,omitempty"`
	Authority string     `json:"authority,omitempty"`
	Opened    time.Time  `json:"opened,omitzero"`
	Claimed   time.Time  `json:"claimed,omitzero"`
	Joined    time.Time  `json:"joined,omitzero"`
	Claim     *claimFile `json:"claim,omitempty"`
}

type claimFile struct {
	Machine    string     `json:"machine"`
	Credential string     `json:"credential"`
	Address    netip.Addr `json:"address"`
	Request    Request    `json:"request"`
}

func (b *book) bytes() ([]byte, error) {
	f := bookFile{Format: ledgerFormat, Running: b.Running.String(), Boot: b.Boot, Up: b.Up.String(), Media: []credentialFile{}, Hosts: make(map[string]*recordFile)}
	for _, c := range b.Media {
		f.Media = append(f.Media, c.file())
	}
	for name, r := range b.Hosts {
		rf := &recordFile{State: r.State, Until: r.Until.String(), ByAdmin: r.ByAdmin, Authority: r.Authority,
			Opened: r.Opened, Claimed: r.Claimed, Joined: r.Joined}
		if c := r.Claim; c != nil {
			rf.Claim = &claimFile{c.Machine, c.Credential, c.Address, c.Request}
		}
		f.Hosts[name] = rf
	}
	data, err := json.MarshalIndent(f, "", "  ")
	return append(data, '\n'), err
}

func parseBook(data []byte) (*book, error) {
	var f bookFile
	if err := decode(data, &f); err != nil {
		return nil, err
	}
	if f.Format != ledgerFormat {
		return nil, fmt.Errorf("format %d, want %d", f.Format, ledgerFormat)
	}
	if len(f.Media) > maxMedia {
		return nil, fmt.Errorf("%d media, at most %d", len(f.Media), maxMedia)
	}
	b := &book{Boot: f.Boot, Hosts: make(map[string]*record)}
	var err error
	if b.Running, err = duration(f.Running); err != nil {
		return nil, err
	}
	if b.Up, err = duration(f.Up); err != nil {
		return nil, err
	}
	for _, m := range f.Media {
		c := Credential{m.Host, m.FQDN, m.CA, m.Certificate, m.Key}
		if err := c.check(); err != nil {
			return nil, err
		}
		b.Media = append(b.Media, c)
	}
	for name, rf := range f.Hosts {
		if b.Hosts[name], err = rf.record(name); err != nil {
			return nil, fmt.Errorf("host %.80q: %w", name, err)
		}
	}
	return b, nil
}

func (rf *recordFile) record(name string) (*record, error) {
	if rf == nil || !isLabel(name) {
		return nil, errors.New("it is no host")
	}
	until, err := duration(rf.Until)
	if err != nil {
		return nil, err
	}
	r := &record{State: rf.State, Until: until, ByAdmin: rf.ByAdmin, Authority: rf.Authority,
		Opened: rf.Opened, Claimed: rf.Claimed, Joined: rf.Joined}
	if c := rf.Claim; c != nil {
		machine, err := machineID(c.Request.HostKeys)
		if err == nil {
			err = c.Request.check()
		}
		if err == nil && (machine != c.Machine || c.Request.Host != name || !c.Address.IsValid()) {
			err = errors.New("the claim contradicts itself")
		}
		if err != nil {
			return nil, err
		}
		r.Claim = &Claim{name, c.Machine, c.Credential, rf.Authority, c.Address, c.Request}
	}
	switch {
	case r.State == StateOpen && r.Claim == nil, r.State == StateClaimed && r.Claim != nil, r.State == StateJoined:
		return r, nil
	}
	return nil, fmt.Errorf("state %.40q does not fit", r.State)
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > forever {
		return 0, fmt.Errorf("%.40q is no time that passes", s)
	}
	return d, nil
}
