package machine

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"orama.network/orama"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a host whose files a test writes, with a clock of its own.
type fake struct {
	*Machine
	files fstest.MapFS
	clock time.Time
}

func newFake(files map[string]string) *fake {
	f := &fake{files: fstest.MapFS{}, clock: time.Unix(1e9, 0)}
	for name, text := range files {
		f.write(name, text)
	}
	f.Machine = &Machine{public: netip.MustParseAddr("192.0.2.1"), mesh: netip.MustParseAddr("10.0.0.1"), root: f.files,
		now: func() time.Time { return f.clock }, link: func() string { return "eth0" }}
	return f
}

func (f *fake) write(name, text string) { f.files[name] = &fstest.MapFile{Data: []byte(text)} }

const dev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 999999     10    0    0    0     0          0         0 999999     10    0    0    0     0       0          0
  eth0:   %d     10    0    0    0     0          0         0   %d     10    0    0    0     0       0          0
`

func TestMeasures(t *testing.T) {
	f := newFake(map[string]string{
		"proc/loadavg":              "1.25 0.80 0.60 2/345 6789\n",
		"proc/meminfo":              "MemTotal:        8000000 kB\nMemFree:          100000 kB\nMemAvailable:    6000000 kB\n",
		"proc/net/dev":              fmt.Sprintf(dev, 1000, 2000),
		"sys/class/net/eth0/speed":  "1000\n",
		"sys/class/net/eth0/duplex": "full\n",
	})
	r := f.Report(t.Context())
	require.Positive(t, r.CPUs)
	require.Equal(t, 1.25, r.Load)
	require.Equal(t, uint64(8000000<<10), r.MemoryTotal)
	require.Equal(t, uint64(6000000<<10), r.MemoryAvailable)
	require.Equal(t, uint64(1_000_000_000), r.LinkSpeed)
	require.Zero(t, r.Bandwidth, "the first has nothing to compare with")

	f.clock = f.clock.Add(2 * time.Second)
	f.write("proc/net/dev", fmt.Sprintf(dev, 1000+1_000_000, 2000+500_000))
	require.Equal(t, uint64(6_000_000), f.Report(t.Context()).Bandwidth)
	f.clock = f.clock.Add(2 * time.Second)
	f.write("proc/net/dev", fmt.Sprintf(dev, 10, 10))
	require.Zero(t, f.Report(t.Context()).Bandwidth, "the interface was made anew")
}

func TestWhatCannotBeReadIsLeftOut(t *testing.T) {
	for _, files := range []map[string]string{{},
		{"proc/loadavg": "NaN 1", "proc/meminfo": "MemTotal: many kB", "proc/net/dev": "eth0: 1 2", "sys/class/net/eth0/speed": "-1\n",
			"proc/net/udp": "  1: zz:1 00:0 07 0 0 0 0 0 1\n short", "proc/sys/net/ipv4/ip_local_port_range": "x y"}} {
		f := newFake(files)
		r := f.Report(t.Context())
		r.CPUs = 0
		require.Equal(t, orama.NodeReport{}, r)
	}
}

func TestTheLinkIsTheDefaultRoutes(t *testing.T) {
	f := newFake(map[string]string{"proc/net/route": "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n" +
		"wg0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\nens3\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n"})
	require.Equal(t, "ens3", f.publicLink(), "the public address is a router's")
	f.public = netip.MustParseAddr("127.0.0.11")
	require.NotEmpty(t, f.publicLink())
	require.NotEqual(t, "ens3", f.publicLink())
}

// line is one of /proc/net/udp or tcp of a little-endian host, as tests run on.
func line(addr string, port int, state, inode string) string {
	raw := netip.MustParseAddr(addr).AsSlice()
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	return fmt.Sprintf("  12: %X:%04X 00000000:0000 %s 00000000:00000000 00:00000000 00000000  0 0 %s 2 0 0\n", raw, port, state, inode)
}

func busyOf(r orama.NodeReport) string {
	var out []string
	for _, b := range r.Busy {
		out = append(out, fmt.Sprintf("%d+%d", b.First, b.Count))
	}
	return strings.Join(out, " ")
}

func TestBusyIsWhatTheMeshAddressCannotHave(t *testing.T) {
	f := newFake(map[string]string{
		"proc/net/udp": "  sl  local_address rem_address   st tx_queue rx_queue\n" +
			line("10.0.0.1", 20000, "07", "1") + line("10.0.0.1", 20001, "01", "2") + // connected is bound all the same
			line("0.0.0.0", 20600, "07", "3") +
			line("10.0.0.2", 21000, "07", "4") + line("192.0.2.1", 50000, "01", "5") + // other addresses
			line("10.0.0.1", 3478, "07", "6") + line("0.0.0.0", 30000, "07", "7"), // not ours over UDP
		"proc/net/udp6": line("::", 65535, "07", "8") + line("::1", 65000, "07", "9") + line("::ffff:10.0.0.1", 62000, "07", "10"),
		"proc/net/tcp": line("0.0.0.0", 30000, "0A", "11") + line("127.0.0.1", 30001, "0A", "12") + line("10.0.0.1", 30099, "0A", "13") +
			line("10.0.0.1", 20100, "0A", "14") + line("10.0.0.1", 30002, "01", "15") + line("10.0.0.1", 30003, "0A", "16"), // after a connection none is looked for
	})
	require.Equal(t, "20000+2 20600+1 30000+1 30099+1 62000+1 65535+1", busyOf(f.Report(t.Context())))
}

// A port that the kernel gave to a client for a moment keeps nobody out for long.
func TestPassingSocketsDoNotCount(t *testing.T) {
	f := newFake(map[string]string{"proc/net/udp": line("0.0.0.0", 50000, "07", "1")})
	require.Equal(t, "50000+1", busyOf(f.Report(t.Context())), "at the first look nothing is known of it")
	f.clock = f.clock.Add(10 * time.Millisecond)
	f.write("proc/net/udp", line("0.0.0.0", 50000, "07", "1")+line("0.0.0.0", 50001, "07", "2")+line("0.0.0.0", 61000, "07", "3")+line("10.0.0.1", 50002, "07", "4"))
	require.Equal(t, "50000+1 50002+1 61000+1", busyOf(f.Report(t.Context())), "61000 somebody chose, and 50002 is on the mesh")
	f.clock = f.clock.Add(time.Second)
	require.Equal(t, "50000+3 61000+1", busyOf(f.Report(t.Context())), "it stays")
	f.write("proc/net/udp", line("0.0.0.0", 50001, "07", "9"))
	require.Empty(t, busyOf(f.Report(t.Context())), "another socket, just now")
	f.write("proc/sys/net/ipv4/ip_local_port_range", "1024\t2000\n")
	require.Equal(t, "50001+1", busyOf(f.Report(t.Context())), "here the kernel gives out others")
}

// The kernel's own files, with real sockets.
func TestRealSockets(t *testing.T) {
	mesh := netip.MustParseAddr("127.98.7.1")
	m := New(netip.MustParseAddr("127.98.7.2"), mesh)
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: mesh.AsSlice(), Port: 29123})
	require.NoError(t, err)
	defer u.Close()
	l, err := net.Listen("tcp", netip.AddrPortFrom(mesh, 30077).String())
	require.NoError(t, err)
	defer l.Close()
	r := m.Report(t.Context())
	has := func(port uint16) bool {
		return slices.ContainsFunc(r.Busy, func(b orama.PortRange) bool { return b.Contains(port) })
	}
	require.True(t, has(29123))
	require.True(t, has(30077))
	require.Positive(t, r.MemoryTotal)
	require.Positive(t, r.MemoryAvailable)
	u.Close()
	l.Close()
	r = m.Report(t.Context())
	require.False(t, has(29123))
	require.False(t, has(30077))
}

func FuzzParseSocket(f *testing.F) {
	f.Add(line("10.0.0.1", 20000, "07", "1"))
	f.Add(line("2001:db8::1", 30000, "0A", "77"))
	f.Add("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode")
	f.Fuzz(func(t *testing.T, text string) {
		s, ok := parseSocket(text)
		if ok && (!s.local.IsValid() || s.local.Addr().Is4In6() || s.inode == "") {
			t.Fatalf("%q gave %+v", text, s)
		}
	})
}
