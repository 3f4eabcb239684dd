package dns

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama"
)

func withCancel(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(context.WithoutCancel(t.Context()))
}

func TestAnswers(t *testing.T) {
	_, addr := serve(t, Options{}, demoZone())
	for _, c := range []struct {
		name  string
		typ   uint16
		rcode int
		want  []string
	}{
		{"orama.test", dns.TypeA, dns.RcodeSuccess, []string{"203.0.113.1", "203.0.113.2"}},
		{"turn.ns-demo.orama.test", dns.TypeA, dns.RcodeSuccess, []string{"203.0.113.1", "203.0.113.2"}},
		{"TURN.ns-Demo.Orama.TEST", dns.TypeA, dns.RcodeSuccess, []string{"203.0.113.1", "203.0.113.2"}},
		{"turn-2.ns-demo.orama.test", dns.TypeAAAA, dns.RcodeSuccess, []string{"2001:db8::2"}},
		{"_acme-challenge.ns-demo.orama.test", dns.TypeTXT, dns.RcodeSuccess, []string{`"a \"b\" \\c"`, `"second"`}},
		{"orama.test", dns.TypeCAA, dns.RcodeSuccess, []string{`0 issue "letsencrypt.org"`}},
		{"orama.test", dns.TypeNS, dns.RcodeSuccess, []string{"dns.elsewhere.example.", "ns1.orama.test.", "ns2.orama.test."}},
		{"orama.test", dns.TypeSOA, dns.RcodeSuccess, []string{"ns1.orama.test. hostmaster.orama.test. 7 3600 600 604800 30"}},
		{"turn.ns-demo.orama.test", dns.TypeANY, dns.RcodeSuccess, []string{`"RFC8482" ""`}},
		// There, but not of that type; there only because something is below.
		{"turn.ns-demo.orama.test", dns.TypeAAAA, dns.RcodeSuccess, nil},
		{"ns-demo.orama.test", dns.TypeA, dns.RcodeSuccess, nil},
		{"orama.test", dns.TypeTXT, dns.RcodeSuccess, nil},
		{"orama.test", dns.TypeDS, dns.RcodeSuccess, nil},
		// Not there.
		{"turn.ns-other.orama.test", dns.TypeA, dns.RcodeNameError, nil},
		{"turn-3.ns-demo.orama.test", dns.TypeA, dns.RcodeNameError, nil},
		{"below.turn.ns-demo.orama.test", dns.TypeANY, dns.RcodeNameError, nil},
		// Not ours.
		{"example.org", dns.TypeA, dns.RcodeRefused, nil},
		{"test", dns.TypeSOA, dns.RcodeRefused, nil},
		{".", dns.TypeNS, dns.RcodeRefused, nil},
		{"notorama.test", dns.TypeA, dns.RcodeRefused, nil},
		{"orama.test", dns.TypeAXFR, dns.RcodeRefused, nil},
		{"orama.test", dns.TypeIXFR, dns.RcodeRefused, nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(fmt.Sprintf("%s %s %s", c.name, dns.TypeToString[c.typ], network), func(t *testing.T) {
				m := ask(t, network, addr, c.name, c.typ)
				require.Equal(t, c.rcode, m.Rcode)
				got := data(m.Answer)
				slices.Sort(got)
				require.Equal(t, c.want, got)
				require.False(t, m.RecursionAvailable)
				require.Equal(t, c.rcode != dns.RcodeRefused, m.Authoritative)
				require.Equal(t, dns.Fqdn(c.name), m.Question[0].Name, "the case as it was asked")
				for _, rr := range m.Answer {
					require.Equal(t, dns.Fqdn(c.name), rr.Header().Name)
				}
				if c.rcode == dns.RcodeRefused || len(c.want) > 0 {
					require.Empty(t, m.Ns)
					return
				}
				require.Len(t, m.Ns, 1)
				require.Equal(t, dns.TypeSOA, m.Ns[0].Header().Rrtype)
				require.Equal(t, "orama.test.", m.Ns[0].Header().Name)
				require.EqualValues(t, negativeTTL, m.Ns[0].Header().Ttl)
			})
		}
	}
}

func TestNameServersComeWithTheirAddresses(t *testing.T) {
	_, addr := serve(t, Options{}, demoZone())
	extra := data(ask(t, "udp", addr, "orama.test", dns.TypeNS).Extra)
	slices.Sort(extra)
	require.Equal(t, []string{"2001:db8::2", "203.0.113.1"}, extra)
}

