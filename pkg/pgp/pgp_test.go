package pgp

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/skycover/sci-cd/pkg/hint"
)

var (
	created = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	signed  = time.Date(2026, 9, 12, 8, 0, 0, 0, time.UTC)
)

const release = "Origin: Lab\nSuite: stable\nDate: Sat, 12 Sep 2026 08:00:00 UTC\nSHA256:\n 0123  5 main/x\n- dash\nFrom here\n"

func newKey(t testing.TB, name string) *Key {
	t.Helper()
	k, err := NewKey(name, "", name+"@lab.example", created)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ringOf(t testing.TB, keys ...*Key) Keyring {
	t.Helper()
	var list []Keyring
	for _, k := range keys {
		r, err := k.Keyring()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return Join(list...)
}

func clearsigned(t testing.TB, k *Key, body string) []byte {
	t.Helper()
	data, err := k.Clearsign([]byte(body), signed)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestClearsignRoundTrip(t *testing.T) {
	k := newKey(t, "lab")
	for _, body := range []string{release, "", "\n", "x", "a\n\n\nb\n", "-----BEGIN PGP SIGNATURE-----\n", "trailing \t \nspace\n", strings.Repeat("long ", 50000) + "\n"} {
		data := clearsigned(t, k, body)
		got, signers, err := ringOf(t, k).VerifyClearsigned(data, signed)
		if err != nil {
			t.Errorf("body %.20q: %v", body, err)
			continue
		}
		want := strings.ReplaceAll(body, " \t \n", "\n")
		if !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		want = strings.TrimRight(strings.TrimSuffix(want, "\n"), " ") + "\n"
		if string(got) != want {
			t.Errorf("body %.40q came back as %.40q", want, got)
		}
		if diff := cmp.Diff([]Signer{{k.Fingerprint(), "lab <lab@lab.example>", signed}}, signers); diff != "" {
			t.Error(diff)
		}
	}
}

func TestDeterministic(t *testing.T) {
	k := newKey(t, "lab")
	again, err := ReadKey(k.Armor())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(k.Armor(), again.Armor()) || !bytes.Equal(k.Public(), again.Public()) || k.Fingerprint() != again.Fingerprint() {
		t.Error("a key changes when it is read back")
	}
	if !bytes.Equal(clearsigned(t, k, release), clearsigned(t, again, release)) {
		t.Error("two clearsigned files differ")
	}
	for _, armoured := range []bool{true, false} {
		a, err := k.DetachSign(strings.NewReader(release), signed, armoured)
		if err != nil {
			t.Fatal(err)
		}
		b, err := again.DetachSign(strings.NewReader(release), signed, armoured)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("two detached signatures differ (armoured=%v)", armoured)
		}
		if _, err := ringOf(t, k).VerifyDetached(strings.NewReader(release), a, signed); err != nil {
			t.Errorf("armoured=%v: %v", armoured, err)
		}
		_, err = ringOf(t, k).VerifyDetached(strings.NewReader(release+" "), a, signed)
		if !errors.Is(err, ErrAltered) {
			t.Errorf("altered data: got %v; want ErrAltered", err)
		}
	}
}

// TestDerive guards that what is derived depends on the private key, the purpose
// and the salt, and on nothing else in the key's file.
func TestDerive(t *testing.T) {
	k := newKey(t, "lab")
	derive := func(k *Key, purpose, salt string) string {
		t.Helper()
		out, err := k.Derive(purpose, []byte(salt))
		if err != nil || len(out) != 32 {
			t.Fatalf("Derive = %d bytes, %v", len(out), err)
		}
		return string(out)
	}
	again, err := ReadKey(k.Armor())
	if err != nil {
		t.Fatal(err)
	}
	renamed, err := ReadKey(k.Armor())
	if err != nil {
		t.Fatal(err)
	}
	if err := renamed.entity.AddUserId("other", "", "other@lab.example", config(signed)); err != nil {
		t.Fatal(err)
	}
	first := derive(k, "a", "salt")
	for summary, same := range map[string]string{"again": derive(k, "a", "salt"), "read back": derive(again, "a", "salt"), "user id added": derive(renamed, "a", "salt")} {
		if same != first {
			t.Errorf("%s: other bytes", summary)
		}
	}
	for summary, other := range map[string]string{"purpose": derive(k, "b", "salt"), "salt": derive(k, "a", "pepper"), "key": derive(newKey(t, "lab"), "a", "salt")} {
		if other == first {
			t.Errorf("another %s gives the same bytes", summary)
		}
	}
	if bytes.Contains(k.private, []byte(first)) {
		t.Error("the derived bytes stand in the key")
	}
}

// expiringKey makes a key that lives for an hour.
func expiringKey(t testing.TB) *Key {
	t.Helper()
	cfg := config(signed.Add(-time.Minute))
	cfg.KeyLifetimeSecs = 3600
	e, err := openpgp.NewEntity("old", "", "old@lab.example", cfg)
	if err != nil {
		t.Fatal(err)
	}
	k, err := fromEntity(e)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestVerifyErrors(t *testing.T) {
	lab, other, old := newKey(t, "lab"), newKey(t, "other"), expiringKey(t)
	good := string(clearsigned(t, lab, release))
	mid := strings.Index(good, "-----BEGIN PGP SIGNATURE-----")
	for _, test := range []struct {
		summary string
		data    string
		ring    Keyring
		at      time.Time
		want    error
		message string
		advice  string
	}{
		{summary: "good", data: good, ring: ringOf(t, lab), at: signed},
		{summary: "good among many keys", data: good, ring: ringOf(t, other, lab, old), at: signed},
		{summary: "blank lines at the end", data: good + "\n\n", ring: ringOf(t, lab), at: signed},
		{summary: "clock some hours slow", data: good, ring: ringOf(t, lab), at: signed.Add(-14 * time.Hour)},
		{summary: "no clock", data: good, ring: ringOf(t, lab)},
		{summary: "CRLF", data: strings.ReplaceAll(good, "\n", "\r\n"), ring: ringOf(t, lab), at: signed},
		{
			summary: "unsigned", data: release, ring: ringOf(t, lab), at: signed, want: ErrUnsigned,
			message: "cannot verify signature: not signed",
		}, {
			summary: "empty", data: "", ring: ringOf(t, lab), at: signed, want: ErrUnsigned,
			message: "cannot verify signature: not signed",
		}, {
			summary: "a captive portal's page", data: "<html>Log in</html>", ring: ringOf(t, lab), at: signed, want: ErrUnsigned,
			message: "cannot verify signature: not signed",
		}, {
			summary: "one letter altered", data: strings.Replace(good, "stable", "Stable", 1), ring: ringOf(t, lab), at: signed, want: ErrAltered,
			message: "cannot verify signature: signature does not match the content: KEYID lab <lab@lab.example>",
		}, {
			summary: "line added", data: strings.Replace(good, "Suite", "Evil: yes\nSuite", 1), ring: ringOf(t, lab), at: signed, want: ErrAltered,
			message: "cannot verify signature: signature does not match the content: KEYID lab <lab@lab.example>",
		}, {
			summary: "text before", data: "Evil: yes\n" + good, ring: ringOf(t, lab), at: signed, want: ErrUnsigned,
			message: "cannot verify signature: not signed",
		}, {
			summary: "text after", data: good + "Evil: yes\n", ring: ringOf(t, lab), at: signed, want: ErrMalformed,
			message: "cannot verify signature: malformed signature: text after the signature",
		}, {
			summary: "second message after", data: good + good, ring: ringOf(t, lab), at: signed, want: ErrMalformed,
			message: "cannot verify signature: malformed signature: text after the signature",
		}, {
			summary: "text hidden in a header", data: strings.Replace(good, "Hash: SHA256\n", "Hash: SHA256\nEvil: yes\n", 1), ring: ringOf(t, lab), at: signed, want: ErrMalformed,
			message: "cannot verify signature: malformed signature: no complete clearsigned message",
		}, {
			summary: "cut in the text", data: good[:mid/2], ring: ringOf(t, lab), at: signed, want: ErrMalformed,
			message: "cannot verify signature: malformed signature: no complete clearsigned message",
		}, {
			summary: "cut in the signature", data: good[:mid+60], ring: ringOf(t, lab), at: signed, want: ErrMalformed,
			message: "cannot verify signature: malformed signature: no complete clearsigned message",
		}, {
			summary: "unknown key", data: good, ring: ringOf(t, other), at: signed, want: ErrUnknownKey,
			message: "cannot verify signature: signed by a key that is not in the keyring: KEYID",
		}, {
			summary: "empty keyring", data: good, at: signed, want: ErrUnknownKey,
			message: "cannot verify signature: signed by a key that is not in the keyring: KEYID",
		}, {
			summary: "clock years slow", data: good, ring: ringOf(t, lab), at: created, want: ErrFromFuture,
			message: "cannot verify signature: signature is from the future: made on 2026-09-12 08:00:00 UTC, and it is 2025-01-01 00:00:00 UTC",
			advice:  "the clock of this machine is slow: set it",
		}, {
			summary: "expired key", data: string(clearsigned(t, old, release)), ring: ringOf(t, old), at: signed.Add(24 * time.Hour), want: ErrKeyExpired,
			message: "cannot verify signature: signed by an expired key: KEYID old <old@lab.example>, at 2026-09-13 08:00:00 UTC",
			advice:  "take a newer version of sci-cd, or check the clock of this machine",
		},
		{summary: "key that expires later", data: string(clearsigned(t, old, release)), ring: ringOf(t, old), at: signed},
		{summary: "expired key without a clock", data: string(clearsigned(t, old, release)), ring: ringOf(t, old)},
	} {
		body, signers, err := test.ring.VerifyClearsigned([]byte(test.data), test.at)
		if test.want == nil {
			if err != nil || len(signers) != 1 || len(body) == 0 {
				t.Errorf("%s: %d signers, error %v", test.summary, len(signers), err)
			}
			continue
		}
		if body != nil || signers != nil {
			t.Errorf("%s: text or signers in spite of the error", test.summary)
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v; want %v", test.summary, err, test.want)
			continue
		}
		message := err.Error()
		for _, k := range []*Key{lab, other, old} {
			message = strings.ReplaceAll(message, k.Fingerprint()[24:], "KEYID")
		}
		if message != test.message {
			t.Errorf("%s:\n got %s\nwant %s", test.summary, message, test.message)
		}
		if got := hint.Of(err); got != test.advice {
			t.Errorf("%s: hint %q; want %q", test.summary, got, test.advice)
		}
	}
}

func TestRevokedKey(t *testing.T) {
	k := newKey(t, "lab")
	data := clearsigned(t, k, release)
	if err := k.entity.Revoke(1, "lost", config(signed)); err != nil {
		t.Fatal(err)
	}
	revoked, err := fromEntity(k.entity)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ringOf(t, revoked).VerifyClearsigned(data, signed.Add(time.Hour)); !errors.Is(err, ErrKeyRevoked) {
		t.Errorf("got %v; want ErrKeyRevoked", err)
	}
}

// Two signatures over one Release: the keyring knows one of the keys only.
func TestOneGoodSignatureIsEnough(t *testing.T) {
	a, b := newKey(t, "a"), newKey(t, "b")
	var both []byte
	for _, k := range []*Key{a, b} {
		sig, err := k.DetachSign(strings.NewReader(release), signed, false)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, sig...)
	}
	for _, test := range []struct {
		ring Keyring
		want int
	}{{ringOf(t, a), 1}, {ringOf(t, b), 1}, {ringOf(t, a, b), 2}} {
		signers, err := test.ring.VerifyDetached(strings.NewReader(release), both, signed)
		if err != nil || len(signers) != test.want {
			t.Errorf("%d signers, error %v; want %d signers", len(signers), err, test.want)
		}
	}
	// A signature of a version that nobody knows yet, before the good ones.
	later := append([]byte{0xc2, 3, 9, 9, 9}, both...)
	if signers, err := ringOf(t, a).VerifyDetached(strings.NewReader(release), later, signed); err != nil || len(signers) != 1 {
		t.Errorf("beside a signature of version 9: %d signers, error %v", len(signers), err)
	}
	_, err := ringOf(t, newKey(t, "c")).VerifyDetached(strings.NewReader(release), both, signed)
	if !errors.Is(err, ErrUnknownKey) || strings.Count(err.Error(), "not in the keyring") != 2 {
		t.Errorf("got %v; want two unknown keys", err)
	}
}

func TestDetachedErrors(t *testing.T) {
	k := newKey(t, "lab")
	for _, test := range []struct {
		summary, sig string
		want         error
	}{
		{"empty", "", ErrUnsigned},
		{"text", "hello\n", ErrMalformed},
		{"a public key", string(k.PublicArmor()), ErrMalformed},
		{"a public key, binary", string(k.Public()), ErrMalformed},
		{"a clearsigned message", string(clearsigned(t, k, release)), ErrMalformed},
	} {
		_, err := ringOf(t, k).VerifyDetached(strings.NewReader(release), []byte(test.sig), signed)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v; want %v", test.summary, err, test.want)
		}
	}
}

func TestReadKeyringErrors(t *testing.T) {
	k := newKey(t, "lab")
	if _, err := ReadKeyring(bytes.NewReader(k.Armor())); err == nil || !strings.Contains(err.Error(), "is a private one") {
		t.Errorf("private key: got %v", err)
	}
	for _, data := range []string{"", "hello", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "\x99\x01"} {
		if r, err := ReadKeyring(strings.NewReader(data)); err == nil {
			t.Errorf("ReadKeyring(%q) = %v; want an error", data, r.Fingerprints())
		}
	}
	if _, err := ReadKey(k.Public()); err == nil || !strings.Contains(err.Error(), "is a public one") {
		t.Errorf("public key: got %v", err)
	}
}

func TestReadKeyringForms(t *testing.T) {
	a, b := newKey(t, "a"), newKey(t, "b")
	want := []string{a.Fingerprint(), b.Fingerprint()}
	for summary, data := range map[string][]byte{
		"binary":     append(a.Public(), b.Public()...),
		"two blocks": append(a.PublicArmor(), b.PublicArmor()...),
		"with text":  append([]byte("my keys\n\n"), append(a.PublicArmor(), b.PublicArmor()...)...),
	} {
		r, err := ReadKeyring(bytes.NewReader(data))
		if err != nil {
			t.Errorf("%s: %v", summary, err)
			continue
		}
		if diff := cmp.Diff(want, r.Fingerprints()); diff != "" {
			t.Errorf("%s: %s", summary, diff)
		}
	}
}

func TestSignBeforeKeyWasMade(t *testing.T) {
	_, err := newKey(t, "lab").Clearsign([]byte(release), created.Add(-time.Hour))
	if err == nil || !strings.Contains(err.Error(), "was made on 2025-01-01 00:00:00 UTC, after 2024-12-31") {
		t.Errorf("got %v", err)
	}
}

func TestLoadOrCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "site.key")
	a, isNew, err := LoadOrCreate(path, "lab", "", "lab@lab.example", created)
	if err != nil || !isNew {
		t.Fatalf("new=%v, error %v", isNew, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, error %v; want 0600", info.Mode(), err)
	}
	b, isNew, err := LoadOrCreate(path, "lab", "", "lab@lab.example", created)
	if err != nil || isNew || a.Fingerprint() != b.Fingerprint() {
		t.Errorf("new=%v, error %v; want the same key", isNew, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	_, _, err = LoadOrCreate(path, "lab", "", "lab@lab.example", created)
	if err == nil || !strings.Contains(err.Error(), "(mode 0640)") || !strings.Contains(hint.Of(err), "chmod 600") {
		t.Errorf("key that the group may read: %v, hint %q", err, hint.Of(err))
	}
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err = LoadOrCreate(path, "lab", "", "", created); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("damaged key: %v; want an error that names the file", err)
	}
	if _, _, err = LoadOrCreate(filepath.Join(path, "x", "y"), "lab", "", "", created); err == nil {
		t.Error("no error for a directory that is a file")
	}
}

func TestLoadOrCreateRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "site.key")
	var wg sync.WaitGroup
	prints := make([]string, 8)
	for i := range prints {
		wg.Go(func() {
			k, _, err := LoadOrCreate(path, "lab", "", "", created)
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = k.Fingerprint()
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] {
			t.Fatalf("several keys: %q", prints)
		}
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*")); err != nil || len(left) > 0 {
		t.Errorf("files left: %v, error %v", left, err)
	}
}

