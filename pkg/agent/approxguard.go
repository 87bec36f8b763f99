package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"
)

// Bounds of what a client of the package cache may say.
const (
	maxRequest     = 16 << 10        // bytes of a request: apt's have 300
	maxRequestPath = 512             // bytes of its path
	guardIdle      = 5 * time.Minute // between two requests of a connection
)

// GuardApprox stands between one client and approx, which reads requests from a
// socket. approx 5.13 hands the path of a request to a shell in quotation marks,
// so that a path with $(…) in it runs a command: only requests with the
// characters that Debian's paths are made of get through, written anew; for any
// other one the client is told 400 and hung up on. program is approx and its
// arguments.
func GuardApprox(ctx context.Context, client net.Conn, program []string, journal io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	near, far, err := socketPair()
	if err != nil {
		return fmt.Errorf("cannot guard approx: %w", err)
	}
	defer func() { _ = near.Close() }()
	cmd := exec.CommandContext(ctx, program[0], program[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, journal
	err = cmd.Start()
	_ = far.Close() // approx has its own by now
	if err != nil {
		return fmt.Errorf("cannot guard approx: %w", err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if _, err := io.Copy(client, near); err != nil {
			cancel() // the client is gone: approx need not go on
		}
	}()
	refused := passRequests(client, near)
	_ = near.CloseWrite()
	<-answered // what was asked before still gets its answer
	err = cmd.Wait()
	if refused != nil {
		_, _ = io.WriteString(client, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		return fmt.Errorf("refused a request of %v: %w", client.RemoteAddr(), refused)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("approx: %w", err)
	}
	return nil
}

// socketPair is two ends of a connection: ours, and a file for approx's standard
// input and output. approx asks for its client's address, and serves TCP only.
func socketPair() (near *net.TCPConn, far *os.File, err error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = l.Close() }()
	near, err = net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		return nil, nil, err
	}
	for {
		other, err := l.AcceptTCP()
		if err != nil {
			_ = near.Close()
			return nil, nil, err
		}
		// Somebody else on this machine may have come first.
		if other.RemoteAddr().String() == near.LocalAddr().String() {
			far, err = other.File()
			_ = other.Close() // far is a copy
			return near, far, err
		}
		_ = other.Close()
	}
}

// passRequests hands requests on until the client has no more (nil) or says
// something that it must not.
func passRequests(client net.Conn, approx io.Writer) error {
	limit := &io.LimitedReader{R: client}
	in := bufio.NewReader(limit)
	for {
		limit.N = maxRequest
		_ = client.SetReadDeadline(time.Now().Add(guardIdle))
		r, err := http.ReadRequest(in)
		var timeout net.Error
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.As(err, &timeout) && timeout.Timeout():
			return nil
		case err != nil:
			return fmt.Errorf("%.200q", err.Error())
		}
		if err := checkRequest(r); err != nil {
			return err
		}
		if _, err := io.WriteString(approx, requestFor(r)); err != nil || r.Close {
			return nil // approx is gone, and says so by itself
		}
	}
}

// requestFor is a request as approx gets it: nothing of the client's own words
// but a checked path and a time.
func requestFor(r *http.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: approx\r\n", r.Method, r.URL.Path)
	if t, err := http.ParseTime(r.Header.Get("If-Modified-Since")); err == nil {
		fmt.Fprintf(&b, "If-Modified-Since: %s\r\n", t.UTC().Format(http.TimeFormat))
	}
	if r.Close {
		b.WriteString("Connection: close\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

// checkRequest refuses what apt never asks.
func checkRequest(r *http.Request) error {
	name := r.URL.Path
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return fmt.Errorf("method %.20q", r.Method)
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return errors.New("a request with a body")
	case !strings.HasPrefix(r.RequestURI, "/") || strings.ContainsAny(r.RequestURI, "?#"):
		return fmt.Errorf("%.200q is no path", r.RequestURI)
	case len(name) > maxRequestPath:
		return fmt.Errorf("a path of %d bytes", len(name))
	case !plainPath(name):
		return fmt.Errorf("path %.200q", name)
	}
	return nil
}

// plainPath reports whether an absolute path has nothing but the characters of
// Debian's package names, versions (policy 5.6.1, 5.6.12) and index names, and
// no element that begins with a dot.
func plainPath(name string) bool {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-~:="
	return strings.HasPrefix(name, "/") && len(name) > 1 && path.Clean(name) == name &&
		!strings.Contains(name, "/.") && strings.Trim(name, plain) == ""
}
