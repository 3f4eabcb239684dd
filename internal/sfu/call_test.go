package sfu

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/signal"
)

func TestAudioAndVideoAreForwarded(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) {
		c.addTrack(t, opus)
		c.addTrack(t, vp8)
	}})
	bob := w.joinClient(clientOptions{})
	kinds := map[string]bool{}
	for range 2 {
		x := bob.hear()
		peer, track := x.stream()
		require.Equal(t, alice.id, peer, "the stream id is the publisher")
		told := await(bob.wire, func(m *signal.TrackPublished) bool { return m.Track.TrackID == track })
		require.Equal(t, x.t.Kind().String(), told.Track.Kind)
		kinds[x.t.Kind().String()] = true
		first := x.packet(t)
		require.Equal(t, first.SequenceNumber+1, x.packet(t).SequenceNumber)
	}
	require.Equal(t, map[string]bool{"audio": true, "video": true}, kinds)
}

func TestALateJoinerGetsAKeyframeRequestAtOnce(t *testing.T) {
	w := newWorld(t)
	var camera *source
	alice := w.joinClient(clientOptions{setUp: func(c *client) { camera = c.addTrack(t, vp8) }})
	await[*signal.TrackPublished](alice.wire)
	drainChan(camera.pli)
	bob := w.joinClient(clientOptions{})
	select {
	case <-camera.pli:
	case <-time.After(patience):
		require.FailNow(t, "the publisher was asked for no keyframe")
	}
	bob.hear().packet(t)
}

// A request that is lost on its way, or a keyframe, is asked for again.
func TestAKeyframeIsAskedForUntilItComes(t *testing.T) {
	w := newWorld(t)
	var camera *source
	alice := w.joinClient(clientOptions{setUp: func(c *client) {
		camera = c.addTrack(t, vp8)
		camera.deaf.Store(true)
	}})
	await[*signal.TrackPublished](alice.wire)
	w.joinClient(clientOptions{}).hear().packet(t)
	first := wait(t, camera.pli, "a request")
	again := wait(t, camera.pli, "another")
	require.GreaterOrEqual(t, again.Sub(first), keyframeEvery)
	camera.deaf.Store(false)
	sent := w.srv.Status().Counters.PLISent
	never := time.NewTimer(keyframeAgain + keyframeEvery)
	defer never.Stop()
	<-never.C
	require.LessOrEqual(t, w.srv.Status().Counters.PLISent, sent+1, "and then no more")
}

// Firefox needs a keyframe when the offering side changes, and asks for it late.
func TestFirefoxIsGivenAKeyframeWhenItOffers(t *testing.T) {
	w := newWorld(t)
	var camera *source
	w.joinClient(clientOptions{setUp: func(c *client) { camera = c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{setUp: func(c *client) {
		c.edit = func(text string) string { return strings.Replace(text, "o=- ", "o=mozilla...x ", 1) }
	}})
	bob.hear().packet(t)
	settled(t, bob)
	require.Eventually(t, func() bool { // until those of the beginning are over
		select {
		case <-camera.pli:
			return false
		default:
			return true
		}
	}, patience, keyframeEvery)
	bob.offer()
	wait(t, camera.pli, "a keyframe request")
}

func drainChan[T any](c chan T) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

func TestKeyframeRequestsOfManyAreJoined(t *testing.T) {
	w := newWorld(t)
	var camera *source
	alice := w.joinClient(clientOptions{setUp: func(c *client) { camera = c.addTrack(t, vp8) }})
	await[*signal.TrackPublished](alice.wire)
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	<-camera.pli
	drainChan(camera.pli)
	began := time.Now()
	pace := time.NewTicker(50 * time.Millisecond) // a decoder that keeps asking, for 2 s
	defer pace.Stop()
	for range 40 {
		require.NoError(t, bob.pc.WriteRTCP([]rtcp.Packet{&rtcp.PictureLossIndication{MediaSSRC: uint32(x.t.SSRC())}}))
		<-pace.C
	}
	took := time.Since(began)
	most := int(took/keyframeEvery) + 2
	require.LessOrEqual(t, len(camera.pli), most, "in %v", took)
	require.GreaterOrEqual(t, len(camera.pli), 2, "and not none")
}

func TestLeavingTakesTheTracksAlong(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	bob := w.joinClient(clientOptions{})
	bob.hear().packet(t)
	left := time.Now()
	alice.send(&signal.Leave{})
	gone := await[*signal.PeerLeft](bob.wire)
	require.Less(t, time.Since(left), time.Second)
	require.Equal(t, alice.id, gone.PeerID)
	require.Equal(t, "left", gone.Reason)
	require.Contains(t, bob.types(), signal.TypeTrackUnpublished)
	require.Equal(t, signal.CloseLeft, alice.closeCode())
}

func TestAClosedPageIsGoneWithinASecond(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	bob := w.joinClient(clientOptions{})
	bob.hear().packet(t)
	left := time.Now()
	alice.ws.Close(websocket.StatusGoingAway, "")
	require.Equal(t, "left", await[*signal.PeerLeft](bob.wire).Reason)
	require.Less(t, time.Since(left), time.Second)
}

// A track that ends frees its section; the next track of the same kind uses it, and the
// subscriber is told of a new track all the same.
func TestASectionIsUsedAgain(t *testing.T) {
	w := newWorld(t)
	watcher := w.joinClient(clientOptions{})
	mids := map[string]bool{}
	var last *rtp.Packet
	for range 3 {
		alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, vp8) }})
		x := watcher.hear()
		peer, track := x.stream()
		require.Equal(t, alice.id, peer)
		p := x.packet(t)
		if last != nil {
			require.NotEqual(t, last.SSRC, p.SSRC, "Chromium shows nothing of an SSRC that was taken away before")
		}
		offer := await(watcher.wire, func(o *signal.Offer) bool {
			return slices.ContainsFunc(o.Tracks, func(r signal.TrackRef) bool { return r.TrackID == track })
		})
		require.Len(t, offer.Tracks, 1)
		mids[offer.Tracks[0].Mid] = true
		alice.send(&signal.Leave{})
		await(watcher.wire, func(m *signal.TrackUnpublished) bool { return m.Track.TrackID == track })
		if q := ended(t, x); q != nil {
			last = q
		}
	}
	require.Len(t, mids, 1, "all three came in the same section")
}

