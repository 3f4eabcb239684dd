package sfu

import (
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/signal"
)

func TestTheFirstKeyframeRequestGoesOutAtOnce(t *testing.T) {
	var k keyframes
	now := time.Unix(1000, 0)
	send, after := k.ask(now)
	require.True(t, send)
	require.Zero(t, after)
	send, after = k.ask(now.Add(100 * time.Millisecond))
	require.False(t, send)
	require.Equal(t, 400*time.Millisecond, after)
	send, after = k.ask(now.Add(200 * time.Millisecond))
	require.False(t, send)
	require.Zero(t, after, "it is part of the one that waits")
	require.True(t, k.due(now.Add(500*time.Millisecond)))
	require.False(t, k.due(now.Add(500*time.Millisecond)), "once")
	send, _ = k.ask(now.Add(time.Minute))
	require.True(t, send)
}

// Whoever asks whenever: requests are at least keyframeEvery apart, and every wish is followed
// by a request within keyframeEvery.
func TestKeyframeRequestsAreFewAndNoneIsForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k keyframes
		now := time.Unix(1000, 0)
		var sent []time.Time
		var dueAt, wish time.Time
		fire := func(until time.Time) {
			if !dueAt.IsZero() && !dueAt.After(until) {
				if !k.due(dueAt) {
					t.Fatalf("nothing due at %v", dueAt)
				}
				sent, dueAt, wish = append(sent, dueAt), time.Time{}, time.Time{}
			}
		}
		for _, gap := range rapid.SliceOfN(rapid.IntRange(0, 900), 1, 100).Draw(t, "gaps") {
			now = now.Add(time.Duration(gap) * time.Millisecond)
			fire(now)
			if !wish.IsZero() && now.Sub(wish) > keyframeEvery {
				t.Fatalf("a wish of %v is still open at %v", wish, now)
			}
			send, after := k.ask(now)
			switch {
			case send:
				sent, wish = append(sent, now), time.Time{}
			case after > 0:
				dueAt, wish = now.Add(after), now
			}
		}
		for i := 1; i < len(sent); i++ {
			if sent[i].Sub(sent[i-1]) < keyframeEvery {
				t.Fatalf("two requests within %v", sent[i].Sub(sent[i-1]))
			}
		}
	})
}

func TestMungerJoinsSources(t *testing.T) {
	var m munger
	now := time.Unix(1000, 0)
	seq, ts, ok := m.next(65534, 4294967000, 90000, now)
	require.True(t, ok)
	require.Equal(t, uint16(65534), seq)
	require.Equal(t, uint32(4294967000), ts)
	seq, _, _ = m.next(65535, 4294967100, 90000, now)
	require.Equal(t, uint16(65535), seq)
	m.switchTo()
	now = now.Add(100 * time.Millisecond)
	seq, ts, ok = m.next(7000, 12345, 90000, now)
	require.True(t, ok)
	require.Equal(t, uint16(0), seq, "the next number, over the wrap")
	passed := ts - 4294967100 // over the wrap as well
	require.Equal(t, uint32(9001), passed, "100 ms at 90 kHz, and one more")
	_, _, ok = m.next(6999, 12300, 90000, now)
	require.False(t, ok, "a straggler from before the switch would repeat a number")
	seq, ts, _ = m.next(7002, 12345+180, 90000, now)
	require.Equal(t, uint16(2), seq, "a loss stays a loss")
	require.Equal(t, passed+180, ts-4294967100)
	seq, _, ok = m.next(7001, 12345+90, 90000, now)
	require.True(t, ok)
	require.Equal(t, uint16(1), seq, "and what comes late is not lost")
}

func TestMungerResumesWithoutLoss(t *testing.T) {
	var m munger
	now := time.Unix(1000, 0)
	m.next(10, 1000, 48000, now)
	m.skip()
	m.skip()
	seq, ts, ok := m.next(500, 241000, 48000, now.Add(5*time.Second))
	require.True(t, ok)
	require.Equal(t, uint16(11), seq)
	require.Equal(t, uint32(241000), ts, "the same clock went on")
}

// However sources are switched and paused: what goes out never repeats a number that a
// packet in order had, and in-order packets of one source stay in order without gaps.
func TestMungerNeverRepeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m munger
		now := time.Unix(1000, 0)
		in := uint16(rapid.Uint16().Draw(t, "start"))
		last, any := uint16(0), false
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(10 * time.Millisecond)
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				m.switchTo()
				in = rapid.Uint16().Draw(t, "seq")
			case 1:
				m.skip()
				in++
				continue
			default:
				in++
			}
			out, _, ok := m.next(in, 1, 90000, now)
			if !ok {
				t.Fatalf("packet %d was dropped", in)
			}
			if any && out != last+1 {
				t.Fatalf("%d follows %d", out, last)
			}
			last, any = out, true
		}
	})
}

