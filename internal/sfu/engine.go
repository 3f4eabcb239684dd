package sfu

import (
	"fmt"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/ice/v4"
	"github.com/pion/interceptor"
	"github.com/pion/logging"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"

	"orama.network/orama/internal/sfu/srtp"
	"orama.network/orama/internal/signal"
)

// engine is what the PeerConnections of the process have in common.
type engine struct {
	mux  *pathMux
	logs logging.LoggerFactory
}

// api builds what one peer's PeerConnection is made from. It is the peer's own: what its descriptions say of payload types and extensions goes into
// its media engine, where senders that are made later find it, and its RTCP goes to taps. r is its way, and h hears its handshake.
func (e *engine) api(t *taps, r *route, h *srtp.Handshake) (*webrtc.API, error) {
	media := &webrtc.MediaEngine{}
	if err := registerCodecs(media); err != nil {
		return nil, err
	}
	if err := registerExtensions(media); err != nil {
		return nil, err
	}
	var s webrtc.SettingEngine
	s.LoggerFactory = e.logs
	s.BufferFactory = t.buffer
	s.DisableMediaEngineCopy(true)
	s.SetLite(true)
	s.SetICEUDPMux(r)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4, webrtc.NetworkTypeUDP6})
	s.SetIncludeLoopbackCandidate(true) // the mesh of a cluster on one machine
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetICETimeouts(silentAfter, restartWithin, 2*time.Second)
	s.SetICEBindingRequestHandler(e.mux.follow)
	s.SetSCTPMaxMessageSize(signal.MaxDataMessage)
	s.DetachDataChannels() // see datachannel.Read
	// The client begins the handshake, whoever offers, so that its secrets can be heard. What comes from elsewhere than a checked address does not reach DTLS, so
	// it needs no cookie.
	if err := s.SetAnsweringDTLSRole(webrtc.DTLSRoleServer); err != nil {
		return nil, err
	}
	s.SetDTLSInsecureSkipHelloVerify(true)
	s.SetDTLSKeyLogWriter(h)
	s.SetDTLSServerHelloMessageHook(h.ServerHello)
	// GCM is one pass over a packet where the older profile is two, and 128 bits are ten rounds of AES to 256's fourteen.
	s.SetSRTPProtectionProfiles(dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AEAD_AES_256_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80)
	none := &interceptor.Registry{} // feedback both ways is ours
	return webrtc.NewAPI(webrtc.WithMediaEngine(media), webrtc.WithInterceptorRegistry(none), webrtc.WithSettingEngine(s)), nil
}

// registerCodecs lists what the SFU forwards, most preferred first. VP8 leads because every
// browser both sends and receives it. The payload types of video are Firefox's own: it uses those, and not what was agreed on, in every section
// that it adds, and in one BUNDLE a type means one thing. Chromium goes on with the ones that it was offered. Those of audio are Chromium's:
// Firefox's 109 is retransmission in a Chromium that offers video first, and 111 is nothing else anywhere. RED leads (RFC 2198): a browser sends
// what comes first of what it has, and with every frame of sound the one before, so that a tenth of the packets may be lost and little is heard of it.
func registerCodecs(m *webrtc.MediaEngine) error {
	audio := []webrtc.RTPCodecParameters{
		{PayloadType: 63, RTPCodecCapability: webrtc.RTPCodecCapability{
			MimeType: mimeRED, ClockRate: 48000, Channels: 2, SDPFmtpLine: "111/111",
		}},
		{PayloadType: 111, RTPCodecCapability: webrtc.RTPCodecCapability{
			MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2,
			SDPFmtpLine:  "minptime=10;useinbandfec=1;usedtx=1",
			RTCPFeedback: []webrtc.RTCPFeedback{{Type: "transport-cc"}},
		}},
	}
	for _, c := range audio {
		if err := m.RegisterCodec(c, webrtc.RTPCodecTypeAudio); err != nil {
			return err
		}
	}
	const h264 = "level-asymmetry-allowed=1;packetization-mode=%d;profile-level-id=%s"
	video := []struct {
		pt, rtx    webrtc.PayloadType
		mime, fmtp string
	}{
		{120, 124, webrtc.MimeTypeVP8, ""},
		{121, 125, webrtc.MimeTypeVP9, "profile-id=0"},
		{126, 127, webrtc.MimeTypeH264, fmt.Sprintf(h264, 1, "42e01f")},
		{97, 98, webrtc.MimeTypeH264, fmt.Sprintf(h264, 0, "42e01f")},
		{105, 106, webrtc.MimeTypeH264, fmt.Sprintf(h264, 1, "42001f")},
		{103, 104, webrtc.MimeTypeH264, fmt.Sprintf(h264, 0, "42001f")},
		{112, 113, webrtc.MimeTypeH264, fmt.Sprintf(h264, 1, "4d001f")},
		{114, 115, webrtc.MimeTypeH264, fmt.Sprintf(h264, 1, "64001f")},
		{99, 100, webrtc.MimeTypeAV1, ""},
		{45, 46, webrtc.MimeTypeVP9, "profile-id=2"},
	}
	feedback := []webrtc.RTCPFeedback{{Type: "transport-cc"}, {Type: "ccm", Parameter: "fir"},
		{Type: "nack"}, {Type: "nack", Parameter: "pli"}}
	for _, v := range video {
		codec := webrtc.RTPCodecCapability{MimeType: v.mime, ClockRate: 90000, SDPFmtpLine: v.fmtp, RTCPFeedback: feedback}
		rtx := webrtc.RTPCodecCapability{MimeType: webrtc.MimeTypeRTX, ClockRate: 90000, SDPFmtpLine: fmt.Sprintf("apt=%d", v.pt)}
		for _, c := range []webrtc.RTPCodecParameters{{RTPCodecCapability: codec, PayloadType: v.pt}, {RTPCodecCapability: rtx, PayloadType: v.rtx}} {
			if err := m.RegisterCodec(c, webrtc.RTPCodecTypeVideo); err != nil {
				return err
			}
		}
	}
	return nil
}

const mimeRED = "audio/red"

func registerExtensions(m *webrtc.MediaEngine) error {
	up := []webrtc.RTPTransceiverDirection{webrtc.RTPTransceiverDirectionRecvonly}
	both := []webrtc.RTPTransceiverDirection{webrtc.RTPTransceiverDirectionRecvonly, webrtc.RTPTransceiverDirectionSendonly}
	list := []struct {
		uri          string
		audio, video bool
		directions   []webrtc.RTPTransceiverDirection
	}{
		{sdp.SDESMidURI, true, true, up}, // down tracks are told apart by the SSRCs in the SDP
		{sdp.TransportCCURI, true, true, both},
		{sdp.SDESRTPStreamIDURI, false, true, up},
		{sdp.SDESRepairRTPStreamIDURI, false, true, up},
	}
	for _, e := range list {
		for kind, on := range map[webrtc.RTPCodecType]bool{webrtc.RTPCodecTypeAudio: e.audio, webrtc.RTPCodecTypeVideo: e.video} {
			if !on {
				continue
			}
			if err := m.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: e.uri}, kind, e.directions...); err != nil {
				return err
			}
		}
	}
	return extensionIDs{}.register(m)
}
