package sfu

import (
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/signal"
)

func TestTheFirstKeyframeRequestGoesOutAtOnce(t *testing.T) {
	var k keyframes
	now := time.Unix(1000, 0)
	send, after := k.ask(now)
	require.True(t, send)
	require.Equal(t, keyframeAgain, after, "to see whether one came")
	k.seen()
	send, after = k.ask(now.Add(100 * time.Millisecond))
	require.False(t, send)
	require.Equal(t, keyframeEvery-100*time.Millisecond, after, "earlier than the look before")
	send, after = k.ask(now.Add(200 * time.Millisecond))
	require.False(t, send)
	require.Zero(t, after, "it is part of the one that waits")
	send, after = k.due(now.Add(keyframeEvery))
	require.True(t, send, "the second wish is still open")
	require.Equal(t, keyframeAgain, after)
	k.seen()
	send, after = k.due(now.Add(2 * keyframeAgain))
	require.False(t, send)
	require.Zero(t, after, "nobody waits")
	send, _ = k.ask(now.Add(time.Minute))
	require.True(t, send)
}

func TestKeyframeRequestsEnd(t *testing.T) {
	var k keyframes
	now, sent := time.Unix(1000, 0), 1
	_, after := k.ask(now)
	for after > 0 {
		now = now.Add(after)
		var send bool
		if send, after = k.due(now); send {
			sent++
		}
	}
	require.Equal(t, keyframeTries, sent, "a publisher that sends nothing is left alone")
}

// Whoever asks whenever, and whenever keyframes come: requests are at least keyframeEvery apart, and
// after a wish a request goes out within keyframeEvery unless a keyframe came first.
func TestKeyframeRequestsAreFewAndNoneIsForgotten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var k keyframes
		now := time.Unix(1000, 0)
		var last, dueAt, wish time.Time
		follow := func(at time.Time, send bool, after time.Duration) {
			if send {
				if !last.IsZero() && at.Sub(last) < keyframeEvery {
					t.Fatalf("two requests within %v", at.Sub(last))
				}
				last, wish = at, time.Time{}
			}
			if after > 0 {
				dueAt = at.Add(after)
			}
		}
		for _, gap := range rapid.SliceOfN(rapid.IntRange(1, 900), 1, 100).Draw(t, "gaps") {
			now = now.Add(time.Duration(gap) * time.Millisecond)
			for !dueAt.IsZero() && !dueAt.After(now) {
				at := dueAt
				dueAt = time.Time{}
				send, after := k.due(at)
				follow(at, send, after)
			}
			if !wish.IsZero() && now.Sub(wish) > keyframeEvery {
				t.Fatalf("a wish of %v is still open at %v", wish, now)
			}
			if rapid.IntRange(0, 3).Draw(t, "keyframe") == 0 {
				k.seen()
				wish = time.Time{}
				continue
			}
			if wish.IsZero() {
				wish = now
			}
			send, after := k.ask(now)
			follow(now, send, after)
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
