package sfu

import (
	"slices"
	"testing"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/signal"
)

func TestUpTo(t *testing.T) {
	for name, c := range map[string]struct {
		widths []int
		width  int
		n      int
	}{
		"anything":             {[]int{320, 640, 1280}, 0, 3},
		"a thumbnail":          {[]int{320, 640, 1280}, 100, 1},
		"exactly":              {[]int{320, 640, 1280}, 640, 2},
		"between":              {[]int{320, 640, 1280}, 700, 2},
		"wider than there is":  {[]int{320, 640, 1280}, 4000, 3},
		"nothing is known":     {[]int{0, 0, 0}, 640, 2},
		"the smallest is":      {[]int{160, 0, 0}, 400, 2},
		"the largest is":       {[]int{0, 0, 640}, 400, 2},
		"two":                  {[]int{0, 480}, 300, 1},
		"one":                  {[]int{1280}, 100, 1},
		"one that is not seen": {[]int{0}, 100, 1},
	} {
		require.Equal(t, c.n, upTo(c.widths, c.width), name)
	}
}

// Whatever is known of the widths: at least one, more for a wider wish, and never one that is known to be wider while a smaller one would do.
func TestUpToIsMonotonous(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		full := rapid.IntRange(8, 4000).Draw(t, "full")
		all := rapid.IntRange(1, maxLayers).Draw(t, "all")
		widths := make([]int, all)
		for i := range widths {
			if rapid.Bool().Draw(t, "known") {
				widths[i] = full >> (all - 1 - i)
			}
		}
		a, b := rapid.IntRange(1, 5000).Draw(t, "a"), rapid.IntRange(1, 5000).Draw(t, "b")
		small, large := upTo(widths, min(a, b)), upTo(widths, max(a, b))
		require.LessOrEqual(t, 1, small)
		require.LessOrEqual(t, small, large)
		require.LessOrEqual(t, large, upTo(widths, 0))
		require.Equal(t, all, upTo(widths, 0))
		if small > 1 && widths[small-1] > 0 {
			require.LessOrEqual(t, widths[small-1], min(a, b))
		}
	})
}

// An encoding is on from the moment that it is wanted, and off only once nobody has wanted it for three seconds.
func TestSwitches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		all := rapid.IntRange(1, maxLayers).Draw(t, "all")
		s, last := switches{}, make([]time.Time, all)
		for i := range last {
			last[i] = now
		}
		for range 50 {
			n := rapid.IntRange(0, all).Draw(t, "wanted")
			for i := range n {
				last[i] = now
			}
			s.update(n, all, now)
			for i := range all {
				require.Equal(t, now.Sub(last[i]) < sourceOffAfter, s.on[i])
			}
			require.True(t, slices.IsSortedFunc(s.on, func(a, b bool) int { return compareBool(b, a) }), "what is smaller than something wanted is wanted")
			now = now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
		}
	})
}

func TestAsks(t *testing.T) {
	told := 0
	a := &asks{changed: func() { told++ }}
	x, y := &want{}, &want{}
	expect := func(width int, none bool, calls int) {
		t.Helper()
		w, n := a.widest()
		require.Equal(t, [2]any{width, none}, [2]any{w, n})
		require.Equal(t, calls, told)
		a.posted.Store(false)
	}
	expect(0, true, 0)
	a.set(x, true, 300)
	a.set(y, true, 200)
	expect(300, false, 1) // what was not read yet is told once
	a.set(y, true, 200)
	expect(300, false, 1)
	a.set(y, true, 0)
	expect(0, false, 2)
	a.set(y, false, 0)
	expect(300, false, 3)
	a.set(y, false, 0)
	a.set(x, false, 300)
	expect(0, true, 4)
}

// obey has the camera send what is wanted, as a browser does.
func (s *simulcaster) obey(m signal.Message) {
	wanted, ok := m.(*signal.Wanted)
	if !ok {
		return
	}
	for n, rid := range []string{"q", "h", "f"} {
		on := len(wanted.Tracks) == 0 || slices.Contains(wanted.Tracks[0].RIDs, rid)
		s.wide[n].Store(on)
	}
}

// What nobody shows is switched off at its source, and is there again for who does.
func TestWhatNobodyWatchesIsOff(t *testing.T) {
	w := newWorld(t)
	var camera *simulcaster
	alice := w.joinClient(clientOptions{
		api: simulcastAPI(t), join: &signal.Join{}, hears: func(m signal.Message) { camera.obey(m) },
		setUp: func(c *client) { camera = c.addSimulcast(t); c.addTrack(t, opus) },
	})
	alice.offer()
	track := await(alice.wire, func(m *signal.TrackPublished) bool { return m.Track.Kind == "video" }).Track
	told := 0
	wanted := func(rids ...string) {
		t.Helper()
		n := 0
		alice.until("wanted", func(m signal.Message) bool {
			x, ok := m.(*signal.Wanted)
			if !ok {
				return false
			}
			if n++; n <= told {
				return false
			}
			if rids == nil {
				require.Empty(t, x.Tracks, "all of it")
			} else {
				require.Equal(t, []signal.WantedTrack{{Mid: track.Mid, RIDs: rids}}, x.Tracks, "and nothing of sound")
			}
			return true
		})
		told++
	}
	wanted([]string{}...)
	bob := w.joinClient(clientOptions{})
	wanted()
	var x *remote
	for x == nil || x.t.Kind() != webrtc.RTPCodecTypeVideo {
		x = bob.hear()
	}
	var last *rtp.Packet
	x.untilLayer(t, &last, 2)
	bob.send(&signal.Prefer{TrackID: track.TrackID, MaxWidth: 400})
	wanted("q")
	x.untilLayer(t, &last, 0)
	bob.send(&signal.Prefer{TrackID: track.TrackID, MaxWidth: 700})
	wanted("q", "h")
	x.untilLayer(t, &last, 1)
	carol := w.joinClient(clientOptions{})
	wanted()
	carol.send(&signal.Leave{})
	wanted("q", "h")
	bob.send(&signal.Prefer{TrackID: track.TrackID, Paused: true})
	wanted([]string{}...)
	bob.send(&signal.Prefer{TrackID: track.TrackID})
	wanted()
	for {
		p := x.packet(t)
		if p.Payload[14] == 2 {
			break
		}
	}
}

// A picture of one size goes off as a whole, and a new socket is told again.
func TestOnePictureGoesOff(t *testing.T) {
	w := newWorld(t)
	alice := w.joinClient(clientOptions{setUp: func(c *client) { c.addTrack(t, vp8) }})
	off := await[*signal.Wanted](alice.wire)
	mid := await[*signal.TrackPublished](alice.wire).Track.Mid
	require.Equal(t, []signal.WantedTrack{{Mid: mid, RIDs: []string{}}}, off.Tracks)
	again := w.dial()
	again.send(&signal.Join{Resume: await[*signal.Joined](alice.wire).Resume})
	require.True(t, await[*signal.Joined](again).Resumed)
	require.Equal(t, off.Tracks, await[*signal.Wanted](again).Tracks)
	w.joinClient(clientOptions{})
	await(again, func(m *signal.Wanted) bool { return len(m.Tracks) == 0 })
}
