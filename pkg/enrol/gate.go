package enrol

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	maxConns   = 16 // connections at a time
	maxPerAddr = 4  // of one address
)

// gate is a listener whose connections have proved themselves: the handshake is
// done here and not in net/http, so that a failed one can be told of.
type gate struct {
	inner  net.Listener
	config func() (*tls.Config, error)
	failed func(addr netip.Addr, err error)

	ctx   context.Context
	stop  context.CancelFunc
	conns chan net.Conn
	slots chan struct{}
	wait  sync.WaitGroup

	mu   sync.Mutex
	used map[netip.Addr]int
	err  error
}

func newGate(ctx context.Context, l net.Listener, config func() (*tls.Config, error), failed func(netip.Addr, error)) *gate {
	g := &gate{inner: l, config: config, failed: failed,
		conns: make(chan net.Conn), slots: make(chan struct{}, maxConns), used: make(map[netip.Addr]int)}
	g.ctx, g.stop = context.WithCancel(ctx)
	g.wait.Go(g.run)
	return g
}

// run accepts as long as there are slots; the rest waits in the kernel's queue.
func (g *gate) run() {
	defer g.stop()
	for failures := 0; ; {
		select {
		case g.slots <- struct{}{}:
		case <-g.ctx.Done():
			return
		}
		conn, err := g.inner.Accept()
		if err != nil {
			<-g.slots
			if failures++; g.ctx.Err() != nil || errors.Is(err, net.ErrClosed) || failures > 20 {
				g.mu.Lock()
				g.err = err
				g.mu.Unlock()
				return
			}
			pause(g.ctx, 100*time.Millisecond) // too many open files, and the like
			continue
		}
		failures = 0
		addr := remote(conn)
		if !g.enter(addr) {
			_ = conn.Close()
			<-g.slots
			continue
		}
		c := &slotConn{Conn: conn, leave: func() { g.leave(addr); <-g.slots }}
		g.wait.Go(func() { g.handshake(c, addr) })
	}
}

func (g *gate) handshake(c *slotConn, addr netip.Addr) {
	cfg, err := g.config() // which has told of its error
	if err != nil {
		_ = c.Close()
		return
	}
	t := tls.Server(c, cfg)
	ctx, cancel := context.WithTimeout(g.ctx, handshakeTime)
	err = t.HandshakeContext(ctx)
	cancel()
	if err != nil {
		g.failed(addr, err)
		c.drain()
		return
	}
	select {
	case g.conns <- t:
	case <-g.ctx.Done():
		_ = c.Close()
	}
}

// Accept returns a connection whose client has proved itself.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case c := <-g.conns:
		return c, nil
	case <-g.ctx.Done():
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.err != nil && !errors.Is(g.err, net.ErrClosed) {
			return nil, fmt.Errorf("cannot accept: %w", g.err)
		}
		return nil, net.ErrClosed
	}
}

// Close ends the gate; it returns when nothing of it runs any more.
func (g *gate) Close() error {
	g.stop()
	err := g.inner.Close()
	g.wait.Wait()
	return err
}

// Addr is the address of the listener.
func (g *gate) Addr() net.Addr { return g.inner.Addr() }

func (g *gate) enter(addr netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used[addr] >= maxPerAddr {
		return false
	}
	g.used[addr]++
	return true
}

func (g *gate) leave(addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used[addr]--; g.used[addr] <= 0 {
		delete(g.used, addr)
	}
}

// slotConn gives its slot back when it is closed.
type slotConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *slotConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.leave)
	return err
}

// drain ends a connection after an alert was written: closing it while there
// are bytes to be read resets it, and the other end may not see the alert.
func (c *slotConn) drain() {
	if t, ok := c.Conn.(*net.TCPConn); ok && t.CloseWrite() == nil {
		_ = t.SetDeadline(time.Now().Add(time.Second))
		_, _ = io.CopyN(io.Discard, t, maxBody)
	}
	_ = c.Close()
}

func remote(c net.Conn) netip.Addr {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap().WithZone("")
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
