package turn

import (
	"crypto/rand"
	"errors"
	"maps"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/fence"
	"orama.network/orama/internal/plan"
)

// tenant is one namespace on this server, under one secret: a changed secret is a new tenant.
type tenant struct {
	id     orama.NamespaceID
	secret string
	fence  fence.Set                    // shared by all its relays; replaced while they live
	quota  atomic.Pointer[quota]        // of payload, in both directions; nil: no limit
	others atomic.Pointer[[]netip.Addr] // its other relays' public addresses

	mu       sync.Mutex // guards the following
	limits   plan.TenantLimits
	clients  map[netip.Prefix]*share
	living   map[*relay]struct{}
	block    orama.PortRange
	ports    map[place]*relay       // of living relays
	reserved map[place]*reservation // ports kept for a RESERVATION-TOKEN
	closed   bool                   // revoked: opens no more relays
	past     map[string]totals      // what ended relays moved, by transport
}

// share is what one client address has of a tenant.
type share struct {
	quota  atomic.Pointer[quota]
	relays int // guarded by tenant.mu
}

// place is one relay port.
type place struct {
	six  bool
	port uint16
}

// reservation is a port that waits for the Allocate with its token (RFC 8656 section 7.2: 30 s).
type reservation struct {
	fd      int
	at      netip.AddrPort
	token   [8]byte
	user    string // whose it is
	expires time.Time
}

const (
	reservationLives = 30 * time.Second
	// maxReserved bounds reservations: each holds a port of the block.
	maxReserved = 16
)

var (
	errTenantGone = errors.New("turn: the namespace is no longer served here")
	errBlockFull  = errors.New("turn: every relay port of the namespace is in use")
	errNoToken    = errors.New("turn: no such reservation")
	errQuota      = errors.New("turn: the namespace has as many relays as it may")
	errClientCap  = errors.New("turn: the client has as many relays as it may")
)

func newTenant(id orama.NamespaceID, secret string) *tenant {
	return &tenant{id: id, secret: secret, clients: map[netip.Prefix]*share{}, ports: map[place]*relay{}, living: map[*relay]struct{}{},
		reserved: map[place]*reservation{}, past: map[string]totals{}}
}

// limit changes the quotas. They hold for living relays too, but for their number.
func (t *tenant) limit(l plan.TenantLimits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limits == l {
		return
	}
	t.limits = l
	t.quota.Store(newQuota(l.BytesPerSecond, l.BurstBytes))
	for _, c := range t.clients {
		c.quota.Store(newQuota(l.ClientBytesPerSecond, l.ClientBurstBytes))
	}
}

// takeLocked counts a relay against the quotas of the namespace and of its client.
func (t *tenant) takeLocked(r *relay) error {
	if t.limits.Allocations > 0 && len(t.living) >= t.limits.Allocations {
		return errQuota
	}
	who := clientOf(r.client.Addr())
	c := t.clients[who]
	if c == nil {
		c = &share{}
		c.quota.Store(newQuota(t.limits.ClientBytesPerSecond, t.limits.ClientBurstBytes))
	}
	if t.limits.ClientAllocations > 0 && c.relays >= t.limits.ClientAllocations {
		return errClientCap
	}
	t.clients[who] = c
	c.relays++
	r.share = c
	return nil
}

func (t *tenant) giveLocked(r *relay) {
	if r.share.relays--; r.share.relays == 0 {
		delete(t.clients, clientOf(r.client.Addr()))
	}
}

// wish is what an Allocate asks for.
type wish struct {
	ips   []netip.Addr // a socket on each of these relay addresses
	even  bool         // an even port, of the first
	next  bool         // and the one after it kept for somebody with the token
	token []byte       // a port that was kept
}

// open binds r's sockets on free ports of the tenant's block. In a full block the relay whose client has been silent
// longest, at least idle, gives way.
func (t *tenant) open(r *relay, w wish, now time.Time, idle time.Duration) error {
	err := t.bind(r, w, now)
	if !errors.Is(err, errBlockFull) {
		return err
	}
	victim := t.stalest(now.Add(-idle))
	if victim == nil {
		return err
	}
	victim.end(endReclaimed)
	return t.bind(r, w, now)
}

func (t *tenant) bind(r *relay, w wish, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errTenantGone
	}
	if err := t.takeLocked(r); err != nil {
		return err
	}
	for _, ip := range w.ips {
		fd, at, err := t.bindLocked(r, ip, &w, len(r.socks) == 0, now)
		if err != nil {
			for _, s := range r.socks {
				batch.Close(s.fd)
			}
			r.socks = nil
			t.giveLocked(r)
			return err
		}
		r.socks = append(r.socks, &sock{relay: r, fd: fd, at: at})
	}
	r.port = r.socks[0].at.Port()
	t.living[r] = struct{}{}
	for _, s := range r.socks {
		t.ports[placeOf(s.at)] = r
	}
	return nil
}

func placeOf(at netip.AddrPort) place { return place{at.Addr().Is6(), at.Port()} }

// relayOptions are those of every relay socket.
var relayOptions = batch.Options{Errors: true, Fragment: true}

// maxPortsTried bounds how many ports that other processes hold one Allocate may run into.
const maxPortsTried = 64

