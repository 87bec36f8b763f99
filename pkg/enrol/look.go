package enrol

import "time"

// Look reads who may still join from the ledger at path, for those who only
// want to know: it writes nothing, takes no lock and makes no ledger where there
// is none. running is as LedgerOptions.Uptime.
func Look(path string, running func() (boot string, up time.Duration, err error)) ([]Entry, error) {
	if running == nil {
		running = uptime
	}
	return (&Ledger{path, LedgerOptions{Uptime: running}}).Entries()
}
