package sfu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// goodOffer is what a client with everything offers.
func goodOffer(t testing.TB) string {
	t.Helper()
	pc, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	defer pc.GracefulClose()
	for _, kind := range []webrtc.RTPCodecType{webrtc.RTPCodecTypeAudio, webrtc.RTPCodecTypeVideo} {
		_, err = pc.AddTransceiverFromKind(kind)
		require.NoError(t, err)
	}
	_, err = pc.CreateDataChannel("x", nil)
	require.NoError(t, err)
	offer, err := pc.CreateOffer(nil)
	require.NoError(t, err)
	return offer.SDP
}

func TestFilterKeepsWhatIsGood(t *testing.T) {
	raw := goodOffer(t)
	d, err := filterSDP(raw)
	require.NoError(t, err)
	require.Equal(t, raw, d.text)
	require.Len(t, d.sections, 3)
	require.Equal(t, []string{"audio", "video", "application"}, []string{d.sections[0].kind, d.sections[1].kind, d.sections[2].kind})
	require.Equal(t, "sendrecv", d.sections[0].direction)
	require.Contains(t, d.sections[1].codecs, "video/vp8")
	require.True(t, d.answers(midsOf(raw)))
	require.False(t, d.answers([]string{"0", "1"}))
}

func TestFilterTakesCandidatesOut(t *testing.T) {
	raw := goodOffer(t)
	d, err := filterSDP(raw +
		"a=candidate:1 1 udp 2130706431 192.168.1.2 50000 typ host\r\n" +
		"a=candidate:2 1 udp 1694498815 203.0.113.7 50001 typ srflx raddr 0.0.0.0 rport 0\r\n" +
		"a=candidate:6 1 udp 41885439 10.0.0.1 50000 typ relay raddr 0.0.0.0 rport 0\r\n")
	require.NoError(t, err)
	require.Equal(t, 2, d.removed)
	require.NotContains(t, d.text, "a=candidate")
}

func TestFilterTakesReceivedSimulcastOut(t *testing.T) {
	raw := goodOffer(t)
	d, err := filterSDP(raw + "a=rid:q send\r\na=rid:q recv\r\na=simulcast:recv q\r\na=simulcast:send q recv q\r\n")
	require.NoError(t, err)
	require.Equal(t, raw+"a=rid:q send\r\na=simulcast:send q recv q\r\n", d.text)
}

func TestFilterRefuses(t *testing.T) {
	raw := goodOffer(t)
	swap := func(old, to string) string {
		require.Contains(t, raw, old)
		return strings.ReplaceAll(raw, old, to)
	}
	for name, bad := range map[string]string{
		"empty":           "",
		"no SDP":          "hello",
		"no sections":     raw[:strings.Index(raw, "m=")],
		"no mid":          swap("a=mid:0\r\n", ""),
		"two mids":        swap("a=mid:1\r\n", "a=mid:0\r\n"),
		"a long mid":      swap("a=mid:0\r\n", "a=mid:"+strings.Repeat("0", 33)+"\r\n"),
		"a strange mid":   swap("a=mid:0\r\n", "a=mid:<script>\r\n"),
		"no fingerprint":  swap("a=fingerprint:", "a=x-fingerprint:"),
		"bad fingerprint": swap("a=fingerprint:sha-256 ", "a=fingerprint:sha-256:"),
		"no ICE":          swap("a=ice-ufrag:", "a=x-ufrag:"),
		"ICE-lite":        swap("a=group:", "a=ice-lite\r\na=group:"),
		"another kind":    swap("m=audio", "m=text"),
		"bad candidate":   raw + "a=candidate:x\r\n",
		"a long line":     raw + "a=x:" + strings.Repeat("x", maxLine) + "\r\n",
		"many lines":      raw + strings.Repeat("a=x\r\n", maxSectionLines),
		"many sections":   raw + strings.Repeat("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", maxSections),
		"many ssrcs":      raw + strings.Repeat("a=ssrc:1 cname:x\r\n", maxSSRCs+1),
		"many candidates": raw + strings.Repeat("a=candidate:6 1 udp 41885439 10.0.0.1 50000 typ relay\r\n", maxCandidates+1),
		"bad rtpmap":      swap("a=rtpmap:96 VP8/90000", "a=rtpmap:96 VP8/fast"),
		"bad apt":         swap("a=fmtp:97 apt=96", "a=fmtp:97 apt=many"),
		"bad extmap":      swap("a=rtcp-mux\r\n", "a=rtcp-mux\r\na=extmap:x y\r\n"),
		"bad format":      strings.Replace(raw, "UDP/TLS/RTP/SAVPF 96", "UDP/TLS/RTP/SAVPF x", 1),
		"a type twice":    strings.Replace(raw, "a=rtpmap:96 VP8/90000", "a=rtpmap:96 VP8/90000\r\na=rtpmap:96 H264/90000", 1),
		"a type of both":  strings.Replace(raw, "a=rtpmap:111 opus/48000/2", "a=rtpmap:96 opus/48000/2", 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := filterSDP(bad)
			require.Error(t, err)
		})
	}
}

