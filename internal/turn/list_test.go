package turn

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/auth"
	"orama.network/orama/internal/fence"
	"orama.network/orama/internal/plan"
)

func TestRelaysAreListedAndEnded(t *testing.T) {
	h := newHost(t)
	list, cut := h.srv.Relays("")
	require.Equal(t, []RelayStatus{}, list, "JSON lists are never null")
	require.False(t, cut)

	a, b := h.client("udp", alpha), h.client("tls", beta)
	at, other := a.allocate(), b.allocate()
	require.Zero(t, a.permit(h.sfu[alpha].at))
	a.send(h.sfu[alpha].at, []byte("hello"))
	require.Equal(t, "hello", string(a.data(patience)))
	h.eventually(func() bool { l, _ := h.srv.Relays(alpha); return len(l) == 1 && l[0].DownPackets == 1 })

	list, _ = h.srv.Relays("")
	require.Len(t, list, 2)
	got := list[0]
	require.Equal(t, RelayStatus{
		ID: fmt.Sprintf("alpha/%d", at.Port()), Namespace: alpha, Transport: "udp", Relay: at,
		Client: a.conn.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort(),
		Since:  got.Since, Expires: got.Expires, UpPackets: 1, UpBytes: 5, DownPackets: 1, DownBytes: 5,
	}, got)
	require.WithinDuration(t, time.Now(), got.Since, patience)
	require.WithinDuration(t, time.Now().Add(h.srv.limits.FirstLifetime), got.Expires, patience)
	require.Equal(t, "tls", list[1].Transport)
	require.Equal(t, other, list[1].Relay)

	only, _ := h.srv.Relays(beta)
	require.Equal(t, list[1:], only)
	none, _ := h.srv.Relays("nobody")
	require.Empty(t, none)

	require.NoError(t, h.srv.EndRelay(got.ID))
	left, _ := h.srv.Relays("")
	require.Equal(t, list[1:], left, "the other lives on")
	require.Equal(t, 437, errorCode(a.refresh()))
	require.Equal(t, 1, h.log.ended()[endOperator])
	require.Equal(t, orama.KindNotFound, orama.KindOf(h.srv.EndRelay(got.ID)))
	for _, id := range []string{"", "alpha", "alpha/", "alpha/0x1", "alpha/99999", "alpha/-1", "alpha/01", "/1/", strings.Repeat("x", 1000)} {
		require.Equal(t, orama.KindInvalid, orama.KindOf(h.srv.EndRelay(id)), id)
	}
}

func (h *host) eventually(ok func() bool) {
	h.t.Helper()
	require.Eventually(h.t, ok, patience, 5*time.Millisecond)
}

// A relay that stands alone reaches what its rules allow, and nothing else, by permissions, channels and packets alike.
func TestRules(t *testing.T) {
	h := newHost(t, func(h *host) {
		alphas := h.tenant(alpha)
		alphas.Allow = nil
		ip := h.sfu[alpha].at
		alphas.Rules = []fence.Rule{{Prefix: netip.PrefixFrom(ip.Addr(), 32), First: ip.Port(), Last: ip.Port()}}
	})
	c, own, others := h.client("udp", alpha), h.sfu[alpha].at, h.sfu[beta].at
	c.allocate()
	require.Equal(t, 403, c.permit(others))
	require.Equal(t, 403, c.bind(0x4000, netip.AddrPortFrom(own.Addr(), own.Port()^1)), "another port of an allowed address")
	require.Zero(t, c.permit(own))
	c.send(own, []byte("hello"))
	require.Equal(t, "hello", string(c.data(patience)))
	require.Zero(t, c.bind(0x4001, own))
	c.sendChannel(0x4001, []byte("again"))
	require.Equal(t, "again", string(c.data(patience)))

	h.tenant(alpha).Rules = nil
	h.apply()
	require.Equal(t, 403, c.permit(own), "a changed rule holds for living relays")
	require.Equal(t, 1, h.allocations(alpha))
}

func TestApplyRefusesRulesAndLimits(t *testing.T) {
	h := newHost(t)
	for name, damage := range map[string]func(*plan.TenantSpec){
		"multicast": func(s *plan.TenantSpec) {
			s.Rules = []fence.Rule{{Prefix: netip.MustParsePrefix("224.0.0.0/4"), First: 1, Last: 1}}
		},
		"no ports":       func(s *plan.TenantSpec) { s.Rules = []fence.Rule{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}} },
		"too many rules": func(s *plan.TenantSpec) { s.Rules = make([]fence.Rule, fence.MaxRules+1) },
		"negative limit": func(s *plan.TenantSpec) { s.Limits.BytesPerSecond = -1 },
		"absurd limit":   func(s *plan.TenantSpec) { s.Limits.ClientAllocations = 1 << 20 },
	} {
		spec := h.spec
		spec.Tenants = append([]plan.TenantSpec(nil), h.spec.Tenants...)
		damage(&spec.Tenants[1])
		require.Equal(t, orama.KindInvalid, orama.KindOf(h.srv.Apply(spec)), name)
	}
}

// Where nothing else is behind 443, TURN answers there whatever name is asked for; and what is left out does not listen.
func TestPortsLeftOut(t *testing.T) {
	h := newHost(t, func(h *host) {
		h.srv.Ports.NoTCP, h.srv.Ports.NoTLS, h.srv.Ports.NoDTLS, h.srv.Ports.Unshared = true, true, true, true
		cert := newCert(t, "relay.example.org")
		h.pool, h.spec.CertPEM, h.spec.KeyPEM = cert.pool, cert.chain, cert.key
	})
	require.Equal(t, []ListenerStatus{
		{Transport: "udp", Addr: h.at(testPorts.UDP)}, {Transport: "tls", Addr: h.at(testPorts.HTTPS)},
	}, h.srv.Status().Listeners)
	conn, err := tls.Dial("tcp4", h.at(testPorts.HTTPS), &tls.Config{RootCAs: h.pool, ServerName: "relay.example.org"})
	require.NoError(t, err)
	defer conn.Close()
	framed := newStream(conn)
	c := &raw{t: t, conn: conn, transport: "tls", read: func(p []byte) (int, error) { b, _, err := framed.next(); return copy(p, b), err }}
	c.as(auth.MintTURN(h.tenant(alpha).Secret, alpha, time.Now().Add(time.Minute)))
	c.allocate()

	s := New(discard(), nil)
	s.Ports = Ports{NoUDP: true, NoTCP: true, NoTLS: true, NoDTLS: true, NoHTTPS: true}
	require.Equal(t, orama.KindInvalid, orama.KindOf(s.Apply(h.spec)))
	require.NoError(t, s.Close())
}
