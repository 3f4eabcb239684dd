package turn

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
)

const (
	// leaseGrace is for how long a lease whose holder vanished without a word is kept for its return: a
	// holder that is restarted costs no relay.
	leaseGrace = 3 * time.Second
	// maxUnread is how many events may wait for a lease's holder. More are lost and counted.
	maxUnread = 256
	// flushPatience bounds the wait for a slow log when a lease ends.
	flushPatience = time.Second
	// maxLeases bounds how many leases there may be; a host has room for 20 namespaces.
	maxLeases = 256
)

// LeaseEvent is what a lease's holder is told: a line of the namespace's log, or, without Text, how things are.
type LeaseEvent struct {
	Text        string `json:"text,omitempty"`
	Served      bool   `json:"served"`      // the namespace is configured here, and so is served
	Allocations int    `json:"allocations"` // living
	Lost        uint64 `json:"lost,omitempty"`
}

// Lease is somebody's wish that a namespace be served while it is held.
type Lease struct {
	srv    *Server
	ns     orama.NamespaceID
	events chan LeaseEvent
	ended  chan struct{} // closed when it is over

	// guarded by the server's leases.mu
	lost      uint64      // events that nobody read
	missing   bool        // its holder is
	timer     *time.Timer // runs while its holder is missing, and leases are not frozen; nil otherwise
	releasing bool        // no longer counts, but still hears how its relays end
	over      bool
}

// leases are those of one server. Where they are in use a namespace is served while it is both configured and leased.
type leases struct {
	inUse bool // set before the first Apply

	mu     sync.Mutex // guards the following; taken after Server.mu
	held   map[orama.NamespaceID]*Lease
	frozen bool // a missing holder has all the time there is
	left   bool // the next process has them
}

// UseLeases makes the server serve a namespace only while a lease of it is held. It is called before the first Apply.
// Those that the process before held are given; their holders may come from then on, and have until a while after the first Apply.
func (s *Server) UseLeases(before ...orama.NamespaceID) {
	s.leases.inUse = true
	s.leases.held = map[orama.NamespaceID]*Lease{}
	s.leases.frozen = len(before) > 0
	for _, ns := range before {
		l := s.newLease(ns)
		l.missing = true
		s.leases.held[ns] = l
	}
	s.scribe.also = s.tellHolder
}

// Leases are the namespaces that somebody holds a lease of, or did until just now; for UseLeases in the next process.
func (s *Server) Leases() []orama.NamespaceID {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	return slices.Sorted(maps.Keys(s.leases.held))
}

func (s *Server) newLease(ns orama.NamespaceID) *Lease {
	return &Lease{srv: s, ns: ns, events: make(chan LeaseEvent, maxUnread), ended: make(chan struct{})}
}

// freeze keeps leases whose holders vanish, until thaw: they may have gone to the next process.
func (ls *leases) freeze() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.frozen = true
	for _, l := range ls.held {
		if l.timer != nil {
			l.timer.Stop()
			l.timer = nil
		}
	}
}

// thaw gives the holders that are missing their time to return, from now.
func (ls *leases) thaw() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if !ls.frozen {
		return
	}
	ls.frozen = false
	for _, l := range ls.held {
		if l.missing {
			l.timer = time.AfterFunc(leaseGrace, l.Release)
		}
	}
}

// leave sends every holder to the next process. What is served here no longer depends on them.
func (ls *leases) leave() {
	ls.endAll()
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.left = true
}

// Lease has a namespace served from now on, or as soon as it is configured. A lease whose holder is missing is
// taken over, and its relays live on; one that is held is a conflict.
func (s *Server) Lease(ns orama.NamespaceID) (*Lease, error) {
	if !s.leases.inUse {
		return nil, orama.Errorf(orama.KindConflict, "no_leases", "this TURN server serves what its agent names, without leases")
	}
	if err := auth.ValidNamespace(string(ns)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, orama.Errorf(orama.KindUnavailable, "closed", "the TURN server is closed")
	}
	l, err := s.leases.take(s, ns)
	if err != nil {
		return nil, err
	}
	s.setTenants(s.leased(), endRemoved)
	return l, nil
}

func (ls *leases) take(s *Server, ns orama.NamespaceID) (*Lease, error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch old := ls.held[ns]; {
	case ls.left:
		return nil, orama.Errorf(orama.KindConflict, "handed_over", "another process has taken this TURN server's place, and its leases")
	case old == nil && len(ls.held) >= maxLeases:
		return nil, orama.Errorf(orama.KindLimited, "too_many_leases", "this TURN server has %d leases, and takes no more", maxLeases)
	case old == nil:
	case !old.missing:
		return nil, orama.Errorf(orama.KindConflict, "leased", "namespace %s is leased by another process; see systemctl status orama-namespace-turn@%s", ns, ns)
	default:
		old.endLocked()
	}
	l := s.newLease(ns)
	ls.held[ns] = l
	return l, nil
}

