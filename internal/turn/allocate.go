package turn

import (
	"errors"
	"net/netip"
	"time"

	"orama.network/orama/internal/turn/wire"
)

// protoUDP is REQUESTED-TRANSPORT's UDP.
const protoUDP = 17

// allocate serves an Allocate with a good credential, in the order of RFC 8656 section 7.2.
func (e *engine) allocate(q *request) []byte {
	if r := q.relay; r != nil {
		if r.tenant == q.tenant && string(r.first[:]) == string(e.msg.Transaction()) {
			return e.allocated(q, r, q.now) // a retransmission
		}
		return e.refuse(q, codeMismatch, refuseSecond)
	}
	if e.replayed(q) {
		e.refused(q, refuseReplayed)
		return nil
	}
	if e.srv.draining.Load() {
		return e.elsewhere(q)
	}
	w, code, reason := e.wishes(q)
	if code != 0 {
		return e.refuse(q, code, reason)
	}
	r := &relay{
		tenant: q.tenant, transport: e.transport, client: q.from, user: q.user, key: q.key,
		created: q.now, session: q.now.Add(e.srv.limits.Session), active: q.now,
	}
	copy(r.first[:], e.msg.Transaction())
	r.peers.Store(&peers{})
	q.seat(r)
	if reason, err := e.srv.open(r, w); err != nil {
		return e.refuse(q, refusalCode(reason), reason)
	}
	q.relay = r
	return e.allocated(q, r, q.now)
}

func refusalCode(reason string) int {
	switch reason {
	case refuseClientCap, refuseQuota:
		return codeQuota
	case refuseUnknown:
		return codeUnauthorized
	}
	return codeCapacity
}

// replayed reports an Allocate that was seen before, once it is no retransmission: its nonce is good for this address alone,
// but whoever can send from it could open the relay again.
func (e *engine) replayed(q *request) bool {
	if e.replays == nil {
		return false
	}
	v, ok := e.msg.Get(wire.AttrIntegritySHA256)
	if !ok {
		v, _ = e.msg.Get(wire.AttrIntegrity)
	}
	var id [20]byte
	copy(id[:], v)
	return !e.replays.fresh(id, q.from, q.now)
}

// elsewhere answers an Allocate while this server is going away (RFC 8489 section 10).
func (e *engine) elsewhere(q *request) []byte {
	to := e.srv.alternate(q.tenant, q.from.Addr(), e.transport)
	if !to.IsValid() {
		return e.refuse(q, codeCapacity, refuseDraining)
	}
	e.refused(q, refuseDraining)
	e.begin(wire.Failure)
	e.out.AddError(codeTryAlternate)
	e.out.AddPlainAddress(wire.AttrAlternateServer, to)
	return e.sign(q)
}

// wishes reads what an Allocate asks for, and says what is wrong with it.
func (e *engine) wishes(q *request) (w wish, code int, reason string) {
	m := &e.msg
	v, ok := m.Get(wire.AttrRequestedTransport)
	switch {
	case !ok || len(v) != 4:
		return w, codeBadRequest, refuseRequest
	case v[0] != protoUDP: // a connection to a black hole is no use to ICE
		return w, codeTransport, refuseTransport
	case m.Has(wire.AttrLifetime) && !e.four(wire.AttrLifetime), m.Has(wire.AttrDontFragment) && !e.empty(wire.AttrDontFragment):
		return w, codeBadRequest, refuseRequest
	}
	requested, one := m.Get(wire.AttrRequestedFamily)
	additional, both := m.Get(wire.AttrAdditionalFamily)
	even, asksEven := m.Get(wire.AttrEvenPort)
	token, asksToken := m.Get(wire.AttrReservationToken)
	switch {
	case one && len(requested) != 4, both && len(additional) != 4:
		return w, codeBadRequest, refuseRequest
	case asksToken && (asksEven || one || both || len(token) != 8), one && both, asksEven && len(even) != 1:
		return w, codeBadRequest, refuseRequest
	case both && asksEven && even[0]&0x80 != 0: // two families have no common next port
		return w, codeBadRequest, refuseRequest
	}
	w.token = nil
	if asksToken {
		w.token = append([]byte(nil), token...)
	}
	if asksEven {
		w.even, w.next = true, even[0]&0x80 != 0
	}
	family := netip.IPv4Unspecified()
	if one {
		if family, ok = familyOf(requested); !ok {
			return w, codeFamily, refuseFamily
		}
	}
	ip := e.srv.addresses.relays(family)
	if !one && !ip.IsValid() {
		ip = e.srv.addresses.relays(netip.IPv6Unspecified()) // a server with IPv6 alone
	}
	if !ip.IsValid() {
		return w, codeFamily, refuseFamily
	}
	w.ips = append(w.ips, ip)
	if both {
		if family, ok := familyOf(additional); !ok || !family.Is6() {
			return w, codeBadRequest, refuseRequest
		}
		if six := e.srv.addresses.relays(netip.IPv6Unspecified()); six.IsValid() && six != ip {
			w.ips = append(w.ips, six)
		}
	}
	return w, 0, ""
}

func (e *engine) four(a wire.Attr) bool { _, ok := e.msg.Uint32(a); return ok }

func (e *engine) empty(a wire.Attr) bool { v, _ := e.msg.Get(a); return len(v) == 0 }

// allocated says what the relay is (RFC 8656 section 7.3).
func (e *engine) allocated(q *request, r *relay, now time.Time) []byte {
	asked := e.srv.limits.Lifetime
	if v, ok := e.msg.Uint32(wire.AttrLifetime); ok && v > 0 {
		asked = time.Duration(v) * time.Second
	}
	granted := r.grant(asked, now, &e.srv.limits)
	e.begin(wire.Success)
	for _, s := range r.socks {
		e.out.AddAddress(wire.AttrXORRelayedAddress, s.at)
	}
	e.out.AddAddress(wire.AttrXORMappedAddress, q.from)
	e.out.AddUint32(wire.AttrLifetime, uint32(granted/time.Second)) //nolint:gosec // at most a day
	if r.token != nil {
		e.out.Add(wire.AttrReservationToken, r.token)
	}
	if e.msg.Has(wire.AttrAdditionalFamily) && len(r.socks) == 1 { // RFC 8656 section 7.2: the other family, and why not
		e.out.Add(wire.AttrAddressError, []byte{wire.FamilyIPv6, 0, codeFamily / 100, codeFamily % 100})
	}
	return e.sign(q)
}

// openReason words why a relay was not opened.
func openReason(err error) string {
	switch {
	case errors.Is(err, errBlockFull):
		return refuseBlock
	case errors.Is(err, errTenantGone):
		return refuseUnknown
	case errors.Is(err, errNoToken):
		return refuseReservation
	case errors.Is(err, errQuota):
		return refuseQuota
	case errors.Is(err, errClientCap):
		return refuseClientCap
	}
	return refuseBind
}
