package guest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"strings"
	"time"
)

// Outside plays what is beyond a site's gateway, for tests of a site that has no
// way out: a name server, which the site's own one forwards to, and a mirror of
// Debian. It runs on a node, in a network namespace of its own.
type Outside struct {
	// Names are what the name server knows, without a dot at the end. Of any other
	// name it says that it does not exist.
	Names map[string]netip.Addr
	// Roots are directories that the web server looks for a path in, one after the
	// other.
	Roots []string
	Say   func(line string) // a line for each question; may be nil
}

// Serve answers until one of both is closed.
func (o Outside) Serve(names net.PacketConn, web net.Listener) error {
	failed := make(chan error, 2)
	go func() { failed <- o.serveNames(names) }()
	go func() { failed <- o.serveFiles(web) }()
	return <-failed
}

func (o Outside) say(format string, args ...any) {
	if o.Say != nil {
		o.Say(fmt.Sprintf(format, args...))
	}
}

// maxQuestion bounds a question to the name server, in bytes.
const maxQuestion = 4096

func (o Outside) serveNames(c net.PacketConn) error {
	buf := make([]byte, maxQuestion)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			continue // of one question
		}
		answer, what := o.answer(buf[:n])
		if answer == nil {
			continue
		}
		o.say("dns: %s asks for %s", from, what)
		_, _ = c.WriteTo(answer, from) // whoever asked asks again
	}
}

// DNS as far as it needs it (RFC 1035, 4.1): one question, one address.
const (
	dnsHeader             = 12
	dnsResponse           = 0x8000 | 0x0080 // QR, RA
	dnsRecursion          = 0x0100          // RD, copied
	dnsNoName             = 3               // NXDOMAIN
	dnsNotDone            = 4               // NOTIMP
	typeA, typeAny, class = 1, 255, 1
	dnsTTL                = 60 // seconds
)

// answer returns the answer to a question, and what was asked for; nil: it is
// none.
func (o Outside) answer(question []byte) (answer []byte, what string) {
	if len(question) < dnsHeader || question[2]&0x80 != 0 || binary.BigEndian.Uint16(question[4:]) != 1 {
		return nil, ""
	}
	name, rest, ok := dnsName(question[dnsHeader:])
	if !ok || len(rest) < 4 {
		return nil, ""
	}
	kind := binary.BigEndian.Uint16(rest)
	asked := question[dnsHeader : len(question)-len(rest)+4]
	flags := dnsResponse | binary.BigEndian.Uint16(question[2:])&dnsRecursion
	address, known := o.Names[name]
	record := known && (kind == typeA || kind == typeAny)
	switch {
	case question[2]&0x78 != 0: // another opcode than QUERY
		flags, record = flags|dnsNotDone, false
	case !known && !o.above(name):
		flags |= dnsNoName
	}
	answer = append(answer, question[:2]...)
	answer = binary.BigEndian.AppendUint16(answer, flags)
	answer = append(answer, 0, 1, 0, 0, 0, 0, 0, 0)
	answer = append(answer, asked...)
	if record {
		answer[7] = 1
		answer = append(answer, 0xc0, dnsHeader, 0, typeA, 0, class)
		answer = binary.BigEndian.AppendUint32(answer, dnsTTL)
		ip := address.As4()
		answer = append(append(answer, 0, 4), ip[:]...)
	}
	return answer, fmt.Sprintf("%s, type %d", name, kind)
}

// above says whether a name is above one that there is: it exists then, with no
// record of its own (RFC 8020).
func (o Outside) above(name string) bool {
	for n := range o.Names {
		if name == "" || strings.HasSuffix(n, "."+name) {
			return true
		}
	}
	return false
}

// dnsName reads a name, in lower case, and returns what comes behind it. The name
// of a question is never a pointer to another one.
func dnsName(b []byte) (name string, rest []byte, ok bool) {
	var labels []string
	for {
		if len(b) == 0 || b[0] > 63 || len(b) < int(b[0])+1 {
			return "", nil, false
		}
		n := int(b[0])
		if n == 0 {
			return strings.ToLower(strings.Join(labels, ".")), b[1:], true
		}
		labels, b = append(labels, string(b[1:n+1])), b[n+1:]
	}
}

func (o Outside) serveFiles(l net.Listener) error {
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
			_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
			if err := o.file(c); err != nil {
				o.say("http: %s: %v", c.RemoteAddr(), err)
			}
		}()
	}
}

// file answers one request, GET or HEAD, with a file.
func (o Outside) file(c io.ReadWriter) error {
	r := bufio.NewReaderSize(c, maxLine)
	request, err := line(r)
	if err != nil {
		return err
	}
	for header := "-"; header != ""; {
		if header, err = line(r); err != nil {
			return err
		}
	}
	f := strings.Fields(request)
	if len(f) != 3 || f[0] != "GET" && f[0] != "HEAD" || !strings.HasPrefix(f[2], "HTTP/1.") {
		_, err := io.WriteString(c, "HTTP/1.0 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return err
	}
	u, err := url.ParseRequestURI(f[1])
	if err != nil {
		return err
	}
	file, st := o.open(u.Path)
	if file == nil {
		o.say("http: %s %s: not found", f[0], u.Path)
		_, err := io.WriteString(c, "HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		return err
	}
	defer func() { _ = file.Close() }() // only read
	o.say("http: %s %s: %d bytes", f[0], u.Path, st.Size())
	_, err = fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\nLast-Modified: %s\r\nConnection: close\r\n\r\n",
		st.Size(), st.ModTime().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"))
	if err != nil || f[0] == "HEAD" {
		return err
	}
	_, err = io.CopyN(c, file, st.Size())
	return err
}

// open finds a plain file below the roots; nil: there is none.
func (o Outside) open(name string) (*os.File, os.FileInfo) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for _, dir := range o.Roots {
		root, err := os.OpenRoot(dir)
		if err != nil {
			continue
		}
		f, err := root.Open(name)
		_ = root.Close()
		if err != nil {
			continue
		}
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			return f, st
		}
		_ = f.Close()
	}
	return nil, nil
}

// ParseNames reads NAME=ADDRESS words.
func ParseNames(words []string) (map[string]netip.Addr, error) {
	names := make(map[string]netip.Addr)
	for _, w := range words {
		name, text, ok := strings.Cut(w, "=")
		a, err := netip.ParseAddr(text)
		if !ok || name == "" || err != nil || !a.Is4() {
			return nil, fmt.Errorf("cannot read %q: want NAME=ADDRESS, IPv4", w)
		}
		names[strings.ToLower(strings.TrimSuffix(name, "."))] = a
	}
	return names, nil
}
