package enroll

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What one address may do: connections a second, and in a burst; and how many addresses are counted at a time. A host
// joins once; whoever guesses tokens guesses at 256 bits, so this is about the cost of handshakes.
const (
	paceRate  = 1
	paceBurst = 20
	paceKeys  = 4096
)

// paced closes connections of addresses that make too many.
type paced struct {
	net.Listener
	now func() time.Time

	mu      sync.Mutex // guards the following field
	callers map[netip.Prefix]*rate.Limiter
}

func newPaced(l net.Listener, now func() time.Time) *paced {
	return &paced{Listener: l, now: now, callers: map[netip.Prefix]*rate.Limiter{}}
}

func (p *paced) Accept() (net.Conn, error) {
	for {
		c, err := p.Listener.Accept()
		if err != nil || p.allow(c.RemoteAddr()) {
			return c, err
		}
		c.Close()
	}
}

func (p *paced) allow(from net.Addr) bool {
	ap, err := netip.ParseAddrPort(from.String())
	if err != nil {
		return true // not a network that has addresses
	}
	a := ap.Addr().Unmap()
	bits := 32
	if a.Is6() {
		bits = 64 // what one host has
	}
	key := netip.PrefixFrom(a, bits).Masked()
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.callers[key]
	if l == nil {
		if len(p.callers) >= paceKeys {
			clear(p.callers)
		}
		l = rate.NewLimiter(paceRate, paceBurst)
		p.callers[key] = l
	}
	return l.AllowN(p.now(), 1)
}
