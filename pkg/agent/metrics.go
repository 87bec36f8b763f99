package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/skycover/sci-cd/pkg/site"
)

// MetricsPort is where a host shows its metrics. IANA has given it to nobody.
const MetricsPort = 9198

const (
	metricsUnit = "sci-agent-metrics.service"
	// metricsFile tells the unit where to listen; without it the unit does not
	// start. The unit is no user of root's and cannot read the site file.
	metricsFile = "etc/default/sci-agent-metrics"

	maxMetricsConns = 16              // connections at a time
	metricsFresh    = 5 * time.Second // how long an answer is given again
	metricsLimit    = 10 * time.Second
)

// metricsPlanned reports whether metrics are to be there, or are and are to go.
func (n *Node) metricsPlanned(s *site.Site) bool { return wantsMetrics(s) || n.exists(metricsFile) }

func wantsMetrics(s *site.Site) bool { return s.Cluster != nil && s.Cluster.Metrics }

// metricsAddress is in the backbone, where the host is on it: whoever gets there
// sees the traffic of the disks as well.
func (n *Node) metricsAddress() netip.AddrPort {
	a := n.Host.Addresses[backbone]
	if !a.IsValid() {
		a = n.Host.Addresses[lan]
	}
	return netip.AddrPortFrom(a, MetricsPort)
}

func (n *Node) metricsFiles() []file {
	return []file{{metricsFile, rendered("metrics") + "LISTEN=" + n.metricsAddress().String() + "\n", 0o644}}
}

// metricsDone reports whether the metrics are there, at boot too, or gone where
// the site does not want them.
func (n *Node) metricsDone(ctx context.Context) (bool, error) {
	if !wantsMetrics(n.Site) {
		return !n.exists(metricsFile), nil
	}
	if ok, err := n.allSame(n.metricsFiles(), nil); !ok || err != nil {
		return false, err
	}
	u, err := n.unit(ctx, metricsUnit)
	return u.enabled && u.active && n.metricsAnswer(ctx), err
}

func (n *Node) metricsAnswer(ctx context.Context) bool {
	a := n.metricsAddress()
	return n.answers(ctx, a.Addr(), a.Port())
}

func (n *Node) metricsDo(ctx context.Context) error {
	if !wantsMetrics(n.Site) {
		if err := n.command(ctx, "systemctl", "disable", "--now", metricsUnit); err != nil {
			return err
		}
		_, err := n.put(nil, []string{metricsFile}) // last: it keeps this step in the plan
		return err
	}
	if _, err := n.put(n.metricsFiles(), nil); err != nil {
		return err
	}
	if err := n.command(ctx, "systemctl", "enable", metricsUnit); err != nil {
		return err
	}
	if err := n.command(ctx, "systemctl", "restart", metricsUnit); err != nil {
		return err
	}
	for range 30 {
		if n.metricsAnswer(ctx) || ctx.Err() != nil {
			return ctx.Err()
		}
		n.sleep(ctx, time.Second)
	}
	return &Waiting{For: fmt.Sprintf("the metrics at %s", n.metricsAddress())}
}

// ListenMetrics listens at an address that this machine may get later: networks
// come up beside it.
func ListenMetrics(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		err := raw.Control(func(fd uintptr) {
			set = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), syscall.SOL_IP, syscall.IP_FREEBIND, 1))
		})
		return errors.Join(err, set)
	}}
	c.SetMultipathTCP(false)
	l, err := c.Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("cannot show metrics: %w", err)
	}
	return l, nil
}

// ServeMetrics answers GET /metrics on l until ctx ends. It starts no program
// and reads what anybody may read. Nobody is asked who he is.
func ServeMetrics(ctx context.Context, l net.Listener, o ReportOptions, version string) error {
	m := &metrics{o: o, version: version}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", m.serve)
	s := &http.Server{
		Handler:     mux,
		ReadTimeout: 5 * time.Second, WriteTimeout: metricsLimit + 10*time.Second, IdleTimeout: 30 * time.Second,
		MaxHeaderBytes: 8 << 10,
		ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // of clients that break off
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	err := s.Serve(&fewConns{Listener: l, slots: make(chan struct{}, maxMetricsConns)})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// metrics collects for one client at a time, and not for each: another node is
// asked at most every few seconds, however many ask here.
type metrics struct {
	o       ReportOptions
	version string

	mu   sync.Mutex
	text string
	at   time.Time
}

func (m *metrics) serve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", expositionType)
	_, _ = w.Write([]byte(m.collect())) // a client that has gone does not matter
}

func (m *metrics) collect() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.text != "" && time.Since(m.at) < metricsFresh {
		return m.text
	}
	ctx, cancel := context.WithTimeout(context.Background(), metricsLimit)
	defer cancel()
	st, err := ReadState(filepath.Join(m.o.Root, StateFile))
	if err != nil {
		st = new(State)
	}
	r := report(ctx, m.o, st)
	if err != nil {
		r.NotRead = append(r.NotRead, NotRead{"state", err.Error()})
	}
	m.text, m.at = r.exposition(m.version), time.Now()
	return m.text
}

// fewConns is a listener that accepts no more than it has slots; the rest waits
// in the kernel's queue.
type fewConns struct {
	net.Listener
	slots chan struct{}
}

func (f *fewConns) Accept() (net.Conn, error) {
	f.slots <- struct{}{}
	c, err := f.Listener.Accept()
	if err != nil {
		<-f.slots
		return nil, err
	}
	return &slotConn{Conn: c, free: sync.OnceFunc(func() { <-f.slots })}, nil
}

type slotConn struct {
	net.Conn
	free func()
}

func (c *slotConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
