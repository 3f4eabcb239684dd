//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// corpus reads a file of malformed input, one item a line (see its README).
func corpus(t testing.TB, name string) []string {
	t.Helper()
	raw, err := os.ReadFile("../internal/signal/testdata/malformed/" + name)
	require.NoError(t, err)
	return strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
}

// Everything of the corpus is thrown at running processes while two people talk.
func TestMalformed(t *testing.T) {
	c := up(t)
	m := c.meeting(t, c.Namespace, "calm")
	m.enter(chromium, "ada")
	m.enter(chromium, "bob")
	m.allMeet(20 * time.Second)
	before := c.vitals(t)
	m.watch()

	thrower := &thrower{c: c, room: "noise"}
	var sent int
	for _, line := range corpus(t, "frames.txt") {
		thrower.frame(t, []byte(line))
		sent++
	}
	for i, line := range corpus(t, "sdps.txt") {
		thrower.frame(t, fmt.Appendf(nil, `{"type":%q,"sdp":%s}`, []string{"offer", "answer"}[i%2], line))
		sent++
	}
	for _, line := range corpus(t, "candidates.txt") {
		thrower.frame(t, fmt.Appendf(nil, `{"type":"ice-candidate","candidate":{"candidate":%s,"sdpMid":"0"}}`, line))
		sent++
	}
	for _, line := range corpus(t, "stun.txt") {
		datagram, err := hex.DecodeString(line)
		require.NoError(t, err)
		c.throw(t, datagram)
		sent++
	}
	thrower.drop()
	t.Logf("%d items sent: %d sockets were closed, %d errors were answered, %d items were borne", sent, thrower.closed, thrower.errors, thrower.borne)
	require.GreaterOrEqual(t, sent, 500)
	require.Positive(t, thrower.closed)
	require.Positive(t, thrower.errors)

	m.gaps(time.Second)
	m.allMeet(5 * time.Second)
	m.chat()
	took := eventually(t, 45*time.Second, func() string {
		var wrong []string
		for who, now := range c.vitals(t) {
			was := before[who]
			if now.files > was.files+10 || now.goroutines > was.goroutines+20 {
				wrong = append(wrong, fmt.Sprintf("%s: %d files and %d goroutines, before %d and %d", who, now.files, now.goroutines, was.files, was.goroutines))
			}
		}
		return strings.Join(wrong, "; ")
	})
	t.Logf("descriptors and goroutines are as before within %s: %v", ms(took), c.vitals(t))
	for who := range before {
		require.Contains(t, c.vitals(t), who, "the process is not the same")
	}
}

// vital is what a process holds.
// Heap is the goal of the Go runtime's next collection, which follows what the last one left alive, and stacks are those of goroutines; all memory is in bytes.
type vital struct{ files, goroutines, memory, heap, stacks int }

// vitals looks at every process of the cluster, by kind, node and pid.
func (c *cluster) vitals(t testing.TB) map[string]vital {
	t.Helper()
	out := map[string]vital{}
	for _, n := range c.Nodes {
		for kind, words := range map[string][]string{
			"node": {" node run ", "/" + n.ID + "/"}, "turn": {" turn run ", "/" + n.ID + "/"}, "sfu": {" sfu run ", "/" + n.ID + "/sfu-" + c.Namespace + ".sock"},
		} {
			for _, pid := range named(t, words...) {
				v := vital{files: openFiles(pid), memory: resident(pid)}
				if kind != "node" {
					socket := map[string]string{"turn": "turn.sock", "sfu": "sfu-" + c.Namespace + ".sock"}[kind]
					gauges := metrics(t, filepath.Join(c.dir, n.ID, socket))
					v.goroutines, v.heap, v.stacks = gauges["go_goroutines"], gauges["go_memstats_next_gc_bytes"], gauges["go_memstats_stack_inuse_bytes"]
				}
				out[fmt.Sprintf("%s on %s (%d)", kind, n.ID, pid)] = v
			}
		}
	}
	return out
}

// metrics reads a unit's own metrics that have no labels.
func metrics(t testing.TB, socket string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for line := range strings.Lines(string(ofUnit(t, socket, "/metrics"))) {
		if name, text, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			if value, err := strconv.ParseFloat(text, 64); err == nil {
				out[name] = int(value)
			}
		}
	}
	require.Positive(t, out["go_goroutines"], "no go_goroutines among the metrics")
	return out
}

// ofUnit asks a unit's control socket.
func ofUnit(t testing.TB, socket, path string) []byte {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	res, err := client.Get("http://unit" + path)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, string(b))
	return b
}

