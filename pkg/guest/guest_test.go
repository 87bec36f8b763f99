package guest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
)

// image is a disk with records of the given starts, behind one another, and
// room behind them.
func image(starts ...uint64) []byte {
	data := make([]byte, (len(starts)+2*beyond)*BlockSize)
	for n, boot := range starts {
		Record{uint64(n), boot}.Put(data[n*BlockSize:])
	}
	return data
}

func TestScan(t *testing.T) {
	block := func(data []byte, n int) []byte { return data[n*BlockSize : (n+1)*BlockSize] }
	for _, test := range []struct {
		summary string
		starts  []uint64
		change  func(data []byte)
		want    State
	}{
		{"empty", nil, nil, State{}},
		{"some", []uint64{1, 1, 2}, nil, State{Records: 3, Boot: 2}},
		{"the last one is torn", []uint64{1, 1, 1}, func(d []byte) { clear(block(d, 2)[256:]) }, State{Records: 2, Boot: 1}},
		{"rubbish behind", []uint64{1}, func(d []byte) { copy(block(d, 1), bytes.Repeat([]byte("old file system "), 32)) }, State{Records: 1, Boot: 1}},
		{"one is lost", []uint64{1, 1, 1, 1}, func(d []byte) { clear(block(d, 1)) },
			State{Records: 1, Boot: 1, Damage: "record 1 is lost: record 2, of start 1, is there"}},
		{"the first one is lost", []uint64{1, 1}, func(d []byte) { clear(block(d, 0)) },
			State{Damage: "record 0 is lost: record 1, of start 1, is there"}},
		{"one bit", []uint64{1, 1, 1}, func(d []byte) { block(d, 0)[100] ^= 1 },
			State{Damage: "record 0 is lost: record 1, of start 1, is there"}},
		{"one at the place of another one", []uint64{1, 1, 1}, func(d []byte) { copy(block(d, 1), block(d, 2)) },
			State{Records: 1, Boot: 1, Damage: "record 2 stands at the place of record 1"}},
		// As after a return to the copy of a disk that another start has gone
		// on from.
		{"an older start behind a newer one", []uint64{1, 2, 1}, nil, State{Records: 2, Boot: 2, Damage: "record 2 is of start 1, behind one of start 2"}},
		{"a start is missing", []uint64{1, 3}, nil, State{Records: 1, Boot: 1, Damage: "record 1 is of start 3, behind one of start 1"}},
	} {
		data := image(test.starts...)
		if test.change != nil {
			test.change(data)
		}
		for _, size := range []int{scanSize, 3 * BlockSize} {
			got, err := Scan(bytes.NewReader(data), int64(len(data)), make([]byte, size))
			if err != nil || got != test.want {
				t.Errorf("%s, %d bytes at once: %+v, %v; want %+v", test.summary, size, got, err, test.want)
			}
		}
	}
	full := image(1, 1, 1)[:3*BlockSize+7]
	if got, err := Scan(bytes.NewReader(full), int64(len(full)), nil); err != nil || got != (State{Records: 3, Boot: 1}) {
		t.Errorf("a full disk: %+v, %v", got, err)
	}
}

func FuzzParseRecord(f *testing.F) {
	var good [BlockSize]byte
	Record{7, 2}.Put(good[:])
	f.Add(good[:])
	f.Add(good[:100])
	f.Add(make([]byte, BlockSize))
	f.Fuzz(func(t *testing.T, block []byte) {
		r, err := ParseRecord(block)
		if err != nil {
			return
		}
		var back [BlockSize]byte
		if r.Put(back[:]); !bytes.Equal(back[:], block) {
			t.Errorf("%+v is not what was read", r)
		}
	})
}

