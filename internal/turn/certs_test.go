package turn

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// A server with several certificates shows each client the one for the name it asked for; one that names no server, or a
// stranger, gets the first.
func TestCertificateByName(t *testing.T) {
	a, b := newCert(t, "turn.ns-alpha.orama.test"), newCert(t, "*.ns-beta.orama.test")
	got, err := parseCertificate(a.chain+b.chain, b.key+a.key)
	require.NoError(t, err)
	var c certificate
	c.current.Store(got)
	for name, want := range map[string][]byte{
		"turn.ns-alpha.orama.test": a.leaf, "turn-2.ns-beta.orama.test": b.leaf, "TURN.ns-beta.orama.test": b.leaf,
		"": a.leaf, "example.org": a.leaf,
	} {
		client, server := net.Pipe()
		go func() { tls.Server(server, c.tlsConfig()).Handshake() }() //nolint:errcheck // the client's side is what is looked at
		conn := tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		require.NoError(t, conn.HandshakeContext(t.Context()))
		require.Equal(t, want, conn.ConnectionState().PeerCertificates[0].Raw, name)
		client.Close()
		server.Close()
	}
}

func TestCertificatesThatDoNotFit(t *testing.T) {
	a, b := newCert(t, "a.test"), newCert(t, "b.test")
	for name, in := range map[string][2]string{
		"another's key":      {a.chain, b.key},
		"a key too many":     {a.chain, a.key + b.key},
		"a key missing":      {b.chain + a.chain, a.key},
		"no certificate":     {"", a.key},
		"no key":             {a.chain, ""},
		"no PEM at all":      {"x", "y"},
		"a damaged first":    {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + a.chain, a.key},
		"a key for a second": {a.chain, a.key + a.key},
	} {
		_, err := parseCertificate(in[0], in[1])
		require.Equal(t, orama.KindInvalid, orama.KindOf(err), name)
	}
	got, err := parseCertificate("", "")
	require.NoError(t, err)
	require.Nil(t, got)
	got, err = parseCertificate(a.chain+b.chain, a.key) // b stands for an intermediate
	require.NoError(t, err)
	require.Len(t, (*got)[0].Certificate, 2)
}