func TestOneSetHasOneTTL(t *testing.T) {
	_, addr := serve(t, Options{}, demoZone())
	for _, rr := range ask(t, "udp", addr, "_acme-challenge.ns-demo.orama.test", dns.TypeTXT).Answer {
		require.EqualValues(t, 5, rr.Header().Ttl)
	}
}

func TestOtherClassesAndOperations(t *testing.T) {
	_, addr := serve(t, Options{}, demoZone())
	q := new(dns.Msg)
	q.SetQuestion("version.bind.", dns.TypeTXT)
	q.Question[0].Qclass = dns.ClassCHAOS
	require.Equal(t, dns.RcodeRefused, send(t, "udp", addr, q).Rcode)

	q = new(dns.Msg)
	q.SetNotify("orama.test.")
	require.Equal(t, dns.RcodeNotImplemented, send(t, "udp", addr, q).Rcode)
	q = new(dns.Msg)
	q.SetUpdate("orama.test.")
	require.Equal(t, dns.RcodeNotImplemented, send(t, "tcp", addr, q).Rcode)

	q = new(dns.Msg)
	q.SetQuestion("orama.test.", dns.TypeA)
	q.Question = append(q.Question, q.Question[0])
	require.Equal(t, dns.RcodeFormatError, send(t, "udp", addr, q).Rcode)
}

func TestEDNS(t *testing.T) {
	_, addr := serve(t, Options{}, demoZone())
	q := new(dns.Msg)
	q.SetQuestion("orama.test.", dns.TypeA)
	require.Nil(t, send(t, "udp", addr, q).IsEdns0(), "not asked for")
	q.SetEdns0(4096, true)
	opt := send(t, "udp", addr, q).IsEdns0()
	require.NotNil(t, opt)
	require.True(t, opt.Do())
	require.EqualValues(t, udpSize, opt.UDPSize())
	require.Zero(t, opt.Version())

	q.IsEdns0().SetVersion(1)
	m := send(t, "udp", addr, q)
	require.Equal(t, dns.RcodeBadVers, m.Rcode)
	require.Zero(t, m.IsEdns0().Version())
	require.Empty(t, m.Answer)

	q = new(dns.Msg)
	q.SetQuestion("orama.test.", dns.TypeA)
	q.SetEdns0(1232, false)
	q.Extra = append(q.Extra, q.Extra[0])
	require.Equal(t, dns.RcodeFormatError, send(t, "udp", addr, q).Rcode)
}

// What does not fit is cut with TC, at what the client can take and never above what we send; TCP has it all.
func TestTruncation(t *testing.T) {
	z := demoZone()
	for i := range 200 {
		z.Records = append(z.Records, orama.DNSRecord{Name: "many.orama.test", Value: netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), TTL: 1})
	}
	_, addr := serve(t, Options{}, z)
	for size, limit := range map[uint16]int{0: 512, 100: 512, 512: 512, 900: 900, 1232: 1232, 4096: 1232, 65535: 1232} {
		q := new(dns.Msg)
		q.SetQuestion("many.orama.test.", dns.TypeA)
		if size > 0 {
			q.SetEdns0(size, false)
		}
		c, err := net.Dial("udp", addr)
		require.NoError(t, err)
		defer c.Close()
		wire, err := q.Pack()
		require.NoError(t, err)
		_, err = c.Write(wire)
		require.NoError(t, err)
		buf := make([]byte, 65536)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		n, err := c.Read(buf)
		require.NoError(t, err)
		require.LessOrEqual(t, n, limit)
		var m dns.Msg
		require.NoError(t, m.Unpack(buf[:n]))
		require.True(t, m.Truncated)
		require.Equal(t, size > 0, m.IsEdns0() != nil)
	}
	m := ask(t, "tcp", addr, "many.orama.test", dns.TypeA)
	require.False(t, m.Truncated)
	require.Len(t, m.Answer, 200)
}

