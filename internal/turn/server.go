package turn

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/plan"
	"orama.network/orama/internal/turn/wire"
)

// Server is one host's TURN server. Make it with New; set Ports, Limits, Estate and Told, if at all, before the
// first Apply. Its methods may be called from any goroutine.
type Server struct {
	Ports  Ports
	Limits Limits
	Estate Estate                  // what the process before left; what the first Apply has no use for is closed by it
	Told   func([]plan.TenantSpec) // hears which tenants are served now, after each change; it does not wait. nil: nobody does

	log     *slog.Logger
	scribe  *scribe // for lines from the path of packets
	reg     prometheus.Registerer
	metrics *metrics
	lines   *lineLimit
	boot    string
	decoy   string // stands in for the secret of a namespace that does not exist
	now     func() time.Time

	// Set by the first Apply before any listener runs, then never changed.
	realm      string
	realmBytes []byte
	addresses  addresses
	limits     Limits
	answers    *budget // to unproven addresses
	failures   *budget // of credentials
	nonces     *nonces
	null       int // see batch.Null
	workers    []*worker
	turn       atomic.Uint32 // whose turn among the workers it is

	// Swapped by later Applies under mu, read without it.
	table   atomic.Pointer[map[orama.NamespaceID]*tenant]
	cert    certificate
	backend atomic.Pointer[httpsBackend]

	draining atomic.Bool
	handed   atomic.Bool // HandOver has succeeded
	clients  tally       // relays by client
	relays   head        // living relays
	conns    registry    // TCP, TLS and DTLS connections

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of ours

	leases leases

	mu         sync.Mutex        // serialises Apply, leases and Close; guards the following
	wanted     []plan.TenantSpec // those of the last Apply
	configured bool
	closed     bool
	listeners  []*listener
}

// New makes a server that listens nowhere yet. reg may be nil.
func New(log *slog.Logger, reg prometheus.Registerer) *Server {
	s := &Server{
		log: log, scribe: newScribe(log), reg: reg, metrics: newMetrics(), lines: newLineLimit(),
		boot: randomHex(8), decoy: auth.NewTURNSecret(), now: time.Now,
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.table.Store(&map[orama.NamespaceID]*tenant{})
	if reg != nil {
		reg.MustRegister(collector{s})
	}
	return s
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // never fails since Go 1.24
	return hex.EncodeToString(b)
}

// Apply makes the server what spec says. The first call binds the listeners: one that may not be
// bound (EACCES) is left out and told by Status; any other failure leaves nothing open, and the
// system's error (such as EADDRINUSE) can be found with errors.Is. Later calls change tenants,
// certificate and HTTPS backend while it serves; relays of a tenant that keeps its secret and block
// live on, the others have ended when Apply returns. Addresses and realm cannot change. A refused spec
// changes nothing.
func (s *Server) Apply(spec plan.TURNSpec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return orama.Errorf(orama.KindUnavailable, "closed", "the TURN server is closed")
	}
	if err := checkSpec(spec); err != nil {
		return err
	}
	cert, err := parseCertificate(spec.CertPEM, spec.KeyPEM)
	if err != nil {
		return err
	}
	if s.configured && (addressesOf(spec) != s.addresses || cutRealm(spec.Realm) != s.realm) {
		return orama.Errorf(orama.KindInvalid, "address_changed", "a running TURN server cannot change its addresses or realm; restart it")
	}
	if !s.configured {
		if err := s.start(spec); err != nil {
			return err
		}
	}
	s.cert.current.Store(cert)
	s.backend.Store(&httpsBackend{spec.HTTPSBackend, spec.HTTPSProxy})
	s.wanted = slices.Clone(spec.Tenants)
	s.setTenants(s.leased(), endRemoved)
	s.leases.thaw()
	return nil
}

