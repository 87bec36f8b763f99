package enrol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func line(kind string, parts ...[]byte) string {
	return kind + " " + base64.StdEncoding.EncodeToString(sshString(append([][]byte{[]byte(kind)}, parts...)...))
}

func TestKeys(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := private.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	n := append([]byte{0, 0x80}, make([]byte, 255)...)
	e := []byte{1, 0, 1}
	good := map[string]string{
		"ed25519":      sshKey("a"),
		"with comment": sshKey("a") + " root@node1 of the lab",
		"rsa":          line("ssh-rsa", e, n),
		"ecdsa":        line("ecdsa-sha2-nistp256", []byte("nistp256"), point.Bytes()),
	}
	for summary, key := range good {
		if err := checkKey(key); err != nil {
			t.Errorf("%s: %v", summary, err)
		}
	}
	for summary, key := range map[string]string{
		"nothing":                "",
		"a type":                 "ssh-ed25519",
		"no base64":              "ssh-ed25519 ÄÖ",
		"two spaces":             strings.Replace(sshKey("a"), " ", "  ", 1),
		"options":                `command="reboot" ` + sshKey("a"),
		"another type before it": "ssh-rsa " + strings.Fields(sshKey("a"))[1],
		"DSA":                    line("ssh-dss", e, n, n, n),
		"certificate":            line("ssh-ed25519-cert-v01@openssh.com", n),
		"ed25519, too short":     line("ssh-ed25519", make([]byte, 31)),
		"ed25519 and more":       line("ssh-ed25519", make([]byte, 32), e),
		"rsa, 1024 bits":         line("ssh-rsa", e, n[:129]),
		"rsa, endless":           line("ssh-rsa", e, append([]byte{0, 0x80}, make([]byte, 2100)...)),
		"rsa, negative":          line("ssh-rsa", e, n[1:]),
		"rsa, no exponent":       line("ssh-rsa", nil, n),
		"ecdsa, another curve":   line("ecdsa-sha2-nistp256", []byte("nistp384"), point.Bytes()),
		"ecdsa, off the curve":   line("ecdsa-sha2-nistp256", []byte("nistp256"), append([]byte{4}, make([]byte, 64)...)),
		"length beyond the end":  "ssh-ed25519 " + base64.StdEncoding.EncodeToString([]byte{0xff, 0xff, 0xff, 0xff, 1}),
		"newline":                sshKey("a") + "\nssh-rsa x",
		"carriage return":        sshKey("a") + " a\rb",
		"bits behind the end":    strings.TrimRight(line("ssh-ed25519", make([]byte, 32)), "=") + "B==",
	} {
		if err := checkKey(key); err == nil {
			t.Errorf("%s: %q was taken", summary, key)
		}
	}
	a, b := sshKey("a"), sshKey("b")
	one, err := machineID([]string{a, b + " comment"})
	if err != nil || len(one) != 64 {
		t.Errorf("machineID = %q, %v", one, err)
	}
	if two, err := machineID([]string{b, a}); two != one || err != nil {
		t.Errorf("in another order: %q, %v; want %q", two, err, one)
	}
	if two, err := machineID([]string{b}); two == one || err != nil {
		t.Errorf("with fewer keys: %q, %v; want another one", two, err)
	}
	if _, err := machineID(nil); err == nil {
		t.Error("a machine without keys is one")
	}
}

// TestKeygen takes what OpenSSH itself writes.
func TestKeygen(t *testing.T) {
	needTool(t, "ssh-keygen")
	for _, kind := range []string{"ed25519", "rsa -b 2048", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521"} {
		name := filepath.Join(t.TempDir(), "key")
		argv := append([]string{"-q", "-N", "", "-f", name, "-t"}, strings.Fields(kind)...)
		if out, err := exec.Command("ssh-keygen", argv...).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen %s: %v\n%s", kind, err, out)
		}
		data, err := os.ReadFile(name + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if err := checkKey(strings.TrimRight(string(data), "\n")); err != nil {
			t.Errorf("%s: %v: %s", kind, err, data)
		}
	}
}

// TestAnswers: what a master says is held to as much as what a node says.
func TestAnswers(t *testing.T) {
	good, err := json.Marshal(reply())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseReply(good); err != nil {
		t.Error(err)
	}
	for summary, r := range map[string]Reply{
		"nothing":      {},
		"options":      {"cluster.lab.example", masterName, []string{"from=\"*\" " + sshKey("a")}},
		"no root keys": {"cluster.lab.example", masterName, nil},
		"a command":    {"cluster.lab.example; reboot", masterName, []string{sshKey("a")}},
		"an option":    {"cluster.lab.example", "-oProxyCommand=x", []string{sshKey("a")}},
	} {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseReply(data); err == nil {
			t.Errorf("%s: was taken", summary)
		}
	}
	refused, err := parseRefusal([]byte(`{"reason":"used","message":"a\u001b[2Jb\n"}`))
	if diff := cmp.Diff(&RefusedError{Used, "a?[2Jb?"}, refused); diff != "" || err != nil {
		t.Errorf("parseRefusal: %v (-want +got):\n%s", err, diff)
	}
	for _, text := range []string{`{"reason":"","message":"x"}`, `{"state":"joined","reason":"used","message":"x"}`, `{"reason":"used","message":""}`, `{}`, `[]`} {
		if e, err := parseRefusal([]byte(text)); err == nil {
			t.Errorf("parseRefusal(%s) = %v", text, e)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	data, err := json.Marshal(from("node2", "metal"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"host":"a","hostKeys":["` + line("ssh-rsa", []byte{3}, append([]byte{0, 0x80}, make([]byte, 255)...)) + `"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRequest(data)
		if err != nil {
			return
		}
		if _, err := machineID(r.HostKeys); err != nil {
			t.Fatal(err)
		}
		for _, key := range r.HostKeys {
			if strings.ContainsAny(key, "\n\r\x00") {
				t.Fatalf("key %q", key)
			}
		}
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseRequest(out); err != nil || !cmp.Equal(r, again) {
			t.Fatalf("read back: %v\n%s", err, out)
		}
	})
}

func FuzzParseAnswers(f *testing.F) {
	data, err := json.Marshal(reply())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"reason":"used","message":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := parseReply(data); err == nil && (len(r.RootKeys) == 0 || !isDomain(r.Master)) {
			t.Fatalf("%+v", r)
		}
		if e, err := parseRefusal(data); err == nil && !isPrintable(e.Message) {
			t.Fatalf("%+v", e)
		}
	})
}
