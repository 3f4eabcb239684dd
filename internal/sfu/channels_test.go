package sfu

import (
	"bytes"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"
)

// said is what a peer sends on a data channel, of which a reader with too little memory gets nothing, and may come again.
type said [][]byte

func (s *said) ReadDataChannel(b []byte) (int, bool, error) {
	if len(*s) == 0 {
		return 0, false, io.EOF
	}
	m := (*s)[0]
	if len(m) > len(b) {
		return 0, false, io.ErrShortBuffer
	}
	*s = (*s)[1:]
	return copy(b, m), false, nil
}

// Messages of every size are read, each in memory of its own; what is larger than can be sent ends the channel.
func TestMessagesOfAnySizeAreRead(t *testing.T) {
	var want said
	for n, size := range []int{0, 1, dataBuffer, dataBuffer + 1, 3, 8 * dataBuffer, 65_536, 1 << 20, 7} {
		want = append(want, bytes.Repeat([]byte{byte(n)}, size))
	}
	s := append(slices.Clone(want), make([]byte, largestRead+1), []byte("never"))
	var got said
	readChannel(&s, func(m webrtc.DataChannelMessage) {
		require.LessOrEqual(t, cap(m.Data), max(64, 2*len(m.Data)), "nothing large is held by what is small")
		got = append(got, m.Data)
	})
	require.Equal(t, want, got)
	require.Len(t, s, 2)
}

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
		if seen[*copied.ID()]++; seen[*copied.ID()] == 3 {
			break
		}
	}
}
