//go:build e2e

package e2e

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stretchr/testify/require"
)

// Where LiveKit is, for BenchmarkQuality: its server's binary and its JavaScript client. It is no part of this repository.
const (
	liveKitEnv       = "ORAMA_LIVEKIT"
	liveKitClientEnv = "ORAMA_LIVEKIT_CLIENT"
)

const (
	liveKitPort  = 7880 // signalling
	liveKitMedia = 7882
	liveKitSite  = "127.0.0.1:8001"
)

// liveKit is a running server of theirs on one of the lab's hosts, as its guide for a single machine has it.
type liveKit struct {
	host        *labHost
	key, secret string
	script      string // the client's
}

// startLiveKit runs one where clients reach it as they reach our relay there: by the host's public address. It gives nil
// where LiveKit is not at hand.
func (l *lab) startLiveKit(t testing.TB, h *labHost) *liveKit {
	t.Helper()
	binary, script := os.Getenv(liveKitEnv), os.Getenv(liveKitClientEnv)
	if binary == "" || script == "" {
		return nil
	}
	require.FileExists(t, script)
	k := &liveKit{host: h, key: rand.Text(), secret: rand.Text() + rand.Text(), script: script}
	config := filepath.Join(h.dir, "livekit.yaml")
	// The impairments are of UDP, so that is the only way: over TCP it would not be impaired.
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `port: %d
bind_addresses: [%s]
rtc: { node_ip: %s, udp_port: %d, tcp_port: 0, use_external_ip: false, interfaces: { includes: [eth0] } }
keys: { %s: %s }
logging: { level: warn }
`, liveKitPort, h.public, h.public, liveKitMedia, k.key, k.secret), 0o600))
	in(t, h.name, fmt.Sprintf("ufw allow %d/tcp", liveKitPort))
	in(t, h.name, fmt.Sprintf("ufw allow %d/udp", liveKitMedia))
	path := filepath.Join(h.dir, "livekit.log")
	log, err := os.Create(path)
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.Command("ip", "netns", "exec", h.name, binary, "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			raw, _ := os.ReadFile(path)
			t.Logf("LiveKit said:\n%s", raw[max(0, len(raw)-3000):])
		}
	})
	eventually(t, 20*time.Second, func() string {
		c, err := within(l.client, func() (net.Conn, error) {
			return net.DialTimeout("tcp", fmt.Sprintf("%s:%d", h.public, liveKitPort), time.Second)
		})
		if err != nil {
			return err.Error()
		}
		c.Close()
		return ""
	})
	return k
}

// token lets somebody into a room, with LiveKit's grants.
func (k *liveKit) token(t testing.TB, room, user string) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": k.key, "sub": user, "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"video": map[string]any{"room": room, "roomJoin": true, "canPublish": true, "canSubscribe": true},
	}).SignedString([]byte(k.secret))
	require.NoError(t, err)
	return text
}

// serve puts livekit.html and the client's script on an origin in a namespace.
func (k *liveKit) serve(t testing.TB, ns string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(".")))
	mux.HandleFunc("/livekit-client.umd.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, k.script) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go srv.Serve(listenIn(t, ns, liveKitSite)) //nolint:errcheck // ends with Close
	t.Cleanup(func() { srv.Close() })
}

// enter opens a tab of a browser, joins with camera and microphone, and waits until both are published.
func (k *liveKit) enter(t testing.TB, c *cluster, user string, camera any) *page {
	t.Helper()
	p := c.visit(t, chromium, user, "http://"+liveKitSite+"/livekit.html")
	p.until(10*time.Second, "LiveKit's client is loaded", "!!window.participant")
	p.eval(nil, "await participant.enter(args[0], args[1], args[2])",
		fmt.Sprintf("ws://%s:%d", k.host.public, liveKitPort), k.token(t, "quality", user), camera)
	return p
}

// contender is LiveKit with the same people in the same places.
func (k *liveKit) contender(t testing.TB, publisher, viewer *cluster) contender {
	t.Helper()
	k.serve(t, labClient)
	k.serve(t, viewerNS)
	return contender{name: "LiveKit", call: func() (eve *page, hangUp func()) {
		ada := k.enter(t, publisher, "ada", publisherCamera)
		eve = k.enter(t, viewer, "eve", viewerCamera)
		return eve, func() {
			for _, p := range []*page{eve, ada} {
				p.eval(nil, "await participant.room.disconnect()")
				p.close()
			}
		}
	}}
}
