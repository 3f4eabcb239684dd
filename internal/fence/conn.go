package fence

import (
	"net"
	"net/netip"
	"sync/atomic"
)

// Conn is a packet connection behind a fence. It is safe for concurrent use as far as the
// connection inside is. *net.UDPAddr values that it returns belong to the Set: do not change them.
type Conn struct {
	net.PacketConn // deadlines, LocalAddr and Close pass through

	set     *Set
	udp     *net.UDPConn // the same connection when it is one: reads and writes without allocation
	in, out atomic.Uint64
}

// Wrap puts c behind set.
func Wrap(c net.PacketConn, set *Set) *Conn {
	udp, _ := c.(*net.UDPConn)
	return &Conn{PacketConn: c, set: set, udp: udp}
}

// ReadFrom gives the next packet that comes from an allowed peer. Others are counted and
// skipped, so that no stranger can wake the reader.
func (c *Conn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.read(p)
		if err != nil {
			return n, nil, err
		}
		if peer := c.set.peer(from); peer != nil {
			return n, peer, nil
		}
		c.in.Add(1)
	}
}

// read's address is the zero value when it is not an IP address and port.
func (c *Conn) read(p []byte) (int, netip.AddrPort, error) {
	if c.udp != nil {
		return c.udp.ReadFromUDPAddrPort(p)
	}
	n, from, err := c.PacketConn.ReadFrom(p)
	return n, addrPort(from), err
}

// WriteTo sends to an allowed peer. For any other it counts the packet and claims success: a
// caller that saw an error might end the relay, and a stranger could then end relays at will.
func (c *Conn) WriteTo(p []byte, addr net.Addr) (int, error) {
	sent, err := c.Send(p, addr)
	if err == nil && !sent {
		return len(p), nil
	}
	return len(p), err
}

// Send is WriteTo for callers that count: it reports whether the packet left.
func (c *Conn) Send(p []byte, addr net.Addr) (bool, error) {
	ap := addrPort(addr)
	if !c.set.Allows(ap) {
		c.out.Add(1)
		return false, nil
	}
	var err error
	if c.udp != nil {
		_, err = c.udp.WriteToUDPAddrPort(p, normal(ap))
	} else {
		_, err = c.PacketConn.WriteTo(p, net.UDPAddrFromAddrPort(normal(ap)))
	}
	return err == nil, err
}

// Dropped counts what the fence has kept out so far.
func (c *Conn) Dropped() Counts { return Counts{In: c.in.Load(), Out: c.out.Load()} }

func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok && u != nil {
		return u.AddrPort()
	}
	return netip.AddrPort{}
}
