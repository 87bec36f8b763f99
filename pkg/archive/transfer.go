package archive

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skycover/sci-cd/pkg/cache"
)

// errNotFound says that a URL has no file.
var errNotFound = errors.New("no such file")

// errRange says that a server cannot go on from where we are.
var errRange = errors.New("the server does not give the range asked for")

// again marks an error that another try may mend.
type again struct {
	err   error
	after time.Duration // not before, if the server said so
}

func (e *again) Error() string { return e.err.Error() }
func (e *again) Unwrap() error { return e.err }

func worthRetry(err error) bool {
	var a *again
	return errors.As(err, &a)
}

// transfer goes on with the file behind p from a URL, to its end at size.
func (f *Fetcher) transfer(ctx context.Context, rawURL string, p *tally, size int64) error {
	s, err := f.open(ctx, rawURL, p.w.Offset())
	if errors.Is(err, errRange) {
		return &again{err: errors.Join(err, p.restart())}
	}
	if err != nil {
		return err
	}
	defer s.Close()
	if s.start != p.w.Offset() {
		if err := p.restart(); err != nil {
			return err
		}
	}
	var html *HTMLError
	err = s.refuseHTML()
	switch {
	case errors.As(err, &html):
		return err
	case s.total >= 0 && s.total != size:
		return &WrongFileError{Err: fmt.Errorf("%d bytes, want %d", s.total, size)}
	case err != nil:
		return err
	}
	_, err = io.Copy(p, s)
	var over *cache.SizeError
	switch {
	case s.err != nil:
		return &again{err: s.err}
	case errors.As(err, &over):
		return errors.Join(&WrongFileError{Err: over}, p.restart())
	case err != nil:
		return err
	case p.w.Offset() != size:
		return &again{err: fmt.Errorf("the transfer ended after %d of %d bytes", p.w.Offset(), size)}
	}
	return nil
}

// read returns a small file of unknown digest, at most limit bytes long.
// errNotFound is returned as it is, all other errors are *FetchErrors.
func (f *Fetcher) read(ctx context.Context, name, rawURL string, limit int64) ([]byte, error) {
	release, err := f.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	for try := 0; ; try++ {
		data, err := f.readOnce(ctx, rawURL, limit)
		if err == nil || errors.Is(err, errNotFound) {
			return data, err
		}
		if worthRetry(err) && try < f.o.Retries {
			if err = f.pause(ctx, try, err); err == nil {
				continue
			}
		}
		return nil, advise(&FetchError{Name: name, URL: show(rawURL), Err: err})
	}
}

func (f *Fetcher) readOnce(ctx context.Context, rawURL string, limit int64) ([]byte, error) {
	s, err := f.open(ctx, rawURL, 0)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := s.refuseHTML(); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(s, limit+1))
	if err != nil {
		return nil, &again{err: err}
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("longer than %d bytes", limit)
	}
	return data, nil
}

// stream is the body of an answer. Its Read fails when nothing comes for the
// fetcher's Stall, and keeps the error.
type stream struct {
	start int64  // offset of the first byte in the file
	total int64  // length of the file in bytes, -1 if the server does not say
	url   string // after redirects

	body   io.Closer
	r      *bufio.Reader
	ctx    context.Context // of this answer, for the cause of its end
	cancel context.CancelCauseFunc
	watch  *time.Timer
	stall  time.Duration
	err    error // of reading
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.watch.Reset(s.stall)
	if err != nil && !errors.Is(err, io.EOF) {
		err = cause(s.ctx, err)
		s.err = err
	}
	return n, err
}

func (s *stream) Close() {
	s.watch.Stop()
	s.cancel(nil)
	_ = s.body.Close() // nothing was written; there is nothing to learn here
}

// refuseHTML looks at the beginning of the file. No file of an archive that we
// read begins like a web page.
func (s *stream) refuseHTML() error {
	if s.start > 0 {
		return nil
	}
	head, err := s.r.Peek(512)
	if err != nil && err != io.EOF {
		return &again{err: cause(s.ctx, err)}
	}
	head = bytes.ToLower(bytes.TrimLeft(head, "\ufeff \t\r\n"))
	if bytes.HasPrefix(head, []byte("<!doctype html")) || bytes.HasPrefix(head, []byte("<html")) {
		return &HTMLError{URL: show(s.url)}
	}
	return nil
}

