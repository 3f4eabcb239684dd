package sfu

import (
	"encoding/binary"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/sdp/v3"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/signal"
)

// The audio level reaches subscribers under their own extension id, and the room as speakers.
func TestAudioLevels(t *testing.T) {
	w := newWorld(t)
	var voice *source
	alice := w.joinClient(clientOptions{join: &signal.Join{}, setUp: func(c *client) { voice = c.addTrack(t, opus) }})
	voice.level.Store(20)
	alice.offer() // the ids are alice's choice
	await[*signal.TrackPublished](alice.wire)
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	id := func(uri string, list []webrtc.RTPHeaderExtensionParameter) uint8 {
		for _, e := range list {
			if e.URI == uri {
				return uint8(e.ID)
			}
		}
		return 0
	}
	theirs, ours := id(audioLevelURI, voice.sender.GetParameters().HeaderExtensions), id(audioLevelURI, x.r.GetParameters().HeaderExtensions)
	require.NotEqual(t, theirs, ours, "the test needs different ids")
	p := x.packet(t)
	number := id(sdp.TransportCCURI, x.r.GetParameters().HeaderExtensions)
	require.ElementsMatch(t, []uint8{ours, number}, p.GetExtensionIDs(), "this one and the SFU's own number, and no other")
	require.Equal(t, []byte{20}, p.GetExtension(ours))
	loud := await(bob.wire, func(m *signal.Speakers) bool { return len(m.Levels) == 1 && m.Levels[0].Level > 0 })
	require.Equal(t, alice.id, loud.Levels[0].PeerID)
	require.InDelta(t, 0.6, loud.Levels[0].Level, 0.01)
	voice.level.Store(127)
	await(bob.wire, func(m *signal.Speakers) bool { return m.Levels[0].Level == 0 })
	count := func() (n int) {
		for _, m := range bob.types() {
			if m == signal.TypeSpeakers {
				n++
			}
		}
		return n
	}
	before := count()
	require.Never(t, func() bool { return count() != before }, 3*speakersEvery, 20*time.Millisecond, "silence is told once")
}

// A subscriber that takes RED is sent it whole, one that does not the primary encoding alone.
func TestREDIsUnwrappedForThoseWithoutIt(t *testing.T) {
	w := newWorld(t)
	red := webrtc.RTPCodecCapability{MimeType: mimeRED, ClockRate: 48000, Channels: 2, SDPFmtpLine: "111/111"}
	modern := clientAPI(t, func(m *webrtc.MediaEngine) {
		require.NoError(t, m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: opus, PayloadType: 111}, webrtc.RTPCodecTypeAudio))
		require.NoError(t, m.RegisterCodec(webrtc.RTPCodecParameters{RTPCodecCapability: red, PayloadType: 63}, webrtc.RTPCodecTypeAudio))
	})
	w.joinClient(clientOptions{api: modern, setUp: func(c *client) { c.addTrack(t, red).red.Store(true) }})
	plain := w.joinClient(clientOptions{}).hear()
	require.Equal(t, webrtc.MimeTypeOpus, plain.t.Codec().MimeType)
	require.Len(t, plain.packet(t).Payload, 6)
	wrapped := w.joinClient(clientOptions{api: modern}).hear()
	require.Equal(t, mimeRED, wrapped.t.Codec().MimeType)
	require.Len(t, wrapped.packet(t).Payload, 13)
}

