package turn

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// What answers give away, what strangers make the server keep, and what they make it send to others.

// coturn < 4.5.1.3: the padding of answers held bytes of other clients' messages. GHSA-c8r8-8vp5-6gcm.
func TestCVE_2020_4067_PaddingIsZero(t *testing.T) {
	h := newHost(t, func(h *host) { h.spec.Realm = realm })
	sfu := h.sfu[alpha].at
	for _, transport := range transports {
		// Another client fills buffers of every size with bytes that would be seen.
		loud := h.ready(transport, alpha)
		loud.allocate()
		require.Zero(t, loud.bind(0x4000, sfu))
		for size := 1; size < 1300; size += 61 {
			loud.sendChannel(0x4000, bytes.Repeat([]byte{0xee}, size))
			require.NotNil(t, loud.data(patience))
		}
		c := h.ready(transport, alpha)
		odd := newPacket(stun.MethodAllocate, stun.ClassRequest).add(stun.AttrUsername, []byte("odd")).add(stun.AttrSoftware, []byte("\xee\xee\xee\xee\xee"))
		answers := []*stun.Message{
			c.exchange(odd),
			c.exchange(newPacket(stun.MethodBinding, stun.ClassRequest)),
			c.do(stun.MethodAllocate, requestedTransport(6)),
			c.do(stun.MethodAllocate, requestedTransport(protoUDP)),
			c.do(stun.MethodRefresh),
			c.do(stun.MethodRefresh, attr{0x7f00, nil}),
			c.do(stun.MethodCreatePermission, peer(sfu)),
			c.do(stun.MethodCreatePermission, peer(netip.MustParseAddrPort("127.0.0.1:1"))),
			c.do(stun.MethodAllocate, requestedTransport(protoUDP)),
		}
		for _, a := range answers {
			require.NotNil(t, a)
			paddingIsZero(t, a.Raw)
		}
		for size := range 9 {
			c.send(sfu, bytes.Repeat([]byte{0xdd}, size))
			if b := c.next(patience); b[0]>>6 == 0 {
				paddingIsZero(t, b)
			}
		}
	}
}

// paddingIsZero walks a message: zeros after each attribute, and nothing after the last.
func paddingIsZero(t testing.TB, b []byte) {
	t.Helper()
	require.Len(t, b, stunHeader+int(binary.BigEndian.Uint16(b[2:])), "as long as it says")
	for b = b[stunHeader:]; len(b) > 0; {
		require.GreaterOrEqual(t, len(b), 4)
		n := int(binary.BigEndian.Uint16(b[2:]))
		padded := 4 + n + -n&3
		require.GreaterOrEqual(t, len(b), padded)
		require.Equal(t, make([]byte, -n&3), b[4+n:padded], "padding of attribute %#x", b[:2])
		b = b[padded:]
	}
}

// The padding of ChannelData on a stream: the same leak by another message.
func TestCVE_2020_4067_ChannelDataPadding(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha].at
	for _, transport := range []string{"tcp", "tls", "shared"} {
		c := h.ready(transport, alpha)
		c.allocate()
		require.Zero(t, c.bind(0x4000, sfu))
		for size := 1; size < 8; size++ {
			c.sendChannel(0x4000, bytes.Repeat([]byte{0xee}, 600))
			big := make([]byte, 604)
			require.NoError(t, c.conn.SetReadDeadline(time.Now().Add(patience)))
			_, err := io.ReadFull(c.conn, big)
			require.NoError(t, err)
			c.sendChannel(0x4000, bytes.Repeat([]byte{0xdd}, size))
			b := make([]byte, 4+size+-size&3)
			_, err = io.ReadFull(c.conn, b)
			require.NoError(t, err)
			require.Equal(t, make([]byte, -size&3), b[4+size:], "%d bytes", size)
		}
	}
}

