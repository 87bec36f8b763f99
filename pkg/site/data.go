package site

import (
	_ "embed" // for the lists below
	"strings"
)

// The lists are facts from Debian's packages; each file's first line names the
// package and its version.
var (
	//go:embed data/locales.txt
	localesText string
	//go:embed data/keyboards.txt
	keyboardsText string
	//go:embed data/timezones.txt
	timezonesText string
	//go:embed data/timezones-legacy.txt
	legacyTimezonesText string
	//go:embed data/example.yaml
	exampleText string
)

// Example is a complete, commented site file: a two-node cluster "lab" and its
// service machine.
func Example() []byte { return []byte(exampleText) }

func locales() []string   { return lines(localesText) }
func keyboards() []string { return lines(keyboardsText) }
func timezones() []string { return lines(timezonesText) }

// legacyTimezones maps old names to today's.
func legacyTimezones() map[string]string {
	names := make(map[string]string)
	for _, line := range lines(legacyTimezonesText) {
		old, today, _ := strings.Cut(line, " ")
		names[old] = today
	}
	return names
}

func lines(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}
