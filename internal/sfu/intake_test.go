package sfu

import (
	"runtime"
	"slices"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/sfu/srtp"
	"orama.network/orama/internal/signal"
)

func plainUp(pt uint8, seq uint16) []byte {
	b := make([]byte, rtpHeader, 100)
	header(b, pt, seq, 0, 7)
	return append(b, 1)
}

// A stream's packets take pion's way until somebody reads them, knows their payload type, and those on that way have arrived; and one a second takes both.
func TestWhichWayAPacketTakes(t *testing.T) {
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	var s upStream
	require.False(t, s.take(plainUp(96, 1), at(0)), "nobody reads")
	f := newFeed(at(5))
	s.attach(f)
	require.False(t, s.take(plainUp(96, 2), at(20)), "its reader knows no type")
	f.learn(96)
	f.learn(63)
	require.False(t, s.take(plainUp(96, 3), at(25)), "the one before may be on its way")
	require.False(t, s.take(plainUp(96, 4), at(34)))
	require.Zero(t, f.Count())
	require.False(t, s.take(plainUp(96, 5), at(44)), "the first takes both ways")
	require.True(t, s.had(5))
	require.True(t, s.take(plainUp(96, 6), at(45)))
	require.True(t, s.take(plainUp(63, 7), at(46)))
	require.Equal(t, 3, f.Count())
	require.False(t, s.take(plainUp(127, 8), at(47)), "a type that is new")
	require.False(t, s.take(plainUp(96, 9), at(48)), "it does not overtake")
	require.True(t, s.take(plainUp(96, 10), at(60)))
	require.False(t, s.had(10))
	require.True(t, s.take(plainUp(96, 11), at(1043)))
	require.False(t, s.take(plainUp(96, 12), at(1044)), "a second has passed")
	require.True(t, s.had(12))
	require.False(t, s.had(5))
	s.detach(newFeed(at(0)))
	require.True(t, s.take(plainUp(96, 13), at(1045)), "that was another's")
	s.detach(f)
	require.False(t, s.take(plainUp(96, 14), at(1100)))

	busy := newFeed(at(0))
	busy.learn(96)
	s.attach(busy)
	ms := 1105
	for ; ms < 4000 && !s.direct; ms++ {
		s.take(plainUp(96, uint16(ms)), at(ms))
	}
	require.Equal(t, 2106, ms, "it was never quiet, for a second")
}

// In a real call the media of a publisher takes the short way, and comes once and in its order.
func TestMediaTakesTheShortWay(t *testing.T) {
	w := newWorld(t)
	var voice *source
	alice := w.joinClient(clientOptions{join: &signal.Join{}, setUp: func(c *client) { voice = c.addTrack(t, opus) }})
	alice.offer()
	bob := w.joinClient(clientOptions{})
	x := bob.hear()
	x.packet(t)
	var s *upStream
	w.inside(t, func(p *peer) { s = p.taps.stream(uint32(voice.sender.GetParameters().Encodings[0].SSRC)) }, alice.id)
	require.NotNil(t, s)
	require.Eventually(t, func() bool { return s.mirror.Load() != 0 }, patience, 10*time.Millisecond)
	last := x.packet(t).SequenceNumber
	for range 100 { // two seconds: some take both ways
		seq := x.packet(t).SequenceNumber
		require.Equal(t, last+1, seq, "each comes once, in its order")
		last = seq
	}
}

// Who stays while others come and go for long has no more sections, sources or streams than there are people, and holds nobody that has left.
func TestVisitorsLeaveNothingBehind(t *testing.T) {
	w := newWorld(t)
	bob := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus) }})
	holds := func() (sources, sections, streams int) {
		w.inside(t, func(p *peer) {
			p.out.mu.Lock()
			defer p.out.mu.Unlock()
			sources, sections, streams = int(p.taps.count.Load()), len(p.downs), len(p.out.secure.streams)
		}, bob.id)
		return sources, sections, streams
	}
	var few [3]int
	var gone []weak.Pointer[peer]
	var before *client
	require.NoError(t, bob.open(t, "chat", nil).SendText("it stays"))
	for n := range 8 { // each is there for a while with the one before
		visitor := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, opus); c.addTrack(t, vp8) }})
		for range 2 {
			bob.hear().packet(t)
		}
		require.NoError(t, visitor.open(t, "chat", nil).SendText("hello"))
		wait(t, wait(t, bob.chans, "a copy").got, "the message")
		w.inside(t, func(p *peer) { gone = append(gone, weak.Make(p)) }, visitor.id)
		if before != nil {
			before.send(&signal.Leave{})
			await(bob.wire, func(m *signal.PeerLeft) bool { return m.PeerID == before.id })
		}
		before = visitor
		sources, sections, streams := holds()
		if n == 3 {
			few = [3]int{sources, sections, streams}
		}
	}
	before.send(&signal.Leave{})
	await(bob.wire, func(m *signal.PeerLeft) bool { return m.PeerID == before.id })
	sources, sections, streams := holds()
	require.Equal(t, few, [3]int{sources, sections, streams})
	require.Eventually(t, func() bool {
		runtime.GC()
		return !slices.ContainsFunc(gone, func(p weak.Pointer[peer]) bool { return p.Value() != nil })
	}, patience, 50*time.Millisecond)
}

