package turn

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"

	"orama.network/orama"
)

func leasing(h *host) { h.srv.UseLeases() }

// events reads a lease's lines until one says text.
func saysUntil(t *testing.T, l *Lease, text string) []string {
	t.Helper()
	var lines []string
	late := time.After(patience)
	for {
		select {
		case e := <-l.Events():
			lines = append(lines, e.Text)
			if strings.Contains(e.Text, text) {
				return lines
			}
		case <-late:
			t.Fatalf("no line says %q; there were %q", text, lines)
		}
	}
}

func TestServedWhileLeased(t *testing.T) {
	h := newHost(t, leasing)
	require.Equal(t, []orama.NamespaceID{alpha, beta}, h.srv.Status().Unleased)
	require.Empty(t, h.srv.Status().Tenants)
	require.Equal(t, 401, errorCode(h.client("udp", alpha).do(stun.MethodAllocate, requestedTransport(protoUDP))), "nobody holds a lease")

	lease, err := h.srv.Lease(alpha)
	require.NoError(t, err)
	require.Equal(t, LeaseEvent{Served: true}, lease.Now())
	require.Equal(t, []orama.NamespaceID{beta}, h.srv.Status().Unleased)
	h.client("udp", alpha).allocate()
	saysUntil(t, lease, "relay opened client=")
	require.Equal(t, 1, lease.Now().Allocations)

	wrong := h.clientAs("udp", "9999999999:"+string(alpha), "wrong")
	require.Equal(t, 401, errorCode(wrong.do(stun.MethodAllocate, requestedTransport(protoUDP))))
	saysUntil(t, lease, "reason=wrong_credential")

	lease.Release()
	<-lease.Ended()
	require.Empty(t, h.srv.Status().Tenants)
	require.Zero(t, h.allocations(alpha))
	for _, line := range saysUntil(t, lease, "reason=lease_ended") {
		require.NotContains(t, line, h.tenant(alpha).Secret)
	}
	lease.Release() // again: nothing
}

func TestLeaseBeforeConfiguration(t *testing.T) {
	var lease *Lease
	h := newHost(t, leasing, func(h *host) {
		var err error
		lease, err = h.srv.Lease(beta)
		require.NoError(t, err)
		require.False(t, lease.Now().Served, "the agent has named nobody yet")
	})
	require.True(t, lease.Now().Served)
	h.client("udp", beta).allocate()
	h.spec.Tenants = h.spec.Tenants[:1]
	h.apply()
	saysUntil(t, lease, "reason=namespace_removed")
	require.False(t, lease.Now().Served)
}

func TestOneLeaseOfANamespace(t *testing.T) {
	h := newHost(t, leasing)
	first, err := h.srv.Lease(alpha)
	require.NoError(t, err)
	_, err = h.srv.Lease(alpha)
	require.Equal(t, orama.KindConflict, orama.KindOf(err))
	_, err = h.srv.Lease("Not Valid")
	require.Error(t, err)

	// Its holder vanishes and comes back: nobody loses a relay.
	h.client("udp", alpha).allocate()
	first.Abandon()
	second, err := h.srv.Lease(alpha)
	require.NoError(t, err)
	<-first.Ended()
	first.Release()
	require.Equal(t, 1, h.allocations(alpha), "what is over releases nothing")

	// It vanishes for good.
	second.Abandon()
	select {
	case <-second.Ended():
	case <-time.After(leaseGrace + patience):
		t.Fatal("the lease outlived its holder")
	}
	require.Zero(t, h.allocations(alpha))
}

func TestLeasesEndWithTheServer(t *testing.T) {
	h := newHost(t, leasing)
	lease, err := h.srv.Lease(alpha)
	require.NoError(t, err)
	other, err := h.srv.Lease(beta)
	require.NoError(t, err)
	other.Abandon()
	require.NoError(t, h.srv.Close())
	<-lease.Ended()
	<-other.Ended()
	_, err = h.srv.Lease(alpha)
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	lease.Release()
}

func TestUnreadEventsAreCounted(t *testing.T) {
	h := newHost(t, leasing)
	lease, err := h.srv.Lease(alpha)
	require.NoError(t, err)
	for range maxUnread + 7 {
		h.srv.tellHolder(line{msg: "turn: line", args: []any{"namespace", alpha}})
	}
	require.Len(t, lease.Events(), maxUnread)
	require.EqualValues(t, 7, lease.Now().Lost)
	require.Zero(t, lease.Now().Lost)
	h.srv.tellHolder(line{msg: "turn: line", args: []any{"namespace", beta}})  // nobody's
	h.srv.tellHolder(line{msg: "turn: line", args: []any{"transport", "udp"}}) // about no namespace
}

func TestWithoutLeasesThereAreNone(t *testing.T) {
	h := newHost(t)
	_, err := h.srv.Lease(alpha)
	require.Equal(t, orama.KindConflict, orama.KindOf(err))
	require.Empty(t, h.srv.Status().Unleased)
	h.client("udp", alpha).allocate()
}

// What the node itself does to see whether its relay serves is in no tenant's log, unless it goes wrong.
func TestOwnLooksAreNoLines(t *testing.T) {
	h := newHost(t, leasing)
	lease, err := h.srv.Lease(alpha)
	require.NoError(t, err)
	own, other := netip.AddrPortFrom(h.spec.PublicIP, 5), netip.MustParseAddrPort("203.0.113.1:5")
	say := func(msg string, who netip.AddrPort) {
		h.srv.tellHolder(line{msg: msg, args: []any{"namespace", alpha, "client", who}})
	}
	say("turn: relay opened", own)
	say("turn: relay ended", own)
	say("turn: refused", own)
	say("turn: relay opened", other)
	require.Equal(t, []string{"refused client=" + own.String(), "relay opened client=203.0.113.1:5"}, saysUntil(t, lease, "opened"))
}

func TestLineText(t *testing.T) {
	ns, text := lineText(line{msg: "turn: refused", args: []any{"namespace", alpha, "client", "203.0.113.1:4", "note", "a \"b\"\n", "none", "", "odd"}})
	require.Equal(t, alpha, ns)
	require.Equal(t, `refused client=203.0.113.1:4 note="a \"b\"\n" none=""`, text)
}
