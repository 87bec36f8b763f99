package vm

import "time"

// CPU is the processor time that QEMU's process took, user and system together.
// It is 0 until the machine has ended.
func (m *Machine) CPU() time.Duration {
	select {
	case <-m.done:
	default:
		return 0
	}
	s := m.cmd.ProcessState
	if s == nil {
		return 0
	}
	return s.UserTime() + s.SystemTime()
}
