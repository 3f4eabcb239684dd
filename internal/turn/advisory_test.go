package turn

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama/internal/auth"
)

// What was once wrong with coturn and pion, each by the name under which it was published. All of it goes over
// sockets: these tests know nothing of how the server is made.

// coturn < 4.5.2: a peer of 0.0.0.0, [::] or [::1] reached the relay's own host. GHSA-6g6j-r9rf-cm7p.
func TestCVE_2020_26262_ZeroAddressIsLoopback(t *testing.T) {
	h := newHost(t)
	victim := newEcho(t, netip.MustParseAddr("127.0.0.1"))
	port := victim.at.Port()
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		c.allocate()
		for i, ip := range []string{"0.0.0.0", "0.0.0.1", "0.255.255.255", "127.0.0.1", "127.255.255.255", "::", "::1"} {
			c.tryReach(uint16(0x4100+i), netip.AddrPortFrom(netip.MustParseAddr(ip), port))
		}
		c.reaches(h.sfu[alpha].at)
	}
	require.Zero(t, victim.count())

	// The same where the relay has an IPv6 address, which [::] and [::1] are in reach of.
	victim6 := newEcho6(t)
	h6 := newHost(t, onIPv6(t, victim6), func(h *host) {
		h.tenant(alpha).Allow = []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("2001:db8::5f"), victim6.at.Port())}
	})
	c := h6.client("udp", alpha)
	require.Zero(t, errorCode(c.do(stun.MethodAllocate, requestedTransport(protoUDP), requestedFamily(familyIPv6))))
	for i, ip := range []string{"::", "::1", "0.0.0.0", "127.0.0.1", "::ffff:127.0.0.1", "::127.0.0.1"} {
		c.tryReach(uint16(0x4100+i), netip.AddrPortFrom(netip.MustParseAddr(ip), victim6.at.Port()))
	}
	require.Zero(t, c.permit(h6.tenant(alpha).Allow[0]))
	require.Zero(t, victim6.count())
}

func requestedFamily(f byte) stun.Setter {
	return attr{stun.AttrRequestedAddressFamily, []byte{f, 0, 0, 0}}
}

// coturn < 4.9.0: ::ffff:127.0.0.1 passed denied-peer-ip=127.0.0.0/8. GHSA-j8mm-mpf8-gvjg.
func TestCVE_2026_27624_MappedAddressIsTheAddress(t *testing.T) {
	h := newHost(t)
	local := newEcho(t, netip.MustParseAddr("127.0.0.1"))
	victims := []*echo{local, h.sfu[beta], newEcho(t, h.spec.RelayIP), newEcho(t, h.spec.PublicIP)}
	c := h.client("udp", alpha)
	c.allocate()
	for i, v := range victims {
		c.tryReach(uint16(0x4100+i), mapped(v.at))
	}
	c.tryReach(0x4200, mapped(netip.AddrPortFrom(netip.IPv4Unspecified(), local.at.Port())))
	// The mapped form of a peer that is allowed is no second peer: no port of it opens that was shut.
	neighbour := newEcho(t, h.sfu[alpha].at.Addr())
	c.permit(mapped(neighbour.at))
	require.Contains(t, refusals, c.bind(0x4300, mapped(neighbour.at)))
	c.send(mapped(neighbour.at), []byte("neighbour"))
	c.reaches(h.sfu[alpha].at)
	for _, v := range append(victims, neighbour) {
		require.Zero(t, v.count(), "%s", v.at)
	}
}

func mapped(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(ap.Addr().As16()), ap.Port())
}

// coturn < 4.13.1: IPv4-compatible, 6to4 and NAT64 forms of a denied address were let through.
// GHSA-2x4g-wx24-48m4. Here no form but the address itself is that address, not even of an allowed one.
func TestCVE_2026_73212_EmbeddedAddresses(t *testing.T) {
	sfu := newEcho6(t)
	h4, h6 := newHost(t), newHost(t, onIPv6(t, sfu))
	for name, h := range map[string]*host{"IPv4 relay": h4, "IPv6 relay": h6} {
		t.Run(name, func(t *testing.T) {
			sub := *h
			sub.t = t
			c := sub.client("udp", alpha)
			family := byte(familyIPv4)
			if h == h6 {
				family = familyIPv6
			}
			require.Zero(t, errorCode(c.do(stun.MethodAllocate, requestedTransport(protoUDP), requestedFamily(family))))
			channel := uint16(0x4100)
			for _, at := range []netip.AddrPort{h4.sfu[alpha].at, h4.sfu[beta].at, netip.MustParseAddrPort("127.0.0.1:22"), netip.MustParseAddrPort("169.254.169.254:80")} {
				for form, ip := range embeddings(at.Addr()) {
					t.Log(form, ip)
					c.tryReach(channel, netip.AddrPortFrom(ip, at.Port()))
					channel++
				}
			}
		})
	}
	require.Zero(t, h4.sfu[alpha].count()+h4.sfu[beta].count())
}

