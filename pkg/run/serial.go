package run

import (
	"io"
	"sync"
)

// serial lets the two copying goroutines of os/exec share one writer.
type serial struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *serial) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
