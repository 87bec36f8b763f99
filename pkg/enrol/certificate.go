package enrol

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
)

// maxCSR bounds a certificate request, in bytes: Puppet's own have some 2 KiB.
const maxCSR = 64 << 10

var (
	oidChallenge  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}  // challengePassword, RFC 2985 5.4.1
	oidExtensions = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 14} // extensionRequest, RFC 2985 5.4.2
	oidAltNames   = asn1.ObjectIdentifier{2, 5, 29, 17}                // subjectAltName, RFC 5280 4.2.1.6
	oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}
	// oidAuthorization is the arc of what Puppet's auth.conf lets in by, such as
	// pp_cli_auth, the right to sign.
	oidAuthorization = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 3}
)

// label is a host name of one word, RFC 1123 2.1, as a site file takes it.
var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Policy decides which machines get a certificate of the site's Puppet server.
type Policy struct {
	Key    ChallengeKey
	Domain string // of the site: a certificate's name is one word below it
	// Refused are names that get none, whatever they prove: machines that were
	// stolen.
	Refused []string
}

// Judge reads a certificate request in PEM and returns why the machine of that
// name does not get a certificate, nil where it gets one. The error holds no
// secret.
func (p Policy) Judge(certname string, r io.Reader) error {
	if err := p.judgeName(certname); err != nil {
		return err
	}
	csr, err := readCSR(r)
	if err != nil {
		return err
	}
	if err := csr.CheckSignature(); err != nil {
		return errors.New("the request is not signed by the key that it is for")
	}
	if err := judgeSubject(csr.RawSubject, certname); err != nil {
		return err
	}
	list, err := parseAttributes(csr.RawTBSCertificateRequest)
	if err != nil {
		return fmt.Errorf("cannot read the request's attributes: %w", err)
	}
	if err := list.judgeExtensions(); err != nil {
		return err
	}
	challenge, err := list.challenge()
	if err != nil {
		return err
	}
	if !p.Key.Met(certname, challenge) {
		return fmt.Errorf("the challenge is not that of %s", certname)
	}
	return nil
}

func (p Policy) judgeName(certname string) error {
	name, ok := strings.CutSuffix(certname, "."+p.Domain)
	switch {
	case p.Domain == "" || !ok || !label.MatchString(name):
		return fmt.Errorf("%q is no host of the domain %q", certname, p.Domain)
	case slices.Contains(p.Refused, certname):
		return fmt.Errorf("%s is to be refused", certname)
	}
	return nil
}

// readCSR reads one request and nothing beside it.
func readCSR(r io.Reader) (*x509.CertificateRequest, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxCSR+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the request: %w", err)
	}
	if len(data) > maxCSR {
		return nil, fmt.Errorf("the request has more than %d bytes", maxCSR)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("what was given is not one certificate request in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the request: %w", err)
	}
	return csr, nil
}

// judgeSubject wants the subject to be the common name alone: whoever reads the
// certificate later must not find another one in it.
func judgeSubject(raw []byte, certname string) error {
	var names []asn1.RawValue // RDNSequence, RFC 5280 4.1.2.4
	rest, err := asn1.Unmarshal(raw, &names)
	if err != nil || len(rest) > 0 || len(names) != 1 {
		return errors.New("the request's subject is not one name")
	}
	var set []struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	rest, err = asn1.UnmarshalWithParams(names[0].FullBytes, &set, "set")
	if err != nil || len(rest) > 0 || len(set) != 1 || !set[0].Type.Equal(oidCommonName) {
		return errors.New("the request's subject is not a common name alone")
	}
	if name, ok := text(set[0].Value); !ok || name != certname {
		return fmt.Errorf("the request is for the name %.100q, not for %s", name, certname)
	}
	return nil
}

// text is the value of one of the strings that subjects and challenges have.
func text(v asn1.RawValue) (string, bool) {
	switch v.Tag {
	case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagT61String:
		return string(v.Bytes), v.Class == asn1.ClassUniversal && !v.IsCompound
	}
	return "", false
}

// attribute is one of a request's attributes, RFC 2986 4.1.
type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []asn1.RawValue `asn1:"set"`
}

type attributes []attribute

// parseAttributes reads the attributes of a CertificationRequestInfo, RFC 2986
// 4.1. crypto/x509 reads those only whose values are sequences.
func parseAttributes(raw []byte) (attributes, error) {
	var info struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0,set"`
	}
	rest, err := asn1.Unmarshal(raw, &info)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, errors.New("something follows the request")
	}
	var list attributes
	for _, v := range info.Attributes {
		var a attribute
		if rest, err := asn1.Unmarshal(v.FullBytes, &a); err != nil {
			return nil, err
		} else if len(rest) > 0 {
			return nil, errors.New("something follows an attribute")
		}
		list = append(list, a)
	}
	return list, nil
}

// challenge is the one challenge that a request shows.
func (list attributes) challenge() (string, error) {
	var found []asn1.RawValue
	for _, a := range list {
		if a.Type.Equal(oidChallenge) {
			found = append(found, a.Values...)
		}
	}
	switch len(found) {
	case 0:
		return "", errors.New("the request shows no challenge")
	case 1:
		if s, ok := text(found[0]); ok {
			return s, nil
		}
		return "", errors.New("the request's challenge is no text")
	}
	return "", errors.New("the request shows more than one challenge")
}

// judgeExtensions refuses them all: the certificate is that of a machine of a
// name, and every extension would make it more than that. Puppet's agent asks
// for none by itself.
func (list attributes) judgeExtensions() error {
	for _, a := range list {
		if !a.Type.Equal(oidExtensions) {
			continue
		}
		for _, v := range a.Values {
			var wanted []struct {
				ID       asn1.ObjectIdentifier
				Critical bool `asn1:"optional"`
				Value    []byte
			}
			if rest, err := asn1.Unmarshal(v.FullBytes, &wanted); err != nil || len(rest) > 0 {
				return errors.New("cannot read the request's extensions")
			}
			for _, e := range wanted {
				switch {
				case e.ID.Equal(oidAltNames):
					return errors.New("the request wants alternative names (subjectAltName)")
				case len(e.ID) >= len(oidAuthorization) && e.ID[:len(oidAuthorization)].Equal(oidAuthorization):
					return fmt.Errorf("the request wants a Puppet authorisation (extension %s)", e.ID)
				}
				return fmt.Errorf("the request wants the extension %s", e.ID)
			}
		}
	}
	return nil
}
