package sfu

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pion/ice/v4"
	"github.com/pion/stun/v4"
)

// maxChecked bounds how many addresses of one peer are remembered. A browser with two relays, each over UDP,
// TCP and TLS, has six.
const maxChecked = 32

// pathMux hands every peer a path instead of the bare socket: what we send goes to where the peer's own media
// comes from. ICE leaves a controlled agent to guess which of several nominated pairs the other side uses:
// Firefox nominates each pair that it checks (RFC 5245 section 8.1.1.2), libwebrtc changes its mind. With a guess
// gone wrong the two directions go through two relays, and when one dies, the half that lives hides it.
type pathMux struct {
	ice.UDPMux
	out    *outbox         // nil: what is sent goes straight to the socket
	relays func() *sources // whom out may send to

	mu     sync.RWMutex
	paths  map[string]*path          // guarded by mu; by our ufrag
	routes map[netip.AddrPort]*route // guarded by mu; by where the peer's media comes from now

	plain [maxPacket]byte // the socket's reader alone
}

func newPathMux(m ice.UDPMux) *pathMux {
	return &pathMux{UDPMux: m, paths: map[string]*path{}, routes: map[netip.AddrPort]*route{}}
}

// share gives an ICE agent of a peer its share of the socket.
func (m *pathMux) share(ufrag string, addr net.Addr, r *route) (net.PacketConn, error) {
	conn, err := m.UDPMux.GetConn(ufrag, addr)
	if err != nil {
		return nil, err
	}
	direct, ok := conn.(ice.AddrPortReaderWriter)
	if !ok {
		return conn, nil // never with our guard; without it nothing is followed
	}
	p := &path{PacketConn: conn, direct: direct, route: r, checked: map[netip.AddrPort]struct{}{}}
	p.gone = func() { m.forget(ufrag, p) }
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paths[ufrag] = p
	return p, nil
}

func (m *pathMux) forget(ufrag string, p *path) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.paths[ufrag] == p {
		delete(m.paths, ufrag)
	}
}

// follow tells pion to call the pair of a check the selected one when media comes from there: by the selected pair's
// silence it judges whether a peer is gone. It is a binding request handler.
func (m *pathMux) follow(msg *stun.Message, _, remote ice.Candidate, pair *ice.CandidatePair) bool {
	var user stun.Username
	if user.GetFrom(msg) != nil {
		return false
	}
	ufrag, _, _ := strings.Cut(user.String(), ":")
	m.mu.RLock()
	p := m.paths[ufrag]
	m.mu.RUnlock()
	if p == nil {
		return false
	}
	from, err := netip.ParseAddr(remote.Address())
	media := p.media.Load()
	if err != nil || media == nil || *media != netip.AddrPortFrom(from.Unmap(), uint16(remote.Port())) { //nolint:gosec // a port
		p.followed = nil // pion may have taken this one
		return false
	}
	again := p.followed == pair
	p.followed = pair
	return !again
}

// path is one ICE agent's share of the socket.
type path struct {
	net.PacketConn
	direct ice.AddrPortReaderWriter
	route  *route
	gone   func()
	media  atomic.Pointer[netip.AddrPort] // where the newest packet beside STUN came from; nil: none did

	followed *ice.CandidatePair // that pion was told to take, and has; the agent's loop alone

	mu      sync.Mutex
	checked map[netip.AddrPort]struct{} // guarded by mu: whose checks had the right password
}

// isSTUN tells the protocols on the socket apart by the first byte (RFC 7983).
func isSTUN(b []byte) bool { return len(b) > 0 && b[0] < 4 }

// isRTCP tells reports and feedback from media (RFC 5761 section 4).
func isRTCP(b []byte) bool { return len(b) > 1 && b[0]>>6 == 2 && b[1] >= 192 && b[1] <= 223 }

// isRTP tells media from what is rare and must not wait for others: reports, keyframe requests, DTLS (RFC 7983, RFC 5761 section 4).
func isRTP(b []byte) bool { return len(b) > 1 && b[0]>>6 == 2 && (b[1] < 192 || b[1] > 223) }

// isSuccess reports a Binding success response, which pion sends to who knows the password, and to nobody else.
func isSuccess(b []byte) bool { return len(b) > 1 && b[0] == 0x01 && b[1] == 0x01 }

// ReadFromAddrPort is how pion reads.
func (p *path) ReadFromAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := p.direct.ReadFromAddrPort(b)
	if err == nil && n > 0 && !isSTUN(b[:n]) {
		if at := p.media.Load(); at == nil || *at != from {
			p.moved(from)
		}
	}
	return n, from, err
}

// moved notes another source of media, of those that may be one.
func (p *path) moved(from netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	if _, ok := p.checked[at]; ok {
		p.media.Store(&at)
		p.route.moved(&at)
	}
}

// WriteToAddrPort is how pion writes.
func (p *path) WriteToAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if isSTUN(b) {
		if isSuccess(b) {
			p.answered(to)
		}
		return p.direct.WriteToAddrPort(b, to)
	}
	if at := p.media.Load(); at != nil {
		to = *at
	}
	if p.route.out == nil || !isRTP(b) || len(b) > maxPacket {
		return p.direct.WriteToAddrPort(b, to)
	}
	if !p.route.relays().contains(to) {
		return 0, errNotRelay
	}
	p.route.out.put(b, to) // lost where there is no room
	return len(b), nil
}

// answered notes whose check was right.
func (p *path) answered(to netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.checked) < maxChecked {
		p.checked[netip.AddrPortFrom(to.Addr().Unmap(), to.Port())] = struct{}{}
	}
}

// ReadFrom is net.PacketConn's.
func (p *path) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := p.ReadFromAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// WriteTo is net.PacketConn's.
func (p *path) WriteTo(b []byte, to net.Addr) (int, error) {
	u, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, errNotRelay
	}
	return p.WriteToAddrPort(b, u.AddrPort())
}

// Close ends the share.
func (p *path) Close() error {
	p.gone()
	return p.PacketConn.Close()
}
