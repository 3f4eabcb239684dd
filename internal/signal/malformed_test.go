package signal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/signal"
)

var update = flag.Bool("update", false, "write testdata/malformed anew")

// The corpus is generated, so that it can be read and grown, and committed, so that the tests of
// other packages and of other languages can use it. testdata/malformed/README.md has its format.
func TestMalformedCorpus(t *testing.T) {
	files := map[string][]byte{
		"frames.txt":     lines(malformedFrames()),
		"sdps.txt":       lines(quoted(malformedSDPs())),
		"candidates.txt": lines(quoted(malformedCandidates())),
		"stun.txt":       lines(hexed(malformedSTUN())),
	}
	total := 0
	for name, want := range files {
		path := filepath.Join("testdata/malformed", name)
		if *update {
			require.NoError(t, os.WriteFile(path, want, 0o644))
		}
		have, err := os.ReadFile(path)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, have), "%s is stale: go test ./internal/signal -update", name)
		total += bytes.Count(have, []byte("\n"))
	}
	require.GreaterOrEqual(t, total, 500)
}

func TestMalformedFramesAreRefused(t *testing.T) {
	for _, frame := range malformedFrames() {
		_, err := signal.Decode(frame)
		require.Error(t, err, "%.80q", frame)
	}
}

func lines(items [][]byte) []byte {
	return append(bytes.Join(items, []byte("\n")), '\n')
}

func quoted(items []string) [][]byte {
	out := make([][]byte, len(items))
	for i, s := range items {
		out[i], _ = json.Marshal(s) // a string always marshals
	}
	return out
}

func hexed(items [][]byte) [][]byte {
	out := make([][]byte, len(items))
	for i, b := range items {
		out[i] = []byte(hex.EncodeToString(b))
	}
	return out
}

// rng is the same in every run: ChaCha8 is specified, and its seed is fixed per list.
func rng(list string) *rand.Rand {
	var seed [32]byte
	copy(seed[:], "orama malformed corpus: "+list)
	return rand.New(rand.NewChaCha8(seed))
}

// malformedFrames are frames that Decode refuses, without a newline inside.
func malformedFrames() [][]byte {
	out := handmadeFrames()
	r := rng("frames")
	for len(out) < 240 {
		b := mutate(r, []byte(goldenFrames[r.IntN(len(goldenFrames))]))
		if bytes.ContainsAny(b, "\n\r") {
			continue
		}
		if _, err := signal.Decode(b); err == nil || slices.ContainsFunc(out, func(o []byte) bool { return bytes.Equal(o, b) }) {
			continue
		}
		out = append(out, b)
	}
	return out
}

// mutate damages b in one to four places.
func mutate(r *rand.Rand, b []byte) []byte {
	b = slices.Clone(b)
	for range 1 + r.IntN(4) {
		if len(b) == 0 {
			return b
		}
		i := r.IntN(len(b))
		switch r.IntN(6) {
		case 0:
			b[i] ^= 1 << r.IntN(8)
		case 1:
			b = b[:i]
		case 2:
			b = slices.Delete(b, i, min(len(b), i+1+r.IntN(8)))
		case 3:
			j := r.IntN(len(b))
			b[i], b[j] = b[j], b[i]
		case 4:
			b = slices.Insert(b, i, []byte(`{}[]":,\0-1e9"`)[r.IntN(14)])
		case 5:
			b = slices.Insert(b, i, b[i:min(len(b), i+1+r.IntN(16))]...)
		}
	}
	return b
}

var goldenFrames = []string{
	`{"type":"join","room":"daily","name":"Alice","metadata":{"color":"#ef4444"},"auto_subscribe":true}`,
	`{"type":"offer","sdp":"v=0","tracks":[{"mid":"0","source":"microphone"}]}`,
	`{"type":"answer","sdp":"v=0"}`,
	`{"type":"negotiate","audio":1,"video":1}`,
	`{"type":"ice-candidate","candidate":{"candidate":"candidate:1 1 udp 41885439 127.10.0.1 49153 typ relay","sdpMid":"0","sdpMLineIndex":0}}`,
	`{"type":"subscribe","track_id":"tr_cam_Zp41"}`,
	`{"type":"prefer","track_id":"tr_cam_Zp41","max_width":640}`,
	`{"type":"mute","track_id":"tr_mic_7Qm2","muted":true}`,
	`{"type":"leave"}`,
	`{"type":"ping","t":1}`,
}

