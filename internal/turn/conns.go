package turn

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

type closer interface{ Close() error }

// registry holds the open connections, so that they can be counted, found silent, and closed.
type registry struct {
	counts tally

	mu     sync.Mutex // guards the following
	closed bool
	open   map[*held]struct{}
}

// held is one open connection.
type held struct {
	closer
	who  netip.Prefix
	conn atomic.Pointer[conn] // nil until its handshake is over
}

func (h *held) attach(k *conn) { h.conn.Store(k) }

// hold registers c, or gives nil when who has each, all are open (0: no cap), or the server closes.
func (r *registry) hold(c closer, who netip.Prefix, each, all int) *held {
	if !r.counts.take(who, each, all) {
		return nil
	}
	h := &held{closer: c, who: who}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		r.counts.give(who)
		return nil
	}
	if r.open == nil {
		r.open = map[*held]struct{}{}
	}
	r.open[h] = struct{}{}
	return h
}

// release closes the connection and forgets it.
func (r *registry) release(h *held) {
	h.Close() //nolint:errcheck // over
	r.mu.Lock()
	delete(r.open, h)
	r.mu.Unlock()
	r.counts.give(h.who)
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

func (r *registry) list() []*held {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*held, 0, len(r.open))
	for h := range r.open {
		list = append(list, h)
	}
	return list
}

// closeSilent closes the connections on which no relay has lived since t, and says how many. Those in
// a handshake have their own deadline.
func (r *registry) closeSilent(t time.Time) int {
	n := 0
	for _, h := range r.list() {
		if k := h.conn.Load(); k != nil && k.silentSince(t) {
			h.Close() //nolint:errcheck // over
			n++
		}
	}
	return n
}

// closeAll closes every connection, and every one that still comes.
func (r *registry) closeAll() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	for _, h := range r.list() {
		h.Close() //nolint:errcheck // over
	}
}