func TestVerifyInParallel(t *testing.T) {
	k := newKey(t, "lab")
	ring, data := ringOf(t, k), clearsigned(t, k, release)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := ring.VerifyClearsigned(data, signed); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// The keyring of debian-archive-keyring 2025.1, by the fingerprints that
// Debian publishes on ftp-master.debian.org/keys.html.
func TestDebian(t *testing.T) {
	ring, err := Debian()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"1F89983E0081FDE018F3CC9673A4F27B8DD47936", // bullseye
		"AC530D520F2F3269F5E98313A48449044AAD5C5D", // bullseye security
		"A4285295FC7B1A81600062A9605C66F00D6C9793", // bullseye stable
		"4D64FEC119C2029067D6E791F8D2585B8783D481", // bookworm stable
		"B8B80B5B623EAB6AD8775C45B7C5D7D6350947F8", // bookworm
		"05AB90340C0C5E797F44A8C8254CF3B5AEC0A8F0", // bookworm security
		"04B54C3CDCA79751B16BC6B5225629DF75B188BD", // trixie
		"5E04A1E3223A19A20706E20F9904613D4CCE68C6", // trixie security
		"41587F7DB8C774BCCF131416762F67A0B2C39DE4", // trixie stable
	}
	if diff := cmp.Diff(want, ring.Fingerprints()); diff != "" {
		t.Error(diff)
	}
}