// Every record given is answered, and nothing that was not given.
func TestExactlyWhatWasGiven(t *testing.T) {
	labels := rapid.SampledFrom([]string{"a", "b", "turn", "turn-1", "ns-x", "_t", "A"})
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.Custom(func(t *rapid.T) string {
			return strings.Join(append(rapid.SliceOfN(labels, 0, 3).Draw(t, "labels"), "orama.test"), ".")
		})
		z := Zone{Base: "orama.test", Nameservers: []string{"ns.example"}}
		given := map[string]bool{}
		exists := map[string]bool{"orama.test": true}
		for range rapid.IntRange(0, 12).Draw(t, "records") {
			n := name.Draw(t, "name")
			low := strings.ToLower(n)
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				a := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "a")})
				z.Records = append(z.Records, orama.DNSRecord{Name: n, Value: a, TTL: 60})
				given[low+" A "+a.String()] = true
			case 1:
				a := netip.AddrFrom16([16]byte{0x20, 1, 15: rapid.Byte().Draw(t, "aaaa")})
				z.Records = append(z.Records, orama.DNSRecord{Name: n, Value: a, TTL: 60})
				given[low+" AAAA "+a.String()] = true
			case 2:
				v := rapid.StringN(1, 20, 60).Draw(t, "text")
				z.TXT = append(z.TXT, orama.TXTRecord{Name: n, Value: v, TTL: 60})
				given[low+" TXT "+v] = true
			}
			for d := low; d != "orama.test"; _, d, _ = strings.Cut(d, ".") {
				exists[d] = true
			}
		}
		compiled, err := compile(z)
		require.NoError(t, err)
		answered := map[string]bool{}
		for low := range exists {
			for _, typ := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
				m := handle(t, compiled, low, typ)
				require.Equal(t, dns.RcodeSuccess, m.Rcode, low)
				for _, rr := range m.Answer {
					answered[line(rr)] = true
				}
			}
		}
		require.Equal(t, given, answered)
		other := strings.ToLower(name.Draw(t, "other"))
		m := handle(t, compiled, other, dns.TypeA)
		require.Equal(t, exists[other], m.Rcode == dns.RcodeSuccess, other)
	})
}

func line(rr dns.RR) string {
	n := strings.ToLower(strings.TrimSuffix(rr.Header().Name, "."))
	switch rr := rr.(type) {
	case *dns.A:
		return n + " A " + rr.A.String()
	case *dns.AAAA:
		return n + " AAAA " + rr.AAAA.String()
	case *dns.TXT:
		return n + " TXT " + unescape(strings.Join(rr.Txt, ""))
	}
	return rr.String()
}

func handle(t require.TestingT, z *zone, name string, typ uint16) *dns.Msg {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), typ)
	wire, err := q.Pack()
	require.NoError(t, err)
	m := new(dns.Msg)
	require.NoError(t, m.Unpack(z.reply(wire, false, false)))
	return m
}

func TestWhatCannotBeServedIsNamed(t *testing.T) {
	z := demoZone()
	z.Records = append(z.Records, rec("example.org", "203.0.113.1"), rec(`a\.b.orama.test`, "203.0.113.1"),
		rec("*.orama.test", "203.0.113.1"), orama.DNSRecord{Name: "none.orama.test"})
	z.TXT = append(z.TXT, orama.TXTRecord{Name: "t.orama.test", Value: strings.Repeat("x", 256)})
	z.Nameservers = append(z.Nameservers, "lame.orama.test")
	s := NewServer(Options{})
	err := s.Set(z)
	for _, part := range []string{"example.org", `a\\.b`, "*.orama.test", "none.orama.test", "t.orama.test", "lame.orama.test"} {
		require.ErrorContains(t, err, part)
	}
	require.EqualValues(t, 7, s.Serial(), "the rest is served")
	require.Equal(t, dns.RcodeSuccess, handle(t, s.zone.Load(), "turn.ns-demo.orama.test", dns.TypeA).Rcode)

	for _, bad := range []Zone{{}, {Base: "a b"}, {Base: "orama.test"}, {Base: "orama.test", Nameservers: []string{"ns1.orama.test"}}} {
		require.Error(t, s.Set(bad))
		require.EqualValues(t, 7, s.Serial(), "the old one stays")
	}
}

func TestTheSerialRisesWithTheContent(t *testing.T) {
	s := NewServer(Options{})
	z := demoZone()
	require.NoError(t, s.Set(z))
	require.NoError(t, s.Set(z))
	require.EqualValues(t, 7, s.Serial())
	z.TXT = nil
	require.NoError(t, s.Set(z))
	require.EqualValues(t, 8, s.Serial())
	require.Contains(t, data(handle(t, s.zone.Load(), "orama.test", dns.TypeSOA).Answer)[0], " 8 ")
	z.Serial = 6
	require.NoError(t, s.Set(z))
	require.EqualValues(t, 8, s.Serial(), "never back")
	z.Serial = 20
	require.NoError(t, s.Set(z))
	require.EqualValues(t, 20, s.Serial())
}

func TestBeforeThereIsAZone(t *testing.T) {
	s, addr := serve(t, Options{}, Zone{})
	require.Equal(t, dns.RcodeServerFailure, ask(t, "udp", addr, "orama.test", dns.TypeA).Rcode)
	require.ErrorContains(t, s.Check(t.Context()), "no zone")
	require.NoError(t, s.Set(demoZone()))
	require.NoError(t, s.Check(t.Context()))
	require.Equal(t, dns.RcodeSuccess, ask(t, "udp", addr, "orama.test", dns.TypeA).Rcode)
}

