package role

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

func TestPortInUseIsNamedWithItsHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.40.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	u, err := net.ListenPacket("udp", "127.40.0.1:0")
	require.NoError(t, err)
	defer u.Close()
	for network, addr := range map[string]string{"tcp": l.Addr().String(), "udp": u.LocalAddr().String()} {
		err := checkFree(endpoint{network, netip.MustParseAddrPort(addr), "a test"})
		require.Equal(t, orama.KindUnavailable, orama.KindOf(err), network)
		require.ErrorContains(t, err, addr)
		require.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getpid()))
	}
}

func TestPortTakenOnEveryAddressHasAHolderToo(t *testing.T) {
	l, err := net.Listen("tcp", ":0") //nolint:gosec // the case under test
	require.NoError(t, err)
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port) //nolint:gosec // a port
	err = checkFree(endpoint{"tcp", netip.AddrPortFrom(netip.MustParseAddr("127.40.0.1"), port), "a test"})
	require.ErrorContains(t, err, fmt.Sprintf("process %d", os.Getpid()))
}

func TestFreePortAndForeignAddress(t *testing.T) {
	require.NoError(t, checkFree(endpoint{"tcp", netip.MustParseAddrPort("127.40.0.1:0"), "a test"}))
	err := checkFree(endpoint{"udp", netip.MustParseAddrPort("192.0.2.1:4000"), "a test"}) // TEST-NET-1
	require.ErrorContains(t, err, "no address of this machine")
}

func TestProcAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000:0D96":                         "0.0.0.0:3478",
		"00000000000000000000000001000000:01BB": "[::1]:443",
	} {
		ip, port, ok := procAddr(text)
		require.True(t, ok, text)
		require.Equal(t, want, netip.AddrPortFrom(ip, port).String())
	}
	for _, bad := range []string{"", "zz:1", "0100007F", "0100007F:zzzz", "01:02"} {
		_, _, ok := procAddr(bad)
		require.False(t, ok, bad)
	}
}
