package enroll

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// label keeps the key apart from everything else that derives from the cluster key (see auth). It never changes.
const label = "orama enroll"

// Identity is the cluster's key for this protocol: every member arrives at the same, and nobody else does.
type Identity struct {
	cert        tls.Certificate
	Fingerprint [printLen]byte // SHA-256 of its SubjectPublicKeyInfo
}

// NewIdentity derives the identity from the 32-byte cluster key by HKDF-SHA256 (RFC 5869).
func NewIdentity(clusterKey [32]byte) (*Identity, error) {
	seed, err := hkdf.Key(sha256.New, clusterKey[:], nil, label, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	// Nobody looks at anything in the certificate but its key, which is pinned.
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "orama enroll"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("enroll: certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("enroll: certificate: %w", err)
	}
	return &Identity{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, Fingerprint: sha256.Sum256(leaf.RawSubjectPublicKeyInfo)}, nil
}

// is reports whether a certificate has this identity's key; that its holder has the private half, TLS has proven.
func is(fingerprint [printLen]byte, certs []*x509.Certificate) bool {
	if len(certs) == 0 {
		return false
	}
	sum := sha256.Sum256(certs[0].RawSubjectPublicKeyInfo)
	return subtle.ConstantTimeCompare(sum[:], fingerprint[:]) == 1
}

func (i *Identity) server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{i.cert}, NextProtos: []string{"http/1.1"},
		ClientAuth: tls.RequestClientCert, SessionTicketsDisabled: true}
}

// errStranger: the other side does not hold the key that was expected.
var errStranger = errors.New("it does not hold the key that was expected")

// client accepts one key and no other; member may be nil.
func client(fingerprint [printLen]byte, member *Identity) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Names and dates prove nothing here. The key does, and VerifyConnection sees to it in every handshake.
		InsecureSkipVerify: true, //nolint:gosec // the key is pinned
		VerifyConnection: func(s tls.ConnectionState) error {
			if !is(fingerprint, s.PeerCertificates) {
				return errStranger
			}
			return nil
		},
	}
	if member != nil {
		// Ask for nothing: the one certificate is for whoever holds the cluster's key.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &member.cert, nil }
	}
	return c
}
