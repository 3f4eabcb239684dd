package sfu

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"
	"github.com/prometheus/client_golang/prometheus"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/signal"
)

// settings is a specification with what is made of it; replaced whole by Apply.
type settings struct {
	plan.SFUSpec
	tickets *auth.TicketVerifier
}

// Server is one namespace's SFU. Its zero value is of no use; New makes one.
type Server struct {
	boot         string
	log          *slog.Logger
	metrics      *metrics
	certificates []webrtc.Certificate
	engine       atomic.Pointer[engine]
	settings     atomic.Pointer[settings] // nil until the first Apply
	draining     atomic.Bool
	wg           sync.WaitGroup // rooms, peers and sessions

	applying sync.Mutex // one Apply or Close at a time; taken before mu

	mu     sync.Mutex
	rooms  map[orama.RoomID]*room // guarded by mu
	closed bool                   // guarded by mu
	net    *listeners             // guarded by mu; nil until the first Apply
}

// New makes a server that listens nowhere yet. reg may be nil.
func New(log *slog.Logger, reg prometheus.Registerer) *Server {
	s := &Server{boot: newID("b_"), log: log, metrics: newMetrics(), rooms: map[orama.RoomID]*room{}}
	s.register(reg)
	return s
}

// newID makes an id that nobody can guess: 16 random bytes as base64url after prefix.
func newID(prefix string) string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read never fails since Go 1.24
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// Apply takes a specification. The first one binds the listeners; a later one changes relays,
// ticket key, secret, credential TTL and TURN servers without touching any peer's media. Errors
// are of KindInvalid for a specification that can never work, KindConflict for one that needs
// another process, KindUnavailable when an address could not be bound.
func (s *Server) Apply(spec plan.SFUSpec) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := checkSpec(spec); err != nil {
		return err
	}
	if s.isClosed() {
		return errClosed
	}
	tickets, err := auth.NewTicketVerifier(spec.TicketKey)
	if err != nil {
		return err
	}
	old := s.settings.Load()
	if old == nil {
		return s.open(&settings{spec, tickets})
	}
	if !samePlace(old.SFUSpec, spec) {
		return orama.Errorf(orama.KindConflict, "sfu_moved", "namespace, node and addresses of a running SFU do not change; start another process")
	}
	if old.TicketKey == spec.TicketKey {
		tickets = old.tickets // it remembers which tickets were used
	}
	s.settings.Store(&settings{spec, tickets})
	s.listeners().guard.allow(spec.Relays)
	if old.Secret != spec.Secret {
		s.each(func(r *room) { r.refreshCredentials() })
	}
	return nil
}

func checkSpec(spec plan.SFUSpec) error {
	bad := func(format string, args ...any) error {
		return orama.Errorf(orama.KindInvalid, "invalid_sfu_spec", format, args...)
	}
	ip := spec.MeshIP.Unmap()
	switch {
	case auth.ValidNamespace(string(spec.Namespace)) != nil || spec.Node == "":
		return bad("the SFU's namespace or node is missing or malformed")
	case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast():
		return bad("the mesh address %s is no address of one host", spec.MeshIP)
	case !spec.MeshCIDR.IsValid() || spec.MeshCIDR.Bits() == 0 || !spec.MeshCIDR.Contains(ip):
		return bad("the mesh address %s is not inside the mesh %s", spec.MeshIP, spec.MeshCIDR)
	case spec.CredentialTTL < time.Second || spec.Secret == "":
		return bad("the credential TTL is below a second, or the secret is missing")
	}
	for _, r := range spec.Relays {
		if !r.IP.IsValid() || r.IP.IsUnspecified() || int(r.Ports.First)+int(r.Ports.Count) > 1<<16 {
			return bad("the relay block %s:%d+%d is not one host's", r.IP, r.Ports.First, r.Ports.Count)
		}
	}
	return nil
}

func samePlace(a, b plan.SFUSpec) bool {
	return a.Namespace == b.Namespace && a.Node == b.Node && a.MeshIP == b.MeshIP && a.MeshCIDR == b.MeshCIDR &&
		a.SignalPort == b.SignalPort && a.MediaPort == b.MediaPort
}

// open binds everything or nothing.
func (s *Server) open(set *settings) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert, err := webrtc.GenerateCertificate(key)
	if err != nil {
		return err
	}
	l, err := listen(set.SFUSpec)
	if err != nil {
		return err
	}
	s.certificates = []webrtc.Certificate{*cert}
	s.engine.Store(&engine{mux: l.openMux(pionLogs{s.log}), logs: pionLogs{s.log}})
	s.settings.Store(set)
	s.mu.Lock()
	s.net = l
	s.mu.Unlock()
	l.serve(s.handler(), s.log)
	s.log.Info("sfu listening", "signal", l.signalAddr(), "media", l.mediaAddr())
	return nil
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) listeners() *listeners {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.net
}

