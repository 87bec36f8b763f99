package agent

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/skycover/sci-cd/pkg/hint"
)

// lockFile keeps a second agent out, as one started by hand beside the service.
const lockFile = "run/sci-agent.lock"

// lock takes the lock until release is called or the process ends.
func (n *Node) lock() (release func(), err error) {
	name := n.path(lockFile)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, hint.New(fmt.Errorf("cannot lock: %w", err), "only root can set a machine up")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, hint.New(fmt.Errorf("cannot lock %s: another sci-agent is at work (process %s)", name, n.oneLine(lockFile)),
			"see what it does: sci-agent status")
	}
	// The number is for the message above only; the lock is the kernel's.
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return func() { _ = f.Close() }, nil
}
