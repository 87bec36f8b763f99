package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skycover/sci-cd/pkg/archive"
	"github.com/skycover/sci-cd/pkg/archive/testarchive"
	"github.com/skycover/sci-cd/pkg/cache"
	"github.com/skycover/sci-cd/pkg/hint"
	"github.com/skycover/sci-cd/pkg/pgp"
)

// payload returns n bytes that look like nothing.
func payload(seed, n int) []byte {
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func item(name string, data []byte, urls ...string) archive.Item {
	return archive.Item{Name: name, URLs: urls, SHA256: digest(data), Size: int64(len(data))}
}

func fetchOptions(t *testing.T) archive.Options {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return archive.Options{Cache: c, Retries: 3, Backoff: time.Millisecond, Stall: 5 * time.Second}
}

// hear is a Progress that sums up.
type hear struct {
	mu     sync.Mutex
	events []string
	bytes  map[string]int64
}

func (h *hear) Start(name string, size int64) { h.note("start %s %d", name, size) }

func (h *hear) Done(name string, err error) { h.note("done %s %v", name, err == nil) }

func (h *hear) Add(name string, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bytes == nil {
		h.bytes = make(map[string]int64)
	}
	h.bytes[name] += n
}

func (h *hear) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, fmt.Sprintf(format, args...))
}

// serve answers GET requests for one file; each answer is the next of the
// script, the last one for ever.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	ranges []string // Range headers as they came
}

type answer func(w http.ResponseWriter, r *http.Request, data []byte)

func serve(t *testing.T, data []byte, script ...answer) *server {
	t.Helper()
	s := new(server)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		n := len(s.ranges)
		s.ranges = append(s.ranges, r.Header.Get("Range"))
		s.mu.Unlock()
		script[min(n, len(script)-1)](w, r, data)
	}))
	t.Cleanup(s.Close)
	return s
}

func whole(w http.ResponseWriter, r *http.Request, data []byte) {
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// cut breaks the connection after n bytes of the answer.
func cut(n int) answer {
	return func(w http.ResponseWriter, r *http.Request, data []byte) {
		rec := httptest.NewRecorder()
		whole(rec, r, data)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()[:n])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// ranges ignored: the whole file whatever is asked.
func ignoreRange(w http.ResponseWriter, _ *http.Request, data []byte) {
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
}

func status(code int) answer {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(code) }
}

// hang sends n bytes and then nothing.
func hang(n int) answer {
	return func(w http.ResponseWriter, r *http.Request, data []byte) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:n])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

