package testnet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
)

const beta orama.NamespaceID = "beta"

func expiryOf(t *testing.T, username string) time.Time {
	t.Helper()
	at, _, err := auth.ParseTURNUsername(username)
	require.NoError(t, err)
	return at
}

// relay opens an allocation over UDP at TURN node 0.
func (n *Net) relay0(t *testing.T, username, credential string) (*turn.Client, net.PacketConn, error) {
	t.Helper()
	sock, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	c, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: n.TURNAddr(0).String(), STUNServerAddr: n.TURNAddr(0).String(), Conn: sock,
		Username: username, Password: credential, Realm: Base,
		LoggerFactory: &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled},
	})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(); sock.Close() })
	require.NoError(t, c.Listen())
	conn, err := c.AllocateWithContext(within(t, patience))
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return c, conn, err
}

func (n *Net) allocate(t *testing.T, username, credential string) error {
	_, conn, err := n.relay0(t, username, credential)
	if err == nil {
		conn.Close()
	}
	return err
}

// echo answers every datagram.
func echo(t *testing.T, at netip.AddrPort) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			size, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:size], from) //nolint:errcheck // a test's
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// reaches reports whether the relay gets an echo from there.
func reaches(conn net.PacketConn, to netip.AddrPort, patience time.Duration) bool {
	buf := make([]byte, 1500)
	for until := time.Now().Add(patience); time.Now().Before(until); {
		if _, err := conn.WriteTo([]byte("are you there?"), net.UDPAddrFromAddrPort(to)); err != nil {
			return false // no permission
		}
		conn.SetReadDeadline(time.Now().Add(patience / 5)) //nolint:errcheck // a test's
		if _, _, err := conn.ReadFrom(buf); err == nil {
			return true
		}
	}
	return false
}

func TestACredentialReachesItsOwnSFUsAlone(t *testing.T) {
	n := start(t, Options{SFUNodes: 2, Namespaces: []orama.NamespaceID{Alpha, beta}})
	for _, ns := range []orama.NamespaceID{Alpha, beta} {
		for k := range 2 {
			require.NoError(t, n.StopSFU(ns, k)) // so that an echo can stand where its media socket was
		}
	}
	username, credential := n.Credential(Alpha, time.Minute)
	for k := range 2 {
		_, conn, err := n.relay0(t, username, credential)
		require.NoError(t, err)
		require.True(t, reaches(conn, echo(t, n.Media(Alpha, k)), patience), "its own media socket on node %d", k)
	}
	own := n.Media(Alpha, 0)
	forbidden := map[string]netip.AddrPort{
		"another port of the SFU's address": netip.AddrPortFrom(own.Addr(), own.Port()+1),
		"its signalling port":               netip.AddrPortFrom(own.Addr(), n.Signal(Alpha, 0).Port()),
		"the other namespace's SFU":         n.Media(beta, 0),
		"another address of the mesh":       netip.AddrPortFrom(n.RelayIP(0), 4242),
		"the public address":                netip.AddrPortFrom(n.TURNAddr(0).Addr(), 4242),
		"loopback":                          netip.MustParseAddrPort("127.0.0.1:0"),
	}
	for what, at := range forbidden {
		_, conn, err := n.relay0(t, username, credential)
		require.NoError(t, err)
		require.False(t, reaches(conn, echo(t, at), 500*time.Millisecond), what)
	}
}

func TestNoTCPRelays(t *testing.T) {
	n := start(t, Options{})
	service, err := net.Listen("tcp4", n.Signal(Alpha, 0).Addr().String()+":0")
	require.NoError(t, err)
	defer service.Close()
	username, credential := n.Credential(Alpha, time.Minute)
	sock, err := net.Dial("tcp4", n.TURNAddr(0).String())
	require.NoError(t, err)
	c, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: n.TURNAddr(0).String(), STUNServerAddr: n.TURNAddr(0).String(), Conn: turn.NewSTUNConn(sock),
		Username: username, Password: credential, Realm: Base,
		LoggerFactory: &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled},
	})
	require.NoError(t, err)
	defer sock.Close()
	defer c.Close()
	require.NoError(t, c.Listen())
	alloc, err := c.AllocateTCP()
	if err == nil {
		_, err = alloc.DialTCP("tcp4", nil, service.Addr().(*net.TCPAddr))
		alloc.Close()
	}
	require.Error(t, err)
}

func TestBadCredentials(t *testing.T) {
	n := start(t, Options{Namespaces: []orama.NamespaceID{Alpha, beta}})
	good, credential := n.Credential(Alpha, time.Minute)
	require.NoError(t, n.allocate(t, good, credential))
	expired, old := n.Credential(Alpha, -time.Second)
	require.Error(t, n.allocate(t, expired, old), "expired")
	_, others := n.Credential(beta, time.Minute)
	require.Error(t, n.allocate(t, good, others), "another namespace's secret")
	require.Error(t, n.allocate(t, fmt.Sprintf("%d:gamma", time.Now().Add(time.Minute).Unix()), credential), "no such namespace")
}

// TestMediaSocketAnswersRelaysAlone sends what any ICE agent must answer or refuse from everywhere but a relay.
func TestMediaSocketAnswersRelaysAlone(t *testing.T) {
	n := start(t, Options{})
	pair(t, n)
	check := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewUsername("a:b"),
		stun.NewShortTermIntegrity("password"), stun.Fingerprint)
	before := n.SFU(Alpha, 0).Status().Counters.PacketsFiltered
	sources := []netip.AddrPort{
		netip.MustParseAddrPort("127.0.0.1:0"),                               // anybody
		netip.AddrPortFrom(n.SFUIP(0), 0),                                    // the mesh
		netip.AddrPortFrom(n.RelayIP(0), relayFirst-1),                       // a relay's address, below its block
		netip.AddrPortFrom(n.RelayIP(0), relayFirst+relayCount+relayCount+7), // and above
	}
	for _, from := range sources {
		c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(n.Media(Alpha, 0)))
		require.NoError(t, err)
		_, err = c.Write(check.Raw)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		_, err = c.Read(make([]byte, 1500))
		require.Error(t, err, "an answer to %s", from)
		c.Close()
	}
	require.Equal(t, before+uint64(len(sources)), n.SFU(Alpha, 0).Status().Counters.PacketsFiltered)
}
