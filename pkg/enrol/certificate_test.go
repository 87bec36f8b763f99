package enrol

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os/exec"
	"strings"
	"testing"
)

// wish is a certificate request made of values, so that a test changes one.
type wish struct {
	name       []pkix.AttributeTypeAndValue
	attributes []attributeValues
	spoilt     bool // signed by another key than the one inside
}

type attributeValues struct {
	Type   asn1.ObjectIdentifier
	Values []any `asn1:"set"`
}

func common(name string) []pkix.AttributeTypeAndValue {
	return []pkix.AttributeTypeAndValue{{Type: oidCommonName, Value: name}}
}

func shown(challenges ...any) attributeValues {
	return attributeValues{oidChallenge, challenges}
}

func extensions(ids ...asn1.ObjectIdentifier) attributeValues {
	var list []pkix.Extension
	for _, id := range ids {
		list = append(list, pkix.Extension{Id: id, Value: []byte{0x30, 0}})
	}
	return attributeValues{oidExtensions, []any{list}}
}

// der is the request, by RFC 2986 4.
func (w wish) der(t testing.TB) []byte {
	t.Helper()
	key := newKey(t)
	signer := key
	if w.spoilt {
		signer = newKey(t)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	var rdn pkix.RDNSequence
	for _, a := range w.name {
		rdn = append(rdn, pkix.RelativeDistinguishedNameSET{a})
	}
	var attrs []asn1.RawValue
	for _, a := range w.attributes {
		attrs = append(attrs, asn1.RawValue{FullBytes: a.der(t)})
	}
	info := mustDER(t, struct {
		Version    int
		Subject    pkix.RDNSequence
		PublicKey  asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0,set"`
	}{0, rdn, asn1.RawValue{FullBytes: public}, attrs})
	sum := sha256.Sum256(info)
	signature, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return mustDER(t, struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: info}, pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
}

// der is an attribute: encoding/asn1 writes no slice of any.
func (a attributeValues) der(t testing.TB) []byte {
	t.Helper()
	values := make([]asn1.RawValue, 0, len(a.Values))
	for _, v := range a.Values {
		values = append(values, asn1.RawValue{FullBytes: mustDER(t, v)})
	}
	return mustDER(t, attribute{a.Type, values})
}

func (w wish) pem(t testing.TB) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: w.der(t)}))
}

func mustDER(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestJudge(t *testing.T) {
	key, err := NewChallengeKey()
	if err != nil {
		t.Fatal(err)
	}
	const name = "www.lab.example"
	own := key.Challenge(name)
	policy := Policy{Key: key, Domain: "lab.example", Refused: []string{"stolen.lab.example"}}
	organisation := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: "lab"}
	for _, c := range []struct {
		summary  string
		certname string
		w        wish
		want     string // of the refusal, "" for none
	}{
		{"the machine", name, wish{name: common(name), attributes: []attributeValues{shown(own)}}, ""},
		{"with an attribute that Puppet adds", name,
			wish{name: common(name), attributes: []attributeValues{{asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 3, 2}, []any{"true"}}, shown(own)}}, ""},
		{"no challenge", name, wish{name: common(name)}, "the request shows no challenge"},
		{"the challenge of another machine", name, wish{name: common(name), attributes: []attributeValues{shown(key.Challenge("db.lab.example"))}},
			"the challenge is not that of www.lab.example"},
		{"an empty challenge", name, wish{name: common(name), attributes: []attributeValues{shown("")}}, "the challenge is not that of www.lab.example"},
		{"two challenges", name, wish{name: common(name), attributes: []attributeValues{shown("guess", own)}}, "the request shows more than one challenge"},
		{"two attributes", name, wish{name: common(name), attributes: []attributeValues{shown("guess"), shown(own)}}, "the request shows more than one challenge"},
		{"a challenge that is a number", name, wish{name: common(name), attributes: []attributeValues{shown(7)}}, "the request's challenge is no text"},
		{"the name of another machine in it", name, wish{name: common("db.lab.example"), attributes: []attributeValues{shown(own)}},
			`the request is for the name "db.lab.example", not for www.lab.example`},
		{"two names", name, wish{name: append(common("db.lab.example"), common(name)...), attributes: []attributeValues{shown(own)}},
			"the request's subject is not one name"},
		{"more than a name", name, wish{name: append(common(name), organisation), attributes: []attributeValues{shown(own)}}, "the request's subject is not one name"},
		{"another kind of name", name, wish{name: []pkix.AttributeTypeAndValue{organisation}, attributes: []attributeValues{shown(own)}},
			"the request's subject is not a common name alone"},
		{"no name", name, wish{attributes: []attributeValues{shown(own)}}, "the request's subject is not one name"},
		{"somebody else's key", name, wish{name: common(name), attributes: []attributeValues{shown(own)}, spoilt: true},
			"the request is not signed by the key that it is for"},
		{"alternative names", name, wish{name: common(name), attributes: []attributeValues{shown(own), extensions(oidAltNames)}},
			"the request wants alternative names (subjectAltName)"},
		{"the right to sign", name, wish{name: common(name), attributes: []attributeValues{shown(own), extensions(append(oidAuthorization[:8:8], 3, 39))}},
			"the request wants a Puppet authorisation (extension 1.3.6.1.4.1.34380.1.3.39)"},
		{"a role of its own choice", name, wish{name: common(name), attributes: []attributeValues{extensions(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 34380, 1, 1, 13}), shown(own)}},
			"the request wants the extension 1.3.6.1.4.1.34380.1.1.13"},
		{"extensions that are none", name, wish{name: common(name), attributes: []attributeValues{{oidExtensions, []any{[]string{"x"}}}, shown(own)}},
			"cannot read the request"},
		{"a stolen machine", "stolen.lab.example", wish{name: common("stolen.lab.example"), attributes: []attributeValues{shown(key.Challenge("stolen.lab.example"))}},
			"stolen.lab.example is to be refused"},
		{"another domain", "www.evil.example", wish{name: common("www.evil.example"), attributes: []attributeValues{shown(key.Challenge("www.evil.example"))}},
			`"www.evil.example" is no host of the domain "lab.example"`},
		{"a domain below", "a.www.lab.example", wish{name: common("a.www.lab.example"), attributes: []attributeValues{shown(key.Challenge("a.www.lab.example"))}},
			`"a.www.lab.example" is no host of the domain "lab.example"`},
		{"a name that is a path", "../x.lab.example", wish{name: common("../x.lab.example"), attributes: []attributeValues{shown(key.Challenge("../x.lab.example"))}},
			`"../x.lab.example" is no host of the domain "lab.example"`},
	} {
		t.Run(c.summary, func(t *testing.T) {
			err := policy.Judge(c.certname, strings.NewReader(c.w.pem(t)))
			switch {
			case c.want == "" && err != nil:
				t.Errorf("Judge = %v; want a certificate", err)
			case c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
				t.Errorf("Judge = %v; want %s", err, c.want)
			}
			for _, secret := range []string{own, key.String()} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("the refusal holds a secret: %v", err)
				}
			}
		})
	}
}

