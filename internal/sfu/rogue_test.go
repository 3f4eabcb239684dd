package sfu

import (
	"testing"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/signal"
)

// rogue is a track whose packets are written as they are given: no payload type and no length is set right.
type rogue struct {
	*webrtc.TrackLocalStaticRTP
	bound chan webrtc.TrackLocalContext
}

func (r *rogue) Bind(c webrtc.TrackLocalContext) (webrtc.RTPCodecParameters, error) {
	codec, err := r.TrackLocalStaticRTP.Bind(c)
	select {
	case r.bound <- c:
	default:
	}
	return codec, err
}

// A publisher that sends what nobody should, and a subscriber that floods its requests, cost the others nothing: they hear and are heard.
func TestARoguePublisherHarmsItselfAlone(t *testing.T) {
	w := newWorld(t)
	var camera *source
	w.joinClient(clientOptions{setUp: func(c *client) { camera = c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	inner, err := webrtc.NewTrackLocalStaticRTP(vp8, "rogue", "stream")
	require.NoError(t, err)
	bad := &rogue{inner, make(chan webrtc.TrackLocalContext, 1)}
	mallory := w.joinClient(clientOptions{setUp: func(c *client) {
		_, err := c.pc.AddTrack(bad)
		require.NoError(t, err)
	}})
	ctx := wait(t, bad.bound, "the rogue's section")
	write := func(seq uint16, edit func(*rtp.Header), payload []byte) {
		h := rtp.Header{Version: 2, PayloadType: uint8(ctx.CodecParameters()[0].PayloadType), SSRC: uint32(ctx.SSRC()), SequenceNumber: seq, Timestamp: uint32(seq)}
		edit(&h)
		ctx.WriteStream().WriteRTP(&h, payload) //nolint:errcheck // what pion itself refuses harms nobody
	}
	heard := x.packet(t).SequenceNumber
	for seq := range uint16(600) {
		switch seq % 6 {
		case 0: // as it should be, or it would be nobody's track
			write(seq, func(*rtp.Header) {}, []byte{0x10, 0, 0, 0x9d})
		case 1:
			write(seq, func(h *rtp.Header) { h.PayloadType = uint8(seq) & 0x7f }, []byte{0x10, 0})
		case 2:
			write(seq, func(h *rtp.Header) { h.Padding = true }, []byte{0x10, 0, 0, 255})
		case 3:
			write(seq, func(h *rtp.Header) {
				for id := uint8(1); id < 15; id++ {
					h.SetExtensionWithProfile(id, make([]byte, 90), rtp.ExtensionProfileTwoByte) //nolint:errcheck // it fits
				}
			}, nil)
		case 4:
			write(seq, func(h *rtp.Header) { h.SetExtension(3, []byte{0xff, 0xff, 0xff, 0xff, 0xff}) }, []byte{0x90}) //nolint:errcheck // it fits
		case 5:
			write(seq*977, func(h *rtp.Header) { h.Timestamp *= 0x01010101 }, []byte{0xff, 0xff, 0xff})
		}
	}
	for range 500 {
		require.NoError(t, bob.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(x.t.SSRC())}}))
	}
	for range 50 { // half a second
		x.packet(t)
	}
	require.Less(t, x.packet(t).SequenceNumber-heard, uint16(2000), "the stream went on")
	require.Less(t, len(camera.pli), 10, "a few requests, whoever wants however many")
	y := w.joinClient(clientOptions{}).hear()
	y.packet(t)
	mallory.send(&signal.Ping{T: 9})
	await(mallory.wire, func(m *signal.Pong) bool { return m.T == 9 })
}
