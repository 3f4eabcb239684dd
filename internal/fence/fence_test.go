package fence_test

import (
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"orama.network/orama/internal/fence"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestZeroValueAllowsNobody(t *testing.T) {
	var s fence.Set
	require.False(t, s.Allows(netip.MustParseAddrPort("10.0.0.1:20000")))
	require.False(t, s.AllowsIP(netip.MustParseAddr("10.0.0.1")))
}

func TestExactAddressAndPort(t *testing.T) {
	var s fence.Set
	require.NoError(t, s.Replace([]netip.AddrPort{
		netip.MustParseAddrPort("10.0.0.1:20000"), netip.MustParseAddrPort("[::ffff:10.0.0.2]:20500"),
	}))
	for _, c := range []struct {
		at   string
		want bool
	}{
		{"10.0.0.1:20000", true},
		{"[::ffff:10.0.0.1]:20000", true},
		{"10.0.0.2:20500", true},
		{"10.0.0.1:20001", false},
		{"10.0.0.1:0", false},
		{"10.0.0.2:20000", false},
		{"127.0.0.1:20000", false},
		{"0.0.0.0:20000", false},
		{"[::]:20000", false},
		{"[::ffff:0.0.0.0]:20000", false},
		{"[::10.0.0.1]:20000", false},       // IPv4-compatible is another address
		{"[64:ff9b::a00:1]:20000", false},   // so is a NAT64 one
		{"[::ffff:10.0.0.1%1]:20000", true}, // a zone means nothing on an IPv4 address
		{"169.254.169.254:20000", false},
		{"255.255.255.255:20000", false},
		{"224.0.0.1:20000", false},
	} {
		require.Equal(t, c.want, s.Allows(netip.MustParseAddrPort(c.at)), c.at)
	}
	require.True(t, s.AllowsIP(netip.MustParseAddr("::ffff:10.0.0.1")))
	require.False(t, s.AllowsIP(netip.MustParseAddr("10.0.0.3")))
	require.False(t, s.AllowsIP(netip.Addr{}))
}

func TestReplaceRefusesAndKeeps(t *testing.T) {
	good := netip.MustParseAddrPort("10.0.0.1:20000")
	var s fence.Set
	require.NoError(t, s.Replace([]netip.AddrPort{good}))
	for _, bad := range []string{
		"0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1", "224.0.0.1:1", "[ff02::1]:1", "[::ffff:239.1.1.1]:1",
		"255.255.255.255:1", "10.0.0.9:0", "[fe80::1%eth0]:1",
	} {
		err := s.Replace([]netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:1"), netip.MustParseAddrPort(bad)})
		require.Error(t, err, bad)
		require.True(t, s.Allows(good), "the set before a refused one stays")
		require.False(t, s.Allows(netip.MustParseAddrPort("10.0.0.2:1")))
	}
	require.Error(t, s.Replace([]netip.AddrPort{{}}))
	require.NoError(t, s.Replace(nil))
	require.False(t, s.Allows(good))
}

func genAddr(t *rapid.T) netip.AddrPort {
	ip := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4")))
	switch rapid.IntRange(0, 3).Draw(t, "form") {
	case 0:
		ip = netip.AddrFrom16(ip.As16())
	case 1:
		ip = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6")))
	}
	return netip.AddrPortFrom(ip, rapid.Uint16Range(0, 3).Draw(t, "port"))
}

// The set is exactly the given list, whatever the form an address is written in.
func TestSetIsTheListItWasGiven(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := slices.DeleteFunc(rapid.SliceOfN(rapid.Custom(genAddr), 0, 8).Draw(t, "list"),
			func(ap netip.AddrPort) bool { return fence.Check(ap) != nil })
		var s fence.Set
		require.NoError(t, s.Replace(list))
		probes := append(slices.Clone(list), genAddr(t))
		for _, ap := range probes {
			want := slices.ContainsFunc(list, func(in netip.AddrPort) bool {
				return in.Port() == ap.Port() && in.Addr().Unmap() == ap.Addr().Unmap()
			})
			require.Equal(t, want, s.Allows(ap), ap)
			other := netip.AddrPortFrom(netip.AddrFrom16(ap.Addr().As16()), ap.Port())
			require.Equal(t, want, s.Allows(other), other)
			wantIP := slices.ContainsFunc(list, func(in netip.AddrPort) bool { return in.Addr().Unmap() == ap.Addr().Unmap() })
			require.Equal(t, wantIP, s.AllowsIP(ap.Addr()))
		}
	})
}

