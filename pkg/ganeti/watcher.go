package ganeti

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// watcherLock is locked by ganeti-watcher as long as it works (WATCHER_LOCK_FILE
// in lib/pathutils.py); it gives up at once where it cannot have it.
const watcherLock = "var/lock/ganeti-watcher.lock"

// holdWatcher keeps ganeti-watcher from working until release is called or this
// process ends. One that is at work is waited for.
//
// It comes by cron every five minutes and starts daemons that are missing, in a
// machine without a cluster too: gnt-cluster init, whose own start then meets
// their files, fails. The file that pauses the watcher lies where gnt-cluster
// init wants no file.
func (c *Cluster) holdWatcher(ctx context.Context) (release func(), err error) {
	name := filepath.Join(c.Root, watcherLock)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, fmt.Errorf("cannot hold ganeti-watcher: %w", err)
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot hold ganeti-watcher: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-time.After(200 * time.Millisecond):
				continue
			}
		}
		_ = f.Close()
		return nil, fmt.Errorf("cannot hold ganeti-watcher: %w", err)
	}
}
