package site

import (
	"fmt"
	"sort"
	"strings"
)

// Problem is one thing wrong in a site file.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1; 0 if no line is to blame
	Column  int    `json:"column"` // in characters, from 1
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

// Error is "file:line:column: message", without the hint.
func (p Problem) Error() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Problems are all things wrong in a site file, in the file's order.
type Problems []Problem

// Error lists all problems, each with its hint on a line of its own.
func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(p.Error())
		if p.Hint != "" {
			b.WriteString("\n  hint: " + p.Hint)
		}
	}
	return b.String()
}

// Sort brings problems into the order of the file.
func (ps Problems) Sort() {
	sort.SliceStable(ps, func(i, j int) bool {
		a, b := ps[i], ps[j]
		if a.Line != b.Line {
			return a.Line < b.Line
		}
		return a.Column < b.Column
	})
}
