package main

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestPeopleAreApart(t *testing.T) {
	seen := map[[3]byte]bool{}
	for i := range mostPeople {
		a := addressOf(i).As4()
		require.Equal(t, i, indexOf(a[:]))
		require.True(t, addressOf(i).IsLoopback())
		require.False(t, seen[[3]byte(a[:3])], "a network of its own")
		seen[[3]byte(a[:3])] = true
	}
}

func TestMediaOf(t *testing.T) {
	rtp := append([]byte{0x80, 0xe0}, make([]byte, 20)...)
	inChannel := append([]byte{0x40, 0x01, 0, byte(len(rtp))}, rtp...)
	require.Equal(t, rtp, mediaOf(rtp))
	require.Equal(t, rtp, mediaOf(inChannel))
	require.Equal(t, rtp, mediaOf(append(inChannel, 0, 0)), "padding behind it")
	for name, other := range map[string][]byte{
		"nothing":      nil,
		"STUN":         append([]byte{0, 1}, make([]byte, 18)...),
		"DTLS":         append([]byte{22, 254}, make([]byte, 18)...),
		"a report":     append([]byte{0x80, 200}, make([]byte, 18)...),
		"feedback":     append([]byte{0x8f, 205}, make([]byte, 18)...),
		"cut":          inChannel[:10],
		"short":        rtp[:11],
		"STUN relayed": append([]byte{0x40, 0x01, 0, 20, 0, 1}, make([]byte, 18)...),
	} {
		require.Nil(t, mediaOf(other), name)
	}
}

func TestParseControl(t *testing.T) {
	own := unix.PktInfo4(&unix.Inet4Pktinfo{Addr: [4]byte{127, 64, 3, 7}})
	to, _ := parseControl(own)
	require.Equal(t, []byte{127, 64, 3, 7}, to)
	for cut := range own { // what the kernel would never send must not be read past its end
		parseControl(own[:cut])
	}
}

// Two people write to each other through the one socket: media goes to its function, the rest to pion.
func TestLines(t *testing.T) {
	h, err := newHub(0)
	require.NoError(t, err)
	defer func() { require.NoError(t, h.close()) }()
	heard := make(chan []byte, 1)
	stamps := make(chan int64, 1)
	began := time.Now().UnixNano()
	one, err := h.open(1, func([]byte, int64) bool { return false })
	require.NoError(t, err)
	two, err := h.open(300, func(b []byte, at int64) bool {
		heard <- append([]byte(nil), b...)
		stamps <- at
		return false
	})
	require.NoError(t, err)
	rtp := append([]byte{0x80, 0xe0}, make([]byte, 20)...)
	_, err = one.WriteTo(rtp, two.LocalAddr())
	require.NoError(t, err)
	select {
	case b := <-heard:
		require.Equal(t, rtp, b)
	case <-time.After(10 * time.Second):
		t.Fatal("the media went elsewhere")
	}
	require.InDelta(t, began, <-stamps, float64(time.Minute))
	_, err = one.WriteTo([]byte("hello"), two.LocalAddr())
	require.NoError(t, err)
	b := make([]byte, 100)
	n, from, err := two.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b[:n]))
	require.Equal(t, one.LocalAddr().String(), from.String())
	require.NoError(t, two.Close())
	_, _, err = two.ReadFrom(b)
	require.ErrorIs(t, err, net.ErrClosed)
	require.Nil(t, h.lines[300].Load())
	require.Zero(t, h.dropped())
	_, err = h.open(mostPeople, nil)
	require.Error(t, err)
}