// start makes the workers, binds the listeners and sets all going.
func (s *Server) start(spec plan.TURNSpec) (err error) {
	s.limits = s.Limits.orDefaults()
	s.answers = newBudget(s.limits.Answers, s.limits.AnswerBurst)
	s.failures = newBudget(s.limits.Failures, s.limits.FailureBurst)
	s.nonces = newNonces()
	s.realm, s.addresses = cutRealm(spec.Realm), addressesOf(spec)
	s.realmBytes = []byte(s.realm)
	s.backend.Store(&httpsBackend{spec.HTTPSBackend, spec.HTTPSProxy})
	if err := s.makeWorkers(); err != nil {
		return err
	}
	bound, err := s.bind(s.Ports.orStandard(), spec.NoTCP443)
	s.Estate.Close()
	if err != nil {
		s.closeWorkers()
		return err
	}
	s.listeners, s.configured = bound, true
	for _, l := range bound {
		if l.err != nil {
			s.log.Warn("turn: listener left out", "transport", l.transport, "addr", l.addr, "err", l.err)
			continue
		}
		s.wg.Go(l.run)
	}
	for _, w := range s.workers {
		s.wg.Go(w.run)
	}
	s.wg.Go(s.sweep)
	go s.scribe.run()
	return nil
}

// cutRealm shortens a realm that would make the answer to a browser's first request longer than maxFactor allows. A realm
// is any text; clients repeat what they are told.
func cutRealm(realm string) string {
	const firstAllocate = wire.HeaderSize + 8 // with REQUESTED-TRANSPORT, which every one has
	const room = maxFactor*firstAllocate - (wire.HeaderSize + 8) - (4 + nonceSize) - 4
	return realm[max(0, len(realm)-room&^3):]
}

// maxWorkers bounds the workers: past it the kernel's own locks cost more than another one brings.
const maxWorkers = 16

func (s *Server) makeWorkers() (err error) {
	if s.null, err = batch.Null(); err != nil {
		return err
	}
	for range min(runtime.GOMAXPROCS(0), maxWorkers) {
		w, err := newWorker(s)
		if err != nil {
			s.closeWorkers()
			return err
		}
		s.workers = append(s.workers, w)
	}
	return nil
}

// closeWorkers gives back what they hold. They do not run.
func (s *Server) closeWorkers() {
	for _, w := range s.workers {
		w.close()
	}
	s.workers = nil
	batch.Close(s.null)
}

// someWorker spreads connections over the workers.
func (s *Server) someWorker() *worker { return s.workers[int(s.turn.Add(1))%len(s.workers)] }

// setTenants publishes the new table first, so that no relay is opened under an old secret after
// the old ones were ended. Sockets of ended relays are closed before it returns, so a block may pass
// from one tenant to another in one Apply. The relays of tenants that are no longer there end with the reason removed.
func (s *Server) setTenants(specs []plan.TenantSpec, removed string) {
	old := s.tenants()
	next := make(map[orama.NamespaceID]*tenant, len(specs))
	for _, spec := range specs {
		t := old[spec.Namespace]
		if t == nil || t.secret != spec.Secret {
			t = newTenant(spec.Namespace, spec.Secret)
			t.move(spec.Relay)
		}
		if err := t.fence.ReplaceRules(spec.Allow, spec.Rules); err != nil {
			s.log.Error("turn: a checked fence was refused", "namespace", spec.Namespace, "err", err)
			t.fence.Replace(nil) //nolint:errcheck // an empty list is never refused
		}
		t.limit(spec.Limits)
		t.others.Store(&spec.Alternates)
		next[spec.Namespace] = t
	}
	s.table.Store(&next)
	for id, t := range old {
		s.retire(t, next[id], removed)
	}
	for _, spec := range specs {
		next[spec.Namespace].move(spec.Relay)
	}
	if s.Told != nil && s.configured {
		s.Told(specs)
	}
}

func (s *Server) retire(t, successor *tenant, removed string) {
	switch successor {
	case t:
	case nil:
		t.revoke(removed)
		s.metrics.refused.DeletePartialMatch(prometheus.Labels{"namespace": string(t.id)})
	default:
		t.revoke(endRotated)
		successor.inherit(t)
	}
}

func (s *Server) tenants() map[orama.NamespaceID]*tenant { return *s.table.Load() }

// addresses are those that cannot change while the server runs; invalid ones are not there.
type addresses struct{ public, public6, relay, relay6 netip.Addr }

func addressesOf(spec plan.TURNSpec) addresses {
	return addresses{spec.PublicIP, spec.PublicIP6, spec.RelayIP, spec.RelayIP6}
}

// listen are the addresses to listen on.
func (a addresses) listen() []netip.Addr {
	if a.public6.IsValid() {
		return []netip.Addr{a.public, a.public6}
	}
	return []netip.Addr{a.public}
}

