package sfu

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/rtcp"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// A camera of one encoding, and one who watches it behind an access that becomes slow: the camera is made smaller at its source, so that the picture
// goes on, and grows again with the access.
func TestACameraIsMadeSmallerForAllWhoWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCall(t)
		u := c.ups[1]
		only := (*u.layers.Load())[2:]
		u.layers.Store(&only)
		publisher := &peer{inbox: newMailbox(), ups: map[orama.TrackID]*up{"v": u}}
		told := ceilingNone
		u.sendRTCP = func(list []rtcp.Packet) { told = int(list[0].(*rtcp.ReceiverEstimatedMaximumBitrate).Bitrate) }
		u.roomChanged = func() { c.peer.post(func() { publisher.lower(time.Now()) }) }
		c.source = func() int { // an encoder follows within half a second
			c.encoded += (min(told*9/10, 1_500_000) - c.encoded) / 15
			return c.encoded
		}
		c.encoded = 1_500_000
		c.each = func() { publisher.lower(time.Now()) }

		c.acc.rate = 3_000_000
		c.run(5 * time.Second)
		require.Equal(t, ceilingNone, told, "there is room")
		c.acc.rate = 300_000
		c.run(6 * time.Second)
		require.InDelta(t, 240_000, told, 80_000)
		before := len(c.acc.got[11])
		c.run(4 * time.Second)
		require.Greater(t, len(c.acc.got[11])-before, 80, "the picture goes on, at 30 frames a second")
		require.True(t, c.peer.limited, "and the quality message says why it is small")
		c.acc.rate = 3_000_000
		c.run(10 * time.Second)
		require.Equal(t, ceilingNone, told)
		require.Greater(t, u.bitrate(), 1_300_000)
		require.False(t, c.peer.limited)
		require.Less(t, c.acc.audioGap, 500*time.Millisecond)
		c.unbroken()
	})
}

// One who has room for all of it decides, and so does one who was not measured; who does not watch has no say.
func TestCeiling(t *testing.T) {
	for name, c := range map[string]struct {
		rooms []int64
		want  int
	}{
		"nobody watches":            {nil, 0},
		"one":                       {[]int64{200_000}, 200_000},
		"the best access":           {[]int64{200_000, 400_000}, 400_000},
		"one with room for all":     {[]int64{200_000, 0}, 0},
		"one who does not look":     {[]int64{200_000, -1}, 200_000},
		"all of them look away":     {[]int64{-1, -1}, 0},
		"no room worth the name":    {[]int64{1}, 1},
		"unmeasured, and looks not": {[]int64{-1, 0}, 0},
	} {
		u := ladder(start)
		for _, room := range c.rooms {
			d := newDown(u, newEgress(u.metrics, func() {}))
			d.room.Store(room)
			u.attach(d)
		}
		require.Equal(t, c.want, u.ceilingOf(), name)
	}
}

// A ceiling is told when it changes and every time after, not too often, and its end a few times.
func TestCeilingIsTold(t *testing.T) {
	var c ceiling
	now := start
	next := func(bps int, after time.Duration) int {
		now = now.Add(after)
		tell, send := c.next(bps, now)
		if !send {
			return 0
		}
		return tell
	}
	require.Zero(t, next(0, time.Second), "there is none")
	require.Equal(t, 500, next(500, time.Second))
	require.Zero(t, next(400, time.Millisecond))
	require.Equal(t, 400, next(400, ceilingEvery))
	require.Equal(t, 400, next(400, time.Second), "again: messages are lost")
	require.Zero(t, next(0, time.Millisecond))
	for range liftedTimes {
		require.Equal(t, ceilingNone, next(0, time.Second))
	}
	require.Zero(t, next(0, time.Second))
	require.Equal(t, 300, next(300, time.Second))
	require.Equal(t, ceilingNone, next(0, time.Second))
}
