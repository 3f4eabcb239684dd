package cert

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// pairIn writes a certificate for names into dir, one file after the other as tools do.
func pairIn(t *testing.T, a *Authority, dir string, names ...string) (certPEM []byte) {
	t.Helper()
	certPEM, keyPEM, err := a.Issue(names, nil)
	require.NoError(t, err)
	put(t, filepath.Join(dir, "c.pem"), certPEM)
	put(t, filepath.Join(dir, "k.pem"), keyPEM)
	return certPEM
}

// put replaces a file as certbot does, by another that is renamed.
func put(t *testing.T, path string, text []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", text, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

func TestFilesAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a, err := OpenAuthority(t.TempDir(), "test")
		require.NoError(t, err)
		var log bytes.Buffer
		f := NewFiles(filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem"), slog.New(slog.NewTextHandler(&log, nil)))
		_, _, err = f.For(nil, nil)
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
		_, err = f.GetCertificate(&tls.ClientHelloInfo{ServerName: "a.test"})
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
		require.Contains(t, f.Status()[0].Error, "no such file")

		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Run(ctx) }()
		defer func() { stop(); require.NoError(t, <-done) }()
		require.NoError(t, f.Manage(ctx, []string{"a.test", "*.a.test", "*.ns-x.a.test"}))
		serves := func(want []byte) {
			t.Helper()
			time.Sleep(lookEvery + time.Second)
			got, _, err := f.For([]string{"a.test"}, []netip.Addr{})
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		first := pairIn(t, a, dir, "a.test", "turn.ns-x.a.test")
		serves(first)
		<-f.Changed()
		require.Equal(t, []string{"*.a.test"}, f.Status()[0].Missing, "turn.ns-x stands for *.ns-x")
		require.Empty(t, f.Status()[0].Error)
		require.Equal(t, []string{"a.test", "turn.ns-x.a.test"}, f.Status()[0].Names)

		second, keyPEM, err := a.Issue([]string{"a.test", "*.a.test", "*.ns-x.a.test"}, nil)
		require.NoError(t, err)
		put(t, filepath.Join(dir, "c.pem"), second) // half of a renewal
		serves(first)
		require.NotEmpty(t, f.Status()[0].Error)
		lines := strings.Count(log.String(), "level=ERROR")
		serves(first)
		require.Equal(t, lines, strings.Count(log.String(), "level=ERROR"), "a lasting fault is one line")
		require.Empty(t, f.Changed())
		put(t, filepath.Join(dir, "k.pem"), keyPEM)
		serves(second)
		<-f.Changed()
		require.Empty(t, f.Status()[0].Missing)
		c, err := f.GetCertificate(&tls.ClientHelloInfo{})
		require.NoError(t, err)
		require.Contains(t, c.Leaf.DNSNames, "*.a.test")

		put(t, filepath.Join(dir, "k.pem"), []byte("damage"))
		serves(second)
		put(t, filepath.Join(dir, "k.pem"), bytes.Repeat([]byte("x"), maxPEM+1))
		serves(second)
		require.Contains(t, f.Status()[0].Error, "larger")
		require.NoError(t, os.Remove(filepath.Join(dir, "c.pem")))
		serves(second)
		require.NotContains(t, log.String(), "PRIVATE KEY")
	})
}

func TestDevelopmentIsASource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := OpenAuthority(t.TempDir(), "test")
		require.NoError(t, err)
		d := NewDevelopment(a, "a.test", nil)
		require.Empty(t, d.Status())
		require.NoError(t, d.Manage(t.Context(), nil))
		certPEM, _, err := d.For([]string{"*.ns-x.a.test"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
		require.NoError(t, err)
		require.Equal(t, []string{"*.ns-x.a.test", "127.0.0.1"}, d.Status()[0].Names)
		require.Equal(t, "test", d.Status()[0].Issuer)
		_, err = d.GetCertificate(&tls.ClientHelloInfo{ServerName: "ns-x.a.test"})
		require.NoError(t, err)

		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		time.Sleep(leafLife * 2 / 3)
		<-d.Changed()
		again, _, err := d.For([]string{"*.ns-x.a.test"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
		require.NoError(t, err)
		require.NotEqual(t, certPEM, again, "renewed in time")
		stop()
		require.NoError(t, <-done)
	})
}
