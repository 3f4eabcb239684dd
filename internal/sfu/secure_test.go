package sfu

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Media arrives whoever protects it: we, where the client begins the handshake and takes AES-GCM; pion otherwise.
func TestWhoProtects(t *testing.T) {
	role := func(r webrtc.DTLSRole) func(*webrtc.SettingEngine) {
		return func(s *webrtc.SettingEngine) { require.NoError(t, s.SetAnsweringDTLSRole(r)) }
	}
	for name, c := range map[string]struct {
		set  func(*webrtc.SettingEngine)
		ours bool
	}{
		"as browsers do": {role(webrtc.DTLSRoleClient), true},
		"a key of 256 bits": {func(s *webrtc.SettingEngine) {
			role(webrtc.DTLSRoleClient)(s)
			s.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_256_GCM)
		}, true},
		"we begin the handshake": {role(webrtc.DTLSRoleServer), false},
		"no AES-GCM": {func(s *webrtc.SettingEngine) {
			role(webrtc.DTLSRoleClient)(s)
			s.SetSRTPProtectionProfiles(dtls.SRTP_AES128_CM_HMAC_SHA1_80)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var camera *source
			alice := w.joinClient(clientOptions{setUp: func(c *client) { camera = c.addTrack(t, vp8) }})
			bob := w.joinClient(clientOptions{api: clientAPIWith(t, c.set)})
			x := bob.hear()
			first := x.packet(t)
			require.Equal(t, first.SequenceNumber+1, x.packet(t).SequenceNumber)
			reported := false
			for range 50 { // until the SFU's next report after the publisher's
				require.NoError(t, alice.pc.WriteRTCP([]rtcp.Packet{&rtcp.SenderReport{
					SSRC: uint32(camera.sender.GetParameters().Encodings[0].SSRC), NTPTime: 7 << 32, RTPTime: 1,
				}}))
				require.NoError(t, x.r.SetReadDeadline(time.Now().Add(patience/50)))
				got, _, err := x.r.ReadRTCP()
				if err == nil && slices.ContainsFunc(got, func(p rtcp.Packet) bool {
					sr, ok := p.(*rtcp.SenderReport)
					return ok && sr.SSRC == uint32(x.t.SSRC()) && sr.NTPTime>>32 >= 7
				}) {
					reported = true
					break
				}
			}
			require.True(t, reported, "a sender report comes with the media")
			w.inside(t, func(p *peer) {
				p.out.mu.Lock()
				defer p.out.mu.Unlock()
				assert.True(t, p.out.secure.begun)
				assert.Equal(t, c.ours, p.out.secure.seal != nil)
			}, bob.id)
		})
	}
}

// Who only watches is not silent: pion sees nothing of its reports.
func TestAViewerIsNotSilent(t *testing.T) {
	w := newWorld(t)
	w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{})
	bob.hear().packet(t)
	require.Eventually(t, func() (heard bool) {
		w.inside(t, func(p *peer) {
			if at := p.out.secure.to.heard.Load(); at != 0 {
				heard = true
				assert.LessOrEqual(t, p.silence(time.Unix(0, at).Add(time.Hour)), time.Hour)
			}
		}, bob.id)
		return heard
	}, patience, 10*time.Millisecond)
}

// A section that is negotiated again goes on with its numbers: a nonce is never used for two packets.
func TestNumbersOutliveANegotiation(t *testing.T) {
	s := secrets{}
	first := &binding{ssrc: 1, rtxSSRC: 2}
	s.bind(first)
	first.rtx.rtxSeq = 7
	second := &binding{ssrc: 1, rtxSSRC: 2}
	s.bind(second)
	require.EqualValues(t, 7, second.rtx.rtxSeq)
}

// Whoever has no section for retransmissions gets the very packet again: under one nonce there are never two contents.
func TestALostPacketIsSentAgainAsItWas(t *testing.T) {
	out, got := newEgress(newMetrics(), func() {}), &recorder{}
	u, p := wired(t, 0)
	u.kind = webrtc.RTPCodecTypeVideo
	l := &layer{up: u}
	p.layer, p.at = l, time.Now()
	u.layers.Store(&[]*layer{l})
	d := newDown(u, out)
	d.kind = webrtc.RTPCodecTypeVideo
	d.bound = &binding{writer: got, ssrc: 1, pt: 96, twccID: 5}
	out.bind(d, d.bound)
	for seq := range uint16(3) {
		raw := append([]byte{0x80, 96, 0, byte(seq), 0, 0, 0, 1, 0, 0, 0, 1}, bytes.Repeat([]byte{byte(seq)}, 20)...)
		require.True(t, p.parse(raw, &u.kinds))
		l.history.put(raw, p)
		d.mu.Lock()
		d.send(p, p.payload, 96, false)
		d.mu.Unlock()
	}
	forged := append([]byte{0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1}, bytes.Repeat([]byte{9}, 20)...)
	require.True(t, p.parse(forged, &u.kinds))
	l.history.put(forged, p) // a publisher that uses a number twice
	lost := rtp.Header{}
	_, err := lost.Unmarshal(got.packets[1])
	require.NoError(t, err)
	c, ok := d.sent.again(lost.SequenceNumber, d.bound, time.Now(), 0)
	require.True(t, ok)
	require.True(t, out.again(c, time.Now()))
	require.Len(t, got.packets, 4)
	require.Equal(t, got.packets[1], got.packets[3])
}

// recorder keeps what is written.
type recorder struct{ packets [][]byte }

func (k *recorder) Write(b []byte) (int, error) {
	k.packets = append(k.packets, bytes.Clone(b))
	return len(b), nil
}
