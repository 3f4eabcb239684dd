package turn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"orama.network/orama"
	"orama.network/orama/internal/plan"
)

func TestStatus(t *testing.T) {
	h := newHost(t)
	h.client("udp", alpha).allocate()
	st := h.srv.Status()
	require.Len(t, st.Boot, 16)
	require.True(t, st.Configured)
	require.False(t, st.Draining)
	require.Equal(t, []ListenerStatus{
		{Transport: "udp", Addr: h.at(testPorts.UDP)}, {Transport: "tcp", Addr: h.at(testPorts.TCP)},
		{Transport: "tls", Addr: h.at(testPorts.TLS)}, {Transport: "dtls", Addr: h.at(testPorts.HTTPS)},
		{Transport: "tls", Addr: h.at(testPorts.HTTPS)},
	}, st.Listeners)
	require.Equal(t, []TenantStatus{{alpha, 1, 800}, {beta, 0, 800}}, st.Tenants)
	h.spec.CertPEM, h.spec.KeyPEM = "", ""
	h.apply()
	require.NotEmpty(t, h.srv.Status().Listeners[2].Error, "TLS without a certificate serves nobody")
	require.Empty(t, h.srv.Status().Listeners[0].Error)
}

func TestStatusBeforeApply(t *testing.T) {
	s := New(discard(), nil)
	st := s.Status()
	require.False(t, st.Configured)
	require.NotNil(t, st.Listeners, "JSON lists are never null")
	require.NotNil(t, st.Tenants)
	s.Drain(context.Background())
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
}

func TestApplyRefusesAndChangesNothing(t *testing.T) {
	h := newHost(t)
	c := h.client("udp", alpha)
	c.allocate()
	for name, damage := range map[string]func(*plan.TURNSpec){
		"public address changed": func(s *plan.TURNSpec) { s.PublicIP = freshIP() },
		"relay address changed":  func(s *plan.TURNSpec) { s.RelayIP = freshIP() },
		"realm changed":          func(s *plan.TURNSpec) { s.Realm = "other.test" },
		"no realm":               func(s *plan.TURNSpec) { s.Realm = "" },
		"long realm":             func(s *plan.TURNSpec) { s.Realm = strings.Repeat("a", 129) },
		"no public address":      func(s *plan.TURNSpec) { s.PublicIP = netip.Addr{} },
		"relay on every address": func(s *plan.TURNSpec) { s.RelayIP = netip.IPv4Unspecified() },
		"backend without port":   func(s *plan.TURNSpec) { s.HTTPSBackend = "localhost" },
		"half a certificate":     func(s *plan.TURNSpec) { s.KeyPEM = "" },
		"another's key":          func(s *plan.TURNSpec) { s.KeyPEM = newCert(t, "x").key },
		"namespace twice":        func(s *plan.TURNSpec) { s.Tenants[1].Namespace = alpha },
		"blocks overlap":         func(s *plan.TURNSpec) { s.Tenants[1].Relay.First = 50799 },
		"no block":               func(s *plan.TURNSpec) { s.Tenants[1].Relay.Count = 0 },
		"block past 65535":       func(s *plan.TURNSpec) { s.Tenants[1].Relay.First = 65000 },
		"no secret":              func(s *plan.TURNSpec) { s.Tenants[1].Secret = "" },
		"bad name":               func(s *plan.TURNSpec) { s.Tenants[1].Namespace = "A:b" },
		"fence open to 0.0.0.0":  func(s *plan.TURNSpec) { s.Tenants[1].Allow[0] = netip.MustParseAddrPort("0.0.0.0:1") },
		"fence open to port 0":   func(s *plan.TURNSpec) { s.Tenants[1].Allow[0] = netip.MustParseAddrPort("10.0.0.1:0") },
	} {
		t.Run(name, func(t *testing.T) {
			spec := h.spec
			spec.Tenants = append([]plan.TenantSpec(nil), h.spec.Tenants...)
			spec.Tenants[0].Secret = "would end alpha's relays"
			spec.Tenants[1].Allow = append([]netip.AddrPort(nil), spec.Tenants[1].Allow...)
			damage(&spec)
			err := h.srv.Apply(spec)
			require.Equal(t, orama.KindInvalid, orama.KindOf(err), "%v", err)
			require.NotContains(t, err.Error(), h.tenant(beta).Secret)
		})
	}
	require.Zero(t, errorCode(c.refresh()))
	require.Empty(t, h.log.ended())
}