// embeddings are the IPv6 addresses that some translator turns into an IPv4 address.
func embeddings(v4 netip.Addr) map[string]netip.Addr {
	ip := v4.As4()
	out := map[string]netip.Addr{}
	put := func(name, prefix string, at int, v [4]byte) {
		b := netip.MustParseAddr(prefix).As16()
		copy(b[at:], v[:])
		out[name] = netip.AddrFrom16(b)
	}
	inverted := ip
	for i := range inverted {
		inverted[i] ^= 0xff
	}
	put("IPv4-compatible", "::", 12, ip)
	put("IPv4-translated", "::ffff:0:0:0", 12, ip)
	put("NAT64", "64:ff9b::", 12, ip)
	put("NAT64 of the network's own", "64:ff9b:1::", 12, ip)
	put("6to4", "2002::", 2, ip)
	put("Teredo server", "2001::", 4, ip)
	put("Teredo client", "2001::", 12, inverted)
	put("ISATAP", "fe80::5efe:0:0", 12, ip)
	return out
}

// coturn < 4.16.0: an IPv6 address inside a denied range was taken for one outside, because bytes were compared
// one by one. GHSA-4v97-rxjj-4f99. A fence of exact entries has no ranges: each neighbour is a stranger.
func TestCVE_2026_73213_NeighboursOfAnIPv6Address(t *testing.T) {
	allowed := netip.MustParseAddrPort("[2001:db8:80:80:80:80:80:80]:7000")
	h := newHost(t, onIPv6(t, newEcho6(t)), func(h *host) { h.tenant(alpha).Allow = []netip.AddrPort{allowed} })
	c := h.client("udp", alpha)
	require.Zero(t, errorCode(c.do(stun.MethodAllocate, requestedTransport(protoUDP), requestedFamily(familyIPv6))))
	require.Zero(t, c.permit(allowed))
	for at := range 16 {
		for _, change := range []byte{0x01, 0x80, 0xff} {
			b := allowed.Addr().As16()
			b[at] ^= change
			require.Equal(t, 403, c.permit(netip.AddrPortFrom(netip.AddrFrom16(b), 7000)), "byte %d", at)
		}
	}
	require.Equal(t, 403, c.bind(0x4000, netip.AddrPortFrom(allowed.Addr(), 7001)))
}

// coturn < 4.5.0.9: relays reached the loopback interface unless somebody forbade it. TALOS-2018-0732.
// Here a namespace that is given nothing reaches nothing.
func TestCVE_2018_4058_NothingIsAllowedByDefault(t *testing.T) {
	h := newHost(t, func(h *host) { h.tenant(alpha).Allow = nil })
	victims := []*echo{h.sfu[alpha], h.sfu[beta], newEcho(t, netip.MustParseAddr("127.0.0.1")), newEcho(t, h.spec.RelayIP)}
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		relay := c.allocate()
		for i, v := range victims {
			c.tryReach(uint16(0x4100+i), v.at)
		}
		for i, at := range []string{"10.0.0.1:53", "192.168.0.1:80", "169.254.169.254:80", "203.0.113.1:9", "224.0.0.1:9", "255.255.255.255:9"} {
			c.tryReach(uint16(0x4200+i), netip.MustParseAddrPort(at))
		}
		c.tryReach(0x4300, relay) // itself
	}
	for _, v := range victims {
		require.Zero(t, v.count(), "%s", v.at)
	}
}

// A permission is for an address with all its ports (RFC 8656 section 9); what it opens is one port.
func TestPermissionOpensNoOtherPort(t *testing.T) {
	h := newHost(t)
	sfu := h.sfu[alpha]
	neighbour := newEcho(t, sfu.at.Addr())
	c := h.client("udp", alpha)
	relay := c.allocate()
	require.Zero(t, c.permit(sfu.at))
	require.Zero(t, c.permit(netip.AddrPortFrom(sfu.at.Addr(), 0)), "the port of a permission means nothing")
	c.send(neighbour.at, []byte("to the neighbour"))
	require.Contains(t, refusals, c.bind(0x4001, neighbour.at))
	_, err := neighbour.conn.WriteToUDPAddrPort([]byte("from the neighbour"), relay)
	require.NoError(t, err)
	c.reaches(sfu.at)
	require.Zero(t, neighbour.count())
}