// needTool skips where a judge is missing, but never in CI.
func needTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// What we sign, gpgv and sqv accept, and what we alter, they refuse.
func TestJudges(t *testing.T) {
	dir := t.TempDir()
	k := newKey(t, "lab")
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	detached, err := k.DetachSign(strings.NewReader(release), signed, true)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := k.DetachSign(strings.NewReader(release), signed, false)
	if err != nil {
		t.Fatal(err)
	}
	inRelease := clearsigned(t, k, release)
	public, publicArmor := write("site.gpg", k.Public()), write("site.asc", k.PublicArmor())
	data, sig, binSig := write("Release", []byte(release)), write("Release.gpg", detached), write("Release.sig", binary)
	clear := write("InRelease", inRelease)
	evil := write("Evil", []byte(release+"x"))
	evilClear := write("EvilInRelease", bytes.Replace(inRelease, []byte("stable"), []byte("Stable"), 1))

	for _, test := range []struct {
		summary string
		argv    []string
		bad     bool
	}{
		{summary: "gpgv InRelease", argv: []string{"gpgv", "--keyring", public, clear}},
		{summary: "gpgv Release.gpg", argv: []string{"gpgv", "--keyring", public, sig, data}},
		{summary: "gpgv binary", argv: []string{"gpgv", "--keyring", public, binSig, data}},
		{summary: "gpgv altered", argv: []string{"gpgv", "--keyring", public, sig, evil}, bad: true},
		{summary: "gpgv altered InRelease", argv: []string{"gpgv", "--keyring", public, evilClear}, bad: true},
		{summary: "sqv Release.gpg", argv: []string{"sqv", "--keyring", public, sig, data}},
		{summary: "sqv armoured keyring", argv: []string{"sqv", "--keyring", publicArmor, binSig, data}},
		{summary: "sqv altered", argv: []string{"sqv", "--keyring", public, sig, evil}, bad: true},
	} {
		t.Run(test.summary, func(t *testing.T) {
			needTool(t, test.argv[0])
			out, err := exec.Command(test.argv[0], test.argv[1:]...).CombinedOutput()
			if (err != nil) != test.bad {
				t.Errorf("%q: error %v\n%s", test.argv, err, out)
			}
		})
	}
}

