package vm

import (
	"os/exec"
	"runtime"
	"syscall"
)

// startTied starts cmd so that it dies with us, however we die, and calls
// ended with its result. PR_SET_PDEATHSIG follows the thread that forked, so
// one goroutine stays on its thread until the end.
func startTied(cmd *exec.Cmd, ended func(error)) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // ends with the goroutine: the thread is not reused
		err := cmd.Start()
		started <- err
		if err == nil {
			ended(cmd.Wait())
		}
	}()
	return <-started
}
