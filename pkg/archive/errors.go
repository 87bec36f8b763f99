package archive

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/skycover/sci-cd/pkg/hint"
)

// NotFoundError says that a file is at none of its URLs, though an index names
// it: the mirror is partial, or changed meanwhile. Callers may fall back.
type NotFoundError struct {
	Name string
	URLs []string
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("cannot fetch %s: the mirror does not have it: %s", e.Name, strings.Join(e.URLs, ", "))
}

// NotFound returns the names of all files that err, as returned by Fetch, calls
// missing on the mirror; nil if err is anything else as well.
func NotFound(err error) []string {
	var one *NotFoundError
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		var names []string
		for _, e := range joined.Unwrap() {
			if !errors.As(e, &one) {
				return nil
			}
			names = append(names, one.Name)
		}
		return names
	}
	if errors.As(err, &one) {
		return []string{one.Name}
	}
	return nil
}

// FetchError says why a file could not be had from a URL.
type FetchError struct {
	Name string
	URL  string // without a password
	Err  error
}

func (e *FetchError) Error() string {
	return fmt.Sprintf("cannot fetch %s from %s: %v", e.Name, e.URL, e.Err)
}

func (e *FetchError) Unwrap() error { return e.Err }

// StatusError is an HTTP status that is no success.
type StatusError struct {
	Code   int
	Status string // with the reason, "403 Forbidden"
}

func (e *StatusError) Error() string { return "the server answers " + e.Status }

// WrongFileError says that a server offers a file other than the one that the
// index names.
type WrongFileError struct {
	Err error // *cache.SumError, *cache.SizeError or the like
}

func (e *WrongFileError) Error() string { return "not the file that the index names: " + e.Err.Error() }
func (e *WrongFileError) Unwrap() error { return e.Err }

// HTMLError says that a web page came in place of a file.
type HTMLError struct {
	URL string // where it came from in the end, after redirects
}

func (e *HTMLError) Error() string {
	return fmt.Sprintf("a web page came in place of the file (from %s)", e.URL)
}

// errStalled ends a transfer in which nothing moves.
var errStalled = errors.New("no data came for too long")

const (
	hintPortal  = "a login page of the network or a proxy is in the way: open any web page in a browser, or set http_proxy"
	hintProxy   = "the proxy wants a login: set http_proxy=http://USER:PASSWORD@HOST:PORT"
	hintChanged = "the mirror is being updated, or a proxy on the way keeps old files: try again later or name another mirror"
	hintMirror  = "check the mirror's URL and the release's codename in the site file"
	hintClock   = "check this machine's clock"
)

// advise adds the hint that fits the cause of a failed transfer.
func advise(err error) error {
	var html *HTMLError
	var status *StatusError
	var wrong *WrongFileError
	switch {
	case errors.As(err, &html):
		return hint.New(err, hintPortal)
	case errors.As(err, &status) && status.Code == 511:
		return hint.New(err, hintPortal)
	case errors.As(err, &status) && status.Code == 407:
		return hint.New(err, hintProxy)
	case errors.As(err, &wrong):
		return hint.New(err, hintChanged)
	}
	return err
}

// show returns a URL fit for messages: without a password.
func show(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "an unparsable URL"
	}
	return u.Redacted()
}
