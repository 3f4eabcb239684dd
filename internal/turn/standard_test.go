package turn

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// What RFC 8489 and RFC 8656 ask of any server.

// A client of RFC 5389 that knows none of it is served as ever, with the same nonce.
func TestMessageIntegritySHA1StillServes(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := newModern(h, transport)
		c.allocate()
		a := c.do(stun.MethodRefresh)
		require.True(t, a.Contains(stun.AttrMessageIntegrity))
		require.False(t, a.Contains(stun.AttrMessageIntegritySHA256))
	}
}

// Whatever is rotated meanwhile, a nonce that was just given out is good: no browser fails at a wrong moment.
func TestNonceOutlivesRotation(t *testing.T) {
	h := newHost(t)
	var young []*raw
	for range 90 { // three hours, two minutes apart
		c := h.client("udp", alpha)
		require.Equal(t, 437, errorCode(c.refresh()))
		young = append(young, c)
		h.clock.advance(2 * time.Minute)
		h.srv.sweepAt(h.clock.now())
		if len(young) == 4 { // the oldest is eight minutes old
			m := young[0].request(stun.MethodRefresh)
			young[0].write(m.Raw)
			require.Equal(t, 437, errorCode(young[0].answer(m.TransactionID, patience)), "and not 438")
			young[0].conn.Close()
			young = young[1:]
		}
	}
}

// A signed request without all that the signature needs is 400 (RFC 8489 section 9.2.4).
func TestSignedWithoutCredential(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		for _, left := range []stun.AttrType{stun.AttrUsername, stun.AttrRealm, stun.AttrNonce} {
			p := newPacket(stun.MethodRefresh, stun.ClassRequest)
			for t, v := range map[stun.AttrType][]byte{stun.AttrUsername: []byte(c.user), stun.AttrRealm: []byte(realm), stun.AttrNonce: c.nonce} {
				if t != left {
					p.add(t, v)
				}
			}
			a := c.exchange(p.sign(c))
			require.NotNil(t, a)
			require.Equal(t, 400, errorCode(a), "without %s over %s", left, transport)
		}
	}
}

// Binding: what must be understood and is not; RFC 5780 is not offered.
func TestBinding(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		a := c.exchange(newPacket(stun.MethodBinding, stun.ClassRequest))
		require.NotNil(t, a)
		var mapped stun.XORMappedAddress
		require.NoError(t, mapped.GetFrom(a))
		require.Equal(t, "127.0.0.1", mapped.IP.String())
		if transport != "dtls" { // whose client knows its port only
			require.Equal(t, c.conn.LocalAddr().String(), mapped.String(), transport)
		}
		for _, other := range []stun.AttrType{stun.AttrOtherAddress, stun.AttrResponseOrigin, stun.AttrMappedAddress, stun.AttrChangedAddress, stun.AttrSourceAddress} {
			require.False(t, a.Contains(other), other)
		}
		for name, p := range map[stun.AttrType]*packet{
			stun.AttrChangeRequest: newPacket(stun.MethodBinding, stun.ClassRequest).add(stun.AttrChangeRequest, []byte{0, 0, 0, 6}),
			stun.AttrResponsePort:  newPacket(stun.MethodBinding, stun.ClassRequest).add(stun.AttrResponsePort, []byte{0, 53, 0, 0}),
			stun.AttrPadding:       newPacket(stun.MethodBinding, stun.ClassRequest).add(stun.AttrPadding, make([]byte, 64)),
			0x7f00:                 newPacket(stun.MethodBinding, stun.ClassRequest).add(0x7f00, make([]byte, 64)),
		} {
			a := c.exchange(p)
			require.NotNil(t, a)
			unknownAre(t, a, name)
		}
		require.Zero(t, errorCode(c.exchange(newPacket(stun.MethodBinding, stun.ClassRequest).add(0xff00, []byte("may be ignored")))))
	}
}

// RFC 8656 section 8.2 for a relay of one family.
func TestRefreshOfAnotherFamily(t *testing.T) {
	h := newHost(t)
	c := h.client("udp", alpha)
	c.allocate()
	require.Zero(t, errorCode(c.do(stun.MethodRefresh, requestedFamily(familyIPv4))))
	require.Equal(t, 443, errorCode(c.do(stun.MethodRefresh, requestedFamily(familyIPv6), seconds(0))))
	require.Zero(t, errorCode(c.refresh()), "and it was not deleted")
}

func TestChannelRebinding(t *testing.T) {
	var two *echo
	h := newHost(t, func(h *host) {
		two = newEcho(t, freshIP())
		h.tenant(alpha).Allow = append(h.tenant(alpha).Allow, two.at)
	})
	one := h.sfu[alpha]
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		for _, step := range []struct {
			channel uint16
			to      netip.AddrPort
			code    int
		}{
			{0x4000, one.at, 0},
			{0x4000, one.at, 0},
			{0x4000, two.at, 400},
			{0x4001, one.at, 400},
			{0x4001, two.at, 0},
			{0x4000, two.at, 400},
			{0x4001, one.at, 400},
			{0x4001, two.at, 0},
		} {
			require.Equal(t, step.code, c.bind(step.channel, step.to), "%#x to %s over %s", step.channel, step.to, transport)
		}
		c.sendChannel(0x4000, []byte("one"))
		require.Equal(t, "one", string(c.data(patience)))
		c.sendChannel(0x4001, []byte("two"))
		require.Equal(t, "two", string(c.data(patience)))
	}
}

// A retransmitted Allocate gets its answer again; another one on the same 5-tuple gets 437, and so does one whose
// transaction is long over.
func TestRetransmittedAllocate(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.refresh()
		m := c.forge(stun.MethodAllocate, func(p *packet) { p.set(requestedTransport(protoUDP)) })
		first := c.exchange(m)
		require.NotNil(t, first)
		at := relayedAddresses(t, first)
		for range 3 {
			again := c.exchange(m)
			require.NotNil(t, again, "over %s", transport)
			require.Equal(t, at, relayedAddresses(t, again))
		}
		require.Equal(t, 1, h.allocations(alpha))
		other := c.forge(stun.MethodAllocate, func(p *packet) { p.set(requestedTransport(protoUDP)) })
		require.Equal(t, 437, errorCode(c.exchange(other)))
		require.Zero(t, errorCode(c.refresh(0)))
		require.Zero(t, h.allocations(alpha))
	}
}

// Deleting what is gone is no harm: 437, or a success once more for the retransmission.
func TestDeletionIsIdempotent(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		m := c.forge(stun.MethodRefresh, func(p *packet) { p.set(seconds(0)) })
		a := c.exchange(m)
		require.Zero(t, errorCode(a))
		d, ok := lifetime(a)
		require.True(t, ok)
		require.Zero(t, d)
		for range 3 {
			require.Contains(t, []int{0, 437}, errorCode(c.exchange(m)))
			require.Contains(t, []int{0, 437}, errorCode(c.refresh(0)))
		}
		c.allocate()
		c.reaches(h.sfu[alpha].at)
		require.Zero(t, errorCode(c.refresh(0)))
	}
	require.Equal(t, 2*len(transports), h.log.ended()[endDeleted])
}
