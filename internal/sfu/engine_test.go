package sfu

import (
	"strings"
	"testing"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// firefoxTypes are the payload types of Firefox 153 in every section that it adds to a session, whatever the others have.
const firefoxTypes = `109 opus/48000/2
9 G722/8000/1
0 PCMU/8000
8 PCMA/8000
101 telephone-event/8000
120 VP8/90000
124 rtx/90000
121 VP9/90000
125 rtx/90000
126 H264/90000
127 rtx/90000
97 H264/90000
98 rtx/90000
105 H264/90000
106 rtx/90000
103 H264/90000
104 rtx/90000
99 AV1/90000
100 rtx/90000
123 ulpfec/90000
122 red/90000
119 rtx/90000`

// What the SFU offers and what Firefox adds to it are one BUNDLE group, in which a payload type means one thing; and pion knows a codec by the types
// alone that were first agreed on.
func TestPayloadTypesAreFirefoxs(t *testing.T) {
	m := &webrtc.MediaEngine{}
	require.NoError(t, registerCodecs(m))
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(m)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	defer pc.GracefulClose()
	for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
		_, err = pc.AddTransceiverFromKind(kind)
		require.NoError(t, err)
	}
	offer, err := pc.CreateOffer(nil)
	require.NoError(t, err)
	require.Contains(t, offer.SDP, "m=audio 9 UDP/TLS/RTP/SAVPF 63 111\r\n", "a browser sends what comes first of what it has: sound with redundancy")
	types, ours := payloads{}, map[string]bool{}
	for line := range strings.Lines(offer.SDP) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "a=rtpmap:"); ok {
			ours[strings.ToLower(v)] = true
			require.NoError(t, types.rtpmap("x", v))
		}
	}
	for line := range strings.Lines(firefoxTypes) {
		v := strings.TrimSpace(line)
		require.NoError(t, types.rtpmap("x", v), "%s", v)
		for _, name := range []string{"VP8", "VP9", "H264", "AV1"} {
			if strings.Contains(v, " "+name+"/") {
				require.True(t, ours[strings.ToLower(v)], "%s", v)
			}
		}
	}
}