func (t *tenant) bindLocked(r *relay, ip netip.Addr, w *wish, first bool, now time.Time) (int, netip.AddrPort, error) {
	if first && w.token != nil {
		return t.redeemLocked(w.token, r.user, ip, now)
	}
	if t.block.Count == 0 {
		return -1, netip.AddrPort{}, errBlockFull
	}
	start, tried := mathrand.IntN(int(t.block.Count)), 0 //nolint:gosec // seeded by the system and unpredictable; and a port is no secret
	for i := range int(t.block.Count) {
		at := netip.AddrPortFrom(ip, t.block.First+uint16((start+i)%int(t.block.Count))) //nolint:gosec // inside the block
		if t.usedLocked(at) || first && w.even && at.Port()%2 != 0 || first && w.next && !t.freeAfterLocked(at) {
			continue
		}
		fd, err := batch.Open(at, relayOptions)
		if err == nil && first && w.next {
			if err = t.reserveLocked(r, after(at), now); err != nil {
				batch.Close(fd)
			}
		}
		if err == nil {
			return fd, at, nil
		}
		if tried++; !errors.Is(err, syscall.EADDRINUSE) || tried == maxPortsTried {
			return -1, netip.AddrPort{}, err
		}
	}
	return -1, netip.AddrPort{}, errBlockFull
}

func after(at netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(at.Addr(), at.Port()+1) }

func (t *tenant) usedLocked(at netip.AddrPort) bool {
	return t.ports[placeOf(at)] != nil || t.reserved[placeOf(at)] != nil
}

func (t *tenant) freeAfterLocked(at netip.AddrPort) bool {
	next := after(at)
	return t.block.Contains(next.Port()) && !t.usedLocked(next)
}

// reserveLocked keeps a port for whoever shows the token that r is given.
func (t *tenant) reserveLocked(r *relay, at netip.AddrPort, now time.Time) error {
	if len(t.reserved) >= maxReserved {
		return errBlockFull
	}
	fd, err := batch.Open(at, relayOptions)
	if err != nil {
		return err
	}
	kept := &reservation{fd: fd, at: at, user: r.user, expires: now.Add(reservationLives)}
	rand.Read(kept.token[:]) //nolint:errcheck // never fails since Go 1.24
	t.reserved[placeOf(at)] = kept
	r.token = kept.token[:]
	return nil
}

func (t *tenant) redeemLocked(token []byte, user string, ip netip.Addr, now time.Time) (int, netip.AddrPort, error) {
	for p, kept := range t.reserved {
		if string(kept.token[:]) == string(token) && kept.at.Addr() == ip && now.Before(kept.expires) {
			delete(t.reserved, p)
			return kept.fd, kept.at, nil
		}
	}
	return -1, netip.AddrPort{}, errNoToken
}

// dropReservedLocked gives kept ports back: those whose time is over, or all.
func (t *tenant) dropReservedLocked(which func(*reservation) bool) {
	for p, kept := range t.reserved {
		if which(kept) {
			delete(t.reserved, p)
			batch.Close(kept.fd)
		}
	}
}

func (t *tenant) stalest(before time.Time) *relay {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found *relay
	for r := range t.living {
		if r.active.Before(before) && (found == nil || r.active.Before(found.active)) {
			found = r
		}
	}
	return found
}

// forget takes an ended relay out and keeps what it moved. Its sockets must be closed: from now on the ports may be bound
// again.
func (t *tenant) forget(r *relay) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range r.socks {
		t.forgetSockLocked(s)
	}
	delete(t.living, r)
	t.giveLocked(r)
	t.past[r.transport] = t.past[r.transport].plus(r.totals())
}

// forgetSock lets the port of a closed socket be bound again.
func (t *tenant) forgetSock(s *sock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetSockLocked(s)
}

func (t *tenant) forgetSockLocked(s *sock) {
	if t.ports[placeOf(s.at)] == s.relay {
		delete(t.ports, placeOf(s.at))
	}
}

// move changes the block; relays outside the new one end.
func (t *tenant) move(block orama.PortRange) {
	t.mu.Lock()
	t.block = block
	t.dropReservedLocked(func(kept *reservation) bool { return !block.Contains(kept.at.Port()) })
	t.mu.Unlock()
	t.endAll(endMoved, func(r *relay) bool {
		return slices.ContainsFunc(r.socks, func(s *sock) bool { return !block.Contains(s.at.Port()) })
	})
}

// revoke ends every relay and opens no more.
func (t *tenant) revoke(reason string) {
	t.mu.Lock()
	t.closed = true
	t.dropReservedLocked(func(*reservation) bool { return true })
	t.mu.Unlock()
	t.endAll(reason, func(*relay) bool { return true })
}

func (t *tenant) endAll(reason string, which func(*relay) bool) {
	for _, r := range t.list() {
		if which(r) {
			r.end(reason)
		}
	}
}

// list is every living relay.
func (t *tenant) list() []*relay {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.living))
}

// sweep notes which clients have sent something since the last sweep and ends what is over.
func (t *tenant) sweep(now time.Time) {
	var over []*relay
	t.mu.Lock()
	t.dropReservedLocked(func(kept *reservation) bool { return !now.Before(kept.expires) })
	for r := range t.living {
		if n := r.up.packets.Load(); n != r.swept {
			r.swept, r.active = n, now
		}
		if r.overReason(now) != "" {
			over = append(over, r)
		}
	}
	t.mu.Unlock()
	for _, r := range over {
		r.end(r.overReason(now))
	}
}

func (t *tenant) inherit(from *tenant) {
	from.mu.Lock()
	defer from.mu.Unlock()
	for transport, moved := range from.past {
		t.past[transport] = t.past[transport].plus(moved)
	}
}

// network appends the IP version that an address needs.
func network(proto string, ip netip.Addr) string {
	if ip.Is4() {
		return proto + "4"
	}
	return proto + "6"
}
