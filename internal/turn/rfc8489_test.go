package turn

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
)

// STUN as RFC 8489 has it: signatures with SHA-256, nonces, fingerprints.

// Password algorithms of RFC 8489 section 18.5, as attributes list them: number, length of the parameters.
var (
	algorithmMD5    = []byte{0, 1, 0, 0}
	algorithmSHA256 = []byte{0, 2, 0, 0}
)

// modern is a client that signs with SHA-256.
type modern struct {
	*raw
	password   string
	algorithms []byte // as the server sent them
}

// newModern has been refused once, and so knows nonce, realm and algorithms.
func newModern(h *host, transport string) *modern {
	h.t.Helper()
	user, credential := auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(10*time.Minute))
	c := &modern{raw: h.ready(transport, alpha), password: credential}
	c.as(user, credential)
	// Room for all of the challenge within three times the request.
	first := newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).add(stun.AttrSoftware, make([]byte, 80))
	c.write(first.b)
	a := c.answer(first.id(), patience)
	require.Equal(h.t, 401, errorCode(a))
	require.NoError(h.t, c.nonce.GetFrom(a))
	c.algorithms, _ = a.Get(stun.AttrPasswordAlgorithms) //nolint:errcheck // empty is what a test may look for
	return c
}

func (c *modern) key(algorithm []byte) []byte {
	text := []byte(c.user + ":" + realm + ":" + c.password)
	if algorithm[1] == 1 {
		sum := md5.Sum(text)
		return sum[:]
	}
	sum := sha256.Sum256(text)
	return sum[:]
}

// ask signs with SHA-256 under a password algorithm.
func (c *modern) ask(method stun.Method, algorithm []byte, attrs ...stun.Setter) *stun.Message {
	c.t.Helper()
	p := newPacket(method, stun.ClassRequest)
	for _, s := range attrs {
		p.set(s)
	}
	p.credential(c.raw).add(stun.AttrPasswordAlgorithms, c.algorithms).add(stun.AttrPasswordAlgorithm, algorithm).sign256(c.key(algorithm))
	c.write(p.b)
	a := c.answer(p.id(), patience)
	require.NotNil(c.t, a, "no answer to %s", method)
	return a
}

// signed256 requires that an answer is signed as the request was.
func signed256(t testing.TB, a *stun.Message, key []byte) {
	t.Helper()
	v, err := a.Get(stun.AttrMessageIntegritySHA256)
	require.NoError(t, err, "signed with SHA-256: %s", a)
	at := stunHeader
	for _, have := range a.Attributes {
		if have.Type == stun.AttrMessageIntegritySHA256 {
			break
		}
		at += 4 + int(have.Length) + -int(have.Length)&3
	}
	b := append([]byte(nil), a.Raw[:at]...)
	binary.BigEndian.PutUint16(b[2:], uint16(at-stunHeader+36))
	m := hmac.New(sha256.New, key)
	m.Write(b)
	require.Equal(t, m.Sum(nil), v)
}

// The nonce says that password algorithms are known (RFC 8489 section 9.2), and they are listed.
func TestNonceTellsSecurityFeatures(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := newModern(h, transport)
		require.Greater(t, len(c.nonce), len(nonceCookie)+4)
		require.LessOrEqual(t, len(c.nonce), 127)
		require.Equal(t, nonceCookie, string(c.nonce[:len(nonceCookie)]))
		bits, err := base64.StdEncoding.DecodeString(string(c.nonce[len(nonceCookie) : len(nonceCookie)+4]))
		require.NoError(t, err)
		require.Equal(t, byte(0x80), bits[0]&0x80, "bit 0: password algorithms")
		require.Equal(t, append(append([]byte(nil), algorithmSHA256...), algorithmMD5...), c.algorithms, "the better one first")
	}
}

