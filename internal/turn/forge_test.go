package turn

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

// Messages put together by hand, byte by byte, so that they can be wrong in any way or new in ways that no library here writes.

const (
	fingerprintXOR = 0x5354554e
	nonceCookie    = "obMatJos2" // RFC 8489 section 9.2
)

// Attributes that the library has no name for.
const (
	attrAdditionalFamily = stun.AttrType(0x8000)
	attrAddressErrorCode = stun.AttrType(0x8001)
	attrICMP             = stun.AttrType(0x8004)
	attrAccessToken      = stun.AttrType(0x001b)
	attrThirdParty       = stun.AttrType(0x802e)
	attrMobilityTicket   = stun.AttrType(0x8030)
)

// packet is a STUN message in the making.
type packet struct{ b []byte }

func newPacket(method stun.Method, class stun.MessageClass) *packet {
	b := binary.BigEndian.AppendUint16(nil, stun.NewType(method, class).Value())
	b = binary.BigEndian.AppendUint32(append(b, 0, 0), stunCookie)
	id := stun.NewTransactionID()
	return &packet{append(b, id[:]...)}
}

func (p *packet) id() [stun.TransactionIDSize]byte { return [stun.TransactionIDSize]byte(p.b[8:20]) }

// says sets the header's length.
func (p *packet) says(n int) *packet { binary.BigEndian.PutUint16(p.b[2:], uint16(n)); return p }

// add appends an attribute, padded with zeros.
func (p *packet) add(t stun.AttrType, v []byte) *packet { return p.lie(t, len(v), v) }

// lie appends an attribute whose length field says what it likes.
func (p *packet) lie(t stun.AttrType, length int, v []byte) *packet {
	p.b = binary.BigEndian.AppendUint16(p.b, uint16(t))
	p.b = append(binary.BigEndian.AppendUint16(p.b, uint16(length)), v...)
	p.b = append(p.b, make([]byte, -len(v)&3)...)
	return p.says(len(p.b) - stunHeader)
}

// set appends what a setter of the library makes, such as an address.
func (p *packet) set(s stun.Setter) *packet {
	m := &stun.Message{TransactionID: p.id()}
	m.WriteHeader()
	s.AddTo(m) //nolint:errcheck // the tests' own setters do not fail
	a := m.Attributes[0]
	return p.add(a.Type, a.Value)
}

// credential appends the username, the realm and the nonce of a client.
func (p *packet) credential(c *raw) *packet {
	return p.add(stun.AttrUsername, []byte(c.user)).add(stun.AttrRealm, []byte(realm)).add(stun.AttrNonce, c.nonce)
}

func (p *packet) mac(t stun.AttrType, h func() hash.Hash, key []byte) *packet {
	m := hmac.New(h, key)
	p.says(len(p.b) - stunHeader + 4 + m.Size())
	m.Write(p.b)
	return p.add(t, m.Sum(nil))
}

func (p *packet) sign(c *raw) *packet { return p.mac(stun.AttrMessageIntegrity, sha1.New, c.integrity) }

func (p *packet) sign256(key []byte) *packet {
	return p.mac(stun.AttrMessageIntegritySHA256, sha256.New, key)
}

func (p *packet) fingerprint(damage uint32) *packet {
	p.says(len(p.b) - stunHeader + 8)
	return p.add(stun.AttrFingerprint, binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(p.b)^fingerprintXOR^damage))
}

// ready is a client whose connection is known to carry messages both ways: what is said over DTLS in the moment
// between the client's end of the handshake and the server's may be lost.
func (h *host) ready(transport string, ns orama.NamespaceID) *raw {
	h.t.Helper()
	c := h.client(transport, ns)
	if transport != "dtls" {
		return c
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		c.write(newPacket(stun.MethodBinding, stun.ClassRequest).b)
		if c.next(200*time.Millisecond) != nil {
			return c
		}
	}
	h.t.Fatal("no answer over DTLS")
	return nil
}

// forge makes a signed request of c with a body of the test's choice. c has a nonce by then.
func (c *raw) forge(method stun.Method, body func(*packet)) *packet {
	c.t.Helper()
	if c.nonce == nil {
		c.refresh() // its refusal brings one
	}
	p := newPacket(method, stun.ClassRequest)
	body(p)
	return p.credential(c).sign(c)
}

