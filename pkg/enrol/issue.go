package enrol

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// info separates our keys from whatever else is derived from a seed (RFC 5869,
// 3.2). Its number changes when the same seed is to give other keys.
const info = "sci-cd enrolment v1"

// minSeed is the shortest seed, in bytes.
const minSeed = 32

// Certificates hold from before any machine to the end of all clocks (RFC 5280,
// 4.1.2.5), and are looked at as if it were always the same instant: a new
// server's clock may be decades off, and what ends a credential is the ledger.
func notBefore() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }
func notAfter() time.Time  { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }
func instant() time.Time   { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// Host is a machine that may join.
type Host struct {
	Name string // without the domain
	FQDN string
	// Addresses are those that it may call from, and that its certificate names.
	Addresses []netip.Addr
}

// Issue makes the credentials of a medium, by the hosts' names. Equal seeds and
// hosts give equal bytes. The authority's private key is forgotten at the end.
func Issue(seed []byte, hosts []Host) (map[string]Credential, error) {
	if len(seed) < minSeed {
		return nil, fmt.Errorf("cannot issue credentials: a seed of %d bytes, want %d", len(seed), minSeed)
	}
	a, err := newAuthority(seed)
	if err != nil {
		return nil, fmt.Errorf("cannot issue credentials: %w", err)
	}
	issued := make(map[string]Credential)
	for _, h := range hosts {
		if _, ok := issued[h.Name]; ok {
			return nil, fmt.Errorf("cannot issue credentials: two hosts are %q", h.Name)
		}
		c, err := a.issue(seed, h)
		if err == nil {
			err = c.check()
		}
		if err != nil {
			return nil, fmt.Errorf("cannot issue the credential of %q: %w", h.Name, err)
		}
		issued[h.Name] = c
	}
	return issued, nil
}

// authority signs the certificates of one medium.
type authority struct {
	key  ed25519.PrivateKey
	cert *x509.Certificate
}

func newAuthority(seed []byte) (*authority, error) {
	key, err := derive(seed, "authority")
	if err != nil {
		return nil, err
	}
	id := keyID(key)
	template := &x509.Certificate{
		SerialNumber: serial(key, key),
		// Told apart by name, too, where one server has several.
		Subject:   pkix.Name{CommonName: "SCI-CD enrolment " + hex.EncodeToString(id[:8])},
		NotBefore: notBefore(), NotAfter: notAfter(),
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		KeyUsage:     x509.KeyUsageCertSign,
		SubjectKeyId: id, AuthorityKeyId: id,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key) // Ed25519 needs no randomness
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{key, cert}, err
}

func (a *authority) issue(seed []byte, h Host) (Credential, error) {
	if !isLabel(h.Name) || !isDomain(h.FQDN) {
		return Credential{}, fmt.Errorf("%q, %q are no names of a host", h.Name, h.FQDN)
	}
	key, err := derive(seed, "host "+h.Name)
	if err != nil {
		return Credential{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(a.key, key),
		Subject:      pkix.Name{CommonName: h.Name},
		DNSNames:     []string{h.FQDN, mediumName(a.cert, h.FQDN)},
		NotBefore:    notBefore(), NotAfter: notAfter(),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		SubjectKeyId:          keyID(key),
	}
	for _, addr := range h.Addresses {
		if !addr.IsValid() {
			return Credential{}, errors.New("an address is empty")
		}
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.Unmap().AsSlice()))
	}
	der, err := x509.CreateCertificate(nil, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Credential{}, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	return Credential{Host: h.Name, FQDN: h.FQDN, CA: a.cert.Raw, Certificate: der, Key: pkcs8}, err
}

// derive makes the key of a purpose (RFC 5869; RFC 8032, 5.1.5: any 32 bytes
// are a private key).
func derive(seed []byte, purpose string) (ed25519.PrivateKey, error) {
	k, err := hkdf.Key(sha256.New, seed, nil, info+" "+purpose, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(k), nil
}

// keyID is set by us: the library's own choice has changed between versions of Go.
func keyID(key ed25519.PrivateKey) []byte {
	sum := sha256.Sum256(key.Public().(ed25519.PublicKey))
	return sum[:20]
}

// serial is a positive number of at most 16 bytes (RFC 5280, 4.1.2.2), of both
// the authority and the host.
func serial(ca, key ed25519.PrivateKey) *big.Int {
	sum := sha256.Sum256(append(keyID(ca), keyID(key)...))
	sum[0] = sum[0]&0x7f | 0x40
	return new(big.Int).SetBytes(sum[:16])
}

// mediumName is a host's full name with a label before it that names the
// medium. A client asks for it by SNI, so that a master with credentials of two
// media shows the right one.
func mediumName(ca *x509.Certificate, fqdn string) string {
	return "m" + hex.EncodeToString(ca.SubjectKeyId[:min(8, len(ca.SubjectKeyId))]) + "." + fqdn
}
