package pgp

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestLoad guards that a public key, in either form, and the public half of a
// private one are read, and nothing else.
func TestLoad(t *testing.T) {
	key, err := NewKey("Test", "", "", time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, test := range []struct {
		name            string
		data            []byte
		keyring, public bool
	}{
		{"binary", key.Public(), true, true},
		{"armoured", key.PublicArmor(), true, true},
		{"private", key.Armor(), false, true},
		{"text", []byte("hello\n"), false, false},
		{"empty", nil, false, false},
	} {
		path := filepath.Join(dir, test.name)
		if err := os.WriteFile(path, test.data, 0o600); err != nil {
			t.Fatal(err)
		}
		for what, load := range map[string]struct {
			of   func(string) (Keyring, error)
			want bool
		}{"LoadKeyring": {LoadKeyring, test.keyring}, "LoadPublic": {LoadPublic, test.public}} {
			k, err := load.of(path)
			if (err == nil) != load.want {
				t.Errorf("%s(%s) = %v; want it to succeed: %v", what, test.name, err, load.want)
			}
			if err != nil {
				continue
			}
			if diff := cmp.Diff([]string{key.Fingerprint()}, k.Fingerprints()); diff != "" {
				t.Errorf("%s(%s): %s", what, test.name, diff)
			}
		}
	}
	if _, err := LoadPublic(filepath.Join(dir, "none")); err == nil {
		t.Error("LoadPublic read a file that is not there")
	}
}