// exchange sends a message and gives its answer: nil when there was none by the time that a request sent
// after it was answered.
func (c *raw) exchange(p *packet) *stun.Message {
	c.t.Helper()
	c.write(p.b)
	c.settle()
	return c.answered(p.id())
}

// settle returns when everything that c has sent was dealt with.
func (c *raw) settle() { c.t.Helper(); c.refresh() }

// answered takes the answer to a transaction out of what came while waiting for something else.
func (c *raw) answered(id [stun.TransactionIDSize]byte) *stun.Message {
	c.t.Helper()
	var found *stun.Message
	c.inbox = slices.DeleteFunc(c.inbox, func(b []byte) bool {
		m := &stun.Message{Raw: b}
		mine := b[0]>>6 == 0 && m.Decode() == nil && m.TransactionID == id
		if mine {
			require.Nil(c.t, found, "one request has one answer")
			found = m
		}
		return mine
	})
	return found
}

// refusals are the codes that keep a client from a peer: no address, forbidden, another family.
var refusals = []int{400, 403, 443}

// tryReach tries each way to send to a peer that TURN and RFC 6062 have, and requires that those which are
// answered are refused.
func (c *raw) tryReach(channel uint16, to netip.AddrPort) {
	c.t.Helper()
	require.Contains(c.t, refusals, c.permit(to), "permission for %s", to)
	require.Contains(c.t, refusals, c.bind(channel, to), "channel to %s", to)
	c.send(to, []byte("indication"))
	c.sendChannel(channel, []byte("channel"))
	connect := c.exchange(c.forge(stun.MethodConnect, func(p *packet) { p.set(peer(to)) }))
	if connect != nil {
		require.NotZero(c.t, errorCode(connect), "a TCP connection to %s", to)
	}
}

// reaches proves that c's relay works, and so that what was sent before had its chance.
func (c *raw) reaches(sfu netip.AddrPort) {
	c.t.Helper()
	require.Zero(c.t, c.permit(sfu))
	c.send(sfu, []byte("proof"))
	require.Equal(c.t, "proof", string(c.data(patience)))
}

// onIPv6 gives a host its relays on ::1, with an SFU there for alpha. Every test process has that address, so
// the ports are picked anew.
func onIPv6(t testing.TB, sfu *echo) func(*host) {
	return func(h *host) {
		h.spec.RelayIP = netip.IPv6Loopback()
		h.tenant(alpha).Relay.First = freeBlock(t, 16)
		h.tenant(alpha).Relay.Count = 16
		h.tenant(alpha).Allow = []netip.AddrPort{sfu.at}
		h.spec.Tenants = h.spec.Tenants[:1]
	}
}

// freeBlock finds n ports on ::1 that nobody holds.
func freeBlock(t testing.TB, n int) uint16 {
	t.Helper()
	for range 100 {
		c, err := net.ListenPacket("udp6", "[::1]:0")
		require.NoError(t, err)
		first := c.LocalAddr().(*net.UDPAddr).Port
		c.Close()
		free := first+n < 1<<16
		for port := first; free && port < first+n; port++ {
			c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback, Port: port})
			if free = err == nil; free {
				c.Close()
			}
		}
		if free {
			return uint16(first)
		}
	}
	t.Fatal("no free ports on ::1")
	return 0
}

func newEcho6(t testing.TB) *echo {
	t.Helper()
	c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	require.NoError(t, err)
	e := &echo{conn: c, at: c.LocalAddr().(*net.UDPAddr).AddrPort()}
	done := make(chan struct{})
	go func() { defer close(done); e.run() }()
	t.Cleanup(func() { c.Close(); <-done })
	return e
}

// getsNothing sends bytes that are no STUN over a stream: the server must close without a word.
func getsNothing(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	c.Write(b) //nolint:errcheck // it may be closed under us
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	n, err := c.Read(make([]byte, 4096))
	require.Zero(t, n, "%q was answered", b)
	require.Error(t, err)
	var timeout net.Error
	if e, ok := err.(net.Error); ok { //nolint:errorlint // a read's error is not wrapped
		timeout = e
	}
	require.False(t, timeout != nil && timeout.Timeout(), "%q left the connection open", b)
}