// coturn 4.10.0: the reason phrase of a 401 was whatever lay on the stack. Here a phrase is empty or words.
func TestCVE_2026_104074_ReasonPhrases(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		for _, a := range []*stun.Message{
			c.exchange(newPacket(stun.MethodAllocate, stun.ClassRequest)),
			c.exchange(newPacket(stun.MethodRefresh, stun.ClassRequest)),
			c.do(stun.MethodAllocate),
			c.do(stun.MethodAllocate, requestedTransport(6)),
			c.do(stun.MethodRefresh),
		} {
			require.NotNil(t, a)
			v, err := a.Get(stun.AttrErrorCode)
			require.NoError(t, err)
			require.Equal(t, []byte{0, 0}, v[:2], "reserved bits")
			for _, r := range string(v[4:]) {
				require.True(t, r == ' ' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '\'', "%q", v[4:])
			}
		}
	}
}

// coturn 4.6.2r5 to 4.7.0-r4: nonces and relay ports came from random(3), and fifty of them told the rest.
// GHSA-fvj6-9jhg-9j84. Of a generator a black box can show that no simple rule predicts the next.
func TestCVE_2025_69217_PortsFollowNoRule(t *testing.T) {
	var sequences [2][]int
	for i := range sequences {
		h := newHost(t)
		for range 64 {
			sequences[i] = append(sequences[i], int(h.client("udp", alpha).allocate().Port()))
		}
	}
	require.NotEqual(t, sequences[0], sequences[1], "no seed that every server has")
	steps := map[int]int{}
	for i := 1; i < 64; i++ {
		steps[sequences[0][i]-sequences[0][i-1]]++
	}
	for step, n := range steps {
		require.Less(t, n, 16, "the next port is the last one plus %d", step)
	}
	require.Greater(t, slices.Max(sequences[0])-slices.Min(sequences[0]), 400, "the whole block is used")
}

// A nonce that nobody was given is good for nothing.
func TestCVE_2025_69217_NoncesAreNotGuessed(t *testing.T) {
	h := newHost(t)
	for _, transport := range []string{"udp", "tcp"} {
		c := h.ready(transport, alpha)
		require.Equal(t, 437, errorCode(c.refresh()))
		good := c.nonce
		for at := range good {
			c.nonce = bytes.Clone(good)
			if c.nonce[at]++; c.nonce[at] > 'z' {
				c.nonce[at] = '0'
			}
			if strings.EqualFold(string(c.nonce), string(good)) {
				continue // a letter's other case in a hexadecimal digit
			}
			m := c.request(stun.MethodAllocate, requestedTransport(protoUDP))
			c.write(m.Raw)
			a := c.answer(m.TransactionID, patience)
			require.Contains(t, []int{401, 438}, errorCode(a), "%q for %q", c.nonce, good)
		}
		for _, guess := range []string{"", "0", "obMatJos2AAAA", string(make([]byte, 40)), strings.Repeat("0", 80), strings.Repeat("f", 127)} {
			c.nonce = stun.Nonce(guess)
			m := c.request(stun.MethodAllocate, requestedTransport(protoUDP))
			c.write(m.Raw)
			require.Contains(t, []int{400, 401, 438}, errorCode(c.answer(m.TransactionID, patience)), "%q", guess)
		}
		c.nonce = nil
	}
	require.Zero(t, h.allocations(alpha))
}

// A captured Allocate opens nothing for whoever sends it again from elsewhere, whatever the way in.
func TestNonceReplay(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		victim := h.ready(transport, alpha)
		require.Equal(t, 437, errorCode(victim.refresh()))
		captured := victim.request(stun.MethodAllocate, requestedTransport(protoUDP))
		victim.write(captured.Raw)
		require.Zero(t, errorCode(victim.answer(captured.TransactionID, patience)))
		for _, elsewhere := range transports {
			thief := h.ready(elsewhere, alpha)
			thief.write(captured.Raw)
			thief.settle()
			if a := thief.answered(captured.TransactionID); a != nil {
				require.NotZero(t, errorCode(a), "%s repeated over %s", transport, elsewhere)
			}
		}
		require.Equal(t, 1, h.allocations(alpha))
		require.Zero(t, errorCode(victim.refresh(0)))
	}
}

