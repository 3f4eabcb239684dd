package sfu

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func loopback(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // a test's
	return c
}

func addrOf(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// numbered is a datagram of some size with a number in it.
func numbered(n, size int) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint32(b, uint32(n)) //nolint:gosec // small
	return b
}

// What one peer is sent arrives whole and in order, trains or not, and at that peer alone.
func TestOutboxKeepsOrder(t *testing.T) {
	conn := loopback(t)
	o, err := newOutbox(conn)
	require.NoError(t, err)
	defer o.stop()
	const peers, each = 5, 300
	sizes := []int{1200, 1200, 1200, 400, 90, 1200, maxPacket}
	var readers []*net.UDPConn
	var outlets []*outlet
	for range peers {
		r := loopback(t)
		r.SetReadBuffer(each * 4096) //nolint:errcheck // less does as well
		readers, outlets = append(readers, r), append(outlets, o.outlet())
	}
	for from := 0; from < each; from += 20 { // what a socket's buffer surely holds
		for n := from; n < from+20; n++ {
			for i, u := range outlets {
				require.True(t, u.put(numbered(n, sizes[(n+i)%len(sizes)]), addrOf(readers[i])))
			}
		}
		buf := make([]byte, 2*maxPacket)
		for i, r := range readers {
			require.NoError(t, r.SetReadDeadline(time.Now().Add(10*time.Second)))
			for n := from; n < from+20; n++ {
				size, err := r.Read(buf)
				require.NoError(t, err)
				require.Equal(t, sizes[(n+i)%len(sizes)], size)
				require.Equal(t, uint32(n), binary.BigEndian.Uint32(buf)) //nolint:gosec // small
			}
		}
	}
	require.Zero(t, o.lost.Load())
}

// A flood to one peer costs that peer alone: the sender stands still here, and another's datagrams still find room.
func TestOutboxBoundsEachPeer(t *testing.T) {
	o := &outbox{}
	o.lanes = []*lane{{box: o, wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}}
	flooded, other, to := o.outlet(), o.outlet(), netip.MustParseAddrPort("10.0.0.1:5000")
	for n := range maxWaitingPeer {
		require.True(t, flooded.put(numbered(n, 100), to))
	}
	require.False(t, flooded.put(numbered(0, 100), to))
	require.True(t, other.put(numbered(0, 100), to))
	require.EqualValues(t, 1, o.lost.Load())
	for range maxWaiting {
		o.outlet().put(numbered(0, 100), to)
	}
	require.Len(t, o.lanes[0].waiting, maxWaiting)
	require.False(t, o.outlet().put(numbered(0, 100), to))
	l := o.lanes[0]
	l.give(l.take(nil))
	require.Zero(t, flooded.waiting)
	require.Len(t, l.spare, keptBuffers)
	require.True(t, flooded.put(numbered(0, 100), to))
}

func TestOutboxAllocatesNothing(t *testing.T) {
	o := &outbox{}
	o.lanes = []*lane{{box: o, wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}}
	l, u, to, b := o.lanes[0], o.outlet(), netip.MustParseAddrPort("10.0.0.1:5000"), numbered(0, 1200)
	var taken []datagram
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		u.put(b, to)
		taken = l.take(taken)
		l.give(taken)
	}))
}

// Media alone waits for others: what is rare goes at once, and so does everything where nothing gathers.
func TestPathSendsMediaThroughTheOutbox(t *testing.T) {
	o := &outbox{}
	o.lanes = []*lane{{box: o, wake: make(chan struct{}, 1), full: make(chan struct{}, 1)}}
	straight := 0
	mux := newPathMux(oneWire{pathWire: &pathWire{out: func([]byte, netip.AddrPort) { straight++ }}})
	relay, stranger := netip.MustParseAddrPort("10.0.0.1:5000"), netip.MustParseAddrPort("10.0.0.9:5000")
	relays := sources{relay.Addr(): {{First: 5000, Count: 1}}}
	mux.out, mux.relays = o, func() *sources { return &relays }
	conn, err := mux.route(&taps{}).GetConn("ours", nil)
	require.NoError(t, err)
	p := conn.(*path)
	for _, b := range [][]byte{{0x00, 0x01}, {22, 254}, {0x81, 200}, {0x81, 206}} { // STUN, DTLS, a report, a keyframe request
		_, err := p.WriteToAddrPort(b, relay)
		require.NoError(t, err)
	}
	require.Equal(t, 4, straight)
	for _, b := range [][]byte{{0x80, 96}, {0x90, 96 | 0x80}, {0x80, 111}} {
		_, err := p.WriteToAddrPort(b, relay)
		require.NoError(t, err)
	}
	require.Equal(t, 4, straight)
	require.Len(t, o.lanes[0].waiting, 3)
	_, err = p.WriteToAddrPort([]byte{0x80, 96}, stranger)
	require.ErrorIs(t, err, errNotRelay)
	require.Len(t, o.lanes[0].waiting, 3)
}

func TestOutboxEnds(t *testing.T) {
	o, err := newOutbox(loopback(t))
	require.NoError(t, err)
	o.outlet().put(numbered(0, 100), netip.MustParseAddrPort("127.0.0.1:9"))
	o.stop()
	o.stop()
}