// And the other way: what gpg signs, we accept, with its RSA and Ed25519 keys.
func TestVerifyOfGPG(t *testing.T) {
	needTool(t, "gpg")
	for _, algo := range []string{"rsa3072", "ed25519"} {
		t.Run(algo, func(t *testing.T) {
			home := t.TempDir()
			gpg := func(args ...string) []byte {
				cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--no-tty", "--passphrase", "", "--pinentry-mode", "loopback"}, args...)...)
				cmd.Stdin = strings.NewReader(release)
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("gpg %q: %v", args, err)
				}
				return out
			}
			defer func() { _ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run() }()
			gpg("--quick-generate-key", "gpg@lab.example", algo, "sign", "never")
			ring, err := ReadKeyring(bytes.NewReader(gpg("--export")))
			if err != nil {
				t.Fatal(err)
			}
			body, _, err := ring.VerifyClearsigned(gpg("--clearsign"), time.Time{})
			if err != nil || string(body) != release {
				t.Errorf("error %v, body %q", err, body)
			}
			if _, err := ring.VerifyDetached(strings.NewReader(release), gpg("--detach-sign"), time.Time{}); err != nil {
				t.Error(err)
			}
			_, err = ring.VerifyDetached(strings.NewReader(release), gpg("--digest-algo", "SHA1", "--detach-sign"), time.Time{})
			if !errors.Is(err, ErrWeak) {
				t.Errorf("SHA1: got %v; want ErrWeak", err)
			}
		})
	}
}

