package agent

import (
	"io/fs"
	"os"
	"syscall"
)

// ownedBy reports whether a file has that group and mode.
func ownedBy(name string, gid int, mode fs.FileMode) bool {
	info, err := os.Lstat(name)
	if err != nil || info.Mode() != mode {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Gid) == gid
}
