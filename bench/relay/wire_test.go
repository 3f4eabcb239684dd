package main

import (
	"context"
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

// A relay that passes packets on as they are shows what the generator itself sends, counts and loses.
func TestGeneratorSendsAndHears(t *testing.T) {
	local := netip.MustParseAddrPort("127.0.0.1:0")
	from, err := listen(local)
	require.NoError(t, err)
	defer from.close()
	to, err := listen(local)
	require.NoError(t, err)
	defer to.close()
	name, err := unix.Getsockname(to.fd)
	require.NoError(t, err)
	at := netip.AddrPortFrom(local.Addr(), uint16(name.(*unix.SockaddrInet4).Port))

	const size = 160
	p := &pass{load: load{dir: down, size: size, burst: burstSize, flight: 64}, flows: []flow{{relay: at}, {relay: at}}, run: 7, from: from, to: to, length: size}
	p.prepare()
	p.began = clock()
	p.load.dir = down
	p.window = [2]int64{p.began, p.began + int64(time.Minute)}
	p.send(p.began)
	require.Equal(t, 64, p.underWay)
	p.load.dir = up // a packet that comes straight has no channel's header
	require.NoError(t, p.until(context.Background(), clock()+int64(10*time.Second), false))
	require.EqualValues(t, 64, p.got)
	require.Zero(t, p.underWay)
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