func headers(code int, body string, kv ...string) answer {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		for i := 0; i < len(kv); i += 2 {
			w.Header().Set(kv[i], kv[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

const portal = "\n<!DOCTYPE html>\n<html><title>Welcome to Airport WLAN</title></html>"

func TestFetch(t *testing.T) {
	data := payload(1, 200_000)
	tests := []struct {
		summary string
		script  []answer
		left    int      // bytes of a partial file from an earlier run, -1 for a wrong one
		ranges  []string // of the requests
		want    string   // error
		hint    string
	}{
		{"at once", []answer{whole}, 0, []string{""}, "", ""},
		{"resumed within a run", []answer{cut(70_000), cut(70_000), whole}, 0, []string{"", "bytes=65536-", "bytes=131072-"}, "", ""},
		{"resumed from an earlier run", []answer{whole}, 150_000, []string{"bytes=150000-"}, "", ""},
		{"complete from an earlier run", nil, 200_000, nil, "", ""},
		{"earlier part is another file's", []answer{whole}, -1, []string{"bytes=150000-", ""}, "", ""},
		{"server ignores ranges", []answer{ignoreRange}, 150_000, []string{"bytes=150000-"}, "", ""},
		{"server gives another range", []answer{headers(206, "x", "Content-Range", "bytes 0-0/200000"), whole}, 150_000,
			[]string{"bytes=150000-", ""}, "", ""},
		{"server refuses the range", []answer{status(416), whole}, 150_000, []string{"bytes=150000-", ""}, "", ""},
		{"busy, then fine", []answer{status(503), status(429), whole}, 0, []string{"", "", ""}, "", ""},
		{"busy for ever", []answer{status(503)}, 0, []string{"", "", "", ""},
			"cannot fetch f from URL: the server answers 503 Service Unavailable", ""},
		{"forbidden", []answer{status(403)}, 0, []string{""}, "cannot fetch f from URL: the server answers 403 Forbidden", ""},
		{"not found", []answer{status(404)}, 0, []string{""}, "cannot fetch f: the mirror does not have it: URL", ""},
		{"the proxy wants a login", []answer{status(407)}, 0, []string{""},
			"cannot fetch f from URL: the server answers 407 Proxy Authentication Required", "http_proxy=http://USER:PASSWORD@HOST:PORT"},
		{"captive portal", []answer{headers(200, portal, "Content-Type", "text/html")}, 0, []string{""},
			"cannot fetch f from URL: a web page came in place of the file (from URL)", "login page"},
		{"captive portal in disguise", []answer{headers(200, portal, "Content-Type", "application/octet-stream")}, 0, []string{""},
			"cannot fetch f from URL: a web page came in place of the file (from URL)", "login page"},
		{"captive portal with its own status", []answer{status(511)}, 0, []string{""},
			"cannot fetch f from URL: the server answers 511 Network Authentication Required", "login page"},
		{"portal redirects", []answer{func(w http.ResponseWriter, r *http.Request, _ []byte) {
			if r.URL.Path == "/login" {
				_, _ = io.WriteString(w, portal)
			} else {
				http.Redirect(w, r, "/login", http.StatusFound)
			}
		}}, 0, []string{"", ""}, "cannot fetch f from URL: a web page came in place of the file (from URL/login)", "login page"},
		{"too long", []answer{headers(200, string(data)+"x")}, 0, []string{""},
			"cannot fetch f from URL: not the file that the index names: longer than the 200000 bytes expected", "being updated"},
		{"announced too long", []answer{headers(200, "x", "Content-Length", "200001")}, 0, []string{""},
			"cannot fetch f from URL: not the file that the index names: 200001 bytes, want 200000", "being updated"},
		{"too short", []answer{headers(200, string(data[:1000]), "Content-Length", "1000")}, 0, []string{""},
			"cannot fetch f from URL: not the file that the index names: 1000 bytes, want 200000", "being updated"},
		{"other content", []answer{headers(200, string(payload(2, 200_000)))}, 0, []string{""},
			"cannot fetch f from URL: not the file that the index names: SHA-256 is " + digest(payload(2, 200_000)) + ", want " + digest(data), "being updated"},
		{"truncated for ever", []answer{headers(200, string(data[:1000]), "Transfer-Encoding", "chunked")}, 0,
			[]string{"", "bytes=1000-", "bytes=1000-", "bytes=1000-"},
			"cannot fetch f from URL: the transfer ended after 1000 of 200000 bytes", ""},
		{"labelled as compressed", []answer{headers(200, string(data), "Content-Encoding", "gzip")}, 0, []string{""}, "", ""},
		{"redirects for ever", []answer{func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, "/", http.StatusFound)
		}}, 0, nil, "cannot fetch f from URL: stopped after 10 redirects", ""},
	}
	for _, tt := range tests {
		t.Run(tt.summary, func(t *testing.T) {
			o := fetchOptions(t)
			p := new(hear)
			o.Progress = p
			url := "http://127.0.0.1:1"
			var s *server
			if tt.script != nil {
				s = serve(t, data, tt.script...)
				url = s.URL
			}
			part := filepath.Join(o.Cache.Dir(), "part", digest(data)+".part")
			switch {
			case tt.left > 0:
				write(t, part, data[:tt.left])
			case tt.left < 0:
				write(t, part, payload(3, 150_000))
			}
			err := archive.NewFetcher(o).Fetch(t.Context(), []archive.Item{item("f", data, url)})
			if got := message(err, url); got != tt.want {
				t.Errorf("error %q\nwant  %q", got, tt.want)
			}
			if h := hint.Of(err); !strings.Contains(h, tt.hint) || h != "" && tt.hint == "" {
				t.Errorf("hint %q, want %q", h, tt.hint)
			}
			_, ok := o.Cache.Path(digest(data))
			if ok != (tt.want == "") {
				t.Errorf("in the cache: %v", ok)
			}
			if ok {
				if err := o.Cache.Verify(digest(data)); err != nil {
					t.Error(err)
				}
				if p.bytes["f"] != int64(len(data)) {
					t.Errorf("progress of %d bytes, want %d", p.bytes["f"], len(data))
				}
			}
			if want := []string{"start f 200000", fmt.Sprintf("done f %v", ok)}; !slices.Equal(p.events, want) {
				t.Errorf("progress %q, want %q", p.events, want)
			}
			// Where a broken connection is taken up depends on what had arrived.
			if s != nil && tt.ranges != nil && len(s.ranges) != len(tt.ranges) {
				t.Errorf("requests with ranges %q, want %q", s.ranges, tt.ranges)
			}
			if tt.left > 0 && s != nil && !slices.Equal(s.ranges, tt.ranges) {
				t.Errorf("ranges %q, want %q", s.ranges, tt.ranges)
			}
		})
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// message is the text of err with URL for the server.
func message(err error, url string) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), url, "URL")
}

// A flaky line that brings at least 64 KiB each time gets there in the end,
// however few retries are allowed.
func TestFlakyLine(t *testing.T) {
	data := payload(1, 2<<20)
	s := serve(t, data, cut(200_000))
	s.Server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := strconv.Atoi(strings.Trim(r.Header.Get("Range"), "bytes=-"))
		if len(data)-from > 200_000 {
			cut(200_000)(w, r, data)
		}
		whole(w, r, data)
	})
	o := fetchOptions(t)
	o.Retries = 1
	if err := archive.NewFetcher(o).Fetch(t.Context(), []archive.Item{item("f", data, s.URL)}); err != nil {
		t.Fatal(err)
	}
}

