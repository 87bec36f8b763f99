package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Types of records that the agent asks for (RFC 1035, 3.2.2).
const (
	typeA     = 1
	typeNS    = 2
	typeCNAME = 5
	typeSOA   = 6
	typePTR   = 12
)

func recordType(kind string) uint16 {
	return map[string]uint16{"A": typeA, "NS": typeNS, "CNAME": typeCNAME, "SOA": typeSOA, "PTR": typePTR}[kind]
}

// dnsReply is what a name server answered.
type dnsReply struct {
	code          int  // RFC 1035, 4.1.1: 0 fine, 2 server failure, 3 no such name, 5 refused
	authoritative bool // it has the zone itself
	answers       []dnsAnswer
}

// dnsAnswer is a record of a reply. Names are in lower case and end with a dot.
type dnsAnswer struct {
	name string
	kind uint16
	// data is the address of an A record, the name in a CNAME, NS or PTR, the
	// first name in a SOA, "" for all other types.
	data   string
	serial uint32 // of a SOA
}

// dnsQuestion is a query for one name (RFC 1035, 4.1). It asks for no recursion:
// whoever has the zone answers.
func dnsQuestion(id uint16, name string, kind uint16) ([]byte, error) {
	q := binary.BigEndian.AppendUint16(nil, id)
	q = append(q, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 {
			return nil, fmt.Errorf("cannot ask for %q: no name in DNS", name)
		}
		q = append(append(q, byte(len(label))), label...)
	}
	if len(q) > 12+254 {
		return nil, fmt.Errorf("cannot ask for %q: longer than a name in DNS", name)
	}
	return append(binary.BigEndian.AppendUint16(append(q, 0), kind), 0, 1), nil // class IN
}

// maxLabels bounds a name: 255 bytes hold no more labels.
const maxLabels = 128

var errReply = errors.New("a DNS reply that is damaged")

// dnsName reads the name at off and returns where it ends. Compression (RFC
// 1035, 4.1.4) must point backwards, so that it comes to an end.
func dnsName(msg []byte, off int) (name string, next int, err error) {
	var b strings.Builder
	limit := off
	for range maxLabels {
		if off >= len(msg) {
			return "", 0, errReply
		}
		length := int(msg[off])
		switch {
		case length == 0:
			if next == 0 {
				next = off + 1
			}
			if b.Len() == 0 {
				return ".", next, nil
			}
			return b.String(), next, nil
		case length >= 0xc0:
			if off+1 >= len(msg) {
				return "", 0, errReply
			}
			if next == 0 {
				next = off + 2
			}
			off = (length&0x3f)<<8 | int(msg[off+1])
			if off >= limit {
				return "", 0, errReply
			}
			limit = off
		case length > 63 || off+1+length > len(msg):
			return "", 0, errReply
		default:
			writeLabel(&b, msg[off+1:off+1+length])
			off += 1 + length
		}
	}
	return "", 0, errReply
}

// writeLabel writes a label as zone files have it (RFC 1035, 5.1), in lower case.
func writeLabel(b *strings.Builder, label []byte) {
	for _, c := range label {
		switch {
		case 'A' <= c && c <= 'Z':
			b.WriteByte(c + 'a' - 'A')
		case c > ' ' && c < 0x7f && !strings.ContainsRune(`.\"();@$`, rune(c)):
			b.WriteByte(c)
		default:
			fmt.Fprintf(b, `\%03d`, c)
		}
	}
	b.WriteByte('.')
}

// parseReply reads the reply to a question. Sections behind the answers are not
// looked at.
func parseReply(msg, question []byte) (*dnsReply, error) {
	if len(msg) < 12 || len(question) < 12 || msg[2]&0x80 == 0 || string(msg[:2]) != string(question[:2]) {
		return nil, errReply
	}
	be := binary.BigEndian
	r := &dnsReply{code: int(msg[3] & 0xf), authoritative: msg[2]&4 != 0}
	if be.Uint16(msg[4:]) != 1 || !strings.EqualFold(string(msg[12:min(len(msg), len(question))]), string(question[12:])) {
		return nil, errReply
	}
	off := len(question)
	for range be.Uint16(msg[6:]) {
		a, next, err := parseAnswer(msg, off)
		if err != nil {
			return nil, err
		}
		r.answers, off = append(r.answers, a), next
	}
	return r, nil
}

// parseAnswer reads the record at off and returns where it ends.
func parseAnswer(msg []byte, off int) (a dnsAnswer, next int, err error) {
	if a.name, off, err = dnsName(msg, off); err != nil {
		return a, 0, err
	}
	if off+10 > len(msg) {
		return a, 0, errReply
	}
	be := binary.BigEndian
	a.kind = be.Uint16(msg[off:])
	begin := off + 10
	end := begin + int(be.Uint16(msg[off+8:]))
	if end > len(msg) {
		return a, 0, errReply
	}
	switch a.kind {
	case typeA:
		ip, ok := netip.AddrFromSlice(msg[begin:end])
		if !ok || !ip.Is4() {
			return a, 0, errReply
		}
		a.data = ip.String()
	case typeNS, typeCNAME, typePTR, typeSOA:
		var at int
		if a.data, at, err = dnsName(msg[:end], begin); err != nil {
			return a, 0, err
		}
		if a.kind == typeSOA {
			if _, at, err = dnsName(msg[:end], at); err != nil || at+20 != end {
				return a, 0, errReply
			}
			a.serial = be.Uint32(msg[at:])
		}
	}
	return a, end, nil
}

// dnsLookup asks a name server, three times if need be.
func (n *Node) dnsLookup(ctx context.Context, server netip.Addr, name, kind string) (*dnsReply, error) {
	var id [2]byte
	_, _ = rand.Read(id[:]) // never fails
	q, err := dnsQuestion(binary.BigEndian.Uint16(id[:]), name, recordType(kind))
	if err != nil {
		return nil, err
	}
	ask := n.Ask
	if ask == nil {
		ask = askUDP
	}
	var r *dnsReply
	for range 3 {
		var msg []byte
		if msg, err = ask(ctx, netip.AddrPortFrom(server, 53), q); err == nil {
			if r, err = parseReply(msg, q); err == nil {
				return r, nil
			}
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("cannot ask the name server %s for %s of %s: %w", server, kind, name, err)
}

// askUDP sends a question and returns what comes back, of at most 4 KiB, within
// two seconds.
func askUDP(ctx context.Context, server netip.AddrPort, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	if _, err := c.Write(question); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	size, err := c.Read(buf)
	return buf[:size], err
}