// A client that offers first, as a browser with onnegotiationneeded does, is answered, and the
// SFU's offer comes after.
func TestTheClientMayOfferFirst(t *testing.T) {
	w := newWorld(t)
	bob := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	await[*signal.TrackPublished](bob.wire)
	alice := w.joinClient(clientOptions{join: &signal.Join{}, setUp: func(c *client) {
		c.addTrack(t, opus)
		c.addTrack(t, vp8)
	}})
	alice.offer()
	await[*signal.Answer](alice.wire)
	alice.hear().packet(t)
	for range 2 {
		bob.hear().packet(t)
	}
	require.Equal(t, signal.TypeAnswer, firstOf(alice.types(), signal.TypeAnswer, signal.TypeOffer))
}

func firstOf(types []signal.Type, among ...signal.Type) signal.Type {
	for _, t := range types {
		if slices.Contains(among, t) {
			return t
		}
	}
	return ""
}

func TestGlareDropsTheClientsOffer(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.mute = true }})
	ours := await[*signal.Offer](alice.wire)
	other, err := clientAPI(t).NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	defer other.GracefulClose()
	_, err = other.AddTransceiverFromKind(webrtc.RTPCodecTypeAudio)
	require.NoError(t, err)
	theirs, err := other.CreateOffer(nil)
	require.NoError(t, err)
	alice.send(&signal.Offer{SDP: theirs.SDP})
	refusal := await[*signal.Error](alice.wire)
	require.Equal(t, signal.CodeGlare, refusal.Code)
	require.True(t, refusal.Retryable)
	alice.lock.Lock()
	alice.answer(ours)
	alice.lock.Unlock()
	alice.addTrack(t, opus)
	alice.offer()
	await[*signal.Answer](alice.wire)
	await[*signal.TrackPublished](alice.wire)
}

// A client that cannot offer asks the SFU to, as often as it likes.
func TestPublishingLaterThroughNegotiate(t *testing.T) {
	w := newWorld(t)
	bob := w.joinClient(clientOptions{})
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, vp8) }})
	bob.hear().packet(t)
	alice.lock.Lock()
	alice.addTrack(t, vp8)
	alice.refs = []signal.TrackRef{{Mid: "3", Source: "whiteboard", Name: "Board"}}
	alice.lock.Unlock()
	alice.send(&signal.Negotiate{Video: 1})
	x := bob.hear()
	x.packet(t)
	_, id := x.stream()
	told := await(bob.wire, func(m *signal.TrackPublished) bool { return m.Track.TrackID == id })
	require.Equal(t, "whiteboard", told.Track.Source)
	require.Equal(t, "Board", told.Track.Name)
	own := await(alice.wire, func(m *signal.TrackPublished) bool { return m.Track.TrackID == id })
	require.Equal(t, "3", own.Track.Mid)
	require.Empty(t, told.Track.Mid, "the mid is the publisher's alone")
}

