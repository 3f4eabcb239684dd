// Package cert gives TLS servers their certificates: made by a development authority of one's own, read from files that
// somebody else keeps, or ordered from a public authority once for all nodes. It does not decide which names need
// one, does not serve the names that prove them, and never installs trust anywhere.
package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	authorityLife = 5 * 365 * 24 * time.Hour
	// leafLife is short because a leaf is made again at every start and at two thirds of its life.
	leafLife = 30 * 24 * time.Hour
)

// Authority is a development certificate authority. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Files of an authority inside its directory.
const (
	CertFile = "ca.pem"
	KeyFile  = "ca.key"
)

// OpenAuthority loads the authority kept in dir, or makes one there. The private key is
// readable by its owner alone. Half an authority is an error, never replaced.
func OpenAuthority(dir, name string) (*Authority, error) {
	a, err := LoadAuthority(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if _, err := os.Stat(filepath.Join(dir, CertFile)); err == nil {
		return nil, fmt.Errorf("certificate authority in %s: %s is there but %s is not; restore it or remove both", dir, CertFile, KeyFile)
	}
	return createAuthority(dir, name)
}

// LoadAuthority loads the authority kept in dir; fs.ErrNotExist when there is none.
func LoadAuthority(dir string) (*Authority, error) {
	keyPEM, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	certPEM, err := os.ReadFile(filepath.Join(dir, CertFile))
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate authority in %s is damaged: %w", dir, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("certificate authority in %s is damaged: not an ECDSA key", dir)
	}
	return &Authority{cert: pair.Leaf, key: key}, nil
}

// NewAuthority makes an authority that is kept nowhere: it ends with the process.
func NewAuthority(name string) (*Authority, error) {
	key, der, err := makeAuthority(name)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &Authority{cert: leaf, key: key}, err
}

func makeAuthority(name string) (key *ecdsa.PrivateKey, der []byte, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	return key, der, err
}

func createAuthority(dir, name string) (*Authority, error) {
	key, der, err := makeAuthority(name)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, KeyFile), keyPEM, 0o600); err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, CertFile), certPEM, 0o644); err != nil { //nolint:gosec // a certificate is public
		return nil, err
	}
	return LoadAuthority(dir)
}

// Issue makes a server certificate for names and addresses, valid for 30 days, and gives the
// chain (leaf first) and the key as PEM.
func (a *Authority) Issue(names []string, ips []netip.Addr) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: "orama"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(leafLife),
		DNSNames:     names,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range ips {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(ip.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err = encodeKey(key)
	if err != nil {
		return nil, nil, err
	}
	certPEM = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})...)
	return certPEM, keyPEM, nil
}

// Leaf keeps one certificate fresh for a changing set of names. The zero value with an
// Authority is ready; it is safe for concurrent use.
type Leaf struct {
	Authority *Authority

	mu      sync.Mutex // guards the following fields
	names   []string
	ips     []netip.Addr
	renew   time.Time // when two thirds of the leaf's life are over
	certPEM []byte
	keyPEM  []byte
}

// For gives a certificate that covers names and ips: the present one while it fits, else a new one.
func (l *Leaf) For(names []string, ips []netip.Addr) (certPEM, keyPEM []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(l.names, names) && slices.Equal(l.ips, ips) && time.Now().Before(l.renew) {
		return l.certPEM, l.keyPEM, nil
	}
	certPEM, keyPEM, err = l.Authority.Issue(names, ips)
	if err != nil {
		return nil, nil, err
	}
	l.names, l.ips = slices.Clone(names), slices.Clone(ips)
	l.certPEM, l.keyPEM = certPEM, keyPEM
	l.renew = time.Now().Add(leafLife * 2 / 3)
	return certPEM, keyPEM, nil
}

// maxServerNames bounds how many names a Server keeps certificates for; strangers choose the SNI.
const maxServerNames = 256

// Server answers TLS handshakes for any one- or two-label name under a base domain, and for
// addresses, with certificates issued when first asked for.
type Server struct {
	Authority *Authority
	Base      string // such as "orama.test"
	IPs       []netip.Addr

	mu    sync.Mutex // guards the following field
	certs map[string]*tls.Certificate
}

// GetCertificate fits tls.Config.GetCertificate.
func (s *Server) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name != "" && name != s.Base && !s.covers(name) {
		return nil, fmt.Errorf("no certificate for %.80q", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.certs[name]; c != nil && time.Now().Before(c.Leaf.NotAfter.Add(-leafLife/3)) {
		return c, nil
	}
	names := []string{s.Base, "*." + s.Base}
	if name != "" {
		names = append(names, name)
	}
	certPEM, keyPEM, err := s.Authority.Issue(names, s.IPs)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	if s.certs == nil || len(s.certs) >= maxServerNames {
		s.certs = map[string]*tls.Certificate{}
	}
	s.certs[name] = &pair
	return &pair, nil
}

func (s *Server) covers(name string) bool {
	prefix, ok := strings.CutSuffix(name, "."+s.Base)
	return ok && strings.Count(prefix, ".") <= 1 && len(name) <= 253
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b) //nolint:errcheck // never fails
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}
