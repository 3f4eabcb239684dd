package cache_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"orama.network/orama/internal/cache"
)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestTakeAllowsABurstThenTheRate(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	r := cache.NewRates(0, c.now)
	for range 3 {
		require.Zero(t, r.Take("a", 3, 2))
	}
	require.Equal(t, 500*time.Millisecond, r.Wait("a", 3, 2))
	require.Equal(t, 500*time.Millisecond, r.Take("a", 3, 2), "a refusal is not counted")
	require.Zero(t, r.Take("b", 3, 2), "another key has its own bucket")
	c.t = c.t.Add(500 * time.Millisecond)
	require.Zero(t, r.Wait("a", 3, 2))
	require.Zero(t, r.Take("a", 3, 2))
	require.NotZero(t, r.Take("a", 3, 2))
	c.t = c.t.Add(time.Hour)
	for range 3 {
		require.Zero(t, r.Take("a", 3, 2), "it refills to the burst")
	}
	require.NotZero(t, r.Take("a", 3, 2), "and no further")
}

func TestAClockThatGoesBackGivesNothing(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	r := cache.NewRates(0, c.now)
	require.Zero(t, r.Take("a", 1, 1))
	c.t = c.t.Add(-time.Hour)
	require.NotZero(t, r.Take("a", 1, 1))
}

func TestMemoryIsBoundedAndTheBusyAreKept(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	r := cache.NewRates(64, c.now)
	for range 100 {
		r.Take("busy", 100, 0.001)
	}
	for i := range 10_000 {
		require.Zero(t, r.Take(fmt.Sprint("flood", i), 10, 1))
		require.LessOrEqual(t, r.Len(), 64)
	}
	require.NotZero(t, r.Take("busy", 100, 0.001), "a flood of other keys must not reset it")
}

func TestNeverMoreThanBurstPlusRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &clock{t: time.Unix(1000, 0)}
		r := cache.NewRates(0, c.now)
		burst := rapid.IntRange(1, 20).Draw(t, "burst")
		rate := rapid.Float64Range(0.1, 50).Draw(t, "rate")
		start, taken := c.t, 0
		for range rapid.IntRange(1, 200).Draw(t, "events") {
			c.t = c.t.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "gap")))
			w := r.Take("k", burst, rate)
			if w == 0 {
				taken++
				continue
			}
			c.t = c.t.Add(w + time.Millisecond)
			if r.Wait("k", burst, rate) != 0 {
				t.Fatalf("still limited after the wait it asked for")
			}
		}
		if limit := float64(burst) + c.t.Sub(start).Seconds()*rate + 1e-6; float64(taken) > limit {
			t.Fatalf("%d events, at most %f allowed", taken, limit)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	r := cache.NewRates(8, time.Now)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				r.Take(fmt.Sprint(i, j%20), 5, 1)
				r.Wait(fmt.Sprint(j), 5, 1)
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, r.Len(), 8)
}
