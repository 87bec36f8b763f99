package deb

import (
	"fmt"
	"strconv"
	"strings"
)

// Sum is what a Release file says of a file.
type Sum struct {
	SHA256 string // hex
	Size   int64  // bytes
}

// ReleaseSums reads the field SHA256 of a Release file: lines "DIGEST SIZE
// PATH", the path below the file's own directory.
func ReleaseSums(field string) (map[string]Sum, error) {
	sums := make(map[string]Sum)
	for line := range strings.Lines(field) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 || len(words[0]) != 64 || strings.Trim(words[0], "0123456789abcdef") != "" {
			return nil, fmt.Errorf("bad line %.100q", strings.TrimSpace(line))
		}
		size, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("bad size in line %.100q", strings.TrimSpace(line))
		}
		sums[words[2]] = Sum{words[0], size}
	}
	return sums, nil
}
