package turn

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TURN as RFC 8656 has it: families, ports, reservations, lifetimes, channels, errors of the network.

func relayedAddresses(t testing.TB, a *stun.Message) (out []netip.AddrPort) {
	t.Helper()
	require.Zero(t, errorCode(a), a)
	for _, have := range a.Attributes {
		if have.Type != stun.AttrXORRelayedAddress {
			continue
		}
		one := &stun.Message{TransactionID: a.TransactionID}
		one.Add(have.Type, have.Value)
		var x stun.XORMappedAddress
		require.NoError(t, x.GetFromAs(one, stun.AttrXORRelayedAddress))
		ip, _ := netip.AddrFromSlice(x.IP)
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(x.Port)))
	}
	return out
}

func additionalFamily(f byte) stun.Setter { return attr{attrAdditionalFamily, []byte{f, 0, 0, 0}} }

func evenPort(r byte) stun.Setter { return attr{stun.AttrEvenPort, []byte{r}} }

// specField sets a field of the spec that a later version has. Without it the feature is not there.
func specField(t testing.TB, spec any, name string, v any) {
	t.Helper()
	f := reflect.ValueOf(spec).Elem().FieldByName(name)
	require.True(t, f.IsValid(), "plan.TURNSpec has no %s", name)
	f.Set(reflect.ValueOf(v))
}

// A server with one family: which it has, which it refuses, and how it says that it gave half of what was asked
// (RFC 8656 section 7.2).
func TestAddressFamilies(t *testing.T) {
	h := newHost(t)
	udp := requestedTransport(protoUDP)
	for name, try := range map[string]struct {
		attrs []stun.Setter
		code  int
	}{
		"IPv4":                                {[]stun.Setter{udp, requestedFamily(familyIPv4)}, 0},
		"none named":                          {[]stun.Setter{udp}, 0},
		"IPv6":                                {[]stun.Setter{udp, requestedFamily(familyIPv6)}, 440},
		"a family that is none":               {[]stun.Setter{udp, requestedFamily(3)}, 440},
		"one and another":                     {[]stun.Setter{udp, requestedFamily(familyIPv4), additionalFamily(familyIPv6)}, 400},
		"IPv4 as the other":                   {[]stun.Setter{udp, additionalFamily(familyIPv4)}, 400},
		"both, with a reservation":            {[]stun.Setter{udp, additionalFamily(familyIPv6), evenPort(0x80)}, 400},
		"a token and a family":                {[]stun.Setter{udp, requestedFamily(familyIPv4), attr{stun.AttrReservationToken, make([]byte, 8)}}, 400},
		"a token and both":                    {[]stun.Setter{udp, additionalFamily(familyIPv6), attr{stun.AttrReservationToken, make([]byte, 8)}}, 400},
		"a token and an even port":            {[]stun.Setter{udp, evenPort(0), attr{stun.AttrReservationToken, make([]byte, 8)}}, 400},
		"a token that nobody was given":       {[]stun.Setter{udp, attr{stun.AttrReservationToken, []byte("no token")}}, 508},
		"TCP, refused before the other rules": {[]stun.Setter{requestedTransport(6), requestedFamily(familyIPv4)}, 442},
	} {
		t.Run(name, func(t *testing.T) {
			c := h.client("udp", alpha)
			c.t = t
			a := c.do(stun.MethodAllocate, try.attrs...)
			require.Equal(t, try.code, errorCode(a))
			if try.code == 0 {
				require.Len(t, relayedAddresses(t, a), 1)
			}
		})
	}
}

// Both families of a server that has one: the one, and why not the other.
func TestAdditionalFamilyThatIsNotThere(t *testing.T) {
	h := newHost(t)
	a := h.client("udp", alpha).do(stun.MethodAllocate, requestedTransport(protoUDP), additionalFamily(familyIPv6))
	got := relayedAddresses(t, a)
	require.Len(t, got, 1)
	require.True(t, got[0].Addr().Is4())
	v, err := a.Get(attrAddressErrorCode)
	require.NoError(t, err, "ADDRESS-ERROR-CODE")
	require.GreaterOrEqual(t, len(v), 4)
	require.Equal(t, []byte{familyIPv6, 0, 4, 40}, v[:4], "IPv6, class 4, number 40")
}

