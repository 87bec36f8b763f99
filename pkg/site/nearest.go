package site

import "strings"

// Nearest returns the word of known that differs least from word, or "" if
// none is near enough to be what was meant. Of equals the first wins.
func Nearest(word string, known []string) string {
	if len(word) > 64 {
		return ""
	}
	best, limit := "", len([]rune(word))/3+1
	low := strings.ToLower(word)
	for _, k := range known {
		if d := distance(low, strings.ToLower(k), limit); d <= limit && k != word {
			best, limit = k, d-1
		}
	}
	return best
}

// distance is the number of edits (insert, delete, replace, swap neighbours)
// that make b of a; anything over limit may be reported as limit+1.
func distance(a, b string, limit int) int {
	s, t := []rune(a), []rune(b)
	if len(s)-len(t) > limit || len(t)-len(s) > limit {
		return limit + 1
	}
	var before []int
	row := make([]int, len(t)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(s); i++ {
		next := make([]int, len(t)+1)
		next[0] = i
		for j := 1; j <= len(t); j++ {
			cost := 1
			if s[i-1] == t[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && s[i-1] == t[j-2] && s[i-2] == t[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(t)]
}
