package sfu

import (
	"net"
	"net/netip"
	"testing"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// pathWire is a socket whose packets a test makes and looks at.
type pathWire struct {
	net.PacketConn
	in  func() ([]byte, netip.AddrPort)
	out func([]byte, netip.AddrPort)
}

func (w *pathWire) ReadFromAddrPort(b []byte) (int, netip.AddrPort, error) {
	p, from := w.in()
	return copy(b, p), from, nil
}

func (w *pathWire) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	w.out(b, to)
	return len(b), nil
}

func (w *pathWire) Close() error { return nil }

type oneWire struct {
	ice.UDPMux
	*pathWire
}

func (o oneWire) GetConn(string, net.Addr) (net.PacketConn, error) { return o.pathWire, nil }
func (o oneWire) Close() error                                     { return nil }

// What we send follows the peer's media, among the addresses whose checks were right, and nobody else's.
func TestPathFollowsMedia(t *testing.T) {
	a, b, stranger := netip.MustParseAddrPort("10.0.0.1:50000"), netip.MustParseAddrPort("10.0.0.2:50000"), netip.MustParseAddrPort("10.0.0.9:50000")
	var sentTo netip.AddrPort
	w := &pathWire{out: func(_ []byte, to netip.AddrPort) { sentTo = to }}
	mux := newPathMux(oneWire{pathWire: w})
	conn, err := mux.route(&taps{}).GetConn("ours", nil)
	require.NoError(t, err)
	p := conn.(*path)
	arrives := func(packet []byte, from netip.AddrPort) {
		w.in = func() ([]byte, netip.AddrPort) { return packet, from }
		_, got, err := p.ReadFromAddrPort(make([]byte, 1500))
		require.NoError(t, err)
		require.Equal(t, from, got)
	}
	leaves := func(packet []byte, to netip.AddrPort) netip.AddrPort {
		_, err := p.WriteToAddrPort(packet, to)
		require.NoError(t, err)
		return sentTo
	}
	media, check, right := []byte{0x80, 96}, []byte{0x00, 0x01}, []byte{0x01, 0x01}

	require.Equal(t, a, leaves(media, a), "before anything came, ICE decides")
	arrives(media, b)
	require.Equal(t, a, leaves(media, a), "media of one whose password nobody has seen is not followed")
	leaves(right, a)
	leaves(right, b)
	arrives(check, b)
	require.Equal(t, a, leaves(media, a), "a check is no media")
	arrives(media, b)
	require.Equal(t, b, leaves(media, a))
	require.Equal(t, a, leaves(right, a), "answers go to who asked")
	arrives(media, stranger)
	require.Equal(t, b, leaves(media, a))
	arrives(media, a)
	require.Equal(t, a, leaves(media, b))

	pairs := map[netip.AddrPort]*ice.CandidatePair{a: {}, b: {}}
	follows := func(from netip.AddrPort) bool {
		remote, err := ice.NewCandidatePeerReflexive(&ice.CandidatePeerReflexiveConfig{
			Network: "udp4", Address: from.Addr().String(), Port: int(from.Port()), Component: 1})
		require.NoError(t, err)
		msg, err := stun.Build(stun.BindingRequest, stun.NewUsername("ours:theirs"))
		require.NoError(t, err)
		return mux.follow(msg, nil, remote, pairs[from])
	}
	require.True(t, follows(a))
	require.False(t, follows(a), "pion has it")
	require.False(t, follows(b))
	require.True(t, follows(a), "pion may have taken the other")
	require.NoError(t, p.Close())
	require.False(t, follows(a), "a closed path is forgotten")
	require.Empty(t, mux.paths)
}

func TestPathRemembersFew(t *testing.T) {
	p := &path{checked: map[netip.AddrPort]struct{}{}}
	for i := range 10_000 {
		p.answered(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(i)))
	}
	require.Len(t, p.checked, maxChecked)
}
