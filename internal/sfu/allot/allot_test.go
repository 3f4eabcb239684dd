package allot

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	start   = time.Unix(1_000_000, 0)
	opus    = []Layer{{0, 0, 40_000}}
	threeUp = []Layer{{0, 0, 150_000}, {1, 0, 500_000}, {2, 0, 1_500_000}}
)

func settle(a *Allocator, now time.Time, bps int, tracks []Track) []Choice {
	var c []Choice
	for range 60 {
		c = a.Decide(now, bps, tracks)
		now = now.Add(time.Second)
	}
	return c
}

func layers(c []Choice) []int {
	var out []int
	for _, c := range c {
		out = append(out, c.Layer)
	}
	return out
}

func TestOrder(t *testing.T) {
	tracks := []Track{
		{ID: "camera", Kind: Camera, Layers: threeUp},
		{ID: "looked at", Kind: Camera, Focus: true, Layers: threeUp},
		{ID: "preferred", Kind: Camera, Priority: 1, Layers: threeUp},
		{ID: "screen", Kind: Screen, Layers: threeUp},
		{ID: "audio", Kind: Audio, Layers: opus},
	}
	for _, c := range []struct {
		bps  int
		want []int // camera, looked at, preferred, screen, audio
	}{
		{10_000_000, []int{2, 2, 2, 2, 0}},
		{4_000_000, []int{0, 1, 2, 2, 0}},
		{2_500_000, []int{0, 0, 1, 2, 0}},
		{1_300_000, []int{0, 0, 0, 1, 0}},
		{700_000, []int{0, 0, 0, 0, 0}},
		{550_000, []int{None, 0, 0, 0, 0}},
		{400_000, []int{None, None, 0, 0, 0}},
		{250_000, []int{None, None, None, 0, 0}},
		{100_000, []int{None, None, None, None, 0}},
		{0, []int{None, None, None, None, 0}},
	} {
		require.Equal(t, c.want, layers(settle(New(), start, c.bps, tracks)), "%d", c.bps)
	}
}

func TestDownAtOnceUpWithCare(t *testing.T) {
	a, now := New(), start
	tracks := []Track{{ID: "v", Kind: Camera, Layers: threeUp}}
	choose := func(bps int) int { return a.Decide(now, bps, tracks)[0].Layer }
	require.Equal(t, 2, choose(2_000_000))
	require.Equal(t, 2, choose(1_500_000), "what is sent needs no headroom")
	require.Equal(t, 1, choose(1_499_999))
	require.Equal(t, 1, choose(3_000_000), "it has only just come down")
	now = now.Add(quiet)
	require.Equal(t, 1, choose(1_600_000), "what is not sent does")
	require.Equal(t, 2, choose(1_700_000))

	// A path that wavers around a layer is climbed ever more rarely.
	steps, last := 0, 2
	for range 600 {
		now = now.Add(100 * time.Millisecond)
		bps := 1_400_000
		if now.UnixMilli()%1000 < 500 {
			bps = 1_800_000
		}
		if l := choose(bps); l != last {
			steps, last = steps+1, l
		}
	}
	require.LessOrEqual(t, steps, 16)
}

func drawTracks(t *rapid.T) []Track {
	var tracks []Track
	for i := range rapid.IntRange(1, 8).Draw(t, "tracks") {
		tr := Track{
			ID: fmt.Sprint(i), Kind: Kind(rapid.IntRange(0, 2).Draw(t, "kind")),
			Priority: rapid.IntRange(0, 2).Draw(t, "priority"), Focus: rapid.Bool().Draw(t, "focus"),
		}
		rate := 0
		for s := range rapid.IntRange(1, 3).Draw(t, "spatial") {
			for temporal := range rapid.IntRange(1, 2).Draw(t, "temporal") {
				rate += rapid.IntRange(10_000, 900_000).Draw(t, "rate")
				tr.Layers = append(tr.Layers, Layer{s, temporal, rate})
			}
		}
		tracks = append(tracks, tr)
	}
	return tracks
}

