//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// single makes a lab's host a cluster of one, with its records in a file; edit changes the configuration before the
// start, as an operator would.
func (h *labHost) single(t testing.TB, edit func(string) string, args ...string) {
	t.Helper()
	h.must(t, append([]string{"node", "init", "--config", h.config(), "--node", h.name, "--public-ip", h.public, "--mesh-interface", "wg-" + h.name,
		"--supervisor", "child", "--mesh", "userspace", "--store", "sqlite", "--base-domain", labDomain, "--dns", "serve"}, args...)...)
	text, err := os.ReadFile(h.config())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(h.config(), []byte(edit(string(text))), 0o600))
	h.start(t)
	eventually(t, 20*time.Second, func() string {
		out, errs, code := h.orama(t, "namespace", "create", "myapp")
		if code != 0 {
			return errs + out + h.tail()
		}
		return ""
	})
	h.must(t, "namespace", "enable", "webrtc", "--namespace", "myapp")
}

func replace(t testing.TB, text, from, to string) string {
	t.Helper()
	require.Contains(t, text, from)
	return strings.Replace(text, from, to, 1)
}

// dialTLS connects from the client's namespace.
func dialTLS(l *lab, addr string, conf *tls.Config) (*tls.Conn, error) {
	return within(l.client, func() (*tls.Conn, error) {
		return tls.DialWithDialer(&net.Dialer{Timeout: 2 * time.Second}, "tcp", addr, conf)
	})
}

// Certificates by ACME, proven through the zone that the cluster itself serves: the gateway's and the relay's names on
// the one 443, and the relay's on 5349.
func TestACME(t *testing.T) {
	if _, err := exec.LookPath("pebble"); err != nil {
		t.Skip("pebble, an ACME authority for tests, is not on the PATH")
	}
	l := newLab(t)
	h := l.hosts[0]
	authority := pebble(t, l, h.public+":53")
	begun := time.Now()
	h.single(t, func(text string) string {
		return replace(t, text, "mode: acme", fmt.Sprintf("mode: acme\n  directory: https://%s:14000/dir\n  roots: %s\n  resolver: %s:53",
			fmt.Sprintf(labBridge, 9), authority.roots, h.public))
	}, "--certificates", "acme", "--firewall", "ufw")
	issued := func(name string, port int) {
		eventually(t, 60*time.Second, func() string {
			conn, err := dialTLS(l, fmt.Sprintf("%s:%d", h.public, port), &tls.Config{ServerName: name, RootCAs: authority.issued(t)})
			if err != nil {
				return fmt.Sprintf("%s on %d: %v\n%s", name, port, err, h.tail())
			}
			conn.Close()
			return ""
		})
	}
	issued("ns-myapp."+labDomain, 443)
	issued(h.name+"."+labDomain, 443)
	issued("turn.ns-myapp."+labDomain, 443)
	issued("turn-1.ns-myapp."+labDomain, 443)
	issued("turn.ns-myapp."+labDomain, 5349)
	t.Logf("every name has its certificate %s after init", ms(time.Since(begun)))
	out := h.must(t, "namespace", "webrtc-status", "--namespace", "myapp")
	require.Contains(t, out, "ready")
}

// acme is a running ACME authority.
type acme struct {
	roots string // file: what its own HTTPS is verified with
	l     *lab
}

// pebble runs one in the client's namespace, which asks a name server for the challenges.
func pebble(t testing.TB, l *lab, resolver string) acme {
	t.Helper()
	dir := filepath.Join(l.dir, "pebble")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	certPEM, keyPEM := selfSigned(t, net.ParseIP(fmt.Sprintf(labBridge, 9)))
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, text, 0o644))
		return path
	}
	roots := file("roots.pem", certPEM)
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{"listenAddress": "0.0.0.0:14000", "managementListenAddress": "0.0.0.0:15000",
		"certificate": roots, "privateKey": file("key.pem", keyPEM), "httpPort": 5002, "tlsPort": 5001}})
	require.NoError(t, err)
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.Command("ip", "netns", "exec", l.client, "pebble", "-strict", "-config", file("pebble.json", conf), "-dnsserver", resolver)
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return acme{roots: roots, l: l}
}