func handmadeFrames() [][]byte {
	long := strings.Repeat("A", 5000)
	texts := []string{
		"", " ", "null", "true", "0", "-", `""`, "[]", "{}", "{", "}", "[[", `{"type"`, `{"type":}`, `{"type":"`, `{"type":null}`,
		`{"type":1}`, `{"type":[]}`, `{"type":{}}`, `{"type":true}`, `{"type":""}`, `{"type":"JOIN"}`, `{"type":"join "}`,
		`{"type":"join"`, `{"type":"join"}}`, `{"type":"join"} x`, `{"type":"join",}`, `{'type':'join'}`, `{type:"join"}`,
		`{"kind":"join"}`, `["type","join"]`, `{"type":"dance"}`, `{"type":"__proto__"}`, `{"type":"constructor"}`,
		`{"type":"` + long + `"}`, `{"type":"join","room":"` + long + `"}`, `{"type":"join","name":"` + long + `"}`,
		`{"type":"join","resume":"` + long + `"}`, `{"type":"join","metadata":"` + long + `"}`,
		`{"type":"join","metadata":` + strings.Repeat("[", 4000) + strings.Repeat("]", 4000) + `}`,
		`{"type":"join","metadata":` + strings.Repeat("[", 12000) + `}`,
		`{"type":"join","room":5}`, `{"type":"join","room":["a"]}`, `{"type":"join","auto_subscribe":1}`,
		`{"type":"join","await_offer":"true"}`, `{"type":"join","name":{}}`,
		`{"type":"offer"}`, `{"type":"offer","sdp":""}`, `{"type":"offer","sdp":null}`, `{"type":"offer","sdp":{}}`,
		`{"type":"offer","sdp":["v=0"]}`, `{"type":"offer","sdp":"v=0","tracks":{}}`, `{"type":"offer","sdp":"v=0","tracks":[5]}`,
		`{"type":"offer","sdp":"v=0","tracks":[{"mid":""}]}`, `{"type":"offer","sdp":"v=0","tracks":[{"mid":"0","muted":1}]}`,
		`{"type":"offer","sdp":"v=0","tracks":[` + strings.TrimSuffix(strings.Repeat(`{"mid":"0"},`, 65), ",") + `]}`,
		`{"type":"answer"}`, `{"type":"answer","sdp":0}`,
		`{"type":"negotiate","audio":-1}`, `{"type":"negotiate","audio":17}`, `{"type":"negotiate","video":1e3}`,
		`{"type":"negotiate","video":99999999999999999999}`, `{"type":"negotiate","audio":"1"}`, `{"type":"negotiate","ice_restart":1}`,
		`{"type":"ice-candidate","candidate":""}`, `{"type":"ice-candidate","candidate":[]}`, `{"type":"ice-candidate","candidate":5}`,
		`{"type":"ice-candidate","candidate":{"candidate":5}}`, `{"type":"ice-candidate","candidate":{"candidate":"` + long + `"}}`,
		`{"type":"ice-candidate","candidate":{"candidate":"","sdpMid":0}}`, `{"type":"ice-candidate","candidate":{"candidate":"","sdpMLineIndex":65536}}`,
		`{"type":"ice-candidate","candidate":{"candidate":"","sdpMLineIndex":-1}}`, `{"type":"ice-candidate","candidate":{"candidate":"","sdpMLineIndex":0.5}}`,
		`{"type":"subscribe"}`, `{"type":"subscribe","track_id":""}`, `{"type":"subscribe","track_id":7}`, `{"type":"subscribe","track_id":"` + long + `"}`,
		`{"type":"unsubscribe"}`, `{"type":"unsubscribe","track_id":[]}`, `{"type":"mute"}`, `{"type":"mute","track_id":"t","muted":"no"}`,
		`{"type":"prefer"}`, `{"type":"prefer","track_id":"t","max_width":-1}`, `{"type":"prefer","track_id":"t","max_fps":-5}`,
		`{"type":"prefer","track_id":"t","priority":1e99}`, `{"type":"prefer","track_id":"t","paused":0}`,
		`{"type":"ping","t":"1"}`, `{"type":"ping","t":1e999}`, `{"type":"ping","t":{}}`, `{"type":"pong","t":[]}`,
		"\x00", "\x00\x01\x02\x03", "\xff\xff\xff", "\xef\xbb\xbf{\"type\":\"join\"}", "{\"type\":\"jo\x01in\"}", "{\"type\":\"\xc3\x28\"}",
		`{"type":"\ud800"}`, `{"type":"\u0000"}`, `{"type":"join","room":"\x41"}`, `{"type":"join" "room":"a"}`, `{"type":NaN}`, `{"type":"ping","t":NaN}`,
		`{"type":"ping","t":Infinity}`, `{"type":"ping","t":0x10}`, `{"type":"ping","t":01}`, `{"type":"ping","t":+1}`, `{"type":"ping","t":.5}`,
		`<xml/>`, `GET / HTTP/1.1`, `{"type":"join"}{"type":"leave"}`, `42["join",{}]`, strings.Repeat("{\"a\":", 11000),
	}
	out := make([][]byte, len(texts))
	for i, s := range texts {
		out[i] = []byte(s)
	}
	return out
}