// A loss on the way up is asked for at the publisher; one on the way down is answered by the SFU.
func TestRetransmission(t *testing.T) {
	w := newWorld(t)
	var camera *source
	w.joinClient(clientOptions{setUp: func(c *client) { camera = c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	seen := x.packet(t)
	for range 5 {
		x.packet(t)
	}
	require.NoError(t, bob.pc.WriteRTCP([]rtcp.Packet{&rtcp.TransportLayerNack{
		MediaSSRC: uint32(x.t.SSRC()), Nacks: []rtcp.NackPair{{PacketID: seen.SequenceNumber}},
	}}))
	for again := x.packet(t); again.SequenceNumber != seen.SequenceNumber; again = x.packet(t) {
		require.Less(t, again.SequenceNumber-seen.SequenceNumber, uint16(500), "the packet did not come again")
	}
	camera.gaps.Store(true)
	require.EqualValues(t, 5, wait(t, camera.nack, "a request for the missing packet")%10)
}

// A track whose codec changes is another track to its subscribers: they have to negotiate it.
func TestACodecChangeIsANewTrack(t *testing.T) {
	w := newWorld(t)
	var camera *source
	alice := w.joinClient(clientOptions{setUp: func(c *client) { camera = c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	_, first := x.stream()
	other, err := webrtc.NewTrackLocalStaticRTP(h264, "y", "stream")
	require.NoError(t, err)
	alice.lock.Lock()
	require.NoError(t, camera.sender.ReplaceTrack(other))
	alice.lock.Unlock()
	camera.close()
	second := &source{track: other, sender: camera.sender, stop: make(chan struct{})}
	alice.sources = append(alice.sources, second)
	alice.wg.Go(second.run)
	await(bob.wire, func(m *signal.TrackUnpublished) bool { return m.Track.TrackID == first })
	y := bob.hear()
	y.packet(t)
	require.Equal(t, webrtc.MimeTypeH264, y.t.Codec().MimeType)
}

// Whoever offers a section says which codec it would send, the first time and later: the answer goes by that.
func TestAnAnswerKeepsTheOrderOfTheOffersCodecs(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{join: &signal.Join{}, setUp: func(c *client) {
		_, err := c.pc.CreateDataChannel("x", nil) // else the SFU would offer that
		require.NoError(t, err)
	}})
	tr, err := alice.pc.AddTransceiverFromKind(webrtc.RTPCodecTypeVideo, webrtc.RTPTransceiverInit{Direction: webrtc.RTPTransceiverDirectionSendonly})
	require.NoError(t, err)
	mimes := []string{webrtc.MimeTypeVP8, webrtc.MimeTypeVP9, webrtc.MimeTypeAV1, webrtc.MimeTypeH264}
	all := tr.Sender().GetParameters().Codecs
	for round, first := range []string{webrtc.MimeTypeVP9, webrtc.MimeTypeAV1, webrtc.MimeTypeVP8, webrtc.MimeTypeH264} {
		var order []webrtc.RTPCodecParameters
		for _, mime := range append([]string{first}, mimes...) {
			for _, c := range all {
				if c.MimeType == mime && !slices.ContainsFunc(order, func(o webrtc.RTPCodecParameters) bool { return o.PayloadType == c.PayloadType }) {
					order = append(order, c)
				}
			}
		}
		require.NoError(t, tr.SetCodecPreferences(order))
		alice.offer()
		seen := 0
		text := await(alice.wire, func(*signal.Answer) bool { seen++; return seen > round }).SDP
		var d sdp.SessionDescription
		require.NoError(t, d.UnmarshalString(text))
		got := d.MediaDescriptions[slices.IndexFunc(d.MediaDescriptions, func(m *sdp.MediaDescription) bool { return m.MediaName.Media == "video" })]
		pt, err := strconv.Atoi(got.MediaName.Formats[0])
		require.NoError(t, err)
		codec, err := d.GetCodecForPayloadType(uint8(pt))
		require.NoError(t, err)
		require.Equal(t, first, "video/"+codec.Name)
	}
}

// A client checks its path all the time, and media comes from there all the time: that is no change of the path, and nobody asks for a
// keyframe, nor is what was learnt of the path forgotten.
func TestChecksOfThePathInUseChangeNothing(t *testing.T) {
	const every = 10 * time.Millisecond
	w := newWorld(t)
	w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, vp8) }})
	bob := w.joinClient(clientOptions{api: clientAPIWith(t, func(s *webrtc.SettingEngine) {
		s.SetICETimeouts(10*time.Second, 20*time.Second, every) // a check every so often
	})})
	x := bob.hear()
	asked := func() uint64 { return w.srv.metrics.pliSent.Load() + w.srv.metrics.pliCoalesced.Load() }
	for range 100 { // a second, in which bob begins
		x.packet(t)
	}
	before := asked()
	for range 200 {
		x.packet(t)
	}
	require.LessOrEqual(t, asked(), before+5, "two seconds of checks asked for keyframes")
}

// Many peers come and go at once; in the end nothing is left of them.
func TestComingAndGoing(t *testing.T) {
	w := newWorld(t)
	stay := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	for range 3 {
		var crowd []*client
		for range 4 {
			crowd = append(crowd, w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }}))
		}
		for i, c := range crowd {
			c.hear().packet(t)
			if i%2 == 0 {
				c.send(&signal.Leave{})
			} else {
				c.ws.Close(1001, "")
			}
		}
	}
	require.Eventually(t, func() bool { return w.srv.Status().Rooms[0].Peers == 1 }, patience, 5*time.Millisecond)
	require.EqualValues(t, 1, w.srv.metrics.tracks.Load())
	require.EqualValues(t, 1, w.srv.metrics.peers.Load())
	await[*signal.TrackPublished](stay.wire)
}