// cause puts the reason why a context ended in place of the error that its end
// made.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var ue *url.Error // repeats the URL, which our messages have already
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// open asks for a file from offset on.
func (f *Fetcher) open(ctx context.Context, rawURL string, offset int64) (*stream, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("bad URL: %w", errors.Unwrap(err))
	}
	s := &stream{stall: f.o.Stall, url: rawURL}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.watch = time.AfterFunc(s.stall, func() { s.cancel(errStalled) })
	var body io.ReadCloser
	switch u.Scheme {
	case "http", "https":
		body, err = f.openHTTP(s, offset)
	case "file":
		body, err = openFile(s, u, offset)
	default:
		err = fmt.Errorf("unsupported URL scheme %q", u.Scheme)
	}
	if err != nil {
		s.watch.Stop()
		s.cancel(nil)
		return nil, err
	}
	s.body, s.r = body, bufio.NewReaderSize(body, 64<<10)
	return s, nil
}

func (f *Fetcher) openHTTP(s *stream, offset int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, cause(s.ctx, err)
	}
	req.Header.Set("User-Agent", "sci-cd")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := f.o.Client.Do(req)
	if err != nil {
		return nil, &again{err: cause(s.ctx, err)}
	}
	if resp.Request != nil {
		s.url = resp.Request.URL.String()
	}
	if err := s.accept(resp, offset); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// accept judges the status of an answer to a request from offset on.
func (s *stream) accept(resp *http.Response, offset int64) error {
	s.total = resp.ContentLength
	status := &StatusError{Code: resp.StatusCode, Status: resp.Status}
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusPartialContent:
		start, total, ok := contentRange(resp.Header.Get("Content-Range"))
		if !ok || start != offset {
			return errRange
		}
		s.start, s.total = start, total
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		if offset > 0 {
			return errRange
		}
	case http.StatusNotFound, http.StatusGone:
		return errNotFound
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return &again{err: status, after: retryAfter(resp)}
	}
	if resp.StatusCode >= 500 && resp.StatusCode != http.StatusNetworkAuthenticationRequired {
		return &again{err: status, after: retryAfter(resp)}
	}
	return status
}

// contentRange reads "bytes FIRST-LAST/TOTAL" (RFC 9110 section 14.4); total is
// -1 for "*".
func contentRange(s string) (first, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	if !ok {
		return 0, 0, false
	}
	span, all, ok := strings.Cut(s, "/")
	a, b, ok2 := strings.Cut(span, "-")
	if !ok || !ok2 {
		return 0, 0, false
	}
	first, err := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	if err != nil || err2 != nil || first < 0 || last < first {
		return 0, 0, false
	}
	if all == "*" {
		return first, -1, true
	}
	total, err = strconv.ParseInt(all, 10, 64)
	return first, total, err == nil && total > last
}

// retryAfter reads the header in its form of seconds; the date form is not
// worth a clock.
func retryAfter(resp *http.Response) time.Duration {
	n, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(min(n, 3600)) * time.Second
}

func openFile(s *stream, u *url.URL, offset int64) (io.ReadCloser, error) {
	if err := checkBase(u.String()); err != nil {
		return nil, err
	}
	file, err := os.Open(filepath.FromSlash(u.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotFound
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil && offset <= info.Size() {
		s.start = offset
		_, err = file.Seek(offset, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s.total = info.Size()
	return file, nil
}

// checkBase tells whether a mirror's base URL is one that we can read.
func checkBase(rawURL string) error {
	u, err := url.Parse(rawURL)
	if err != nil {
		return fmt.Errorf("bad URL: %w", errors.Unwrap(err))
	}
	switch {
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return fmt.Errorf("bad URL %q", u.Redacted())
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return nil
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && strings.HasPrefix(u.Path, "/"):
		return nil
	}
	return fmt.Errorf("bad URL %q: want http://HOST/PATH, https://HOST/PATH or file:///PATH", u.Redacted())
}

// join returns the URL of the file at a clean path below a base URL. Other than
// url.JoinPath it takes a % in the path as it is.
func join(base, path string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base + "/" + path // refused later, by open
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/" + path
	u.RawPath = ""
	return u.String()
}
