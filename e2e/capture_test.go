//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// capture collects what a browser sends, for internal/sfu/testdata/captures: see the README there.
type capture struct {
	began time.Time
	head  struct {
		Browser    string           `json:"browser"`
		Codec      string           `json:"codec"`
		Modes      []string         `json:"scalability_modes"`
		Extensions map[string]uint8 `json:"extensions"`
	}
	rids []string

	mu   sync.Mutex
	body bytes.Buffer // guarded by mu
}

const (
	capturedPayload = 24      // bytes of each payload
	capturedMost    = 140_000 // bytes of a file
)

// put takes a packet down: when it came, of which encoding it is, how long it was, and its beginning.
func (c *capture) put(rid string, raw []byte) {
	var h rtp.Header
	n, err := h.Unmarshal(raw)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := raw[:min(len(raw), n+capturedPayload)]
	if c.body.Len()+len(kept) > capturedMost {
		return
	}
	var b []byte
	b = binary.BigEndian.AppendUint32(b, uint32(time.Since(c.began).Milliseconds()))
	b = append(b, byte(max(0, slices.Index(c.rids, rid))))
	b = binary.BigEndian.AppendUint16(b, uint16(len(raw)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(kept)))
	c.body.Write(append(b, kept...))
}

// answer makes a connection that takes everything of an offer, and asks for keyframes all the time.
func (c *capture) answer(ctx context.Context, t testing.TB, offer string) (answer string) {
	t.Helper()
	media, registry := &webrtc.MediaEngine{}, &interceptor.Registry{}
	require.NoError(t, media.RegisterDefaultCodecs())
	require.NoError(t, webrtc.ConfigureSimulcastExtensionHeaders(media))
	for _, uri := range []string{
		"https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension",
		"http://www.webrtc.org/experiments/rtp-hdrext/video-layers-allocation00",
	} {
		require.NoError(t, media.RegisterHeaderExtension(webrtc.RTPHeaderExtensionCapability{URI: uri}, webrtc.RTPCodecTypeVideo))
	}
	require.NoError(t, webrtc.RegisterDefaultInterceptors(media, registry))
	var s webrtc.SettingEngine
	s.SetIncludeLoopbackCandidate(true)
	pc, err := webrtc.NewAPI(webrtc.WithMediaEngine(media), webrtc.WithInterceptorRegistry(registry), webrtc.WithSettingEngine(s)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	var readers sync.WaitGroup
	t.Cleanup(func() {
		require.NoError(t, pc.GracefulClose())
		readers.Wait()
	})
	pc.OnTrack(func(track *webrtc.TrackRemote, r *webrtc.RTPReceiver) {
		c.mu.Lock()
		c.head.Codec = track.Codec().MimeType
		for _, e := range r.GetParameters().HeaderExtensions {
			c.head.Extensions[e.URI] = uint8(e.ID)
		}
		c.mu.Unlock()
		readers.Go(func() {
			for buf := make([]byte, 1500); ; {
				n, _, err := track.Read(buf)
				if err != nil {
					return
				}
				c.put(track.RID(), buf[:n])
			}
		})
		readers.Go(func() {
			tick := time.NewTicker(1300 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				select {
				case <-tick.C:
					_ = pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(track.SSRC())}})
				case <-ctx.Done():
				}
			}
		})
	})
	require.NoError(t, pc.SetRemoteDescription(webrtc.SessionDescription{Type: webrtc.SDPTypeOffer, SDP: offer}))
	gathered := webrtc.GatheringCompletePromise(pc)
	desc, err := pc.CreateAnswer(nil)
	require.NoError(t, err)
	require.NoError(t, pc.SetLocalDescription(desc))
	<-gathered
	return pc.LocalDescription().SDP
}

// TestCapture makes internal/sfu/testdata/captures anew, where ORAMA_CAPTURE names that directory: what browsers send of their fake camera.
func TestCapture(t *testing.T) {
	dir := os.Getenv("ORAMA_CAPTURE")
	if dir == "" {
		t.Skip("ORAMA_CAPTURE names no directory to write to")
	}
	cl := up(t)
	m := cl.meeting(t, cl.Namespace, "capture")
	simulcast := []map[string]any{}
	for n, rid := range []string{"q", "h", "f"} {
		simulcast = append(simulcast, map[string]any{"rid": rid, "scaleResolutionDownBy": 4 >> n, "scalabilityMode": "L1T3"})
	}
	for _, x := range []struct {
		name, kind, codec string
		encodings         []map[string]any
	}{
		{"chromium-vp8", chromium, "VP8", simulcast}, {"chromium-vp9", chromium, "VP9", simulcast}, {"chromium-h264", chromium, "H264", simulcast},
		{"chromium-av1", chromium, "AV1", simulcast}, {"firefox-vp8", firefox, "VP8", simulcast}, {"firefox-av1", firefox, "AV1", simulcast},
		{"chromium-av1-svc", chromium, "AV1", []map[string]any{{"scalabilityMode": "L3T3_KEY"}}},
		{"chromium-vp9-svc", chromium, "VP9", []map[string]any{{"scalabilityMode": "L3T3_KEY"}}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := &capture{}
			c.head.Extensions = map[string]uint8{}
			for _, e := range x.encodings {
				rid, _ := e["rid"].(string)
				c.rids, c.head.Modes = append(c.rids, rid), append(c.head.Modes, e["scalabilityMode"].(string))
			}
			p := cl.visit(t, x.kind, "camera", m.site+"/participant.html?"+url.Values{"sdk": {cl.Gateways[0] + "/sdk/orama.js"}}.Encode())
			var offer string
			p.eval(&offer, `const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 960, height: 540, frameRate: 15 } });
				const pc = window.pc = new RTCPeerConnection();
				const t = pc.addTransceiver(stream.getTracks()[0], { direction: 'sendonly', sendEncodings: args[1] });
				const all = RTCRtpReceiver.getCapabilities('video').codecs;
				const is = (c) => c.mimeType === 'video/' + args[0];
				t.setCodecPreferences([...all.filter(is), ...all.filter((c) => !is(c))]);
				await pc.setLocalDescription();
				return pc.localDescription.sdp;`, x.codec, x.encodings)
			ctx, cancel := context.WithTimeout(t.Context(), 9*time.Second)
			defer cancel()
			c.began = time.Now()
			answer := c.answer(ctx, t, offer)
			p.eval(&c.head.Browser, `await pc.setRemoteDescription({ type: 'answer', sdp: args[0] }); return navigator.userAgent;`, answer)
			<-ctx.Done()
			p.eval(nil, "pc.close()")
			c.mu.Lock()
			defer c.mu.Unlock()
			head, err := json.Marshal(c.head)
			require.NoError(t, err)
			t.Logf("%d bytes of %s", c.body.Len(), head)
			require.Greater(t, c.body.Len(), 10_000)
			require.NoError(t, os.WriteFile(filepath.Join(dir, x.name+".rtp"), append(append(head, '\n'), c.body.Bytes()...), 0o644))
		})
	}
}
