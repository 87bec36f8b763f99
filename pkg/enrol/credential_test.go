package enrol

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
)

// TestIssueBytes guards the bytes themselves: another version of Go must not
// make another medium of the same folder.
func TestIssueBytes(t *testing.T) {
	all := medium(t, "disc")
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		h.Write(all[name].Bytes())
	}
	const want = "96d281d480758cf8d14ce93101d90ec965b739327ce4b6b0adfebbbcca2803f4"
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		t.Errorf("SHA-256 of the credentials = %s; want %s", got, want)
	}
	if diff := cmp.Diff(all, medium(t, "disc")); diff != "" {
		t.Errorf("the same seed gives others (-want +got):\n%s", diff)
	}
	for name, c := range medium(t, "other disc") {
		if bytes.Equal(c.Key, all[name].Key) || bytes.Equal(c.CA, all[name].CA) || bytes.Equal(c.Certificate, all[name].Certificate) {
			t.Errorf("%s: another seed gives something that is the same", name)
		}
	}
}

func TestIssue(t *testing.T) {
	all := medium(t, "disc")
	c := all["node2"]
	ca, err := x509.ParseCertificate(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	if !ca.IsCA || ca.MaxPathLen != 0 || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign || ca.Version != 3 {
		t.Errorf("authority: %+v", ca)
	}
	leaf, err := x509.ParseCertificate(c.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.IsCA || leaf.Subject.CommonName != "node2" || leaf.KeyUsage != x509.KeyUsageDigitalSignature ||
		!slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("certificate: %+v", leaf)
	}
	if want := []string{"node2.lab.example", mediumName(ca, "node2.lab.example")}; !slices.Equal(leaf.DNSNames, want) {
		t.Errorf("names %q; want %q", leaf.DNSNames, want)
	}
	if got := leaf.IPAddresses; len(got) != 2 || got[0].String() != "127.0.0.1" || got[1].String() != "10.101.200.12" {
		t.Errorf("addresses %v", got)
	}
	serials := make(map[string]bool)
	for name, c := range all {
		cert, err := x509.ParseCertificate(c.Certificate)
		if err != nil || cert.SerialNumber.Sign() <= 0 || len(cert.SerialNumber.Bytes()) > 20 {
			t.Errorf("%s: serial number %v, %v", name, cert.SerialNumber, err)
		}
		serials[cert.SerialNumber.String()] = true
	}
	if len(serials) != len(all) {
		t.Errorf("%d serial numbers for %d hosts", len(serials), len(all))
	}
	// The key that signs is nowhere on the medium.
	for name, c := range all {
		key, err := c.privateKey()
		if err != nil || bytes.Equal(keyID(key), ca.SubjectKeyId) {
			t.Errorf("%s: %v, or its key is the authority's", name, err)
		}
	}
}

func TestIssueErrors(t *testing.T) {
	seed := make([]byte, 32)
	node := Host{Name: "node1", FQDN: "node1.lab.example"}
	for summary, test := range map[string]struct {
		seed  []byte
		hosts []Host
	}{
		"short seed":    {seed[:31], []Host{node}},
		"no seed":       {nil, nil},
		"twice":         {seed, []Host{node, node}},
		"no name":       {seed, []Host{{FQDN: "a.b"}}},
		"no domain":     {seed, []Host{{Name: "node1", FQDN: "node1"}}},
		"a path":        {seed, []Host{{Name: "../node1", FQDN: "node1.lab.example"}}},
		"a wildcard":    {seed, []Host{{Name: "node1", FQDN: "*.lab.example"}}},
		"empty address": {seed, []Host{{Name: "node1", FQDN: "node1.lab.example", Addresses: lab()[0].Addresses[:1:1]}, {Name: "a", FQDN: "a.b", Addresses: make([]netip.Addr, 1)}}},
	} {
		if got, err := Issue(test.seed, test.hosts); err == nil {
			t.Errorf("%s: Issue = %v", summary, got)
		}
	}
}

// TestOpenSSL lets another program judge the certificates.
func TestOpenSSL(t *testing.T) {
	needTool(t, "openssl")
	dir := t.TempDir()
	write := func(name string, der []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	all, other := medium(t, "disc"), medium(t, "other disc")
	ca, leaf, wrong := write("ca", all["node2"].CA), write("leaf", all["node2"].Certificate), write("wrong", other["node2"].CA)
	for _, argv := range [][]string{
		{"-purpose", "sslclient", "-verify_hostname", "node2.lab.example"},
		{"-purpose", "sslserver", "-verify_ip", "10.101.200.12"},
		{"-attime", "978307200"},   // 2001
		{"-attime", "32503680000"}, // 3000
	} {
		argv = append([]string{"verify", "-x509_strict", "-CAfile", ca}, append(argv, leaf)...)
		if out, err := exec.Command("openssl", argv...).CombinedOutput(); err != nil {
			t.Errorf("openssl %s: %v\n%s", strings.Join(argv, " "), err, out)
		}
	}
	if out, err := exec.Command("openssl", "verify", "-CAfile", wrong, leaf).CombinedOutput(); err == nil {
		t.Errorf("openssl believes the authority of another medium: %s", out)
	}
}

func TestParseCredential(t *testing.T) {
	all, other := medium(t, "disc"), medium(t, "other disc")
	c := all["node2"]
	got, err := ParseCredential(c.Bytes())
	if diff := cmp.Diff(c, got); diff != "" || err != nil {
		t.Errorf("read back: %v (-want +got):\n%s", err, diff)
	}
	if bytes.Equal(c.Certificate, all["node3"].Certificate) || c.Authority() != all["node3"].Authority() || len(c.Authority()) != 64 {
		t.Error("fingerprints")
	}
	for summary, change := range map[string]func(c *Credential){
		"another host's name":     func(c *Credential) { c.Host = "node3" },
		"another full name":       func(c *Credential) { c.FQDN = "node3.lab.example" },
		"another host's key":      func(c *Credential) { c.Key = all["node3"].Key },
		"another certificate":     func(c *Credential) { c.Certificate = all["node3"].Certificate },
		"another authority":       func(c *Credential) { c.CA = other["node2"].CA },
		"a host as authority":     func(c *Credential) { c.CA = c.Certificate },
		"an authority as a host":  func(c *Credential) { c.Certificate = c.CA },
		"no key":                  func(c *Credential) { c.Key = nil },
		"no certificate":          func(c *Credential) { c.Certificate = nil },
		"bytes behind the key":    func(c *Credential) { c.Key = append(slices.Clone(c.Key), 0) },
		"a certificate, bent":     func(c *Credential) { c.Certificate = slices.Clone(c.Certificate); c.Certificate[100] ^= 1 },
		"a name with a semicolon": func(c *Credential) { c.Host = "node2;reboot" },
	} {
		bad := c
		change(&bad)
		if _, err := ParseCredential(bad.Bytes()); err == nil {
			t.Errorf("%s: was taken", summary)
		} else if strings.Contains(err.Error(), hex.EncodeToString(c.Key[len(c.Key)-8:])) {
			t.Errorf("%s: the message tells the key: %v", summary, err)
		}
	}
	text := string(c.Bytes())
	for summary, data := range map[string]string{
		"nothing": "", "null": "null", "another kind": strings.Replace(text, credentialKind, "coffee", 1), "unknown member": strings.Replace(text, `"fqdn"`, `"name"`, 1),
		"cut short": text[:len(text)/2], "two": text + text, "endless": text + strings.Repeat(" ", maxCredential),
	} {
		if _, err := ParseCredential([]byte(data)); err == nil {
			t.Errorf("%s: was taken", summary)
		}
	}
}

func TestReadCredential(t *testing.T) {
	name := filepath.Join(t.TempDir(), "enrol.json")
	if err := os.WriteFile(name, medium(t, "disc")["node2"].Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadCredential(name); err != nil || c.Host != "node2" {
		t.Errorf("ReadCredential = %s, %v", c.Host, err)
	}
	if err := os.Chmod(name, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadCredential(name); err == nil || !strings.Contains(hint.Of(err), "chmod 600") {
		t.Errorf("a file that others may read: %v, hint %q", err, hint.Of(err))
	}
	if _, err := ReadCredential(filepath.Dir(name)); err == nil {
		t.Error("a directory was read")
	}
}

func FuzzParseCredential(f *testing.F) {
	f.Add(medium(f, "disc")["node2"].Bytes())
	f.Add([]byte(`{"kind":"` + credentialKind + `","format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCredential(data)
		if err != nil {
			return
		}
		again, err := ParseCredential(c.Bytes())
		if diff := cmp.Diff(c, again); diff != "" || err != nil {
			t.Fatalf("read back: %v\n%s", err, diff)
		}
	})
}
