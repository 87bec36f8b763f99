package enrol

import (
	"errors"
	"net/netip"
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

// Host is a machine that may join.
type Host struct {
	Name string // without the domain
	FQDN string
	// Addresses are those that it may call from, and that its certificate names.
	Addresses []netip.Addr
}

// Credential is what a host gets on the medium: who it is, the key that proves
// it, and the authority by which it believes others. It is a secret.
type Credential struct {
	Host        string // name without the domain
	FQDN        string
	CA          []byte // certificate of the medium's authority, DER
	Certificate []byte // the host's own, DER
	Key         []byte // its private key, PKCS #8
}

// Issue makes the credentials of a medium, by the hosts' names. Equal seeds and
// hosts give equal bytes. The authority's private key is forgotten at the end.
func Issue(seed []byte, hosts []Host) (map[string]Credential, error) {
	return nil, errors.New("not written yet")
}

// ReadCredential reads a credential from a file that other users may not read.
// A missing file is an error that wraps fs.ErrNotExist.
func ReadCredential(path string) (Credential, error) {
	return Credential{}, errors.New("not written yet")
}

// ParseCredential reads what Bytes writes, and checks that key, certificate and
// authority belong together.
func ParseCredential(data []byte) (Credential, error) {
	return Credential{}, errors.New("not written yet")
}

// Bytes is the content of the credential's file.
func (c Credential) Bytes() []byte { return nil }

// Fingerprint is the SHA-256 of the host's certificate, in hex.
func (c Credential) Fingerprint() string { return "" }

// Retire removes the credential of the machine whose root directory is given.
// A missing one is no error.
func Retire(root string) error { return errors.New("not written yet") }
