package main

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestControl(t *testing.T) {
	b := appendControl(nil, unix.SOL_SOCKET, unix.SCM_TIMESTAMPNS, []byte{2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0})
	b = appendControl(b, unix.IPPROTO_UDP, unix.UDP_GRO, []byte{164, 0, 0, 0})
	segment, at := parseControl(b)
	require.Equal(t, 164, segment)
	require.EqualValues(t, 2*time.Second+5, at)
	for cut := range b { // what the kernel would never send must not be read past its end
		parseControl(b[:cut])
	}
}

func TestHead(t *testing.T) {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	head(b, netip.MustParseAddrPort("192.168.0.1:68"), netip.MustParseAddrPort("192.168.0.199:67"), 87)
	// RFC 1071's sum over a good header is all ones.
	var sum uint32
	for k := 0; k < 20; k += 2 {
		sum += uint32(b[k])<<8 | uint32(b[k+1])
	}
	require.EqualValues(t, 0xffff, sum&0xffff+sum>>16)
	require.Equal(t, []byte{0xb8, 0x61, 192, 168, 0, 1, 192, 168, 0, 199, 0, 68, 0, 67, 0, 95, 0, 0}, b[10:])
}

// straight is a pass whose packets go to the receiving socket with no server between: what the generator itself
// sends, counts and loses.
func straight(t testing.TB, size, burst int) *pass {
	t.Helper()
	local := netip.MustParseAddrPort("127.0.0.1:0")
	from, err := listen(local)
	require.NoError(t, err)
	t.Cleanup(func() { from.close() })
	to, err := listen(local)
	require.NoError(t, err)
	t.Cleanup(func() { to.close() })
	name, err := unix.Getsockname(to.fd)
	require.NoError(t, err)
	at := netip.AddrPortFrom(local.Addr(), uint16(name.(*unix.SockaddrInet4).Port))
	p := &pass{load: load{dir: down, size: size, burst: burst, flight: 64}, flows: []flow{{relay: at}, {relay: at}}, run: 7, from: from, to: to, length: size}
	p.prepare()
	p.began = clock()
	p.window = [2]int64{p.began, p.began + int64(time.Minute)}
	return p
}

func TestGeneratorSendsAndHears(t *testing.T) {
	p := straight(t, 160, burstSize)
	p.send(p.began)
	require.Equal(t, 64, p.underWay)
	p.dir = up // a packet that comes straight has no channel's header
	require.NoError(t, p.until(context.Background(), clock()+int64(10*time.Second), false))
	require.EqualValues(t, 64, p.got)
	require.Zero(t, p.underWay)
}

// The packets a second that the generator can send and receive. It cannot saturate a server that can do more. Run it
// in a network namespace with lo's acceptsWhole set, or single packets go the slower way.
func BenchmarkGenerator(b *testing.B) {
	for _, burst := range []int{1, burstSize} {
		for _, size := range []int{160, 1100} {
			b.Run(fmt.Sprintf("%dx%d", burst, size), func(b *testing.B) {
				p := straight(b, size, burst)
				for b.Loop() {
					p.dir = down
					p.send(p.began)
					for p.dir = up; p.underWay > 0; {
						if err := p.to.receive(p.arrive); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(p.total)/b.Elapsed().Seconds(), "packets/s")
			})
		}
	}
}

func TestWhatIsLostIsForgotten(t *testing.T) {
	p := &pass{load: load{flight: 64}}
	p.underWay, p.sentIn[0] = 10, 10
	p.gotOf[0] = 4
	p.underWay = 6
	p.expire(int64(forgotten))
	require.Equal(t, 6, p.underWay)
	p.expire(int64(forgotten + time.Millisecond))
	require.Zero(t, p.underWay)
	p.expire(int64(time.Hour))
	require.Zero(t, p.underWay)
}

func TestOwed(t *testing.T) {
	p := &pass{load: load{rate: 20000, burst: 1}}
	require.Equal(t, 1, p.owed(0))
	require.Zero(t, p.owed(int64(49*time.Microsecond)))
	require.Equal(t, 2, p.owed(int64(100*time.Microsecond)))
	require.Equal(t, batch, p.owed(int64(time.Second)), "held up for long")
	require.LessOrEqual(t, p.owed(int64(time.Second)), 21, "only a millisecond is made up for")
}

func TestClientsAreApart(t *testing.T) {
	seen := map[netip.Addr]bool{}
	nets := map[netip.Prefix]int{}
	for i := range 100000 {
		a := clientAddr(i)
		require.False(t, seen[a], i)
		seen[a] = true
		p, err := a.Prefix(24)
		require.NoError(t, err)
		nets[p]++
	}
	for p, n := range nets {
		require.LessOrEqual(t, n, 400, p)
	}
}
