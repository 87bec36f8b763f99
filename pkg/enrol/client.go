package enrol

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Join asks the master to take this machine in. masterName is the full name
// that the master's certificate must have. The error is or wraps a
// *RefusedError where trying again cannot help (with advice, see pkg/hint); any
// other error means that nobody answered, or nobody could: wait and try again.
// The same machine may ask as often as it likes until it has joined.
func Join(ctx context.Context, c Credential, masterName string, master netip.AddrPort, r Request) (Reply, error) {
	if err := r.check(); err != nil {
		return Reply{}, fmt.Errorf("cannot ask %s to join: %w", masterName, err)
	}
	body, err := json.Marshal(r)
	if err != nil {
		return Reply{}, fmt.Errorf("cannot ask %s to join: %w", masterName, err)
	}
	reply, err := ask(ctx, c, masterName, master, body)
	var refused *RefusedError
	if errors.As(err, &refused) {
		return Reply{}, advised(refused, c.Host)
	}
	if err != nil {
		return Reply{}, fmt.Errorf("cannot ask the master %s at %s: %w", masterName, master, err)
	}
	return reply, nil
}

func ask(ctx context.Context, c Credential, masterName string, master netip.AddrPort, body []byte) (Reply, error) {
	code, data, err := exchange(ctx, c, masterName, master, body)
	if err != nil {
		return Reply{}, err
	}
	switch code {
	case http.StatusOK:
		return parseReply(data)
	case http.StatusForbidden:
		refused, err := parseRefusal(data)
		if err != nil {
			return Reply{}, err
		}
		return Reply{}, refused
	}
	return Reply{}, fmt.Errorf("it answers %d", code)
}

// exchange is one connection with one request.
func exchange(ctx context.Context, c Credential, masterName string, master netip.AddrPort, body []byte) (int, []byte, error) {
	cfg, err := clientConfig(c, masterName)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*requestTime)
	defer cancel()
	conn, err := (&net.Dialer{Timeout: handshakeTime}).DialContext(ctx, "tcp", master.String())
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return 0, nil, judged(err, c, masterName, master)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+cfg.ServerName+joinPath, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Close = true
	werr := req.Write(t)
	// The master judges our certificate after our end of the handshake is done
	// (RFC 8446, 4.4.2.4): what it says of it is read here, even if it did not
	// wait for the request.
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(t, 2*maxBody)), req)
	if err != nil {
		if err = judged(err, c, masterName, master); werr != nil {
			err = errors.Join(err, werr)
		}
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err == nil && len(data) > maxBody {
		err = fmt.Errorf("it answers more than %d bytes", maxBody)
	}
	return resp.StatusCode, data, err
}

// judged tells a certificate that is not believed, by either end, from a
// connection that failed.
func judged(err error, c Credential, masterName string, master netip.AddrPort) error {
	var bad *tls.CertificateVerificationError
	var name x509.HostnameError
	switch {
	// Names are compared before signatures: here it may be of any authority.
	case errors.As(err, &name) && c.signed(name.Certificate):
		return refuse(Impostor, "the machine at %s is not the master %s: its certificate is %s", master.Addr(), masterName, oneLine(name.Certificate.Subject.CommonName))
	case errors.As(err, &bad):
		return refuse(WrongMedium, "the machine at %s has no certificate of the medium that this machine was installed from: %s", master.Addr(), oneLine(bad.Err.Error()))
	case remoteRefusal(err):
		return refuse(WrongMedium, "the machine at %s does not take the credential of host %s: it is of another medium or another site", master.Addr(), c.Host)
	}
	return err
}

// signed reports whether the certificate is of the credential's medium.
func (c Credential) signed(cert *x509.Certificate) bool {
	pool, err := c.pool()
	if err != nil {
		return false
	}
	_, err = cert.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: instant()})
	return err == nil
}