// heap is what is in use after everything unreachable is gone.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// source is one of many loopback addresses, each in a /24 of its own: no other test is there.
func source(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{127, byte(128 + i>>8&127), byte(i), byte(1 + i>>15)})
}

// coturn 4.6.1 held 386 MB for 20,000 sources that had sent one request each and had no credential.
func TestUnauthenticatedSourcesKeepNoState(t *testing.T) {
	h := newHost(t)
	at := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(h.at(testPorts.UDP)))
	const sources = 20000
	p := make([]byte, 1500)
	ask := func(i int) (answers int) {
		c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source(i), 0)), at)
		require.NoError(t, err)
		defer c.Close()
		for _, m := range []stun.Method{stun.MethodAllocate, stun.MethodBinding, stun.MethodRefresh} {
			c.Write(newPacket(m, stun.ClassRequest).set(requestedTransport(protoUDP)).b) //nolint:errcheck // a datagram
		}
		c.SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // the read tells
		for answers < 3 {
			if _, err := c.Read(p); err != nil {
				return answers
			}
			answers++
		}
		return answers
	}
	ask(0)
	before := heap()
	for i := range sources {
		require.Equal(t, 3, ask(i), "source %s", source(i))
	}
	grown := heap() - before
	t.Logf("%d bytes for each of %d sources", grown/sources, sources)
	require.Less(t, grown, int64(sources*256))
	h.client("udp", alpha).allocate()
}

// Connections that never say who they are hold little, and go.
func TestUnauthenticatedConnectionsKeepLittle(t *testing.T) {
	h := newHost(t)
	const conns = 1000
	before := heap()
	var held []net.Conn
	for range conns {
		c, err := net.Dial("tcp4", h.at(testPorts.TCP))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write(newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).b)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
		_, err = io.ReadFull(c, make([]byte, stunHeader))
		require.NoError(t, err)
		held = append(held, c)
	}
	grown := heap() - before
	t.Logf("%d bytes for each connection", grown/conns)
	require.Less(t, grown, int64(conns*24<<10), "in this process, the client's end included")
	h.srv.sweepAt(h.clock.now().Add(time.Minute))
	for _, c := range held {
		require.True(t, closedByServer(c))
	}
}

// What is no request, or carries a credential that is no good, makes the server send no victim more than three times
// what it cost (issue 4). Plain requests: TestReflection.
func TestReflectionOfOddMessages(t *testing.T) {
	h := newHost(t)
	c := h.client("udp", alpha)
	c.refresh()
	bad := h.clientAs("udp", c.user, "guess")
	bad.nonce = c.nonce
	stale := h.client("udp", alpha)
	stale.nonce = stun.Nonce("stale")
	for name, b := range map[string][]byte{
		"an indication":       newPacket(stun.MethodBinding, stun.ClassIndication).b,
		"a success":           newPacket(stun.MethodBinding, stun.ClassSuccessResponse).b,
		"an error":            newPacket(stun.MethodAllocate, stun.ClassErrorResponse).b,
		"channel data":        {0x40, 0, 0, 4, 1, 2, 3, 4},
		"empty channel data":  {0x40, 0, 0, 0},
		"no cookie":           make([]byte, 20),
		"one byte":            {0},
		"a wrong credential":  bad.request(stun.MethodAllocate, requestedTransport(protoUDP)).Raw,
		"a stale nonce":       stale.request(stun.MethodAllocate, requestedTransport(protoUDP)).Raw,
		"an unknown required": newPacket(stun.MethodBinding, stun.ClassRequest).add(0x7f00, nil).add(0x7f01, nil).b,
	} {
		victim := h.client("udp", alpha)
		victim.write(b)
		got := 0
		for b := victim.next(50 * time.Millisecond); b != nil; b = victim.next(20 * time.Millisecond) {
			got += len(b)
		}
		require.LessOrEqual(t, got, 3*len(b), name)
	}
}

