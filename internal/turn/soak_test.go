package turn

import (
	"bytes"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/stretchr/testify/require"
)

// soakFor is how long TestSoak goes on: long enough to be run whole with the others. ORAMA_SOAK=10m is for a leak that
// grows slowly.
func soakFor(t *testing.T) time.Duration {
	text := os.Getenv("ORAMA_SOAK")
	if text == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err)
	return d
}

// Relays come and go over every transport, a twentieth of what is sent is damaged, some clients leave without a word; and
// in the end there are the memory, goroutines and descriptors of the beginning.
func TestSoak(t *testing.T) {
	const relays = 1000
	h := newHost(t, func(h *host) {
		h.srv.Limits.Silent = 2 * time.Second // who leaves without a word is found soon
		h.tenant(alpha).Relay.First, h.tenant(alpha).Relay.Count = 50000, 8000
		h.spec.Tenants = h.spec.Tenants[:1]
	})
	h.log.forget.Store(true)
	h.sfu[alpha].forget.Store(true)
	opened := 0
	round := func(d time.Duration) { // a test of its own closes its clients at its end
		t.Run("round", func(t *testing.T) {
			sub := *h
			sub.t = t
			opened += churn(&sub, 2*len(transports), time.Now().Add(d))
		})
	}
	round(time.Second) // what is made once is made now
	goroutines, files, memory := h.settled()
	opened = 0
	for until := time.Now().Add(soakFor(t)); opened < relays || time.Now().Before(until); {
		round(time.Second)
	}
	after, filesAfter, memoryAfter := h.settled()
	t.Logf("%d relays in all; goroutines %d → %d, descriptors %d → %d, heap %d → %d kB", opened, goroutines, after, files, filesAfter, memory>>10, memoryAfter>>10)
	require.LessOrEqual(t, after, goroutines+2)
	require.LessOrEqual(t, filesAfter, files+2)
	require.Less(t, memoryAfter, memory+memory/4+1<<20)
}

// churn has clients open relays, talk through them and leave, until the time, and says how many relays that were.
func churn(h *host, clients int, until time.Time) int {
	var opened atomic.Int64
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() {
			dice := rand.New(rand.NewPCG(uint64(i), 1))
			for time.Now().Before(until) {
				if visit(h, transports[i%len(transports)], dice) {
					opened.Add(1)
				}
			}
		})
	}
	all.Wait()
	return int(opened.Load())
}

// visit is the life of one client; false if it did not come to a relay.
func visit(h *host, transport string, dice *rand.Rand) bool {
	c := h.ready(transport, alpha)
	defer c.conn.Close()
	switch code := errorCode(c.do(stun.MethodAllocate, requestedTransport(protoUDP))); {
	case code == 437 && transport == "udp": // the kernel gave it the port of one that left without a word
		return false
	case code != 0:
		h.t.Errorf("no relay: %d", code)
		return false
	}
	if c.bind(0x4000, h.sfu[alpha].at) != 0 {
		h.t.Error("no channel")
		return false
	}
	for n := range 1 + dice.IntN(20) {
		sent := bytes.Repeat([]byte{byte(n)}, 1+dice.IntN(1200))
		if dice.IntN(20) == 0 {
			b := c.request(0x003, requestedTransport(protoUDP)).Raw
			b[dice.IntN(len(b)-4)+4] ^= byte(1 + dice.IntN(255)) // the first four bytes would unframe a stream
			c.write(b)
			continue
		}
		c.sendChannel(0x4000, sent)
		for !bytes.Equal(c.data(patience), sent) { // an answer to what was damaged is no data
		}
	}
	if dice.IntN(3) > 0 || transport == "udp" && dice.IntN(10) > 0 {
		c.refresh(0)
	}
	return true
}

// settled waits until nothing is left of those who went, and measures.
func (h *host) settled() (goroutines, files int, memory uint64) {
	h.t.Helper()
	require.Eventually(h.t, func() bool {
		h.srv.sweepAt(h.clock.now())
		return h.srv.conns.count() == 0
	}, patience, 10*time.Millisecond)
	for _, r := range h.srv.tenants()[alpha].list() {
		r.end(endExpired)
	}
	h.clock.advance(2 * time.Hour)
	for range 8 * runtime.GOMAXPROCS(0) { // every worker has one of them, and forgets with it what it remembered of Allocates
		c := h.ready("udp", alpha)
		c.allocate()
		c.refresh(0)
		c.conn.Close() //nolint:errcheck // UDP
	}
	last := 0
	require.Eventually(h.t, func() bool {
		list, err := os.ReadDir("/proc/self/fd")
		now := runtime.NumGoroutine()
		same := err == nil && now == last && len(list) == files
		last, files = now, len(list)
		return same
	}, patience, 100*time.Millisecond)
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return last, files, m.HeapAlloc
}
