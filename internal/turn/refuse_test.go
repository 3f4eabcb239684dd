package turn

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/batch"
)

func TestRefusedAllocates(t *testing.T) {
	h := newHost(t)
	now := h.clock.now()
	secret := h.tenant(alpha).Secret
	mint := func(ns orama.NamespaceID, at time.Time) [2]string {
		user, credential := auth.MintTURN(secret, ns, at)
		return [2]string{user, credential}
	}
	good := mint(alpha, now.Add(time.Minute))
	udp := requestedTransport(protoUDP)
	for _, c := range []struct {
		name   string
		cred   [2]string
		attrs  []stun.Setter
		code   int
		reason string
	}{
		{"expired", mint(alpha, now.Add(-time.Second)), []stun.Setter{udp}, 401, refuseExpired},
		{"unknown namespace", mint("gamma", now.Add(time.Minute)), []stun.Setter{udp}, 401, refuseUnknown},
		{"another namespace's secret", mint(beta, now.Add(time.Minute)), []stun.Setter{udp}, 401, refuseCredential},
		{"wrong password", [2]string{good[0], "guess"}, []stun.Setter{udp}, 401, refuseCredential},
		{"no password", [2]string{good[0], ""}, []stun.Setter{udp}, 401, refuseCredential},
		{"no expiry", [2]string{"alpha", auth.TURNCredential(secret, "alpha")}, []stun.Setter{udp}, 401, refuseMalformed},
		{"negative expiry", [2]string{"-1:alpha", auth.TURNCredential(secret, "-1:alpha")}, []stun.Setter{udp}, 401, refuseMalformed},
		{"a TCP relay", good, []stun.Setter{requestedTransport(6)}, 442, refuseTransport},
		{"no transport", good, nil, 400, refuseRequest},
		{"an unknown reservation", good, []stun.Setter{udp, attr{stun.AttrReservationToken, make([]byte, 8)}}, 508, refuseReservation},
		{"an IPv6 relay", good, []stun.Setter{udp, attr{stun.AttrRequestedAddressFamily, []byte{familyIPv6, 0, 0, 0}}}, 440, refuseFamily},
		{"an unknown attribute that must be understood", good, []stun.Setter{udp, attr{0x7ffe, nil}}, 420, refuseAttribute},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, transport := range []string{"udp", "tcp"} {
				before := h.log.refused()[c.reason]
				sub := *h
				sub.t = t
				r := sub.clientAs(transport, c.cred[0], c.cred[1])
				a := r.do(stun.MethodAllocate, c.attrs...)
				require.Equal(t, c.code, errorCode(a))
				require.False(t, a.Contains(stun.AttrSoftware))
				if c.code != 401 {
					require.NoError(t, r.integrity.Check(a), "an answer to a good credential is signed")
				}
				if c.reason != "" {
					require.Equal(t, before+1, h.log.refused()[c.reason])
				}
			}
			require.Zero(t, h.allocations(alpha))
		})
	}
	h.log.flush()
	for _, line := range h.log.lines {
		for _, v := range line {
			text, _ := v.(string)
			require.NotContains(t, text, secret)
			require.NotContains(t, text, good[1])
		}
	}
}

func TestRefusedWithoutAllocation(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha].at
	for _, transport := range transports {
		c := h.client(transport, alpha)
		require.Equal(t, 437, errorCode(c.refresh()))
		require.Equal(t, 437, c.permit(sfu))
		require.Equal(t, 437, c.bind(0x4000, sfu))
		c.allocate()
		a := c.do(stun.MethodAllocate, requestedTransport(protoUDP))
		require.Equal(t, 437, errorCode(a), "a second relay on the same 5-tuple")
		c.as(auth.MintTURN(h.tenant(beta).Secret, beta, h.clock.expiry(time.Minute)))
		require.Equal(t, 441, errorCode(c.refresh(0)), "another namespace's credential moves nothing")
		require.Equal(t, 441, c.permit(h.sfu[beta].at))
		require.Equal(t, 441, c.bind(0x4000, h.sfu[beta].at))
	}
	require.Equal(t, len(transports), h.allocations(alpha))
}

// Connect and ConnectionBind of RFC 6062 get no further than the gate.
func TestNoTCPRelays(t *testing.T) {
	h := newHost(t)
	c := h.client("udp", alpha)
	c.allocate()
	require.Zero(t, c.permit(h.sfu[alpha].at))
	hole := netip.MustParseAddrPort("192.0.2.1:9")
	for _, m := range []stun.Method{stun.MethodConnect, stun.MethodConnectionBind} {
		c.write(c.request(m, peer(hole), attr{stun.AttrConnectionID, make([]byte, 4)}).Raw)
	}
	require.Zero(t, errorCode(c.refresh()), "and nobody waits for a black hole")
}

