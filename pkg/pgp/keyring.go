package pgp

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

// maxKeyring bounds a keyring, in bytes. Debian's has 56 kB.
const maxKeyring = 16 << 20

// Keyring is a set of public keys that are trusted. The zero value trusts
// nobody. A Keyring may be used by several goroutines at a time.
type Keyring struct {
	*ring
}

type ring struct {
	mu       sync.Mutex // the library caches results in the keys
	entities openpgp.EntityList
}

// ReadKeyring reads public keys, binary as in /etc/apt/trusted.gpg.d/*.gpg or
// armoured as in *.asc, several blocks in a row too.
func ReadKeyring(r io.Reader) (Keyring, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxKeyring+1))
	if err != nil {
		return Keyring{}, fmt.Errorf("cannot read keyring: %w", err)
	}
	if len(data) > maxKeyring {
		return Keyring{}, fmt.Errorf("cannot read keyring: more than %d bytes", maxKeyring)
	}
	list, err := readEntities(data)
	if err != nil {
		return Keyring{}, fmt.Errorf("cannot read keyring: %w", err)
	}
	for _, e := range list {
		if e.PrivateKey != nil {
			return Keyring{}, fmt.Errorf("cannot read keyring: key %s is a private one", fingerprint(e))
		}
	}
	return Keyring{&ring{entities: list}}, nil
}

// LoadKeyring reads the keyring at path.
func LoadKeyring(path string) (Keyring, error) {
	data, err := readFile(path)
	if err != nil {
		return Keyring{}, fmt.Errorf("cannot read keyring: %w", err)
	}
	k, err := ReadKeyring(bytes.NewReader(data))
	if err != nil {
		return Keyring{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// LoadPublic reads the keyring at path; of a private key, such as the one that
// stands beside a site file, it takes the public half.
func LoadPublic(path string) (Keyring, error) {
	data, err := readFile(path)
	if err != nil {
		return Keyring{}, fmt.Errorf("cannot read key: %w", err)
	}
	if key, err := ReadKey(data); err == nil {
		return key.Keyring()
	}
	return LoadKeyring(path)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxKeyring+1))
}

// readEntities reads binary or armoured keys.
func readEntities(data []byte) (openpgp.EntityList, error) {
	const begin = "-----BEGIN PGP P" // PUBLIC or PRIVATE
	at := bytes.Index(data, []byte(begin))
	if at < 0 {
		list, err := openpgp.ReadKeyRing(bytes.NewReader(data))
		if err == nil && len(list) == 0 {
			err = errors.New("no key in it")
		}
		return list, err
	}
	var all openpgp.EntityList
	for data = data[at:]; len(data) > 0; {
		end := bytes.Index(data[1:], []byte(begin)) + 1
		if end == 0 {
			end = len(data)
		}
		list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(data[:end]))
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
		data = data[end:]
	}
	if len(all) == 0 {
		return nil, errors.New("no key in it")
	}
	return all, nil
}

// Join returns a keyring that trusts every key of the given ones.
func Join(keyrings ...Keyring) Keyring {
	joined := new(ring)
	for _, k := range keyrings {
		if k.ring != nil {
			// Read again, so that no two keyrings share the library's cache.
			for _, e := range k.entities {
				var b bytes.Buffer
				if e.Serialize(&b) != nil {
					continue
				}
				if list, err := openpgp.ReadKeyRing(&b); err == nil {
					joined.entities = append(joined.entities, list...)
				}
			}
		}
	}
	return Keyring{joined}
}

// Fingerprints lists the primary keys in the order of the keyring, in upper
// case hex.
func (k Keyring) Fingerprints() []string {
	if k.ring == nil {
		return nil
	}
	list := make([]string, len(k.entities))
	for i, e := range k.entities {
		list[i] = fingerprint(e)
	}
	return list
}

func fingerprint(e *openpgp.Entity) string {
	return fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)
}

// userID is the name that e calls itself by at a time, or any name of it.
func userID(e *openpgp.Entity, at time.Time) string {
	if _, id := e.PrimaryIdentity(at, config(at)); id != nil {
		return id.Name
	}
	name := ""
	for id := range e.Identities {
		if name == "" || id < name {
			name = id
		}
	}
	return name
}

// DebianKeyringVersion is the version of the package debian-archive-keyring
// whose debian-archive-keyring.pgp is built in.
const DebianKeyringVersion = "2025.1"

//go:embed debian-archive-keyring.gpg
var debianKeyring []byte

// Debian returns the keys of Debian's archives: stable, updates and security
// of bullseye, bookworm and trixie.
func Debian() (Keyring, error) {
	return ReadKeyring(bytes.NewReader(debianKeyring))
}

// DebianBytes returns the keyring of Debian as the package has it.
func DebianBytes() []byte { return bytes.Clone(debianKeyring) }
