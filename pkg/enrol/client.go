package enrol

import (
	"context"
	"errors"
	"net/netip"
)

// Join asks the master to take this machine in. masterName is the full name
// that the master's certificate must have. The error is or wraps a
// *RefusedError where trying again cannot help (with advice, see pkg/hint); any
// other error means that nobody answered, or nobody could: wait and try again.
// The same machine may ask as often as it likes until it has joined.
func Join(ctx context.Context, c Credential, masterName string, master netip.AddrPort, r Request) (Reply, error) {
	return Reply{}, errors.New("not written yet")
}

// Ask asks the master how far this machine (see Machine) is. Its errors are
// Join's. PhaseRefused does not come back as a Status but as a *RefusedError.
func Ask(ctx context.Context, c Credential, masterName string, master netip.AddrPort, machine string) (Status, error) {
	return Status{}, errors.New("not written yet")
}
