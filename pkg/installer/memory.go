package installer

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memorySample is how often the memory is looked at.
const memorySample = time.Second

// watchMemory notes how little memory is left while a verb runs, for the line
// that the verb finish says at the end. stop ends it.
func watchMemory(o Options) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		low := int64(-1)
		for {
			if _, free, err := memory(o.Proc); err == nil && (low < 0 || free < low) {
				low = free
				noteMemory(o, low)
			}
			select {
			case <-done:
				return
			case <-time.After(memorySample):
			}
		}
	}()
	return func() { close(done); <-ended }
}

// noteMemory keeps the lowest value of all verbs. It is a figure for people:
// where it cannot be kept the installation goes on.
func noteMemory(o Options, free int64) {
	if old, err := lowestMemory(o); err == nil && old <= free {
		return
	}
	_ = remember(o, "memory", strconv.FormatInt(free, 10))
}

func lowestMemory(o Options) (int64, error) {
	text, err := recall(o, "memory")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(text, 10, 64)
}

// sayMemory says how much of the memory was in use at most.
func sayMemory(o Options) {
	total, _, err := memory(o.Proc)
	if err != nil {
		return
	}
	if low, err := lowestMemory(o); err == nil {
		say(o.Console, "memory: %d MiB at most of %d MiB", (total-low)>>20, total>>20)
	}
}

// memory reads the kernel's MemTotal and MemAvailable, in bytes: what programs
// may still take before something is swapped out or killed (proc_meminfo(5)).
func memory(proc string) (total, free int64, err error) {
	data, err := readBounded(filepath.Join(proc, "meminfo"), 64<<10)
	if err != nil {
		return 0, 0, err
	}
	total, err = meminfo(string(data), "MemTotal")
	if err == nil {
		free, err = meminfo(string(data), "MemAvailable")
	}
	return total, free, err
}

func meminfo(text, name string) (int64, error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == name+":" && f[2] == "kB" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("meminfo names no %s", name)
}
