package turn

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/turn/wire"
)

// errRefused is an Allocate that got no relay.
var errRefused = errors.New("turn: refused")

// Why a request was refused, in logs and metrics.
const (
	refuseNone        = "no_credential" // a client's first request; neither logged nor counted
	refuseIncomplete  = "incomplete_credential"
	refuseRealm       = "other_realm"
	refuseMalformed   = "malformed_username"
	refuseStale       = "stale_nonce" // told 438, and tries again; neither logged nor counted
	refuseAlgorithm   = "password_algorithm"
	refuseUnknown     = "unknown_namespace"
	refuseCredential  = "wrong_credential"
	refuseExpired     = "expired"
	refuseReplayed    = "replayed"
	refuseAttribute   = "unknown_attribute"
	refuseRequest     = "malformed_request"
	refuseDraining    = "draining"
	refuseTransport   = "tcp_relay"
	refuseReservation = "port_reservation"
	refuseFamily      = "address_family"
	refuseClientCap   = "client_cap"
	refuseQuota       = "namespace_quota"
	refuseBlock       = "block_full"
	refuseBind        = "bind_failed"
	refuseMismatch    = "no_allocation"
	refuseSecond      = "second_allocation"
	refuseOwner       = "other_namespace"
	refuseFence       = "fence"
	refusePeers       = "too_many_peers"
	refuseChannel     = "channel"
)

// Error codes (RFC 8489 section 14.8, RFC 8656 section 19).
const (
	codeTryAlternate     = 300
	codeBadRequest       = 400
	codeUnauthorized     = 401
	codeForbidden        = 403
	codeUnknownAttribute = 420
	codeMismatch         = 437
	codeStaleNonce       = 438
	codeFamily           = 440
	codeWrongCredentials = 441
	codeTransport        = 442
	codePeerFamily       = 443
	codeQuota            = 486
	codeCapacity         = 508
)

// maxFactor is how many times as long as its request an answer to an unproven address may be: a spoofed request is no use
// against its victim.
const maxFactor = 3

// engine answers requests. It belongs to the goroutine that reads one UDP socket or one connection.
type engine struct {
	srv       *Server
	transport string
	proven    bool     // the client's address is no forgery: answers need no budget and may be long
	replays   *replays // nil where a nonce is good for one connection

	msg wire.Message
	out wire.Builder
	ips []netip.Addr // scratch
}

// asker is who sent a request, and how a relay of his is reached.
type asker struct {
	from  netip.AddrPort
	relay *relay       // his living one
	seat  func(*relay) // gives a new relay its worker and its way to the client
}

// request is one with a good credential.
type request struct {
	*asker
	tenant *tenant
	user   string
	key    wire.Key
	sha    bool // the password algorithm
	now    time.Time
}

// handle reads a message that is no ChannelData and gives the answer; nil for none. The answer is good until the next call.
func (e *engine) handle(b []byte, a *asker) []byte {
	m := &e.msg
	if m.Parse(b) != nil {
		return e.drop(dropMalformed)
	}
	if there, right := m.Fingerprinted(); there && !right {
		return e.drop(dropMalformed)
	}
	if m.Class != wire.Request {
		return e.drop(dropUnexpected)
	}
	switch m.Method {
	case wire.Binding:
		return e.binding(a)
	case wire.Allocate, wire.Refresh, wire.CreatePermission, wire.ChannelBind:
	default:
		return e.drop(dropUnexpected) // Connect and ConnectionBind (RFC 6062) too
	}
	q := &request{asker: a, now: e.srv.now()}
	if reason := e.verify(q); reason != "" {
		return e.unauthorized(q, reason)
	}
	if unknown := m.Unknown(); len(unknown) > 0 {
		e.refused(q, refuseAttribute)
		e.begin(wire.Failure)
		e.out.AddError(codeUnknownAttribute)
		e.out.AddUnknown(unknown)
		return e.sign(q)
	}
	if m.Method == wire.Allocate {
		return e.allocate(q)
	}
	switch {
	case a.relay == nil: // RFC 8656 section 5
		return e.refuse(q, codeMismatch, refuseMismatch)
	case a.relay.tenant != q.tenant:
		return e.refuse(q, codeWrongCredentials, refuseOwner)
	}
	switch m.Method {
	case wire.Refresh:
		return e.refresh(q)
	case wire.CreatePermission:
		return e.permission(q)
	}
	return e.channel(q)
}

