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

	"orama.network/orama/internal/batch"
)

// successor is a second server for the spec of the first, as another process would be.
func (h *host) successor(t *testing.T, estate Estate) *Server {
	t.Helper()
	var own Estate // the first closes its descriptors
	for _, b := range estate {
		c, err := dupBequest(b)
		require.NoError(t, err)
		own = append(own, c)
	}
	s := New(slog.New(slog.NewJSONHandler(h.log, nil)), nil)
	s.now, s.Ports, s.Estate = h.clock.now, h.srv.Ports, own
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

func dupBequest(b Bequest) (Bequest, error) {
	var err error
	if b.FD, err = batch.Dup(b.FD); err == nil && b.Passed >= 0 {
		b.Passed, err = batch.Dup(b.Passed)
	}
	return b, err
}
