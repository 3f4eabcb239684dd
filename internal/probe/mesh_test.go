package probe

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

func bounded(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

var loopback = netip.MustParseAddr("127.0.0.1")

func TestMeshAnswersByWelcomeAndByRefusal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	at := netip.MustParseAddrPort(l.Addr().String())
	require.NoError(t, answers(bounded(t, 5*time.Second), loopback, at))
	require.NoError(t, l.Close())
	require.NoError(t, answers(bounded(t, 5*time.Second), loopback, at), "a refusal is an answer")
	require.NoError(t, Mesh(bounded(t, 5*time.Second), loopback, loopback, at.Port()))
}

// 192.0.2.0/24 is for documentation (RFC 5737): from a loopback address nothing can be sent there at all.
func TestMeshThatDoesNotAnswer(t *testing.T) {
	err := Mesh(bounded(t, time.Second), loopback, netip.MustParseAddr("192.0.2.1"), 30000)
	require.ErrorContains(t, err, "no answer")
	require.ErrorContains(t, err, "tcp port 30000")
	require.ErrorContains(t, err, "icmp echo")
}

func TestEcho(t *testing.T) {
	ctx := bounded(t, 5*time.Second)
	c, _, err := listenEcho([]string{"udp4", "ip4:icmp"}, "127.0.0.1")
	if err != nil {
		t.Skip("this user may not have ICMP sockets: ", err)
	}
	c.Close()
	require.NoError(t, echo(ctx, loopback, loopback))
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.Error(t, echo(gone, loopback, netip.MustParseAddr("192.0.2.1")))
}

func TestOnlyOurEchoCounts(t *testing.T) {
	packet := func(typ icmp.Type, data string) []byte {
		m := icmp.Message{Type: typ, Body: &icmp.Echo{ID: 1, Seq: 1, Data: []byte(data)}}
		wire, err := m.Marshal(nil)
		require.NoError(t, err)
		return wire
	}
	token := []byte("12345678")
	require.True(t, echoed(packet(ipv4.ICMPTypeEchoReply, "12345678"), protocolICMP, ipv4.ICMPTypeEchoReply, token))
	require.False(t, echoed(packet(ipv4.ICMPTypeEchoReply, "other"), protocolICMP, ipv4.ICMPTypeEchoReply, token))
	require.False(t, echoed(packet(ipv4.ICMPTypeEcho, "12345678"), protocolICMP, ipv4.ICMPTypeEchoReply, token), "our own request, heard on loopback")
	require.False(t, echoed(nil, protocolICMP, ipv4.ICMPTypeEchoReply, token))
}