func TestJudgeInput(t *testing.T) {
	key, err := NewChallengeKey()
	if err != nil {
		t.Fatal(err)
	}
	const name = "www.lab.example"
	policy := Policy{Key: key, Domain: "lab.example"}
	good := wish{name: common(name), attributes: []attributeValues{shown(key.Challenge(name))}}.pem(t)
	if err := policy.Judge(name, strings.NewReader(good)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ summary, in, want string }{
		{"nothing", "", "what was given is not one certificate request in PEM"},
		{"a certificate", strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"), "what was given is not one certificate request in PEM"},
		{"two", good + good, "what was given is not one certificate request in PEM"},
		{"half of it", good[:200] + "\n-----END CERTIFICATE REQUEST-----\n", "what was given is not one certificate request in PEM"},
		{"too long", good + strings.Repeat("\n", maxCSR), "the request has more than 65536 bytes"},
	} {
		if err := policy.Judge(name, strings.NewReader(c.in)); err == nil || err.Error() != c.want {
			t.Errorf("%s: Judge = %v; want %s", c.summary, err, c.want)
		}
	}
	if err := (Policy{Key: key}).Judge(name, strings.NewReader(good)); err == nil {
		t.Error("without a domain everybody gets a certificate")
	}
}

// TestJudgeOpenSSL has the request made by the program that Puppet's agent has
// its from, with a challenge as it writes it.
func TestJudgeOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	key, err := NewChallengeKey()
	if err != nil {
		t.Fatal(err)
	}
	const name = "www.lab.example"
	dir := t.TempDir()
	conf := "[req]\ndistinguished_name=dn\nattributes=at\nprompt=no\n[dn]\nCN=" + name + "\n[at]\nchallengePassword=" + key.Challenge(name) + "\n"
	cmd := exec.Command(openssl, "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", dir+"/key.pem", "-config", "/dev/stdin")
	cmd.Stdin = strings.NewReader(conf)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	policy := Policy{Key: key, Domain: "lab.example"}
	if err := policy.Judge(name, bytes.NewReader(out)); err != nil {
		t.Errorf("Judge = %v", err)
	}
	if err := policy.Judge("db.lab.example", bytes.NewReader(out)); err == nil {
		t.Error("the request of another machine is signed")
	}
}

// FuzzJudge: whatever comes in, nobody gets a certificate without the challenge
// of that name, and nothing panics.
func FuzzJudge(f *testing.F) {
	var key, other ChallengeKey
	copy(key[:], "the key of the fuzzed site, 32 b")
	copy(other[:], "another key that nobody ever had")
	const name = "www.lab.example"
	for _, w := range []wish{
		{name: common(name), attributes: []attributeValues{shown(key.Challenge(name))}},
		{name: common(name), attributes: []attributeValues{shown(key.Challenge(name)), extensions(oidAltNames)}},
		{name: common(name)},
	} {
		f.Add(w.der(f))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		err := Policy{Key: key, Domain: "lab.example"}.Judge(name, bytes.NewReader(data))
		if err == nil && !bytes.Contains(der, []byte(key.Challenge(name))) {
			t.Fatal("a certificate without the challenge")
		}
		if err == nil && bytes.Contains(der, mustDER(t, oidAltNames)) {
			t.Fatal("a certificate with alternative names")
		}
		if (Policy{Key: other, Domain: "lab.example"}).Judge(name, bytes.NewReader(data)) == nil {
			t.Fatal("a certificate by a key that nobody has")
		}
	})
}
