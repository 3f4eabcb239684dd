package turn

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	pion "github.com/pion/turn/v5"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
)

// The library's own client, as a stand-in for real ones, over every way in.
func TestRelayOverEveryTransport(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			sub := *h
			sub.t = t
			conn := sub.dial(transport)
			var packets net.PacketConn = pion.NewSTUNConn(conn)
			if transport == "udp" {
				conn.Close()
				var err error
				packets, err = net.ListenPacket("udp4", "127.0.0.1:0")
				require.NoError(t, err)
				t.Cleanup(func() { packets.Close() })
			}
			user, credential := auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(time.Minute))
			c, err := pion.NewClient(&pion.ClientConfig{
				TURNServerAddr: h.at(testPorts.UDP), STUNServerAddr: h.at(testPorts.UDP),
				Conn: packets, Username: user, Password: credential, Realm: realm, LoggerFactory: quiet{},
			})
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, c.Listen())
			relay, err := c.Allocate()
			require.NoError(t, err)
			defer relay.Close()

			at := relay.LocalAddr().(*net.UDPAddr).AddrPort()
			require.Equal(t, h.spec.RelayIP, at.Addr().Unmap(), "advertised on the relay address")
			require.True(t, h.tenant(alpha).Relay.Contains(at.Port()), "inside the block")

			sfu, p := net.UDPAddrFromAddrPort(h.sfu[alpha].at), make([]byte, 2048)
			// The client's framing of streams waits for nine bytes, so it would never see less than five.
			for _, size := range []int{5, 6, 7, 160, 1199, 1200} {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				_, err = relay.WriteTo(sent, sfu)
				require.NoError(t, err)
				require.NoError(t, relay.SetReadDeadline(time.Now().Add(patience)))
				n, from, err := relay.ReadFrom(p)
				require.NoError(t, err, "%d bytes", size)
				require.Equal(t, sent, p[:n])
				require.Equal(t, sfu.String(), from.String())
			}
		})
	}
}

// Lengths that are no multiple of four, unpadded where the transport keeps messages apart, and very
// short ones on a stream, as Send indications and as ChannelData.
func TestAnyLengthOverEveryTransport(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			sub := *h
			sub.t = t
			c, sfu := sub.client(transport, alpha), h.sfu[alpha].at
			c.allocate()
			require.Zero(t, c.permit(sfu))
			for size := 1; size < 10; size++ {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				c.send(sfu, sent)
				require.Equal(t, sent, c.data(patience), "indication of %d bytes", size)
			}
			require.Zero(t, c.bind(0x4000, sfu))
			for size := 1; size < 10; size++ {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				c.sendChannel(0x4000, sent)
				require.Equal(t, sent, c.data(patience), "channel data of %d bytes", size)
			}
			c.sendChannel(0x4000, bytes.Repeat([]byte{7}, 1400))
			require.Len(t, c.data(patience), 1400)
		})
	}
}

