package turn

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// A new certificate is used from the next handshake on; connections that exist live on.
func TestCertificateSwap(t *testing.T) {
	h := newHost(t)
	ways := transports[2:]
	before := map[string]*raw{}
	leaf := func(c net.Conn) []byte {
		switch c := c.(type) {
		case *tls.Conn:
			return c.ConnectionState().PeerCertificates[0].Raw
		case *dtls.Conn:
			st, ok := c.ConnectionState()
			require.True(t, ok)
			return st.PeerCertificates[0]
		}
		return nil
	}
	var old []byte
	for _, way := range ways {
		before[way] = h.client(way, alpha)
		before[way].allocate()
		old = leaf(before[way].conn)
	}
	next := newCert(t, "turn.ns-alpha.orama.test")
	h.spec.CertPEM, h.spec.KeyPEM, h.pool = next.chain, next.key, next.pool
	h.apply()
	for _, way := range ways {
		after := h.client(way, alpha)
		require.Equal(t, next.leaf, leaf(after.conn), way)
		require.NotEqual(t, old, leaf(after.conn))
		after.allocate()
		require.Zero(t, errorCode(before[way].refresh()))
	}
	require.Empty(t, h.log.ended())
}

func TestForTURN(t *testing.T) {
	for name, want := range map[string]bool{
		"turn.ns-a.orama.test": true, "turn-1.ns-a.orama.test": true, "TURN.x": true, "turn": true, "turn-": true,
		"": false, "ns-a.orama.test": false, "turnip.test": false, "a.turn.test": false, "xturn.test": false, ".turn": false,
	} {
		require.Equal(t, want, forTURN(name), name)
	}
}

// backend is an HTTPS server that answers with what it got.
func backend(t *testing.T) (addr string, pool *x509.CertPool) {
	t.Helper()
	cert := newCert(t, "ns-alpha.orama.test")
	pair, err := tls.X509KeyPair([]byte(cert.chain), []byte(cert.key))
	require.NoError(t, err)
	l, err := tls.Listen("tcp4", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	require.NoError(t, err)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				io.Copy(c, c) //nolint:errcheck // the client ends it
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().String(), cert.pool
}

func TestSharedPort(t *testing.T) {
	addr, pool := backend(t)
	h := newHost(t, func(h *host) { h.spec.HTTPSBackend = addr })
	for name, conf := range map[string]*tls.Config{
		"a gateway's name": {RootCAs: pool, ServerName: "ns-alpha.orama.test"},
		"no name":          {InsecureSkipVerify: true},
		"TLS 1.2":          {RootCAs: pool, ServerName: "ns-alpha.orama.test", MaxVersion: tls.VersionTLS12},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tls.Dial("tcp4", h.at(testPorts.HTTPS), conf)
			require.NoError(t, err)
			defer c.Close()
			sent := make([]byte, 1<<20)
			rand.Read(sent) //nolint:errcheck // never fails
			go func() {
				c.Write(sent)  //nolint:errcheck // the read tells
				c.CloseWrite() //nolint:errcheck
			}()
			got, err := io.ReadAll(c)
			require.NoError(t, err, "and the end of one direction leaves the other open")
			require.True(t, bytes.Equal(sent, got))
		})
	}
	h.client("shared", alpha).allocate()
	require.Eventually(t, func() bool { return h.srv.conns.count() == 1 }, patience, 5*time.Millisecond)

	open, err := tls.Dial("tcp4", h.at(testPorts.HTTPS), &tls.Config{RootCAs: pool, ServerName: "ns-alpha.orama.test"})
	require.NoError(t, err)
	defer open.Close()
	h.srv.sweepAt(h.clock.now().Add(time.Hour))
	_, err = open.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(open, make([]byte, 1))
	require.NoError(t, err, "a silent web socket is the backend's affair")
	require.NoError(t, h.srv.Close(), "with a spliced connection open")
	require.True(t, closedByServer(open))
}

