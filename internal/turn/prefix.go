package turn

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// addrPort reads the address of a UDP or TCP socket without text; the zero value for any other.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// clientOf is whom a cap on one client counts: an IPv4 address, or the /64 that one IPv6
// subscriber has to itself.
func clientOf(ip netip.Addr) netip.Prefix { return prefixOf(ip, 32, 64) }

// networkOf is whom an answer to an unproven address counts against.
func networkOf(ip netip.Addr) netip.Prefix { return prefixOf(ip, 24, 48) }

func prefixOf(ip netip.Addr, v4, v6 int) netip.Prefix {
	bits := v6
	if ip.Is4() {
		bits = v4
	}
	p, _ := ip.Prefix(bits) //nolint:errcheck // an invalid address counts as the zero prefix
	return p
}

// tally counts what each prefix holds, up to a cap. It keeps no entry for who holds nothing, so
// the caller's own bound on the total bounds the table.
type tally struct {
	mu    sync.Mutex
	held  map[netip.Prefix]int
	total int
}

// take counts one more, unless each or all (0: no cap) would be exceeded.
func (t *tally) take(p netip.Prefix, each, all int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if (each > 0 && t.held[p] >= each) || (all > 0 && t.total >= all) {
		return false
	}
	if t.held == nil {
		t.held = map[netip.Prefix]int{}
	}
	t.held[p]++
	t.total++
	return true
}

func (t *tally) give(p netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.held[p]--; t.held[p] <= 0 {
		delete(t.held, p)
	}
}

func (t *tally) of(p netip.Prefix) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held[p]
}

// maxRemembered bounds each of the two generations of a memory, in entries of about 100 bytes.
const maxRemembered = 1 << 16

// memory is a map that forgets: an entry not touched for one to two periods is gone, and there
// are never more than two generations of maxRemembered entries. It is not safe for concurrent use.
type memory[K comparable, V any] struct {
	period   time.Duration
	now, old map[K]V
	since    time.Time
}

func (m *memory[K, V]) get(k K, at time.Time) (V, bool) {
	if m.now == nil || at.Sub(m.since) >= m.period {
		m.turn(at)
	}
	if v, ok := m.now[k]; ok {
		return v, true
	}
	v, ok := m.old[k]
	return v, ok
}

func (m *memory[K, V]) put(k K, v V, at time.Time) {
	if len(m.now) >= maxRemembered {
		m.turn(at)
	}
	m.now[k] = v
}

func (m *memory[K, V]) turn(at time.Time) {
	m.old, m.now = m.now, map[K]V{}
	if at.Sub(m.since) >= 2*m.period {
		m.old = nil
	}
	m.since = at
}

// budget is a token bucket for each prefix. A bucket is forgotten when it would be full again; only
// more prefixes at a time than fit are forgotten sooner, for memory is worth more than their ration.
type budget struct {
	rate, burst float64 // tokens a second, and at most

	mu      sync.Mutex
	buckets memory[netip.Prefix, bucket]
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newBudget(rate, burst float64) *budget {
	full := time.Duration(burst / rate * float64(time.Second))
	return &budget{rate: rate, burst: burst, buckets: memory[netip.Prefix, bucket]{period: full}}
}

func (b *budget) spend(p netip.Prefix, at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	k, ok := b.buckets.get(p, at)
	if !ok {
		k = bucket{tokens: b.burst, at: at}
	}
	k.tokens = min(b.burst, k.tokens+b.rate*max(0, at.Sub(k.at).Seconds()))
	k.at = at
	allowed := k.tokens >= 1
	if allowed {
		k.tokens--
	}
	b.buckets.put(p, k, at)
	return allowed
}

// replayWindow is for how long a request may be retransmitted: RFC 8489's Ti is 39.5 s.
const replayWindow = time.Minute

// replays remembers Allocate requests by their signature: a nonce is good for one address as long as it lives, so a
// captured request would open another relay for whoever can send from there. It belongs to one engine.
type replays struct {
	seen memory[[20]byte, origin]
}

type origin struct {
	from netip.AddrPort
	at   time.Time
}

func newReplays() *replays {
	// Nonces live for one hour; memory keeps each entry for at least a period.
	return &replays{seen: memory[[20]byte, origin]{period: time.Hour}}
}

// fresh reports whether the request is new, or a retransmission by its first sender.
func (r *replays) fresh(integrity [20]byte, from netip.AddrPort, at time.Time) bool {
	o, ok := r.seen.get(integrity, at)
	if ok {
		return o.from == from && at.Sub(o.at) < replayWindow
	}
	r.seen.put(integrity, origin{from: from, at: at}, at)
	return true
}