func TestReplaceWhileInUse(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")
	var s fence.Set
	require.NoError(t, s.Replace([]netip.AddrPort{a}))
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.Allows(a)
					s.AllowsIP(b.Addr())
				}
			}
		})
	}
	for i := range 200 {
		require.NoError(t, s.Replace([]netip.AddrPort{{}, a, b}[1+i%2:2+i%2]))
	}
	close(stop)
	readers.Wait()
	require.True(t, s.Allows(b))
	require.False(t, s.Allows(a))
}

// What is remembered of an address is what the set says, before and after it is replaced.
func TestChecked(t *testing.T) {
	a := netip.MustParseAddrPort("10.0.0.1:1")
	var s fence.Set
	var c fence.Checked
	require.False(t, c.Allows(&s, a))
	require.NoError(t, s.Replace([]netip.AddrPort{a}))
	require.True(t, c.Allows(&s, a))
	require.True(t, c.Allows(&s, a))
	require.NoError(t, s.Replace(nil))
	require.False(t, c.Allows(&s, a))
	rule, err := fence.ParseRule("10.0.0.0/24:1")
	require.NoError(t, err)
	require.NoError(t, s.ReplaceRules(nil, []fence.Rule{rule}))
	require.True(t, c.Allows(&s, a))
	require.Zero(t, testing.AllocsPerRun(50, func() { c.Allows(&s, a) }))
}

// Whatever bytes become addresses, nothing outside the list is allowed, and what may never be
// allowed is not.
func FuzzSet(f *testing.F) {
	f.Add([]byte{10, 0, 0, 1}, uint16(20000), []byte{10, 0, 0, 1}, uint16(20000))
	f.Add([]byte{10, 0, 0, 1}, uint16(20000), netip.MustParseAddr("::ffff:10.0.0.1").AsSlice(), uint16(20000))
	f.Add([]byte{0, 0, 0, 0}, uint16(1), []byte{0, 0, 0, 0}, uint16(1))
	f.Add([]byte{224, 0, 0, 1}, uint16(1), []byte{127, 0, 0, 1}, uint16(0))
	f.Add(netip.IPv6Unspecified().AsSlice(), uint16(1), netip.MustParseAddr("::ffff:0.0.0.0").AsSlice(), uint16(1))
	f.Fuzz(func(t *testing.T, in []byte, inPort uint16, out []byte, outPort uint16) {
		inIP, _ := netip.AddrFromSlice(in)
		outIP, _ := netip.AddrFromSlice(out)
		var s fence.Set
		err := s.Replace([]netip.AddrPort{netip.AddrPortFrom(inIP, inPort)})
		same := inIP.Unmap() == outIP.Unmap() && inPort == outPort && inIP.IsValid()
		got := s.Allows(netip.AddrPortFrom(outIP, outPort))
		if got != (err == nil && same) {
			t.Fatalf("allowed %v:%d, asked %v:%d: %v", inIP, inPort, outIP, outPort, got)
		}
		if u := outIP.Unmap(); got && (u.IsUnspecified() || u.IsMulticast() || outPort == 0) {
			t.Fatalf("%v:%d may never be allowed", outIP, outPort)
		}
		if got && !s.AllowsIP(outIP) {
			t.Fatal("a peer without its address")
		}
		var c fence.Checked
		if c.Allows(&s, netip.AddrPortFrom(outIP, outPort)) != got {
			t.Fatal("remembered otherwise")
		}
	})
}
