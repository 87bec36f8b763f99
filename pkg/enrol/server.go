package enrol

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"
)

// Server is the master's side.
type Server struct {
	Ledger *Ledger
	// Answer is what a machine that was accepted is told. An error makes the
	// machine ask again later. It is called for repeated claims, too.
	Answer func(ctx context.Context, c Claim) (Reply, error)
	// Claimed hears of each claim that was accepted, repeated ones too; nil is
	// deaf. It should return soon; Ledger.Claims has all of them at any time.
	Claimed func(c Claim)
	// Refused hears of everybody who was refused, for the master's console, at
	// most once in 10 s for an address and a reason; nil is deaf. host is "" as
	// long as nobody has proved to be one.
	Refused func(host string, addr netip.Addr, why *RefusedError)
	// Joining says that the master is taking a host that has claimed in, and
	// how far it is; nil says nothing.
	Joining func(host string) (joining bool, message string)
	// Linger is how long to go on answering when no host may join any more, so
	// that the last one hears that it has joined; 0 means 5 min.
	Linger time.Duration
}

// Serve serves on a TCP listener, which it closes, until no host may join any
// more (nil) or ctx ends (its error).
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return errors.New("not written yet")
}
