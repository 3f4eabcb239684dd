package turn

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alpha orama.NamespaceID = "alpha"
	beta  orama.NamespaceID = "beta"
	realm                   = "orama.test"
	// patience bounds every wait for something that must happen.
	patience = 10 * time.Second
)

// Every server of a test has loopback addresses of its own, by process and number, so that
// its fixed ports meet nobody else's.
var lastIP atomic.Uint32

func freshIP() netip.Addr {
	pid, n := os.Getpid(), lastIP.Add(1)
	return netip.AddrFrom4([4]byte{127, byte(64 + pid>>8&63), byte(pid), byte(1 + n%250)})
}

var testPorts = Ports{UDP: 13478, TCP: 13478, TLS: 15349, HTTPS: 10443}

// clock is the system's, moved by hand.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time                   { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration)          { c.ahead.Add(int64(d)) }
func (c *clock) expiry(d time.Duration) time.Time { return c.now().Add(d) }

// host is a TURN server with two namespaces, each with an echo for its SFU.
type host struct {
	t     testing.TB
	srv   *Server
	reg   *prometheus.Registry
	spec  plan.TURNSpec
	clock *clock
	log   *logBook
	pool  *x509.CertPool
	sfu   map[orama.NamespaceID]*echo
}

func newHost(t testing.TB, configure ...func(*host)) *host {
	t.Helper()
	h := &host{t: t, reg: prometheus.NewRegistry(), clock: &clock{}, log: &logBook{}, sfu: map[orama.NamespaceID]*echo{}}
	h.srv = New(slog.New(slog.NewJSONHandler(h.log, nil)), h.reg)
	h.log.srv = h.srv
	h.srv.now = h.clock.now
	h.srv.Ports = testPorts
	relayIP, cert := freshIP(), newCert(t, "turn.ns-alpha.orama.test")
	h.pool = cert.pool
	h.spec = plan.TURNSpec{
		Node: "node-1", PublicIP: freshIP(), RelayIP: relayIP, Realm: realm, CertPEM: cert.chain, KeyPEM: cert.key,
	}
	for i, ns := range []orama.NamespaceID{alpha, beta} {
		h.sfu[ns] = newEcho(t, freshIP())
		h.spec.Tenants = append(h.spec.Tenants, plan.TenantSpec{
			Namespace: ns, Secret: auth.NewTURNSecret(),
			Relay: orama.PortRange{First: uint16(50000 + 800*i), Count: 800}, Allow: []netip.AddrPort{h.sfu[ns].at},
		})
	}
	for _, f := range configure {
		f(h)
	}
	require.NoError(t, h.srv.Apply(h.spec))
	t.Cleanup(func() { require.NoError(t, h.srv.Close()) })
	return h
}

func (h *host) tenant(ns orama.NamespaceID) *plan.TenantSpec {
	for i := range h.spec.Tenants {
		if h.spec.Tenants[i].Namespace == ns {
			return &h.spec.Tenants[i]
		}
	}
	h.t.Fatalf("no tenant %s", ns)
	return nil
}

func (h *host) apply() { h.t.Helper(); require.NoError(h.t, h.srv.Apply(h.spec)) }

func (h *host) allocations(ns orama.NamespaceID) int {
	for _, t := range h.srv.Status().Tenants {
		if t.Namespace == ns {
			return t.Allocations
		}
	}
	return 0
}

func (h *host) at(port uint16) string { return netip.AddrPortFrom(h.spec.PublicIP, port).String() }

// transports are all ways in; "shared" is TLS on the port that HTTPS shares.
var transports = []string{"udp", "tcp", "tls", "dtls", "shared"}

// dial connects to the server one way.
func (h *host) dial(transport string) net.Conn {
	h.t.Helper()
	var c net.Conn
	var err error
	conf := &tls.Config{RootCAs: h.pool, ServerName: "turn.ns-alpha.orama.test"}
	switch transport {
	case "udp":
		c, err = net.Dial("udp4", h.at(testPorts.UDP))
	case "tcp":
		c, err = net.Dial("tcp4", h.at(testPorts.TCP))
	case "tls":
		c, err = tls.Dial("tcp4", h.at(testPorts.TLS), conf)
	case "shared":
		c, err = tls.Dial("tcp4", h.at(testPorts.HTTPS), conf)
	case "dtls":
		c, err = h.dialDTLS()
	}
	require.NoError(h.t, err)
	h.t.Cleanup(func() { c.Close() })
	return c
}