func TestCheckSeesAServerThatDoesNotListen(t *testing.T) {
	s := NewServer(Options{Listen: []string{"127.0.0.1:0"}})
	require.NoError(t, s.Set(demoZone()))
	require.ErrorContains(t, s.Check(t.Context()), "not listening")
	require.NoError(t, s.Listen())
	ctx, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, s.Run(ctx))
	require.Error(t, s.Check(t.Context()), "its sockets are closed")
}

// The answer to a wildcard address comes from the address that was asked.
func TestAnswersComeFromWhereTheyWereAsked(t *testing.T) {
	s, _ := serve(t, Options{Listen: []string{"0.0.0.0:0"}}, demoZone())
	require.NoError(t, s.Check(t.Context()))
	m := ask(t, "udp", fmt.Sprintf("127.0.0.77:%d", s.Addrs()[0].Port()), "orama.test", dns.TypeA)
	require.Len(t, m.Answer, 2, "a connected socket takes answers of its peer only")
}

func TestATakenPortIsExplained(t *testing.T) {
	_, addr := serve(t, Options{}, demoZone())
	err := NewServer(Options{Listen: []string{addr}}).Run(t.Context())
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.ErrorContains(t, err, addr)
	require.ErrorContains(t, err, "dns.test (process ", "the test binary holds it")

	l, err := net.Listen("tcp", "127.0.0.1:0") // TCP alone
	require.NoError(t, err)
	defer l.Close()
	err = NewServer(Options{Listen: []string{l.Addr().String()}}).Run(t.Context())
	require.ErrorContains(t, err, "(tcp)")
	require.ErrorContains(t, err, "holds the port")

	err = NewServer(Options{Listen: []string{"192.0.2.1:0"}}).Run(t.Context())
	require.ErrorContains(t, err, "this host does not have that address")
	require.ErrorContains(t, NewServer(Options{}).Run(t.Context()), "no address")
}

// Over the budget of its network a source gets TC and silence by turns; another network, and TCP, do not notice.
func TestResponsesAreLimitedByNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(10)
		judge := func(addr string, n int) (out [3]int) {
			for range n {
				out[l.judge(netip.MustParseAddr(addr))]++
			}
			return out
		}
		require.Equal(t, [3]int{20, 5, 5}, judge("203.0.113.1", 30), "two seconds' worth at once, then slips and drops")
		require.Equal(t, [3]int{0, 5, 5}, judge("203.0.113.200", 10), "the same /24")
		require.Equal(t, [3]int{0, 1, 1}, judge("::ffff:203.0.113.7", 2), "however it is written")
		require.Equal(t, [3]int{20, 0, 0}, judge("203.0.112.1", 20))
		require.Equal(t, [3]int{20, 1, 0}, judge("2001:db8:0:1::1", 21))
		require.Equal(t, [3]int{0, 1, 1}, judge("2001:db8:0:2::1", 2), "the same /56")
		time.Sleep(500 * time.Millisecond)
		require.Equal(t, [3]int{5, 1, 1}, judge("203.0.113.1", 7))
		time.Sleep(time.Hour)
		require.Equal(t, 20, judge("203.0.113.1", 30)[pass], "no more than the burst is saved up")
	})
}

func TestASlipSendsToTCP(t *testing.T) {
	s, addr := serve(t, Options{ResponsesPerSecond: 1}, demoZone())
	var cut int
	for range 20 {
		q := new(dns.Msg)
		q.SetQuestion("orama.test.", dns.TypeA)
		wire, err := q.Pack()
		require.NoError(t, err)
		out := s.handleUDP(wire, netip.MustParseAddr("127.0.0.1"))
		require.LessOrEqual(t, len(out), 512)
		if len(out) == len(wire) { // a header and the question
			cut++
		}
	}
	require.InDelta(t, 9, cut, 1)
	require.Positive(t, s.Stats().Limited)
	require.Len(t, ask(t, "tcp", addr, "orama.test", dns.TypeA).Answer, 2)
}