// pion/dtls < 2.1.4: fragments of a handshake message were kept without a bound. GHSA-cx94-mrg9-rq4j.
func TestCVE_2022_29189_DTLSFragmentsAreBounded(t *testing.T) {
	h := newHost(t)
	c, err := net.Dial("udp4", h.at(testPorts.HTTPS))
	require.NoError(t, err)
	defer c.Close()
	const piece = 1000
	before := heap()
	for i := range 16000 {
		c.Write(dtlsFragment(uint64(i), 1, 0xffffff, i*piece, make([]byte, piece))) //nolint:errcheck // a datagram
	}
	probeDTLS(t, h)
	require.Less(t, heap()-before, int64(8<<20), "of 16 MB sent")
}

// pion/dtls < 2.1.4: a fragment of length zero was put together for ever. GHSA-cm8f-h6j3-p25c.
func TestCVE_2022_29190_EmptyDTLSFragments(t *testing.T) {
	h := newHost(t)
	for _, length := range []int{0, 1, 40, 0xffffff} {
		for _, offset := range []int{0, 1, 40} {
			c, err := net.Dial("udp4", h.at(testPorts.HTTPS))
			require.NoError(t, err)
			defer c.Close()
			c.Write(dtlsFragment(0, 1, 100, 0, make([]byte, 10))) //nolint:errcheck // a datagram; this one makes a session
			for i := range 3 {
				c.Write(dtlsFragment(uint64(1+i), 1, length, offset, nil)) //nolint:errcheck // a datagram
			}
		}
	}
	probeDTLS(t, h)
	closed := make(chan struct{})
	go func() { defer close(closed); h.srv.Close() }()
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("a connection does not end")
	}
}

// coturn < 4.16.0: 35 bytes that announce a ClientHello of 650,000 made it keep a session and as much memory for each
// address, before the cookie. GHSA-5x2p-4vqj-f6m4.
func TestCVE_2026_73214_DTLSBeforeTheCookie(t *testing.T) {
	h := newHost(t)
	const sources = 4000
	hello := dtlsFragment(0, 1, 650000, 0, make([]byte, 10))
	require.Len(t, hello, 35)
	at := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(h.at(testPorts.HTTPS)))
	before := heap()
	for i := range sources {
		c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source(i), 0)), at)
		require.NoError(t, err)
		c.Write(hello) //nolint:errcheck // a datagram
		c.Close()
	}
	c := h.client("udp", alpha) // other ways in do not notice
	c.allocate()
	grown := heap() - before
	t.Logf("%d kB for %d sources", grown>>10, sources)
	require.Less(t, grown, int64(64<<20), "coturn: 2.4 GB")
}

// dtlsFragment is a record with one fragment of a handshake message: seq of the record, type and length of the message.
func dtlsFragment(seq uint64, typ byte, length, offset int, body []byte) []byte {
	b := []byte{22, 0xfe, 0xff, 0, 0}
	b = append(b, binary.BigEndian.AppendUint64(nil, seq)[2:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(12+len(body)))
	u24 := func(n int) []byte { return []byte{byte(n >> 16), byte(n >> 8), byte(n)} }
	b = append(append(b, typ), u24(length)...)
	b = append(append(b, 0, 0), u24(offset)...)
	return append(append(b, u24(len(body))...), body...)
}

func probeDTLS(t *testing.T, h *host) {
	t.Helper()
	c := h.ready("dtls", alpha)
	c.allocate()
	c.reaches(h.sfu[alpha].at)
}

// pion/dtls < 2.1.5: a client certificate was taken without proof of its key. GHSA-w45j-f832-hxvh. Here nobody
// is asked for one, over DTLS or TLS: who a client is, its credential says.
func TestCVE_2022_29222_NoClientCertificates(t *testing.T) {
	h := newHost(t)
	var asked atomic.Int32
	conf := &tls.Config{RootCAs: h.pool, ServerName: "turn.ns-alpha.orama.test", GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked.Add(1)
		return &tls.Certificate{}, nil
	}}
	for _, port := range []uint16{testPorts.TLS, testPorts.HTTPS} {
		c, err := tls.Dial("tcp4", h.at(port), conf)
		require.NoError(t, err)
		c.Close()
	}
	d, err := dtls.DialWithOptions("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(h.at(testPorts.HTTPS))),
		dtls.WithRootCAs(h.pool), dtls.WithServerName("turn.ns-alpha.orama.test"),
		dtls.WithGetClientCertificate(func(*dtls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked.Add(1)
			return &tls.Certificate{}, nil
		}))
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Handshake())
	require.Zero(t, asked.Load())
}

