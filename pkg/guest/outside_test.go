package guest

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// question is one to a name server, as dig sends it without EDNS.
func question(name string, kind byte) []byte {
	q := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, label := range strings.Split(name, ".") {
		if label != "" {
			q = append(append(q, byte(len(label))), label...)
		}
	}
	return append(q, 0, 0, kind, 0, 1)
}

func TestAnswer(t *testing.T) {
	o := Outside{Names: map[string]netip.Addr{"www.outside.test": netip.MustParseAddr("192.0.2.80")}}
	for _, test := range []struct {
		name   string
		kind   byte
		status byte
		record bool
	}{
		{"www.outside.test", typeA, 0, true},
		{"WWW.Outside.test", typeA, 0, true},
		{"www.outside.test", 28, 0, false},
		{"outside.test", typeA, 0, false}, // it is above one that there is
		{"other.outside.test", typeA, dnsNoName, false},
		{"", 2, 0, false},
	} {
		q := question(test.name, test.kind)
		got, _ := o.answer(q)
		want := append([]byte{0x12, 0x34, 0x81, 0x80 | test.status, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:]...)
		if test.record {
			want[7] = 1
			want = append(want, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, dnsTTL, 0, 4, 192, 0, 2, 80)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s, type %d:\n%x; want\n%x", test.name, test.kind, got, want)
		}
	}
	update := question("outside.test", 6)
	update[2] |= 5 << 3
	if got, _ := o.answer(update); len(got) < 4 || got[3]&15 != dnsNotDone {
		t.Errorf("an update: %x", got)
	}
	for _, bad := range [][]byte{nil, make([]byte, 12), question("x", 1)[:14], append(make([]byte, 12), 200), {0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1}} {
		if got, _ := o.answer(bad); got != nil {
			t.Errorf("%x is answered: %x", bad, got)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(question("www.outside.test", 1))
	f.Add([]byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	o := Outside{Names: map[string]netip.Addr{"www.outside.test": netip.MustParseAddr("192.0.2.80")}}
	f.Fuzz(func(t *testing.T, q []byte) {
		if got, _ := o.answer(q); got != nil && !bytes.Equal(got[:2], q[:2]) {
			t.Errorf("%x is no answer to %x", got, q)
		}
	})
}

func TestOutside(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	for dir, name := range map[string]string{first: "debian/pool/a.deb", second: "debian/dists/trixie/InRelease"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("text of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(first), "secret"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	names, err := ParseNames([]string{"www.outside.test.=192.0.2.80"})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- Outside{Names: names, Roots: []string{first, second, "/no/such"}}.Serve(c, l) }()
	base := "http://" + l.Addr().String()
	for path, want := range map[string]string{
		"/debian/pool/a.deb": "text of debian/pool/a.deb", "/debian/dists/trixie/InRelease": "text of debian/dists/trixie/InRelease",
	} {
		if got, err := Get(t.Context(), base+path); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"/", "/debian", "/../secret", "/debian/other"} {
		if _, err := Get(t.Context(), base+path); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got := raw(t, l.Addr().String(), "HEAD /debian/pool/a.deb HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 200 OK\r\n") || !strings.HasSuffix(got, "\r\n\r\n") {
		t.Errorf("HEAD: %q", got)
	}
	if got := raw(t, l.Addr().String(), "POST / HTTP/1.1\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 400 ") {
		t.Errorf("POST: %q", got)
	}
	asker, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer asker.Close()
	_ = asker.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 512)
	_, _ = asker.Write([]byte("rubbish")) // that is not answered
	_, _ = asker.Write(question("www.outside.test", 1))
	if n, err := asker.Read(buf); err != nil || !bytes.HasSuffix(buf[:n], []byte{192, 0, 2, 80}) {
		t.Errorf("%x, %v", buf[:n], err)
	}
	_, _ = c.Close(), l.Close()
	if err := <-ended; err == nil {
		t.Error("it ends without a reason")
	}
}

func raw(t *testing.T, address, request string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = c.Write([]byte(request))
	var buf bytes.Buffer
	_, _ = buf.ReadFrom(c)
	return buf.String()
}

func TestParseNames(t *testing.T) {
	for _, bad := range []string{"x", "=192.0.2.1", "x=y", "x=::1"} {
		if _, err := ParseNames([]string{bad}); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}
