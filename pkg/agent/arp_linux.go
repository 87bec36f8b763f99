package agent

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// arpSocket sends and receives whole frames of ARP on one interface, packet(7).
type arpSocket struct {
	fd   int
	addr unix.SockaddrLinklayer
}

// etherARP is ETH_P_ARP in network byte order.
const etherARP = unix.ETH_P_ARP>>8 | unix.ETH_P_ARP&0xff<<8

func openARP(index int) (*arpSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, etherARP)
	if err != nil {
		return nil, err
	}
	s := &arpSocket{fd, unix.SockaddrLinklayer{Protocol: etherARP, Ifindex: index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}}
	if err := unix.Bind(fd, &s.addr); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return s, nil
}

func (s *arpSocket) Close() error { return unix.Close(s.fd) }

func (s *arpSocket) send(frame []byte) error { return unix.Sendto(s.fd, frame, 0, &s.addr) }

// receive returns the next frame, nil if none came in time.
func (s *arpSocket) receive(wait time.Duration) ([]byte, error) {
	t := unix.NsecToTimeval(max(int64(wait), int64(time.Millisecond)))
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &t); err != nil {
		return nil, err
	}
	buf := make([]byte, 1514)
	n, _, err := unix.Recvfrom(s.fd, buf, 0)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	return buf[:max(n, 0)], err
}
