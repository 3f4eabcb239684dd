package sfu

import (
	"bytes"
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/signal"
)

// A message over the limit is dropped and its sender told, whether the sender's stack refuses it or not. The channel goes on.
func TestAMessageOverTheLimitIsRefused(t *testing.T) {
	w := newWorld(t)
	honest := w.joinClient(clientOptions{})
	careless := w.joinClient(clientOptions{setUp: func(c *client) {
		c.read = func(sdp string) string {
			require.Contains(c.t, sdp, "a=max-message-size:65536\r\n")
			return strings.ReplaceAll(sdp, "a=max-message-size:65536", "a=max-message-size:1000000")
		}
	}})
	bob := w.joinClient(clientOptions{})
	large := bytes.Repeat([]byte{1}, signal.MaxDataMessage+1)

	dc := honest.open(t, "honest", nil)
	require.ErrorContains(t, dc.Send(large), "larger than", "its stack has read the description")
	require.NoError(t, dc.SendText("goes on"))
	require.Equal(t, "goes on", string(wait(t, wait(t, bob.chans, "the copy").got, "the message").Data))

	dc = careless.open(t, "careless", nil)
	copied := wait(t, bob.chans, "the copy")
	for _, size := range []int{signal.MaxDataMessage + 1, 900_000} {
		require.NoError(t, dc.Send(bytes.Repeat([]byte{1}, size)))
	}
	require.NoError(t, dc.SendText("goes on"))
	require.Equal(t, "goes on", string(wait(t, copied.got, "the message").Data), "and nothing of what was too large came before")
	refused := await[*signal.Error](careless.wire)
	require.Equal(t, signal.CodeLimited, refused.Code)
	require.Contains(t, refused.Message, "64 KiB")
	require.Equal(t, webrtc.DataChannelStateOpen, copied.ReadyState())
	require.Equal(t, webrtc.DataChannelStateOpen, dc.ReadyState())
}

// A receiver that takes less than others misses what is too large for it, and keeps the channel.
func TestAReceiverOfSmallMessages(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.joinClient(clientOptions{}), w.joinClient(clientOptions{setUp: func(c *client) {
		c.edit = func(sdp string) string {
			lines := strings.Split(sdp, "\r\n")
			for i, l := range lines {
				if strings.HasPrefix(l, "a=max-message-size:") {
					lines[i] = "a=max-message-size:1000"
				}
			}
			return strings.Join(lines, "\r\n")
		}
	}})
	dc := alice.open(t, "chat", nil)
	copied := wait(t, bob.chans, "the copy")
	require.NoError(t, dc.Send(make([]byte, 1001)))
	require.NoError(t, dc.Send(make([]byte, 1000)))
	require.Len(t, wait(t, copied.got, "the message").Data, 1000)
	require.EqualValues(t, 1, w.srv.metrics.dataDropped.Load())
}

// Who sends too fast hears of it over its own socket, and its channel goes on.
func TestWhoSendsTooFastIsTold(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.joinClient(clientOptions{}), w.joinClient(clientOptions{})
	dc := alice.open(t, "chat", nil)
	copied := wait(t, bob.chans, "the copy")
	told := make(chan *signal.Error, 1)
	go func() { told <- await[*signal.Error](alice.wire) }()
	for sent := 0; ; sent++ {
		require.NoError(t, dc.SendText("x"))
		select {
		case e := <-told:
			require.Equal(t, signal.CodeLimited, e.Code)
			require.True(t, e.Retryable)
			require.GreaterOrEqual(t, sent, 2*dataMessages)
			require.Equal(t, webrtc.DataChannelStateOpen, copied.ReadyState())
			return
		default:
		}
	}
}

// stuck is a client whose application stops reading until it is let go on.
type stuck struct {
	*client
	copies chan *webrtc.DataChannel
	goOn   func()
	closed chan struct{} // when its copy was

	mu  sync.Mutex
	got []uint32 // guarded by mu: the numbers of what it has read
}

func (w *world) joinStuck(t *testing.T) *stuck {
	gate := make(chan struct{})
	s := &stuck{copies: make(chan *webrtc.DataChannel, 8), closed: make(chan struct{}), goOn: sync.OnceFunc(func() { close(gate) })}
	s.client = w.joinClient(clientOptions{setUp: func(c *client) {
		c.pc.OnDataChannel(func(dc *webrtc.DataChannel) {
			dc.OnMessage(func(m webrtc.DataChannelMessage) {
				<-gate
				s.mu.Lock()
				defer s.mu.Unlock()
				s.got = append(s.got, binary.BigEndian.Uint32(m.Data))
			})
			dc.OnClose(func() { close(s.closed) })
			s.copies <- dc
		})
	}})
	t.Cleanup(s.goOn)
	return s
}

