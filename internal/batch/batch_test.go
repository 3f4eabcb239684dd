package batch

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

func open(t testing.TB, ip netip.Addr, o Options) (fd int, at netip.AddrPort) {
	t.Helper()
	fd, err := Open(netip.AddrPortFrom(ip, 0), o)
	require.NoError(t, err)
	t.Cleanup(func() { Close(fd) })
	sa, err := unix.Getsockname(fd)
	require.NoError(t, err)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return fd, netip.AddrPortFrom(ip, uint16(sa.Port))
	case *unix.SockaddrInet6:
		return fd, netip.AddrPortFrom(ip, uint16(sa.Port))
	}
	t.Fatal("not an IP socket")
	return
}

func peer(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	return c
}

func at(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func read(t testing.TB, c *net.UDPConn) []byte {
	t.Helper()
	p := make([]byte, 1<<16)
	n, err := c.Read(p)
	require.NoError(t, err)
	return p[:n]
}

// collect waits until so many datagrams came, and takes trains apart.
func collect(t testing.TB, r *Receiver, fd, n int) (out [][]byte) {
	t.Helper()
	e, err := NewEvents()
	require.NoError(t, err)
	defer e.Close()
	require.NoError(t, e.Add(fd))
	for len(out) < n {
		_, err := e.Wait(func(Event) {})
		require.NoError(t, err)
		first, end := r.Receive(fd, Slots)
		for i := first; i < end; i++ {
			p, ok := r.Packet(i)
			require.True(t, ok)
			for rest := p.Data; ; {
				size := p.Segment
				if size == 0 || size > len(rest) {
					size = len(rest)
				}
				out = append(out, bytes.Clone(rest[:size]))
				if rest = rest[size:]; len(rest) == 0 {
					break
				}
			}
		}
		r.Reset()
	}
	return out
}

func TestDatagramsComeOneByOne(t *testing.T) {
	for _, ip := range []netip.Addr{loopback, netip.IPv6Loopback()} {
		a, from := open(t, ip, Options{Buffer: 1 << 20})
		b, to := open(t, ip, Options{Fragment: true})
		s, r := NewSender(64), NewReceiver()
		addr := AddrOf(to)
		for _, text := range []string{"one", "", "three"} {
			require.True(t, s.Add(a, &addr, nil, 0, nil, []byte(text)))
		}
		require.False(t, s.Empty())
		s.Flush()
		require.True(t, s.Empty())
		require.Equal(t, [][]byte{[]byte("one"), {}, []byte("three")}, collect(t, r, b, 3))
		p, _ := r.Packet(0)
		require.Equal(t, from, p.From.AddrPort())
		require.Equal(t, KeyOf(from), p.From.Key())
	}
}

// What is of one size for one destination becomes a train, whose last may be shorter; what is not becomes messages of its
// own; nothing changes its order.
func TestTrains(t *testing.T) {
	for _, plain := range []bool{false, true} {
		a, _ := open(t, loopback, Options{})
		b, to := open(t, loopback, Options{Buffer: 1 << 20})
		s, r := NewSender(64), NewReceiver()
		s.Plain = plain
		addr := AddrOf(to)
		var h Hint
		var want [][]byte
		for _, size := range []int{100, 100, 100, 50, 100, 100, 200, 200, 1, 1, 1} {
			head, body := bytes.Repeat([]byte{1}, 4), bytes.Repeat([]byte{byte(size)}, size)
			require.True(t, s.Add(a, &addr, &h, 1, head, body))
			want = append(want, append(bytes.Clone(head), body...))
		}
		if !plain {
			require.Equal(t, 4, s.n, "messages") // 100 100 100 50 | 100 100 | 200 200 1 | 1 1
		}
		s.Flush()
		require.Equal(t, want, collect(t, r, b, len(want)))
		require.Zero(t, s.Lost)
	}
}

// Whatever is added for whomever comes out whole and in its order.
func TestNothingIsMixedUp(t *testing.T) {
	a, _ := open(t, loopback, Options{Buffer: 4 << 20})
	peers := []*net.UDPConn{peer(t), peer(t), peer(t)}
	rapid.Check(t, func(rt *rapid.T) {
		s := NewSender(64)
		addrs, hints, want := make([]Addr, len(peers)), make([]Hint, len(peers)), make([][][]byte, len(peers))
		for i, p := range peers {
			addrs[i] = AddrOf(at(p))
		}
		round := uint32(1)
		for n := range rapid.IntRange(1, 30).Draw(rt, "n") {
			i := rapid.IntRange(0, len(peers)-1).Draw(rt, "to")
			body := bytes.Repeat([]byte{byte(n)}, rapid.SampledFrom([]int{1, 2, 100, 1000}).Draw(rt, "size"))
			if !s.Add(a, &addrs[i], &hints[i], round, []byte("head"), body) {
				s.Flush()
				round++
				require.True(rt, s.Add(a, &addrs[i], &hints[i], round, []byte("head"), body))
			}
			want[i] = append(want[i], append([]byte("head"), body...))
		}
		s.Flush()
		for i, p := range peers {
			for _, w := range want[i] {
				require.Equal(rt, w, read(t, p))
			}
		}
	})
}

// The kernel says when a datagram came, however late it is taken, and of trains too.
func TestStamps(t *testing.T) {
	a, _ := open(t, loopback, Options{})
	b, to := open(t, loopback, Options{})
	Stamp(b)
	Merge(b)
	s, r, addr := NewSender(64), NewReceiver(), AddrOf(to)
	var h Hint
	before := time.Now()
	for range 3 {
		require.True(t, s.Add(a, &addr, &h, 1, nil, []byte("train")))
	}
	s.Flush()
	sent := time.Now()
	for time.Since(sent) < 5*time.Millisecond { // it waits
	}
	first, end := r.Receive(b, Slots)
	require.Less(t, first, end)
	p, ok := r.Packet(first)
	require.True(t, ok)
	require.Equal(t, 5, p.Segment)
	require.GreaterOrEqual(t, p.Arrived, before.UnixNano())
	require.LessOrEqual(t, p.Arrived, sent.UnixNano())
}

func TestFull(t *testing.T) {
	a, _ := open(t, loopback, Options{})
	s, addr := NewSender(64), AddrOf(at(peer(t)))
	for range 64 {
		require.True(t, s.Add(a, &addr, nil, 0, nil, []byte("x")))
	}
	require.False(t, s.Add(a, &addr, nil, 0, nil, []byte("x")))
	s.Discard()
	require.True(t, s.Add(a, &addr, nil, 0, nil, []byte("x")))
}

// Where the kernel takes no train, as without checksums, its datagrams go one by one; and where it never does, no more
// are made.
func TestTrainsThatTheKernelRefuses(t *testing.T) {
	a, _ := open(t, loopback, Options{})
	require.NoError(t, unix.SetsockoptInt(a, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1))
	p := peer(t)
	s, addr := NewSender(64), AddrOf(at(p))
	for n := range maxRefused + 2 {
		require.Equal(t, n >= maxRefused, s.Plain)
		var h Hint
		for i := range 3 {
			require.True(t, s.Add(a, &addr, &h, 1, []byte("head"), []byte{byte(n), byte(i)}))
		}
		s.Flush()
		for i := range 3 {
			require.Equal(t, []byte{'h', 'e', 'a', 'd', byte(n), byte(i)}, read(t, p))
		}
	}
	require.Zero(t, s.Lost)
}

// An error that an earlier datagram caused costs none of those that follow, and is there to be read.
func TestErrors(t *testing.T) {
	a, _ := open(t, loopback, Options{Errors: true})
	gone := peer(t)
	closed, open := at(gone), peer(t)
	gone.Close()
	nowhere, somewhere := AddrOf(closed), AddrOf(at(open))
	s := NewSender(64)
	s.Add(a, &nowhere, nil, 0, nil, []byte("?"))
	s.Flush()
	var e Error
	require.Eventually(t, func() bool {
		var ok bool
		e, ok = ReadError(a)
		return ok
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, Error{Peer: closed, ICMP: true, Type: 3, Code: 3}, e)
	_, ok := ReadError(a)
	require.False(t, ok)
	s.Add(a, &nowhere, nil, 0, nil, []byte("?"))
	s.Flush()
	for range 3 {
		s.Add(a, &somewhere, nil, 0, nil, []byte("!"))
		s.Flush()
		require.Equal(t, "!", string(read(t, open)))
	}
	require.Zero(t, s.Lost)
}

// A replaced socket has given its port back, while its number belongs to nobody else.
func TestReplace(t *testing.T) {
	null, err := Null()
	require.NoError(t, err)
	defer Close(null)
	fd, where := open(t, loopback, Options{})
	e, err := NewEvents()
	require.NoError(t, err)
	defer e.Close()
	require.NoError(t, e.Add(fd))
	require.NoError(t, Replace(fd, null))
	again, err := Open(where, Options{})
	require.NoError(t, err, "the port is free")
	defer Close(again)
	require.NotEqual(t, fd, again)
	r, s, addr := NewReceiver(), NewSender(64), AddrOf(where)
	first, end := r.Receive(fd, 1)
	require.Equal(t, first, end)
	s.Add(fd, &addr, nil, 0, nil, []byte("x"))
	s.Flush()
	require.Equal(t, uint64(1), s.Lost)
	e.Wake()
	woken, err := e.Wait(func(Event) { t.Error("it is not waited for") })
	require.NoError(t, err)
	require.True(t, woken)
}

func TestPortInUse(t *testing.T) {
	_, where := open(t, loopback, Options{})
	_, err := Open(where, Options{})
	require.ErrorContains(t, err, "address already in use")
	_, err = Open(netip.MustParseAddrPort("192.0.2.1:1"), Options{})
	require.ErrorIs(t, err, os.NewSyscallError("bind", err).(*os.SyscallError).Unwrap())
	shared, at := open(t, loopback, Options{ReusePort: true})
	require.Positive(t, shared)
	second, err := Open(at, Options{ReusePort: true})
	require.NoError(t, err)
	Close(second)
}

func TestKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ip, _ := netip.AddrFromSlice(rapid.OneOf(rapid.SliceOfN(rapid.Byte(), 4, 4), rapid.SliceOfN(rapid.Byte(), 16, 16)).Draw(t, "ip"))
		ap := netip.AddrPortFrom(ip, rapid.Uint16().Draw(t, "port"))
		a := AddrOf(ap)
		require.Equal(t, netip.AddrPortFrom(ip.Unmap(), ap.Port()), a.AddrPort())
		require.Equal(t, KeyOf(ap), a.Key())
		require.Equal(t, KeyOf(netip.AddrPortFrom(ip, 0)), a.Key().Host())
	})
}

// A round of receiving and sending allocates nothing.
func TestNoAllocation(t *testing.T) {
	a, from := open(t, loopback, Options{})
	b, to := open(t, loopback, Options{})
	s, r := NewSender(64), NewReceiver()
	there, back := AddrOf(to), AddrOf(from)
	var h Hint
	body := make([]byte, 160)
	round := uint32(0)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		round++
		for range 8 {
			s.Add(a, &there, &h, round, nil, body)
		}
		s.Flush()
		first, end := r.Receive(b, Slots)
		for i := first; i < end; i++ {
			p, _ := r.Packet(i)
			s.Add(b, &back, nil, round, nil, p.Data)
		}
		s.Flush()
		r.Reset()
		r.Receive(a, Slots)
		r.Reset()
	}))
}
