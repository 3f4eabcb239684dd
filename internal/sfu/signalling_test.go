package sfu

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/signal"
)

func TestJoined(t *testing.T) {
	w := newWorld(t)
	alice := w.dial()
	alice.send(&signal.Join{Room: "daily", Name: "Alice", Metadata: json.RawMessage(`{"a":1}`)})
	a := await[*signal.Joined](alice)
	require.Equal(t, "daily", string(a.Room))
	require.Equal(t, "alice", string(a.UserID))
	require.False(t, a.Resumed)
	require.Empty(t, a.Peers)
	require.Equal(t, signal.Permissions{Publish: true, Subscribe: true, Data: true}, a.Permissions)
	require.Equal(t, signal.TypeJoined, alice.types()[0])
	c := await[*signal.TURNCredentials](alice)
	require.Equal(t, auth.TURNCredential("secret", c.Username), c.Credential)
	require.Equal(t, c.Credential, c.Password)

	bob := w.dial(func(t *auth.Ticket) { t.User = "bob" })
	bob.send(&signal.Join{Name: "Bob"})
	b := await[*signal.Joined](bob)
	require.Len(t, b.Peers, 1)
	require.Equal(t, a.PeerID, b.Peers[0].PeerID)
	require.Equal(t, "Alice", b.Peers[0].Name)
	require.JSONEq(t, `{"a":1}`, string(b.Peers[0].Metadata))
	seen := await[*signal.PeerJoined](alice)
	require.Equal(t, b.PeerID, seen.Peer.PeerID)
	require.Equal(t, "bob", string(seen.Peer.UserID), "the user is the ticket's, whatever a client claims")
}

// The specification's page only listens, and reaches a call.
func TestSilenceJoinsAndIsOfferedTo(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	began := time.Now()
	await[*signal.Joined](c)
	require.GreaterOrEqual(t, time.Since(began), signal.ImpliedJoinAfter-50*time.Millisecond)
	o := await[*signal.Offer](c)
	require.Equal(t, 1, strings.Count(o.SDP, "m=audio"))
	require.Equal(t, 1, strings.Count(o.SDP, "m=video"))
	require.Equal(t, 1, strings.Count(o.SDP, "m=application"))
	require.Contains(t, o.SDP, "a=ice-lite")
	require.Equal(t, 1, strings.Count(o.SDP, "a=candidate:")-strings.Count(o.SDP, " 2 udp "), "its one candidate is in the SDP")
	require.Contains(t, o.SDP, " 127.0.0.1 ")
}

func TestAnyFirstFrameJoins(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	c.send(&signal.Ping{T: 3})
	await[*signal.Joined](c)
	require.Equal(t, 3.0, await[*signal.Pong](c).T)
}

func TestTheSFUWaitsAMomentForTheClientsOffer(t *testing.T) {
	w := newWorld(t)
	patient, hasty := w.dial(), w.dial()
	began := time.Now()
	patient.send(&signal.Join{})
	hasty.send(&signal.Join{AwaitOffer: true})
	await[*signal.Offer](hasty)
	await[*signal.Offer](patient)
	require.GreaterOrEqual(t, time.Since(began), signal.OfferAfter)
}

func TestAnotherRoomIsForbidden(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	c.send(&signal.Join{Room: "other"})
	require.Equal(t, signal.CloseForbidden, c.closeCode())
}

