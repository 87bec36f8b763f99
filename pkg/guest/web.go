package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// HTTP as far as a guest needs it (RFC 9112, a request a connection): net/http
// would be two thirds of the program.

// maxLine bounds a line of HTTP, in bytes.
const maxLine = 4096

var errNoPath = errors.New("no such page")

// serve answers GET requests until l is closed. answer gets the path and the
// query.
func serve(l net.Listener, answer func(path string, query url.Values) (string, error)) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // a lack of memory passes
			continue
		}
		go func() {
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			_ = converse(c, answer) // whoever asked has gone
		}()
	}
}

func converse(c io.ReadWriter, answer func(string, url.Values) (string, error)) error {
	r := bufio.NewReaderSize(c, maxLine)
	request, err := line(r)
	if err != nil {
		return err
	}
	for {
		header, err := line(r)
		if err != nil {
			return err
		}
		if header == "" {
			break
		}
	}
	status, body := respond(request, answer)
	_, err = fmt.Fprintf(c, "HTTP/1.0 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, len(body), body)
	return err
}

// respond decides the status line and the body.
func respond(request string, answer func(string, url.Values) (string, error)) (status, body string) {
	f := strings.Fields(request)
	if len(f) != 3 || f[0] != "GET" || !strings.HasPrefix(f[2], "HTTP/1.") {
		return "400 Bad Request", "GET alone is known\n"
	}
	u, err := url.ParseRequestURI(f[1])
	if err != nil {
		return "400 Bad Request", err.Error() + "\n"
	}
	body, err = answer(u.Path, u.Query())
	switch {
	case errors.Is(err, errNoPath):
		return "404 Not Found", err.Error() + "\n"
	case err != nil:
		return "500 Internal Server Error", err.Error() + "\n"
	}
	return "200 OK", body
}

func line(r *bufio.Reader) (string, error) {
	s, err := r.ReadSlice('\n')
	return strings.TrimRight(string(s), "\r\n"), err
}

// maxBody bounds what Get takes, in bytes.
const maxBody = 1 << 20

// Get asks for a page of a guest; the port is 80 unless the URL has one.
func Get(ctx context.Context, rawURL string) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", err
	}
	if u.Scheme != "http" || u.Host == "" {
		return "", fmt.Errorf("cannot get %q: want http://ADDRESS/PATH", rawURL)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	c, err := new(net.Dialer).DialContext(ctx, "tcp", host)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if at, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(at)
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", u.RequestURI(), u.Host); err != nil {
		return "", err
	}
	return readResponse(bufio.NewReaderSize(io.LimitReader(c, maxBody+maxLine*16), maxLine))
}

// readResponse returns the body, whole, of a response with status 200.
func readResponse(r *bufio.Reader) (string, error) {
	status, err := line(r)
	if err != nil {
		return "", fmt.Errorf("cannot read answer: %w", err)
	}
	length := int64(-1)
	for {
		header, err := line(r)
		if err != nil {
			return "", fmt.Errorf("cannot read answer: %w", err)
		}
		if header == "" {
			break
		}
		if name, value, _ := strings.Cut(header, ":"); strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.ParseInt(strings.TrimSpace(value), 10, 64); err != nil || length < 0 || length > maxBody {
				return "", fmt.Errorf("cannot read answer: length %q", value)
			}
		}
	}
	body, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("cannot read answer: %w", err)
	}
	if length >= 0 && int64(len(body)) != length {
		return "", fmt.Errorf("cannot read answer: %d bytes of %d came", len(body), length)
	}
	if f := strings.Fields(status); len(f) < 2 || f[1] != "200" {
		return "", fmt.Errorf("the answer is %q: %s", status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}
