package datachannel

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// said is what somebody sends, of which a reader with too little memory gets nothing, and may come again.
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
	return copy(b, m), len(m) == 3, nil
}

// Messages of every size are read, each in memory of its own; what is larger than can be sent ends the channel.
func TestMessagesOfAnySizeAreRead(t *testing.T) {
	var want said
	for n, size := range []int{0, 1, small, small + 1, 3, 8 * small, 65_536, 1 << 20, 7} {
		want = append(want, bytes.Repeat([]byte{byte(n)}, size))
	}
	s := append(slices.Clone(want), make([]byte, largest+1), []byte("never"))
	var got said
	Read(&s, func(data []byte, text bool) {
		require.LessOrEqual(t, cap(data), max(64, 2*len(data)), "nothing large is held by what is small")
		require.Equal(t, len(data) == 3, text)
		got = append(got, data)
	})
	require.Len(t, got, len(want))
	for n := range want {
		require.True(t, bytes.Equal(want[n], got[n]), n)
	}
	require.Len(t, s, 2)
}