func (e *engine) drop(why string) []byte {
	e.srv.metrics.dropped[why].Inc()
	return nil
}

func (e *engine) begin(c wire.Class) { e.out.Begin(e.msg.Method, c, e.msg.Transaction()) }

// finish ends an unsigned answer.
func (e *engine) finish() []byte {
	if there, _ := e.msg.Fingerprinted(); there {
		e.out.Fingerprint()
	}
	return e.out.Bytes()
}

// sign ends a signed answer, with the kind of signature that the request had.
func (e *engine) sign(q *request) []byte {
	e.out.Sign(q.key.For(q.sha), e.msg.Sealed())
	return e.finish()
}

// refuse answers a request that has a good credential.
func (e *engine) refuse(q *request, code int, reason string) []byte {
	e.refused(q, reason)
	e.begin(wire.Failure)
	e.out.AddError(code)
	return e.sign(q)
}

func (e *engine) refused(q *request, reason string) {
	var ns orama.NamespaceID
	if q.tenant != nil {
		ns = q.tenant.id
	}
	e.srv.refused(ns, e.transport, q.from, e.msg.Method, reason)
}

func (e *engine) binding(a *asker) []byte {
	if !e.affordable(a.from) {
		return nil
	}
	if unknown := e.msg.Unknown(); len(unknown) > 0 {
		e.begin(wire.Failure)
		e.out.AddError(codeUnknownAttribute)
		e.out.AddUnknown(unknown)
		return e.finish()
	}
	e.begin(wire.Success)
	e.out.AddAddress(wire.AttrXORMappedAddress, a.from)
	return e.finish()
}

// affordable takes one unauthenticated answer out of the sender's network's budget.
func (e *engine) affordable(from netip.AddrPort) bool {
	if e.proven || e.srv.answers.spend(networkOf(from.Addr()), e.srv.now()) {
		return true
	}
	e.drop(dropLimited)
	return false
}

// verify finds whose request the message is, and leaves that in q. With an empty reason the signature is good. Expiry is
// checked on Allocate alone, because a client cannot change the credential of a living allocation.
func (e *engine) verify(q *request) string {
	m := &e.msg
	if m.Sealed() == wire.Unsealed {
		return refuseNone
	}
	username, named := m.Get(wire.AttrUsername)
	nonce, fresh := m.Get(wire.AttrNonce)
	realm, placed := m.Get(wire.AttrRealm)
	switch {
	case !named || !fresh || !placed:
		return refuseIncomplete
	case string(realm) != e.srv.realm:
		return refuseRealm
	}
	good, offered := e.srv.nonces.good(nonce, e.transport, q.from, q.now)
	if !good {
		return refuseStale
	}
	sha, fits := m.Chosen()
	if !fits || sha && !offered {
		return refuseAlgorithm
	}
	q.sha = sha
	if r := q.relay; r != nil && r.user == string(username) && e.srv.tenants()[r.tenant.id] == r.tenant {
		q.tenant, q.user, q.key = r.tenant, r.user, r.key // whose key was found once
		if !m.Signed(q.key.For(sha)) {
			return refuseCredential
		}
		return e.expired(q)
	}
	if _, ns, err := auth.ParseTURNUsername(string(username)); err == nil {
		q.tenant = e.srv.tenants()[ns]
	} else {
		return refuseMalformed
	}
	secret := e.srv.decoy // so that an unknown namespace takes as long as a wrong credential
	if q.tenant != nil {
		secret = q.tenant.secret
	}
	q.user = string(username)
	q.key = wire.NewKey(q.user, e.srv.realm, auth.TURNCredential(secret, q.user))
	signed := m.Signed(q.key.For(sha))
	switch {
	case q.tenant == nil:
		return refuseUnknown
	case !signed:
		return refuseCredential
	}
	return e.expired(q)
}