// Both families of a server that has both: two addresses, one lifetime, one end.
func TestDualAllocation(t *testing.T) {
	sfu6 := newEcho6(t)
	h := newHost(t, func(h *host) {
		specField(t, &h.spec, "RelayIP6", netip.IPv6Loopback())
		first := freeBlock(t, 16)
		h.tenant(alpha).Relay.First, h.tenant(alpha).Relay.Count = first, 16
		h.tenant(alpha).Allow = append(h.tenant(alpha).Allow, sfu6.at)
		h.spec.Tenants = h.spec.Tenants[:1]
	})
	sfu4 := h.sfu[alpha].at
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		a := c.do(stun.MethodAllocate, requestedTransport(protoUDP), additionalFamily(familyIPv6))
		got := relayedAddresses(t, a)
		require.Len(t, got, 2)
		require.ElementsMatch(t, []netip.Addr{h.spec.RelayIP, netip.IPv6Loopback()}, []netip.Addr{got[0].Addr(), got[1].Addr()})
		require.Zero(t, c.permit(sfu4, sfu6.at))
		for _, to := range []netip.AddrPort{sfu4, sfu6.at} {
			c.send(to, []byte(to.String()))
			require.Equal(t, to.String(), string(c.data(patience)))
		}
		require.Zero(t, c.bind(0x4000, sfu6.at))
		require.Zero(t, c.bind(0x4001, sfu4))
		for channel := range uint16(2) {
			c.sendChannel(0x4000+channel, []byte("by channel"))
			require.Equal(t, "by channel", string(c.data(patience)))
		}
		require.Zero(t, errorCode(c.do(stun.MethodRefresh, requestedFamily(familyIPv6), seconds(0))), "one of the two may go")
		require.Contains(t, refusals, c.permit(sfu6.at))
		c.send(sfu4, []byte("still here"))
		require.Equal(t, "still here", string(c.data(patience)))
		require.Zero(t, errorCode(c.refresh(0)))
		require.Equal(t, 437, errorCode(c.refresh()))
	}
	only6 := h.client("udp", alpha)
	got := relayedAddresses(t, only6.do(stun.MethodAllocate, requestedTransport(protoUDP), requestedFamily(familyIPv6)))
	require.Len(t, got, 1)
	require.Equal(t, netip.IPv6Loopback(), got[0].Addr())
	require.Equal(t, 443, only6.permit(sfu4), "a peer of the family that the relay is not of")
	require.Equal(t, 443, errorCode(only6.do(stun.MethodRefresh, requestedFamily(familyIPv4))))
	require.True(t, h.client("udp", alpha).allocate().Addr().Is4(), "IPv4 where nothing is said")
}

// EVEN-PORT without the reservation bit (RFC 8656 section 18.7): the other bits mean nothing.
func TestEvenPort(t *testing.T) {
	h := newHost(t, func(h *host) { h.tenant(alpha).Relay.First, h.tenant(alpha).Relay.Count = 50001, 6 }) // 50001 to 50006
	for _, bits := range []byte{0, 0x7f, 0x40} {
		a := h.client("udp", alpha).do(stun.MethodAllocate, requestedTransport(protoUDP), evenPort(bits))
		got := relayedAddresses(t, a)
		require.Zero(t, got[0].Port()%2, "%s", got[0])
		require.False(t, a.Contains(stun.AttrReservationToken))
	}
	none := h.client("udp", alpha).do(stun.MethodAllocate, requestedTransport(protoUDP), evenPort(0))
	require.Equal(t, 508, errorCode(none), "all three even ports are taken")
	h.client("udp", alpha).allocate()
}

// reserve allocates an even port and reserves the next.
func reserve(t testing.TB, c *raw) (at netip.AddrPort, token []byte) {
	t.Helper()
	a := c.do(stun.MethodAllocate, requestedTransport(protoUDP), evenPort(0x80))
	at = relayedAddresses(t, a)[0]
	require.Zero(t, at.Port()%2)
	token, err := a.Get(stun.AttrReservationToken)
	require.NoError(t, err)
	require.Len(t, token, 8)
	return at, token
}