func (h *host) dialDTLS() (net.Conn, error) {
	c, err := dtls.DialWithOptions("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(h.spec.PublicIP, testPorts.HTTPS)),
		dtls.WithRootCAs(h.pool), dtls.WithServerName("turn.ns-alpha.orama.test"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c, c.HandshakeContext(ctx)
}

// raw is a TURN client that does as it is told, good or bad.
type raw struct {
	t         testing.TB
	conn      net.Conn
	transport string
	read      func(p []byte) (int, error)
	user      string
	integrity stun.MessageIntegrity
	nonce     stun.Nonce
	inbox     [][]byte // what came while waiting for something else
}

func (h *host) client(transport string, ns orama.NamespaceID) *raw {
	h.t.Helper()
	user, credential := auth.MintTURN(h.tenant(ns).Secret, ns, h.clock.expiry(10*time.Minute))
	return h.clientAs(transport, user, credential)
}

func (h *host) clientAs(transport, user, credential string) *raw {
	h.t.Helper()
	c := &raw{t: h.t, conn: h.dial(transport), transport: transport}
	c.as(user, credential)
	c.read = c.conn.Read
	if transport != "udp" && transport != "dtls" {
		framed := newStream(c.conn)
		c.read = func(p []byte) (int, error) { b, _, err := framed.next(); return copy(p, b), err }
	}
	return c
}

func (c *raw) as(user, credential string) {
	c.user, c.integrity = user, stun.NewLongTermIntegrity(user, realm, credential)
}

// request builds a signed request, without credential before a nonce is known.
func (c *raw) request(method stun.Method, attrs ...stun.Setter) *stun.Message {
	all := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
	if c.nonce != nil {
		all = append(all, stun.NewUsername(c.user), stun.NewRealm(realm), c.nonce, c.integrity)
	}
	m, err := stun.Build(all...)
	require.NoError(c.t, err)
	return m
}

func (c *raw) write(b []byte) {
	c.t.Helper()
	_, err := c.conn.Write(b)
	require.NoError(c.t, err)
}

// do sends a request and gives the answer, after fetching a nonce if the server wants one.
func (c *raw) do(method stun.Method, attrs ...stun.Setter) *stun.Message {
	c.t.Helper()
	for try := 0; ; try++ {
		m := c.request(method, attrs...)
		c.write(m.Raw)
		a := c.answer(m.TransactionID, patience)
		require.NotNil(c.t, a, "no answer to %s", method)
		var nonce stun.Nonce
		if code := errorCode(a); try == 0 && (code == 401 && c.nonce == nil || code == 438) && nonce.GetFrom(a) == nil {
			c.nonce = nonce
			continue
		}
		if a.Type.Class == stun.ClassSuccessResponse {
			require.NoError(c.t, c.integrity.Check(a), "an answer is signed")
		}
		return a
	}
}

// answer waits for the answer to a transaction; nil when there is none in time.
func (c *raw) answer(id [stun.TransactionIDSize]byte, wait time.Duration) *stun.Message {
	for deadline := time.Now().Add(wait); ; {
		b := c.next(time.Until(deadline))
		if b == nil {
			return nil
		}
		m := &stun.Message{Raw: b}
		if b[0]>>6 == 0 && m.Decode() == nil && m.TransactionID == id {
			return m
		}
		c.inbox = append(c.inbox, b)
	}
}

func (c *raw) next(wait time.Duration) []byte {
	p := make([]byte, 2048)
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(wait)))
	n, err := c.read(p)
	if err != nil {
		return nil
	}
	return p[:n]
}

// data waits for relayed data, as indication or ChannelData; nil when there is none in time.
func (c *raw) data(wait time.Duration) []byte {
	c.t.Helper()
	for deadline := time.Now().Add(wait); ; {
		var b []byte
		if len(c.inbox) > 0 {
			b, c.inbox = c.inbox[0], c.inbox[1:]
		} else if b = c.next(time.Until(deadline)); b == nil {
			return nil
		}
		if b[0]>>6 == 1 {
			return b[4 : 4+binary.BigEndian.Uint16(b[2:])]
		}
		m := &stun.Message{Raw: b}
		if m.Decode() == nil && m.Type == stun.NewType(stun.MethodData, stun.ClassIndication) {
			v, err := m.Get(stun.AttrData)
			require.NoError(c.t, err)
			return v
		}
	}
}

func (c *raw) allocate() netip.AddrPort {
	c.t.Helper()
	a := c.do(stun.MethodAllocate, requestedTransport(protoUDP))
	require.Zero(c.t, errorCode(a), a)
	var relayed stun.XORMappedAddress
	require.NoError(c.t, relayed.GetFromAs(a, stun.AttrXORRelayedAddress))
	ip, _ := netip.AddrFromSlice(relayed.IP)
	return netip.AddrPortFrom(ip.Unmap(), uint16(relayed.Port))
}

func (c *raw) permit(peers ...netip.AddrPort) int {
	c.t.Helper()
	var attrs []stun.Setter
	for _, p := range peers {
		attrs = append(attrs, peer(p))
	}
	return errorCode(c.do(stun.MethodCreatePermission, attrs...))
}

func (c *raw) bind(channel uint16, to netip.AddrPort) int {
	c.t.Helper()
	return errorCode(c.do(stun.MethodChannelBind, channelNumber(channel), peer(to)))
}

func (c *raw) refresh(lifetime ...time.Duration) *stun.Message {
	c.t.Helper()
	var attrs []stun.Setter
	for _, d := range lifetime {
		attrs = append(attrs, seconds(d))
	}
	return c.do(stun.MethodRefresh, attrs...)
}

func (c *raw) send(to netip.AddrPort, data []byte) {
	c.t.Helper()
	m, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), peer(to), attr{stun.AttrData, data})
	require.NoError(c.t, err)
	c.write(m.Raw)
}

