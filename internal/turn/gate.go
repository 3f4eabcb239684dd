package turn

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v4"
	pion "github.com/pion/turn/v5"

	"orama.network/orama"
)

// link is where a gate's datagrams come from and go to: the UDP socket with all its clients, or
// one client's connection. A framing link gives one STUN message or ChannelData per read.
type link interface {
	ReadFrom(p []byte) (int, net.Addr, error)
	WriteTo(p []byte, to net.Addr) (int, error)
	LocalAddr() net.Addr
	Close() error
}

// gate stands between a link and one engine of the library, as the net.PacketConn that the engine
// serves. It drops what no TURN client sends, checks credentials, and refuses what the library
// would get wrong. The engine calls its hooks back in the goroutine that reads, so what they need
// to know of the request at hand is passed in current without a lock.
type gate struct {
	srv       *Server
	transport string // "udp", "tcp", "tls" or "dtls"
	link      link
	proven    bool     // the client's address is no forgery: answers need no budget
	replays   *replays // nil where the library's nonce belongs to one connection

	current request // owned by the reader

	over atomic.Bool   // the link has ended
	done chan struct{} // closed when the reader has returned for good

	mu   sync.Mutex // guards live; taken for requests and ends, not for media
	live map[netip.AddrPort]*relay
	bare time.Time // since when live has been empty
}

// request is the request that the engine is handling. The zero value is one without a valid credential.
type request struct {
	msg    *stun.Message
	from   netip.AddrPort
	addr   net.Addr
	tenant *tenant
	key    stun.MessageIntegrity
	relay  *relay // the client's living one
}

func newGate(srv *Server, transport string, l link) *gate {
	return &gate{
		srv: srv, transport: transport, link: l, proven: transport != transportUDP,
		done: make(chan struct{}), live: map[netip.AddrPort]*relay{}, bare: srv.now(),
	}
}

// serve starts the engine. It reads until the link ends.
func (g *gate) serve() error {
	_, err := pion.NewServer(pion.ServerConfig{
		Realm:              g.srv.realm,
		AuthHandler:        g.authenticate,
		LoggerFactory:      quiet{},
		AllocationLifetime: g.srv.limits.Lifetime,
		// Without this an IPv6 client that names no family would get a relay that refuses IPv4 peers.
		StrictAddressFamily: true,
		EventHandler: pion.EventHandler{
			OnAllocationDeleted: func(_, _ net.Addr, _, _, _ string) { g.srv.relays.leave() },
		},
		PacketConnConfigs: []pion.PacketConnConfig{{
			PacketConn: g, RelayAddressGenerator: g, PermissionHandler: g.permit,
		}},
	})
	return err
}

// ReadFrom gives the engine the next datagram that is worth its while.
func (g *gate) ReadFrom(p []byte) (int, net.Addr, error) {
	if r := g.current.relay; r != nil {
		r.deleting.Store(false) // it lives: the deletion was not accepted
	}
	g.current = request{}
	for {
		n, from, err := g.link.ReadFrom(p)
		if err != nil {
			g.end()
			return 0, nil, err
		}
		if n < len(p) && g.admit(p[:n], from) {
			return n, from, nil
		}
	}
}

// end is called once, by the reader, when the link gives no more.
func (g *gate) end() {
	g.over.Store(true)
	g.link.Close() //nolint:errcheck // it has ended
	for _, r := range g.relays() {
		r.end(endLost)
	}
	close(g.done)
}

const (
	stunHeader = 20
	stunCookie = 0x2112A442
)

// admit reports whether the engine is to see a datagram. Media passes after one comparison.
func (g *gate) admit(b []byte, from net.Addr) bool {
	if len(b) >= 4 && b[0]>>6 == 1 {
		return true // ChannelData (RFC 8656 section 12.4); the engine knows the channels
	}
	if len(b) < stunHeader || b[0]>>6 != 0 || binary.BigEndian.Uint32(b[4:8]) != stunCookie {
		return g.drop(dropMalformed)
	}
	var typ stun.MessageType
	typ.ReadValue(binary.BigEndian.Uint16(b))
	switch {
	case typ.Class == stun.ClassIndication && typ.Method == stun.MethodSend:
		return true
	case typ.Class != stun.ClassRequest:
		return g.drop(dropUnexpected)
	}
	m := &stun.Message{Raw: append([]byte(nil), b...)}
	if m.Decode() != nil {
		return g.drop(dropMalformed)
	}
	return g.request(m, from)
}