func TestStalled(t *testing.T) {
	data := payload(1, 200_000)
	o := fetchOptions(t)
	o.Stall = 100 * time.Millisecond
	s := serve(t, data, hang(1000), hang(0), whole)
	if err := archive.NewFetcher(o).Fetch(t.Context(), []archive.Item{item("f", data, s.URL)}); err != nil {
		t.Fatal(err)
	}
	o = fetchOptions(t)
	o.Stall, o.Retries = 50*time.Millisecond, -1
	s = serve(t, data, hang(0))
	err := archive.NewFetcher(o).Fetch(t.Context(), []archive.Item{item("f", data, s.URL)})
	if got, want := message(err, s.URL), "cannot fetch f from URL: no data came for too long"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

func TestServerGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://user:secret@" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	o := fetchOptions(t)
	err = archive.NewFetcher(o).Fetch(t.Context(), []archive.Item{item("f", payload(1, 10), url)})
	if err == nil || !strings.HasSuffix(err.Error(), "connection refused") || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
}

// The second URL serves what the first one has not, or has wrongly.
func TestSecondURL(t *testing.T) {
	data := payload(1, 1000)
	for _, first := range []answer{status(404), status(403), headers(200, portal), headers(200, string(payload(2, 1000)))} {
		bad, good := serve(t, data, first), serve(t, data, whole)
		o := fetchOptions(t)
		if err := archive.NewFetcher(o).Fetch(t.Context(), []archive.Item{item("f", data, bad.URL, good.URL)}); err != nil {
			t.Error(err)
		}
	}
	bad := serve(t, data, status(404))
	err := archive.NewFetcher(fetchOptions(t)).Fetch(t.Context(), []archive.Item{item("f", data, bad.URL+"/1", bad.URL+"/2")})
	if got, want := message(err, bad.URL), "cannot fetch f: the mirror does not have it: URL/1, URL/2"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

// A partial mirror: everything that is there is fetched, and all that is not
// is named.
func TestNotFoundDoesNotStopTheOthers(t *testing.T) {
	var items []archive.Item
	files := make(map[string][]byte)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		testarchive.Handler(files).ServeHTTP(w, r)
	}))
	defer srv.Close()
	var missing []string
	for i := range 30 {
		name := fmt.Sprintf("f%02d.udeb", i)
		data := payload(i, 1000)
		items = append(items, item(name, data, srv.URL+"/"+name))
		if i%10 == 3 {
			missing = append(missing, name)
		} else {
			files[name] = data
		}
	}
	o := fetchOptions(t)
	err := archive.NewFetcher(o).Fetch(t.Context(), items)
	var nf *archive.NotFoundError
	if !errors.As(err, &nf) || nf.Name != "f03.udeb" || !slices.Equal(nf.URLs, []string{srv.URL + "/f03.udeb"}) {
		t.Errorf("error %v", err)
	}
	if got := archive.NotFound(fmt.Errorf("cannot get udebs: %w", err)); !slices.Equal(got, missing) {
		t.Errorf("NotFound = %q, want %q", got, missing)
	}
	for _, it := range items {
		if _, ok := o.Cache.Path(it.SHA256); ok == slices.Contains(missing, it.Name) {
			t.Errorf("%s in the cache: %v", it.Name, ok)
		}
	}
	// Anything worse is no mere gap.
	files["f03.udeb"] = payload(99, 1000)
	if err = archive.NewFetcher(o).Fetch(t.Context(), items); err == nil || archive.NotFound(err) != nil {
		t.Errorf("NotFound = %q for %v", archive.NotFound(err), err)
	}
}

