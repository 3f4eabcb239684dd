package sfu

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

// errNotRelay is what writing to anything but a relay gives.
var errNotRelay = errors.New("sfu: the address is not a relay of this namespace")

// errNoPath is what sending to a peer gives that nothing has come from.
var errNoPath = errors.New("sfu: no media has come from the peer yet")

// sources is an immutable set of address and port blocks.
type sources map[netip.Addr][]orama.PortRange

func sourcesOf(relays []plan.RelaySource) sources {
	s := make(sources, len(relays))
	for _, r := range relays {
		s[r.IP.Unmap()] = append(s[r.IP.Unmap()], r.Ports)
	}
	return s
}

func (s sources) contains(a netip.AddrPort) bool {
	for _, block := range s[a.Addr().Unmap()] {
		if block.Contains(a.Port()) {
			return true
		}
	}
	return false
}

// guard is the media socket as pion sees it: packets of anybody but the namespace's relays are
// dropped before a single byte of them is parsed, and none is sent to anybody else.
type guard struct {
	*net.UDPConn
	in       *inlet
	out      *outbox
	hear     func(b []byte, from netip.AddrPort, at time.Time) bool // takes what needs not go through pion; nil: nothing
	allowed  atomic.Pointer[sources]
	filtered atomic.Uint64 // packets dropped on their way in
}

func openGuard(conn *net.UDPConn, relays []plan.RelaySource) (*guard, error) {
	in, err := newInlet(conn)
	if err != nil {
		return nil, err
	}
	out, err := newOutbox(conn)
	if err != nil {
		return nil, err
	}
	g := &guard{UDPConn: conn, in: in, out: out}
	g.allow(relays)
	return g, nil
}

// Close ends the senders and the socket.
func (g *guard) Close() error {
	g.out.stop()
	return g.UDPConn.Close()
}

// mayReach reports whether something may be sent to an address.
func (g *guard) mayReach(to netip.AddrPort) bool { return g.allowed.Load().contains(to) }

// allow replaces the set of relays; packets under way are judged by either set.
func (g *guard) allow(relays []plan.RelaySource) {
	s := sourcesOf(relays)
	g.allowed.Store(&s)
}

// ReadFromAddrPort is how pion's mux reads (ice.AddrPortReaderWriter). It has one caller at a time.
func (g *guard) ReadFromAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		n, from, at, err := g.in.read(b, g.mayReach, &g.filtered)
		if err != nil || g.hear == nil || !g.hear(b[:n], from, at) {
			return n, from, err
		}
	}
}

// ReadFrom is net.PacketConn's.
func (g *guard) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := g.ReadFromAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteToAddrPort is how pion's mux writes.
func (g *guard) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if !g.mayReach(to) {
		return 0, errNotRelay
	}
	return g.UDPConn.WriteToUDPAddrPort(b, to)
}

// WriteTo is net.PacketConn's.
func (g *guard) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, errNotRelay
	}
	return g.WriteToAddrPort(b, u.AddrPort())
}
