// Package pgp verifies and makes the OpenPGP signatures of Debian archives:
// InRelease (clearsigned) and Release.gpg (detached).
//
// It wraps github.com/ProtonMail/go-crypto and narrows it: a clearsigned file
// is one message and nothing else, exactly the signed bytes come back, each
// signature is judged on its own, and keys are judged at a time that the caller
// gives, never by the clock.
//
// Our own keys are EdDSA keys of version 4 with algorithm number 22 ("legacy"),
// because gpgv 2.2 and 2.4 refuse the newer number 27 and version 6. Such a
// signature is deterministic.
//
// Sources: RFC 9580; RFC 4880 section 7 for the cleartext framework;
// RFC 5869 for what is derived from a key; apt-secure(8), sqv(1), gpgv(1).
package pgp
