//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/stun/v4"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// visitor is a client that has answered the SFU's offer but never sent a packet: it knows what an ICE
// check must hold to be answered.
type visitor struct {
	sfu           *net.UDPAddr // the one candidate of the SFU
	username, key string       // of a check
}

// admitted joins a room over a plain WebSocket and answers the first offer with a description that
// nothing stands behind.
func (c *cluster) admitted(t testing.TB, namespace, room string) *visitor {
	t.Helper()
	token := c.token(t, namespace, "visitor")
	url := "ws" + strings.TrimPrefix(c.Gateways[0], "http") + "/v1/webrtc/signal?room=" + room
	ws, res, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{Subprotocols: []string{"Bearer", token}})
	require.NoError(t, err)
	require.Equal(t, "Bearer", res.Header.Get("Sec-WebSocket-Protocol"), "the scheme, never the secret")
	ws.SetReadLimit(1 << 20)
	t.Cleanup(func() { ws.CloseNow() })
	require.NoError(t, ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"join","await_offer":true}`)))
	offer := awaitOffer(t, ws)

	pc, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	defer pc.Close()
	require.NoError(t, pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer}))
	answer, err := pc.CreateAnswer(nil)
	require.NoError(t, err)
	frame, err := json.Marshal(map[string]string{"type": "answer", "sdp": answer.SDP})
	require.NoError(t, err)
	require.NoError(t, ws.Write(t.Context(), websocket.MessageText, frame))
	candidate := line(t, offer, `a=candidate:\S+ 1 udp \d+ (\S+ \d+) typ host`)
	sfu, err := net.ResolveUDPAddr("udp4", strings.Replace(candidate, " ", ":", 1))
	require.NoError(t, err)
	return &visitor{sfu: sfu, key: line(t, offer, `a=ice-pwd:(\S+)`),
		username: line(t, offer, `a=ice-ufrag:(\S+)`) + ":" + line(t, answer.SDP, `a=ice-ufrag:(\S+)`)}
}

func awaitOffer(t testing.TB, ws *websocket.Conn) string {
	t.Helper()
	for {
		_, frame, err := ws.Read(t.Context())
		require.NoError(t, err)
		var m struct{ Type, SDP string }
		require.NoError(t, json.Unmarshal(frame, &m))
		if m.Type == "offer" {
			return m.SDP
		}
	}
}

func line(t testing.TB, sdp, pattern string) string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(sdp)
	require.NotNil(t, m, "no %s in\n%s", pattern, sdp)
	return m[1]
}

// check is a connectivity check (RFC 8445 section 7.2.4) that the SFU must answer if it hears it.
func (v *visitor) check(t testing.TB) *stun.Message {
	t.Helper()
	m, err := stun.Build(stun.TransactionID, stun.BindingRequest, stun.NewUsername(v.username),
		stun.RawAttribute{Type: stun.AttrPriority, Value: []byte{0x6e, 0, 0, 0xff}},
		stun.RawAttribute{Type: stun.AttrICEControlling, Value: make([]byte, 8)},
		stun.NewShortTermIntegrity(v.key), stun.Fingerprint)
	require.NoError(t, err)
	return m
}

// answers sends checks to the SFU until one is answered or the time is over.
func (v *visitor) answers(t testing.TB, conn net.PacketConn, within time.Duration) bool {
	t.Helper()
	end := time.Now().Add(within)
	buf := make([]byte, 1500)
	for time.Now().Before(end) {
		if _, err := conn.WriteTo(v.check(t).Raw, v.sfu); err != nil {
			t.Logf("send from %v: %v", conn.LocalAddr(), err)
			return false
		}
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		if n, _, err := conn.ReadFrom(buf); err == nil && stun.IsMessage(buf[:n]) {
			return true
		}
	}
	return false
}

// With a credential of one namespace a relay reaches that namespace's SFUs on their media ports, and nothing else.
func TestIsolation(t *testing.T) {
	c := up(t)
	c.do(t, nil, "namespace", "create", "other")
	c.do(t, nil, "namespace", "enable", "webrtc", "--namespace", "other")
	t.Cleanup(func() { c.do(t, nil, "namespace", "delete", "other", "--force") })
	own, other := c.admitted(t, c.Namespace, "isolation"), c.admitted(t, "other", "isolation")
	_, username, credential := c.credentials(t, c.token(t, c.Namespace, "visitor"), "")
	client, relay, err := allocate(t, "127.0.0.11:3478", username, credential)
	require.NoError(t, err)

	require.True(t, own.answers(t, relay, 3*time.Second), "its own SFU at %v does not answer through the relay", own.sfu)
	t.Logf("through a relay of %s at %v: %v answers", c.Namespace, relay.LocalAddr(), own.sfu)
	require.False(t, other.answers(t, relay, time.Second), "the SFU of another namespace answers at %v", other.sfu)
	refusesOthers(t, c, own.sfu, relay)
	_, err = client.AllocateTCP()
	require.Error(t, err, "TCP allocations (RFC 6062) are refused")
	require.True(t, own.answers(t, relay, 3*time.Second), "after all that its own SFU answers no more")

	// The other namespace's SFU did not keep silent for another reason.
	_, username, credential = c.credentials(t, c.token(t, "other", "visitor"), "")
	_, relay, err = allocate(t, "127.0.0.11:3478", username, credential)
	require.NoError(t, err)
	require.True(t, other.answers(t, relay, 3*time.Second), "the other namespace's SFU at %v does not answer its own relay", other.sfu)
	require.False(t, own.answers(t, relay, time.Second), "and the first one's answers it")

	outsideMesh(t, c, own)
}

// refusesOthers sends through the relay to sockets of this test that stand where nothing may be reached.
func refusesOthers(t testing.TB, c *cluster, sfu *net.UDPAddr, relay net.PacketConn) {
	t.Helper()
	places := []string{
		fmt.Sprintf("%s:%d", sfu.IP, sfu.Port+1), // the same address, another port of the same block
		fmt.Sprintf("%s:0", sfu.IP),
		"127.0.0.1:0", "127.0.0.1:8080", "127.0.0.11:8080", "127.0.0.12:0", "127.10.0.9:0",
	}
	if os.Getenv(insideEnv) == "namespace" {
		places = append(places, "203.0.113.1:0")
	}
	for _, place := range places {
		target, err := net.ListenPacket("udp4", place)
		require.NoError(t, err)
		for range 5 {
			if _, err = relay.WriteTo([]byte("let me in"), target.LocalAddr()); err != nil {
				break
			}
		}
		require.NoError(t, target.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		n, _, got := target.ReadFrom(make([]byte, 100))
		require.Error(t, got, "%d bytes reached %v", n, target.LocalAddr())
		t.Logf("%v is not reached (%v)", target.LocalAddr(), err)
		target.Close()
	}
}

// outsideMesh shows that an SFU's sockets are on mesh addresses only and answer nobody else.
func outsideMesh(t testing.TB, c *cluster, v *visitor) {
	t.Helper()
	for _, from := range []string{"127.0.0.1:0", "127.10.0.77:0"} {
		conn, err := net.ListenPacket("udp4", from)
		require.NoError(t, err)
		defer conn.Close()
		require.False(t, v.answers(t, conn, 500*time.Millisecond), "the SFU answers a check from %v, which is no relay", conn.LocalAddr())
	}
	listening := sockets(t)
	for _, in := range c.instances(t, c.Namespace) {
		if in.Role != "sfu" {
			continue
		}
		for _, port := range []string{fmt.Sprintf(":%d/tcp", in.Ports.Signal.First), fmt.Sprintf(":%d/udp", in.Ports.Media.First)} {
			n := 0
			for _, s := range listening {
				if strings.HasSuffix(s, port) {
					n++
					require.Regexp(t, `^127\.10\.0\.`, s, "an SFU's socket outside the mesh")
				}
			}
			require.Positive(t, n, "nobody listens on %s", port)
		}
		for _, n := range c.Nodes {
			if n.ID == in.Node {
				silent(t, fmt.Sprintf("%s:%d", n.MeshIP, in.Ports.Signal.First))
			}
		}
	}
}

// silent speaks HTTP to an SFU's signalling port from an address outside the mesh.
func silent(t testing.TB, addr string) {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, Timeout: time.Second}
	conn, err := dialer.DialContext(t.Context(), "tcp4", addr)
	if err != nil {
		return
	}
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Second)))
	fmt.Fprintf(conn, "GET /v1/rooms HTTP/1.1\r\nHost: sfu\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		res.Body.Close()
		t.Errorf("%s answers 127.0.0.1, which is outside the mesh, with %s", addr, res.Status)
	}
}
