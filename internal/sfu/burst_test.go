package sfu

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// What waits when the reader looks goes to one subscriber after the other, in its order, and all of it.
func TestABurstGoesToOneAfterTheOther(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	u, _ := wired(t, 3)
	var order []int
	for n, d := range *u.subs.Load() {
		d.bound.writer = writes(func(b []byte) {
			order = append(order, n<<16|int(binary.BigEndian.Uint16(b[2:]))&0x7fff)
		})
	}
	l := &layer{up: u, feed: newFeed(time.Now())}
	send := func(seq uint16) {
		b := numberedUp(seq, seq)
		b[1] = 111
		_, err := l.feed.Write(b, nil)
		require.NoError(t, err)
	}
	for seq := range uint16(burstMost + 2) {
		send(seq)
	}
	_, err := l.feed.Write(make([]byte, 2*maxPacket), nil)
	require.NoError(t, err)
	send(burstMost + 2)
	require.NoError(t, l.feed.Close())
	l.runShort()
	require.Len(t, order, 3*(burstMost+3))
	first := order[0] & 0xffff
	var want []int
	for _, part := range [][2]int{{0, burstMost}, {burstMost, burstMost + 3}} {
		for n := range 3 {
			for seq := part[0]; seq < part[1]; seq++ {
				want = append(want, n<<16|first+seq)
			}
		}
	}
	require.Equal(t, want, order)
}

// Packets before another dependency structure are forwarded while what they know of theirs is there.
func TestABurstEndsAtAnotherStructure(t *testing.T) {
	p := &packet{}
	for want, b := range map[bool][]byte{false: {0x80, 0, 1}, true: {0x80, 0, 1, 0x80}} {
		p.ext[extDependency] = b
		require.Equal(t, want, p.restructures())
	}
	p.ext[extDependency] = []byte{0x80, 0, 1, 0x7f}
	require.False(t, p.restructures())
	p.ext[extDependency] = nil
	require.False(t, p.restructures())
}

// writes is a subscriber's stream.
type writes func(b []byte)

func (f writes) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}
