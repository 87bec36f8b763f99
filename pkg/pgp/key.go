package pgp

import (
	"bytes"
	"crypto"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/skycover/sci-cd/pkg/hint"
)

// maxKey bounds a key file, in bytes.
const maxKey = 1 << 20

// Key is a private key that signs, without a passphrase.
type Key struct {
	entity          *openpgp.Entity
	private, public []byte // serialised once: the library may cache in the entity
}

// NewKey makes a key. created is the time that stands in it: let it lie before
// the first signature. The key does not expire; it can sign and certify only.
func NewKey(name, comment, email string, created time.Time) (*Key, error) {
	cfg := config(created)
	cfg.Algorithm, cfg.Curve = packet.PubKeyAlgoEdDSA, packet.Curve25519
	e, err := openpgp.NewEntity(name, comment, email, cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot make key for %q: %w", name, err)
	}
	e.Subkeys = nil // the one for encryption
	return fromEntity(e)
}

// ReadKey reads a private key, armoured or binary.
func ReadKey(data []byte) (*Key, error) {
	if len(data) > maxKey {
		return nil, fmt.Errorf("cannot read key: more than %d bytes", maxKey)
	}
	list, err := readEntities(data)
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read key: %w", err)
	case len(list) != 1:
		return nil, fmt.Errorf("cannot read key: %d keys, want one", len(list))
	case list[0].PrivateKey == nil:
		return nil, fmt.Errorf("cannot read key: %s is a public one", fingerprint(list[0]))
	case list[0].PrivateKey.Encrypted || list[0].PrivateKey.Dummy():
		return nil, fmt.Errorf("cannot read key: %s is protected by a passphrase or kept elsewhere", fingerprint(list[0]))
	}
	return fromEntity(list[0])
}

func fromEntity(e *openpgp.Entity) (*Key, error) {
	var private, public bytes.Buffer
	if err := e.SerializePrivateWithoutSigning(&private, nil); err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	if err := e.Serialize(&public); err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	return &Key{e, private.Bytes(), public.Bytes()}, nil
}

// Fingerprint is the key's fingerprint in upper case hex.
func (k *Key) Fingerprint() string { return fingerprint(k.entity) }

// Armor returns the private key, armoured.
func (k *Key) Armor() []byte { return armored(openpgp.PrivateKeyType, k.private) }

// PublicArmor returns the public key, armoured, as in trusted.gpg.d/*.asc.
func (k *Key) PublicArmor() []byte { return armored(openpgp.PublicKeyType, k.public) }

// Public returns the public key, binary, as in trusted.gpg.d/*.gpg.
func (k *Key) Public() []byte { return bytes.Clone(k.public) }

// Keyring returns a keyring that trusts this key alone.
func (k *Key) Keyring() (Keyring, error) { return ReadKeyring(bytes.NewReader(k.public)) }

// Derive makes 32 secret bytes that depend on the private key, the purpose and
// the salt alone (HKDF-SHA256, RFC 5869). They tell nothing of the key, nor of
// the bytes of another purpose or another salt. User ids and signatures, which
// may be added to a key, do not count.
func (k *Key) Derive(purpose string, salt []byte) ([]byte, error) {
	var b bytes.Buffer
	err := k.entity.PrivateKey.Serialize(&b)
	var out []byte
	if err == nil {
		out, err = hkdf.Key(sha256.New, b.Bytes(), salt, purpose, 32)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot derive from key %s: %w", k.Fingerprint(), err)
	}
	return out, nil
}

func armored(kind string, data []byte) []byte {
	var b bytes.Buffer
	w, err := armor.Encode(&b, kind, nil)
	if err == nil {
		_, _ = w.Write(data) // into memory: no error comes
		_ = w.Close()
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// Clearsign signs text as InRelease is signed. Lines are signed without the
// white space at their ends, and the text gets a newline at its end if it has
// none. The result depends on the key, the text and the time alone.
func (k *Key) Clearsign(body []byte, at time.Time) ([]byte, error) {
	key, cfg, err := k.signing(at)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key, cfg)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	// The library ends the last line itself.
	if _, err := w.Write(bytes.TrimSuffix(body, []byte("\n"))); err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// DetachSign signs data as Release.gpg does. The result depends on the key,
// the data and the time alone.
func (k *Key) DetachSign(data io.Reader, at time.Time, armoured bool) ([]byte, error) {
	_, cfg, err := k.signing(at)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	var b bytes.Buffer
	if err := openpgp.DetachSign(&b, []*openpgp.Entity{k.entity}, data, cfg); err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	if armoured {
		return armored(openpgp.SignatureType, b.Bytes()), nil
	}
	return b.Bytes(), nil
}

// signing finds the key that signs at a time: gpgv refuses a signature that is
// older than its key.
func (k *Key) signing(at time.Time) (*packet.PrivateKey, *packet.Config, error) {
	cfg := config(at)
	key, ok := k.entity.SigningKey(at, cfg)
	if !ok || key.PrivateKey == nil {
		if at.Before(k.entity.PrimaryKey.CreationTime) {
			return nil, nil, fmt.Errorf("key %s was made on %s, after %s", k.Fingerprint(), day(k.entity.PrimaryKey.CreationTime), day(at))
		}
		return nil, nil, fmt.Errorf("key %s cannot sign at %s", k.Fingerprint(), day(at))
	}
	return key.PrivateKey, cfg, nil
}

// config is the library's configuration at a time: no salt, so that the same
// input gives the same signature.
func config(at time.Time) *packet.Config {
	salted := false
	return &packet.Config{
		DefaultHash:                           crypto.SHA256,
		Time:                                  func() time.Time { return at },
		NonDeterministicSignaturesViaNotation: &salted,
	}
}

// LoadOrCreate reads the private key at path, or makes one and writes it there
// with mode 0600. It refuses a key that other users may read or write.
func LoadOrCreate(path, name, comment, email string, created time.Time) (key *Key, isNew bool, err error) {
	key, err = load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if key, err = NewKey(name, comment, email, created); err != nil {
		return nil, false, err
	}
	err = create(path, key.Armor())
	if errors.Is(err, fs.ErrExist) { // another process was faster
		key, err = load(path)
		return key, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("cannot write key: %w", err)
	}
	return key, true, nil
}

func load(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read key: %s is no file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, hint.New(fmt.Errorf("cannot read key: other users may reach %s (mode %04o)", path, mode),
			"if nobody else has read it: chmod 600 "+path+"; else remove it, and let a new one be made")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	key, err := ReadKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// create writes data to a new file at path, wholly or not at all.
func create(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(f.Name(), path) // fails if path is there
	}
	return err
}