func TestBadItems(t *testing.T) {
	data := payload(1, 10)
	good := item("f", data, "http://127.0.0.1:1/f")
	tests := []struct {
		change func(*archive.Item)
		want   string
	}{
		{func(it *archive.Item) { it.URLs = nil }, "cannot fetch f: no URL given"},
		{func(it *archive.Item) { it.URLs = []string{"gopher://h/f"} }, `cannot fetch f from gopher://h/f: unsupported URL scheme "gopher"`},
		{func(it *archive.Item) { it.URLs = []string{"file://host/f"} }, `cannot fetch f from file://host/f: bad URL "file://host/f": want http://HOST/PATH, https://HOST/PATH or file:///PATH`},
		{func(it *archive.Item) { it.URLs = []string{"file:///proc"} }, `cannot fetch f from file:///proc: not a regular file`},
		{func(it *archive.Item) { it.URLs = []string{"http://h\x00/"} }, `cannot fetch f from an unparsable URL: bad URL: net/url: invalid control character in URL`},
		{func(it *archive.Item) { it.SHA256 = "../../etc" }, `cannot fetch f: "../../etc" is no SHA-256 digest`},
		{func(it *archive.Item) { it.Size = -1 }, `cannot fetch f: size -1`},
	}
	for _, tt := range tests {
		it := good
		tt.change(&it)
		err := archive.NewFetcher(fetchOptions(t)).Fetch(t.Context(), []archive.Item{it})
		if err == nil || err.Error() != tt.want {
			t.Errorf("error %v\nwant  %s", err, tt.want)
		}
	}
	bigger := good
	bigger.Size++
	err := archive.NewFetcher(fetchOptions(t)).Fetch(t.Context(), []archive.Item{good, bigger})
	if want := "cannot fetch f: one digest with two sizes, 10 and 11 bytes"; err == nil || err.Error() != want {
		t.Errorf("error %v\nwant  %s", err, want)
	}
}