func TestRelayCandidate(t *testing.T) {
	for text, want := range map[string]struct{ relay, ok bool }{
		"6 1 udp 41885439 10.0.0.1 50000 typ relay raddr 0.0.0.0 rport 0": {true, true},
		"6 1 UDP 41885439 fd00::1 50000 typ relay":                        {true, true},
		"6 1 tcp 41885439 10.0.0.1 50000 typ relay":                       {false, true},
		"6 1 udp 41885439 relay.example 50000 typ relay":                  {false, true},
		"6 1 udp 41885439 fe80::1%eth0 50000 typ relay":                   {false, true},
		"1 1 udp 2130706431 192.168.1.2 50000 typ host":                   {false, true},
		"1 1 udp x 192.168.1.2 50000 typ host":                            {false, false},
		"1 1 udp 1 192.168.1.2 500000 typ host":                           {false, false},
		"1 1 udp 1 192.168.1.2 50000 kind host":                           {false, false},
		"":                                                                {false, false},
	} {
		relay, err := relayCandidate(text)
		require.Equal(t, want.relay, relay, text)
		require.Equal(t, want.ok, err == nil, text)
	}
}

func TestTextChanges(t *testing.T) {
	text := "v=0\r\nm=audio 9 X 1\r\na=mid:a\r\na=sendonly\r\nm=video 0 X 2\r\na=sendonly\r\na=msid:s t\r\nm=application 9 Y z\r\na=inactive\r\n"
	require.Equal(t, []string{"a", "", ""}, midsOf(text))
	filled := fillMids(text, []string{"q", "b", "c"})
	require.Equal(t, []string{"a", "b", "c"}, midsOf(filled), "only what is missing")
	require.Equal(t, text, fillMids(text, nil))
	require.Contains(t, keepInactive(text), "m=application 9 Y z\r\na=recvonly")
	quiet := silenceUnused(text)
	require.Contains(t, quiet, "a=mid:a\r\na=inactive")
	require.Contains(t, quiet, "a=sendonly\r\na=msid:s t", "what is sent stays")
}

// corpus is what browsers and other stacks really write.
func corpus(t testing.TB) (out []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/sdp/*.sdp")
	require.NoError(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		out = append(out, strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n"))
	}
	return out
}

// smallOffer has one of everything that the filter looks at.
const smallOffer = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n" +
	"m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\n" +
	"a=fingerprint:sha-1 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33\r\na=setup:actpass\r\na=sendonly\r\n" +
	"a=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=extmap:1 urn:x\r\na=rid:h send\r\n" +
	"a=ssrc-group:FID 1 2\r\na=ssrc:1 cname:x\r\na=ssrc:2 cname:x\r\na=candidate:6 1 udp 1 10.0.0.1 5 typ relay\r\n" +
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=inactive\r\n"

func TestTheSmallOfferIsGood(t *testing.T) {
	d, err := filterSDP(smallOffer)
	require.NoError(t, err)
	require.Len(t, d.sections, 2)
}

// Whatever a client sends: no panic, no candidate left, and what is accepted is accepted again.
func FuzzFilterSDP(f *testing.F) {
	// Short seeds: the fuzzer shortens whatever is new to it, and with what a browser writes it
	// would do nothing else. Those are tests of their own.
	f.Add(smallOffer)
	f.Add("v=0\r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		d, err := filterSDP(fillMids(raw, []string{"0", "1"}))
		if err != nil {
			return
		}
		if strings.Contains(d.text, "\na=candidate:") {
			t.Fatal("a candidate is left")
		}
		if len(d.sections) > maxSections {
			t.Fatal("too many sections")
		}
		again, err := filterSDP(d.text)
		if err != nil || again.text != d.text || again.removed != 0 {
			t.Fatalf("not stable: %v", err)
		}
		_ = keepInactive(silenceUnused(d.text))
	})
}

// What browsers offer is taken, simulcast included.
func TestBrowsersOffers(t *testing.T) {
	texts := corpus(t)
	require.Len(t, texts, 2)
	for _, raw := range texts {
		d, err := filterSDP(raw)
		require.NoError(t, err)
		require.Len(t, d.sections, 4)
		require.Equal(t, strings.Contains(raw, "o=mozilla"), d.firefox)
		require.Contains(t, d.sections[0].codecs, "audio/opus")
		require.Contains(t, d.sections[1].codecs, "video/vp8")
		require.Equal(t, "recvonly", d.sections[2].direction)
		require.Equal(t, "application", d.sections[3].kind)
	}
}