func TestFramesThatCloseTheSocket(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		code   int
		frames func(c *wire)
	}{
		"a large first frame": {signal.CloseTooLarge, func(c *wire) {
			c.sendRaw(websocket.MessageText, []byte(`{"type":"join","name":"`+strings.Repeat("x", signal.MaxFirstFrame)+`"}`))
		}},
		"a large later frame": {signal.CloseTooLarge, func(c *wire) {
			c.send(&signal.Join{})
			await[*signal.Joined](c)
			c.sendRaw(websocket.MessageText, []byte(`{"type":"ping","x":"`+strings.Repeat("x", signal.MaxFrame)+`"}`))
		}},
		"a binary frame": {signal.CloseMalformed, func(c *wire) { c.sendRaw(websocket.MessageBinary, []byte(`{"type":"join"}`)) }},
		"no JSON":        {signal.CloseMalformed, func(c *wire) { c.sendRaw(websocket.MessageText, []byte(`join`)) }},
		"no type":        {signal.CloseMalformed, func(c *wire) { c.sendRaw(websocket.MessageText, []byte(`{"a":1}`)) }},
		"too many frames": {signal.CloseTooFast, func(c *wire) {
			for range signal.FrameBurst + 10 {
				c.sendRaw(websocket.MessageText, []byte(`{"type":"pong","t":1}`))
			}
		}},
		"leave": {signal.CloseLeft, func(c *wire) { c.send(&signal.Join{}); c.send(&signal.Leave{}) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := w.dial()
			c.frames(s)
			require.Equal(t, c.code, s.closeCode())
		})
	}
}

// A large offer is fine as soon as the client has joined.
func TestALargeFrameAfterJoining(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	c.send(&signal.Join{})
	c.sendRaw(websocket.MessageText, []byte(`{"type":"offer","sdp":"`+strings.Repeat("x", 100_000)+`"}`))
	require.Equal(t, signal.CodeBadSDP, await[*signal.Error](c).Code)
}

func TestErrorsThatLeaveTheSocketOpen(t *testing.T) {
	w := newWorld(t)
	c := w.dial(func(t *auth.Ticket) { t.Publish, t.Subscribe = false, false })
	c.send(&signal.Join{})
	await[*signal.Joined](c)
	pace := time.NewTicker(time.Second / signal.FramesPerSecond) // stay below the frame rate
	defer pace.Stop()
	for _, x := range []struct{ frame, code string }{
		{`{"type":"dance"}`, signal.CodeUnknownType},
		{`{"type":"joined","peer_id":"p_1"}`, signal.CodeUnknownType},
		{`{"type":"join"}`, signal.CodeInvalid},
		{`{"type":"subscribe"}`, signal.CodeInvalid},
		{`{"type":"subscribe","track_id":7}`, signal.CodeInvalid},
		{`{"type":"subscribe","track_id":"t_1"}`, signal.CodeForbidden},
		{`{"type":"unsubscribe","track_id":"t_1"}`, signal.CodeNotFound},
		{`{"type":"prefer","track_id":"t_1","paused":true}`, signal.CodeNotFound},
		{`{"type":"mute","track_id":"t_1","muted":true}`, signal.CodeNotFound},
		{`{"type":"negotiate","audio":1}`, signal.CodeForbidden},
		{`{"type":"answer","sdp":"v=0"}`, signal.CodeBadSDP},
		{`{"type":"ice-candidate","candidate":{"candidate":"nonsense"}}`, signal.CodeBadSDP},
	} {
		c.mu.Lock()
		c.got = nil
		c.mu.Unlock()
		require.NoError(t, c.sendRaw(websocket.MessageText, []byte(x.frame)))
		require.Equal(t, x.code, await[*signal.Error](c).Code, x.frame)
		<-pace.C
	}
}

func TestCandidatesOfOtherTypesAreCounted(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{})
	require.Eventually(t, func() bool { return alice.pc.ConnectionState() == webrtc.PeerConnectionStateConnected }, patience, 5*time.Millisecond)
	before := w.srv.Status().Counters.CandidatesRemoved
	for _, c := range []string{
		"candidate:1 1 udp 2130706431 192.168.1.2 50000 typ host",
		"candidate:2 1 udp 1694498815 203.0.113.7 50001 typ srflx raddr 0.0.0.0 rport 0",
		"candidate:3 1 tcp 1518280447 192.168.1.2 9 typ host tcptype active",
		"candidate:4 1 udp 2130706431 b1946ac9.local 50000 typ host",
		"candidate:5 1 udp 41885439 relay.example 50000 typ relay raddr 0.0.0.0 rport 0",
		"candidate:6 1 udp 41885439 10.0.0.1 50000 typ relay raddr 0.0.0.0 rport 0",
	} {
		alice.send(&signal.ICECandidate{Candidate: &signal.CandidateInit{Candidate: c}})
	}
	alice.send(&signal.ICECandidate{})
	alice.send(&signal.Ping{T: 9})
	await[*signal.Pong](alice.wire)
	require.Equal(t, before+5, w.srv.Status().Counters.CandidatesRemoved)
	require.NotContains(t, alice.types(), signal.TypeError)
}