// relays is where relays of an address's family are; invalid where there are none.
func (a addresses) relays(family netip.Addr) netip.Addr {
	for _, ip := range []netip.Addr{a.relay, a.relay6} {
		if ip.IsValid() && ip.Is4() == family.Is4() {
			return ip
		}
	}
	return netip.Addr{}
}

// alternate is another server of a tenant for a client that cannot have a relay here any more, over the transports
// that need no certificate's name; invalid for none.
func (s *Server) alternate(t *tenant, client netip.Addr, transport string) netip.AddrPort {
	ports, port := s.Ports.orStandard(), uint16(0)
	switch transport {
	case transportUDP:
		port = ports.UDP
	case transportTCP:
		port = ports.TCP
	default:
		return netip.AddrPort{}
	}
	if others := t.others.Load(); others != nil {
		for _, ip := range *others {
			if ip.Is4() == client.Is4() {
				return netip.AddrPortFrom(ip, port)
			}
		}
	}
	return netip.AddrPort{}
}

// clientCap is how many relays an address may hold; 0 is without a cap of its own. Only this machine
// can send from a loopback address, and a local cluster's clients all share one.
func (s *Server) clientCap(ip netip.Addr) int {
	if ip.IsLoopback() {
		return 0
	}
	return s.limits.ClientRelays
}

// open gives r its sockets, or says why not.
func (s *Server) open(r *relay, w wish) (reason string, err error) {
	who := clientOf(r.client.Addr())
	if !s.clients.take(who, s.clientCap(r.client.Addr()), 0) {
		return refuseClientCap, errRefused
	}
	if err := r.tenant.open(r, w, s.now(), s.limits.Idle); err != nil {
		s.clients.give(who)
		return openReason(err), err
	}
	s.relays.join()
	s.scribe.say("turn: relay opened", "namespace", r.tenant.id, "client", r.client, "transport", r.transport, "port", r.port)
	return "", nil
}

// relayEnded is called once for each relay that open gave a socket.
func (s *Server) relayEnded(r *relay, why string) {
	s.clients.give(clientOf(r.client.Addr()))
	s.relays.leave()
	sum := r.totals()
	s.scribe.say("turn: relay ended", "namespace", r.tenant.id, "client", r.client, "transport", r.transport, "port", r.port,
		"reason", why, "lived", s.now().Sub(r.created).Round(time.Millisecond),
		"up_packets", sum.upPackets, "up_bytes", sum.upBytes, "down_packets", sum.downPackets, "down_bytes", sum.downBytes,
		"fenced", sum.fencedUp+sum.fencedDown)
}

// refused counts and logs a refusal. Strangers can cause these, so lines are limited by reason.
func (s *Server) refused(ns orama.NamespaceID, transport string, from netip.AddrPort, method wire.Method, reason string) {
	s.metrics.refused.WithLabelValues(string(ns), reason).Inc()
	if ok, unsaid := s.lines.allow(reason, s.now()); ok {
		s.scribe.say("turn: refused", "namespace", ns, "client", from, "transport", transport,
			"method", method.String(), "reason", reason, "lines_left_out", unsaid)
	}
}

// sweep ends relays and connections whose time is over, and notes who is silent.
func (s *Server) sweep() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
			s.sweepAt(s.now())
		}
	}
}

func (s *Server) sweepAt(now time.Time) {
	for _, t := range s.tenants() {
		t.sweep(now)
	}
	for range s.conns.closeSilent(now.Add(-s.limits.Silent)) {
		s.metrics.dropped[dropSilent].Inc()
	}
}

// Drain opens no more relays and returns when none is left, or ctx has ended.
func (s *Server) Drain(ctx context.Context) {
	s.draining.Store(true)
	s.relays.wait(ctx)
}

// Close ends every relay and connection and returns when all goroutines of the server have.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.cancel()
	for _, t := range s.tenants() {
		t.revoke(endClosed)
	}
	s.leases.endAll()
	var errs []error
	for _, l := range s.listeners {
		if l.err == nil {
			errs = append(errs, l.close())
		}
	}
	s.conns.closeAll()
	for _, w := range s.workers {
		w.stop()
	}
	s.wg.Wait()
	if s.configured {
		s.closeWorkers()
		s.scribe.close()
	}
	if s.reg != nil {
		s.reg.Unregister(collector{s})
	}
	return errors.Join(errs...)
}