// expired is the last of verify's questions.
func (e *engine) expired(q *request) string {
	if e.msg.Method != wire.Allocate {
		return ""
	}
	if expiry, _, err := auth.ParseTURNUsername(q.user); err != nil || !q.now.Before(expiry) {
		return refuseExpired
	}
	return ""
}

// unauthorized answers what has no good credential, if it has a right to an answer.
func (e *engine) unauthorized(q *request, reason string) []byte {
	switch reason {
	case refuseNone, refuseStale:
	default:
		e.refused(q, reason)
		if !e.srv.failures.spend(networkOf(q.from.Addr()), q.now) {
			return e.drop(dropGuessing)
		}
	}
	if !e.affordable(q.from) {
		return nil
	}
	switch reason {
	case refuseStale:
		return e.challenge(q, codeStaleNonce)
	case refuseAlgorithm, refuseIncomplete:
		e.begin(wire.Failure)
		e.out.AddError(codeBadRequest)
		return e.finish()
	}
	return e.challenge(q, codeUnauthorized)
}

// challenge asks for a credential (RFC 8489 section 9.2.4). What does not fit into maxFactor is left out: first the choice
// of algorithms, and for a request too short to be a browser's everything: it is told 400.
func (e *engine) challenge(q *request, code int) []byte {
	room := 1 << 16
	if !e.proven {
		room = maxFactor * len(e.msg.Raw)
	}
	if there, _ := e.msg.Fingerprinted(); there {
		room -= 8
	}
	const errorSize = wire.HeaderSize + 8
	realm := 4 + (len(e.srv.realm)+3)&^3
	plain := errorSize + realm + 4 + nonceSize
	choice := errorSize + realm + 4 + (len(cookieNonce)+nonceSize+3)&^3 + 4 + len(wire.Algorithms)
	e.begin(wire.Failure)
	if plain > room {
		e.out.AddError(codeBadRequest)
		return e.finish()
	}
	e.out.AddError(code)
	e.out.Add(wire.AttrRealm, e.srv.realmBytes)
	var scratch [64]byte
	e.out.Add(wire.AttrNonce, e.srv.nonces.put(scratch[:0], choice <= room, e.transport, q.from, q.now))
	if choice <= room {
		e.out.Add(wire.AttrPasswordAlgorithms, wire.Algorithms)
	}
	return e.finish()
}

func (e *engine) refresh(q *request) []byte {
	asked := e.srv.limits.Lifetime
	var only *sock
	if v, ok := e.msg.Get(wire.AttrRequestedFamily); ok { // RFC 8656 section 8.2
		ip, ok := familyOf(v)
		if only = q.relay.sock(ip); len(v) != 4 {
			return e.refuse(q, codeBadRequest, refuseRequest)
		} else if !ok || only == nil {
			return e.refuse(q, codePeerFamily, refuseFamily)
		}
	}
	if e.msg.Has(wire.AttrLifetime) {
		v, ok := e.msg.Uint32(wire.AttrLifetime)
		if !ok {
			return e.refuse(q, codeBadRequest, refuseRequest)
		}
		asked = time.Duration(v) * time.Second
	}
	granted := time.Duration(0)
	switch {
	case asked == 0 && only != nil:
		q.relay.endFamily(only)
	case asked == 0:
		q.relay.end(endDeleted)
	default:
		granted = q.relay.grant(asked, q.now, &e.srv.limits)
	}
	e.begin(wire.Success)
	e.out.AddUint32(wire.AttrLifetime, uint32(granted/time.Second)) //nolint:gosec // at most a day
	return e.sign(q)
}