// A captured Allocate opens nothing for whoever repeats it.
func TestReplayedAllocate(t *testing.T) {
	h := newHost(t)
	c := h.client("udp", alpha)
	require.Zero(t, errorCode(c.do(stun.MethodRefresh))-437) // fetches a nonce
	captured := c.request(stun.MethodAllocate, requestedTransport(protoUDP))
	c.write(captured.Raw)
	require.Zero(t, errorCode(c.answer(captured.TransactionID, patience)))

	thief := h.client("udp", alpha)
	thief.write(captured.Raw)
	require.Equal(t, 438, errorCode(thief.answer(captured.TransactionID, patience)), "a nonce is good for its client alone")
	require.Equal(t, 1, h.allocations(alpha))

	c.write(captured.Raw)
	require.Zero(t, errorCode(c.answer(captured.TransactionID, patience)), "a retransmission gets its answer again")
	require.Zero(t, errorCode(c.refresh(0)))
	h.clock.advance(2 * time.Minute)
	c.write(captured.Raw)
	require.Eventually(t, func() bool { return h.log.refused()[refuseReplayed] == 1 }, patience, 5*time.Millisecond,
		"nor does the sender's own, once it is no retransmission")
	require.Zero(t, h.allocations(alpha))

	// On a connection the nonce itself belongs to the connection.
	stream, other := h.client("tcp", alpha), h.client("tcp", alpha)
	stream.allocate()
	other.nonce = stream.nonce
	m := other.request(stun.MethodAllocate, requestedTransport(protoUDP))
	other.write(m.Raw)
	require.Equal(t, 438, errorCode(other.answer(m.TransactionID, patience)))
}

func TestUnauthenticatedAnswersAreRationed(t *testing.T) {
	h := newHost(t, func(h *host) { h.srv.Limits.Answers, h.srv.Limits.AnswerBurst = 0.001, 10 })
	friend := h.client("udp", alpha)
	friend.allocate() // takes one
	stranger := h.client("udp", alpha)
	for range 40 {
		m, err := stun.Build(stun.TransactionID, stun.BindingRequest)
		require.NoError(t, err)
		stranger.write(m.Raw)
		stranger.write(stranger.request(stun.MethodAllocate).Raw)
	}
	answers := 0
	for stranger.next(200*time.Millisecond) != nil {
		answers++
	}
	require.Equal(t, 9, answers)
	require.Zero(t, errorCode(friend.refresh()), "who has a credential is served")
	tcp := h.client("tcp", alpha)
	tcp.allocate() // who has proven its address as well
	h.clock.advance(20000 * time.Second)
	require.Equal(t, 401, errorCode(func() *stun.Message {
		m := stranger.request(stun.MethodAllocate)
		stranger.write(m.Raw)
		return stranger.answer(m.TransactionID, patience)
	}()), "the budget fills again")
}

// A 401 is all that a spoofed request makes the server send.
func TestAmplification(t *testing.T) {
	h := newHost(t)
	c := h.client("udp", alpha)
	m, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest))
	require.NoError(t, err)
	c.write(m.Raw)
	a := c.answer(m.TransactionID, patience)
	require.LessOrEqual(t, len(a.Raw), 4*len(m.Raw), "more than coturn would send")
}

func TestClientCap(t *testing.T) {
	h := newHost(t, func(h *host) { h.srv.Limits.ClientRelays = 2 })
	tt := h.srv.tenants()[alpha]
	from := netip.MustParseAddr("192.0.2.7")
	var list []*relay
	try := func(from netip.AddrPort) string {
		r := &relay{tenant: tt, transport: transportUDP, client: from, created: h.clock.now(), session: h.clock.expiry(time.Hour),
			worker: h.srv.workers[0], to: batch.AddrOf(from)}
		reason, err := h.srv.open(r, wish{ips: []netip.Addr{h.spec.RelayIP}})
		if err == nil {
			list = append(list, r)
		}
		return reason
	}
	require.Empty(t, try(netip.AddrPortFrom(from, 1)))
	require.Empty(t, try(netip.AddrPortFrom(from, 2)))
	require.Equal(t, refuseClientCap, try(netip.AddrPortFrom(from, 3)))
	require.Empty(t, try(netip.MustParseAddrPort("192.0.2.8:1")), "another client is not concerned")
	for i := range 5 {
		require.Empty(t, try(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(i))), "this machine is bounded by the block alone")
	}
	list[0].end(endExpired)
	require.Empty(t, try(netip.AddrPortFrom(from, 4)), "one has ended, and may be replaced")
	for _, r := range list {
		r.end(endExpired)
	}
	require.Zero(t, h.srv.clients.total)
}

