package vm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// Switch is an Ethernet switch in this process: one network segment with as
// many ports as machines are plugged in. It needs neither root nor a socket
// that others could find: each port is a socket pair, one end QEMU's (netdev
// "socket" with a descriptor: frames behind a 32-bit length, big endian).
//
// It learns addresses, floods what it has not learnt, and drops what a port
// cannot take, as a switch of iron does. It knows no VLANs and no spanning
// tree, so two of them must not be joined twice.
//
// QEMU's own multicast segments are no substitute: each machine gets its own
// frames back, which makes bridges in the guests learn wrong ports, and with
// two machines some 27 % of a burst of 20,000 frames were lost.
type Switch struct {
	mu    sync.Mutex
	ports []*Port
	at    map[address]*Port
}

type address [6]byte

const (
	maxFrame = 64 << 10 // bytes; a frame larger than that is no frame
	// maxQueue is what waits for one port, in bytes: some 2,700 full frames.
	maxQueue = 4 << 20
	// maxAddresses bounds what is learnt. Behind it, frames are flooded.
	maxAddresses = 4096
)

// NewSwitch returns a switch without ports.
func NewSwitch() *Switch { return &Switch{at: make(map[address]*Port)} }

// Port is a socket of the switch, with a cable that leads to one network card
// of one machine. It outlives the machine: the same card of the next machine
// may use it.
type Port struct {
	Name string

	sw  *Switch
	cut atomic.Bool

	mu    sync.Mutex
	more  *sync.Cond
	queue [][]byte // nil entries are none
	size  int
	conn  io.ReadWriteCloser // nil: no machine is plugged in
	stats PortStats
}

// PortStats counts frames.
type PortStats struct {
	In, Out uint64 // from the machine, to it
	Dropped uint64 // on the way to it: the machine was too slow, or the cable cut
}

// Port adds a port. The name is for people.
func (s *Switch) Port(name string) *Port {
	p := &Port{Name: name, sw: s}
	p.more = sync.NewCond(&p.mu)
	s.mu.Lock()
	s.ports = append(s.ports, p)
	s.mu.Unlock()
	return p
}

// Cut breaks or mends the cable: no frame comes through in either direction.
// The machine's card still sees a carrier, as with a switch further away that
// has failed; Machine.SetLink takes the carrier away as well.
func (p *Port) Cut(broken bool) {
	p.cut.Store(broken)
	p.sw.forget(p)
}

// Stats returns the counts so far.
func (p *Port) Stats() PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// plug joins the port with a new connection and returns the other end of it. A
// machine that was plugged in before is unplugged.
func (p *Port) plug() (*os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("cannot plug in %s: %w", p.Name, err)
	}
	p.attach(ours)
	return theirs, nil
}

func (p *Port) attach(conn io.ReadWriteCloser) {
	p.mu.Lock()
	if p.conn != nil {
		_ = p.conn.Close() // its reader sees that
	}
	p.conn, p.queue, p.size = conn, nil, 0
	p.more.Broadcast()
	p.mu.Unlock()
	p.sw.forget(p)
	go p.read(conn)
	go p.write(conn)
}

// detach ends a connection unless it has been replaced already.
func (p *Port) detach(conn io.ReadWriteCloser) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = conn.Close()
	if p.conn == conn {
		p.conn, p.queue, p.size = nil, nil, 0
	}
	p.more.Broadcast()
}

func (p *Port) read(conn io.ReadWriteCloser) {
	defer p.detach(conn)
	r := bufio.NewReaderSize(conn, maxFrame)
	for {
		frame, err := readFrame(r)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.stats.In++
		current := p.conn == conn
		p.mu.Unlock()
		if current && !p.cut.Load() {
			p.sw.forward(p, frame)
		}
	}
}

var errFrame = errors.New("bad length of a frame")

// readFrame reads a frame; one too short for an Ethernet header is skipped.
func readFrame(r io.Reader) ([]byte, error) {
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return nil, err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxFrame {
			return nil, errFrame
		}
		// With its head, so that it goes out in one write.
		frame := make([]byte, 4+n)
		copy(frame, head[:])
		if _, err := io.ReadFull(r, frame[4:]); err != nil {
			return nil, err
		}
		if n >= 14 {
			return frame, nil
		}
	}
}

// forward hands a frame to the ports that shall have it.
func (s *Switch) forward(from *Port, frame []byte) {
	dst, src := address(frame[4:10]), address(frame[10:16])
	s.mu.Lock()
	if _, known := s.at[src]; src[0]&1 == 0 && (known || len(s.at) < maxAddresses) {
		s.at[src] = from
	}
	to := s.ports
	if p := s.at[dst]; p != nil && dst[0]&1 == 0 {
		to = []*Port{p}
	}
	s.mu.Unlock()
	for _, p := range to {
		if p != from {
			p.send(frame)
		}
	}
}

func (s *Switch) forget(p *Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, at := range s.at {
		if at == p {
			delete(s.at, a)
		}
	}
}

func (p *Port) send(frame []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.conn == nil:
	case p.cut.Load() || p.size+len(frame) > maxQueue:
		p.stats.Dropped++
	default:
		p.queue = append(p.queue, frame)
		p.size += len(frame)
		p.more.Signal()
	}
}

// write brings the queue to the machine.
func (p *Port) write(conn io.ReadWriteCloser) {
	defer p.detach(conn)
	for {
		p.mu.Lock()
		for p.conn == conn && len(p.queue) == 0 {
			p.more.Wait()
		}
		if p.conn != conn {
			p.mu.Unlock()
			return
		}
		batch := p.queue
		p.queue, p.size = nil, 0
		p.mu.Unlock()
		for _, frame := range batch {
			if _, err := conn.Write(frame); err != nil {
				return
			}
		}
		p.mu.Lock()
		p.stats.Out += uint64(len(batch))
		p.mu.Unlock()
	}
}
