package sfu

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestChannelNumbersRest(t *testing.T) {
	var n channelNumbers
	now, a, b := time.Now(), uint16(1), uint16(3)
	require.Nil(t, n.take(now))
	n.rest(nil, now)
	n.rest(&a, now)
	n.rest(&b, now.Add(time.Second))
	require.Nil(t, n.take(now.Add(numberRests-1)))
	require.Equal(t, a, *n.take(now.Add(numberRests)))
	require.Nil(t, n.take(now.Add(numberRests)))
	require.Equal(t, b, *n.take(now.Add(time.Hour)))
	require.Nil(t, n.take(now.Add(time.Hour)))
}

// A browser has 1024 numbers for data channels: whoever stays while others come and go is never out of them.
func TestChannelNumbersAreUsedAgain(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.joinClient(clientOptions{}), w.joinClient(clientOptions{})
	seen := map[uint16]int{}
	for began, n := time.Now(), 0; ; n++ {
		require.Less(t, time.Since(began), patience)
		dc := alice.open(t, "chat", nil)
		require.NoError(t, dc.SendText("hello"))
		copied := wait(t, bob.chans, "a copy")
		require.Equal(t, "hello", string(wait(t, copied.got, "the message").Data))
		closed := make(chan struct{})
		copied.OnClose(func() { close(closed) })
		require.NoError(t, dc.Close())
		wait(t, closed, "the copy to close with the original")
		w.inside(t, func(p *peer) { // a minute passes
			for n := range p.numbers {
				p.numbers[n].since = p.numbers[n].since.Add(-numberRests)
			}
		}, bob.id)
		if seen[*copied.ID()]++; seen[*copied.ID()] == 3 {
			break
		}
	}
}