// With a good credential of one namespace a client reaches that namespace's SFU socket and nothing
// else, in neither direction, by no form of an address.
func TestIsolation(t *testing.T) {
	h := newHost(t)
	own, other := h.sfu[alpha].at, h.sfu[beta].at
	neighbour := newEcho(t, own.Addr())                      // another port of the SFU's address
	loopback := newEcho(t, netip.MustParseAddr("127.0.0.1")) // the host itself
	gateway := newEcho(t, h.spec.PublicIP)                   // the node's public side
	mesh := newEcho(t, h.spec.RelayIP)                       // the node's mesh side
	victims := []*echo{h.sfu[beta], neighbour, loopback, gateway, mesh}
	mapped := func(ap netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16(ap.Addr().As16()), ap.Port())
	}
	port := loopback.at.Port()
	forbidden := []netip.AddrPort{
		other, neighbour.at, loopback.at, gateway.at, mesh.at,
		mapped(other), mapped(neighbour.at), mapped(loopback.at),
		netip.AddrPortFrom(netip.IPv4Unspecified(), port), mapped(netip.AddrPortFrom(netip.IPv4Unspecified(), port)),
		netip.AddrPortFrom(netip.IPv6Unspecified(), port), netip.AddrPortFrom(netip.IPv6Loopback(), port),
		netip.AddrPortFrom(netip.MustParseAddr("255.255.255.255"), port), netip.AddrPortFrom(netip.MustParseAddr("224.0.0.1"), port),
		netip.AddrPortFrom(netip.MustParseAddr("169.254.169.254"), 80), netip.AddrPortFrom(own.Addr(), 0),
	}
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			sub := *h
			sub.t = t
			c := sub.client(transport, alpha)
			relay := c.allocate()
			require.Zero(t, c.permit(own), "a permission means the address: every port of it")
			for i, to := range forbidden {
				code := c.permit(to)
				if to.Addr().Unmap() != own.Addr() {
					require.Contains(t, []int{403, 443}, code, "permission for %s", to)
				}
				require.Contains(t, []int{400, 403, 443}, c.bind(uint16(0x4100+i), to), "channel to %s", to)
				c.send(to, []byte("indication"))
				c.sendChannel(uint16(0x4100+i), []byte("channel"))
			}
			// A permission list with one forbidden address gives none of them.
			require.Equal(t, 403, c.permit(own, other))

			// The other direction: everybody sends to the relay, only the SFU is heard.
			for _, v := range victims {
				_, err := v.conn.WriteToUDPAddrPort([]byte("from outside"), relay)
				require.NoError(t, err)
			}
			c.send(own, []byte("hello"))
			require.Equal(t, "hello", string(c.data(patience)), "the first thing heard is the SFU")
			require.Zero(t, c.bind(0x4000, own))
			c.sendChannel(0x4000, []byte("again"))
			require.Equal(t, "again", string(c.data(patience)))
			// What was forbidden went before these, through the same goroutines.
			for _, v := range victims {
				require.Zero(t, v.count(), "%s heard something", v.at)
			}
		})
	}
	require.Equal(t, 2*len(transports), h.sfu[alpha].count())
	require.NotZero(t, h.log.refused()[refuseFence])
}

// A changed fence holds for living relays at once.
func TestFenceFollowsThePlan(t *testing.T) {
	h := newHost(t)
	old, moved := h.sfu[alpha], newEcho(t, freshIP())
	c := h.client("udp", alpha)
	c.allocate()
	require.Zero(t, c.bind(0x4000, old.at))
	c.sendChannel(0x4000, []byte("one"))
	require.Equal(t, "one", string(c.data(patience)))
	require.Equal(t, 403, c.permit(moved.at))

	h.tenant(alpha).Allow = []netip.AddrPort{moved.at}
	h.apply()
	c.sendChannel(0x4000, []byte("two"))
	require.Zero(t, c.bind(0x4001, moved.at))
	c.sendChannel(0x4001, []byte("three"))
	require.Equal(t, "three", string(c.data(patience)))
	require.Equal(t, 1, old.count(), "the old SFU is outside now")
	require.Equal(t, 1, h.allocations(alpha))

	// Applying the same again changes nothing.
	h.apply()
	c.sendChannel(0x4001, []byte("four"))
	require.Equal(t, "four", string(c.data(patience)))
}

// Expiry is asked on Allocate alone.
func TestCallOutlivesItsCredential(t *testing.T) {
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			h := newHost(t)
			user, credential := auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(20*time.Second))
			c, sfu := h.clientAs(transport, user, credential), h.sfu[alpha].at
			c.allocate()
			require.Zero(t, c.bind(0x4000, sfu))
			for range 3 {
				h.clock.advance(30 * time.Second)
				h.srv.sweepAt(h.clock.now())
				require.Zero(t, errorCode(c.refresh()))
				require.Zero(t, c.permit(sfu))
				require.Zero(t, c.bind(0x4000, sfu))
				c.sendChannel(0x4000, []byte("still here"))
				require.Equal(t, "still here", string(c.data(patience)))
			}
			late := h.clientAs(transport, user, credential)
			require.Equal(t, 401, errorCode(late.do(stun.MethodAllocate, requestedTransport(protoUDP))))
			require.Equal(t, 1, h.log.refused()[refuseExpired])

			// A newer credential of the same namespace refreshes the old allocation.
			c.as(auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(time.Minute)))
			require.Zero(t, errorCode(c.refresh()))
		})
	}
}

