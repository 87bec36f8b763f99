// Package hint keeps a fact and its advice apart: an error says what happened,
// its hint says what to do. Whoever prints the error prints the hint on a line
// of its own.
package hint

import "errors"

type hinted struct {
	err    error
	advice string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// New attaches advice to err. A nil err stays nil.
func New(err error, advice string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, advice}
}

// Of returns the advice nearest to the surface of err, or "".
func Of(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.advice
	}
	return ""
}
