package turn

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"

	"orama.network/orama/internal/auth"
)

// errRefused is what the library's hooks return for what is never served; the client gets 508.
var errRefused = errors.New("turn: refused")

// Why a request was refused, in logs and metrics.
const (
	refuseNone        = "no_credential" // a client's first request; neither logged nor counted
	refuseMalformed   = "malformed_username"
	refuseUnknown     = "unknown_namespace"
	refuseCredential  = "wrong_credential"
	refuseExpired     = "expired"
	refuseReplayed    = "replayed"
	refuseDraining    = "draining"
	refuseTransport   = "tcp_relay"
	refuseReservation = "port_reservation"
	refuseFamily      = "address_family"
	refuseClientCap   = "client_cap"
	refuseBlock       = "block_full"
	refuseBind        = "bind_failed"
	refuseMismatch    = "no_allocation"
	refuseOwner       = "other_namespace"
	refuseFence       = "fence"
)

// verify finds whose request m is. With an empty reason its MESSAGE-INTEGRITY is good: the tenant
// and the key are returned. Expiry is checked on Allocate alone, because a client cannot change
// the credential of a living allocation. The tenant is also returned, for the log, with a reason.
func (s *Server) verify(m *stun.Message) (*tenant, stun.MessageIntegrity, string) {
	if !m.Contains(stun.AttrMessageIntegrity) {
		return nil, nil, refuseNone
	}
	username, err := m.Get(stun.AttrUsername)
	if err != nil {
		return nil, nil, refuseMalformed
	}
	expiry, ns, err := auth.ParseTURNUsername(string(username))
	if err != nil {
		return nil, nil, refuseMalformed
	}
	t := s.tenants()[ns]
	secret := s.decoy // so that an unknown namespace takes as long as a wrong credential
	if t != nil {
		secret = t.secret
	}
	password := auth.TURNCredential(secret, string(username))
	key := stun.NewLongTermIntegrity(string(username), s.realm, password)
	switch err := key.Check(m); {
	case t == nil:
		return nil, nil, refuseUnknown
	case err != nil:
		return t, nil, refuseCredential
	case m.Type.Method == stun.MethodAllocate && !s.now().Before(expiry):
		return t, nil, refuseExpired
	}
	return t, key, ""
}

// judge decides on a request whose credential is good. False: it was answered here, or dropped.
func (g *gate) judge(q *request) bool {
	if q.msg.Type.Method == stun.MethodAllocate {
		return g.judgeAllocate(q)
	}
	switch {
	case q.relay == nil: // the library would say nothing (RFC 8656 section 5: 437)
		return g.refuse(q, stun.CodeAllocMismatch, refuseMismatch)
	case q.relay.tenant != q.tenant:
		return g.refuse(q, stun.CodeWrongCredentials, refuseOwner)
	}
	switch q.msg.Type.Method {
	case stun.MethodChannelBind:
		// The library asks about the address only: channels to every port of an SFU would be kept, and searched
		// for each packet. CreatePermission means no port.
		var peer stun.XORMappedAddress
		if peer.GetFromAs(q.msg, stun.AttrXORPeerAddress) != nil {
			return true // the engine answers 400
		}
		ip, _ := netip.AddrFromSlice(peer.IP)
		if !q.tenant.fence.Allows(netip.AddrPortFrom(ip, uint16(peer.Port))) { //nolint:gosec // read from 16 bits
			return g.refuse(q, stun.CodeForbidden, refuseFence)
		}
	case stun.MethodRefresh:
		if d, ok := lifetime(q.msg); ok && d == 0 {
			q.relay.deleting.Store(true)
		}
	}
	return true
}