func TestReservation(t *testing.T) {
	h := newHost(t, func(h *host) { h.tenant(alpha).Relay.First, h.tenant(alpha).Relay.Count = 50000, 4 })
	with := func(c *raw, token []byte) *stun.Message {
		return c.do(stun.MethodAllocate, requestedTransport(protoUDP), attr{stun.AttrReservationToken, token})
	}
	for _, transport := range transports {
		rtp := h.ready(transport, alpha)
		at, token := reserve(t, rtp)
		var others []*raw
		for range 2 {
			c := h.client("udp", alpha)
			require.NotEqual(t, at.Port()+1, c.allocate().Port())
			others = append(others, c)
		}
		full := h.client("udp", alpha)
		require.Equal(t, 508, errorCode(full.do(stun.MethodAllocate, requestedTransport(protoUDP))), "the next port is kept")
		require.Equal(t, 508, errorCode(with(h.client("udp", beta), token)), "for nobody else's namespace")
		rtcp := h.ready(transport, alpha)
		require.Equal(t, at.Port()+1, relayedAddresses(t, with(rtcp, token))[0].Port())
		require.Equal(t, 508, errorCode(with(h.client("udp", alpha), token)), "a token is good once")
		rtcp.reaches(h.sfu[alpha].at)
		for _, c := range append(others, rtp, rtcp) {
			require.Zero(t, errorCode(c.refresh(0)))
		}
	}

	// What is not fetched within 30 s is free again.
	at, token := reserve(t, h.client("udp", alpha))
	h.clock.advance(29 * time.Second)
	h.srv.sweepAt(h.clock.now())
	require.Equal(t, at.Port()+1, relayedAddresses(t, with(h.client("udp", alpha), token))[0].Port())
	_, token = reserve(t, h.client("udp", alpha))
	h.clock.advance(31 * time.Second)
	h.srv.sweepAt(h.clock.now())
	require.Equal(t, 508, errorCode(with(h.client("udp", alpha), token)))
	h.client("udp", alpha).allocate()
}

// Two tokens are not alike, and a reservation counts as what it is: a port that nobody else can have.
func TestReservationsAreNoLoophole(t *testing.T) {
	h := newHost(t, func(h *host) { h.tenant(alpha).Relay.First, h.tenant(alpha).Relay.Count = 50000, 8 })
	seen := map[string]bool{}
	for range 4 {
		_, token := reserve(t, h.client("udp", alpha))
		require.False(t, seen[string(token)])
		seen[string(token)] = true
	}
	require.Equal(t, 508, errorCode(h.client("udp", alpha).do(stun.MethodAllocate, requestedTransport(protoUDP))), "four relays and four reservations")
	// The end of the relay does not end the reservation, and a secret's change ends both.
	h.tenant(alpha).Secret = "another secret of alpha, long enough"
	h.apply()
	for token := range seen {
		a := h.client("udp", alpha).do(stun.MethodAllocate, requestedTransport(protoUDP), attr{stun.AttrReservationToken, []byte(token)})
		require.Equal(t, 508, errorCode(a))
	}
	for range 8 {
		h.client("udp", alpha).allocate()
	}
}

// DONT-FRAGMENT is understood in Allocate and in Send indications (RFC 8656 sections 7.2 and 11.3). What it does to a
// datagram: TestDontFragmentOnTheWire.
func TestDontFragment(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha].at
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		require.Len(t, relayedAddresses(t, c.do(stun.MethodAllocate, requestedTransport(protoUDP), attr{stun.AttrDontFragment, nil})), 1)
		require.Zero(t, c.permit(sfu))
		c.write(newPacket(stun.MethodSend, stun.ClassIndication).set(peer(sfu)).add(stun.AttrDontFragment, nil).add(stun.AttrData, []byte("whole")).b)
		require.Equal(t, "whole", string(c.data(patience)))
		c.send(sfu, []byte("without"))
		require.Equal(t, "without", string(c.data(patience)))
	}
}

// unpermitted is how many packets came to alpha's relays without a permission.
func (h *host) unpermitted() (n uint64) {
	sums, _, _ := h.srv.tenants()[alpha].reading()
	for _, s := range sums {
		n += s.unpermittedDown
	}
	return n
}

// A permission lasts five minutes (RFC 8656 section 9), from its last CreatePermission or ChannelBind; data does not
// prolong it.
func TestPermissionLifetime(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha]
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		relay := c.allocate()
		after := func(d time.Duration) {
			h.clock.advance(d)
			h.srv.sweepAt(h.clock.now())
			require.Zero(t, errorCode(c.refresh()))
		}
		works := func() { c.send(sfu.at, []byte("works")); require.Equal(t, "works", string(c.data(patience))) }
		ended := func() {
			before := sfu.count()
			c.send(sfu.at, []byte("out"))
			c.settle()
			require.Equal(t, before, sfu.count(), "nothing goes out over %s", transport)
			refused := h.unpermitted()
			_, err := sfu.conn.WriteToUDPAddrPort([]byte("in"), relay)
			require.NoError(t, err)
			require.Eventually(t, func() bool { return h.unpermitted() == refused+1 }, patience, time.Millisecond)
			require.Zero(t, c.permit(sfu.at))
			works() // and nothing came in before it
		}
		require.Zero(t, c.permit(sfu.at))
		require.Zero(t, errorCode(c.refresh()))
		after(4*time.Minute + 50*time.Second)
		works()
		after(20 * time.Second)
		ended()
		after(4*time.Minute + 50*time.Second)
		require.Zero(t, c.permit(sfu.at), "again, in time")
		after(4*time.Minute + 50*time.Second)
		works()
		after(20 * time.Second)
		ended()
		require.Zero(t, errorCode(c.refresh(0)))
	}
}

