package pgp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/skycover/sci-cd/pkg/hint"
)

// Bounds on what is verified.
const (
	maxSigned     = 64 << 20 // bytes; InRelease of trixie has 140 kB
	maxSignature  = 256 << 10
	maxSignatures = 32
)

// maxSkew is how far a signature may lie in the future: a clock that is off by
// a time zone is no attack.
const maxSkew = 24 * time.Hour

// Why a signature does not count. VerifyClearsigned and VerifyDetached return
// errors that wrap those of every signature found; errors.Is tells them apart.
var (
	ErrUnsigned     = errors.New("not signed")
	ErrMalformed    = errors.New("malformed signature")
	ErrAltered      = errors.New("signature does not match the content")
	ErrUnknownKey   = errors.New("signed by a key that is not in the keyring")
	ErrKeyExpired   = errors.New("signed by an expired key")
	ErrKeyRevoked   = errors.New("signed by a revoked key")
	ErrExpired      = errors.New("signature has expired")
	ErrFromFuture   = errors.New("signature is from the future")
	ErrWeak         = errors.New("signature is too weak")
	ErrNotForSigned = errors.New("key is not for signing")
)

// Signer is a key that made a good signature.
type Signer struct {
	// Fingerprint is that of the primary key in upper case hex, also where a
	// subkey signed.
	Fingerprint string
	// UID is the key's primary user id.
	UID string
	// Time is when the signature was made.
	Time time.Time
}

// VerifyClearsigned checks a clearsigned message such as an InRelease file and
// returns the signed text, with plain newlines and a newline at the end. data
// must be one message and nothing else but blank lines after it, so that no
// unsigned text can slip in. One good signature by a key in the keyring is
// enough; bad ones beside it do not matter, as the text is the same.
//
// Keys are judged at the time at: a key that has expired by then does not
// count. The zero time judges each key at the time of its signature, for
// machines that have no clock yet.
func (k Keyring) VerifyClearsigned(data []byte, at time.Time) ([]byte, []Signer, error) {
	if len(data) > maxSigned {
		return nil, nil, fmt.Errorf("cannot verify signature: more than %d bytes", maxSigned)
	}
	const begin = "-----BEGIN PGP SIGNED MESSAGE-----"
	if !bytes.HasPrefix(data, []byte(begin)) {
		return nil, nil, fmt.Errorf("cannot verify signature: %w", ErrUnsigned)
	}
	block, rest := clearsign.Decode(data)
	if block == nil {
		return nil, nil, fmt.Errorf("cannot verify signature: %w: no complete clearsigned message", ErrMalformed)
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, fmt.Errorf("cannot verify signature: %w: text after the signature", ErrMalformed)
	}
	sigs, err := readSignatures(block.ArmoredSignature.Body)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot verify signature: %w", err)
	}
	signers, err := k.verify(block.Bytes, sigs, at)
	if err != nil {
		return nil, nil, err
	}
	return append(bytes.ReplaceAll(block.Bytes, []byte("\r\n"), []byte("\n")), '\n'), signers, nil
}

// VerifyDetached checks data against a detached signature such as Release.gpg,
// armoured or binary. It reads all of data; what data holds is to be trusted
// only when the error is nil. For at see VerifyClearsigned.
func (k Keyring) VerifyDetached(data io.Reader, sig []byte, at time.Time) ([]Signer, error) {
	body, err := io.ReadAll(io.LimitReader(data, maxSigned+1))
	if err != nil {
		return nil, fmt.Errorf("cannot verify signature: %w", err)
	}
	if len(body) > maxSigned {
		return nil, fmt.Errorf("cannot verify signature: more than %d bytes", maxSigned)
	}
	r := io.Reader(bytes.NewReader(sig))
	if bytes.HasPrefix(bytes.TrimLeft(sig, " \t\r\n"), []byte("-----BEGIN PGP")) {
		block, err := armor.Decode(r)
		if err != nil || block.Type != openpgp.SignatureType {
			return nil, fmt.Errorf("cannot verify signature: %w: no armoured signature", ErrMalformed)
		}
		r = block.Body
	}
	sigs, err := readSignatures(r)
	if err != nil {
		return nil, fmt.Errorf("cannot verify signature: %w", err)
	}
	return k.verify(body, sigs, at)
}

// readSignatures reads signature packets; packets that the library does not
// know, signatures of later versions among them, are skipped.
func readSignatures(r io.Reader) ([]*packet.Signature, error) {
	var list []*packet.Signature
	limited := &io.LimitedReader{R: r, N: maxSignature}
	packets := packet.NewReader(limited)
	for {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if sig, ok := p.(*packet.Signature); ok {
			list = append(list, sig)
		}
		if len(list) > maxSignatures {
			return nil, fmt.Errorf("%w: more than %d signatures", ErrMalformed, maxSignatures)
		}
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrMalformed, maxSignature)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: no signature in it", ErrUnsigned)
	}
	return list, nil
}