// Addrs are where the server listens, useful when the specification left the ports to the
// system (0). They are invalid before the first Apply.
func (s *Server) Addrs() (signal, media netip.AddrPort) {
	if l := s.listeners(); l != nil {
		return l.signalAddr(), l.mediaAddr()
	}
	return netip.AddrPort{}, netip.AddrPort{}
}

// Handler is the HTTP side: what is bound on the signalling port.
func (s *Server) Handler() http.Handler { return s.handler() }

// Status is what an agent may ask at any time.
type Status struct {
	Boot       string       `json:"boot"` // changes with every process
	Configured bool         `json:"configured"`
	Draining   bool         `json:"draining"`
	Rooms      []RoomStatus `json:"rooms"`
	Counters   Counters     `json:"counters"`
}

// RoomStatus is one room of Status.
type RoomStatus struct {
	ID         orama.RoomID `json:"id"`
	Peers      int          `json:"peers"` // those that may still resume included
	EmptySince *time.Time   `json:"empty_since,omitempty"`

	State *signal.RoomState `json:"state,omitempty"` // what admins have made of it; nil: nothing
	Kicks []Kick            `json:"kicks,omitempty"` // the oldest first
}

// Status says what the server does.
func (s *Server) Status() Status {
	st := Status{
		Boot: s.boot, Configured: s.settings.Load() != nil, Draining: s.draining.Load(), Rooms: []RoomStatus{}, Counters: s.counters(),
	}
	s.each(func(r *room) {
		room := RoomStatus{ID: r.id, Peers: int(r.count.Load()), EmptySince: r.emptySince.Load()}
		if k := r.kept.Load(); k != nil {
			room.State, room.Kicks = &k.state, k.kicks
		}
		st.Rooms = append(st.Rooms, room)
	})
	return st
}

func (s *Server) counters() Counters {
	var filtered, unsent uint64
	if l := s.listeners(); l != nil {
		filtered, unsent = l.guard.filtered.Load(), l.guard.out.lost.Load()
	}
	return s.metrics.counters(filtered, unsent)
}

func (s *Server) roomCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rooms)
}

// find gives a room that is here, or nil.
func (s *Server) find(id orama.RoomID) *room {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rooms[id]
}

// each calls f with every room. Rooms' own state belongs to their loops.
func (s *Server) each(f func(*room)) {
	s.mu.Lock()
	rooms := make([]*room, 0, len(s.rooms))
	for _, r := range s.rooms {
		rooms = append(rooms, r)
	}
	s.mu.Unlock()
	for _, r := range rooms {
		f(r)
	}
}

var errClosed = orama.Errorf(orama.KindUnavailable, "closed", "the SFU is closed")

// join hands a socket to its room, which it makes if need be, and waits for the peer.
func (s *Server) join(q joinRequest) (*peer, *refusal, error) {
	result := make(chan entry, 1)
	if err := s.postJoin(q, result); err != nil {
		return nil, nil, err
	}
	e := <-result
	return e.peer, e.refused, nil
}

// entry is what a room answers to a join: one of the two.
type entry struct {
	peer    *peer
	refused *refusal
}

// postJoin posts under mu, so that no room is forgotten between being found and being posted to.
func (s *Server) postJoin(q joinRequest, result chan<- entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	r := s.rooms[q.ticket.Room]
	fresh := r == nil
	if fresh {
		r = newRoom(q.ticket.Room, s)
	}
	if !r.inbox.post(func() {
		var e entry
		e.peer, e.refused = r.join(q)
		result <- e
	}) {
		return errClosed
	}
	if fresh {
		s.rooms[r.id] = r
		s.wg.Go(r.run)
	}
	return nil
}

// forget removes a room to which nobody posts any more.
func (s *Server) forget(r *room) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.inbox.closeIfEmpty() {
		return false
	}
	delete(s.rooms, r.id)
	return true
}

// Drain refuses new sockets, asks all peers to reconnect, and returns when none is left or ctx
// is done; those left are then closed with signal.CloseGone.
func (s *Server) Drain(ctx context.Context, reason string) {
	s.draining.Store(true)
	deadline := 0
	if until, ok := ctx.Deadline(); ok {
		deadline = int(max(0, time.Until(until)).Milliseconds())
	}
	m := &signal.ServerDraining{Reason: reason, DeadlineMS: deadline}
	s.each(func(r *room) { r.inbox.post(func() { r.broadcast(m, nil) }) })
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s.peerCount() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.each(func(r *room) { r.inbox.post(r.shut) })
			return
		}
	}
}

func (s *Server) peerCount() (n int64) {
	s.each(func(r *room) { n += r.count.Load() })
	return n
}

// Close ends every peer and returns when nothing of the server is left running.
func (s *Server) Close() error {
	s.applying.Lock()
	defer s.applying.Unlock()
	s.mu.Lock()
	s.closed = true
	l := s.net
	s.mu.Unlock()
	s.each(func(r *room) { r.inbox.post(r.shut) })
	if l != nil {
		l.stopSignalling()
	}
	s.wg.Wait()
	if l == nil {
		return nil
	}
	return l.close()
}