// request reports whether the engine is to see a request; the others were answered, or are not worth it.
func (g *gate) request(m *stun.Message, addr net.Addr) bool {
	from := addrPort(addr)
	switch m.Type.Method {
	case stun.MethodBinding:
		return g.affordable(from)
	case stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind:
	default:
		return g.drop(dropUnexpected) // Connect and ConnectionBind (RFC 6062) too
	}
	t, key, reason := g.srv.verify(m)
	if reason != "" {
		// The engine answers 401 with the nonce, or 438. A first request has no credential by design.
		if !g.affordable(from) {
			return false
		}
		if reason != refuseNone {
			g.refused(t, from, m.Type.Method, reason)
		}
		return true
	}
	g.current = request{msg: m, from: from, addr: addr, tenant: t, key: key, relay: g.relay(from)}
	return g.judge(&g.current)
}

// affordable takes one unauthenticated answer out of the sender's network's budget.
func (g *gate) affordable(from netip.AddrPort) bool {
	if g.proven || g.srv.answers.spend(networkOf(from.Addr()), g.srv.now()) {
		return true
	}
	return g.drop(dropLimited)
}

func (g *gate) drop(why string) bool {
	g.srv.metrics.dropped[why].Inc()
	return false
}

// authenticate is the library's AuthHandler. The answer was found by verify, so that the gate and
// the engine cannot disagree. The user id is the namespace: the username changes with each credential,
// and the library finds a client's allocation by the id.
func (g *gate) authenticate(*pion.RequestAttributes) (string, []byte, bool) {
	if t := g.current.tenant; t != nil {
		return string(t.id), g.current.key, true
	}
	return "", nil, false
}

// permit is the library's PermissionHandler, for CreatePermission and ChannelBind.
func (g *gate) permit(_ net.Addr, peer net.IP) bool {
	ip, ok := netip.AddrFromSlice(peer)
	t := g.current.tenant
	if ok && t != nil && t.fence.AllowsIP(ip) {
		return true
	}
	g.refused(t, g.current.from, stun.MethodCreatePermission, refuseFence)
	return false
}

// Validate is part of the library's RelayAddressGenerator, as are the three after it.
func (g *gate) Validate() error { return nil }

// AllocatePacketConn opens the relay of the request at hand.
func (g *gate) AllocatePacketConn(conf pion.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	q := &g.current
	if q.tenant == nil || conf.UserID != string(q.tenant.id) {
		return nil, nil, errRefused // EVEN-PORT asks without a user; judge refuses it earlier
	}
	now := g.srv.now()
	r := &relay{
		tenant: q.tenant, transport: g.transport, client: q.from, gate: g,
		created: now, session: now.Add(g.srv.limits.Session), active: now,
	}
	if reason, err := g.srv.open(r); err != nil {
		g.refused(q.tenant, q.from, stun.MethodAllocate, reason)
		return nil, nil, err
	}
	q.relay = r
	g.remember(r)
	return r, net.UDPAddrFromAddrPort(netip.AddrPortFrom(g.srv.relayIP, r.port)), nil
}

// AllocateListener refuses RFC 6062: a connection to a black hole stalls the library's listener.
func (g *gate) AllocateListener(pion.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errRefused
}

// AllocateConn refuses RFC 6062.
func (g *gate) AllocateConn(pion.AllocateConnConfig) (net.Conn, error) { return nil, errRefused }

func (g *gate) relay(from netip.AddrPort) *relay {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.live[from]
}

func (g *gate) relays() []*relay {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]*relay, 0, len(g.live))
	for _, r := range g.live {
		list = append(list, r)
	}
	return list
}

func (g *gate) remember(r *relay) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.live[r.client] = r
}

func (g *gate) forget(r *relay) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.live[r.client] == r {
		delete(g.live, r.client)
	}
	if len(g.live) == 0 {
		g.bare = g.srv.now()
	}
}

// silentSince reports whether no relay has lived here since t.
func (g *gate) silentSince(t time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.live) == 0 && g.bare.Before(t)
}

func (g *gate) refused(t *tenant, from netip.AddrPort, method stun.Method, reason string) {
	var ns orama.NamespaceID
	if t != nil {
		ns = t.id
	}
	g.srv.refused(ns, g.transport, from, method, reason)
}

// LocalAddr is part of net.PacketConn, as are the following. The library sets no deadlines.
func (g *gate) LocalAddr() net.Addr              { return g.link.LocalAddr() }
func (g *gate) Close() error                     { return g.link.Close() }
func (g *gate) SetDeadline(time.Time) error      { return nil }
func (g *gate) SetReadDeadline(time.Time) error  { return nil }
func (g *gate) SetWriteDeadline(time.Time) error { return nil }