// A port in use fails Apply, says where, and leaves nothing bound.
func TestPortInUse(t *testing.T) {
	for _, taken := range []string{"udp/13478", "tcp/13478", "tcp/15349", "udp/10443", "tcp/10443"} {
		t.Run(taken, func(t *testing.T) {
			proto, port, _ := strings.Cut(taken, "/")
			spec := plan.TURNSpec{PublicIP: freshIP(), RelayIP: freshIP(), Realm: realm}
			at := net.JoinHostPort(spec.PublicIP.String(), port)
			release := occupy(t, proto, at)
			s := New(discard(), nil)
			s.Ports = testPorts
			err := s.Apply(spec)
			require.ErrorIs(t, err, syscall.EADDRINUSE)
			require.ErrorContains(t, err, at+"/"+proto)
			require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
			require.False(t, s.Status().Configured)
			for _, p := range []string{"udp/13478", "tcp/13478", "tcp/15349", "udp/10443", "tcp/10443"} {
				if p != taken {
					proto, port, _ := strings.Cut(p, "/")
					occupy(t, proto, net.JoinHostPort(spec.PublicIP.String(), port))()
				}
			}
			release()
			require.NoError(t, s.Apply(spec), "and the next try may succeed")
			require.NoError(t, s.Close())
			require.Error(t, s.Apply(spec), "a closed server stays closed")
		})
	}
}

func occupy(t *testing.T, proto, at string) (release func()) {
	t.Helper()
	if proto == "udp" {
		c, err := net.ListenPacket(proto, at)
		require.NoError(t, err)
		return func() { c.Close() }
	}
	l, err := net.Listen(proto, at)
	require.NoError(t, err)
	return func() { l.Close() }
}

// Without the right to bind 443 those listeners are left out and the rest serves.
func TestListenersThatMayNotBind(t *testing.T) {
	done := make(chan struct{})
	go func() { // its thread loses a capability for good, so it is not unlocked
		defer close(done)
		runtime.LockOSThread()
		if err := dropBindRight(); err != nil {
			t.Logf("cannot drop the right to bind: %v", err)
			return
		}
		if l, err := net.Listen("tcp4", freshIP().String()+":443"); err == nil {
			l.Close()
			return
		}
		h := newHost(t, func(h *host) { h.srv.Ports.HTTPS = 443 })
		st := h.srv.Status()
		for i, l := range st.Listeners {
			require.Equal(t, i >= 3, l.Error != "", "%+v", l)
		}
		require.Contains(t, st.Listeners[4].Error, "permission denied")
		h.client("udp", alpha).allocate()
		h.client("tls", alpha).allocate()

		s := New(discard(), nil)
		s.Ports = Ports{UDP: 1, TCP: 1, TLS: 2, HTTPS: 3}
		err := s.Apply(plan.TURNSpec{PublicIP: freshIP(), RelayIP: freshIP(), Realm: realm})
		require.ErrorIs(t, err, syscall.EACCES, "a server without any listener is none")
		require.NoError(t, s.Close())
	}()
	<-done
}

func dropBindRight() error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_BIND_SERVICE
	return unix.Capset(&head, &data[0])
}