func (g *gate) judgeAllocate(q *request) bool {
	if q.relay != nil {
		return true // a retransmission, or 437 from the engine
	}
	if g.replays != nil {
		var integrity [20]byte
		v, _ := q.msg.Get(stun.AttrMessageIntegrity) //nolint:errcheck // verify has read it
		copy(integrity[:], v)
		if !g.replays.fresh(integrity, q.from, g.srv.now()) {
			g.refused(q.tenant, q.from, stun.MethodAllocate, refuseReplayed)
			return false
		}
	}
	switch {
	case g.srv.draining.Load():
		return g.refuse(q, stun.CodeInsufficientCapacity, refuseDraining)
	case asksOther(q.msg, stun.AttrRequestedTransport, protoUDP):
		return g.refuse(q, stun.CodeUnsupportedTransProto, refuseTransport)
	case q.msg.Contains(stun.AttrEvenPort) || q.msg.Contains(stun.AttrReservationToken):
		// ICE needs neither; reserved ports would be open to nobody's fence.
		return g.refuse(q, stun.CodeInsufficientCapacity, refuseReservation)
	case asksOther(q.msg, stun.AttrRequestedAddressFamily, g.srv.family()):
		return g.refuse(q, stun.CodeAddrFamilyNotSupported, refuseFamily)
	case g.srv.atClientCap(q.from.Addr()):
		return g.refuse(q, stun.CodeAllocQuotaReached, refuseClientCap)
	}
	return true
}

// Values of REQUESTED-TRANSPORT and REQUESTED-ADDRESS-FAMILY.
const (
	protoUDP   = 17
	familyIPv4 = 1
	familyIPv6 = 2
)

// asksOther reports whether the attribute's first byte is there and another than ours. Damaged
// attributes are left to the engine's 400.
func asksOther(m *stun.Message, attr stun.AttrType, ours byte) bool {
	v, err := m.Get(attr)
	return err == nil && len(v) == 4 && v[0] != ours
}

// refuse answers a request with a signed error and reports that the engine is not to see it.
func (g *gate) refuse(q *request, code stun.ErrorCode, reason string) bool {
	g.refused(q.tenant, q.from, q.msg.Type.Method, reason)
	answer, err := stun.Build(
		stun.NewTransactionIDSetter(q.msg.TransactionID),
		stun.NewType(q.msg.Type.Method, stun.ClassErrorResponse),
		&stun.ErrorCodeAttribute{Code: code}, q.key)
	if err == nil {
		g.link.WriteTo(answer.Raw, q.addr) //nolint:errcheck // a datagram
	}
	return false
}

// Success responses that change what the gate knows, as they begin on the wire.
const (
	successAllocate         = 0x0103
	successRefresh          = 0x0104
	successCreatePermission = 0x0108
	successChannelBind      = 0x0109
)

// WriteTo sends what the engine has to say: media from the relays' goroutines, and from the
// reader's own the answer to the current request, whose LIFETIME is made the one we grant.
func (g *gate) WriteTo(p []byte, to net.Addr) (int, error) {
	if len(p) >= stunHeader {
		switch binary.BigEndian.Uint16(p) {
		case successAllocate, successRefresh:
			return len(p), g.answer(p, to)
		case successCreatePermission, successChannelBind:
			if r := g.current.relay; r != nil {
				r.permitted.Store(true)
			}
		}
	}
	return g.link.WriteTo(p, to)
}

// answer passes a success response on with the lifetime that the server grants: the library
// lets a client choose up to an hour, and knows no shorter first lifetime.
func (g *gate) answer(p []byte, to net.Addr) error {
	out := p
	m := &stun.Message{Raw: append([]byte(nil), p...)}
	if r := g.current.relay; r != nil && m.Decode() == nil {
		if told, ok := lifetime(m); ok && told > 0 {
			if granted := r.grant(told, g.srv.now(), &g.srv.limits); granted != told {
				out = relabelled(m, granted, g.current.key)
			}
		}
	}
	_, err := g.link.WriteTo(out, to)
	return err
}

// relabelled is m with another LIFETIME, signed again.
func relabelled(m *stun.Message, d time.Duration, key stun.MessageIntegrity) []byte {
	b := &stun.Message{TransactionID: m.TransactionID, Type: m.Type}
	b.WriteHeader()
	for _, a := range m.Attributes {
		switch a.Type {
		case stun.AttrLifetime:
			b.Add(a.Type, binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))) //nolint:gosec // at most an hour
		case stun.AttrMessageIntegrity:
			key.AddTo(b) //nolint:errcheck // fails only after a FINGERPRINT, which the engine adds to Binding alone
		default:
			b.Add(a.Type, a.Value)
		}
	}
	return b.Raw
}

// lifetime reads LIFETIME (RFC 8656 section 18.2).
func lifetime(m *stun.Message) (time.Duration, bool) {
	v, err := m.Get(stun.AttrLifetime)
	if err != nil || len(v) != 4 {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint32(v)) * time.Second, true
}