// A guest whose power fails goes on behind its last whole record.
func TestDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := d.Append(); err != nil {
			t.Fatal(err)
		}
	}
	before, err := d.Digest(4)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Digest(6); err == nil || err.Error() != "there are 5 records only" {
		t.Errorf("Digest: %v", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, 100), 4*BlockSize+300) // torn
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()

	d, err = OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	if s := d.status(); s.Boot != 2 || s.Found != (State{Records: 4, Boot: 1}) {
		t.Errorf("%+v", s)
	}
	if err := d.Append(); err != nil {
		t.Fatal(err)
	}
	if after, err := d.Digest(4); err != nil || after != before {
		t.Errorf("the first records are others now: %s, %s, %v", before, after, err)
	}
	if s, err := ScanFile(path); err != nil || s != (State{Records: 5, Boot: 2}) {
		t.Errorf("ScanFile = %+v, %v", s, err)
	}
	for err = nil; err == nil; {
		err = d.Append()
	}
	if !errors.Is(err, io.ErrShortWrite) || d.status().Records != 64<<10/BlockSize {
		t.Errorf("a full disk: %v, %+v", err, d.status())
	}

	// What is damaged stays as it is.
	f, _ = os.OpenFile(path, os.O_WRONLY, 0)
	f.WriteAt(make([]byte, BlockSize), 0)
	f.Close()
	if d, err = OpenDisk(path); err != nil {
		t.Fatal(err)
	}
	if err := d.Append(); err == nil || !strings.Contains(err.Error(), "record 0 is lost") {
		t.Errorf("Append: %v", err)
	}
}

func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go run(d, l, time.Millisecond, func(string) {})
	t.Cleanup(func() { l.Close() })
	base := "http://" + l.Addr().String()
	var s struct {
		Boot, Records uint64
		Found         State
		Error         string
	}
	for end := time.Now().Add(10 * time.Second); s.Records < 3 && time.Now().Before(end); {
		body, err := Get(t.Context(), base+"/status")
		if err == nil {
			err = json.Unmarshal([]byte(body), &s)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.Boot != 1 || s.Records < 3 || s.Error != "" {
		t.Errorf("status %+v", s)
	}
	body, err := Get(t.Context(), base+"/digest?records=2")
	want, _ := d.Digest(2)
	if err != nil || !strings.Contains(body, want) {
		t.Errorf("digest %q, %v; want %s", body, err, want)
	}
	if body, err := Get(t.Context(), base+"/fill?bytes=1000000"); err != nil || len(body) != 1000000 {
		t.Errorf("fill: %d bytes, %v", len(body), err)
	}
	for url, want := range map[string]string{
		"/other": "404 Not Found", "/digest": "500 Internal Server Error", "/digest?records=9999999": "records only",
	} {
		if _, err := Get(t.Context(), base+url); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", url, err, want)
		}
	}
	if _, err := Get(t.Context(), "ftp://x/"); err == nil {
		t.Error("Get takes ftp")
	}
}

func TestRespond(t *testing.T) {
	answer := func(path string, q url.Values) (string, error) { return path + q.Get("x"), nil }
	for request, want := range map[string]string{
		"GET /a?x=1 HTTP/1.1": "200 OK", "POST / HTTP/1.1": "400 Bad Request", "GET /": "400 Bad Request",
		"": "400 Bad Request", "GET a HTTP/1.0": "400 Bad Request",
	} {
		if got, _ := respond(request, answer); got != want {
			t.Errorf("%q: %s; want %s", request, got, want)
		}
	}
}

func FuzzReadResponse(f *testing.F) {
	f.Add("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
	f.Add("HTTP/1.0 200 OK\r\n\r\nok")
	f.Add("HTTP/1.0 404 Not Found\r\ncontent-length: -1\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		body, err := readResponse(bufio.NewReaderSize(strings.NewReader(text), maxLine))
		if err == nil && !strings.HasSuffix(text, body) {
			t.Errorf("%q is not in %q", body, text)
		}
	})
}

