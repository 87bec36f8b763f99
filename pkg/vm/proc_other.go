//go:build !linux

package vm

import "os/exec"

// startTied starts cmd and calls ended with its result.
func startTied(cmd *exec.Cmd, ended func(error)) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { ended(cmd.Wait()) }()
	return nil
}