func TestDrain(t *testing.T) {
	h := newHost(t)
	c := h.client("udp", alpha)
	c.allocate()
	require.Zero(t, c.bind(0x4000, h.sfu[alpha].at))
	expired, cancel := context.WithCancel(context.Background())
	cancel()
	h.srv.Drain(expired)
	require.True(t, h.srv.Status().Draining)
	late := h.client("tcp", alpha)
	require.Equal(t, 508, errorCode(late.do(stun.MethodAllocate, requestedTransport(protoUDP))))
	require.Equal(t, 1, h.log.refused()[refuseDraining])
	require.Zero(t, errorCode(c.refresh()), "what lives is kept")
	c.sendChannel(0x4000, []byte("still here"))
	require.NotNil(t, c.data(patience))

	drained := make(chan struct{})
	go func() { defer close(drained); h.srv.Drain(context.Background()) }()
	select {
	case <-drained:
		t.Fatal("drained with a relay living")
	case <-time.After(20 * time.Millisecond):
	}
	require.Zero(t, errorCode(c.refresh(0)))
	select {
	case <-drained:
	case <-time.After(patience):
		t.Fatal("not drained")
	}
}

func TestCloseEndsEverything(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		h.client(transport, alpha).allocate()
	}
	slow, err := net.Dial("tcp4", h.at(testPorts.TLS)) // in the middle of no handshake
	require.NoError(t, err)
	defer slow.Close()
	require.NoError(t, h.srv.Close())
	require.Equal(t, map[string]int{endClosed: len(transports)}, h.log.ended())
	for _, p := range []string{"udp/13478", "tcp/13478", "tcp/15349", "udp/10443", "tcp/10443"} {
		proto, port, _ := strings.Cut(p, "/")
		occupy(t, proto, net.JoinHostPort(h.spec.PublicIP.String(), port))()
	}
}

func TestSilentConnectionsAreClosed(t *testing.T) {
	h := newHost(t, func(h *host) { h.srv.Limits.Handshake = 50 * time.Millisecond })
	talking := h.client("tcp", alpha)
	talking.allocate()
	var silent []net.Conn
	for _, transport := range transports[1:] {
		silent = append(silent, h.dial(transport))
	}
	for _, port := range []uint16{testPorts.TLS, testPorts.HTTPS} { // these do not begin a handshake
		c, err := net.Dial("tcp4", h.at(port))
		require.NoError(t, err)
		defer c.Close()
		require.True(t, closedByServer(c), "by the handshake's deadline")
	}
	require.Eventually(t, func() bool { return h.srv.conns.count() == 1+len(silent) }, patience, 5*time.Millisecond)
	h.srv.sweepAt(h.clock.now().Add(14 * time.Second))
	require.Equal(t, 1+len(silent), h.srv.conns.count())
	h.srv.sweepAt(h.clock.now().Add(16 * time.Second))
	for _, c := range silent {
		require.True(t, closedByServer(c))
	}
	require.Zero(t, errorCode(talking.refresh()))
}

// closedByServer waits for the end of a connection.
func closedByServer(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(patience)) //nolint:errcheck // the read tells
	for p := make([]byte, 512); ; {
		if _, err := c.Read(p); err != nil {
			var timeout net.Error
			return !errors.As(err, &timeout) || !timeout.Timeout()
		}
	}
}

func TestConnectionCap(t *testing.T) {
	h := newHost(t, func(h *host) { h.srv.Limits.Conns = 2 })
	one, two := h.client("tcp", alpha), h.client("tcp", alpha)
	one.allocate()
	two.allocate()
	three, err := net.Dial("tcp4", h.at(testPorts.TCP))
	require.NoError(t, err)
	defer three.Close()
	require.True(t, closedByServer(three))
	one.conn.Close()
	require.Eventually(t, func() bool { return h.srv.conns.count() == 1 }, patience, 5*time.Millisecond)
	h.client("tcp", alpha).allocate()
}

