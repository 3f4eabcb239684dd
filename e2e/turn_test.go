//go:build e2e

package e2e

import (
	"net"
	"testing"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"
)

// allocate makes a relay over UDP as any TURN client would. Client and relay end with the test.
func allocate(t testing.TB, server, username, credential string) (*turn.Client, net.PacketConn, error) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: server, TURNServerAddr: server, Conn: conn,
		Username: username, Password: credential, LoggerFactory: quiet,
	})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.NoError(t, client.Listen())
	relay, err := client.Allocate()
	if err != nil {
		return client, nil, err
	}
	t.Cleanup(func() { relay.Close() })
	return client, relay, nil
}
