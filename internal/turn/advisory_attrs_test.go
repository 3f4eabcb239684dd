package turn

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// Attributes of every wrong length, at every wrong place.

// coturn < 4.10.0: an attribute at an odd offset killed the process where memory is read aligned, with one packet and
// without a credential. GHSA of CVE-2026-40613. Attributes are padded (RFC 8489 section 14); these are not.
func TestCVE_2026_40613_OddAlignedAttributes(t *testing.T) {
	h := newHost(t)
	living := h.ready("udp", alpha)
	living.allocate()
	kinds := []stun.AttrType{
		stun.AttrUsername, stun.AttrRealm, stun.AttrNonce, stun.AttrMessageIntegrity, stun.AttrErrorCode, stun.AttrXORPeerAddress, stun.AttrLifetime,
		stun.AttrChannelNumber, stun.AttrData, stun.AttrEvenPort, stun.AttrRequestedTransport, stun.AttrReservationToken, stun.AttrFingerprint, stun.AttrChangeRequest,
		stun.AttrRequestedAddressFamily, stun.AttrMessageIntegritySHA256, stun.AttrUserhash, stun.AttrSoftware, attrAccessToken, attrMobilityTicket,
	}
	for _, m := range []stun.Method{stun.MethodBinding, stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind, stun.MethodSend} {
		class := stun.ClassRequest
		if m == stun.MethodSend {
			class = stun.ClassIndication
		}
		for shift := 1; shift < 4; shift++ {
			for _, first := range kinds {
				for _, header := range []int{0, -1, 4} {
					p := newPacket(m, class)
					p.b = binary.BigEndian.AppendUint16(p.b, uint16(first))
					p.b = binary.BigEndian.AppendUint16(p.b, uint16(shift))
					p.b = append(p.b, bytes.Repeat([]byte{0xff}, shift)...) // no padding: what follows is at an odd offset
					for _, next := range kinds {
						p.b = binary.BigEndian.AppendUint16(p.b, uint16(next))
						p.b = append(p.b, 0, 1, 0xff)
					}
					p.says((len(p.b) - stunHeader + 3) &^ 3)
					p.b = append(p.b, make([]byte, -len(p.b)&3)...)
					if header != 0 {
						p.says(len(p.b) - stunHeader + header)
					}
					living.write(p.b)
				}
			}
			living.settle()
			living.inbox = nil
		}
	}
	living.reaches(h.sfu[alpha].at)
}

// wrongLengths are lengths that an attribute may claim; 1200 is as much as a datagram carries.
var wrongLengths = []int{0, 1, 3, 4, 5, 8, 20, 1200}

// fixedAttr is an attribute of a request with few right lengths.
type fixedAttr struct {
	method stun.Method
	attr   stun.AttrType
	right  []int
	others []stun.Setter // that make the request whole
}

func (c *raw) forgeFixed(f fixedAttr, value []byte) *packet {
	return c.forge(f.method, func(p *packet) {
		for _, s := range f.others {
			p.set(s)
		}
		p.add(f.attr, value)
	})
}

// fixed are the attributes of each request that have one right length, and no other.
var fixed = []fixedAttr{
	{stun.MethodAllocate, stun.AttrRequestedTransport, []int{4}, nil},
	{stun.MethodAllocate, stun.AttrLifetime, []int{4}, []stun.Setter{requestedTransport(protoUDP)}},
	{stun.MethodAllocate, stun.AttrRequestedAddressFamily, []int{4}, []stun.Setter{requestedTransport(protoUDP)}},
	{stun.MethodAllocate, stun.AttrEvenPort, []int{1}, []stun.Setter{requestedTransport(protoUDP)}},
	{stun.MethodAllocate, stun.AttrReservationToken, []int{8}, []stun.Setter{requestedTransport(protoUDP)}},
	{stun.MethodRefresh, stun.AttrLifetime, []int{4}, nil},
	{stun.MethodRefresh, stun.AttrRequestedAddressFamily, []int{4}, nil},
	{stun.MethodCreatePermission, stun.AttrXORPeerAddress, []int{8, 20}, nil},
	{stun.MethodChannelBind, stun.AttrChannelNumber, []int{4}, []stun.Setter{peer(netip.MustParseAddrPort("127.0.0.1:1"))}},
	{stun.MethodChannelBind, stun.AttrXORPeerAddress, []int{8, 20}, []stun.Setter{channelNumber(0x4000)}},
}

