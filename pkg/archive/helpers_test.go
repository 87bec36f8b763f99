package archive_test

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"

	"github.com/skycover/sci-cd/pkg/pgp"
)

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// keyID is the short form that messages name a key by.
func keyID(k *pgp.Key) string { return k.Fingerprint()[24:] }

// maskNumbers hides the digests and sizes in a message that change with the key
// of the test.
func maskNumbers(s string) string {
	s = regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllString(s, "SUM")
	return regexp.MustCompile(`\d+ bytes, want \d+`).ReplaceAllString(s, "N bytes, want N")
}
