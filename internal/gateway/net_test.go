package gateway

import (
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// silentPort accepts connections and never says a word, as a node behind a broken link does.
func silentPort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}
