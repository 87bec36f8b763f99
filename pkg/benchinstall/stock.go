package benchinstall

import (
	"embed"
	"fmt"
	"io/fs"
)

//go:embed stock
var stockFiles embed.FS

// StockFlow holds what makes a medium Debian's own: the lists of udebs and
// tools and the preseed file. See build.Stock.
func StockFlow() fs.FS {
	flow, err := fs.Sub(stockFiles, "stock")
	if err != nil {
		panic(fmt.Sprintf("embedded directory: %v", err)) // it stands in the embed line above
	}
	return flow
}
