package sfu

import (
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/sfu/srtp"
	"orama.network/orama/internal/signal"
)

// mutate changes a description as a broken or hostile client might.
func mutate(r *rand.Rand, text string) string {
	lines := strings.SplitAfter(text, "\r\n")
	for range 1 + r.IntN(4) {
		i, j := r.IntN(len(lines)), r.IntN(len(lines))
		switch r.IntN(8) {
		case 0:
			lines = append(lines[:i:i], lines[i+1:]...)
		case 1:
			lines = append(lines[:i:i], append([]string{lines[j]}, lines[i:]...)...)
		case 2:
			lines[i], lines[j] = lines[j], lines[i]
		case 3:
			b := []byte(lines[i])
			if len(b) > 2 {
				b[r.IntN(len(b)-2)] = byte(r.IntN(256))
			}
			lines[i] = string(b)
		case 4:
			lines[i] = strings.NewReplacer("0", "4294967296", "1", "-1").Replace(lines[i])
		case 5:
			for k, l := range lines {
				if strings.HasPrefix(l, "a=sendrecv") || strings.HasPrefix(l, "a=recvonly") {
					lines[k] = []string{"a=inactive\r\n", "a=sendonly\r\n", "a=recvonly\r\n", ""}[r.IntN(4)]
				}
			}
		case 6:
			if k := strings.IndexByte(lines[i], ' '); k > 0 {
				lines[i] = lines[i][:k] + "\r\n"
			}
		case 7:
			lines = lines[:max(1, i)]
		}
		if len(lines) == 0 {
			return ""
		}
	}
	return strings.Join(lines, "")
}

// Hundreds of broken offers and answers: each is answered with an error or taken, a connection
// that was left half way ends, and nothing else is disturbed.
func TestMalformedDescriptions(t *testing.T) {
	w := newWorld(t)
	w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	r := rand.New(rand.NewPCG(1, 2))
	seeds := append(corpus(t), goodOffer(t))
	answer := strings.ReplaceAll(goodOffer(t), "actpass", "active")
	sent, ended := 0, 0
	for sent < 500 {
		c := w.dial()
		c.send(&signal.Join{AwaitOffer: sent%2 == 0})
		await[*signal.Joined](c)
		for range signal.FrameBurst - 5 {
			if sent%2 == 0 {
				c.send(&signal.Answer{SDP: mutate(r, answer)})
			} else {
				c.send(&signal.Offer{SDP: mutate(r, seeds[r.IntN(len(seeds))])})
			}
			sent++
		}
		c.send(&signal.Ping{T: 1})
		select {
		case <-c.done: // half way, and said so
			ended++
			require.Contains(t, c.types(), signal.TypeError)
			require.Equal(t, signal.CloseMalformed, c.closeCode())
		case <-c.heard(func(m signal.Message) bool { return m.Type() == signal.TypePong }):
		}
		c.ws.CloseNow()
	}
	t.Logf("%d descriptions, %d connections could not go on", sent, ended)
	drainChan(x.packets)
	x.packet(t)
	w.joinClient(clientOptions{}).hear().packet(t)
}

// heard gives a channel that is closed when a message arrives.
func (c *wire) heard(ok func(signal.Message) bool) <-chan struct{} {
	found := make(chan struct{})
	go func() {
		defer close(found)
		for {
			c.mu.Lock()
			for _, m := range c.got {
				if ok(m) {
					c.mu.Unlock()
					return
				}
			}
			over := c.closed != nil
			c.mu.Unlock()
			if over {
				return
			}
			select {
			case <-c.news:
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return found
}

func TestMalformedFrames(t *testing.T) {
	w := newWorld(t)
	r := rand.New(rand.NewPCG(3, 4))
	seeds := []string{
		`{"type":"join","room":"daily","name":"x","metadata":{"a":[1,2,3]},"await_offer":true}`,
		`{"type":"ice-candidate","candidate":{"candidate":"candidate:1 1 udp 1 10.0.0.1 5 typ relay","sdpMid":"0","sdpMLineIndex":0}}`,
		`{"type":"prefer","track_id":"t","max_width":1,"paused":true}`, `{"type":"negotiate","audio":1,"video":1}`,
	}
	for range 500 {
		c := w.dial()
		b := []byte(seeds[r.IntN(len(seeds))])
		for range 1 + r.IntN(5) {
			b[r.IntN(len(b))] = byte(r.IntN(256))
		}
		kind := websocket.MessageText
		if r.IntN(10) == 0 {
			kind = websocket.MessageBinary
		}
		require.NoError(t, c.sendRaw(kind, b))
		c.ws.CloseNow()
	}
	c := w.dial()
	c.send(&signal.Join{})
	await[*signal.Joined](c)
}

// Garbage on the media socket from where a relay might be, while a call runs.
func TestMalformedPackets(t *testing.T) {
	w := newWorld(t)
	w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	_, mediaAt := w.srv.Addrs()
	conn, err := net.Dial("udp", mediaAt.String())
	require.NoError(t, err)
	defer conn.Close()
	r := rand.New(rand.NewPCG(5, 6))
	user := ufrag(t, bob.pc.RemoteDescription().SDP) + ":x"
	stun := append([]byte{0, 1, 0, byte(4 + len(user)), 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0, 6, 0, byte(len(user))}, user...)
	for i := range 1000 {
		b := append([]byte(nil), stun...)
		if i%2 == 0 {
			b = make([]byte, r.IntN(1400))
			for k := range b {
				b[k] = byte(r.IntN(256))
			}
		} else {
			b[r.IntN(len(b))] ^= byte(1 << r.IntN(8))
		}
		_, err := conn.Write(b)
		require.NoError(t, err)
	}
	drainChan(x.packets)
	x.packet(t)
	require.Equal(t, webrtc.PeerConnectionStateConnected, bob.pc.ConnectionState())
}

// Descriptions that pass the filter are taken by pion, or refused before it has changed anything:
// a connection that is left half way costs its peer the call.
func TestTheFilterLeavesLittleToStumbleOver(t *testing.T) {
	w := newWorld(t)
	r := rand.New(rand.NewPCG(7, 8))
	seeds := append(corpus(t), goodOffer(t))
	passed, stuck, engine := 0, 0, w.srv.engine.Load()
	for range 500 {
		d, err := filterSDP(mutate(r, seeds[r.IntN(len(seeds))]))
		if err != nil {
			continue
		}
		passed++
		none := &taps{}
		api, err := engine.api(none, engine.mux.route(none), &srtp.Handshake{})
		require.NoError(t, err)
		pc, err := api.NewPeerConnection(webrtc.Configuration{Certificates: w.srv.certificates})
		require.NoError(t, err)
		err = pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: keepInactive(d.text)})
		if err == nil {
			_, err = pc.CreateAnswer(nil)
		}
		if err != nil && pc.SignalingState() != webrtc.SignalingStateStable {
			stuck++
			t.Logf("half way: %v", err)
		}
		require.NoError(t, pc.GracefulClose())
	}
	t.Logf("%d passed the filter, %d got stuck", passed, stuck)
	require.Greater(t, passed, 100)
	require.Zero(t, stuck)
}