// pion/turn #570: the permission handler was not asked for TCP allocations, so that RFC 6062 reached what UDP
// could not. Here there are no TCP allocations, and no connection to anybody.
func TestPionTurn570_NoTCPRelayToInternalServices(t *testing.T) {
	h := newHost(t)
	var services []*net.TCPListener
	for _, ip := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), h.sfu[alpha].at.Addr(), h.spec.RelayIP} {
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
		require.NoError(t, err)
		defer l.Close()
		services = append(services, l)
	}
	for _, transport := range transports {
		c := h.ready(transport, alpha)
		require.Equal(t, 442, errorCode(c.do(stun.MethodAllocate, requestedTransport(6))))
		require.Zero(t, h.allocations(alpha), transport)
		c.allocate()
		require.Zero(t, c.permit(h.sfu[alpha].at))
		for _, l := range services {
			at := l.Addr().(*net.TCPAddr).AddrPort()
			for _, m := range []stun.Method{stun.MethodConnect, stun.MethodConnectionBind} {
				a := c.exchange(c.forge(m, func(p *packet) { p.set(peer(at)).add(stun.AttrConnectionID, make([]byte, 4)) }))
				if a != nil {
					require.NotZero(t, errorCode(a))
				}
			}
		}
		require.Zero(t, errorCode(c.refresh(0)))
	}
	for _, l := range services {
		require.NoError(t, l.SetDeadline(h.clock.now().Add(-1)))
		_, err := l.Accept()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "nobody has connected to %s", l.Addr())
	}
}

// coturn < 4.5.0.9: a username went into an SQL query of the administration's web page, which shared the TURN
// port. TALOS-2018-0730. Here a username is two words of fixed form, and there is no page.
func TestCVE_2018_4056_UsernamesAreNoQueries(t *testing.T) {
	h := newHost(t)
	good, _ := auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(patience))
	for _, user := range []string{
		"' OR '1'='1", "admin'--", good + "' OR 1=1 --", good + ";DROP TABLE turnusers_lt", "1:alpha' UNION SELECT 1", good + "\x00", "%s%s%n", "${jndi:x}", "*)(uid=*",
	} {
		c := h.clientAs("udp", user, "x")
		require.Equal(t, 401, errorCode(c.do(stun.MethodAllocate, requestedTransport(protoUDP))), "%q", user)
	}
	require.Zero(t, h.allocations(alpha))
	login := "POST /logon HTTP/1.1\r\nHost: x\r\nContent-Length: 29\r\n\r\nuname=' OR '1'='1&pwd=x&ok=ok"
	for _, transport := range []string{"tcp", "tls", "shared"} {
		getsNothing(t, h.dial(transport), []byte(login))
	}
}

// coturn < 4.5.0.9: an administrator's telnet port without a password. TALOS-2018-0733. Here a server listens where
// its status says, and nowhere else; who talks telnet there is cut off.
func TestCVE_2018_4059_NoTelnet(t *testing.T) {
	h := newHost(t)
	for _, transport := range []string{"tcp", "tls", "shared"} {
		for _, line := range []string{"\xff\xfb\x01\xff\xfb\x03\xff\xfd\x18", "help\r\n", "ps\r\n", "\r\n\r\n", "quit\r\n"} {
			getsNothing(t, h.dial(transport), []byte(line))
		}
	}
	var want []string
	for _, l := range h.srv.Status().Listeners {
		if l.Transport == "tcp" || l.Transport == "tls" {
			want = append(want, l.Addr)
		}
	}
	require.ElementsMatch(t, want, ownListeners(t, h.spec.PublicIP))
}

// ownListeners are the TCP sockets on which this process listens, by address; without those of an address that is
// neither ip nor every address.
func ownListeners(t *testing.T, ip netip.Addr) (out []string) {
	t.Helper()
	mine := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			mine[to] = true
		}
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		require.NoError(t, err)
		for _, line := range strings.Split(string(text), "\n") {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" || !mine["socket:["+f[9]+"]"] {
				continue
			}
			if at := procAddr(t, f[1]); at.Addr() == ip || at.Addr().IsUnspecified() {
				out = append(out, at.String())
			}
		}
	}
	return out
}

// procAddr reads an address of /proc/net: each 32-bit word in the machine's order.
func procAddr(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	ip, port, ok := strings.Cut(text, ":")
	require.True(t, ok)
	var b []byte
	for ; len(ip) >= 8; ip = ip[8:] {
		w, err := strconv.ParseUint(ip[:8], 16, 32)
		require.NoError(t, err)
		b = binary.NativeEndian.AppendUint32(b, uint32(w))
	}
	p, err := strconv.ParseUint(port, 16, 16)
	require.NoError(t, err)
	addr, ok := netip.AddrFromSlice(b)
	require.True(t, ok)
	return netip.AddrPortFrom(addr.Unmap(), uint16(p))
}