// A step up that had to be taken back is not tried again with the same estimate, but with a better one at once.
func TestAStepUpThatFailed(t *testing.T) {
	a, now := New(), start
	tracks := []Track{{ID: "v", Kind: Camera, Layers: threeUp}}
	after := func(d time.Duration, bps int) int {
		now = now.Add(d)
		return a.Decide(now, bps, tracks)[0].Layer
	}
	require.Equal(t, 0, after(0, 550_000))
	require.Equal(t, 1, after(time.Second, 565_000))
	require.Equal(t, 0, after(3*time.Second, 400_000), "it did not fit")
	for range 50 {
		require.Equal(t, 0, after(time.Second, 570_000))
	}
	require.Equal(t, 1, after(time.Second, 576_000), "the path is better")
	require.Equal(t, 0, after(time.Second, 400_000))
	require.Equal(t, 0, after(50*time.Second, 570_000))
	require.Equal(t, 1, after(11*time.Second, 570_000), "that was long ago")

	require.Equal(t, 2, after(20*time.Second, 8_000_000))
	require.Equal(t, 1, after(3*time.Second, 600_000), "the path has changed")
	require.Equal(t, 2, after(quietMost, 1_700_000), "so that nothing failed")
	require.Equal(t, 1, after(3*time.Second, 1_400_000))
	require.Equal(t, 1, after(20*time.Second, 1_720_000), "this did: 1,725,000 are wanted now")
	require.Equal(t, 2, after(20*time.Second, 1_730_000))
	require.Equal(t, 1, after(20*time.Second, 1_400_000), "it had fitted for long")
	require.Equal(t, 2, after(quietMost, 1_700_000))

	require.Equal(t, 2, after(calm, 1_700_000))
	require.Equal(t, 1, after(time.Second, 1_000_000))
	tracks[0].Layers = threeUp[:2]
	require.Equal(t, 1, after(calm, 1_700_000))
	tracks[0].Layers = threeUp
	require.Equal(t, 2, after(time.Second, 1_700_000))
	tracks[0].Layers = threeUp[:2]
	require.Equal(t, 1, after(time.Second, 1_700_000), "the publisher has switched it off")
	tracks[0].Layers = threeUp
	require.Equal(t, 2, after(quietMost, 1_700_000))
}

func TestWithinTheEstimateAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tracks, a, now := drawTracks(t), New(), start
		var last []Choice
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			bps := rapid.IntRange(0, 6_000_000).Draw(t, "bps")
			changed := 0
			for step := range 80 {
				now = now.Add(500 * time.Millisecond)
				c := a.Decide(now, bps, tracks)
				video, audio := sums(tracks, c)
				if video > max(bps-audio, 0) {
					t.Fatalf("%d of video and %d of audio within %d", video, audio, bps)
				}
				if step >= 40 && fmt.Sprint(c) != fmt.Sprint(last) {
					changed++
				}
				last = c
			}
			if changed > 0 {
				t.Fatalf("it went on changing: %v", last)
			}
			noneStarves(t, tracks, last)
		}
	})
}

// noneStarves: no track is paused while a less important one of at least its cost is sent.
func noneStarves(t *rapid.T, tracks []Track, c []Choice) {
	for i := range tracks {
		for k := range tracks {
			if c[i].Layer == None && c[k].Layer != None && tracks[k].Kind != Audio && rank(&tracks[i], &tracks[k]) < 0 &&
				tracks[i].Layers[0].Bitrate*(100+headroom)/100 <= tracks[k].Layers[0].Bitrate {
				t.Fatalf("%v is paused for %v", tracks[i], tracks[k])
			}
		}
	}
}

func sums(tracks []Track, c []Choice) (video, audio int) {
	for i, c := range c {
		switch {
		case c.Layer == None:
		case tracks[i].Kind == Audio:
			audio += tracks[i].Layers[c.Layer].Bitrate
		default:
			video += tracks[i].Layers[c.Layer].Bitrate
		}
	}
	return video, audio
}

func TestDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tracks := drawTracks(t)
		a, b := New(), New()
		for step := range 20 {
			bps := rapid.IntRange(0, 5_000_000).Draw(t, "bps")
			now := start.Add(time.Duration(step) * time.Second)
			if x, y := a.Decide(now, bps, tracks), b.Decide(now, bps, tracks); fmt.Sprint(x) != fmt.Sprint(y) {
				t.Fatalf("%v and %v", x, y)
			}
		}
	})
}

func TestForgetsTracks(t *testing.T) {
	a := New()
	a.Decide(start, 0, []Track{{ID: "a", Layers: threeUp}, {ID: "b", Layers: threeUp}})
	a.Decide(start, 0, []Track{{ID: "b", Layers: threeUp}})
	require.Len(t, a.tracks, 1)
	require.Equal(t, 1_724_800, Wanted([]Track{{ID: "a", Layers: opus}, {ID: "b", Layers: threeUp}}))
}