// Truncated and oversized attributes under a good signature: never a second answer, nothing is left open, and the
// relay lives.
func TestAttributesOfWrongLength(t *testing.T) {
	h := newHost(t)
	for _, transport := range []string{"udp", "tcp", "dtls"} {
		for _, f := range fixed {
			c := h.ready(transport, alpha)
			if f.method != stun.MethodAllocate {
				c.allocate()
			}
			for _, n := range wrongLengths {
				if slices.Contains(f.right, n) {
					continue
				}
				for _, fill := range []byte{0, 0xff} {
					a := c.exchange(c.forgeFixed(f, bytes.Repeat([]byte{fill}, n)))
					if a != nil && errorCode(a) == 0 && f.method == stun.MethodAllocate {
						require.Zero(t, errorCode(c.refresh(0))) // what it should be: TestAttributesOfWrongLengthAreRefused
					}
				}
			}
			if f.method != stun.MethodAllocate {
				require.Zero(t, errorCode(c.refresh()))
			} else {
				c.allocate()
			}
			require.Zero(t, errorCode(c.refresh(0)))
		}
	}
	require.Zero(t, h.allocations(alpha))
}

// The same in Send indications, which are never answered: nothing is sent to anybody.
func TestSendIndicationsOfWrongLength(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha]
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		require.Zero(t, c.permit(sfu.at))
		whole := newPacket(stun.MethodSend, stun.ClassIndication).set(peer(sfu.at)).b[stunHeader+4:]
		for _, n := range wrongLengths {
			for name, p := range map[string]*packet{
				"address of zeros":  newPacket(stun.MethodSend, stun.ClassIndication).add(stun.AttrXORPeerAddress, make([]byte, n)).add(stun.AttrData, []byte("x")),
				"address cut":       newPacket(stun.MethodSend, stun.ClassIndication).add(stun.AttrXORPeerAddress, whole[:min(n, 7)]).add(stun.AttrData, []byte("x")),
				"address continued": newPacket(stun.MethodSend, stun.ClassIndication).add(stun.AttrXORPeerAddress, append(bytes.Clone(whole), make([]byte, n+1)...)).add(stun.AttrData, []byte("x")),
				"no address":        newPacket(stun.MethodSend, stun.ClassIndication).add(stun.AttrData, make([]byte, n)),
				"no data":           newPacket(stun.MethodSend, stun.ClassIndication).set(peer(sfu.at)),
				"unknown required":  newPacket(stun.MethodSend, stun.ClassIndication).set(peer(sfu.at)).add(0x7f00, make([]byte, n)).add(stun.AttrData, []byte("x")),
			} {
				c.write(p.b)
				c.settle()
				require.Zero(t, sfu.count(), "%s of %d bytes over %s", name, n, transport)
			}
		}
		require.Nil(t, c.answered([12]byte{}))
		c.reaches(sfu.at)
		sfu.mu.Lock()
		sfu.got = nil
		sfu.mu.Unlock()
	}
}

// Lengths that lie, in the message and in its attributes.
func TestLyingLengths(t *testing.T) {
	h := newHost(t)
	c := h.ready("udp", alpha)
	c.allocate()
	sfu := h.sfu[alpha]
	for _, says := range []int{5, 9, 16, 255, 1200, 0xfffc, 0xffff} {
		last := newPacket(stun.MethodRefresh, stun.ClassRequest).credential(c).sign(c).lie(stun.AttrLifetime, says, make([]byte, 4))
		require.Nil(t, keepsQuiet(c, last), "an attribute beyond the end")
		for _, m := range []stun.Method{stun.MethodCreatePermission, stun.MethodSend} {
			class := stun.ClassRequest
			if m == stun.MethodSend {
				class = stun.ClassIndication
			}
			c.write(newPacket(m, class).set(peer(sfu.at)).lie(stun.AttrData, says, []byte("four")).b)
		}
		for _, header := range []int{0, 4, 0xfffc, 0xffff, 3, 21} {
			p := newPacket(stun.MethodRefresh, stun.ClassRequest).credential(c).sign(c)
			if header == len(p.b)-stunHeader {
				continue
			}
			require.Nil(t, keepsQuiet(c, p.says(header)), "a header that says %d", header)
		}
	}
	require.Zero(t, sfu.count())
	c.reaches(sfu.at)
}

// keepsQuiet is exchange for what may at most be refused: it gives an answer only if that is a success.
func keepsQuiet(c *raw, p *packet) *stun.Message {
	c.t.Helper()
	a := c.exchange(p)
	if a != nil && errorCode(a) != 0 {
		return nil
	}
	return a
}

// Attributes that must be understood and are not: 420, with their names (RFC 8489 section 6.3.1). Those that need
// not be are passed over.
func TestUnknownAttributes(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		for method, others := range map[stun.Method][]stun.Setter{
			stun.MethodRefresh:          nil,
			stun.MethodCreatePermission: {peer(h.sfu[alpha].at)},
			stun.MethodChannelBind:      {channelNumber(0x4000), peer(h.sfu[alpha].at)},
		} {
			optional := append([]stun.Setter{attr{0xff00, []byte("x")}, attr{0x8fff, nil}}, others...)
			require.Zero(t, errorCode(c.do(method, optional...)), "%s with what may be ignored", method)
			a := c.do(method, append([]stun.Setter{attr{0x7f00, []byte("x")}, attr{0x7f01, nil}}, others...)...)
			unknownAre(t, a, 0x7f00, 0x7f01)
			require.NoError(t, c.integrity.Check(a), "and signed")
		}
		d := h.ready(transport, alpha)
		unknownAre(t, d.do(stun.MethodAllocate, requestedTransport(protoUDP), attr{0x7f00, nil}), 0x7f00)
	}
}