func TestMessageIntegritySHA256(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha].at
	for _, transport := range transports {
		for name, algorithm := range map[string][]byte{"SHA-256": algorithmSHA256, "MD5": algorithmMD5} {
			t.Run(transport+" "+name, func(t *testing.T) {
				sub := *h
				sub.t = t
				c := newModern(&sub, transport)
				require.NotEmpty(t, c.algorithms)
				for _, a := range []*stun.Message{
					c.ask(stun.MethodAllocate, algorithm, requestedTransport(protoUDP)),
					c.ask(stun.MethodRefresh, algorithm),
					c.ask(stun.MethodCreatePermission, algorithm, peer(sfu)),
					c.ask(stun.MethodChannelBind, algorithm, channelNumber(0x4000), peer(sfu)),
				} {
					require.Zero(t, errorCode(a), a)
					signed256(t, a, c.key(algorithm))
					require.False(t, a.Contains(stun.AttrMessageIntegrity), "one signature")
				}
				c.sendChannel(0x4000, []byte("modern"))
				require.Equal(t, "modern", string(c.data(patience)))
				refused := c.ask(stun.MethodChannelBind, algorithm, channelNumber(0x4000))
				require.Equal(t, 400, errorCode(refused))
				signed256(t, refused, c.key(algorithm))
				require.Zero(t, errorCode(c.ask(stun.MethodRefresh, algorithm, seconds(0))))
			})
		}
	}
}

// Nobody on the way may talk a client into a weaker algorithm (RFC 8489 section 9.2.4).
func TestBiddingDown(t *testing.T) {
	h := newHost(t)
	c := newModern(h, "udp")
	require.NotEmpty(t, c.algorithms)
	key := c.key(algorithmSHA256)
	base := func() *packet {
		return newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).credential(c.raw)
	}
	for name, try := range map[string]struct {
		p    *packet
		code []int
	}{
		"one algorithm of the list":    {base().add(stun.AttrPasswordAlgorithms, algorithmMD5).add(stun.AttrPasswordAlgorithm, algorithmMD5).sign256(c.key(algorithmMD5)), []int{400}},
		"another list":                 {base().add(stun.AttrPasswordAlgorithms, append(append([]byte(nil), c.algorithms...), 0, 3, 0, 0)).add(stun.AttrPasswordAlgorithm, algorithmSHA256).sign256(key), []int{400}},
		"a choice without the list":    {base().add(stun.AttrPasswordAlgorithm, algorithmSHA256).sign256(key), []int{400}},
		"the list without a choice":    {base().add(stun.AttrPasswordAlgorithms, c.algorithms).sign256(key), []int{400}},
		"an algorithm nobody listed":   {base().add(stun.AttrPasswordAlgorithms, c.algorithms).add(stun.AttrPasswordAlgorithm, []byte{0, 3, 0, 0}).sign256(key), []int{400}},
		"a choice cut short":           {base().add(stun.AttrPasswordAlgorithms, c.algorithms).add(stun.AttrPasswordAlgorithm, []byte{0, 2}).sign256(key), []int{400}},
		"a signature cut short":        {base().add(stun.AttrPasswordAlgorithms, c.algorithms).add(stun.AttrPasswordAlgorithm, algorithmSHA256).add(stun.AttrMessageIntegritySHA256, make([]byte, 16)), []int{400, 401}},
		"a wrong signature":            {base().add(stun.AttrPasswordAlgorithms, c.algorithms).add(stun.AttrPasswordAlgorithm, algorithmSHA256).sign256(make([]byte, 32)), []int{401}},
		"the other algorithm's key":    {base().add(stun.AttrPasswordAlgorithms, c.algorithms).add(stun.AttrPasswordAlgorithm, algorithmSHA256).sign256(c.key(algorithmMD5)), []int{401}},
		"both unsaid, signed with MD5": {base().sign256(c.key(algorithmMD5)), []int{0}},
	} {
		c.write(try.p.b)
		a := c.answer(try.p.id(), patience)
		require.NotNil(t, a, name)
		require.Contains(t, try.code, errorCode(a), name)
	}
}