// Packets of a stream that pion has not met are noted when they came, and left to it; none is taken twice by either.
func TestTheFirstPacketsAreNoted(t *testing.T) {
	key, salt := make([]byte, 16), make([]byte, 12)
	seal, err := srtp.NewSealer(srtp.AES128GCM, key, salt)
	require.NoError(t, err)
	open, err := srtp.NewOpener(srtp.AES128GCM, key, salt)
	require.NoError(t, err)
	taps := &taps{}
	taps.arrivals.id.Store(3)
	defer taps.arrivals.close()
	var of srtp.Stream
	for n := range 3 {
		b, err := seal.Seal(append(make([]byte, 0, maxPacket), numberedUp(uint16(n), uint16(n))...), &of)
		require.NoError(t, err)
		require.False(t, taps.media(open, make([]byte, 0, maxPacket), b, time.Now()))
		b[len(b)-1]++
		require.False(t, taps.media(open, make([]byte, 0, maxPacket), b, time.Now()))
	}
	func() {
		taps.arrivals.mu.Lock()
		defer taps.arrivals.mu.Unlock()
		require.Equal(t, 3, taps.arrivals.recorder.PacketsHeld())
	}()

	taps.meet(7)
	s, f := taps.stream(7), newFeed(time.Now())
	f.learn(96)
	s.attach(f)
	b, err := seal.Seal(append(make([]byte, 0, maxPacket), numberedUp(10, 10)...), &of)
	require.NoError(t, err)
	require.False(t, taps.media(open, make([]byte, 0, maxPacket), b, time.Now()), "it takes both ways")
	require.Equal(t, 1, f.Count())
	require.True(t, taps.media(open, make([]byte, 0, maxPacket), b, time.Now()), "it came before, and pion is not asked")
	require.Equal(t, 1, f.Count())
}

// What is sent again comes by the short way under its own number, without the padding that the stream of retransmissions has too; and pion sees one a second of it.
func TestRepairs(t *testing.T) {
	f := newFeed(start)
	f.learn(96)
	s := &upStream{}
	s.repairs.Store(&repairs{feed: f, of: map[uint8]uint8{97: 96}})
	again := func(payload ...byte) []byte { return append(numberedUp(500, 1)[:rtpHeader+8], payload...) }
	b := again(0x12, 0x34, 7, 8, 9)
	b[1] = 0x80 | 97
	require.False(t, s.take(b, start), "both ways")
	require.True(t, s.had(500))
	require.True(t, s.take(b, start.Add(time.Millisecond)))
	got := make([]byte, maxPacket)
	n, _, err := f.Read(got, nil)
	require.NoError(t, err)
	require.Equal(t, []byte{0x80 | 96, 0x12, 0x34}, got[1:4])
	require.Equal(t, []byte{7, 8, 9}, got[rtpHeader+8:n])
	require.NotZero(t, got[0]&0x10)
	require.EqualValues(t, 7, sourceOf(got))

	padding := again(0, 0, 3)
	padding[0], padding[1] = padding[0]|0x20, 97
	require.True(t, s.take(padding, start))
	require.Equal(t, 1, f.Count(), "the second of the first two")
	broken := again(0, 0, 200)
	broken[0], broken[1] = broken[0]|0x20, 97
	require.True(t, s.take(broken, start))
	other := again(1, 2, 3)
	other[1] = 98
	require.False(t, s.take(other, start))
	require.Equal(t, 1, f.Count())
	s.detach(newFeed(start))
	require.NotNil(t, s.repairs.Load())
	s.detach(f)
	require.Nil(t, s.repairs.Load())
}