func TestRemovedNamespaceEndsAtOnce(t *testing.T) {
	h := newHost(t)
	gone, held := map[string]*raw{}, []netip.AddrPort(nil)
	for _, transport := range transports {
		gone[transport] = h.client(transport, alpha)
		held = append(held, gone[transport].allocate())
	}
	stays := h.client("udp", beta)
	stays.allocate()
	require.Zero(t, stays.bind(0x4000, h.sfu[beta].at))
	removed := *h.tenant(alpha)
	h.spec.Tenants = h.spec.Tenants[1:]
	h.apply()

	require.Equal(t, map[string]int{endRemoved: len(transports)}, h.log.ended(), "ended when Apply returns")
	for _, at := range held {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		require.NoError(t, err, "the port is free again")
		c.Close()
	}
	for transport, c := range gone {
		require.Equal(t, 401, errorCode(c.refresh()), transport)
	}
	stays.sendChannel(0x4000, []byte("still here"))
	require.Equal(t, "still here", string(stays.data(patience)))

	h.spec.Tenants = append(h.spec.Tenants, removed)
	h.apply()
	c := h.client("udp", alpha)
	c.allocate()
}

func TestChangedSecretEndsRelaysAndOldCredentials(t *testing.T) {
	h := newHost(t)
	c, stays := h.client("udp", alpha), h.client("tcp", beta)
	c.allocate()
	stays.allocate()
	h.tenant(alpha).Secret = auth.NewTURNSecret()
	h.apply()
	require.Equal(t, map[string]int{endRotated: 1}, h.log.ended())
	require.Equal(t, 401, errorCode(c.refresh()))
	require.Zero(t, errorCode(stays.refresh()))
	require.Equal(t, 1, h.log.refused()[refuseCredential])
	h.client("udp", alpha).allocate()
}

func TestChangedBlockEndsWhatLiesOutside(t *testing.T) {
	h := newHost(t)
	h.client("udp", alpha).allocate()
	h.client("udp", beta).allocate()
	// The blocks are exchanged: each namespace gets ports that the other's relays hold.
	a, b := h.tenant(alpha), h.tenant(beta)
	a.Relay, b.Relay = b.Relay, a.Relay
	h.apply()
	require.Equal(t, map[string]int{endMoved: 2}, h.log.ended())
	require.True(t, a.Relay.Contains(h.client("udp", alpha).allocate().Port()))
}

func TestLifetimes(t *testing.T) {
	h := newHost(t)
	granted := func(m *stun.Message) time.Duration {
		t.Helper()
		require.Zero(t, errorCode(m))
		d, ok := lifetime(m)
		require.True(t, ok)
		return d
	}
	for _, transport := range transports {
		c := h.client(transport, alpha)
		a := c.do(stun.MethodAllocate, requestedTransport(protoUDP), seconds(3599*time.Second))
		require.Equal(t, 2*time.Minute, granted(a), "the first is short, whatever was asked")
		var mapped stun.XORMappedAddress
		require.NoError(t, mapped.GetFrom(a))
		require.Equal(t, 2*time.Minute, granted(c.refresh()), "and while nothing is permitted")
		require.Zero(t, c.permit(h.sfu[alpha].at))
		require.Equal(t, 10*time.Minute, granted(c.refresh()))
		require.Equal(t, 10*time.Minute, granted(c.refresh(3599*time.Second)), "cut to the server's")
		require.Equal(t, 30*time.Second, granted(c.refresh(30*time.Second)), "a shorter wish is granted")
		require.Equal(t, 10*time.Minute, granted(c.refresh()))
	}
	silent := h.client("udp", alpha)
	silent.allocate()

	h.clock.advance(119 * time.Second)
	h.srv.sweepAt(h.clock.now())
	require.Empty(t, h.log.ended())
	h.clock.advance(2 * time.Second)
	h.srv.sweepAt(h.clock.now())
	require.Equal(t, map[string]int{endExpired: 1}, h.log.ended(), "the forgotten one is taken back first")
	require.Equal(t, 437, errorCode(silent.refresh()), "and its client is told")
	h.clock.advance(8 * time.Minute)
	h.srv.sweepAt(h.clock.now())
	require.Equal(t, map[string]int{endExpired: 1 + len(transports)}, h.log.ended())
}