// verify judges each signature over body on its own.
func (k Keyring) verify(body []byte, sigs []*packet.Signature, at time.Time) ([]Signer, error) {
	var signers []Signer
	var bad []error
	for _, sig := range sigs {
		s, err := k.verifyOne(body, sig, at)
		if err != nil {
			bad = append(bad, err)
			continue
		}
		signers = append(signers, s)
	}
	if len(signers) > 0 {
		return signers, nil
	}
	return nil, adviseOn(&badSignatures{bad})
}

// badSignatures are the reasons why none of the signatures counts.
type badSignatures struct{ causes []error }

func (b *badSignatures) Error() string {
	parts := make([]string, len(b.causes))
	for i, err := range b.causes {
		parts[i] = err.Error()
	}
	return "cannot verify signature: " + strings.Join(parts, "; ")
}

func (b *badSignatures) Unwrap() []error { return b.causes }

func adviseOn(err error) error {
	switch {
	case errors.Is(err, ErrAltered):
		return err // worse than anything that advice could help against
	case errors.Is(err, ErrFromFuture):
		return hint.New(err, "the clock of this machine is slow: set it")
	case errors.Is(err, ErrKeyExpired):
		return hint.New(err, "take a newer version of sci-cd, or check the clock of this machine")
	}
	return err
}

// verifyOne judges one signature over body.
func (k Keyring) verifyOne(body []byte, sig *packet.Signature, at time.Time) (Signer, error) {
	if sig.SigType != packet.SigTypeBinary && sig.SigType != packet.SigTypeText {
		return Signer{}, fmt.Errorf("%w: type %#x is not for data", ErrMalformed, uint8(sig.SigType))
	}
	if at.IsZero() {
		at = sig.CreationTime
	}
	if sig.CreationTime.After(at.Add(maxSkew)) {
		return Signer{}, fmt.Errorf("%w: made on %s, and it is %s", ErrFromFuture, day(sig.CreationTime), day(at))
	}
	if at.Before(sig.CreationTime) {
		at = sig.CreationTime
	}
	if sig.IssuerKeyId == nil {
		return Signer{}, fmt.Errorf("%w: it names no key", ErrMalformed)
	}
	err := fmt.Errorf("%w: %016X", ErrUnknownKey, *sig.IssuerKeyId)
	if k.ring == nil {
		return Signer{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.entities.EntitiesById(*sig.IssuerKeyId) {
		if err = verifyBy(e, body, sig, at); err == nil {
			return Signer{fingerprint(e), userID(e, at), sig.CreationTime}, nil
		}
	}
	return Signer{}, err
}

// verifyBy judges one signature by the key that it names. The library judges
// the key at the time of the signature; we do so once more at the time at.
func verifyBy(e *openpgp.Entity, body []byte, sig *packet.Signature, at time.Time) error {
	var packets bytes.Buffer
	if err := sig.Serialize(&packets); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	cfg := config(at)
	_, _, err := openpgp.VerifyDetachedSignature(openpgp.EntityList{e}, bytes.NewReader(body), &packets, cfg)
	if err != nil {
		return reason(e, *sig.IssuerKeyId, sig.CreationTime, err)
	}
	if _, err := e.VerifyPrimaryKey(at, cfg); err != nil {
		return reason(e, *sig.IssuerKeyId, at, err)
	}
	for i := range e.Subkeys {
		if sub := &e.Subkeys[i]; sub.PublicKey.KeyId == *sig.IssuerKeyId {
			if _, err := sub.Verify(at, cfg); err != nil {
				return reason(e, *sig.IssuerKeyId, at, err)
			}
		}
	}
	return nil
}

// reason puts the library's error into our words.
func reason(e *openpgp.Entity, id uint64, at time.Time, err error) error {
	who := fmt.Sprintf("%016X %s", id, userID(e, at))
	var weak pgperrors.WeakAlgorithmError
	var bad pgperrors.SignatureError
	var structure pgperrors.StructuralError
	switch {
	case errors.Is(err, pgperrors.ErrKeyExpired):
		return fmt.Errorf("%w: %s, at %s", ErrKeyExpired, who, day(at))
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return fmt.Errorf("%w: %s", ErrKeyRevoked, who)
	case errors.Is(err, pgperrors.ErrSignatureExpired):
		return fmt.Errorf("%w: %s", ErrExpired, who)
	case errors.As(err, &weak):
		return fmt.Errorf("%w: %s: %w", ErrWeak, who, err)
	case errors.As(err, &bad):
		if strings.Contains(string(bad), "insecure") {
			return fmt.Errorf("%w: %s: %w", ErrWeak, who, err)
		}
		return fmt.Errorf("%w: %s", ErrAltered, who)
	case errors.As(err, &structure) && strings.Contains(string(structure), "no valid signing"):
		return fmt.Errorf("%w: %s", ErrNotForSigned, who)
	}
	return fmt.Errorf("%s: %w", who, err)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
