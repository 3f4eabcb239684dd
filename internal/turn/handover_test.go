package turn

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/batch"
	"orama.network/orama/internal/plan"
)

// successor is a second server for the spec of the first, as another process would be.
func (h *host) successor(t *testing.T, estate Estate, configure ...func(*Server)) *Server {
	t.Helper()
	var own Estate // the first closes its descriptors
	for _, b := range estate {
		c, err := dupBequest(b)
		require.NoError(t, err)
		own = append(own, c)
	}
	s := New(slog.New(slog.NewJSONHandler(h.log, nil)), nil)
	s.now, s.Ports, s.Estate = h.clock.now, h.srv.Ports, own
	for _, f := range configure {
		f(s)
	}
	require.NoError(t, s.Apply(h.spec))
	return s
}

// relaying sends numbered packets through a relay and back until it is told to stop, one after the other, and counts those that do not return.
type relaying struct {
	c         *raw
	sent      atomic.Int64
	lost      int
	stop      chan struct{}
	finished  sync.WaitGroup
	transport string
}

func (h *host) relaying(transport string) *relaying {
	c := h.client(transport, alpha)
	c.allocate()
	require.Zero(h.t, c.bind(0x4001, h.sfu[alpha].at))
	r := &relaying{c: c, stop: make(chan struct{}), transport: transport}
	r.finished.Go(func() {
		for n := uint64(0); ; n++ {
			select {
			case <-r.stop:
				return
			default:
			}
			c.sendChannel(0x4001, binary.BigEndian.AppendUint64(nil, n))
			b := c.data(2 * time.Second)
			if len(b) != 8 || binary.BigEndian.Uint64(b) != n {
				r.lost++
			}
			r.sent.Add(1)
		}
	})
	return r
}

// goesOn waits until so many more packets have gone through.
func (r *relaying) goesOn(t *testing.T, packets int64) {
	t.Helper()
	until := r.sent.Load() + packets
	require.Eventually(t, func() bool { return r.sent.Load() >= until }, patience, time.Millisecond)
}

func (r *relaying) end() { close(r.stop); r.finished.Wait() }

func TestHandOver(t *testing.T) {
	h := newHost(t)
	var before []*relaying
	for _, transport := range transports {
		before = append(before, h.relaying(transport))
	}
	var next *Server
	require.NoError(t, h.srv.HandOver(func(e Estate) error { next = h.successor(t, e); return nil }))
	defer func() { require.NoError(t, next.Close()) }()
	for _, r := range before {
		r.goesOn(t, 100)
	}
	require.Equal(t, len(transports), h.allocations(alpha))

	// Who comes now is the other's, whichever way.
	var after []*relaying
	for _, transport := range transports {
		after = append(after, h.relaying(transport))
	}
	require.Equal(t, len(transports), h.allocations(alpha))
	list, _ := next.Relays(alpha)
	require.Len(t, list, len(transports))
	for _, r := range append(before, after...) {
		r.goesOn(t, 100)
	}

	// The first ends with its last relay, and the other reads what is left.
	for _, r := range before {
		r.end()
		require.Zero(t, r.lost, r.transport)
		require.Zero(t, errorCode(r.c.refresh(0)))
		if r.transport != "udp" {
			r.c.conn.Close()
		}
	}
	h.srv.ServeOut(t.Context())
	require.NoError(t, h.srv.Close())
	for _, r := range after {
		r.goesOn(t, 100)
		r.end()
		require.Zero(t, r.lost, r.transport)
	}
	for _, transport := range transports {
		r := h.relaying(transport)
		r.goesOn(t, 10)
		r.end()
		require.Zero(t, r.lost, transport)
	}
}

func TestHandOverToNobody(t *testing.T) {
	h := newHost(t)
	var before []*relaying
	for _, transport := range transports {
		before = append(before, h.relaying(transport))
	}
	wrong := errors.New("it did not come up")
	require.ErrorIs(t, h.srv.HandOver(func(Estate) error { return wrong }), wrong)
	for _, transport := range transports {
		before = append(before, h.relaying(transport))
	}
	for _, r := range before {
		r.goesOn(t, 20)
		r.end()
		require.Zero(t, r.lost, r.transport)
	}
	require.Equal(t, 2*len(transports), h.allocations(alpha))
	require.False(t, h.srv.Status().Draining)
}

