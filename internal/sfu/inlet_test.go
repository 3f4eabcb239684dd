package sfu

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Datagrams come one by one, whole and in order, whether the kernel put them together or not; what others send is dropped and counted.
func TestInlet(t *testing.T) {
	conn := loopback(t)
	in, err := newInlet(conn)
	require.NoError(t, err)
	out, err := newOutbox(loopback(t))
	require.NoError(t, err)
	defer out.stop()
	friend, stranger := out.outlet(), loopback(t)
	at := addrOf(conn)
	friendly := func(a netip.AddrPort) bool { return a != addrOf(stranger) }
	buf, began := make([]byte, 2*maxPacket), time.Now()
	var dropped atomic.Uint64
	for from := 0; from < 400; from += 40 {
		for n := from; n < from+40; n++ {
			require.True(t, friend.put(numbered(n, 1000-n%3/2*500), at), "trains, and shorter ends")
			if n%10 == 0 {
				_, err := stranger.WriteToUDPAddrPort(numbered(n, 100), at)
				require.NoError(t, err)
			}
		}
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		for n := from; n < from+40; n++ {
			size, who, at, err := in.read(buf, friendly, &dropped)
			require.NoError(t, err)
			require.Equal(t, 1000-n%3/2*500, size)
			require.Equal(t, uint32(n), binary.BigEndian.Uint32(buf)) //nolint:gosec // small
			require.NotEqual(t, addrOf(stranger), who)
			require.WithinRange(t, at, began, time.Now())
		}
	}
	require.EqualValues(t, 40, dropped.Load())
}

// Closing the socket ends the reader.
func TestInletEnds(t *testing.T) {
	conn := loopback(t)
	in, err := newInlet(conn)
	require.NoError(t, err)
	done := make(chan error)
	go func() {
		_, _, _, err := in.read(make([]byte, maxPacket), func(netip.AddrPort) bool { return true }, &atomic.Uint64{})
		done <- err
	}()
	require.NoError(t, conn.Close())
	select {
	case err := <-done:
		require.ErrorIs(t, err, net.ErrClosed)
	case <-time.After(patience):
		require.FailNow(t, "it still reads")
	}
}
