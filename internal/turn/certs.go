package turn

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/pion/dtls/v3"

	"orama.network/orama"
)

// errNoCertificate is what a handshake fails with before there is a certificate.
var errNoCertificate = errors.New("turn: no certificate yet")

// certificate is swapped whole while handshakes read it; connections that exist keep theirs.
type certificate struct {
	current atomic.Pointer[certificates]
}

// certificates are chains with their keys; the first is for clients that name no server, or one that none is for.
type certificates []tls.Certificate

// parseCertificate takes one or more PEM chains, each leaf first, and their keys in any order. Both empty means none yet.
func parseCertificate(chains, keys string) (*certificates, error) {
	if chains == "" && keys == "" {
		return nil, nil
	}
	out, err := pair([]byte(chains), []byte(keys))
	if err != nil {
		return nil, &orama.Error{Kind: orama.KindInvalid, Code: "bad_certificate", Message: "the TURN certificate and key do not fit", Err: err}
	}
	return &out, nil
}

// pair finds the leaves by the keys: a certificate whose key is here begins a chain.
func pair(chains, keys []byte) (certificates, error) {
	var private [][]byte
	for block, rest := pem.Decode(keys); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") { // and not EC PARAMETERS, which some tools put before it
			private = append(private, pem.EncodeToMemory(block))
		}
	}
	var out certificates
	for block, rest := pem.Decode(chains); block != nil; block, rest = pem.Decode(rest) {
		text := pem.EncodeToMemory(block)
		var leaf *tls.Certificate
		for _, key := range private {
			if c, err := tls.X509KeyPair(text, key); err == nil {
				leaf = &c
				break
			}
		}
		switch {
		case leaf != nil:
			out = append(out, *leaf)
		case len(out) == 0:
			return nil, errors.New("turn: the first certificate has no key here")
		default:
			last := &out[len(out)-1]
			last.Certificate = append(last.Certificate, block.Bytes)
		}
	}
	if len(out) == 0 || len(out) < len(private) {
		return nil, fmt.Errorf("turn: %d keys for %d certificates", len(private), len(out))
	}
	return out, nil
}

// get picks the certificate for the server that a client names.
func (c *certificate) get(name string) (*tls.Certificate, error) {
	all := c.current.Load()
	if all == nil {
		return nil, errNoCertificate
	}
	for i := range *all {
		if (*all)[i].Leaf.VerifyHostname(name) == nil {
			return &(*all)[i], nil
		}
	}
	return &(*all)[0], nil
}

func (c *certificate) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(h.ServerName) },
	}
}

func (c *certificate) dtlsOptions() []dtls.ServerOption {
	return []dtls.ServerOption{
		dtls.WithGetCertificate(func(h *dtls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(h.ServerName) }),
		dtls.WithExtendedMasterSecret(dtls.RequireExtendedMasterSecret),
		dtls.WithLoggerFactory(quiet{}),
	}
}
