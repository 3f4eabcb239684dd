package client

import (
	"testing"

	"github.com/pion/rtp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

func TestLayersAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		kind   string
		layers []string
		ok     bool
	}{
		"none":           {"video", nil, true},
		"three":          {"video", []string{"q", "h", "f"}, true},
		"four":           {"video", []string{"a", "b", "c", "d"}, false},
		"twice":          {"video", []string{"q", "q"}, false},
		"no name":        {"video", []string{"q", ""}, false},
		"no letters":     {"video", []string{"q", "a b"}, false},
		"long":           {"video", []string{"q", "abcdefghijklmnopq"}, false},
		"sound has none": {"audio", []string{"q", "h"}, false},
	} {
		o := TrackOptions{Kind: c.kind, Layers: c.layers}
		err := o.complete()
		require.Equal(t, c.ok, err == nil, name)
		if !c.ok {
			require.Equal(t, orama.KindInvalid, orama.KindOf(err), name)
		}
	}
	o := TrackOptions{Kind: "video", Layers: []string{"q", "h"}}
	require.NoError(t, o.complete())
	track := newLocalTrack(nil, o)
	require.Nil(t, track.Layer("f"))
	require.Equal(t, "h", track.Layer("h").uplink.rid)
	require.Empty(t, newLocalTrack(nil, TrackOptions{Kind: "video", Layers: []string{"q"}}).layers, "one needs no name")
}

// sink keeps what is written to a relay.
type sink struct {
	webrtc.TrackLocalWriter
	last rtp.Header
	sent int
}

func (s *sink) WriteRTP(h *rtp.Header, _ []byte) (int, error) {
	s.last = *h
	s.sent++
	return 0, nil
}

// A layer's packets say whose they are until the SFU has answered, and the caller's packet is left alone. Nothing is sent before the SFU knows the
// section, and each connection gets what is written.
func TestLayersNameTheirPackets(t *testing.T) {
	u := &uplink{kind: webrtc.RTPCodecTypeVideo, mime: webrtc.MimeTypeVP8, rid: "h"}
	extensions := []webrtc.RTPHeaderExtensionParameter{{URI: sdp.SDESMidURI, ID: 1}, {URI: sdp.SDESRTPStreamIDURI, ID: 4}}
	out, other := &sink{}, &sink{}
	l, second := u.newLane("3"), u.newLane("5")
	l.now = &binding{ssrc: 7, pt: 120, writer: out, names: namesOf(extensions)}
	second.now = &binding{ssrc: 8, pt: 121, writer: other, names: namesOf(extensions)}
	p := &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: 9}}
	require.NoError(t, u.writeRTP(p))
	require.Zero(t, out.sent, "the SFU has not taken the answer yet")
	l.open.Store(true)
	require.NoError(t, u.writeRTP(p))
	require.Equal(t, "3", string(out.last.GetExtension(1)))
	require.Equal(t, "h", string(out.last.GetExtension(4)))
	require.EqualValues(t, 7, out.last.SSRC)
	require.Empty(t, p.Extensions)
	require.Zero(t, other.sent)
	l.known.Store(true)
	second.open.Store(true)
	require.NoError(t, u.writeRTP(p))
	require.Empty(t, out.last.Extensions)
	require.EqualValues(t, 8, other.last.SSRC)
	require.Equal(t, "5", string(other.last.GetExtension(1)))
	u.drop(l)
	require.NoError(t, u.writeRTP(p))
	require.Equal(t, 2, out.sent)
	require.Equal(t, 2, other.sent)
}
