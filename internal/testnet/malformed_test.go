package testnet

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/signal"
)

// corpus reads one file of the shared corpus, whose README says what each line is.
func corpus(t *testing.T, name string) []string {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "signal", "testdata", "malformed", name))
	require.NoError(t, err)
	defer f.Close()
	var lines []string
	in := bufio.NewScanner(f)
	in.Buffer(nil, 4<<20)
	for in.Scan() {
		lines = append(lines, in.Text())
	}
	require.NoError(t, in.Err())
	require.NotEmpty(t, lines)
	return lines
}

// texts are lines that are JSON strings.
func texts(t *testing.T, name string) []string {
	var out []string
	for _, line := range corpus(t, name) {
		var s string
		require.NoError(t, json.Unmarshal([]byte(line), &s))
		out = append(out, s)
	}
	return out
}

// wire is a client that may say anything.
type wire struct {
	t    *testing.T
	n    *Net
	ws   *websocket.Conn
	said int
}

// say sends a frame on a joined socket and returns the code of the error that answers it, or
// "closed", or "" when the server took it without a word.
func (w *wire) say(frame string) string {
	w.t.Helper()
	const aSocketful = signal.FrameBurst/2 - 2 // each frame comes with a ping; more would be too fast
	if w.ws != nil && w.said >= aSocketful {
		w.hangUp()
	}
	if w.ws == nil {
		w.dial()
	}
	w.said++
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for _, f := range []string{frame, `{"type":"ping","t":7}`} {
		if w.ws.Write(ctx, websocket.MessageText, []byte(f)) != nil {
			break // the reading below says why
		}
	}
	verdict := ""
	for {
		_, raw, err := w.ws.Read(ctx)
		if err != nil {
			require.NoError(w.t, ctx.Err(), "no answer to %.80q", frame)
			require.NotEqual(w.t, websocket.StatusCode(signal.CloseInternal), websocket.CloseStatus(err), "%.80q", frame)
			w.hangUp()
			return "closed"
		}
		m, err := signal.Decode(raw)
		require.NoError(w.t, err)
		switch m := m.(type) {
		case *signal.Error:
			verdict = m.Code
			require.NotEqual(w.t, signal.CodeInternal, m.Code, "%.80q", frame)
		case *signal.Pong:
			return verdict
		}
	}
}

func (w *wire) dial() {
	w.t.Helper()
	ws, _, err := websocket.Dial(w.t.Context(), w.n.URL+"/v1/webrtc/signal?room=broken", &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer alpha/mallory"}},
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	})
	require.NoError(w.t, err)
	ws.SetReadLimit(1 << 20)
	require.NoError(w.t, ws.Write(w.t.Context(), websocket.MessageText, []byte(`{"type":"join","await_offer":true}`)))
	w.ws, w.said = ws, 0
}

func (w *wire) hangUp() {
	if w.ws != nil {
		w.ws.Write(w.t.Context(), websocket.MessageText, []byte(`{"type":"leave"}`)) //nolint:errcheck // it may be closed
		w.ws.Close(websocket.StatusNormalClosure, "")                                //nolint:errcheck // likewise
		w.ws = nil
	}
}

func encode(t *testing.T, m signal.Message) string {
	t.Helper()
	frame, err := signal.Encode(m)
	require.NoError(t, err)
	return string(frame)
}

// TestHundredsOfMalformedInputs gives real servers all of the corpus, and then a call.
func TestHundredsOfMalformedInputs(t *testing.T) {
	n := start(t, Options{})
	w := &wire{t: t, n: n}
	require.Empty(t, w.say(`{"type":"ping","t":1}`)) // warm up what is made once
	w.hangUp()
	before := settled(t, n, 1<<30)

	total := 0
	for _, frame := range corpus(t, "frames.txt") {
		require.NotEmpty(t, w.say(frame), "accepted: %.80q", frame)
		total++
	}
	for _, text := range texts(t, "sdps.txt") {
		w.say(encode(t, &signal.Offer{SDP: text}))
		w.say(encode(t, &signal.Answer{SDP: text}))
		total++
	}
	for _, text := range texts(t, "candidates.txt") {
		w.say(encode(t, &signal.ICECandidate{Candidate: &signal.CandidateInit{Candidate: text}}))
		total++
	}
	w.hangUp()
	total += n.flood(t, corpus(t, "stun.txt"))
	require.GreaterOrEqual(t, total, 500)

	after := settled(t, n, before+4)
	require.LessOrEqual(t, after, before+4, "goroutines are left over")
	pair(t, n)
}

// flood sends datagrams to the TURN server, over UDP and as the start of TCP connections, and to
// the SFU's media socket from an address that may send to it.
func (n *Net) flood(t *testing.T, lines []string) int {
	t.Helper()
	relay := netip.AddrPortFrom(n.RelayIP(0), relayFirst+3)
	toTURN, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(n.TURNAddr(0)))
	require.NoError(t, err)
	defer toTURN.Close()
	toSFU, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(relay), net.UDPAddrFromAddrPort(n.Media(Alpha, 0)))
	require.NoError(t, err)
	defer toSFU.Close()
	for _, line := range lines {
		raw, err := hex.DecodeString(line)
		require.NoError(t, err)
		toTURN.Write(raw) //nolint:errcheck // an answer of ICMP is no failure
		toSFU.Write(raw)  //nolint:errcheck // likewise
		tcp, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(n.TURNAddr(0)))
		require.NoError(t, err)
		tcp.Write(raw) //nolint:errcheck // likewise
		tcp.Close()
	}
	return len(lines)
}

// settled waits until nobody is left in any room and at most most goroutines run, or too long.
func settled(t *testing.T, n *Net, most int) int {
	t.Helper()
	peers := func() (sum int) {
		for _, r := range n.SFU(Alpha, 0).Status().Rooms {
			sum += r.Peers
		}
		return sum
	}
	look := time.NewTicker(20 * time.Millisecond) // the counts have no event
	defer look.Stop()
	for until := time.Now().Add(patience); peers() > 0 || runtime.NumGoroutine() > most; {
		if (<-look.C).After(until) {
			break
		}
	}
	require.Zero(t, peers())
	return runtime.NumGoroutine()
}