func TestJSON(t *testing.T) {
	want := Status{Boot: 2, Records: 7, Found: State{Records: 5, Boot: 1, Damage: "a \"b\" \\ \n\x01 ä"}, Uptime: 1.5, Error: "e"}
	var got Status
	if err := json.Unmarshal([]byte(want.JSON()), &got); err != nil {
		t.Fatalf("%v: %s", err, want.JSON())
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParameters(t *testing.T) {
	p, err := ParseParameters("BOOT_IMAGE=x root=/dev/vda1 ro sci.ip=192.168.50.250/24 sci.pause=100ms console=ttyS0,38400\n")
	if err != nil || p.Address.String() != "192.168.50.250/24" || p.Pause != 100*time.Millisecond || p.Disk != "/dev/vda" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"sci.ip=192.168.50.250", "sci.ip=::1/64", "sci.pause=x"} {
		if _, err := ParseParameters(bad); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

// modules is a /lib/modules/VERSION with plain and packed modules.
func modules(t *testing.T, dep, builtin string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep": dep, "modules.builtin": builtin,
		"kernel/drivers/block/virtio_blk.ko": "blk", "kernel/drivers/virtio/virtio.ko": "virtio", "kernel/net/core/failover.ko": "failover",
		"kernel/drivers/net/net_failover.ko": "net_failover", "kernel/drivers/net/virtio_net.ko": "net", "kernel/drivers/virtio/virtio-ring.ko": "ring",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const dep = `kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio-ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio-ring.ko kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko kernel/drivers/virtio/virtio-ring.ko kernel/drivers/virtio/virtio.ko
`

func TestClosure(t *testing.T) {
	dir := modules(t, dep, "kernel/drivers/virtio/virtio_pci.ko\n")
	got, err := closure(dir, wanted[:])
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range got {
		names = append(names, moduleName(f))
	}
	if g, want := strings.Join(names, " "), "virtio virtio_ring virtio_blk failover net_failover virtio_net"; g != want {
		t.Errorf("closure = %s; want %s", g, want)
	}
	if _, err := closure(modules(t, dep, ""), wanted[:]); err == nil || !strings.Contains(err.Error(), "cannot find module virtio_pci") {
		t.Errorf("closure: %v", err)
	}
	if _, err := closure(modules(t, "rubbish\n", ""), wanted[:]); err == nil || !strings.Contains(err.Error(), "has no colon") {
		t.Errorf("closure: %v", err)
	}
	if _, err := closure(t.TempDir(), wanted[:]); err == nil {
		t.Error("closure of nothing: no error")
	}
}

func TestPack(t *testing.T) {
	dir := modules(t, strings.Replace(dep, "virtio_blk.ko:", "virtio_blk.ko.xz:", 1), "kernel/drivers/virtio/virtio_pci.ko\n")
	if out, err := exec.Command("xz", filepath.Join(dir, "kernel/drivers/block/virtio_blk.ko")).CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("xz: %v: %s", err, out)
	}
	self := filepath.Join(t.TempDir(), "self")
	if err := os.WriteFile(self, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	var b, again bytes.Buffer
	if err := Pack(t.Context(), &b, self, dir); err != nil {
		t.Fatal(err)
	}
	if err := Pack(t.Context(), &again, self, dir); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("not the same bytes again (%v)", err)
	}
	var got []string
	for r := cpio.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(r)
		got = append(got, fmt.Sprintf("%s %o %q", h.Name, h.Mode, data))
	}
	want := []string{
		`dev 40755 ""`, `proc 40755 ""`, `sys 40755 ""`, `virtio.ko 100644 "virtio"`, `virtio_ring.ko 100644 "ring"`, `virtio_blk.ko 100644 "blk"`,
		`failover.ko 100644 "failover"`, `net_failover.ko 100644 "net_failover"`, `virtio_net.ko 100644 "net"`,
		`modules 100644 "virtio.ko\nvirtio_ring.ko\nvirtio_blk.ko\nfailover.ko\nnet_failover.ko\nvirtio_net.ko\n"`, `init 100755 "program"`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if err := os.WriteFile(filepath.Join(dir, "kernel/drivers/block/virtio_blk.ko.xz"), []byte("no xz"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Pack(t.Context(), io.Discard, self, dir); err == nil || !strings.Contains(err.Error(), "cannot unpack module") {
		t.Errorf("Pack: %v", err)
	}
}
