package turn

import (
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
)

// socketBuffer is asked for the sockets that all UDP clients share: a burst of keyframes to
// many clients passes through one of them. The kernel may give less.
const socketBuffer = 4 << 20

func listenUDP(at netip.AddrPort) (*net.UDPConn, error) {
	c, err := net.ListenUDP(network("udp", at.Addr()), net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	c.SetReadBuffer(socketBuffer)  //nolint:errcheck // works with less
	c.SetWriteBuffer(socketBuffer) //nolint:errcheck // works with less
	return c, nil
}

func (s *Server) openUDP(l *listener, at netip.AddrPort) error {
	c, err := listenUDP(at)
	if err != nil {
		return err
	}
	g := newGate(s, transportUDP, &udpLink{UDPConn: c, seed: maphash.MakeSeed()})
	g.replays = newReplays()
	l.close = c.Close
	l.run = func() {
		if err := g.serve(); err != nil {
			s.log.Error("turn: no engine for UDP", "err", err)
			return
		}
		<-g.done
	}
	return nil
}

// udpLink is the socket of all UDP clients. Its reads are one goroutine's.
type udpLink struct {
	*net.UDPConn
	seed  maphash.Seed
	cache [addrCache]*net.UDPAddr
}

// addrCache is how many client addresses are kept as the objects that the engine wants: one
// allocation less for each packet of a client that is still in its place. A power of two.
const addrCache = 4096

// maxReadErrors in a row end the listener: it has then no socket worth asking.
const maxReadErrors = 1000

// ReadFrom outlives errors that a single datagram may cause; an error would end the listener.
func (l *udpLink) ReadFrom(p []byte) (int, net.Addr, error) {
	for failed := 1; ; failed++ {
		n, from, err := l.ReadFromUDPAddrPort(p)
		if err == nil {
			return n, l.addr(from), nil
		}
		if errors.Is(err, net.ErrClosed) || failed == maxReadErrors {
			return 0, nil, err
		}
	}
}

func (l *udpLink) addr(from netip.AddrPort) *net.UDPAddr {
	place := &l.cache[maphash.Comparable(l.seed, from)%addrCache]
	if a := *place; a != nil && a.AddrPort() == from {
		return a
	}
	a := net.UDPAddrFromAddrPort(from)
	*place = a
	return a
}