func TestLifeline(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(d time.Duration) time.Time { return start.Add(d) }
	const eternity = time.Hour
	for name, c := range map[string]struct {
		events func(l *lifeline)
		last   time.Duration // the last moment at which the peer is kept
	}{
		"no media yet":               {func(*lifeline) {}, eternity},
		"all well":                   {func(l *lifeline) { l.mediaFlows() }, eternity},
		"socket lost, media flows":   {func(l *lifeline) { l.mediaFlows(); l.socketLost = start }, signal.ResumeWithin - 1},
		"socket lost, no media yet":  {func(l *lifeline) { l.socketLost = start }, silentAfter - 1},
		"media lost, socket lives":   {func(l *lifeline) { l.mediaFlows(); l.mediaSilent(start) }, restartWithin - 1},
		"media lost, socket later":   {func(l *lifeline) { l.mediaFlows(); l.mediaSilent(start); l.socketLost = at(time.Second) }, -1},
		"the page closed both":       {func(l *lifeline) { l.mediaFlows(); l.ended = true; l.mediaSilent(start); l.socketLost = start }, -1},
		"media lost and back":        {func(l *lifeline) { l.mediaFlows(); l.mediaSilent(start); l.mediaFlows() }, eternity},
		"socket lost and back":       {func(l *lifeline) { l.mediaFlows(); l.socketLost = start; l.socketLost = time.Time{} }, eternity},
		"silent before it connected": {func(l *lifeline) { l.mediaSilent(start) }, eternity},
	} {
		t.Run(name, func(t *testing.T) {
			var l lifeline
			c.events(&l)
			if c.last >= 0 {
				require.False(t, l.over(at(c.last)))
			}
			if c.last < eternity {
				require.True(t, l.over(at(c.last+1)))
			}
		})
	}
}

func TestSpeakersAreToldOfChangesOnly(t *testing.T) {
	var s speakers
	require.Nil(t, s.update(map[orama.PeerID]float64{"a": 0}))
	require.Equal(t, []signal.Level{{PeerID: "a", Level: .5}}, s.update(map[orama.PeerID]float64{"a": .5, "b": 0}))
	require.Nil(t, s.update(map[orama.PeerID]float64{"a": .5, "b": 0}))
	require.Equal(t, []signal.Level{{PeerID: "b", Level: .9}, {PeerID: "a", Level: .5}}, s.update(map[orama.PeerID]float64{"a": .5, "b": .9}))
	require.Equal(t, []signal.Level{{PeerID: "b", Level: .9}, {PeerID: "a"}}, s.update(map[orama.PeerID]float64{"b": .9}))
	require.Equal(t, []signal.Level{{PeerID: "b"}}, s.update(nil))
	require.Nil(t, s.update(nil))
}

func TestLoudness(t *testing.T) {
	require.Equal(t, 1.0, loudness(0))
	require.Equal(t, 0.0, loudness(127))
	require.Equal(t, 0.0, loudness(quietest))
	require.Equal(t, 0.6, loudness(20))
	for l := range uint8(127) {
		require.GreaterOrEqual(t, loudness(l), loudness(l+1))
	}
}

func TestREDPrimary(t *testing.T) {
	primary := []byte("now")
	block := func(length int) []byte { return []byte{0x80 | 111, 0, byte(length >> 8), byte(length)} }
	two := append(append(append(block(3), block(2)...), 111), "old12now"[:0]...)
	two = append(two, "old12now"...)
	for name, c := range map[string]struct {
		in []byte
		ok bool
	}{
		"no redundancy": {append([]byte{111}, primary...), true},
		"two blocks":    {two, true},
		"empty":         {nil, false},
		"cut header":    {[]byte{0x80 | 111, 0, 0}, false},
		"cut block":     {append(block(100), 111, 1, 2), false},
		"no last":       {block(0), false},
	} {
		got, ok := redPrimary(c.in)
		require.Equal(t, c.ok, ok, name)
		if ok {
			require.Equal(t, primary, got, name)
		}
	}
}

func FuzzREDPrimary(f *testing.F) {
	f.Add([]byte{0x80 | 111, 0, 0, 1, 111, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, ok := redPrimary(b); ok && len(got) >= len(b) {
			t.Fatal("longer than the payload")
		}
	})
}

func TestMatchCodec(t *testing.T) {
	have := []webrtc.RTPCodecParameters{
		{RTPCodecCapability: vp8, PayloadType: 96},
		{RTPCodecCapability: webrtc.RTPCodecCapability{MimeType: "video/h264", ClockRate: 90000, SDPFmtpLine: "profile-level-id=4d001f"}, PayloadType: 100},
		{RTPCodecCapability: h264, PayloadType: 102},
	}
	exact, ok := matchCodec(have, h264)
	require.True(t, ok)
	require.EqualValues(t, 102, exact.PayloadType)
	near, ok := matchCodec(have[:2], h264)
	require.True(t, ok)
	require.EqualValues(t, 100, near.PayloadType)
	_, ok = matchCodec(have[:1], h264)
	require.False(t, ok)
}

func TestMailbox(t *testing.T) {
	m := newMailbox()
	ran := 0
	require.True(t, m.post(func() { ran++ }))
	require.False(t, m.closeIfEmpty())
	for _, f := range m.take() {
		f()
	}
	require.Equal(t, 1, ran)
	require.True(t, m.closeIfEmpty())
	require.False(t, m.post(func() {}))
	full := newMailbox()
	for range maxPosted {
		require.True(t, full.post(func() {}))
	}
	require.False(t, full.post(func() {}), "a mailbox is bounded")
}
