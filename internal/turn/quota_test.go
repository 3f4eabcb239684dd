package turn

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/plan"
)

// Over any time no more passes than the burst and what the rate gives, and who asks for less is never refused.
func TestQuota(t *testing.T) {
	require.True(t, newQuota(0, 0).take(1<<30, 0), "none")
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1000, 1e9).Draw(t, "rate")
		burst := rapid.Int64Range(2000, 1e7).Draw(t, "burst")
		q, now, passed := newQuota(rate, burst), int64(1e18), int64(0)
		began := now
		for range rapid.IntRange(1, 200).Draw(t, "packets") {
			now += rapid.Int64Range(0, 5e7).Draw(t, "pause")
			size := rapid.IntRange(1, 1500).Draw(t, "size")
			allowed := float64(burst) + float64(rate)*float64(now-began)/1e9
			ok := q.take(size, now)
			if ok {
				passed += int64(size)
			}
			require.LessOrEqual(t, float64(passed), allowed*1.001+1, "more than the rate gives")
			if !ok {
				require.Greater(t, float64(passed+int64(size)), float64(burst)*0.999-1, "refused below the burst")
			}
		}
	})
}

func TestQuotasOfAllocations(t *testing.T) {
	h := newHost(t, func(h *host) { h.tenant(alpha).Limits = plan.TenantLimits{Allocations: 3} })
	var held []*raw
	for range 3 {
		c := h.client("udp", alpha)
		c.allocate()
		held = append(held, c)
	}
	late := h.client("tcp", alpha)
	require.Equal(t, 486, errorCode(late.do(stun.MethodAllocate, requestedTransport(protoUDP))))
	require.Equal(t, 1, h.log.refused()[refuseQuota])
	h.client("udp", beta).allocate()
	require.Zero(t, errorCode(held[0].refresh(0)))
	late.allocate()

	h.tenant(alpha).Limits = plan.TenantLimits{ClientAllocations: 3}
	h.apply()
	more := h.client("udp", alpha)
	require.Equal(t, 486, errorCode(more.do(stun.MethodAllocate, requestedTransport(protoUDP))), "counted for this client's address")
	require.Equal(t, 1, h.log.refused()[refuseClientCap])
	h.tenant(alpha).Limits = plan.TenantLimits{}
	h.apply()
	more.allocate()
	require.Empty(t, h.log.ended()[endRemoved], "limits change without an end")
}

// A namespace at ten times its quota loses what is too much, and another's packets arrive, all of them, when they did
// before.
func TestOneNamespaceOverItsQuotaLeavesAnotherAlone(t *testing.T) {
	const quota = 200_000 // bytes a second
	h := newHost(t, func(h *host) {
		h.tenant(alpha).Limits = plan.TenantLimits{BytesPerSecond: quota, BurstBytes: quota / 10}
	})
	quiet := h.ready("udp", beta)
	quiet.allocate()
	require.Zero(t, quiet.bind(0x4000, h.sfu[beta].at))
	talk := func() (rtt []time.Duration) {
		for i := range 50 {
			sent := bytes.Repeat([]byte{byte(i)}, 160)
			began := time.Now()
			quiet.sendChannel(0x4000, sent)
			require.Equal(t, sent, quiet.data(patience), "lost")
			rtt = append(rtt, time.Since(began))
		}
		slices.Sort(rtt)
		return rtt
	}
	before := talk()

	loud := h.ready("udp", alpha)
	loud.allocate()
	require.Zero(t, loud.bind(0x4000, h.sfu[alpha].at))
	stop, stopped := make(chan struct{}), make(chan struct{})
	sent := 0
	began := time.Now()
	go func() {
		defer close(stopped)
		packet := append([]byte{0x40, 0, 1000 >> 8, 1000 & 0xff}, make([]byte, 1000)...)
		tick := time.NewTicker(time.Millisecond) // two thousand packets a second, ten times what may
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				for range 2 {
					loud.conn.Write(packet) //nolint:errcheck // a datagram
					sent += 1000
				}
			}
		}
	}()
	var during []time.Duration
	for time.Since(began) < time.Second {
		during = append(during, talk()...)
	}
	close(stop)
	<-stopped
	took := time.Since(began).Seconds()
	slices.Sort(during)
	t.Logf("median, worst of 50: alone %s, %s; beside %d kB/s where %d may: median %s of %d", before[25], before[49], int(float64(sent)/took/1000), quota/1000,
		during[len(during)/2], len(during))
	require.Less(t, during[len(during)/2], 5*before[25]+time.Millisecond)
	sums, _, _ := h.srv.tenants()[alpha].reading()
	moved := sums["udp"]
	require.Positive(t, moved.limitedUp+moved.limitedDown)
	require.LessOrEqual(t, float64(moved.upBytes+moved.downBytes), quota*(took+0.5), "no more than the quota and its burst")
	other, _, _ := h.srv.tenants()[beta].reading()
	require.Zero(t, other["udp"].limitedUp+other["udp"].limitedDown)
}

// A client's share is its own, over all its relays.
func TestQuotaOfAClient(t *testing.T) {
	h := newHost(t, func(h *host) {
		h.tenant(alpha).Limits = plan.TenantLimits{ClientBytesPerSecond: 1000, ClientBurstBytes: 2000}
	})
	sfu := h.sfu[alpha]
	for _, transport := range []string{"udp", "tcp"} {
		c := h.ready(transport, alpha)
		c.allocate()
		require.Zero(t, c.bind(0x4000, sfu.at))
		for range 8 {
			c.sendChannel(0x4000, make([]byte, 500))
		}
		c.settle()
	}
	sums, _, _ := h.srv.tenants()[alpha].reading()
	all := sums["udp"].plus(sums["tcp"])
	require.LessOrEqual(t, all.upBytes+all.downBytes, uint64(3000))
	require.Positive(t, sums["tcp"].limitedUp, "the second relay has what the first left")

	h.tenant(alpha).Limits = plan.TenantLimits{}
	h.apply()
	c := h.ready("udp", alpha)
	c.allocate()
	c.reaches(netip.AddrPort(sfu.at))
}