// An Allocate that was found good just before its namespace was removed opens nothing after.
func TestRevokedTenantOpensNothing(t *testing.T) {
	h := newHost(t)
	tt := h.srv.tenants()[alpha]
	tt.revoke(endRemoved)
	r := &relay{tenant: tt, client: netip.MustParseAddrPort("192.0.2.7:1")}
	reason, err := h.srv.open(r, wish{ips: []netip.Addr{h.spec.RelayIP}})
	require.ErrorIs(t, err, errTenantGone)
	require.Equal(t, refuseUnknown, reason)
	require.Zero(t, h.srv.clients.total)
}

// Some 700 damaged messages on every transport, most under a good signature's credential: an error,
// or nothing, and service goes on.
func TestMalformed(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			sub := *h
			sub.t = t
			living := sub.client(transport, alpha)
			living.allocate()
			fresh := func() (*raw, []damaged) {
				c := sub.client(transport, alpha)
				c.allocate()
				require.Zero(t, c.bind(0x4000, h.sfu[alpha].at))
				return c, malformed(c)
			}
			c, list := fresh()
			for i := range list {
				_, err := c.conn.Write(list[i].message)
				require.NoError(t, err, "message %d", i)
				// A stream that lost its frames is closed, or waits for ever; the next begins anew.
				if list[i].unframed && transport != "udp" && transport != "dtls" {
					c.conn.Close()
					c, list = fresh()
				}
			}
			require.Zero(t, errorCode(living.refresh()), "the others are served")
			sub.client(transport, alpha).allocate()
		})
	}
	// Bytes that are not even TLS or DTLS.
	for _, port := range []uint16{testPorts.TLS, testPorts.HTTPS} {
		for _, b := range [][]byte{nil, {0}, {22, 3, 1}, {22, 3, 1, 0xff, 0xff, 1}, []byte("GET / HTTP/1.1\r\n\r\n"), make([]byte, 40000)} {
			c, err := net.Dial("tcp4", h.at(port))
			require.NoError(t, err)
			c.Write(b) //nolint:errcheck // it may be closed under us
			c.Close()
		}
		for _, b := range [][]byte{{}, {22}, {22, 254, 253, 0, 0}, append([]byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 1}, make([]byte, 40)...), make([]byte, 9000)} {
			c, err := net.Dial("udp4", h.at(testPorts.HTTPS))
			require.NoError(t, err)
			c.Write(b) //nolint:errcheck // a datagram
			c.Close()
		}
	}
	for _, transport := range transports {
		h.client(transport, alpha).allocate()
	}
}

// damaged is a message that no client should send.
type damaged struct {
	message  []byte
	unframed bool // on a stream nobody can tell where the next begins
}

// malformed makes damaged messages from c's good ones.
func malformed(c *raw) []damaged {
	var list []damaged
	for _, v := range [][]byte{
		c.request(stun.MethodAllocate, requestedTransport(protoUDP)).Raw,
		c.request(stun.MethodRefresh, seconds(time.Minute)).Raw,
		c.request(stun.MethodChannelBind, channelNumber(0x4001)).Raw,
		c.request(stun.MethodChannelBind, channelNumber(0), peer(netip.MustParseAddrPort("0.0.0.0:0"))).Raw,
		c.request(stun.MethodCreatePermission).Raw,
		c.request(stun.MethodCreatePermission, attr{stun.AttrXORPeerAddress, []byte{0, 9, 1, 2}}).Raw,
		c.request(stun.MethodCreatePermission, attr{stun.AttrXORPeerAddress, nil}).Raw,
		c.request(stun.MethodRefresh, attr{stun.AttrLifetime, []byte{1}}).Raw,
		c.request(stun.MethodRefresh, attr{0x7fff, []byte("unknown, required")}).Raw,
		c.request(stun.Method(0xfff)).Raw,
	} {
		list = append(list, damaged{message: v})
		for at := 0; at < len(v); at += max(1, len(v)/24) {
			list = append(list, damaged{v[:at], true}, damaged{flip(v, at, 0xff), at < 4}, damaged{flip(v, at, 0x01), at < 4})
		}
	}
	for _, b := range [][]byte{
		{}, {0x40}, {0x40, 0, 0, 0}, {0x40, 0, 0xff, 0xff}, {0x7f, 0xff, 0, 4, 1, 2, 3, 4}, {0x40, 1, 0, 200, 1},
		{0xff, 0xff, 0xff, 0xff}, make([]byte, 1600), make([]byte, 3), []byte(strings.Repeat("A", 1500)),
		append([]byte{0x40, 0, 5, 220}, make([]byte, 1500)...), append([]byte{0, 1, 0xff, 0xfc}, make([]byte, 1500)...),
	} {
		list = append(list, damaged{b, true})
	}
	return list
}

func flip(b []byte, at int, mask byte) []byte {
	c := append([]byte(nil), b...)
	c[at] ^= mask
	return c
}
