package image

import (
	"slices"
	"strings"
	"syscall"
)

type unixStat = syscall.Stat_t

// topmost sorts paths and drops those below another one of them.
func topmost(names []string) []string {
	slices.Sort(names)
	var top []string
	for _, name := range names {
		if len(top) == 0 || !strings.HasPrefix(name, top[len(top)-1]+"/") {
			top = append(top, name)
		}
	}
	return top
}
