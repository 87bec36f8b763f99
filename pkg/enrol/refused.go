package enrol

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
