package turn

import (
	"crypto/tls"
	"errors"
	"sync/atomic"

	"github.com/pion/dtls/v3"

	"orama.network/orama"
)

// errNoCertificate is what a handshake fails with before there is a certificate.
var errNoCertificate = errors.New("turn: no certificate yet")

// certificate is swapped whole while handshakes read it; connections that exist keep theirs.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// parseCertificate takes a PEM chain, leaf first, and its key. Both empty means none yet.
func parseCertificate(chain, key string) (*tls.Certificate, error) {
	if chain == "" && key == "" {
		return nil, nil
	}
	c, err := tls.X509KeyPair([]byte(chain), []byte(key))
	if err != nil {
		return nil, &orama.Error{Kind: orama.KindInvalid, Code: "bad_certificate", Message: "the TURN certificate and key do not fit", Err: err}
	}
	return &c, nil
}

func (c *certificate) get() (*tls.Certificate, error) {
	if cert := c.current.Load(); cert != nil {
		return cert, nil
	}
	return nil, errNoCertificate
}

func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get() },
	}
}

func (c *certificate) dtlsOptions() []dtls.ServerOption {
	return []dtls.ServerOption{
		dtls.WithGetCertificate(func(*dtls.ClientHelloInfo) (*tls.Certificate, error) { return c.get() }),
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		dtls.WithLoggerFactory(quiet{}),
	}
}