func TestTCPConnectionsAreBounded(t *testing.T) {
	_, addr := serve(t, Options{}, demoZone())
	var conns []*dns.Conn
	for range maxConnsOf {
		c, err := dns.Dial("tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		q := new(dns.Msg)
		q.SetQuestion("orama.test.", dns.TypeA)
		for range 2 { // several queries on one connection
			require.NoError(t, c.WriteMsg(q))
			m, err := c.ReadMsg()
			require.NoError(t, err)
			require.Len(t, m.Answer, 2)
		}
		conns = append(conns, c)
	}
	over, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer over.Close()
	require.NoError(t, over.SetReadDeadline(time.Now().Add(5*time.Second)))
	_, err = over.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "one too many is closed, not kept waiting")

	require.NoError(t, conns[0].Close())
	require.Eventually(t, func() bool {
		c := &dns.Client{Net: "tcp"}
		q := new(dns.Msg)
		q.SetQuestion("orama.test.", dns.TypeA)
		_, _, err := c.Exchange(q, addr)
		return err == nil
	}, 5*time.Second, 10*time.Millisecond, "one that ends makes room")
}

func TestGarbageOverTCPEndsTheConnection(t *testing.T) {
	_, addr := serve(t, Options{}, demoZone())
	for _, wire := range []string{"\xff\xff", "\x00\x01x", "\x00\x0c\x00\x01\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		c, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer c.Close()
		_, err = io.WriteString(c, wire)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		_, err = c.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "%q", wire)
	}
}

func TestDig(t *testing.T) {
	dig := tool(t, "dig")
	_, addr := serve(t, Options{}, demoZone())
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	run := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, dig, append([]string{"@" + host, "-p", port, "+time=3", "+tries=2"}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	sorted := func(s string) []string { l := strings.Fields(s); slices.Sort(l); return l }
	require.Equal(t, []string{"203.0.113.1", "203.0.113.2"}, sorted(run("+short", "turn.ns-demo.orama.test", "A")))
	require.Equal(t, []string{"203.0.113.1", "203.0.113.2"}, sorted(run("+short", "+tcp", "turn.ns-demo.orama.test", "A")))
	require.Equal(t, "2001:db8::2\n", run("+short", "turn-2.ns-demo.orama.test", "AAAA"))
	require.Contains(t, run("nothing.orama.test", "A"), "status: NXDOMAIN")
	require.Contains(t, run("example.org", "A"), "status: REFUSED")
	require.Contains(t, run("version.bind", "CH", "TXT"), "status: REFUSED")
	out := run("+norec", "+dnssec", "orama.test", "SOA")
	require.Contains(t, out, "flags: qr aa;")
	require.Contains(t, out, "EDNS: version: 0, flags: do; udp: 1232")
	require.NotContains(t, out, "WARNING")
	require.Contains(t, run("+edns=5", "+noednsneg", "orama.test", "SOA"), "status: BADVERS")
	require.Contains(t, run("orama.test", "AXFR"), "Transfer failed")
}

// FuzzReply: whatever comes in, nothing breaks, and over UDP the answer is no longer than was asked for.
func FuzzReply(f *testing.F) {
	for _, name := range []string{"orama.test.", "turn.ns-demo.orama.test.", "x.orama.test.", ".", "example.org."} {
		for _, typ := range []uint16{dns.TypeA, dns.TypeANY, dns.TypeNS, dns.TypeAXFR} {
			q := new(dns.Msg)
			q.SetQuestion(name, typ)
			plain, _ := q.Pack()
			q.SetEdns0(700, true)
			edns, _ := q.Pack()
			f.Add(plain, true)
			f.Add(edns, false)
		}
	}
	f.Add([]byte{}, true)
	f.Add(make([]byte, 12), true)
	u := new(dns.Msg)
	u.SetUpdate("orama.test.")
	update, _ := u.Pack()
	f.Add(update, true)
	z := demoZone()
	for i := range 100 {
		z.Records = append(z.Records, orama.DNSRecord{Name: "x.orama.test", Value: netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), TTL: 1})
	}
	full, err := compile(z)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, query []byte, slip bool) {
		for _, z := range []*zone{full, nil} {
			for _, udp := range []bool{true, false} {
				out := z.reply(query, udp, slip)
				if out == nil {
					require.True(t, len(query) < headerSize || query[2]&0x80 != 0, "a query without an answer")
					continue
				}
				require.GreaterOrEqual(t, len(out), headerSize)
				require.Equal(t, query[:2], out[:2], "the id")
				require.NotZero(t, out[2]&0x80, "an answer")
				var q, m dns.Msg
				require.NoError(t, m.Unpack(out))
				limit := dns.MaxMsgSize
				if udp {
					limit = 512
					if q.Unpack(query) == nil && q.IsEdns0() != nil {
						limit = min(max(512, int(q.IsEdns0().UDPSize())), udpSize)
					}
				}
				require.LessOrEqual(t, len(out), limit)
				if slip {
					require.Empty(t, m.Answer)
				}
			}
		}
	})
}
