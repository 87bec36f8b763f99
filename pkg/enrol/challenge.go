package enrol

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Where a machine has what it enrols with at the site's Puppet server.
const (
	// ChallengeKeyFile is on the nodes and on the service machine: whoever can
	// read it can enrol any machine.
	ChallengeKeyFile = "etc/sci/puppet/authority.key"
	// ChallengeFile is on every machine: its own challenge.
	ChallengeFile = "etc/sci/puppet/challenge"
)

// ChallengeKey is what a site's challenges are computed with.
type ChallengeKey [32]byte

// NewChallengeKey makes a key.
func NewChallengeKey() (k ChallengeKey, err error) {
	_, err = rand.Read(k[:])
	return k, err
}

// ParseChallengeKey reads what String gives; white space around it is left out.
func ParseChallengeKey(data []byte) (k ChallengeKey, err error) {
	b, err := hex.DecodeString(strings.TrimSpace(string(data[:min(len(data), 256)])))
	if err == nil && len(b) != len(k) {
		err = fmt.Errorf("%d bytes, want %d", len(b), len(k))
	}
	if err != nil {
		return k, errors.New("not a key of challenges") // and not a word of what it is
	}
	copy(k[:], b)
	return k, nil
}

func (k ChallengeKey) String() string { return hex.EncodeToString(k[:]) }

// Challenge is what the machine of that name shows: 64 hex digits, the
// HMAC-SHA256 of the name.
func (k ChallengeKey) Challenge(certname string) string {
	h := hmac.New(sha256.New, k[:])
	h.Write([]byte("sci-cd puppet\n" + certname))
	return hex.EncodeToString(h.Sum(nil))
}

// Met reports whether a challenge is that of the machine of that name.
func (k ChallengeKey) Met(certname, challenge string) bool {
	return hmac.Equal([]byte(k.Challenge(certname)), []byte(challenge))
}