// seen is a peer as the SFU has it.
func (w *world) seen(s *stuck) *peer {
	w.srv.mu.Lock()
	defer w.srv.mu.Unlock()
	for _, r := range w.srv.rooms {
		found := make(chan *peer, 1)
		r.inbox.post(func() { found <- r.peers[s.id] })
		if p := wait(w.t, found, "the room"); p != nil {
			return p
		}
	}
	return nil
}

func (s *stuck) read() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]uint32{}, s.got...)
}

// A receiver that stops reading loses what is lossy, gets what is reliable late, or is cut off at a bound; and whatever becomes of it,
// each message is with the other receiver before the sender sends the next.
func TestAReceiverThatStopsReading(t *testing.T) {
	const size = 32 << 10
	retransmits := uint16(10) // lossy, but the loopback's own losses are mended
	for _, x := range []struct {
		name     string
		init     *webrtc.DataChannelInit
		messages int
		check    func(t *testing.T, w *world, s *stuck, sent int)
	}{
		{"lossy", &webrtc.DataChannelInit{MaxRetransmits: &retransmits}, 80, func(t *testing.T, w *world, s *stuck, sent int) {
			dropped := int(w.srv.metrics.dataDropped.Load())
			require.Greater(t, dropped, sent/4, "beyond what its SCTP takes and 128 KiB nothing is kept for it")
			require.Less(t, dropped, sent)
			s.goOn()
			require.Eventually(t, func() bool { n := len(s.read()); return n > 0 && n >= sent-dropped-maxBufferedLossy/size }, patience, 5*time.Millisecond)
			got := s.read()
			require.LessOrEqual(t, len(got), sent-dropped)
			require.IsIncreasing(t, got)
		}},
		{"reliable and late", nil, 80, func(t *testing.T, w *world, s *stuck, sent int) {
			require.Zero(t, w.srv.metrics.dataDropped.Load())
			s.goOn()
			require.Eventually(t, func() bool { return len(s.read()) == sent }, patience, 5*time.Millisecond)
			for i, n := range s.read() {
				require.EqualValues(t, i, n, "in order")
			}
		}},
		{"reliable and too late", nil, 160, func(t *testing.T, w *world, s *stuck, sent int) {
			server := w.seen(s)
			require.Eventually(t, func() bool { return server.behind.Load() > maxBuffered/2 }, patience, 5*time.Millisecond, "what waits for it is looked at")
			s.goOn()
			wait(t, s.closed, "its copy to be closed")
			got := s.read()
			require.GreaterOrEqual(t, len(got), maxBuffered/size-2, "what was taken for it before comes")
			require.Less(t, len(got), sent)
			for i, n := range got {
				require.EqualValues(t, i, n, "in order, without a gap")
			}
			require.Eventually(t, func() bool { return server.behind.Load() == 0 }, patience, 5*time.Millisecond)
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			w := newWorld(t)
			alice, s, carol := w.joinClient(clientOptions{}), w.joinStuck(t), w.joinClient(clientOptions{})
			dc := alice.open(t, "stream", x.init)
			heard := wait(t, carol.chans, "the other's copy").got
			wait(t, s.copies, "its copy")
			message := make([]byte, size)
			for i := range x.messages {
				binary.BigEndian.PutUint32(message, uint32(i))
				require.NoError(t, dc.Send(message))
				m := wait(t, heard, "the message at the other receiver")
				require.EqualValues(t, i, binary.BigEndian.Uint32(m.Data), "in order")
			}
			require.Empty(t, s.read())
			require.Eventually(t, func() bool { return dc.BufferedAmount() == 0 }, patience, 5*time.Millisecond, "nothing stays at the sender; what is not acknowledged yet will be")
			x.check(t, w, s, x.messages)
		})
	}
}

// Copies that are closed one after another do not pile up behind a receiver that reads nothing.
func TestWhatWaitsForOneReceiverIsBounded(t *testing.T) {
	var behind atomic.Int64
	behind.Store(maxBufferedPeer)
	dropped := 0
	for _, lossy := range []bool{true, false} {
		c := &channel{lossy: lossy, dropped: func() { dropped++ }}
		copied := c.add()
		copied.behind = &behind
		c.start()
		c.forward(webrtc.DataChannelMessage{Data: []byte("x")})
		require.Equal(t, !lossy, copied.closed)
		require.Empty(t, copied.waiting)
	}
	require.Equal(t, 1, dropped)
}