// nowhere takes packets as a subscriber's stream does.
type nowhere struct{ last uint16 }

func (n *nowhere) Write(b []byte) (int, error) {
	n.last = binary.BigEndian.Uint16(b[2:])
	return len(b), nil
}

// wired gives a track with subscribers, and one packet of it.
func wired(t testing.TB, subscribers int) (*up, *packet) {
	t.Helper()
	u := &up{id: "t", owner: "p", kind: webrtc.RTPCodecTypeAudio, codec: opus, metrics: newMetrics()}
	u.subs.Store(&[]*down{})
	u.layers.Store(&[]*layer{})
	for range subscribers {
		d := newDown(u, newEgress(u.metrics, func() {}))
		d.bound = &binding{writer: &nowhere{}, pt: 111, twccID: 5}
		d.bound.exts[extLevel] = 3
		u.attach(d)
	}
	raw := []byte{0x90, 111, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0xbe, 0xde, 0, 1, 0x10, 20, 0, 0, 1, 2, 3}
	u.kinds[1] = extLevel + 1
	p := &packet{up: u}
	require.True(t, p.parse(raw, &u.kinds))
	require.Equal(t, []byte{20}, p.ext[extLevel])
	require.Equal(t, []byte{1, 2, 3}, p.payload)
	return u, p
}

// The garbage collector has no part in forwarding.
func TestForwardingAllocatesNothing(t *testing.T) {
	u, p := wired(t, 3)
	raw := []byte{0x90, 111, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0xbe, 0xde, 0, 1, 0x10, 20, 0, 0, 1, 2, 3}
	seq := uint16(0)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		seq++
		raw[2], raw[3] = byte(seq>>8), byte(seq)
		p.parse(raw, &u.kinds)
		u.note(p.ext[extLevel])
		for _, d := range *u.subs.Load() {
			d.forward(p)
		}
	}))
	require.Equal(t, seq, (*u.subs.Load())[2].bound.writer.(*nowhere).last)
}

func BenchmarkForward(b *testing.B) {
	u, p := wired(b, 1)
	d := (*u.subs.Load())[0]
	for b.Loop() {
		p.hdr.SequenceNumber++
		d.forward(p)
	}
}

func TestParseRefusesWhatIsNoRTP(t *testing.T) {
	p := packet{}
	for _, b := range [][]byte{nil, {0x80}, make([]byte, 11), {0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 200}, {0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0xff, 0xff}} {
		require.False(t, p.parse(b, &extensionKinds{}), "%x", b)
	}
}
