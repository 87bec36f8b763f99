package enrol

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"time"
)

// base is what both ends have in common.
func base() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       instant,
		// A resumed session would not show its certificate again.
		SessionTicketsDisabled: true,
	}
}

// serverConfig shows the credential of the medium that the client asks for by
// name, and wants a certificate of one of the media.
func serverConfig(media []Credential) (*tls.Config, error) {
	if len(media) == 0 {
		return nil, errNoMedium
	}
	cfg := base()
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
	for _, c := range media {
		cert, err := c.certificate()
		if err != nil {
			return nil, err
		}
		ca, err := c.authority()
		if err != nil {
			return nil, err
		}
		cfg.Certificates = append(cfg.Certificates, cert)
		cfg.ClientCAs.AddCert(ca)
	}
	return cfg, nil
}

// clientConfig believes the master of the credential's medium alone.
func clientConfig(c Credential, masterName string) (*tls.Config, error) {
	ca, err := c.authority()
	if err != nil {
		return nil, err
	}
	cert, err := c.certificate()
	if err != nil {
		return nil, err
	}
	cfg := base()
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(ca)
	cfg.ServerName = mediumName(ca, masterName)
	// Shown to everybody: a master of another medium is to say that it does not
	// know it, and not that there is none.
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return cfg, nil
}

// remoteRefusal reports whether the other end ended the handshake because it
// does not like our certificate (RFC 8446, 6.2).
func remoteRefusal(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error" && strings.Contains(op.Error(), "certificate")
}

// peer is who has proved himself on a connection.
func peer(state *tls.ConnectionState) (host, credential, ca string, ok bool) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return "", "", "", false
	}
	chain := state.VerifiedChains[0]
	leaf, root := chain[0], chain[len(chain)-1]
	return leaf.Subject.CommonName, fingerprint(leaf.Raw), fingerprint(root.Raw), len(chain) == 2
}

const (
	handshakeTime = 10 * time.Second
	requestTime   = 30 * time.Second
)
