package enrol

import (
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxKeyLine bounds a line with an SSH key, in bytes: RSA of 16384 bits has 2800.
const maxKeyLine = 4096

// machineID is the SHA-256, in hex, over a machine's SSH public host keys; their
// order and comments do not matter. It is what a claim is bound to.
func machineID(hostKeys []string) (string, error) {
	if err := checkKeys(hostKeys); err != nil {
		return "", err
	}
	var list []string
	for _, line := range hostKeys {
		kind, rest, _ := strings.Cut(line, " ")
		blob, _, _ := strings.Cut(rest, " ")
		list = append(list, kind+" "+blob+"\n")
	}
	slices.Sort(list)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(list), "")))
	return hex.EncodeToString(sum[:]), nil
}

func checkKeys(lines []string) error {
	if len(lines) == 0 || len(lines) > maxKeys {
		return fmt.Errorf("%d SSH keys, want 1 to %d", len(lines), maxKeys)
	}
	for i, line := range lines {
		if err := checkKey(line); err != nil {
			return fmt.Errorf("SSH key %d: %w", i+1, err)
		}
	}
	return nil
}

// checkKey checks a line "TYPE BASE64" or "TYPE BASE64 COMMENT". Options, as
// authorized_keys has them, are no part of a key.
func checkKey(line string) error {
	if len(line) > maxKeyLine || !isPrintable(line) {
		return errors.New("the line is too long or has characters that are not printable")
	}
	kind, rest, _ := strings.Cut(line, " ")
	text, _, _ := strings.Cut(rest, " ")
	blob, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return errors.New("want \"TYPE BASE64\"")
	}
	b := wire{rest: blob}
	if string(b.next()) != kind || b.broken {
		return fmt.Errorf("it does not say inside that it is of type %.40q", kind)
	}
	ok := false
	switch kind {
	case "ssh-ed25519": // RFC 8709, 4
		ok = len(b.next()) == 32
	case "ssh-rsa": // RFC 4253, 6.6
		e, n := b.next(), b.next()
		bits := 8 * (len(n) - 1) // a zero byte goes before the highest bit
		ok = len(e) >= 1 && len(e) <= 8 && e[0] < 0x80 && bits >= 2048 && bits <= 16384 && n[0] == 0 && n[1] >= 0x80
	case "ecdsa-sha2-nistp256": // RFC 5656, 3.1
		ok = onCurve(&b, "nistp256", ecdh.P256())
	case "ecdsa-sha2-nistp384":
		ok = onCurve(&b, "nistp384", ecdh.P384())
	case "ecdsa-sha2-nistp521":
		ok = onCurve(&b, "nistp521", ecdh.P521())
	default:
		return fmt.Errorf("type %.40q is not known", kind)
	}
	if !ok || b.broken || len(b.rest) > 0 {
		return fmt.Errorf("it is no key of type %s", kind)
	}
	return nil
}

func onCurve(b *wire, name string, curve ecdh.Curve) bool {
	if string(b.next()) != name {
		return false
	}
	_, err := curve.NewPublicKey(b.next())
	return err == nil
}

// wire reads the strings of RFC 4251, section 5.
type wire struct {
	rest   []byte
	broken bool
}

func (w *wire) next() []byte {
	if w.broken || len(w.rest) < 4 {
		w.broken = true
		return nil
	}
	n := binary.BigEndian.Uint32(w.rest)
	if uint64(n) > uint64(len(w.rest)-4) {
		w.broken = true
		return nil
	}
	s := w.rest[4 : 4+n]
	w.rest = w.rest[4+n:]
	return s
}