func TestMuteIsTheOwnersAlone(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	bob := w.joinClient(clientOptions{})
	track := await[*signal.TrackPublished](alice.wire).Track
	require.Equal(t, "microphone", track.Source)
	bob.hear().packet(t)
	bob.send(&signal.Mute{TrackID: track.TrackID, Muted: true})
	require.Equal(t, signal.CodeForbidden, await[*signal.Error](bob.wire).Code)
	alice.send(&signal.Mute{TrackID: track.TrackID, Muted: true})
	told := await[*signal.TrackMuted](bob.wire)
	require.True(t, told.Track.Muted)
	require.Equal(t, alice.id, told.PeerID)
	late := w.dial()
	late.send(&signal.Join{})
	require.True(t, await[*signal.Joined](late).Peers[0].Tracks[0].Muted)
}

func TestSourcesByDefault(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) {
		c.addTrack(t, opus)
		c.addTrack(t, vp8)
	}})
	camera := await(alice.wire, func(m *signal.TrackPublished) bool { return m.Track.Kind == "video" })
	require.Equal(t, "camera", camera.Track.Source)
	alice.lock.Lock()
	alice.addTrack(t, vp8)
	alice.lock.Unlock()
	alice.send(&signal.Negotiate{Video: 1})
	await(alice.wire, func(m *signal.TrackPublished) bool { return m.Track.Source == "screen" })
}

func TestWithoutPermissionToPublishThereIsNowhereToSend(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){func(t *auth.Ticket) { t.Publish = false }}})
	require.NotContains(t, await[*signal.Offer](alice.wire).SDP, "m=audio")
	settled(t, alice)
	alice.lock.Lock()
	alice.addTrack(t, opus)
	alice.lock.Unlock()
	alice.offer()
	await[*signal.Answer](alice.wire)
	require.Equal(t, signal.CodeForbidden, await[*signal.Error](alice.wire).Code)
	require.NotContains(t, alice.types(), signal.TypeTrackPublished)
}

func TestWithoutPermissionToSubscribeNothingArrives(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	id := await[*signal.TrackPublished](alice.wire).Track.TrackID
	bob := w.joinClient(clientOptions{ticket: []func(*auth.Ticket){func(t *auth.Ticket) { t.Subscribe = false }}})
	require.Empty(t, await[*signal.Offer](bob.wire).Tracks)
	bob.send(&signal.Subscribe{TrackID: id})
	require.Equal(t, signal.CodeForbidden, await[*signal.Error](bob.wire).Code)
}

func TestAutoSubscribeMayBeTurnedOff(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	id := await[*signal.TrackPublished](alice.wire).Track.TrackID
	no := false
	bob := w.joinClient(clientOptions{join: &signal.Join{AwaitOffer: true, AutoSubscribe: &no}})
	require.Empty(t, await[*signal.Offer](bob.wire).Tracks)
	bob.send(&signal.Subscribe{TrackID: id})
	bob.hear().packet(t)
}

