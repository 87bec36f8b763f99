package enrol

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Server is the master's side.
type Server struct {
	Ledger *Ledger
	// Answer is what a machine that was accepted is told. An error makes the
	// machine ask again later. It has 30 s, and is called for repeated claims, too.
	Answer func(ctx context.Context, c Claim) (Reply, error)
	// Claimed hears of each claim that was accepted, repeated ones too; nil is
	// deaf. It should return soon; Ledger.Claims has all of them at any time.
	Claimed func(c Claim)
	// Refused hears of everybody who was refused, for the master's console, at
	// most once in 10 s for an address and a reason; nil is deaf. host is "" as
	// long as nobody has proved to be one.
	Refused func(host string, addr netip.Addr, why *RefusedError)
	// Trouble hears of what keeps the server from doing its work, such as a
	// ledger that cannot be read or an Answer that failed; nil is deaf.
	Trouble func(err error)
	// Linger is how long to go on answering when no host may join any more, so
	// that the last one hears that it has joined; 0 means 5 min.
	Linger time.Duration

	poll time.Duration // between two looks at the ledger, 0 means 10 s
}

// joinPath is the path of a Request.
const joinPath = "/v1/join"

// Serve serves on a TCP listener, which it closes, until no host may join any
// more (nil) or ctx ends (its error).
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sv := &serving{Server: s, said: make(map[saidKey]time.Time)}
	g := newGate(ctx, l, sv.config, sv.handshakeFailed)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+joinPath, sv.join)
	srv := &http.Server{
		Handler:     mux,
		ReadTimeout: handshakeTime, WriteTimeout: requestTime + handshakeTime, MaxHeaderBytes: 8 << 10,
		BaseContext:  func(net.Listener) context.Context { return ctx },
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 alone
	}
	srv.SetKeepAlivesEnabled(false)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(g) }()

	over := sv.watch(ctx, served)
	grace, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	if srv.Shutdown(grace) != nil { // closes the gate; what is being answered may end
		_ = srv.Close()
	}
	cancel()
	_ = g.Close() // where the server ended by itself
	return over
}

// watch returns when there is nothing left to serve for, with nil, or nobody
// who serves.
func (sv *serving) watch(ctx context.Context, served <-chan error) error {
	poll, linger := sv.poll, sv.Linger
	if poll == 0 {
		poll = 10 * time.Second
	}
	if linger == 0 {
		linger = 5 * time.Minute
	}
	var ticked, idle time.Time
	for {
		if time.Since(ticked) >= time.Minute {
			if err := sv.Ledger.tick(); err != nil {
				sv.trouble(err)
			}
			ticked = time.Now()
		}
		pending, err := sv.Ledger.Pending()
		switch {
		case err != nil:
			sv.trouble(err)
		case len(pending) > 0:
			idle = time.Time{}
		case idle.IsZero():
			idle = time.Now()
		case time.Since(idle) >= linger:
			return nil
		}
		t := time.NewTimer(poll)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case err := <-served:
			t.Stop()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("cannot serve those who join: %w", err)
		case <-t.C:
		}
	}
}

// serving is a server at work.
type serving struct {
	*Server
	mu   sync.Mutex
	said map[saidKey]time.Time
}

type saidKey struct {
	addr   netip.Addr
	reason Reason
}

const (
	sayAgain = 10 * time.Second
	maxSaid  = 256 // keys that are remembered; who floods beyond is not told of
)

// refused tells the master's console, unless it was told just now.
func (sv *serving) refused(host string, addr netip.Addr, why *RefusedError) {
	if sv.Refused == nil || !sv.news(saidKey{addr, why.Reason}, time.Now()) {
		return
	}
	sv.Refused(host, addr, why)
}

func (sv *serving) news(key saidKey, at time.Time) bool {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	for k, t := range sv.said {
		if at.Sub(t) >= sayAgain {
			delete(sv.said, k)
		}
	}
	if _, ok := sv.said[key]; ok || len(sv.said) >= maxSaid {
		return false
	}
	sv.said[key] = at
	return true
}

// trouble tells of our own, as often as refused does.
func (sv *serving) trouble(err error) {
	if sv.Trouble != nil && sv.news(saidKey{reason: Reason(err.Error())}, time.Now()) {
		sv.Trouble(err)
	}
}

// config is made for each connection: an admin's word counts at once.
func (sv *serving) config() (*tls.Config, error) {
	media, err := sv.Ledger.media()
	var cfg *tls.Config
	if err == nil {
		cfg, err = serverConfig(media)
	}
	if err != nil {
		sv.trouble(fmt.Errorf("cannot serve those who join: %w", err))
	}
	return cfg, err
}

func (sv *serving) handshakeFailed(addr netip.Addr, err error) {
	var bad *tls.CertificateVerificationError
	switch {
	case errors.As(err, &bad):
		sv.refused("", addr, refuse(WrongMedium, "%s has a certificate of another medium or another site: %s", addr, oneLine(bad.Err.Error())))
	case remoteRefusal(err):
		sv.refused("", addr, refuse(Impostor, "%s does not take this machine for the master: %s", addr, oneLine(err.Error())))
	case err.Error() == "tls: client didn't provide a certificate":
		sv.refused("", addr, refuse(WrongMedium, "%s has no certificate", addr))
	}
	// Others hang up, time out or speak something else: no credential was shown.
}

// caller is who asks; it has proved to have the credential of a host.
func caller(r *http.Request) (Claim, bool) {
	host, credential, ca, ok := peer(r.TLS)
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	return Claim{Host: host, Credential: credential, CA: ca, Address: a.Addr().Unmap().WithZone("")}, ok && err == nil
}

func (sv *serving) join(w http.ResponseWriter, r *http.Request) {
	c, ok := caller(r)
	if !ok {
		http.Error(w, "", http.StatusForbidden)
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		sv.refuse(w, c, refuse(BadRequest, "host %s sent a request that is cut short or too long", c.Host))
		return
	}
	if c.Request, err = parseRequest(data); err != nil {
		sv.refuse(w, c, refuse(BadRequest, "host %s sent a request that makes no sense: %s", c.Host, oneLine(err.Error())))
		return
	}
	if c.Request.Host != c.Host {
		sv.refuse(w, c, refuse(UnknownHost, "a machine with the credential of host %s asked to join as %s", c.Host, c.Request.Host))
		return
	}
	if c.Machine, err = machineID(c.Request.HostKeys); err == nil {
		err = sv.Ledger.claim(c)
	}
	if sv.failed(w, c, err) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	reply, err := sv.Answer(ctx, c)
	if err == nil {
		err = reply.check()
	}
	if sv.failed(w, c, err) {
		return
	}
	answer(w, http.StatusOK, reply)
	if sv.Claimed != nil {
		sv.Claimed(c)
	}
}

// failed answers an error and reports whether there was one. Who was not
// refused may come again: the ledger's file may be on a disk that is full.
func (sv *serving) failed(w http.ResponseWriter, c Claim, err error) bool {
	var refused *RefusedError
	switch {
	case err == nil:
		return false
	case errors.As(err, &refused):
		sv.refuse(w, c, refused)
	default:
		sv.trouble(fmt.Errorf("cannot answer host %s: %w", c.Host, err))
		http.Error(w, "", http.StatusServiceUnavailable)
	}
	return true
}

func (sv *serving) refuse(w http.ResponseWriter, c Claim, why *RefusedError) {
	sv.refused(c.Host, c.Address, why)
	answer(w, http.StatusForbidden, refusal{why.Reason, why.Message})
}

func answer(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(data, '\n')) // who has hung up asks again
}
