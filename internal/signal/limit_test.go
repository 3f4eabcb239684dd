package signal

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestLimiterAllowsABurstThenTheRate(t *testing.T) {
	var l Limiter
	now := time.Unix(1000, 0)
	for i := range FrameBurst {
		require.True(t, l.Allow(now), "frame %d of the burst", i)
	}
	require.False(t, l.Allow(now), "the frame after the burst")
	now = now.Add(time.Second / FramesPerSecond)
	require.True(t, l.Allow(now), "one frame comes back after a tenth of a second")
	require.False(t, l.Allow(now))
	now = now.Add(time.Hour)
	for range FrameBurst {
		require.True(t, l.Allow(now), "the bucket is full again, and no more than full")
	}
	require.False(t, l.Allow(now))
}

func TestLimiterIgnoresAClockThatGoesBack(t *testing.T) {
	var l Limiter
	now := time.Unix(1000, 0)
	for range FrameBurst {
		l.Allow(now)
	}
	require.False(t, l.Allow(now.Add(-time.Hour)))
}

// However frames are spread, a window of w seconds passes at most the burst and w times the rate.
func TestLimiterNeverPassesMoreThanItsRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Limiter
		start := time.Unix(1000, 0)
		now := start
		passed := 0
		for _, gap := range rapid.SliceOfN(rapid.IntRange(0, 400), 1, 300).Draw(t, "gaps") {
			now = now.Add(time.Duration(gap) * time.Millisecond)
			if l.Allow(now) {
				passed++
			}
			if most := FrameBurst + now.Sub(start).Seconds()*FramesPerSecond; float64(passed) > most+1e-6 {
				t.Fatalf("%d frames passed in %v", passed, now.Sub(start))
			}
		}
	})
}
