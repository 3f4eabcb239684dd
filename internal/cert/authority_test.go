package cert_test

import (
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/cert"
)

func pool(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, cert.CertFile))
	require.NoError(t, err)
	p := x509.NewCertPool()
	require.True(t, p.AppendCertsFromPEM(text))
	return p
}

func verify(t *testing.T, roots *x509.CertPool, leaf *x509.Certificate, name string) error {
	t.Helper()
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
	return err
}

func TestAuthorityIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	_, err := cert.LoadAuthority(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	a, err := cert.OpenAuthority(dir, "test")
	require.NoError(t, err)
	roots := pool(t, dir)
	again, err := cert.OpenAuthority(dir, "another name")
	require.NoError(t, err)
	for _, authority := range []*cert.Authority{a, again} {
		certPEM, keyPEM, err := authority.Issue([]string{"turn.ns-demo.orama.test"}, []netip.Addr{netip.MustParseAddr("127.0.0.11")})
		require.NoError(t, err)
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		require.NoError(t, err)
		require.NoError(t, verify(t, roots, pair.Leaf, "turn.ns-demo.orama.test"))
		require.NoError(t, verify(t, roots, pair.Leaf, "127.0.0.11"))
		require.Error(t, verify(t, roots, pair.Leaf, "turn.ns-other.orama.test"))
	}
	info, err := os.Stat(filepath.Join(dir, cert.KeyFile))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
}

func TestDamagedAuthorityIsRefusedAndKept(t *testing.T) {
	dir := t.TempDir()
	_, err := cert.OpenAuthority(dir, "test")
	require.NoError(t, err)
	key := filepath.Join(dir, cert.KeyFile)
	require.NoError(t, os.WriteFile(key, []byte("damage"), 0o600))
	_, err = cert.OpenAuthority(dir, "test")
	require.ErrorContains(t, err, "damaged")
	kept, err := os.ReadFile(key)
	require.NoError(t, err)
	require.Equal(t, "damage", string(kept))

	require.NoError(t, os.Remove(key))
	_, err = cert.OpenAuthority(dir, "test")
	require.ErrorContains(t, err, cert.KeyFile)
}

func TestLeafIsKeptWhileItFits(t *testing.T) {
	a, err := cert.OpenAuthority(t.TempDir(), "test")
	require.NoError(t, err)
	l := cert.Leaf{Authority: a}
	first, _, err := l.For([]string{"a.test"}, nil)
	require.NoError(t, err)
	same, _, err := l.For([]string{"a.test"}, nil)
	require.NoError(t, err)
	require.Equal(t, first, same)
	other, _, err := l.For([]string{"a.test", "b.test"}, nil)
	require.NoError(t, err)
	require.NotEqual(t, first, other)
}

func TestServerCertificatesCoverTheBaseDomainOnly(t *testing.T) {
	dir := t.TempDir()
	a, err := cert.OpenAuthority(dir, "test")
	require.NoError(t, err)
	s := cert.Server{Authority: a, Base: "orama.test", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.11")}}
	roots := pool(t, dir)
	for _, name := range []string{"orama.test", "ns-demo.orama.test", "a.ns-demo.orama.test", "NS-DEMO.orama.test."} {
		c, err := s.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		require.NoError(t, err, name)
		require.NoError(t, verify(t, roots, c.Leaf, "ns-demo.orama.test"), name)
	}
	for _, name := range []string{"example.org", "a.b.c.orama.test", "notorama.test"} {
		_, err := s.GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		require.Error(t, err, name)
	}
	c, err := s.GetCertificate(&tls.ClientHelloInfo{})
	require.NoError(t, err)
	require.NoError(t, verify(t, roots, c.Leaf, "127.0.0.11"))
}