func TestSessionCap(t *testing.T) {
	h := newHost(t, func(h *host) { h.srv.Limits.Session = time.Hour })
	c := h.client("udp", alpha)
	c.allocate()
	require.Zero(t, c.permit(h.sfu[alpha].at))
	require.Zero(t, errorCode(c.refresh()))
	for range 11 {
		h.clock.advance(5 * time.Minute)
		h.srv.sweepAt(h.clock.now())
		require.Zero(t, errorCode(c.refresh()))
	}
	d, _ := lifetime(c.refresh())
	require.LessOrEqual(t, d, 5*time.Minute, "no more is promised than the cap leaves")
	h.clock.advance(5*time.Minute + time.Second)
	h.srv.sweepAt(h.clock.now())
	require.Equal(t, map[string]int{endSession: 1}, h.log.ended())
	require.Equal(t, 437, errorCode(c.refresh()))
}

func TestDeletedByClient(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports {
		c := h.client(transport, alpha)
		c.allocate()
		require.Zero(t, errorCode(c.refresh(0)))
		require.Equal(t, 437, errorCode(c.refresh()))
		c.allocate() // the same client may begin anew
	}
	require.Equal(t, map[string]int{endDeleted: len(transports)}, h.log.ended())
}

// The library's reader of an ended relay deletes whatever its client has allocated since.
func TestDeletedAndAllocatedAgain(t *testing.T) {
	h := newHost(t)
	for _, transport := range []string{"udp", "tcp"} {
		c := h.client(transport, alpha)
		for range 200 {
			c.allocate()
			require.Zero(t, errorCode(c.refresh(0)))
		}
		c.allocate()
		require.Zero(t, c.bind(0x4000, h.sfu[alpha].at))
		c.sendChannel(0x4000, []byte("still here"))
		require.NotNil(t, c.data(patience))
	}
	require.Equal(t, map[string]int{endDeleted: 400}, h.log.ended())
}

func TestRelayEndsWithItsConnection(t *testing.T) {
	h := newHost(t)
	for _, transport := range transports[1:] {
		c := h.client(transport, alpha)
		c.allocate()
		require.NoError(t, c.conn.Close())
	}
	require.Eventually(t, func() bool { return h.log.ended()[endLost] == len(transports)-1 }, patience, 10*time.Millisecond)
	require.Zero(t, h.allocations(alpha))
	require.Eventually(t, func() bool { return h.srv.conns.count() == 0 }, patience, 10*time.Millisecond)
}

func TestFullBlockTakesBackTheSilent(t *testing.T) {
	h := newHost(t, func(h *host) { h.tenant(alpha).Relay.Count = 3 })
	sfu := h.sfu[alpha].at
	busy := h.client("udp", alpha)
	busy.allocate()
	require.Zero(t, busy.permit(sfu))
	older, newer := h.client("udp", alpha), h.client("udp", alpha)
	older.allocate()
	h.clock.advance(time.Second)
	newer.allocate()
	full := h.client("tcp", alpha)
	require.Equal(t, 508, errorCode(full.do(stun.MethodAllocate, requestedTransport(protoUDP))))
	require.Equal(t, 1, h.log.refused()[refuseBlock])

	h.clock.advance(31 * time.Second)
	busy.send(sfu, []byte("talking"))
	require.NotNil(t, busy.data(patience))
	require.Zero(t, errorCode(busy.refresh()), "so that the reader has counted what it sent")
	h.srv.sweepAt(h.clock.now())
	h.client("tcp", alpha).allocate()
	require.Equal(t, map[string]int{endReclaimed: 1}, h.log.ended())
	require.Equal(t, 437, errorCode(older.refresh()), "the one that was silent longest gave way")
	require.Zero(t, errorCode(busy.refresh()))
	require.Zero(t, errorCode(newer.refresh()))
}