func TestSharedPortWithoutBackend(t *testing.T) {
	h := newHost(t)
	_, err := tls.Dial("tcp4", h.at(testPorts.HTTPS), &tls.Config{InsecureSkipVerify: true, ServerName: "ns-alpha.orama.test"})
	require.Error(t, err)
	h.spec.HTTPSBackend = freshIP().String() + ":1"
	h.apply()
	_, err = tls.Dial("tcp4", h.at(testPorts.HTTPS), &tls.Config{InsecureSkipVerify: true, ServerName: "ns-alpha.orama.test"})
	require.Error(t, err)
	require.Eventually(t, func() bool { return testutil.ToFloat64(h.srv.metrics.dropped[dropBackend]) == 2 }, patience, 5*time.Millisecond)
	h.client("shared", alpha).allocate()

	addr, pool := backend(t)
	h.spec.HTTPSBackend = addr
	h.apply()
	c, err := tls.Dial("tcp4", h.at(testPorts.HTTPS), &tls.Config{RootCAs: pool, ServerName: "ns-alpha.orama.test"})
	require.NoError(t, err, "the backend may change")
	c.Close()
}

// A ClientHello in many small pieces, and one that never ends.
func TestClientHelloInPieces(t *testing.T) {
	h := newHost(t)
	c, err := net.Dial("tcp4", h.at(testPorts.HTTPS))
	require.NoError(t, err)
	defer c.Close()
	drip := &dripping{Conn: c}
	client := tls.Client(drip, &tls.Config{RootCAs: h.pool, ServerName: "turn.ns-alpha.orama.test"})
	require.NoError(t, client.Handshake())
	require.Greater(t, drip.writes, 10)

	long, err := net.Dial("tcp4", h.at(testPorts.HTTPS))
	require.NoError(t, err)
	defer long.Close()
	for range 8 { // records of a handshake message that claims 65 kB
		record := append([]byte{22, 3, 1, 0x10, 0x00}, make([]byte, 0x1000)...)
		copy(record[5:], []byte{1, 0, 0xff, 0xff})
		long.Write(record) //nolint:errcheck // it may be closed under us
	}
	require.True(t, closedByServer(long), "a ClientHello is bounded")
}

type dripping struct {
	net.Conn
	writes int
}

func (d *dripping) Write(p []byte) (int, error) {
	for i := 0; i < len(p); i += 20 {
		d.writes++
		if n, err := d.Conn.Write(p[i:min(i+20, len(p))]); err != nil {
			return i + n, err
		}
	}
	return len(p), nil
}

// recordedHello is the ClientHello of this Go's own client.
func recordedHello(name string) []byte {
	rec := &recorder{}
	tls.Client(rec, &tls.Config{ServerName: name}).Handshake() //nolint:errcheck // nobody answers
	return rec.Bytes()
}

type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) { return r.Buffer.Write(p) }
func (r *recorder) Read([]byte) (int, error)    { return 0, io.EOF }
func (r *recorder) Close() error                { return nil }

func TestClientHelloName(t *testing.T) {
	hello := recordedHello("turn.ns-alpha.orama.test")
	name, read, ok := clientHello(&pieces{Reader: bytes.NewReader(hello), step: 7})
	require.True(t, ok)
	require.Equal(t, "turn.ns-alpha.orama.test", name)
	require.Equal(t, hello, read)
	for n := range len(hello) {
		_, _, ok := clientHello(&pieces{Reader: bytes.NewReader(hello[:n]), step: 1000})
		require.False(t, ok, "%d bytes are no ClientHello", n)
	}
}

// The backend learns who the client is, or its limits would count all of them as one.
func TestSharedPortAnnouncesTheClient(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	announced := &proxyproto.Listener{Listener: l, ReadHeaderTimeout: patience}
	defer announced.Close()
	from := make(chan string, 1)
	go func() {
		c, err := announced.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		from <- c.RemoteAddr().String()
	}()
	h := newHost(t, func(h *host) { h.spec.HTTPSBackend, h.spec.HTTPSProxy = l.Addr().String(), true })
	c, err := net.Dial("tcp4", h.at(testPorts.HTTPS))
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write(recordedHello("ns-alpha.orama.test"))
	require.NoError(t, err)
	select {
	case got := <-from:
		require.Equal(t, c.LocalAddr().String(), got)
	case <-time.After(patience):
		t.Fatal("the backend was not reached")
	}
}
