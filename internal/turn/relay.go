package turn

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/turn/wire"
)

// Why a relay ended, in logs and metrics.
const (
	endDeleted   = "deleted_by_client" // Refresh with LIFETIME 0
	endLost      = "connection_closed" // the client's TCP, TLS or DTLS connection ended
	endExpired   = "expired"           // not refreshed in time
	endSession   = "session_cap"       // lived for Limits.Session
	endReclaimed = "reclaimed"         // silent, and the block was full
	endRemoved   = "namespace_removed"
	endUnleased  = "lease_ended" // of the namespace, on this server
	endRotated   = "secret_changed"
	endMoved     = "block_changed"
	endOperator  = "ended_by_operator"
	endClosed    = "server_closed"
)

// relay is one allocation: a client's 5-tuple, and the sockets on the relay addresses that stand for it. The goroutine
// that reads the client (a worker, or a connection's) changes what it may talk to; a worker reads its sockets; anybody may
// end it.
type relay struct {
	tenant    *tenant
	transport string
	client    netip.AddrPort
	user      string   // of the Allocate
	key       wire.Key // of user, for the requests that follow
	created   time.Time
	session   time.Time // when Limits.Session is over
	first     [12]byte  // the Allocate's transaction id, for its retransmissions
	token     []byte    // RESERVATION-TOKEN that the Allocate was given
	share     *share    // of the client's address

	worker *worker
	socks  []*sock // one, or one for each family
	port   uint16  // of the first

	// Ways to the client: a UDP socket and address, or a connection's queue.
	door int
	to   batch.Addr
	hint batch.Hint // the worker's
	out  *outbox    // nil over UDP

	peers     atomic.Pointer[peers]
	expires   atomic.Int64 // Unix ns; 0 until the Allocate was answered
	permitted atomic.Bool  // a permission or channel exists, or has

	over   atomic.Bool
	reason atomic.Pointer[string]
	once   sync.Once

	swept  uint64    // up.packets at the last sweep; guarded by tenant.mu
	active time.Time // last sweep that saw the client send; guarded by tenant.mu

	up   flow     // written by whoever reads the client
	_    [48]byte // keeps up and down, written by different goroutines, off one cache line
	down flow     // written by the worker
}

// sock is one socket on a relay address.
type sock struct {
	relay *relay
	fd    int
	at    netip.AddrPort
	dead  atomic.Bool // the client gave up this family; the other lives

	// Over a connection two goroutines use fd: the connection's to send, the worker to read and to give the number back.
	mu   sync.Mutex
	gone bool // guarded by mu: fd may be somebody else's
}

// flow counts what was relayed one way: payloads, in bytes; and what was not.
type flow struct {
	packets, bytes atomic.Uint64
	fenced         atomic.Uint64 // packets to or from a peer outside the fence
	unpermitted    atomic.Uint64 // packets without a permission or channel
	limited        atomic.Uint64 // packets over a quota, or more than a slow client takes
}

func (f *flow) add(n int) {
	f.packets.Add(1)
	f.bytes.Add(uint64(n)) //nolint:gosec // a length
}

// totals is a reading of a relay, or the sum of several.
type totals struct {
	upPackets, upBytes, downPackets, downBytes uint64
	fencedUp, fencedDown                       uint64
	unpermittedUp, unpermittedDown             uint64
	limitedUp, limitedDown                     uint64
	relays                                     uint64 // ended
}

func (a totals) plus(b totals) totals {
	return totals{
		upPackets: a.upPackets + b.upPackets, upBytes: a.upBytes + b.upBytes,
		downPackets: a.downPackets + b.downPackets, downBytes: a.downBytes + b.downBytes,
		fencedUp: a.fencedUp + b.fencedUp, fencedDown: a.fencedDown + b.fencedDown,
		unpermittedUp: a.unpermittedUp + b.unpermittedUp, unpermittedDown: a.unpermittedDown + b.unpermittedDown,
		limitedUp: a.limitedUp + b.limitedUp, limitedDown: a.limitedDown + b.limitedDown,
		relays: a.relays + b.relays,
	}
}

func (r *relay) totals() totals {
	return totals{
		upPackets: r.up.packets.Load(), upBytes: r.up.bytes.Load(), downPackets: r.down.packets.Load(), downBytes: r.down.bytes.Load(),
		fencedUp: r.up.fenced.Load(), fencedDown: r.down.fenced.Load(),
		unpermittedUp: r.up.unpermitted.Load(), unpermittedDown: r.down.unpermitted.Load(),
		limitedUp: r.up.limited.Load(), limitedDown: r.down.limited.Load(),
		relays: 1,
	}
}

// sock is the relay's socket for peers of an address's family; nil without one.
func (r *relay) sock(ip netip.Addr) *sock {
	for _, s := range r.socks {
		if s.at.Addr().Is4() == ip.Is4() && !s.dead.Load() {
			return s
		}
	}
	return nil
}

// end closes the relay. When it returns its ports are free, whatever other goroutines still do with it.
func (r *relay) end(reason string) {
	r.once.Do(func() {
		r.reason.Store(&reason)
		r.over.Store(true)
		r.close()
		r.tenant.forget(r)
		r.worker.srv.relayEnded(r, reason)
		r.worker.post(func() { r.worker.forget(r) })
	})
}

// endFamily gives up one of two families (RFC 8656 section 8.2); the last one ends the relay.
func (r *relay) endFamily(s *sock) {
	s.dead.Store(true)
	if r.sock(netip.IPv4Unspecified()) == nil && r.sock(netip.IPv6Unspecified()) == nil {
		r.end(endDeleted)
		return
	}
	r.closeSock(s)
	r.tenant.forgetSock(s)
}

// close gives the ports back, and leaves the numbers of the descriptors to the worker.
func (r *relay) close() {
	for _, s := range r.socks {
		r.closeSock(s)
	}
}

func (r *relay) closeSock(s *sock) {
	if err := batch.Replace(s.fd, r.worker.srv.null); err != nil {
		r.worker.srv.log.Error("turn: a relay's socket could not be closed", "port", s.at.Port(), "err", err)
	}
}

// overReason says why the relay should end now; "" when it should not.
func (r *relay) overReason(now time.Time) string {
	if !now.Before(r.session) {
		return endSession
	}
	if at := r.expires.Load(); at != 0 && now.UnixNano() >= at {
		return endExpired
	}
	return ""
}

// grant answers how long the relay lives from now, of the time asked for, and holds it to that.
func (r *relay) grant(asked time.Duration, now time.Time, l *Limits) time.Duration {
	limit := l.FirstLifetime
	if r.permitted.Load() {
		limit = l.Lifetime
	}
	if left := r.session.Sub(now).Truncate(time.Second); left < limit {
		limit = max(left, time.Second)
	}
	granted := min(max(asked, time.Second), limit)
	r.expires.Store(now.Add(granted).UnixNano())
	return granted
}