// pion/dtls < 3.0.11 and 3.1.0: AES-GCM nonces by chance instead of by count, so that one day two are the same.
// GHSA-9f3f-wv7r-qc8r. The explicit part of a record's nonce is the record's own number.
func TestCVE_2026_26014_DTLSNoncesAreCounted(t *testing.T) {
	h := newHost(t)
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer pc.Close()
	rec := &tapped{PacketConn: pc}
	d, err := dtls.ClientWithOptions(rec, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(h.at(testPorts.HTTPS))),
		dtls.WithRootCAs(h.pool), dtls.WithServerName("turn.ns-alpha.orama.test"),
		dtls.WithCipherSuites(dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256))
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, d.Handshake())
	for range 20 {
		_, err := d.Write(newPacket(stun.MethodBinding, stun.ClassRequest).b)
		require.NoError(t, err)
		require.NoError(t, d.SetReadDeadline(time.Now().Add(patience)))
		_, err = d.Read(make([]byte, 1500))
		require.NoError(t, err)
	}
	sealed := 0
	for _, b := range rec.datagrams() {
		for len(b) > 13 {
			n := 13 + int(binary.BigEndian.Uint16(b[11:]))
			if b[0] == 23 {
				require.Equal(t, b[3:11], b[13:21], "the explicit nonce is epoch and sequence number")
				sealed++
			}
			b = b[min(n, len(b)):]
		}
	}
	require.GreaterOrEqual(t, sealed, 20)
}

// tapped keeps what comes in.
type tapped struct {
	net.PacketConn
	mu  sync.Mutex
	got [][]byte
}

func (t *tapped) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := t.PacketConn.ReadFrom(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got = append(t.got, bytes.Clone(p[:n]))
	return n, from, err
}

func (t *tapped) datagrams() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.got)
}

// A spoofed ClientHello without a cookie makes the server send little, and once.
func TestReflectionOverDTLS(t *testing.T) {
	h := newHost(t)
	hello := firstFlight(t)
	c, err := net.Dial("udp4", h.at(testPorts.HTTPS))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write(hello)
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(3*time.Second))) // longer than a retransmission takes
	p, got := make([]byte, 4096), 0
	for {
		n, err := c.Read(p)
		if err != nil {
			break
		}
		got += n
	}
	require.NotZero(t, got, "a HelloVerifyRequest")
	require.LessOrEqual(t, got, 3*len(hello))
}

// firstFlight is what a DTLS client says first.
func firstFlight(t *testing.T) []byte {
	t.Helper()
	mute := &mutePacketConn{sent: make(chan []byte, 8), over: make(chan struct{})}
	d, err := dtls.ClientWithOptions(mute, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, dtls.WithInsecureSkipVerify(true))
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() { failed <- d.Handshake() }()
	hello := <-mute.sent
	d.Close()
	require.Error(t, <-failed)
	return hello
}

// mutePacketConn takes what is sent and never hears a thing.
type mutePacketConn struct {
	net.PacketConn
	sent chan []byte
	over chan struct{}
	once sync.Once
}

func (m *mutePacketConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	select {
	case m.sent <- bytes.Clone(p):
	default:
	}
	return len(p), nil
}

func (m *mutePacketConn) ReadFrom([]byte) (int, net.Addr, error) {
	<-m.over
	return 0, nil, net.ErrClosed
}

func (m *mutePacketConn) LocalAddr() net.Addr              { return &net.UDPAddr{} }
func (m *mutePacketConn) SetDeadline(time.Time) error      { return nil }
func (m *mutePacketConn) SetReadDeadline(time.Time) error  { return nil }
func (m *mutePacketConn) SetWriteDeadline(time.Time) error { return nil }
func (m *mutePacketConn) Close() error                     { m.once.Do(func() { close(m.over) }); return nil }
