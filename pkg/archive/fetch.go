package archive

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/skycover/sci-cd/pkg/cache"
)

// Item is a file to fetch into the cache.
type Item struct {
	Name   string   // for messages and progress
	URLs   []string // tried in this order; may be empty if the file is in the cache
	SHA256 string   // hex
	Size   int64    // bytes
}

// Progress hears of transfers. Its methods are called from several goroutines.
type Progress interface {
	// Start says that the transfer of name, size bytes in all, begins. Files
	// that are in the cache are not mentioned.
	Start(name string, size int64)
	// Add says that n more bytes came, or were there from an earlier run; n is
	// negative when a transfer has to start anew.
	Add(name string, n int64)
	// Done ends the transfer; err is nil if the file is in the cache now.
	Done(name string, err error)
}

// Fetcher fetches files by their digest. It is for several goroutines.
type Fetcher struct {
	o     Options
	slots chan struct{} // bounds the transfers
}

// NewFetcher returns a fetcher which uses the options' Cache, Client, Parallel,
// Retries, Backoff, Stall, Progress and Offline.
func NewFetcher(o Options) *Fetcher {
	o = o.withDefaults()
	return &Fetcher{o: o, slots: make(chan struct{}, o.Parallel)}
}

// Fetch gets all items into the cache. Files that a mirror does not have do not
// stop the others: each one is a *NotFoundError in the result, several are
// joined in the order of items (see NotFound). Any other error ends the run.
func (f *Fetcher) Fetch(ctx context.Context, items []Item) error {
	missing, err := f.missing(items)
	if err != nil || len(missing) == 0 {
		return err
	}
	if f.o.Offline {
		return offlineError(missing)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make([]error, len(missing))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(f.o.Parallel, len(missing)) {
		wg.Go(func() {
			for i := range next {
				if errs[i] = f.fetch(ctx, missing[i]); errs[i] != nil && !isNotFound(errs[i]) {
					cancel(errs[i])
				}
			}
		})
	}
	for i := range missing {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return joinErrors(errs)
}

// missing checks the items and returns those that are not in the cache, each
// digest once. A cached file of the wrong size was damaged: it is dropped.
func (f *Fetcher) missing(items []Item) ([]Item, error) {
	if f.o.Cache == nil {
		return nil, errors.New("cannot fetch: no cache given")
	}
	var missing []Item
	seen := make(map[string]int64, len(items))
	for _, it := range items {
		switch {
		case !isSum(it.SHA256):
			return nil, fmt.Errorf("cannot fetch %s: %q is no SHA-256 digest", it.Name, it.SHA256)
		case it.Size < 0:
			return nil, fmt.Errorf("cannot fetch %s: size %d", it.Name, it.Size)
		}
		if size, ok := seen[it.SHA256]; ok {
			if size != it.Size {
				return nil, fmt.Errorf("cannot fetch %s: one digest with two sizes, %d and %d bytes", it.Name, size, it.Size)
			}
			continue
		}
		seen[it.SHA256] = it.Size
		ok, err := f.cached(it)
		if err != nil {
			return nil, err
		}
		if !ok && len(it.URLs) == 0 {
			return nil, fmt.Errorf("cannot fetch %s: no URL given", it.Name)
		}
		if !ok {
			missing = append(missing, it)
		}
	}
	return missing, nil
}

func (f *Fetcher) cached(it Item) (bool, error) {
	size, ok := f.o.Cache.Size(it.SHA256)
	if !ok || size == it.Size {
		return ok, nil
	}
	return false, f.o.Cache.Drop(it.SHA256)
}

// fetch gets one item from the first of its URLs that has it.
func (f *Fetcher) fetch(ctx context.Context, it Item) error {
	release, err := f.slot(ctx)
	if err != nil {
		return err
	}
	defer release()
	if f.o.Progress != nil {
		f.o.Progress.Start(it.Name, it.Size)
	}
	var last error
	for _, url := range it.URLs {
		err := f.fetchFrom(ctx, it, url)
		if err == nil {
			last = nil
			break
		}
		if !errors.Is(err, errNotFound) {
			last = advise(&FetchError{Name: it.Name, URL: show(url), Err: err})
		} else if last == nil {
			last = notFound(it)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if f.o.Progress != nil {
		f.o.Progress.Done(it.Name, last)
	}
	return last
}

func notFound(it Item) error {
	urls := slices.Clone(it.URLs)
	for i := range urls {
		urls[i] = show(urls[i])
	}
	return &NotFoundError{Name: it.Name, URLs: urls}
}

// fetchFrom gets one item from one URL, in as many tries as it takes. A try
// that got the file on by 64 KiB or more is not counted.
func (f *Fetcher) fetchFrom(ctx context.Context, it Item, url string) error {
	const progress = 64 << 10
	var farthest int64
	for try := 0; ; try++ {
		off, err := f.try(ctx, it, url)
		if err == nil || !worthRetry(err) {
			return err
		}
		if off >= farthest+progress {
			farthest, try = off, 0
		}
		if try >= f.o.Retries {
			return err
		}
		if err := f.pause(ctx, try, err); err != nil {
			return err
		}
	}
}

// try makes one transfer. It returns how far the file got.
func (f *Fetcher) try(ctx context.Context, it Item, url string) (off int64, err error) {
	w, err := f.writer(ctx, it)
	if err != nil || w == nil {
		return it.Size, err
	}
	p := &tally{w: w, progress: f.o.Progress, name: it.Name}
	p.add(w.Offset())
	resumed := w.Offset() > 0
	if w.Offset() < it.Size || it.Size == 0 {
		err = f.transfer(ctx, url, p, it.Size)
	}
	off = w.Offset()
	if err == nil {
		err = commit(w, resumed)
	} else {
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		p.add(-p.total)
	}
	return off, err
}

// commit puts the whole file in its place. A wrong file that we had the
// beginning of from before may be wrong because of that: it is fetched anew.
func commit(w *cache.Writer, resumed bool) error {
	err := w.Commit()
	var sum *cache.SumError
	if !errors.As(err, &sum) {
		return err
	}
	err = &WrongFileError{Err: sum}
	if resumed {
		return &again{err: err}
	}
	return err
}

// writer takes the file's place in the cache. It waits while another build
// fetches the same file, and returns nil if that brought it.
func (f *Fetcher) writer(ctx context.Context, it Item) (*cache.Writer, error) {
	for {
		w, err := f.o.Cache.Writer(it.SHA256, it.Size)
		if err != nil && !errors.Is(err, cache.ErrBusy) {
			return nil, err
		}
		ok, cerr := f.cached(it)
		if err == nil && (ok || cerr != nil) {
			// It came between our look and our lock.
			cerr = errors.Join(cerr, w.Discard())
		}
		if ok || cerr != nil {
			return nil, cerr
		}
		if err == nil {
			return w, nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// slot waits until a transfer may begin.
func (f *Fetcher) slot(ctx context.Context) (release func(), err error) {
	select {
	case f.slots <- struct{}{}:
		return func() { <-f.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// maxPause bounds the time between two tries.
const maxPause = 30 * time.Second

// pause waits before the next try, twice as long each time, or as long as the
// server asks.
func (f *Fetcher) pause(ctx context.Context, try int, cause error) error {
	d := f.o.Backoff << min(try, 16)
	var a *again
	if errors.As(cause, &a) && a.after > d {
		d = a.after
	}
	return sleep(ctx, min(d, maxPause))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tally counts what is written for the progress.
type tally struct {
	w        *cache.Writer
	progress Progress
	name     string
	total    int64
}

func (t *tally) add(n int64) {
	t.total += n
	if t.progress != nil && n != 0 {
		t.progress.Add(t.name, n)
	}
}

func (t *tally) Write(p []byte) (int, error) {
	n, err := t.w.Write(p)
	t.add(int64(n))
	return n, err
}

// restart throws away what is there.
func (t *tally) restart() error {
	t.add(-t.total)
	return t.w.Restart()
}

func isNotFound(err error) bool {
	var nf *NotFoundError
	return errors.As(err, &nf)
}

func joinErrors(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

func offlineError(missing []Item) error {
	const most = 5
	var names []string
	for _, it := range missing[:min(most, len(missing))] {
		names = append(names, it.Name)
	}
	more := ""
	if n := len(missing) - most; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Errorf("cannot fetch %s%s: not in the cache, and offline", strings.Join(names, ", "), more)
}

// defaultClient returns a client that honours http_proxy, https_proxy and
// no_proxy, and whose connections do not hang for ever. Bodies are taken as
// they are sent: some servers label Packages.gz with a Content-Encoding.
func defaultClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DisableCompression = true
	t.MaxIdleConnsPerHost = 16
	return &http.Client{Transport: t}
}