// A cached file of the wrong size is fetched anew.
func TestDamagedFileIsFetchedAnew(t *testing.T) {
	data := payload(1, 1000)
	s := serve(t, data, whole)
	o := fetchOptions(t)
	f := archive.NewFetcher(o)
	items := []archive.Item{item("f", data, s.URL)}
	if err := f.Fetch(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	path, _ := o.Cache.Path(digest(data))
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, path, data[:999])
	if err := f.Fetch(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	if err := o.Cache.Verify(digest(data)); err != nil {
		t.Error(err)
	}
}

func TestCancelledFetch(t *testing.T) {
	data := payload(1, 200_000)
	s := serve(t, data, hang(1000))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	err := archive.NewFetcher(fetchOptions(t)).Fetch(ctx, []archive.Item{item("f", data, s.URL)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context canceled", err)
	}
}

// Parallel bounds the transfers at one time.
func TestParallel(t *testing.T) {
	var now, most atomic.Int32
	var items []archive.Item
	files := make(map[string][]byte)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(time.Millisecond)
		testarchive.Handler(files).ServeHTTP(w, r)
	}))
	defer srv.Close()
	for i := range 40 {
		name := fmt.Sprintf("f%02d", i)
		files[name] = payload(i, 100)
		items = append(items, item(name, files[name], srv.URL+"/"+name))
	}
	o := fetchOptions(t)
	o.Parallel = 3
	if err := archive.NewFetcher(o).Fetch(t.Context(), items); err != nil {
		t.Fatal(err)
	}
	if most.Load() > 3 {
		t.Errorf("%d transfers at one time, want 3 at most", most.Load())
	}
}

// TestSharedCache lets three processes open one archive and fetch the same
// packages into one cache at a time. Each file is asked for once.
func TestSharedCache(t *testing.T) {
	ta := testarchive.New(t)
	for i := range 20 {
		s := ta.Suite("trixie")
		s.Packages = append(s.Packages, testarchive.Deb(fmt.Sprintf("many%d", i), "1", "all"))
	}
	files, err := ta.Render()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked := make(map[string]int)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path]++
		mu.Unlock()
		testarchive.Handler(files).ServeHTTP(w, r)
	}))
	defer srv.Close()
	dir := t.TempDir()
	key := filepath.Join(t.TempDir(), "key")
	write(t, key, ta.Key.Public())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			child(t, "fetch all", "CACHE="+dir, "URL="+srv.URL, "KEY="+key)
		})
	}
	wg.Wait()
	for path, n := range asked {
		if strings.HasPrefix(path, "/pool/") && n != 1 {
			t.Errorf("%s was asked for %d times", path, n)
		}
	}
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if strings.HasPrefix(name, "pool/") {
			if err := c.Verify(digest(data)); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestProxy opens an archive on a host that does not exist, through the proxy
// that http_proxy names. It takes a process of its own, as Go reads the
// variable once.
func TestProxy(t *testing.T) {
	ta := testarchive.New(t)
	files, err := ta.Render()
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Host != "mirror.invalid" {
			http.Error(w, "not a proxy request", http.StatusBadRequest)
			return
		}
		testarchive.Handler(files).ServeHTTP(w, r)
	}))
	defer srv.Close()
	key := filepath.Join(t.TempDir(), "key")
	write(t, key, ta.Key.Public())
	child(t, "fetch all", "CACHE="+t.TempDir(), "URL=http://mirror.invalid", "KEY="+key, "http_proxy="+srv.URL)
	if asked.Load() == 0 {
		t.Error("the proxy was not asked")
	}
}

// child runs this test binary as another process, which does as TestChild says.
func child(t *testing.T, what string, env ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.count=1")
	cmd.Env = append(os.Environ(), "CHILD="+what)
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestChild is the other process of TestSharedCache and TestProxy.
func TestChild(t *testing.T) {
	if os.Getenv("CHILD") == "" {
		t.Skip("runs as the child of other tests")
	}
	o := archive.Options{
		Mirrors:  archive.Mirrors{Main: os.Getenv("URL"), Security: os.Getenv("URL")},
		Codename: "trixie", Now: testarchive.Date().AddDate(0, 0, 1), Backoff: time.Millisecond,
	}
	key, err := os.Open(os.Getenv("KEY"))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	if o.Keyring, err = pgp.ReadKeyring(key); err != nil {
		t.Fatal(err)
	}
	if o.Cache, err = cache.Open(os.Getenv("CACHE")); err != nil {
		t.Fatal(err)
	}
	a, err := archive.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	var items []archive.Item
	for _, p := range a.Packages() {
		items = append(items, p.Item())
	}
	if err := archive.NewFetcher(o).Fetch(t.Context(), items); err != nil {
		t.Fatal(err)
	}
}