// coturn < 4.5.1.2: a POST request to the TURN port, plain or over TLS, read and wrote outside its buffer.
// TALOS-2020-0984, TALOS-2020-0985. Here HTTP on that port gets nothing.
func TestCVE_2020_6061_6062_HTTPGetsNothing(t *testing.T) {
	h := newHost(t)
	living := h.client("tcp", alpha)
	living.allocate()
	for _, transport := range []string{"tcp", "tls", "shared"} {
		for _, request := range []string{
			"POST / HTTP/1.1\r\nContent-Length: 4294967295\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\na",
			"POST / HTTP/1.1\r\n\r\n" + strings.Repeat("a=&", 4000), "POST /?" + strings.Repeat("%", 900) + " HTTP/1.1\r\n\r\n",
			"GET /metrics HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "OPTIONS * HTTP/1.0\r\n\r\n", "HEAD / HTTP/1.0\r\n\r\n",
		} {
			getsNothing(t, h.dial(transport), []byte(request))
		}
	}
	require.Zero(t, errorCode(living.refresh()))
}

// coturn < 4.10.0: an access token's nonce length overran a buffer before anything was checked. GHSA-74pg-rfh2-5qw5.
// Here nobody is offered third-party authorization, and a token is an attribute like any other unknown one.
func TestCVE_2026_43994_NoOAuth(t *testing.T) {
	h := newHost(t)
	c := h.client("udp", alpha)
	first := c.request(stun.MethodAllocate, requestedTransport(protoUDP))
	c.write(first.Raw)
	offered := c.answer(first.TransactionID, patience)
	require.Equal(t, 401, errorCode(offered))
	require.False(t, offered.Contains(attrThirdParty), "RFC 7635 is not offered")
	for _, nonceLen := range []uint16{0, 12, 256, 991, 0xffff} {
		token := append(binary.BigEndian.AppendUint16(nil, nonceLen), make([]byte, 990)...)
		unsigned := newPacket(stun.MethodAllocate, stun.ClassRequest).set(requestedTransport(protoUDP)).add(attrAccessToken, token)
		a := c.exchange(unsigned)
		require.NotNil(t, a)
		require.Contains(t, []int{401, 420}, errorCode(a))
		a = c.exchange(c.forge(stun.MethodAllocate, func(p *packet) { p.set(requestedTransport(protoUDP)).add(attrAccessToken, token) }))
		require.NotNil(t, a)
		require.NotZero(t, errorCode(a), "an attribute that must be understood and is not")
	}
	require.Zero(t, h.allocations(alpha))
	c.allocate()
}

// coturn < 4.17.0: EVEN-PORT without the reservation bit took the odd port above for ever, until every
// Allocate got 508. GHSA-847g-qmc6-6m4r.
func TestCVE_2026_73215_EvenPortLeaksNoPort(t *testing.T) {
	h := newHost(t, func(h *host) { h.tenant(alpha).Relay.First, h.tenant(alpha).Relay.Count = 50000, 8 })
	user, credential := auth.MintTURN(h.tenant(alpha).Secret, alpha, h.clock.expiry(24*time.Hour))
	c := h.clientAs("udp", user, credential)
	for range 40 {
		for _, r := range []byte{0, 0, 0x80} {
			a := c.do(stun.MethodAllocate, requestedTransport(protoUDP), attr{stun.AttrEvenPort, []byte{r}})
			if errorCode(a) == 0 {
				require.Zero(t, errorCode(c.refresh(0)))
			}
			if r != 0 {
				h.clock.advance(31 * time.Second) // past the end of a reservation
				h.srv.sweepAt(h.clock.now())
			}
		}
	}
	for i := range 8 {
		h.client("udp", alpha).allocate()
		require.Equal(t, i+1, h.allocations(alpha))
	}
}

// coturn < 4.17.0: a client with mobility gave its quota back by hanging up, and kept the relay.
// GHSA-f6hc-79w3-p8pq. Here there is no mobility: relay, port and quota go with the connection.
func TestCVE_2026_73216_HangingUpKeepsNoRelay(t *testing.T) {
	h := newHost(t, func(h *host) { h.tenant(alpha).Relay.Count = 4 })
	for range 3 {
		var held []netip.AddrPort
		for i := range 4 {
			c := h.client([]string{"tcp", "tls", "shared", "tcp"}[i], alpha)
			a := c.do(stun.MethodAllocate, requestedTransport(protoUDP), attr{attrMobilityTicket, nil})
			require.Zero(t, errorCode(a), "an attribute that may be ignored")
			require.False(t, a.Contains(attrMobilityTicket))
			var relayed stun.XORMappedAddress
			require.NoError(t, relayed.GetFromAs(a, stun.AttrXORRelayedAddress))
			held = append(held, netip.MustParseAddrPort(fmt.Sprint(relayed)))
			c.conn.Close()
		}
		require.Eventually(t, func() bool { return h.allocations(alpha) == 0 }, patience, 1e6)
		for _, at := range held {
			c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
			require.NoError(t, err, "the port is free")
			c.Close()
		}
	}
}