const plainSDP = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\na=msid-semantic: WMS\r\n" +
	"m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:4ZcD\r\na=ice-pwd:2/1muCWoOi3uLifh0NuRHlOl\r\n" +
	"a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08\r\n" +
	"a=setup:actpass\r\na=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n" +
	"a=ssrc:1001 cname:pR3mYQbV\r\na=candidate:1 1 udp 41885439 127.10.0.1 49153 typ relay raddr 0.0.0.0 rport 0\r\n" +
	"m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:4ZcD\r\na=ice-pwd:2/1muCWoOi3uLifh0NuRHlOl\r\n" +
	"a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08\r\n" +
	"a=setup:actpass\r\na=mid:1\r\na=sendrecv\r\na=rtcp-mux\r\na=rid:h send\r\na=rid:f send\r\na=simulcast:send h;f\r\na=rtpmap:96 VP8/90000\r\n" +
	"a=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=ssrc-group:FID 2001 2002\r\n" +
	"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:4ZcD\r\na=ice-pwd:2/1muCWoOi3uLifh0NuRHlOl\r\n" +
	"a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08\r\n" +
	"a=setup:actpass\r\na=mid:2\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n"

// malformedSDPs are descriptions in otherwise good offers. Some of them a lenient stack may accept.
func malformedSDPs() []string {
	rep := func(old, new string) string { return strings.ReplaceAll(plainSDP, old, new) }
	out := []string{
		"x", "v=0", "v=0\r\n", "v=1\r\n", "\r\n", "\x00", strings.Repeat("a=x\r\n", 500), "v=0\r\no=-\r\ns=-\r\nt=0 0\r\n",
		"v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n", "m=audio\r\n" + plainSDP, rep("\r\n", "\n"), rep("\r\n", "\r"), rep("\r\n", " "),
		rep("a=mid:0\r\n", ""), rep("a=mid:1", "a=mid:0"), rep("a=mid:", "a=mid:"+strings.Repeat("9", 200)), rep("a=ice-ufrag:4ZcD\r\n", ""),
		rep("a=ice-pwd:2/1muCWoOi3uLifh0NuRHlOl", "a=ice-pwd:short"), rep("a=ice-ufrag:4ZcD", "a=ice-ufrag:"+strings.Repeat("u", 300)),
		rep("sha-256 7B:", "sha-256 ZZ:"), rep("a=fingerprint:sha-256", "a=fingerprint:md5"), rep("a=setup:actpass", "a=setup:none"),
		rep("a=setup:actpass", "a=setup:holdconn"), rep("a=rtcp-mux\r\n", ""), rep("UDP/TLS/RTP/SAVPF", "RTP/AVP"), rep("m=audio 9", "m=audio 99999"),
		rep("m=audio 9", "m=audio -1"), rep("m=audio", "m=smell"), rep("111", "300"), rep("111", "abc"), rep("opus/48000/2", "opus/0/0"),
		rep("opus/48000/2", "nonsense/8000"), rep("VP8/90000", "VP8"), rep("apt=96", "apt=97"), rep("apt=96", "apt=x"), rep("a=group:BUNDLE 0 1 2", "a=group:BUNDLE 7 8 9"),
		rep("a=group:BUNDLE 0 1 2\r\n", ""), rep("a=ssrc:1001", "a=ssrc:99999999999"), rep("a=ssrc:1001", "a=ssrc:x"), rep("FID 2001 2002", "FID 2001"),
		rep("a=simulcast:send h;f", "a=simulcast:send "+strings.Repeat("h;", 200)), rep("a=rid:h send", "a=rid: send"), rep("a=sctp-port:5000", "a=sctp-port:0"),
		rep("a=sctp-port:5000", "a=sctp-port:x"), rep("a=max-message-size:262144", "a=max-message-size:-1"), rep("typ relay", "typ host"), rep("typ relay", "typ"),
		rep("127.10.0.1 49153", "127.0.0.1 0"), rep("127.10.0.1", "::1"), rep("127.10.0.1", "x.local"), rep("49153", "99999"), rep("c=IN IP4 0.0.0.0", "c=IN IP9 x"),
		rep("t=0 0\r\n", ""), rep("s=-\r\n", ""), rep("o=- 4611731400430051336 2 IN IP4 127.0.0.1", "o="), rep("4611731400430051336", strings.Repeat("9", 60)),
		plainSDP + strings.Repeat("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:x\r\n", 300), plainSDP + strings.Repeat("a=candidate:1 1 udp 1 10.0.0.1 1 typ host\r\n", 400),
		plainSDP + "a=extmap:0 x\r\na=extmap:99999 y\r\n", plainSDP + "a=" + strings.Repeat("y", 20000) + "\r\n", plainSDP + plainSDP,
		rep("a=sendrecv", "a=sendrecv\r\na=sendonly\r\na=inactive"), rep("m=application", "m=video"), rep("webrtc-datachannel", "x"), rep("UDP/DTLS/SCTP", "TCP/DTLS/SCTP"),
	}
	r := rng("sdps")
	for len(out) < 130 {
		out = append(out, strings.ToValidUTF8(string(mutate(r, []byte(plainSDP))), "?"))
	}
	return out
}

