package enrol

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Port is the TCP port that the master serves on.
const Port = 1810

// Places of the files of this package, below the root directory.
const (
	// File is a machine's own credential, mode 0600. The installer writes it,
	// Retire removes it.
	File = "etc/sci/enrol.json"
	// LedgerFile is the master's ledger, mode 0600.
	LedgerFile = "var/lib/sci/enrol.ledger.json"
	// MediumDir is where the installer finds HOST.json, in its initrd.
	MediumDir = "sci/enrol"
)

const (
	// credentialKind is the mark by which pkg/image knows a credential that got
	// into a golden image.
	credentialKind   = "sci-cd enrolment credential"
	credentialFormat = 1
	maxCredential    = 64 << 10 // bytes
)

// Credential is what a host gets on the medium: who it is, the key that proves
// it, and the authority by which it believes others. It is a secret.
type Credential struct {
	Host        string // name without the domain
	FQDN        string
	CA          []byte // certificate of the medium's authority, DER
	Certificate []byte // the host's own, DER
	Key         []byte // its private key, PKCS #8
}

// credentialFile is a credential as JSON.
type credentialFile struct {
	Kind        string `json:"kind"`
	Format      int    `json:"format"`
	Host        string `json:"host"`
	FQDN        string `json:"fqdn"`
	CA          []byte `json:"ca"`
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
}

// ReadCredential reads a credential from a file that other users may not read.
// A missing file is an error that wraps fs.ErrNotExist.
func ReadCredential(path string) (Credential, error) {
	f, err := os.Open(path)
	if err != nil {
		return Credential{}, fmt.Errorf("cannot read credential: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return Credential{}, fmt.Errorf("cannot read credential: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Credential{}, fmt.Errorf("cannot read credential: %s is no file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return Credential{}, hint.New(fmt.Errorf("cannot read credential: other users may reach %s (mode %04o)", path, mode),
			"if nobody else has read it: chmod 600 "+path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	if err != nil {
		return Credential{}, fmt.Errorf("cannot read credential: %w", err)
	}
	c, err := ParseCredential(data)
	if err != nil {
		return Credential{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseCredential reads what Bytes writes, and checks that key, certificate and
// authority belong together.
func ParseCredential(data []byte) (Credential, error) {
	var file credentialFile
	if len(data) > maxCredential {
		return Credential{}, fmt.Errorf("cannot read credential: more than %d bytes", maxCredential)
	}
	if err := decode(data, &file); err != nil {
		return Credential{}, fmt.Errorf("cannot read credential: %w", err)
	}
	if file.Kind != credentialKind || file.Format != credentialFormat {
		return Credential{}, fmt.Errorf("cannot read credential: it is a %.40q of format %d, want %q of format %d",
			file.Kind, file.Format, credentialKind, credentialFormat)
	}
	c := Credential{file.Host, file.FQDN, file.CA, file.Certificate, file.Key}
	if err := c.check(); err != nil {
		return Credential{}, fmt.Errorf("cannot read credential: %w", err)
	}
	return c, nil
}

// Bytes is the content of the credential's file.
func (c Credential) Bytes() []byte {
	data, _ := json.MarshalIndent(c.file(), "", "  ") // strings and bytes: no error comes
	return append(data, '\n')
}

func (c Credential) file() credentialFile {
	return credentialFile{credentialKind, credentialFormat, c.Host, c.FQDN, c.CA, c.Certificate, c.Key}
}

// Authority is the SHA-256 of the authority's certificate, in hex. Credentials
// of one medium have it in common.
func (c Credential) Authority() string { return fingerprint(c.CA) }

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// check is what makes a credential one.
func (c Credential) check() error {
	if !isLabel(c.Host) || !isDomain(c.FQDN) {
		return fmt.Errorf("%.80q, %.80q are no names of a host", c.Host, c.FQDN)
	}
	leaf, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	pool, err := c.pool()
	if err != nil {
		return err
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, use := range both { // both, not any
		_, err = leaf.Verify(x509.VerifyOptions{DNSName: c.FQDN, Roots: pool, CurrentTime: instant(), KeyUsages: []x509.ExtKeyUsage{use}})
		if err != nil {
			return fmt.Errorf("certificate: %w", err)
		}
	}
	if leaf.Subject.CommonName != c.Host || leaf.IsCA {
		return fmt.Errorf("the certificate is not one of host %s", c.Host)
	}
	key, err := c.privateKey()
	if err != nil {
		return err
	}
	if der, err := x509.MarshalPKCS8PrivateKey(key); err != nil || !bytes.Equal(der, c.Key) {
		return errors.New("there is something behind the key")
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) {
		return errors.New("the key is not that of the certificate")
	}
	return nil
}

func (c Credential) privateKey() (ed25519.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(c.Key)
	if err != nil {
		return nil, errors.New("the key is no PKCS #8 key") // the cause might tell of a secret
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("the key is no Ed25519 key")
	}
	return private, nil
}

// authority is the parsed certificate of the medium's authority.
func (c Credential) authority() (*x509.Certificate, error) {
	ca, err := x509.ParseCertificate(c.CA)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	if !ca.IsCA || !ca.BasicConstraintsValid || !bytes.Equal(ca.RawSubject, ca.RawIssuer) {
		return nil, errors.New("authority: the certificate is not one of an authority")
	}
	return ca, nil
}

func (c Credential) pool() (*x509.CertPool, error) {
	ca, err := c.authority()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return pool, nil
}

// certificate is the credential as crypto/tls wants it.
func (c Credential) certificate() (tls.Certificate, error) {
	key, err := c.privateKey()
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{c.Certificate}, PrivateKey: key}, nil
}

// Retire removes the credential of the machine whose root directory is given;
// a missing one is no error. With it goes the machine's only copy of the
// authority's certificate: it believes nobody from the medium any more.
//
// The file is not overwritten first. That reaches the old blocks neither on a
// solid-state disk nor below a snapshot, and the same bytes are in the copy of
// the medium on this disk and on the disc itself. What makes them worthless is
// the master's ledger.
func Retire(root string) error {
	name := filepath.Join(root, File)
	err := os.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(filepath.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("cannot retire the credential: %w", err)
	}
	return nil
}
