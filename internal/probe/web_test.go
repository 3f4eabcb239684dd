package probe

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestGatewayServesOrSaysWhyNot(t *testing.T) {
	status, date := http.StatusOK, ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		if date != "" {
			w.Header().Set("Date", date)
		}
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	defer srv.Close()
	ask := func() (time.Duration, error) { return Gateway(bounded(t, 5*time.Second), srv.URL, nil) }

	ahead, err := ask()
	require.NoError(t, err)
	require.Less(t, ahead.Abs(), time.Second)

	date = time.Now().Add(-time.Minute).UTC().Format(http.TimeFormat)
	ahead, err = ask()
	require.NoError(t, err)
	require.InDelta(t, -60, ahead.Seconds(), 1.5, "its clock is a minute behind")

	date = "yesterday"
	_, err = ask()
	require.ErrorContains(t, err, "Date")
	status = http.StatusServiceUnavailable
	_, err = ask()
	require.ErrorContains(t, err, "status 503")
	status = http.StatusFound
	_, err = ask()
	require.ErrorContains(t, err, "redirects")
	srv.Close()
	_, err = ask()
	require.ErrorContains(t, err, "refused")
	require.NotContains(t, err.Error(), "/readyz", "the URL is known to the reader")
}

// A clock that is right is never said to be wrong, however slow the answer; one that is wrong is never said to be
// further off than it is.
func TestLead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := time.Unix(1_800_000_000, rapid.Int64Range(0, 1e9-1).Draw(t, "sub"))
		took := time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "took"))
		when := time.Duration(rapid.Int64Range(0, int64(took)).Draw(t, "when"))
		skew := time.Duration(rapid.Int64Range(-int64(time.Minute), int64(time.Minute)).Draw(t, "skew"))
		date := sent.Add(when).Add(skew).Truncate(time.Second)
		got := lead(date, sent, took)
		if got.Abs() > skew.Abs() || got != 0 && (got > 0) != (skew > 0) || skew.Abs()-got.Abs() > took+time.Second {
			t.Fatalf("skew %s seen as %s", skew, got)
		}
	})
}

// authority makes leaf certificates for a TLS server of the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-1000 * time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return authority{cert, key}
}

func (a authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

func (a authority) leaf(t *testing.T, begin, end time.Time, names ...string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: begin, NotAfter: end, DNSNames: names,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveTLS shows one certificate to everybody.
func serveTLS(t *testing.T, c tls.Certificate) string {
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{c}})
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake() //nolint:errcheck // the client says
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestCertificate(t *testing.T) {
	a := newAuthority(t)
	now := time.Now().Truncate(time.Second)
	for name, c := range map[string]struct {
		begin, end time.Time
		covers     string
		roots      *x509.CertPool
		untrusted  string
	}{
		"good":             {now.Add(-time.Hour), now.Add(time.Hour), "turn.ns-myapp.orama.test", a.pool(), ""},
		"by wildcard":      {now.Add(-time.Hour), now.Add(time.Hour), "*.ns-myapp.orama.test", a.pool(), ""},
		"another name":     {now.Add(-time.Hour), now.Add(time.Hour), "turn.ns-other.orama.test", a.pool(), "turn.ns-other.orama.test"},
		"another issuer":   {now.Add(-time.Hour), now.Add(time.Hour), "turn.ns-myapp.orama.test", newAuthority(t).pool(), "unknown authority"},
		"over, but honest": {now.Add(-3 * time.Hour), now.Add(-time.Hour), "turn.ns-myapp.orama.test", a.pool(), ""},
		"of the future":    {now.Add(time.Hour), now.Add(3 * time.Hour), "turn.ns-myapp.orama.test", a.pool(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			at := serveTLS(t, a.leaf(t, c.begin, c.end, c.covers))
			begin, end, untrusted, err := Certificate(bounded(t, 10*time.Second), at, "turn.ns-myapp.orama.test", c.roots)
			require.NoError(t, err)
			require.True(t, c.begin.Equal(begin) && c.end.Equal(end))
			if c.untrusted == "" {
				require.Empty(t, untrusted)
			} else {
				require.Contains(t, untrusted, c.untrusted)
			}
		})
	}
}

func TestNoTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err == nil {
			c.Write([]byte(strings.Repeat("no TLS here\n", 10))) //nolint:errcheck // the client says
			c.Close()
		}
	}()
	_, _, _, err = Certificate(bounded(t, 10*time.Second), l.Addr().String(), "x.example", nil)
	require.Error(t, err)
	<-done
	l.Close()
	_, _, _, err = Certificate(bounded(t, 10*time.Second), l.Addr().String(), "x.example", nil)
	require.ErrorContains(t, err, "refused")
}
