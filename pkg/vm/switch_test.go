package vm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// frameOf is an Ethernet frame as a port carries it.
func frameOf(dst, src byte, text string) []byte {
	f := []byte{0, 0, 0, 0, 2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 8, 0}
	if dst == 0xff {
		copy(f[4:], "\xff\xff\xff\xff\xff\xff")
	}
	f = append(f, text...)
	binary.BigEndian.PutUint32(f, uint32(len(f)-4))
	return f
}

// station is what sits at the end of a cable.
type station struct {
	net.Conn
	port *Port
}

func plugIn(t *testing.T, s *Switch, name string) station {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	p := s.Port(name)
	p.attach(theirs)
	return station{ours, p}
}

// hears waits for a frame with a text; with an empty one it waits for silence.
func (s station) hears(t *testing.T, want string) {
	t.Helper()
	wait := 5 * time.Second
	if want == "" {
		wait = 50 * time.Millisecond
	}
	s.SetReadDeadline(time.Now().Add(wait))
	frame, err := readFrame(s)
	got := ""
	if err == nil {
		got = string(frame[18:])
	}
	if got != want {
		t.Errorf("%s hears %q (%v); want %q", s.port.Name, got, err, want)
	}
}

func (s station) says(t *testing.T, frame []byte) {
	t.Helper()
	s.SetWriteDeadline(time.Now().Add(5 * time.Second))
	if _, err := s.Write(frame); err != nil {
		t.Fatal(err)
	}
}

func TestSwitch(t *testing.T) {
	s := NewSwitch()
	a, b, c := plugIn(t, s, "a"), plugIn(t, s, "b"), plugIn(t, s, "c")
	s.Port("nobody")

	a.says(t, frameOf(0xff, 1, "who is there"))
	b.hears(t, "who is there")
	c.hears(t, "who is there")
	// QEMU's multicast segments hand each machine its own frames back.
	a.hears(t, "")

	b.says(t, frameOf(1, 2, "me")) // a's place is known
	a.hears(t, "me")
	c.hears(t, "")

	a.says(t, frameOf(9, 1, "unknown"))
	b.hears(t, "unknown")
	c.hears(t, "unknown")

	c.says(t, frameOf(0xff, 2, "I am b now")) // as after a migration
	a.hears(t, "I am b now")
	b.hears(t, "I am b now")
	a.says(t, frameOf(2, 1, "to b"))
	c.hears(t, "to b")
	b.hears(t, "")

	c.port.Cut(true)
	a.says(t, frameOf(0xff, 1, "cut"))
	b.hears(t, "cut")
	c.hears(t, "")
	c.says(t, frameOf(0xff, 2, "help"))
	b.hears(t, "")
	c.port.Cut(false)
	c.says(t, frameOf(1, 3, "back"))
	a.hears(t, "back")
	if got := c.port.Stats(); got.Dropped != 1 {
		t.Errorf("%+v; want one frame dropped", got)
	}

	b.says(t, []byte{0xff, 0xff, 0xff, 0xff}) // no frame: the machine is unplugged
	if _, err := b.Read(make([]byte, 1)); err == nil {
		t.Error("a port that speaks nonsense stays plugged in")
	}
	a.says(t, frameOf(0xff, 1, "still here"))
	c.hears(t, "still here")
}

// The card of the next machine takes the place of the last one's.
func TestSwitchNextMachine(t *testing.T) {
	s := NewSwitch()
	a, b := plugIn(t, s, "a"), plugIn(t, s, "b")
	ours, theirs := net.Pipe()
	defer ours.Close()
	b.port.attach(theirs)
	next := station{ours, b.port}
	a.says(t, frameOf(0xff, 1, "hello"))
	next.hears(t, "hello")
	if _, err := b.Read(make([]byte, 1)); err == nil {
		t.Error("the machine that was replaced is still plugged in")
	}
}

// A machine that does not read loses frames; it holds up nobody.
func TestSwitchSlowMachine(t *testing.T) {
	s := NewSwitch()
	a, slow, b := plugIn(t, s, "a"), plugIn(t, s, "slow"), plugIn(t, s, "b")
	const n = 8000
	got := make(chan int)
	ahead := make(chan bool, 1000) // frames that b has not read yet: fewer than its port holds, however slow b is
	go func() {
		count := 0
		for r := bufio.NewReader(b); count < n; count++ {
			if _, err := readFrame(r); err != nil {
				break
			}
			<-ahead
		}
		got <- count
	}()
	text := strings.Repeat("x", 1480)
	b.SetReadDeadline(time.Now().Add(20 * time.Second))
	for range n {
		select {
		case ahead <- true:
		case count := <-got:
			t.Fatalf("b got %d frames of %d", count, n)
		}
		a.says(t, frameOf(0xff, 1, text))
	}
	if count := <-got; count != n {
		t.Errorf("b got %d frames of %d", count, n)
	}
	st := slow.port.Stats()
	if st.Dropped == 0 || st.Dropped+maxQueue/1500*2 < n {
		t.Errorf("%+v of %d frames for a machine that reads nothing", st, n)
	}
}

func TestReadFrame(t *testing.T) {
	runt := []byte{0, 0, 0, 2, 'x', 'x'}
	good := frameOf(1, 2, "text")
	r := bytes.NewReader(append(runt, good...))
	if f, err := readFrame(r); err != nil || !bytes.Equal(f, good) {
		t.Errorf("readFrame = %q, %v", f, err)
	}
	if _, err := readFrame(r); err != io.EOF {
		t.Errorf("readFrame: %v; want EOF", err)
	}
	if _, err := readFrame(bytes.NewReader(good[:9])); err != io.ErrUnexpectedEOF {
		t.Errorf("readFrame: %v; want unexpected EOF", err)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(frameOf(1, 2, "text"))
	f.Add([]byte{0, 0, 0, 2, 'x', 'x'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		for {
			frame, err := readFrame(r)
			if err != nil {
				return
			}
			if len(frame) < 4+14 || !bytes.Contains(data, frame) {
				t.Errorf("%x is no frame of %x", frame, data)
			}
		}
	})
}

func TestParseVersion(t *testing.T) {
	for out, want := range map[string]Version{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright": {7, 2},
		"QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)":          {10, 0},
	} {
		if got, err := parseVersion(out); got != want || err != nil {
			t.Errorf("%q: %v, %v; want %v", out, got, err, want)
		}
	}
	if _, err := parseVersion("sh: not found"); err == nil {
		t.Error("no error")
	}
}
