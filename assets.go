// What SCI-CD carries in its binary: the profiles, the files laid over
// installed systems, and the installer's answers. A sysadmin reads and changes
// them in the directories of the same names.

package scicd

import (
	"embed"
	"fmt"
	"io/fs"
)

//go:embed all:preseed all:profiles all:overlay
var files embed.FS

// Profiles holds the builtin profiles: default.packages, node.postinst, …
func Profiles() fs.FS { return sub("profiles") }

// Overlay holds one directory a role, laid over that role's root directory.
func Overlay() fs.FS { return sub("overlay") }

// Preseed holds the templates of the installer's answers and the disk recipes.
func Preseed() fs.FS { return sub("preseed") }

// sub cannot fail: the directories stand in the embed line above.
func sub(dir string) fs.FS {
	fsys, err := fs.Sub(files, dir)
	if err != nil {
		panic(fmt.Sprintf("embedded directory %q: %v", dir, err))
	}
	return fsys
}