// A channel lasts ten minutes from its last binding (RFC 8656 section 12), and its permission five.
func TestChannelLifetime(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha]
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		relay := c.allocate()
		after := func(d time.Duration) {
			h.clock.advance(d)
			h.srv.sweepAt(h.clock.now())
			require.Zero(t, errorCode(c.refresh()))
		}
		require.Zero(t, c.bind(0x4000, sfu.at))
		require.Zero(t, errorCode(c.refresh()))
		after(4*time.Minute + 50*time.Second)
		c.sendChannel(0x4000, []byte("one"))
		require.Equal(t, "one", string(c.data(patience)))
		after(20 * time.Second)
		before := sfu.count()
		c.sendChannel(0x4000, []byte("no permission"))
		c.settle()
		require.Equal(t, before, sfu.count(), "the permission of a channel ends first")
		require.Zero(t, c.permit(sfu.at))
		after(4*time.Minute + 40*time.Second) // 9:50
		c.sendChannel(0x4000, []byte("two"))
		require.Equal(t, "two", string(c.data(patience)))
		require.Zero(t, c.permit(sfu.at))
		after(20 * time.Second)
		before = sfu.count()
		c.sendChannel(0x4000, []byte("no channel"))
		c.settle()
		require.Equal(t, before, sfu.count(), "the channel has ended")
		_, err := sfu.conn.WriteToUDPAddrPort([]byte("by indication"), relay)
		require.NoError(t, err)
		b := c.next(patience)
		require.NotNil(t, b)
		require.Zero(t, b[0]>>6, "an indication, for there is no channel")
		require.Zero(t, c.bind(0x4001, sfu.at), "both are free again")
		require.Zero(t, errorCode(c.refresh(0)))
	}
}

// RFC 8656 section 12, and RFC 5766 section 11: the numbers, and what may be bound to what.
func TestChannelNumbers(t *testing.T) {
	h := newHost(t)
	for number, code := range map[uint16]int{
		0: 400, 1: 400, 0x3fff: 400, 0x4000: 0, 0x4001: 0, 0x4fff: 0, 0x5000: 0, 0x7ffe: 0, 0x7fff: 400, 0x8000: 400, 0xffff: 400,
	} {
		c := h.client("udp", alpha)
		c.allocate()
		require.Equal(t, code, c.bind(number, h.sfu[alpha].at), "%#x", number)
	}
}

// indication waits for a Data indication; nil when there is none in time.
func (c *raw) indication(wait time.Duration) *stun.Message {
	c.t.Helper()
	for deadline := time.Now().Add(wait); ; {
		b := c.next(time.Until(deadline))
		m := &stun.Message{Raw: b}
		if b == nil {
			return nil
		}
		if b[0]>>6 == 0 && m.Decode() == nil && m.Type == stun.NewType(stun.MethodData, stun.ClassIndication) {
			return m
		}
	}
}

// An error of the network is passed on to who may hear of that peer: a Data indication with ICMP and no DATA
// (RFC 8656 sections 11.5 and 18.13).
func TestICMPIsPassedOn(t *testing.T) {
	closed, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(freshIP(), 0)))
	require.NoError(t, err)
	gone := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	closed.Close()
	h := newHost(t, func(h *host) { h.tenant(alpha).Allow = append(h.tenant(alpha).Allow, gone) })
	for _, transport := range transports {
		for _, way := range []string{"indication", "channel"} {
			c := h.ready(transport, alpha)
			c.allocate()
			if way == "channel" {
				require.Zero(t, c.bind(0x4000, gone))
				c.sendChannel(0x4000, []byte("anybody?"))
			} else {
				require.Zero(t, c.permit(gone))
				c.send(gone, []byte("anybody?"))
			}
			m := c.indication(2 * time.Second)
			require.NotNil(t, m, "by %s over %s: nothing is said of a closed port", way, transport)
			require.False(t, m.Contains(stun.AttrData))
			var from stun.XORMappedAddress
			require.NoError(t, from.GetFromAs(m, stun.AttrXORPeerAddress))
			require.Equal(t, gone.String(), from.String())
			v, err := m.Get(attrICMP)
			require.NoError(t, err)
			// 16 bits reserved, 7 bits of type, 9 bits of code, 32 bits of data.
			require.Equal(t, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 3<<9|3), 0), v, "destination unreachable, port unreachable")
			c.reaches(h.sfu[alpha].at) // the relay lives
		}
	}
}