// malformedCandidates are candidate-attributes (RFC 8839 section 5.1) in otherwise good frames.
func malformedCandidates() []string {
	const good = "candidate:842163049 1 udp 41885439 127.10.0.1 49153 typ relay raddr 0.0.0.0 rport 0 generation 0 ufrag 4ZcD"
	rep := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	out := []string{
		" ", "candidate", "candidate:", "candidate: ", "a=" + good, "x" + good, rep("candidate:", ""), rep("842163049", ""), rep("842163049", strings.Repeat("7", 40)),
		rep(" 1 udp", " 0 udp"), rep(" 1 udp", " 257 udp"), rep(" 1 udp", " -1 udp"), rep("udp", "sctp"), rep("udp", ""), rep("udp", "TCP"), rep("41885439", "-1"),
		rep("41885439", "99999999999"), rep("41885439", "x"), rep("127.10.0.1", "999.1.1.1"), rep("127.10.0.1", "::"), rep("127.10.0.1", "fe80::1%eth0"),
		rep("127.10.0.1", "[::1]"), rep("127.10.0.1", "abc.local"), rep("127.10.0.1", "localhost"), rep("127.10.0.1", "169.254.169.254"), rep("127.10.0.1", "0.0.0.0"),
		rep("127.10.0.1", "255.255.255.255"), rep("127.10.0.1", "224.0.0.1"), rep("49153", "0"), rep("49153", "65536"), rep("49153", "-5"), rep("typ relay", "typ host"),
		rep("typ relay", "typ srflx"), rep("typ relay", "typ prflx"), rep("typ relay", "typ RELAY"), rep("typ relay", "typ relay typ host"), rep("typ relay", "typ"),
		rep("typ ", ""), rep("raddr 0.0.0.0", "raddr x"), rep("raddr 0.0.0.0", "raddr"), rep("rport 0", "rport 99999"), rep("generation 0", "generation"),
		rep("ufrag 4ZcD", "ufrag"), rep("ufrag 4ZcD", "ufrag "+strings.Repeat("u", 600)), good + strings.Repeat(" k v", 200), strings.ReplaceAll(good, " ", "  "),
		strings.ReplaceAll(good, " ", "\t"), good + "\r\na=ice-lite", good + "\x00", strings.ToUpper(good), "candidate:1 1 udp 1 127.10.0.1 1 typ host tcptype active",
		"candidate:1 1 tcp 1 127.10.0.1 9 typ host tcptype active", "candidate:1 1 tcp 1 127.0.0.1 22 typ host tcptype passive",
	}
	r := rng("candidates")
	for len(out) < 80 {
		out = append(out, strings.ToValidUTF8(string(mutate(r, []byte(good))), "?"))
	}
	return out
}