// A browser's addTrack uses a section that it has only received on, and offers it as sendrecv.
func TestAClientMaySendWhereItReceives(t *testing.T) {
	w := newWorld(t)
	bob := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	alice := w.joinClient(clientOptions{})
	alice.hear().packet(t)
	settled(t, alice)
	alice.lock.Lock()
	alice.addTrack(t, opus) // pion too takes the first transceiver that may send
	alice.addTrack(t, opus)
	alice.lock.Unlock()
	alice.offer()
	for range 2 {
		x := bob.hear()
		x.packet(t)
		peer, _ := x.stream()
		require.Equal(t, alice.id, peer)
	}
}

// settled waits until no offer of the SFU is unanswered.
func settled(t *testing.T, c *client) {
	t.Helper()
	require.Eventually(t, func() bool { return c.pc.SignalingState() == webrtc.SignalingStateStable }, patience, 5*time.Millisecond)
}

func TestAStoppedTrackIsUnpublishedAndMayComeBack(t *testing.T) {
	w := newWorld(t)
	var s *source
	alice := w.joinClient(clientOptions{setUp: func(c *client) { s = c.addTrack(t, opus) }})
	first := await[*signal.TrackPublished](alice.wire).Track.TrackID
	settled(t, alice)
	alice.lock.Lock()
	require.NoError(t, alice.pc.RemoveTrack(s.sender))
	alice.lock.Unlock()
	alice.offer()
	await(alice.wire, func(m *signal.TrackUnpublished) bool { return m.Track.TrackID == first })
	settled(t, alice)
	alice.lock.Lock()
	alice.addTrack(t, opus)
	alice.lock.Unlock()
	alice.offer()
	await(alice.wire, func(m *signal.TrackPublished) bool { return m.Track.TrackID != first })
}

func TestUnsubscribeSubscribeAndPause(t *testing.T) {
	w := newWorld(t)
	w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	_, id := x.stream()
	bob.send(&signal.Prefer{TrackID: id, Paused: true})
	quiet(t, x)
	before := x.last
	bob.send(&signal.Prefer{TrackID: id})
	require.Equal(t, before+1, x.packet(t).SequenceNumber, "a pause is no loss")
	bob.send(&signal.Unsubscribe{TrackID: id})
	ended(t, x)
	bob.send(&signal.Subscribe{TrackID: id})
	y := bob.hear()
	y.packet(t)
	bob.send(&signal.Subscribe{TrackID: "t_none"})
	require.Equal(t, signal.CodeNotFound, await[*signal.Error](bob.wire).Code)
}

// quiet waits until no packet has come for a while.
func quiet(t *testing.T, x *remote) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case p := <-x.packets:
			x.last = p.SequenceNumber
		case <-time.After(200 * time.Millisecond):
			return
		case <-deadline:
			require.FailNow(t, "packets still come")
		}
	}
}

// ended waits for the end of a track, and gives its last packet.
func ended(t *testing.T, x *remote) (last *rtp.Packet) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case p, more := <-x.packets:
			if !more {
				return last
			}
			last = p
		case <-deadline:
			require.FailNow(t, "the track does not end")
		}
	}
}

// Every subscriber is sent the payload type it negotiated; one without the codec gets nothing of
// it and is disturbed in nothing else.
func TestASubscriberWithoutTheCodec(t *testing.T) {
	w := newWorld(t)
	w.joinClient(clientOptions{setUp: func(c *client) {
		c.addTrack(t, h264)
		c.addTrack(t, opus)
	}})
	poor := clientAPI(t, func(m *webrtc.MediaEngine) {
		require.NoError(t, m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: vp8, PayloadType: 120}, webrtc.RTPCodecTypeVideo))
		require.NoError(t, m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: opus, PayloadType: 109}, webrtc.RTPCodecTypeAudio))
	})
	bob := w.joinClient(clientOptions{api: poor})
	x := bob.hear()
	require.Equal(t, webrtc.RTPCodecTypeAudio, x.t.Kind())
	x.packet(t)
	rich := w.joinClient(clientOptions{})
	for range 2 {
		rich.hear().packet(t)
	}
	require.Empty(t, bob.heard, "no H.264 for bob")
}

func TestICERestartKeepsTheCall(t *testing.T) {
	w := newWorld(t)
	w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	settled(t, bob)
	before := ufrag(t, bob.pc.RemoteDescription().SDP)
	bob.send(&signal.Negotiate{ICERestart: true})
	require.Eventually(t, func() bool {
		d := bob.pc.CurrentRemoteDescription()
		return d != nil && ufrag(t, d.SDP) != before
	}, patience, 5*time.Millisecond)
	drainChan(x.packets)
	x.packet(t)
	x.packet(t)
}

func ufrag(t *testing.T, sdp string) string {
	t.Helper()
	for _, part := range sectionsOf(sdp) {
		if v, ok := attribute(part, "ice-ufrag"); ok {
			return v
		}
	}
	require.FailNow(t, "no ufrag")
	return ""
}