// thrower sends frames over sockets of its own, few enough on each not to be told off for haste.
type thrower struct {
	c     *cluster
	room  string
	ws    *websocket.Conn
	used  int // frames sent on ws
	users int

	closed, errors, borne int
}

// frame sends one frame, then a ping, and waits for what comes of it: the pong, or the socket's end.
func (x *thrower) frame(t testing.TB, frame []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if x.ws == nil || x.used > 30 {
		x.connect(ctx, t)
	}
	x.used += 2
	if err := x.ws.Write(ctx, websocket.MessageText, frame); err != nil {
		x.ended(t, frame, err)
		return
	}
	if err := x.ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"type":"ping","t":%d}`, x.used)); err != nil {
		x.ended(t, frame, err)
		return
	}
	wrong := false
	for {
		_, got, err := x.ws.Read(ctx)
		if err != nil {
			x.ended(t, frame, err)
			return
		}
		wrong = wrong || bytes.HasPrefix(got, []byte(`{"type":"error"`))
		if bytes.Equal(got, fmt.Appendf(nil, `{"type":"pong","t":%d}`, x.used)) {
			break
		}
	}
	if wrong {
		x.errors++
	} else {
		x.borne++
	}
}

// ended notes that the frame cost the socket, which only a code of the protocol may do.
func (x *thrower) ended(t testing.TB, frame []byte, err error) {
	t.Helper()
	switch websocket.CloseStatus(err) {
	case 4400, 1007, 1009, 1000: // malformed, not UTF-8, too large, `leave`
	case 4500: // a description that was found bad after half of it was applied: that peer starts anew
		if bytes.Contains(frame, []byte(`"sdp"`)) {
			break
		}
		fallthrough
	default:
		t.Errorf("%.200q ended the socket: %v", frame, err)
	}
	x.closed++
	x.drop()
}

func (x *thrower) drop() {
	if x.ws != nil {
		x.ws.CloseNow()
		x.ws = nil
	}
}

// connect joins as somebody new now and then: joins are limited by user.
func (x *thrower) connect(ctx context.Context, t testing.TB) {
	t.Helper()
	x.drop()
	x.users++
	gateway := x.c.Gateways[x.users%len(x.c.Gateways)]
	token := x.c.mint(t, fmt.Sprintf("noise-%d", x.users))
	ws, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(gateway, "http")+"/v1/webrtc/signal?room="+x.room,
		&websocket.DialOptions{Subprotocols: []string{"Bearer", token}})
	require.NoError(t, err)
	ws.SetReadLimit(1 << 20)
	x.ws, x.used = ws, 1
	require.NoError(t, ws.Write(ctx, websocket.MessageText, []byte(`{"type":"join"}`)))
}

// mint trades the owner's key for a token, as an application's server does.
func (c *cluster) mint(t testing.TB, user string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.Gateways[0]+"/v1/auth/token",
		strings.NewReader(fmt.Sprintf(`{"user":%q}`, user)))
	require.NoError(t, err)
	req.Header.Set("X-API-Key", c.OwnerKey)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	var body struct{ Token string }
	require.NoError(t, json.NewDecoder(res.Body).Decode(&body))
	require.NotEmpty(t, body.Token, res.Status)
	return body.Token
}

// throw sends a datagram to every socket that takes any, and as the beginning of a stream.
func (c *cluster) throw(t testing.TB, datagram []byte) {
	t.Helper()
	var targets []string
	for _, in := range c.placed(t) {
		for _, n := range c.Nodes {
			switch {
			case n.ID != in.Node:
			case in.Role == "sfu":
				targets = append(targets, fmt.Sprintf("%s:%d", n.MeshIP, in.Ports.Media.First))
			default:
				targets = append(targets, n.PublicIP+":3478")
				if os.Geteuid() == 0 {
					targets = append(targets, n.PublicIP+":443")
				}
				c.stream(t, n.PublicIP+":3478", datagram)
			}
		}
	}
	for _, target := range targets {
		conn, err := net.Dial("udp4", target)
		require.NoError(t, err)
		_, err = conn.Write(datagram)
		require.NoError(t, err, target)
		conn.Close()
	}
}

func (c *cluster) stream(t testing.TB, target string, bytes []byte) {
	t.Helper()
	conn, err := net.Dial("tcp4", target)
	require.NoError(t, err)
	defer conn.Close()
	_, _ = conn.Write(bytes) // it may have been closed for the bytes before
}

// placed is instances, asked once.
func (c *cluster) placed(t testing.TB) []instance {
	t.Helper()
	if c.where == nil {
		c.where = c.instances(t, c.Namespace)
	}
	return c.where
}
