package dns

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// A source address over UDP can be forged, so that our answers hit somebody who never asked. Each source network
// gets a budget of answers; over it every second query is answered with "come again over TCP", which costs the
// victim no more than the forger and lets a real client through, and the rest is dropped.
const (
	defaultRate = 100 // answers a second for a network; a busy public resolver asks for each name once a minute
	burst       = 2   // seconds' worth that may come at once
	// buckets are picked by a keyed hash, so memory is fixed and nobody can choose whom he shares one with.
	buckets = 1 << 14
)

type verdict int

const (
	pass verdict = iota
	slip         // answer with TC alone
	drop
)

type bucket struct {
	tokens float64
	last   time.Duration // since the limiter began
	over   uint32        // queries over the budget, to slip every second
}

// limiter is safe for concurrent use.
type limiter struct {
	rate  float64
	seed  maphash.Seed
	began time.Time

	mu      sync.Mutex // guards the following field
	buckets [buckets]bucket
}

func newLimiter(perSecond int) *limiter {
	l := &limiter{rate: float64(perSecond), seed: maphash.MakeSeed(), began: time.Now()}
	for i := range l.buckets {
		l.buckets[i].tokens = l.rate * burst
	}
	return l
}

// network is the part of an address that one party controls: /24, or /56 as RFC 6177 hands out.
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits) // an invalid address gives the zero prefix, one bucket for all of them
	return p
}

func (l *limiter) judge(from netip.Addr) verdict {
	now := time.Since(l.began)
	b := &l.buckets[maphash.Comparable(l.seed, network(from))%buckets]
	l.mu.Lock()
	defer l.mu.Unlock()
	b.tokens = min(b.tokens+(now-b.last).Seconds()*l.rate, l.rate*burst)
	b.last = now
	if b.tokens >= 1 {
		b.tokens--
		return pass
	}
	b.over++
	if b.over%2 == 1 {
		return slip
	}
	return drop
}