// malformedSTUN are datagrams for TURN listeners and SFU media sockets.
func malformedSTUN() [][]byte {
	binding := []byte("\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl")
	allocate := []byte("\x00\x03\x00\x08\x21\x12\xa4\x42abcdefghijkl\x00\x19\x00\x04\x11\x00\x00\x00")
	auth := []byte("\x00\x03\x00\x2c\x21\x12\xa4\x42abcdefghijkl\x00\x06\x00\x0f1767225600:demo\x00\x00\x15\x00\x04abcd\x00\x08\x00\x0400000000")
	send := []byte("\x00\x16\x00\x14\x21\x12\xa4\x42abcdefghijkl\x00\x12\x00\x08\x00\x01\x11\x2b\x5e\x12\xa4\x43\x00\x13\x00\x04ping")
	out := [][]byte{
		{}, {0}, {0, 1}, binding[:19], append(slices.Clone(binding), 0), []byte("\x00\x01\xff\xff\x21\x12\xa4\x42abcdefghijkl"),
		[]byte("\x00\x01\x00\x03\x21\x12\xa4\x42abcdefghijklxyz"), []byte("\x00\x01\x00\x00\x00\x00\x00\x00abcdefghijkl"),
		[]byte("\x3f\xff\x00\x00\x21\x12\xa4\x42abcdefghijkl"), []byte("\x40\x00\x00\x04ping"), []byte("\x40\x00\xff\xffping"), []byte("\x4f\xff\x00\x00"), []byte("\x7f\xff\x00\x01x"),
		[]byte("\x16\xfe\xfd\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff"), []byte("\x80\x6f\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01"), []byte("\x80\xc8\x00\x00"), bytes.Repeat([]byte{0xff}, 1500),
		bytes.Repeat([]byte{0}, 1500), []byte("GET / HTTP/1.1\r\n\r\n"), []byte("\x00\x01\x00\x04\x21\x12\xa4\x42abcdefghijkl\x00\x06\xff\xff"),
		[]byte(fmt.Sprintf("\x00\x03\x04\x04\x21\x12\xa4\x42abcdefghijkl\x00\x06\x04\x00%s", strings.Repeat("u", 1024))), binding, allocate, auth, send,
	}
	r := rng("stun")
	for len(out) < 80 {
		out = append(out, mutate(r, [][]byte{binding, allocate, auth, send}[r.IntN(4)]))
	}
	return out
}