func (l *Lease) endLocked() {
	if l.timer != nil {
		l.timer.Stop()
	}
	if !l.over {
		l.over = true
		close(l.ended)
	}
}

// Events are the lines of the namespace's log since the lease was taken. They never end; see Ended.
func (l *Lease) Events() <-chan LeaseEvent { return l.events }

// Ended is closed when the lease is over: released, taken over, or the server was closed.
func (l *Lease) Ended() <-chan struct{} { return l.ended }

// Now says how things are, with what was lost so far.
func (l *Lease) Now() LeaseEvent {
	var e LeaseEvent
	if t := l.srv.tenants()[l.ns]; t != nil {
		_, living, _ := t.reading()
		e.Served = true
		for _, n := range living {
			e.Allocations += n
		}
	}
	l.srv.leases.mu.Lock()
	defer l.srv.leases.mu.Unlock()
	e.Lost, l.lost = l.lost, 0
	return e
}

// Abandon says that the holder vanished without releasing. The lease ends soon, unless it is taken over.
func (l *Lease) Abandon() {
	ls := &l.srv.leases
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.over || l.missing {
		return
	}
	if l.missing = true; !ls.frozen {
		l.timer = time.AfterFunc(leaseGrace, l.Release)
	}
}

// Release ends the lease. When it returns the namespace is not served, its relays have ended, and the lines
// that say so are among the events.
func (l *Lease) Release() {
	s := l.srv
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leases.mu.Lock()
	mine := s.leases.held[l.ns] == l
	l.releasing = true
	s.leases.mu.Unlock()
	if mine && !s.closed {
		s.setTenants(s.leased(), endUnleased)
		if s.configured {
			s.scribe.flush(flushPatience)
		}
	}
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if mine {
		delete(s.leases.held, l.ns)
	}
	l.endLocked()
}

// ReleaseNamespace releases the lease of a namespace, if there is one.
func (s *Server) ReleaseNamespace(ns orama.NamespaceID) {
	s.leases.mu.Lock()
	l := s.leases.held[ns]
	s.leases.mu.Unlock()
	if l != nil {
		l.Release()
	}
}

// endAll ends every lease, because the server does.
func (ls *leases) endAll() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for _, l := range ls.held {
		l.endLocked()
	}
	clear(ls.held)
}

// leased are those of the configured tenants that are to be served. Callers hold mu.
func (s *Server) leased() []plan.TenantSpec {
	if !s.leases.inUse {
		return s.wanted
	}
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if s.leases.left {
		return s.wanted
	}
	return slices.DeleteFunc(slices.Clone(s.wanted), func(t plan.TenantSpec) bool {
		l := s.leases.held[t.Namespace]
		return l == nil || l.releasing
	})
}

// unleased are the configured tenants that nobody holds a lease of. Callers hold mu.
func (s *Server) unleased() (out []orama.NamespaceID) {
	if !s.leases.inUse {
		return nil
	}
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	for _, t := range s.wanted {
		if s.leases.held[t.Namespace] == nil && !s.leases.left {
			out = append(out, t.Namespace)
		}
	}
	return out
}

// tellHolder passes a line of the log on to the lease of the namespace that it is about. It never waits. The node looks
// every few seconds whether its relay serves; what came of that it says itself, and a log of it would hide the clients.
func (s *Server) tellHolder(l line) {
	ns, text := lineText(l)
	if ns == "" || l.client().Addr() == s.addresses.public && strings.HasPrefix(l.msg, "turn: relay ") {
		return
	}
	s.leases.mu.Lock()
	lease := s.leases.held[ns]
	s.leases.mu.Unlock()
	if lease == nil {
		return
	}
	e := lease.Now()
	e.Text = text
	select {
	case lease.events <- e:
	default:
		s.leases.mu.Lock()
		lease.lost += 1 + e.Lost
		s.leases.mu.Unlock()
	}
}

// client is whom a line is about.
func (l line) client() (who netip.AddrPort) {
	for i := 0; i+1 < len(l.args); i += 2 {
		if l.args[i] == "client" {
			who, _ = l.args[i+1].(netip.AddrPort)
		}
	}
	return who
}

// lineText words a line, and says which namespace it is about.
func lineText(l line) (ns orama.NamespaceID, text string) {
	var b strings.Builder
	b.WriteString(strings.TrimPrefix(l.msg, "turn: "))
	for i := 0; i+1 < len(l.args); i += 2 {
		if l.args[i] == "namespace" {
			ns, _ = l.args[i+1].(orama.NamespaceID)
			continue
		}
		value := fmt.Sprint(l.args[i+1])
		if value == "" || strings.ContainsAny(value, " \"=\n") {
			value = fmt.Sprintf("%q", value)
		}
		fmt.Fprintf(&b, " %v=%s", l.args[i], value)
	}
	return ns, b.String()
}
