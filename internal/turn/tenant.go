package turn

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/fence"
)

// tenant is one namespace on this server, under one secret: a changed secret is a new tenant.
type tenant struct {
	id     orama.NamespaceID
	secret string
	fence  fence.Set // shared by all its relays; replaced while they live

	mu     sync.Mutex // guards the following
	block  orama.PortRange
	relays map[uint16]*relay // living ones, by port
	closed bool              // revoked: opens no more relays
	past   map[string]totals // what ended relays moved, by transport
}

var (
	errTenantGone = errors.New("turn: the namespace is no longer served here")
	errBlockFull  = errors.New("turn: every relay port of the namespace is in use")
)

func newTenant(id orama.NamespaceID, secret string) *tenant {
	return &tenant{id: id, secret: secret, relays: map[uint16]*relay{}, past: map[string]totals{}}
}

// open binds a socket on a free port of the tenant's block for r. In a full block the relay
// whose client has been silent longest, at least idle, gives way.
func (t *tenant) open(r *relay, ip netip.Addr, now time.Time, idle time.Duration) error {
	err := t.bind(r, ip)
	if !errors.Is(err, errBlockFull) {
		return err
	}
	victim := t.stalest(now.Add(-idle))
	if victim == nil {
		return err
	}
	victim.end(endReclaimed)
	return t.bind(r, ip)
}

// maxPortsTried bounds how many ports that other processes hold one Allocate may run into.
const maxPortsTried = 64

func (t *tenant) bind(r *relay, ip netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errTenantGone
	}
	start, tried := rand.IntN(int(t.block.Count)), 0 //nolint:gosec // seeded by the system and unpredictable; and a port is no secret
	for i := range int(t.block.Count) {
		port := t.block.First + uint16((start+i)%int(t.block.Count))
		if t.relays[port] != nil {
			continue
		}
		udp, err := net.ListenUDP(network("udp", ip), net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, port)))
		if err == nil {
			r.bound(udp, port)
			t.relays[port] = r
			return nil
		}
		if tried++; !errors.Is(err, syscall.EADDRINUSE) || tried == maxPortsTried {
			return err
		}
	}
	return errBlockFull
}

func (t *tenant) stalest(before time.Time) *relay {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found *relay
	for _, r := range t.relays {
		if r.active.Before(before) && (found == nil || r.active.Before(found.active)) {
			found = r
		}
	}
	return found
}

// forget takes an ended relay out and keeps what it moved. Its socket must be closed: from now
// on the port may be bound again.
func (t *tenant) forget(r *relay) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.relays[r.port] != r {
		return
	}
	delete(t.relays, r.port)
	t.past[r.transport] = t.past[r.transport].plus(r.totals())
}

// move changes the block; relays outside the new one end.
func (t *tenant) move(block orama.PortRange) {
	t.mu.Lock()
	t.block = block
	t.mu.Unlock()
	t.endAll(endMoved, func(r *relay) bool { return !block.Contains(r.port) })
}

// revoke ends every relay and opens no more.
func (t *tenant) revoke(reason string) {
	t.mu.Lock()
	t.closed = true
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

func (t *tenant) list() []*relay {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*relay, 0, len(t.relays))
	for _, r := range t.relays {
		list = append(list, r)
	}
	return list
}

// sweep notes which clients have sent something since the last sweep and ends what is over.
func (t *tenant) sweep(now time.Time) {
	var over []*relay
	t.mu.Lock()
	for _, r := range t.relays {
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