func TestHalfOpenDTLSIsBounded(t *testing.T) {
	h := newHost(t, func(h *host) {
		h.srv.Limits.HalfOpenDTLS = 4
		h.srv.Limits.Handshake = 300 * time.Millisecond
	})
	hello := make([]byte, 80)
	copy(hello, []byte{22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 67, 1, 0, 0, 55})
	for range 20 {
		c, err := net.Dial("udp4", h.at(testPorts.HTTPS))
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write(hello)
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		return testutil.ToFloat64(h.srv.metrics.dropped[dropDTLSBacklog]) == 16
	}, patience, 5*time.Millisecond)
	require.Eventually(t, func() bool { return h.srv.conns.count() == 0 }, patience, 5*time.Millisecond)
	h.client("dtls", alpha).allocate()
}

func TestMetrics(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha].at
	stranger := newEcho(t, sfu.Addr())
	c := h.client("tcp", alpha)
	relay := c.allocate()
	require.Zero(t, c.bind(0x4000, sfu))
	c.sendChannel(0x4000, make([]byte, 100))
	require.Len(t, c.data(patience), 100)
	c.send(stranger.at, []byte("out"))
	_, err := stranger.conn.WriteToUDPAddrPort([]byte("in"), relay)
	require.NoError(t, err)
	c.sendChannel(0x4000, make([]byte, 50)) // behind the others
	require.Len(t, c.data(patience), 50)
	require.Zero(t, errorCode(c.refresh()), "so that the reader has counted what it sent")
	late := h.clientAs("udp", "1:alpha", "x")
	late.do(stun.MethodAllocate, requestedTransport(protoUDP))

	want := `
# HELP orama_turn_allocations Relays living.
# TYPE orama_turn_allocations gauge
orama_turn_allocations{namespace="alpha",transport="tcp"} LIVING
# HELP orama_turn_allocations_total Relays ever opened.
# TYPE orama_turn_allocations_total counter
orama_turn_allocations_total{namespace="alpha",transport="tcp"} 1
# HELP orama_turn_fence_dropped_packets_total Packets to (up) or from (down) a peer outside the fence.
# TYPE orama_turn_fence_dropped_packets_total counter
orama_turn_fence_dropped_packets_total{direction="down",namespace="alpha",transport="tcp"} 1
orama_turn_fence_dropped_packets_total{direction="up",namespace="alpha",transport="tcp"} 1
# HELP orama_turn_relayed_bytes_total Payload bytes relayed; up is from the client.
# TYPE orama_turn_relayed_bytes_total counter
orama_turn_relayed_bytes_total{direction="down",namespace="alpha",transport="tcp"} 150
orama_turn_relayed_bytes_total{direction="up",namespace="alpha",transport="tcp"} 150
# HELP orama_turn_relayed_packets_total Packets relayed; up is from the client.
# TYPE orama_turn_relayed_packets_total counter
orama_turn_relayed_packets_total{direction="down",namespace="alpha",transport="tcp"} 2
orama_turn_relayed_packets_total{direction="up",namespace="alpha",transport="tcp"} 2
# HELP orama_turn_relay_ports Size of the namespace's relay block.
# TYPE orama_turn_relay_ports gauge
orama_turn_relay_ports{namespace="alpha"} 800
orama_turn_relay_ports{namespace="beta"} 800
# HELP orama_turn_refusals_total Requests refused, by the namespace they named if it exists.
# TYPE orama_turn_refusals_total counter
orama_turn_refusals_total{namespace="alpha",reason="wrong_credential"} 1
`
	names := []string{
		"orama_turn_allocations", "orama_turn_allocations_total", "orama_turn_fence_dropped_packets_total",
		"orama_turn_relayed_bytes_total", "orama_turn_relayed_packets_total", "orama_turn_relay_ports", "orama_turn_refusals_total",
	}
	require.NoError(t, testutil.GatherAndCompare(h.reg, strings.NewReader(strings.Replace(want, "LIVING", "1", 1)), names...))
	require.Zero(t, errorCode(c.refresh(0)))
	require.NoError(t, testutil.GatherAndCompare(h.reg, strings.NewReader(strings.Replace(want, "LIVING", "0", 1)), names...),
		"counters outlive the relay")
}