// A server that drains names another (RFC 8489 section 10), signed, over the transports that need no certificate's name;
// living relays go on.
func TestTryAlternate(t *testing.T) {
	alternate := netip.MustParseAddr("192.0.2.99")
	h := newHost(t, func(h *host) {
		h.tenant(alpha).Alternates = []netip.Addr{netip.MustParseAddr("2001:db8::99"), alternate}
	})
	living := map[string]*raw{}
	for _, transport := range transports {
		living[transport] = h.ready(transport, alpha)
		living[transport].allocate()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.srv.Drain(ctx)
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		a := c.do(stun.MethodAllocate, requestedTransport(protoUDP))
		require.NoError(t, c.integrity.Check(a), "nobody else may send a client elsewhere")
		if transport == "udp" || transport == "tcp" {
			require.Equal(t, 300, errorCode(a))
			v, err := a.Get(stun.AttrAlternateServer)
			require.NoError(t, err)
			require.Equal(t, append(binary.BigEndian.AppendUint16([]byte{0, 1}, testPorts.UDP), alternate.AsSlice()...), v)
		} else {
			require.Equal(t, 508, errorCode(a))
		}
		require.Equal(t, 401, errorCode(c.exchange(newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)))), "strangers are told nothing")
		living[transport].reaches(h.sfu[alpha].at)
		require.Zero(t, errorCode(living[transport].refresh()))
	}
}

// namespaceMark tells a test's child that it is in its own network namespace.
const namespaceMark = "ORAMA_TURN_NETNS"

// inNamespace runs the calling test again in a network namespace of its own, whose loopback is up with an MTU, and
// reports true there.
func inNamespace(t *testing.T, mtu int) bool {
	t.Helper()
	if os.Getenv(namespaceMark) != "" {
		loopbackUp(t, mtu)
		return true
	}
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), namespaceMark+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Skipf("no network namespace here: %v", err)
	}
	require.NoError(t, err, "in a namespace:\n%s", out)
	return false
}

func loopbackUp(t *testing.T, mtu int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	for request, value := range map[uint]uint32{unix.SIOCSIFMTU: uint32(mtu), unix.SIOCSIFFLAGS: unix.IFF_UP | unix.IFF_RUNNING} {
		lo, err := unix.NewIfreq("lo")
		require.NoError(t, err)
		if request == unix.SIOCSIFFLAGS {
			lo.SetUint16(uint16(value))
		} else {
			lo.SetUint32(value)
		}
		require.NoError(t, unix.IoctlIfreq(fd, request, lo))
	}
}

// payload waits for relayed data and passes over errors of the network.
func (c *raw) payload() []byte {
	c.t.Helper()
	for {
		b := c.next(patience)
		m := &stun.Message{Raw: b}
		if b == nil || b[0]>>6 == 0 && m.Decode() == nil && !m.Contains(attrICMP) {
			v, _ := m.Get(stun.AttrData) //nolint:errcheck // nil is what there was
			return v
		}
	}
}

// Where the way to the peer is narrower than a datagram, one that may not be cut is not sent, and any other is cut.
func TestDontFragmentOnTheWire(t *testing.T) {
	if !inNamespace(t, 1400) {
		return
	}
	h := newHost(t)
	sfu := h.sfu[alpha]
	c := h.client("udp", alpha)
	require.Zero(t, errorCode(c.do(stun.MethodAllocate, requestedTransport(protoUDP), attr{stun.AttrDontFragment, nil})))
	require.Zero(t, c.permit(sfu.at))
	sizes := func() (out []int) {
		sfu.mu.Lock()
		defer sfu.mu.Unlock()
		for _, b := range sfu.got {
			out = append(out, len(b))
		}
		return out
	}
	for range 2 { // the second time the kernel knows
		c.write(newPacket(stun.MethodSend, stun.ClassIndication).set(peer(sfu.at)).add(stun.AttrDontFragment, nil).add(stun.AttrData, make([]byte, 1480)).b)
		c.write(newPacket(stun.MethodSend, stun.ClassIndication).set(peer(sfu.at)).add(stun.AttrDontFragment, nil).add(stun.AttrData, make([]byte, 1300)).b)
		require.Len(t, c.payload(), 1300)
		c.send(sfu.at, make([]byte, 1450))
		require.Len(t, c.payload(), 1450, "one without is cut, before and after")
	}
	require.Equal(t, []int{1300, 1450, 1300, 1450}, sizes())
}