func FuzzVerifyClearsigned(f *testing.F) {
	k := newKey(f, "lab")
	good := clearsigned(f, k, release)
	f.Add(good)
	f.Add([]byte(release))
	ring := ringOf(f, k)
	f.Fuzz(func(t *testing.T, data []byte) {
		body, signers, err := ring.VerifyClearsigned(data, signed)
		if err == nil && string(body) != release {
			t.Errorf("%q verifies, signed by %v", body, signers)
		}
	})
}

func FuzzVerifyDetached(f *testing.F) {
	k := newKey(f, "lab")
	for _, armoured := range []bool{true, false} {
		sig, err := k.DetachSign(strings.NewReader(release), signed, armoured)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(release), sig)
	}
	ring := ringOf(f, k)
	f.Fuzz(func(t *testing.T, data, sig []byte) {
		if _, err := ring.VerifyDetached(bytes.NewReader(data), sig, signed); err == nil && string(data) != release {
			t.Errorf("%q verifies", data)
		}
	})
}

func FuzzReadKeyring(f *testing.F) {
	k := newKey(f, "lab")
	f.Add(k.Public())
	f.Add(k.PublicArmor())
	f.Fuzz(func(t *testing.T, data []byte) {
		if ring, err := ReadKeyring(bytes.NewReader(data)); err == nil {
			_ = ring.Fingerprints()
		}
		_, _ = ReadKey(data)
	})
}
