package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Gateway asks the gateway at base, such as "https://gw1.example.org", whether it can serve, and tells how far its
// clock is ahead of ours: a Date header has whole seconds, so half a second of it is unknown. Roots are those that its
// certificate is believed by; nil is the system's.
func Gateway(ctx context.Context, base string, roots *x509.CertPool) (ahead time.Duration, err error) {
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("it redirects elsewhere")
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", http.NoBody)
	if err != nil {
		return 0, err
	}
	sent := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("no answer: %w", errors.Unwrap(err)) // *url.Error, which says the URL again
	}
	defer resp.Body.Close()
	took := time.Since(sent)
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return 0, fmt.Errorf("it broke off: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("it answers with status %d", resp.StatusCode)
	}
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return 0, errors.New("it answers without a Date")
	}
	return lead(date, sent, took), nil
}

// lead is how far a clock is ahead that said date, a time cut to its second, at some moment between sent and sent+took.
// A difference that this can explain is none.
func lead(date, sent time.Time, took time.Duration) time.Duration {
	earliest, latest := date.Sub(sent.Add(took)), date.Add(time.Second).Sub(sent)
	switch {
	case earliest > 0:
		return earliest
	case latest < 0:
		return latest
	default:
		return 0
	}
}

// Certificate shakes hands over TLS with address, host:port, as a client that asks for name, and gives the
// life of what it is shown. untrusted is why that client would end the connection; roots nil are the system's.
func Certificate(ctx context.Context, address, name string, roots *x509.CertPool) (notBefore, notAfter time.Time, untrusted string, err error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return time.Time{}, time.Time{}, "", cause(err)
	}
	defer raw.Close()
	// What does not verify is looked at all the same: that it is wrong is what is asked.
	conn := tls.Client(raw, &tls.Config{ServerName: name, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // verified below
	if err := conn.HandshakeContext(ctx); err != nil {
		return time.Time{}, time.Time{}, "", err
	}
	chain := conn.ConnectionState().PeerCertificates
	leaf := chain[0]
	return leaf.NotBefore, leaf.NotAfter, distrust(chain, name, roots), nil
}

// distrust verifies a chain as a client does, its life aside: that is judged by whoever asked.
func distrust(chain []*x509.Certificate, name string, roots *x509.CertPool) string {
	leaf, between := chain[0], x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if err := leaf.VerifyHostname(name); err != nil {
		return err.Error()
	}
	middle := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	if now := time.Now(); now.After(leaf.NotBefore) && now.Before(leaf.NotAfter) {
		middle = now
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: middle}); err != nil {
		return err.Error()
	}
	return ""
}
