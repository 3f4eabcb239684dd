package cache_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"orama.network/orama"
	"orama.network/orama/internal/cache"
)

// world is a cache that gateways share, or one gateway has: each call of open gives another handle on the same state.
type world struct {
	open func(t *testing.T) *cache.Cache
	pass func(time.Duration)     // lets time pass
	key  func(key string) string // makes a key this test's own; nil: it is
}

func (w world) name(key string) string {
	if w.key == nil {
		return key
	}
	return w.key(key)
}

// contract is what a cache means, whatever keeps it.
var contract = []struct {
	name string
	test func(*testing.T, world)
}{
	{"ABurstThenTheRate", aBurstThenTheRate},
	{"KeysAndLimitsAreApart", keysAndLimitsAreApart},
	{"WaitingIsNotCounting", waitingIsNotCounting},
	{"ManyAtOnceGetTheBurst", manyAtOnceGetTheBurst},
	{"ValuesAreKeptForTheirTime", valuesAreKeptForTheirTime},
	{"ValuesAreBounded", valuesAreBounded},
	{"ACheckFindsNothingWrong", aCheckFindsNothingWrong},
}

func suite(t *testing.T, fresh func(*testing.T) world) {
	for _, c := range contract {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

func aBurstThenTheRate(t *testing.T, w world) {
	a, b := w.open(t), w.open(t)
	for i := range 4 {
		require.Zero(t, []*cache.Cache{a, b}[i%2].Take(w.name("k"), 4, 2), "event %d", i)
	}
	for _, c := range []*cache.Cache{a, b} {
		wait := c.Take(w.name("k"), 4, 2)
		require.Positive(t, wait)
		require.LessOrEqual(t, wait, 500*time.Millisecond)
	}
	w.pass(500 * time.Millisecond)
	require.Zero(t, b.Wait(w.name("k"), 4, 2))
	require.Zero(t, b.Take(w.name("k"), 4, 2))
	require.NotZero(t, a.Take(w.name("k"), 4, 2))
	w.pass(2 * time.Second)
	for i := range 4 {
		require.Zero(t, a.Take(w.name("k"), 4, 2), "it refills to the burst; event %d", i)
	}
	require.NotZero(t, a.Take(w.name("k"), 4, 2), "and no further")
}

func keysAndLimitsAreApart(t *testing.T, w world) {
	c := w.open(t)
	require.Zero(t, c.Take(w.name("a"), 1, 0.01))
	require.NotZero(t, c.Take(w.name("a"), 1, 0.01))
	require.Zero(t, c.Take(w.name("b"), 1, 0.01))
	require.Zero(t, c.Take(w.name(""), 1, 0.01))
	require.Zero(t, c.Take(w.name(strings.Repeat("é\x00\r\n", 1000)), 1, 0.01))
}

func waitingIsNotCounting(t *testing.T, w world) {
	c := w.open(t)
	for range 5 {
		require.Zero(t, c.Wait(w.name("k"), 1, 0.01))
	}
	require.Zero(t, c.Take(w.name("k"), 1, 0.01))
	require.Greater(t, c.Wait(w.name("k"), 1, 0.01), 90*time.Second)
}

func manyAtOnceGetTheBurst(t *testing.T, w world) {
	const burst = 40
	a, b := w.open(t), w.open(t)
	var got atomic.Int32
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range burst {
				if []*cache.Cache{a, b}[i%2].Take(w.name("k"), burst, 0.001) == 0 {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, burst, got.Load())
}

func valuesAreKeptForTheirTime(t *testing.T, w world) {
	ctx := t.Context()
	a, b := w.open(t), w.open(t)
	_, err := a.Get(ctx, w.name("k"))
	require.ErrorIs(t, err, orama.ErrNotFound)
	require.NoError(t, a.Delete(ctx, w.name("k")))
	for _, text := range []string{"", "hello", "\x00\r\n$5", strings.Repeat("v", 64<<10)} {
		require.NoError(t, a.Put(ctx, w.name("k"), text, time.Minute))
		got, err := b.Get(ctx, w.name("k"))
		require.NoError(t, err)
		require.Equal(t, text, got)
	}
	require.NoError(t, b.Delete(ctx, w.name("k")))
	_, err = a.Get(ctx, w.name("k"))
	require.ErrorIs(t, err, orama.ErrNotFound)

	require.NoError(t, a.Put(ctx, w.name("short"), "v", 500*time.Millisecond))
	require.NoError(t, a.Put(ctx, w.name("long"), "v", time.Hour))
	w.pass(time.Second)
	_, err = b.Get(ctx, w.name("short"))
	require.ErrorIs(t, err, orama.ErrNotFound)
	_, err = b.Get(ctx, w.name("long"))
	require.NoError(t, err)
}

func valuesAreBounded(t *testing.T, w world) {
	c := w.open(t)
	for name, put := range map[string]func(context.Context) error{
		"no key":     func(ctx context.Context) error { return c.Put(ctx, "", "v", time.Second) },
		"a long key": func(ctx context.Context) error { return c.Put(ctx, strings.Repeat("k", 257), "v", time.Second) },
		"too long":   func(ctx context.Context) error { return c.Put(ctx, "k", strings.Repeat("v", 64<<10+1), time.Second) },
		"no time":    func(ctx context.Context) error { return c.Put(ctx, "k", "v", 0) },
		"for ever":   func(ctx context.Context) error { return c.Put(ctx, "k", "v", 25*time.Hour) },
	} {
		require.Equal(t, orama.KindInvalid, orama.KindOf(put(t.Context())), name)
	}
}

func aCheckFindsNothingWrong(t *testing.T, w world) {
	require.NoError(t, w.open(t).Check(t.Context()))
	require.NoError(t, w.open(t).Check(t.Context()), "nor does what the first left behind")
}

func TestContractMemory(t *testing.T) {
	suite(t, func(t *testing.T) world {
		c := &clock{t: time.Unix(1000, 0)}
		one, err := cache.Open(cache.Options{Now: c.now})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, one.Close()) })
		return world{open: func(*testing.T) *cache.Cache { return one }, pass: c.pass}
	})
}

func TestValuesInMemoryAreBounded(t *testing.T) {
	c := &clock{t: time.Unix(1000, 0)}
	one, err := cache.Open(cache.Options{Engine: "memory", Keys: 64, Now: c.now})
	require.NoError(t, err)
	for i := range 1000 {
		require.NoError(t, one.Put(t.Context(), fmt.Sprint(i), "v", time.Minute))
		require.LessOrEqual(t, one.Values(), 64)
	}
	_, err = one.Get(t.Context(), "999")
	require.NoError(t, err)
}

func TestEnginesThatThereAreNot(t *testing.T) {
	for _, o := range []cache.Options{{Engine: "redis"}, {Engine: "olric"}, {Engine: "olric", Addresses: []string{"10.0.0.1"}}} {
		_, err := cache.Open(o)
		require.Error(t, err)
	}
}
