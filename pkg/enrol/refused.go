package enrol

import (
	"fmt"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Reason says why somebody was refused.
type Reason string

// The reasons.
const (
	Used           Reason = "used"            // the host has joined already
	Expired        Reason = "expired"         // the time in which the host could join is over
	AnotherMachine Reason = "another-machine" // another machine has claimed the host's place
	UnknownHost    Reason = "unknown-host"    // the site has no such host, or it is not the credential's
	WrongRole      Reason = "wrong-role"      // the host is not one that joins the cluster
	WrongAddress   Reason = "wrong-address"   // it called from an address that is not the host's
	WrongMedium    Reason = "wrong-medium"    // the credential is of another medium or another site
	Impostor       Reason = "impostor"        // who answered in the master's place is not the master
	BadRequest     Reason = "bad-request"     // what was sent makes no sense
)

// RefusedError is a refusal: trying again cannot help, a person has to look.
type RefusedError struct {
	Reason Reason
	// Message says it to a person: lower case, one line.
	Message string
}

func (e *RefusedError) Error() string { return e.Message }

// advice is what a person may do about it, "" if there is nothing to say.
func (e *RefusedError) advice(host string) string {
	again := "run on the master: sci-agent join " + host
	switch e.Reason {
	case Used:
		return "if this machine was installed anew and is to join again, " + again
	case Expired:
		return again
	case AnotherMachine:
		return "find out which machine is " + host + " in the cluster: somebody may have used this medium before you; if it is this one, installed anew, " + again
	case UnknownHost, WrongRole, WrongAddress:
		return "compare the site file on the master with that of the medium; network cables may be swapped"
	case WrongMedium:
		return "install all machines from one medium; for a newer one, " + again
	case Impostor:
		return "find out which machine has the master's address"
	}
	return ""
}

func refuse(reason Reason, format string, args ...any) *RefusedError {
	return &RefusedError{reason, fmt.Sprintf(format, args...)}
}

// advised is the refusal with its advice, as an error.
func advised(e *RefusedError, host string) error {
	if advice := e.advice(host); advice != "" {
		return hint.New(e, advice)
	}
	return e
}