// issued are the roots of what the authority issues, which it makes anew at each start.
func (a acme) issued(t testing.TB) *x509.CertPool {
	t.Helper()
	text, err := within(a.l.client, func() ([]byte, error) {
		c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // it tells us whom to believe
			DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
				return within(a.l.client, func() (net.Conn, error) { return net.DialTimeout(network, addr, time.Second) })
			}}}
		res, err := c.Get("https://127.0.0.1:15000/roots/0")
		if err != nil {
			return nil, err
		}
		defer res.Body.Close()
		return io.ReadAll(res.Body)
	})
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(text))
	return pool
}

// selfSigned makes a server's certificate that is its own root.
func selfSigned(t testing.TB, ip net.IP, names ...string) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, DNSNames: names,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// Caddy has 443/tcp and the gateway is behind it; TURN keeps 443/udp beside it.
func TestCaddy(t *testing.T) {
	caddy, err := exec.LookPath("caddy")
	if err != nil {
		t.Skip("caddy is not on the PATH")
	}
	l := newLab(t)
	h := l.hosts[0]
	h.single(t, func(text string) string {
		text = replace(t, text, "urls: name", "urls: name\n  https: \"off\"")
		return replace(t, text, "local_origins: false", "local_origins: false\n  trusted_proxies: [127.0.0.0/8]")
	})
	name := "ns-myapp." + labDomain
	certPEM, keyPEM := selfSigned(t, nil, name)
	dir := filepath.Join(l.dir, "caddy")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for file, text := range map[string]string{"cert.pem": string(certPEM), "key.pem": string(keyPEM), "Caddyfile": fmt.Sprintf(`{
	admin off
	auto_https off
	storage file_system %[1]s
	servers {
		protocols h1 h2
	}
}
https://%[2]s {
	tls %[1]s/cert.pem %[1]s/key.pem
	reverse_proxy %[3]s:8080
}
`, dir, name, h.public)} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	}
	in(t, h.name, "ufw allow 443/tcp")
	in(t, h.name, "ufw allow 443/udp")
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.Command("ip", "netns", "exec", h.name, caddy, "run", "--config", filepath.Join(dir, "Caddyfile"), "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })

	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool},
		DialContext: func(_ context.Context, network, _ string) (net.Conn, error) {
			return within(l.client, func() (net.Conn, error) { return net.DialTimeout(network, h.public+":443", time.Second) })
		}}}
	var minted struct {
		Token string `json:"token"`
	}
	require.NoError(t, json.Unmarshal([]byte(h.must(t, "token", "--namespace", "myapp", "--user", "ada", "--json")), &minted))
	eventually(t, 10*time.Second, func() string {
		ws, res, err := websocket.Dial(t.Context(), "wss://"+name+"/v1/webrtc/signal?room=caddy", &websocket.DialOptions{
			HTTPClient: client, Subprotocols: []string{"Bearer", minted.Token}})
		if err != nil {
			raw, _ := os.ReadFile(log.Name())
			return fmt.Sprintf("%v\n%s", err, raw)
		}
		defer ws.CloseNow()
		require.Equal(t, "Bearer", res.Header.Get("Sec-WebSocket-Protocol"))
		_, frame, err := ws.Read(t.Context())
		require.NoError(t, err)
		require.Contains(t, string(frame), `"type":"joined"`)
		return ""
	})
	sockets := in(t, h.name, "ss -Hlnup sport = :443")
	require.Contains(t, sockets, h.public+":443")
	require.NotContains(t, sockets, "caddy", "443/udp is TURN's")
	require.Contains(t, in(t, h.name, "ss -Hlntp sport = :443"), "caddy")
}
