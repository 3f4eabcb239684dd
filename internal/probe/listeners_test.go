package probe

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestListenersOfThisMachine(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer pc.Close()
	c, err := net.Dial("tcp", l.Addr().String()) // connected, so no listener
	require.NoError(t, err)
	defer c.Close()
	got, err := Listeners("/proc")
	require.NoError(t, err)
	require.Contains(t, got, Listener{"tcp", netip.MustParseAddrPort(l.Addr().String()), os.Getpid()})
	require.Contains(t, got, Listener{"udp", netip.MustParseAddrPort(pc.LocalAddr().String()), os.Getpid()})
	for _, x := range got {
		require.NotEqual(t, c.LocalAddr().String(), x.Address.String())
	}
}

const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1F90 0200007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 1002 1 0000000000000000 100 0 0 10 0
   2: nonsense
`

const tcp6Table = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:14E5 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1003 1 0000000000000000 100 0 0 10 0
   1: 000080FE00000000FF005450B6A0F6FE:14E5 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1004 1 0000000000000000 100 0 0 10 0
`

func TestListenersOfATable(t *testing.T) {
	proc := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(proc, "net"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(proc, "42", "fd"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(proc, "net", "tcp"), []byte(tcpTable), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(proc, "net", "tcp6"), []byte(tcp6Table), 0o600))
	require.NoError(t, os.Symlink("socket:[1001]", filepath.Join(proc, "42", "fd", "3")))
	require.NoError(t, os.Symlink("/dev/null", filepath.Join(proc, "42", "fd", "4")))
	got, err := Listeners(proc)
	require.NoError(t, err)
	require.Equal(t, []Listener{
		{"tcp", netip.MustParseAddrPort("127.0.0.1:8080"), 42},
		{"tcp", netip.MustParseAddrPort("[::]:5349"), 0},
		{"tcp", netip.MustParseAddrPort("[fe80::5054:ff:fef6:a0b6]:5349"), 0},
	}, got)
}

func FuzzParseSockets(f *testing.F) {
	f.Add(tcpTable)
	f.Add(tcp6Table)
	f.Add("x\n 0: :0 0 0A 4 5 6 7 8 9 10\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseSockets(strings.NewReader(text), "tcp")
		if err != nil {
			return
		}
		for _, s := range got {
			require.True(t, s.address.IsValid())
			require.NotZero(t, s.address.Port())
		}
	})
}