// An answer has a FINGERPRINT when the request had one, and a request with a wrong one was never sent to us
// (RFC 8489 sections 6.3 and 14.7).
func TestFingerprint(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.refresh()
		for name, p := range map[string]*packet{
			"Binding":             newPacket(stun.MethodBinding, stun.ClassRequest),
			"unsigned Allocate":   newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)),
			"signed Allocate":     newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).credential(c).sign(c),
			"a second Allocate":   newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).credential(c).sign(c),
			"Refresh":             newPacket(stun.MethodRefresh, stun.ClassRequest).credential(c).sign(c),
			"unknown, must be ok": newPacket(stun.MethodRefresh, stun.ClassRequest).add(0x7f00, nil).credential(c).sign(c),
		} {
			a := c.exchange(p.fingerprint(0))
			require.NotNil(t, a, name)
			v, err := a.Get(stun.AttrFingerprint)
			require.NoError(t, err, "%s over %s: the answer has a fingerprint too", name, transport)
			require.Equal(t, stun.AttrFingerprint, a.Attributes[len(a.Attributes)-1].Type, "the last attribute")
			require.Equal(t, crc32.ChecksumIEEE(a.Raw[:len(a.Raw)-8])^fingerprintXOR, binary.BigEndian.Uint32(v))
		}
	}
}

func TestWrongFingerprintIsNoMessage(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		require.Nil(t, c.exchange(newPacket(stun.MethodBinding, stun.ClassRequest).fingerprint(1)), "Binding over %s", transport)
		require.Nil(t, c.exchange(c.forge(stun.MethodRefresh, func(p *packet) { p.set(seconds(0)) }).fingerprint(1)), "Refresh over %s", transport)
		require.Nil(t, c.exchange(newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).fingerprint(1<<31)))
		require.Zero(t, errorCode(c.refresh()), "nothing was deleted")
	}
}

// A nonce belongs to the address that it was given to.
func TestNonceOfAnotherAddress(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		one := h.ready(transport, alpha)
		one.allocate()
		for _, elsewhere := range transports {
			two := h.ready(elsewhere, alpha)
			two.nonce = one.nonce
			m := two.request(stun.MethodAllocate, requestedTransport(protoUDP))
			two.write(m.Raw)
			a := two.answer(m.TransactionID, patience)
			require.Equal(t, 438, errorCode(a), "from %s to %s", transport, elsewhere)
			require.NoError(t, two.nonce.GetFrom(a), "438 brings a new one")
			two.allocate()
			require.Zero(t, errorCode(two.refresh(0)))
		}
	}
}

// A nonce ends; what says so brings the next, and with that the client goes on. No relay is lost by it.
func TestStaleNonce(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		require.Zero(t, c.permit(h.sfu[alpha].at))
		require.Zero(t, errorCode(c.refresh()))
		stale := 0
		for range 40 { // more than three hours
			h.clock.advance(5 * time.Minute)
			h.srv.sweepAt(h.clock.now())
			m := c.request(stun.MethodRefresh)
			c.write(m.Raw)
			a := c.answer(m.TransactionID, patience)
			if errorCode(a) == 438 {
				stale++
				require.False(t, a.Contains(stun.AttrMessageIntegrity))
				require.True(t, a.Contains(stun.AttrRealm))
				require.NoError(t, c.nonce.GetFrom(a))
				a = c.refresh()
			}
			require.Zero(t, errorCode(a))
			require.Zero(t, c.permit(h.sfu[alpha].at))
		}
		require.GreaterOrEqual(t, stale, 2, "a nonce over %s is good for an hour at most", transport)
		require.LessOrEqual(t, stale, 13, "and for ten minutes at least")
		c.reaches(h.sfu[alpha].at)
		require.Zero(t, errorCode(c.refresh(0)))
	}
	require.Equal(t, len(transports), h.log.ended()[endDeleted])
}