func unknownAre(t testing.TB, a *stun.Message, want ...stun.AttrType) {
	t.Helper()
	require.Equal(t, 420, errorCode(a), a)
	var got stun.UnknownAttributes
	require.NoError(t, got.GetFrom(a))
	require.ElementsMatch(t, want, got)
}

// What follows MESSAGE-INTEGRITY is signed by nobody, and so was never said (RFC 8489 section 14.5).
func TestAttributesAfterTheSignature(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha]
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		require.Zero(t, c.permit(sfu.at))
		a := c.exchange(newPacket(stun.MethodRefresh, stun.ClassRequest).credential(c).sign(c).set(seconds(0)))
		if a != nil && errorCode(a) == 0 {
			d, ok := lifetime(a)
			require.True(t, ok)
			require.NotZero(t, d, "the deletion was not signed")
		}
		require.Equal(t, 1, h.allocations(alpha), transport)
		a = c.exchange(newPacket(stun.MethodCreatePermission, stun.ClassRequest).credential(c).sign(c).set(peer(sfu.at)))
		if a != nil {
			require.Equal(t, 400, errorCode(a), "no signed address over %s", transport)
		}
		a = c.exchange(newPacket(stun.MethodChannelBind, stun.ClassRequest).set(channelNumber(0x4000)).credential(c).sign(c).set(peer(sfu.at)))
		if a != nil {
			require.Equal(t, 400, errorCode(a), "no signed address over %s", transport)
		}
		d := h.ready(transport, alpha)
		d.refresh()
		a = d.exchange(newPacket(stun.MethodAllocate, stun.ClassRequest).credential(d).sign(d).set(requestedTransport(protoUDP)))
		if a != nil {
			require.Equal(t, 400, errorCode(a), "no signed transport")
		}
		require.Zero(t, errorCode(c.refresh(0)))
	}
	require.Zero(t, h.allocations(alpha))
}

// A credential under another's name: the attributes that say who are counted only where they are signed, and once.
func TestSecondUsername(t *testing.T) {
	h := newHost(t)
	c := h.ready("udp", alpha)
	c.refresh()
	other := h.client("udp", beta)
	for name, p := range map[string]*packet{
		"before": newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).add(stun.AttrUsername, []byte(other.user)).credential(c).sign(c),
		"after":  newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).credential(c).sign(c).add(stun.AttrUsername, []byte(other.user)),
		"realm":  newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).add(stun.AttrRealm, []byte("other.test")).credential(c).sign(c),
	} {
		c.exchange(p)
		require.Zero(t, h.allocations(beta), name)
		c.refresh(0)
	}
}

// A signature of another length is none, and a good one with one bit changed is none.
func TestDamagedSignatures(t *testing.T) {
	h := newHost(t)
	for _, transport := range []string{"udp", "tcp"} {
		c := h.ready(transport, alpha)
		c.refresh()
		good := newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).credential(c).sign(c)
		for i := len(good.b) - 20; i < len(good.b); i++ {
			bad := &packet{flip(good.b, i, 1)}
			a := c.exchange(bad)
			require.NotNil(t, a)
			require.Equal(t, 401, errorCode(a), "byte %d", i)
		}
		for _, n := range []int{0, 1, 4, 16, 19, 21, 24, 32, 64} {
			mac := make([]byte, n)
			copy(mac, good.b[len(good.b)-20:])
			a := c.exchange(newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).credential(c).add(stun.AttrMessageIntegrity, mac))
			if a != nil {
				require.Contains(t, []int{400, 401}, errorCode(a), "%d bytes", n)
			}
		}
		require.Zero(t, h.allocations(alpha))
	}
}

// As many attributes as a message holds cost no more than a message.
func TestManyAttributes(t *testing.T) {
	h := newHost(t)
	c := h.ready("tcp", alpha)
	c.allocate()
	began := time.Now()
	for _, kind := range []stun.AttrType{stun.AttrXORPeerAddress, 0x7f00, 0xff00, stun.AttrLifetime, stun.AttrUsername} {
		p := newPacket(stun.MethodCreatePermission, stun.ClassRequest)
		for i := range 110 {
			switch kind {
			case stun.AttrXORPeerAddress:
				p.set(peer(netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:1", i))))
			default:
				p.add(kind, nil)
			}
		}
		if a := c.exchange(p.credential(c).sign(c)); a != nil {
			require.GreaterOrEqual(t, errorCode(a), 400, kind)
			require.LessOrEqual(t, len(a.Raw), 600, "an answer is short")
		}
	}
	require.Less(t, time.Since(began), patience)
	c.reaches(h.sfu[alpha].at)
}