// familyOf reads REQUESTED-ADDRESS-FAMILY and gives some address of that family.
func familyOf(v []byte) (netip.Addr, bool) {
	switch {
	case len(v) == 4 && v[0] == wire.FamilyIPv4:
		return netip.IPv4Unspecified(), true
	case len(v) == 4 && v[0] == wire.FamilyIPv6:
		return netip.IPv6Unspecified(), true
	}
	return netip.Addr{}, false
}

func (e *engine) permission(q *request) []byte {
	e.ips = e.ips[:0]
	code, reason := 0, ""
	e.msg.Peers(func(ap netip.AddrPort, ok bool) bool {
		code, reason = e.judgePeer(q, ap, ok)
		e.ips = append(e.ips, ap.Addr())
		return code == 0
	})
	switch {
	case code != 0: // one that is refused refuses all (RFC 8656 section 10.2)
		return e.refuse(q, code, reason)
	case len(e.ips) == 0:
		return e.refuse(q, codeBadRequest, refuseRequest)
	case !q.relay.permit(e.ips, q.now.UnixNano()):
		return e.refuse(q, codeCapacity, refusePeers)
	}
	e.begin(wire.Success)
	return e.sign(q)
}

// judgePeer says what is wrong with the address of a peer. Its port means nothing here (RFC 8656 section 10).
func (e *engine) judgePeer(q *request, ap netip.AddrPort, ok bool) (code int, reason string) {
	switch {
	case !ok:
		return codeBadRequest, refuseRequest
	case !q.tenant.fence.AllowsIP(ap.Addr()):
		return codeForbidden, refuseFence
	case q.relay.sock(ap.Addr()) == nil, ap.Addr().Is4In6(): // whose form is one of another family
		return codePeerFamily, refuseFamily
	}
	return 0, ""
}

func (e *engine) channel(q *request) []byte {
	v, okNumber := e.msg.Uint32(wire.AttrChannelNumber)
	number := uint16(v >> 16) //nolint:gosec // 16 bits
	peer, okPeer := e.msg.Peer()
	if !okNumber || !okPeer || number < firstChannel || number > lastChannel {
		return e.refuse(q, codeBadRequest, refuseRequest)
	}
	if code, reason := e.judgePeer(q, peer, true); code != 0 {
		return e.refuse(q, code, reason)
	}
	if !q.tenant.fence.Allows(peer) {
		return e.refuse(q, codeForbidden, refuseFence)
	}
	switch q.relay.bind(number, peer, q.relay.sock(peer.Addr()), q.now.UnixNano()) {
	case boundOtherwise:
		return e.refuse(q, codeBadRequest, refuseChannel)
	case boundFull:
		return e.refuse(q, codeCapacity, refusePeers)
	}
	e.begin(wire.Success)
	return e.sign(q)
}

// sendIndication reads a Send indication (RFC 8656 section 11.2): what goes where. ok is false for what is to be dropped.
func (e *engine) sendIndication(b []byte, r *relay, now int64) (s *sock, to netip.AddrPort, data []byte, unfragmented, ok bool) {
	m := &e.msg
	if m.Parse(b) != nil || len(m.Unknown()) > 0 {
		e.drop(dropMalformed)
		return
	}
	if there, right := m.Fingerprinted(); there && !right {
		e.drop(dropMalformed)
		return
	}
	to, okPeer := m.Peer()
	data, okData := m.Get(wire.AttrData)
	if !okPeer || !okData {
		e.drop(dropMalformed)
		return
	}
	if !r.peers.Load().permits(batch.KeyOf(to).Host(), now) {
		if !r.tenant.fence.Allows(to) {
			r.up.fenced.Add(1)
		} else {
			r.up.unpermitted.Add(1)
		}
		return
	}
	if !r.tenant.fence.Allows(to) {
		r.up.fenced.Add(1)
		return
	}
	s = r.sock(to.Addr())
	return s, to, data, m.Has(wire.AttrDontFragment), s != nil
}

// isSend tells a Send indication by its first bytes.
func isSend(b []byte) bool {
	return wire.IsMessage(b) && binary.BigEndian.Uint16(b) == uint16(wire.Send)|1<<4
}
