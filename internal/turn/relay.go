package turn

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"orama.network/orama/internal/fence"
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
	endClosed    = "server_closed"
)

// relay is one allocation's socket on the relay address, behind its tenant's fence. The library
// reads it in one goroutine, writes it from the client's reader, and may close it any time.
type relay struct {
	tenant    *tenant
	transport string
	client    netip.AddrPort
	gate      *gate
	created   time.Time
	session   time.Time // when Limits.Session is over

	fenced *fence.Conn // set once by bound, before anybody else sees the relay
	port   uint16

	expires   atomic.Int64 // Unix ns; 0 until the Allocate was answered
	permitted atomic.Bool  // a permission or channel exists
	deleting  atomic.Bool  // the client is just deleting it
	disowned  atomic.Bool  // the engine closed it, and so has forgotten it

	reason atomic.Pointer[string] // why it ended, when the server decided
	once   sync.Once

	swept  uint64    // up.packets at the last sweep; guarded by tenant.mu
	active time.Time // last sweep that saw the client send; guarded by tenant.mu

	up   flow     // written by the client's reader
	_    [48]byte // keeps up and down, written by different goroutines, off one cache line
	down flow     // written by the relay's reader
}

// flow counts what was relayed one way: payloads, in bytes.
type flow struct {
	packets, bytes atomic.Uint64
}

func (f *flow) add(n int) {
	f.packets.Add(1)
	f.bytes.Add(uint64(n)) //nolint:gosec // a length
}

// totals is a reading of a relay, or the sum of several.
type totals struct {
	upPackets, upBytes, downPackets, downBytes uint64
	droppedIn, droppedOut                      uint64 // by the fence
	relays                                     uint64 // ended
}

func (a totals) plus(b totals) totals {
	return totals{
		upPackets: a.upPackets + b.upPackets, upBytes: a.upBytes + b.upBytes,
		downPackets: a.downPackets + b.downPackets, downBytes: a.downBytes + b.downBytes,
		droppedIn: a.droppedIn + b.droppedIn, droppedOut: a.droppedOut + b.droppedOut,
		relays: a.relays + b.relays,
	}
}

func (r *relay) totals() totals {
	d := r.fenced.Dropped()
	return totals{
		upPackets: r.up.packets.Load(), upBytes: r.up.bytes.Load(),
		downPackets: r.down.packets.Load(), downBytes: r.down.bytes.Load(),
		droppedIn: d.In, droppedOut: d.Out, relays: 1,
	}
}

func (r *relay) bound(udp *net.UDPConn, port uint16) {
	r.fenced, r.port = fence.Wrap(udp, &r.tenant.fence), port
}

// ReadFrom gives what the SFU sends. A datagram that fills p was cut short: it is dropped, for
// half a packet helps nobody.
func (r *relay) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, from, err := r.fenced.ReadFrom(p)
		if err != nil {
			r.leave()
			return n, from, err
		}
		if n < len(p) {
			r.down.add(n)
			return n, from, nil
		}
	}
}

// leave ends the engine's reading goroutine when the engine has deleted the allocation already. On
// an error that goroutine deletes the allocation of its 5-tuple, whichever that is: a client that deletes
// and allocates again at once would lose the new one. After the link's end the engine needs the error.
func (r *relay) leave() {
	if r.disowned.Load() && !r.gate.over.Load() {
		runtime.Goexit()
	}
}

// WriteTo sends what the client sent. It reports success even for what the fence or the kernel
// refused: no answer goes with a datagram, and the library only formats the error away.
func (r *relay) WriteTo(p []byte, to net.Addr) (int, error) {
	if sent, _ := r.fenced.Send(p, to); sent { //nolint:errcheck // see above
		r.up.add(len(p))
	}
	return len(p), nil
}

// Close is the library's way to end the relay; the reason is worked out from what led here. It is
// called under the engine's lock, so it waits for nothing.
func (r *relay) Close() error {
	r.disowned.Store(true)
	r.once.Do(r.finish)
	return nil
}

// end closes the relay for a reason of the server's own. The library notices by its reader.
func (r *relay) end(reason string) {
	r.reason.CompareAndSwap(nil, &reason)
	r.once.Do(r.finish)
}

func (r *relay) finish() {
	r.fenced.Close() //nolint:errcheck // a UDP socket
	r.gate.forget(r)
	r.tenant.forget(r)
	r.gate.srv.relayEnded(r, r.why())
}

func (r *relay) why() string {
	switch reason := r.reason.Load(); {
	case reason != nil:
		return *reason
	case r.deleting.Load():
		return endDeleted
	}
	return endExpired
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

// grant answers how long the relay lives from now, at most told, and holds it to that.
func (r *relay) grant(told time.Duration, now time.Time, l *Limits) time.Duration {
	limit := l.FirstLifetime
	if r.permitted.Load() {
		limit = l.Lifetime
	}
	if left := r.session.Sub(now).Truncate(time.Second); left < limit {
		limit = max(left, time.Second)
	}
	granted := min(told, limit)
	r.expires.Store(now.Add(granted).UnixNano())
	return granted
}

func (r *relay) LocalAddr() net.Addr                { return r.fenced.LocalAddr() }
func (r *relay) SetDeadline(t time.Time) error      { return r.fenced.SetDeadline(t) }
func (r *relay) SetReadDeadline(t time.Time) error  { return r.fenced.SetReadDeadline(t) }
func (r *relay) SetWriteDeadline(t time.Time) error { return r.fenced.SetWriteDeadline(t) }