func (c *raw) sendChannel(channel uint16, data []byte) {
	c.t.Helper()
	b := binary.BigEndian.AppendUint16(nil, channel)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
	if c.transport != "udp" && c.transport != "dtls" {
		b = append(b, make([]byte, -len(data)&3)...)
	}
	c.write(b)
}

// Constants of the formats, for tests that build messages with the library.
const (
	stunHeader = 20
	stunCookie = 0x2112A442
	familyIPv4 = 1
	familyIPv6 = 2
)

// lifetime reads LIFETIME (RFC 8656 section 18.2).
func lifetime(m *stun.Message) (time.Duration, bool) {
	v, err := m.Get(stun.AttrLifetime)
	if err != nil || len(v) != 4 {
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint32(v)) * time.Second, true
}

// attr is any attribute.
type attr struct {
	t stun.AttrType
	v []byte
}

func (a attr) AddTo(m *stun.Message) error { m.Add(a.t, a.v); return nil }

func requestedTransport(p byte) stun.Setter {
	return attr{stun.AttrRequestedTransport, []byte{p, 0, 0, 0}}
}

func channelNumber(n uint16) stun.Setter {
	return attr{stun.AttrChannelNumber, binary.BigEndian.AppendUint32(nil, uint32(n)<<16)}
}

func seconds(d time.Duration) stun.Setter {
	return attr{stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))}
}

// peer writes the address as it is: an IPv4-mapped one in the IPv6 form.
func peer(p netip.AddrPort) stun.Setter { return peerAttr(p) }

type peerAttr netip.AddrPort

func (p peerAttr) AddTo(m *stun.Message) error {
	ap := netip.AddrPort(p)
	ip := ap.Addr().AsSlice()
	family := byte(1)
	if len(ip) == 16 {
		family = 2
	}
	mask := append(binary.BigEndian.AppendUint32(nil, stunCookie), m.TransactionID[:]...)
	for i := range ip {
		ip[i] ^= mask[i]
	}
	v := binary.BigEndian.AppendUint16([]byte{0, family}, ap.Port()^stunCookie>>16)
	m.Add(stun.AttrXORPeerAddress, append(v, ip...))
	return nil
}

func errorCode(m *stun.Message) int {
	var e stun.ErrorCodeAttribute
	if e.GetFrom(m) != nil {
		return 0
	}
	return int(e.Code)
}

// echo is an SFU's media socket that answers everything and remembers what it got.
type echo struct {
	conn *net.UDPConn
	at   netip.AddrPort
	mu   sync.Mutex
	got  [][]byte
	from netip.AddrPort

	forget atomic.Bool // what comes is not kept
}

func newEcho(t testing.TB, ip netip.Addr) *echo {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	require.NoError(t, err)
	e := &echo{conn: c, at: c.LocalAddr().(*net.UDPAddr).AddrPort()}
	e.at = netip.AddrPortFrom(e.at.Addr().Unmap(), e.at.Port())
	done := make(chan struct{})
	go func() { defer close(done); e.run() }()
	t.Cleanup(func() { c.Close(); <-done })
	return e
}

func (e *echo) run() {
	p := make([]byte, 2048)
	for {
		n, from, err := e.conn.ReadFromUDPAddrPort(p)
		if err != nil {
			return
		}
		e.mu.Lock()
		if e.from = from; !e.forget.Load() {
			e.got = append(e.got, bytes.Clone(p[:n]))
		}
		e.mu.Unlock()
		e.conn.WriteToUDPAddrPort(p[:n], from) //nolint:errcheck
	}
}

func (e *echo) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.got)
}

// logBook keeps what the server logs.
type logBook struct {
	srv    *Server
	forget atomic.Bool // what is logged is not kept
	mu     sync.Mutex
	lines  []map[string]any
}

func (b *logBook) Write(p []byte) (int, error) {
	if b.forget.Load() {
		return len(p), nil
	}
	line := map[string]any{}
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, line)
	return len(p), nil
}

// reasons counts the lines with a message by their reason.
func (b *logBook) reasons(msg string) map[string]int {
	b.flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	n := map[string]int{}
	for _, l := range b.lines {
		if l["msg"] == msg {
			n[fmt.Sprint(l["reason"])]++
		}
	}
	return n
}

// flush waits until what was said is written.
func (b *logBook) flush() {
	mark := make(chan struct{})
	select {
	case b.srv.scribe.queue <- line{written: mark}:
		select {
		case <-mark:
		case <-b.srv.scribe.done:
		}
	case <-b.srv.scribe.done:
	}
}

func (b *logBook) ended() map[string]int   { return b.reasons("turn: relay ended") }
func (b *logBook) refused() map[string]int { return b.reasons("turn: refused") }

type testCert struct {
	chain, key string
	pool       *x509.CertPool
	leaf       []byte
}

func newCert(t testing.TB, name string) testCert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	require.NoError(t, err)
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	parsed, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return testCert{
		chain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:   string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})),
		pool:  pool, leaf: der,
	}
}