// leasingHost is a host with a lease of each namespace, and a relay of alpha.
func leasingHost(t *testing.T) (h *host, mine, others *Lease, r *relaying) {
	t.Helper()
	h = newHost(t, leasing)
	mine, err := h.srv.Lease(alpha)
	require.NoError(t, err)
	others, err = h.srv.Lease(beta)
	require.NoError(t, err)
	r = h.relaying("udp")
	t.Cleanup(r.end)
	return h, mine, others, r
}

func TestHandOverOfLeases(t *testing.T) {
	h, mine, others, r := leasingHost(t)
	var next *Server
	told := make(chan []plan.TenantSpec, 10)
	require.NoError(t, h.srv.HandOver(func(e Estate) error {
		mine.Abandon() // its holder has gone to the next one already
		require.Nil(t, mine.timer, "nothing ends meanwhile")
		require.Equal(t, []orama.NamespaceID{alpha, beta}, h.srv.Leases())
		next = h.successor(t, e, func(s *Server) {
			s.UseLeases(h.srv.Leases()...)
			s.Told = func(list []plan.TenantSpec) { told <- list }
		})
		return nil
	}))
	defer func() { require.NoError(t, next.Close()) }()
	for _, l := range []*Lease{mine, others} {
		select {
		case <-l.Ended():
		case <-time.After(patience):
			t.Fatal("a holder still waits here")
		}
	}
	_, err := h.srv.Lease(alpha)
	require.Equal(t, orama.KindConflict, orama.KindOf(err))
	require.Empty(t, h.srv.Status().Unleased)
	r.goesOn(t, 20)
	require.Len(t, <-told, 2)
	require.Len(t, next.Status().Tenants, 2, "served while the holders are on their way")

	// What changes there changes here.
	again, err := next.Lease(alpha)
	require.NoError(t, err)
	require.NoError(t, h.srv.Follow(<-told))
	r.goesOn(t, 20)
	require.Error(t, h.srv.Follow([]plan.TenantSpec{{Namespace: alpha}}), "no secret")
	require.Equal(t, 1, h.allocations(alpha))
	again.Release()
	list := <-told
	require.Len(t, list, 1)
	require.NoError(t, h.srv.Follow(list))
	require.Zero(t, h.allocations(alpha))
	require.Error(t, next.Follow(list), "it has not handed over")
}

// A lease that was not taken anew ends in the next server, after the time that a missing holder has.
func TestHandedLeaseEndsWithoutAHolder(t *testing.T) {
	h, _, _, _ := leasingHost(t)
	var next *Server
	require.NoError(t, h.srv.HandOver(func(e Estate) error {
		next = h.successor(t, e, func(s *Server) { s.UseLeases(alpha) })
		return nil
	}))
	defer func() { require.NoError(t, next.Close()) }()
	require.Eventually(t, func() bool { return len(next.Status().Tenants) == 0 }, leaseGrace+patience, 10*time.Millisecond)
}

// Nothing is frozen for good: with no successor, a holder that is missing has its time from then on.
func TestLeasesThaw(t *testing.T) {
	h, mine, others, _ := leasingHost(t)
	wrong := errors.New("it did not come up")
	others.Abandon()
	require.ErrorIs(t, h.srv.HandOver(func(Estate) error { mine.Abandon(); require.Nil(t, others.timer); return wrong }), wrong)
	back, err := h.srv.Lease(beta)
	require.NoError(t, err, "its holder came back in time")
	require.Equal(t, 1, h.allocations(alpha))
	select {
	case <-mine.Ended():
	case <-time.After(leaseGrace + patience):
		t.Fatal("the lease outlived its holder")
	}
	require.Zero(t, h.allocations(alpha))
	require.Equal(t, LeaseEvent{Served: true}, back.Now())
}

func dupBequest(b Bequest) (Bequest, error) {
	var err error
	if b.FD, err = batch.Dup(b.FD); err == nil && b.Passed >= 0 {
		b.Passed, err = batch.Dup(b.Passed)
	}
	return b, err
}