// A lost socket: media goes on, and a new socket is the same peer.
func TestResume(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	token := await[*signal.Joined](bob.wire).Resume
	require.NotEmpty(t, token)
	settled(t, bob)
	bob.ws.CloseNow()
	<-bob.done
	drainChan(x.packets)
	x.packet(t)

	bob.wire = w.dialWith(bob.onMessage)
	bob.send(&signal.Join{Resume: token})
	again := await[*signal.Joined](bob.wire)
	require.True(t, again.Resumed)
	require.Equal(t, bob.id, again.PeerID)
	require.NotEqual(t, token, again.Resume, "a token works once")
	require.Len(t, again.Peers, 1)
	require.Equal(t, alice.id, again.Peers[0].PeerID)
	require.Len(t, again.Peers[0].Tracks, 1)
	await[*signal.TURNCredentials](bob.wire)
	require.NotContains(t, alice.types(), signal.TypePeerLeft)
	w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	bob.hear().packet(t)
}

func TestResumeReplacesALivingSocket(t *testing.T) {
	w := newWorld(t)
	old := w.dial()
	old.send(&signal.Join{})
	first := await[*signal.Joined](old)
	next := w.dial()
	next.send(&signal.Join{Resume: first.Resume})
	require.True(t, await[*signal.Joined](next).Resumed)
	require.Equal(t, signal.CloseResumed, old.closeCode())
	next.send(&signal.Ping{T: 1})
	await[*signal.Pong](next)
}

func TestResumeNeedsTheSameUserAndTheSameRights(t *testing.T) {
	w := newWorld(t)
	alice := w.dial()
	alice.send(&signal.Join{})
	first := await[*signal.Joined](alice)
	mallory := w.dial(func(t *auth.Ticket) { t.User = "mallory" })
	mallory.send(&signal.Join{Resume: first.Resume})
	m := await[*signal.Joined](mallory)
	require.False(t, m.Resumed)
	require.NotEqual(t, first.PeerID, m.PeerID)
	demoted := w.dial(func(t *auth.Ticket) { t.Publish = false })
	demoted.send(&signal.Join{Resume: first.Resume})
	d := await[*signal.Joined](demoted)
	require.False(t, d.Resumed)
	require.False(t, d.Permissions.Publish)
	await(mallory, func(m *signal.PeerLeft) bool { return m.PeerID == first.PeerID })
}

// An offer that was on its way when the socket was lost is sent again.
func TestAnUnansweredOfferIsSentAgain(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	c.send(&signal.Join{AwaitOffer: true})
	token := await[*signal.Joined](c).Resume
	offer := await[*signal.Offer](c)
	c.ws.CloseNow()
	<-c.done
	next := w.dial()
	next.send(&signal.Join{Resume: token})
	require.Equal(t, offer.SDP, await[*signal.Offer](next).SDP)
}

func TestAnUnknownResumeTokenStartsOver(t *testing.T) {
	w := newWorld(t)
	c := w.dial()
	c.send(&signal.Join{Resume: "r_unknown"})
	require.False(t, await[*signal.Joined](c).Resumed)
}

// A token's TTL is short here: credentials come again at 80 % of it.
func TestCredentialsAreRefreshed(t *testing.T) {
	w := newWorld(t)
	next := w.spec
	next.CredentialTTL = 2 * time.Second
	require.NoError(t, w.srv.Apply(next))
	c := w.dial(func(t *auth.Ticket) { t.Transports = []string{"tcp"} })
	c.send(&signal.Join{})
	require.Empty(t, await[*signal.TURNCredentials](c).URLs, "none of the servers is of the transport asked for")
	began := time.Now()
	await[*signal.RefreshCredentials](c)
	require.WithinRange(t, time.Now(), began.Add(time.Second), began.Add(4*time.Second))
}

// An unresponsive network: the connection is cut without a close frame, and nobody resumes.
func TestASocketThatVanishesKeepsThePeerForAWhile(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.dial(), w.dial()
	for _, c := range []*wire{alice, bob} {
		c.send(&signal.Join{})
		await[*signal.Joined](c)
	}
	bob.ws.CloseNow()
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	<-ctx.Done()
	require.NotContains(t, alice.types(), signal.TypePeerLeft)
	require.Equal(t, 2, w.srv.Status().Rooms[0].Peers)
}
