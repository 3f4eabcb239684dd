package turn

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPrefixes(t *testing.T) {
	for _, c := range []struct{ ip, client, network string }{
		{"192.0.2.77", "192.0.2.77/32", "192.0.2.0/24"},
		{"2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"},
	} {
		require.Equal(t, c.client, clientOf(netip.MustParseAddr(c.ip)).String())
		require.Equal(t, c.network, networkOf(netip.MustParseAddr(c.ip)).String())
	}
	require.Equal(t, netip.MustParseAddrPort("10.0.0.1:5"), addrPort(&net.UDPAddr{IP: net.ParseIP("10.0.0.1"), Port: 5}))
	require.Equal(t, netip.MustParseAddrPort("10.0.0.1:5"), addrPort(&net.TCPAddr{IP: net.ParseIP("::ffff:10.0.0.1"), Port: 5}))
	require.Zero(t, addrPort(&net.UnixAddr{}))
}

// A tally never holds more than either cap and gives back what it took.
func TestTallyModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tl tally
		each, all := rapid.IntRange(0, 4).Draw(t, "each"), rapid.IntRange(0, 8).Draw(t, "all")
		model := map[netip.Prefix]int{}
		total := 0
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			p := clientOf(netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "host") % 4}))
			if rapid.Bool().Draw(t, "take") {
				want := (each == 0 || model[p] < each) && (all == 0 || total < all)
				require.Equal(t, want, tl.take(p, each, all))
				if want {
					model[p]++
					total++
				}
			} else if model[p] > 0 {
				tl.give(p)
				model[p]--
				total--
			}
			require.Equal(t, model[p], tl.of(p))
			require.Equal(t, total, tl.total)
		}
		for p, n := range model {
			for range n {
				tl.give(p)
			}
		}
		require.Empty(t, tl.held, "nothing is kept for who holds nothing")
	})
}

// Over any stretch of time a prefix gets no more than burst + rate × time.
func TestBudgetIsABound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const rate, burst = 10, 20
		b := newBudget(rate, burst)
		p, start := networkOf(netip.MustParseAddr("192.0.2.1")), time.Unix(1e9, 0)
		now, got := start, 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			for range rapid.IntRange(1, 30).Draw(t, "tries") {
				if b.spend(p, now) {
					got++
				}
			}
			require.LessOrEqual(t, float64(got), burst+rate*now.Sub(start).Seconds()+1e-6)
		}
		require.NotZero(t, got)
		require.True(t, b.spend(networkOf(netip.MustParseAddr("192.0.3.1")), now), "another network has its own")
	})
}

func TestMemoryIsBounded(t *testing.T) {
	b := newBudget(1, 1000)
	now := time.Unix(1e9, 0)
	for i := range 3 * maxRemembered {
		ip := netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1})
		b.spend(networkOf(ip), now)
	}
	require.LessOrEqual(t, len(b.buckets.now)+len(b.buckets.old), 2*maxRemembered)
	b.spend(networkOf(netip.MustParseAddr("192.0.2.1")), now.Add(time.Hour))
	require.LessOrEqual(t, len(b.buckets.now)+len(b.buckets.old), 1, "and forgets")
}

func TestReplays(t *testing.T) {
	r, now := newReplays(), time.Unix(1e9, 0)
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2")
	one, two := [20]byte{1}, [20]byte{2}
	require.True(t, r.fresh(one, a, now))
	require.True(t, r.fresh(one, a, now.Add(39*time.Second)), "a retransmission")
	require.False(t, r.fresh(one, b, now))
	require.False(t, r.fresh(one, a, now.Add(time.Minute)))
	require.True(t, r.fresh(two, b, now))
	require.False(t, r.fresh(one, b, now.Add(time.Hour)), "as long as a nonce may live")
}

func TestLineLimit(t *testing.T) {
	l, now := newLineLimit(), time.Unix(1e9, 0)
	said := 0
	for range 100 {
		if ok, _ := l.allow("one", now); ok {
			said++
		}
	}
	require.Equal(t, lineBurst, said)
	ok, unsaid := l.allow("two", now)
	require.True(t, ok, "each reason has its own")
	require.Zero(t, unsaid)
	ok, unsaid = l.allow("one", now.Add(lineEvery))
	require.True(t, ok)
	require.Equal(t, 80, unsaid)
}
