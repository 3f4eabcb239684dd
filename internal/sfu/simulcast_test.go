package sfu

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

// simulcaster sends three encodings of VP8, each payload with its encoding's number at the end; keyframes come when they are asked for.
type simulcaster struct {
	wide [3]*atomic.Bool // the encoding sends
	stop chan struct{}
}

func (c *client) addSimulcast(t *testing.T) *simulcaster {
	t.Helper()
	s := &simulcaster{stop: make(chan struct{})}
	var sender *webrtc.RTPSender
	for n, rid := range []string{"q", "h", "f"} {
		track, err := webrtc.NewTrackLocalStaticRTP(vp8, "camera", "stream", webrtc.WithRTPStreamID(rid))
		require.NoError(t, err)
		if n == 0 {
			tr, err := c.pc.AddTransceiverFromTrack(track, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
			require.NoError(t, err)
			sender = tr.Sender()
			t.Cleanup(func() { close(s.stop) })
		} else {
			require.NoError(t, sender.AddEncoding(track))
		}
		s.wide[n] = &atomic.Bool{}
		s.wide[n].Store(true)
		keys := make(chan struct{}, 1)
		c.wg.Go(func() {
			for {
				if _, _, err := sender.ReadSimulcastRTCP(rid); err != nil {
					return
				}
				select {
				case keys <- struct{}{}:
				default:
				}
			}
		})
		on := s.wide[n]
		go func() { s.run(c, sender, track, n, on, keys) }()
	}
	return s
}

func (s *simulcaster) run(c *client, sender *webrtc.RTPSender, track *webrtc.TrackLocalStaticRTP, n int, on *atomic.Bool, keys chan struct{}) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for seq := uint16(n * 1000); ; seq++ {
		key := byte(1)
		select {
		case <-tick.C:
		case <-s.stop:
			return
		}
		if !on.Load() {
			continue
		}
		select {
		case <-keys:
			key = 0
		default:
		}
		p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, Timestamp: uint32(seq) * 900, Marker: true}}
		width := 320 << n
		p.Payload = []byte{0x90, 0x80, 0x80 | byte(seq>>8)&0x7f, byte(seq), key, 0, 0, 0x9d, 0x01, 0x2a, byte(width), byte(width >> 8), 100, 0, byte(n)}
		for _, e := range sender.GetParameters().HeaderExtensions {
			switch e.URI {
			case sdp.SDESMidURI:
				for _, tr := range c.pc.GetTransceivers() {
					if tr.Sender() == sender && tr.Mid() != "" {
						p.SetExtension(uint8(e.ID), []byte(tr.Mid()))
					}
				}
			case sdp.SDESRTPStreamIDURI:
				p.SetExtension(uint8(e.ID), []byte(track.RID()))
			}
		}
		track.WriteRTP(p)
	}
}

// until reads packets until one comes from an encoding; they are one unbroken stream, and an encoding begins with a keyframe.
func (x *remote) untilLayer(t *testing.T, last **rtp.Packet, want byte) {
	t.Helper()
	for range 2000 {
		p := x.packet(t)
		b := p.Payload
		require.Len(t, b, 15)
		if prev := *last; prev != nil {
			require.Equal(t, prev.SequenceNumber+1, p.SequenceNumber)
			pid := func(b []byte) uint16 { return (uint16(b[2])<<8 | uint16(b[3])) & 0x7fff }
			require.Equal(t, (pid(prev.Payload)+1)&0x7fff, pid(b), "the picture ids go on")
			require.Positive(t, int32(p.Timestamp-prev.Timestamp), "the clock goes on")
			if prev.Payload[14] != b[14] {
				require.Zero(t, b[4]&1, "an encoding begins with a keyframe")
			}
		}
		*last = p
		if b[14] == want {
			return
		}
	}
	require.FailNow(t, "the encoding never came")
}

// simulcastAPI is of a client that names its encodings in packets.
func simulcastAPI(t *testing.T) *webrtc.API {
	t.Helper()
	return clientAPI(t, func(m *webrtc.MediaEngine) {
		require.NoError(t, m.RegisterDefaultCodecs())
		for _, uri := range []string{sdp.SDESMidURI, sdp.SDESRTPStreamIDURI, sdp.SDESRepairRTPStreamIDURI} {
			require.NoError(t, m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uri}, webrtc.RTPCodecTypeVideo))
		}
	})
}

// joinSimulcast is a client with a camera in three encodings, and its track.
func (w *world) joinSimulcast(t *testing.T) (*client, *simulcaster, signal.Track) {
	t.Helper()
	var camera *simulcaster
	c := w.joinClient(clientOptions{api: simulcastAPI(t), join: &signal.Join{}, setUp: func(c *client) { camera = c.addSimulcast(t) }})
	c.offer()
	return c, camera, await[*signal.TrackPublished](c.wire).Track
}

// Three encodings are one track. A subscriber gets the best it wants that is sent, and sees one stream.
func TestSimulcast(t *testing.T) {
	w := newWorld(t)
	_, camera, track := w.joinSimulcast(t)
	require.Equal(t, []signal.Layer{{RID: "q"}, {RID: "h"}, {RID: "f"}}, track.Layers)
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	var last *rtp.Packet
	x.untilLayer(t, &last, 2)
	bob.send(&signal.Prefer{TrackID: track.TrackID, MaxWidth: 400})
	x.untilLayer(t, &last, 0)
	bob.send(&signal.Prefer{TrackID: track.TrackID, MaxWidth: 640})
	x.untilLayer(t, &last, 1)
	camera.wide[1].Store(false) // the publisher has switched it off
	x.untilLayer(t, &last, 0)
	bob.send(&signal.Prefer{TrackID: track.TrackID})
	x.untilLayer(t, &last, 2)
	for range 20 {
		x.packet(t)
	}
	require.Len(t, w.srv.Status().Rooms, 1)
}

// What others publish has the publisher answer, again and again, with as many encodings as at first.
func TestSimulcastOutlivesNegotiations(t *testing.T) {
	w := newWorld(t)
	alice, _, track := w.joinSimulcast(t)
	var said []string
	alice.edit = func(text string) string {
		said = append(said, text)
		return text
	}
	for range 6 {
		w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
		alice.hear()
	}
	alice.lock.Lock()
	require.NotEmpty(t, said)
	for _, text := range said {
		d, err := filterSDP(text)
		require.NoError(t, err)
		require.Equal(t, 3, strings.Count(d.text, "a=rid:"), "%s", text)
	}
	alice.lock.Unlock()
	x := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){func(t *auth.Ticket) { t.Publish = false }}})
	for {
		r := x.hear()
		if _, id := r.stream(); id == track.TrackID {
			var last *rtp.Packet
			x.send(&signal.Prefer{TrackID: id, MaxWidth: 400})
			r.untilLayer(t, &last, 0)
			x.send(&signal.Prefer{TrackID: id})
			r.untilLayer(t, &last, 2)
			return
		}
	}
}
