package cache_test

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"orama.network/orama"
	"orama.network/orama/internal/cache"
	"orama.network/orama/internal/cache/olrictest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func standIn(t *testing.T, members int) *olrictest.Cluster {
	t.Helper()
	c, err := olrictest.Start(members)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func openOlric(t *testing.T, o cache.Options) *cache.Cache {
	t.Helper()
	o.Engine = "olric"
	c, err := cache.Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func rotate(addrs []string, by int) []string {
	by %= len(addrs)
	return append(addrs[by:len(addrs):len(addrs)], addrs[:by]...)
}

func TestContractOlricStandIn(t *testing.T) {
	suite(t, func(t *testing.T) world {
		ticks := &clock{t: time.Now()}
		c := standIn(t, 3)
		c.Password, c.Now = "secret", ticks.now
		next := 0
		return world{pass: ticks.pass, open: func(t *testing.T) *cache.Cache {
			next++
			return openOlric(t, cache.Options{Addresses: rotate(c.Addresses(), next), Password: "secret", Now: ticks.now}).Patient()
		}}
	})
}

// Two gateways together let no more through than one would, whatever the order.
func TestTwoGatewaysShareALimit(t *testing.T) {
	ticks := &clock{t: time.Now()}
	c := standIn(t, 2)
	c.Now = ticks.now
	gateways := []*cache.Cache{openOlric(t, cache.Options{Addresses: c.Addresses(), Now: ticks.now}).Patient(),
		openOlric(t, cache.Options{Addresses: rotate(c.Addresses(), 1), Now: ticks.now}).Patient()}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		key := strings.Repeat("k", round)
		burst := rapid.IntRange(1, 10).Draw(rt, "burst")
		rate := rapid.Float64Range(0.1, 50).Draw(rt, "rate")
		start, taken := ticks.now(), 0
		for range rapid.IntRange(1, 40).Draw(rt, "events") {
			g := gateways[rapid.IntRange(0, 1).Draw(rt, "gateway")]
			ticks.pass(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(rt, "gap")))
			w := g.Take(key, burst, rate)
			if w == 0 {
				taken++
				continue
			}
			ticks.pass(w + time.Millisecond)
			if gateways[0].Wait(key, burst, rate) != 0 {
				rt.Fatalf("still limited after the wait it asked for")
			}
		}
		if limit := float64(burst) + ticks.now().Sub(start).Seconds()*rate + 1e-3; float64(taken) > limit {
			rt.Fatalf("%d events, at most %f allowed", taken, limit)
		}
	})
}

// Keys go when they say nothing any more, and tell Olric nothing of whom they count.
func TestCountersGoAndTellNothing(t *testing.T) {
	ticks := &clock{t: time.Now()}
	c := standIn(t, 1)
	c.Now = ticks.now
	g := openOlric(t, cache.Options{Addresses: c.Addresses(), Now: ticks.now}).Patient()
	require.Zero(t, g.Take("demo:203.0.113.7", 2, 1))
	require.Len(t, c.Keys(), 1)
	require.NotContains(t, c.Keys()[0], "203")
	ticks.pass(1001 * time.Millisecond)
	require.Empty(t, c.Keys())
}

// A gateway counts alone while Olric is away, knowing what came by it before; says so once; and comes back by itself.
func TestWithoutOlricALimitIsEachGatewaysOwn(t *testing.T) {
	ticks := &clock{t: time.Now()}
	c := standIn(t, 2)
	c.Now, c.Password = ticks.now, "top secret"
	var said strings.Builder
	g := openOlric(t, cache.Options{Addresses: c.Addresses(), Now: ticks.now, Log: slog.New(slog.NewTextHandler(&said, nil)), Password: "top secret"}).Patient()
	require.Zero(t, g.Take("k", 3, 0.001))
	c.Kill(0)
	c.Kill(1)
	require.Zero(t, g.Take("k", 3, 0.001))
	require.Zero(t, g.Take("k", 3, 0.001))
	require.NotZero(t, g.Take("k", 3, 0.001))
	require.NotZero(t, g.Wait("k", 3, 0.001))
	require.Zero(t, g.Wait("other", 3, 0.001))
	require.Equal(t, 1, strings.Count(said.String(), "\n"), said.String())
	_, err := g.Get(t.Context(), "v")
	require.Equal(t, orama.KindUnavailable, orama.KindOf(err))
	require.Equal(t, orama.KindUnavailable, orama.KindOf(g.Check(t.Context())))
	require.NotContains(t, said.String()+g.Check(t.Context()).Error(), "secret")

	require.NoError(t, c.Revive(1))
	require.NotZero(t, g.Take("k", 3, 0.001), "a member that failed is left alone for a second")
	ticks.pass(1100 * time.Millisecond)
	require.Zero(t, g.Take("k", 3, 0.001), "Olric counted one of the three")
	require.Equal(t, 1, strings.Count(said.String(), "\n"), said.String())
	ticks.pass(10 * time.Second)
	require.NotZero(t, g.Wait("k", 1, 0.001)+g.Take("k", 1, 0.001)+g.Take("k", 1, 0.001))
	require.Equal(t, 2, strings.Count(said.String(), "\n"), said.String())
}

// A member's death costs nothing but the way to the next.
func TestAnotherMemberAnswers(t *testing.T) {
	c := standIn(t, 3)
	a, b := openOlric(t, cache.Options{Addresses: c.Addresses()}).Patient(), openOlric(t, cache.Options{Addresses: rotate(c.Addresses(), 2)}).Patient()
	for i := range 3 {
		require.NoError(t, a.Put(t.Context(), "k", "v", time.Minute))
		require.Zero(t, a.Take("k", 3, 0.001))
		c.Kill(i)
		if i < 2 {
			require.Zero(t, b.Wait("k", 3, 0.001))
			_, err := b.Get(t.Context(), "k")
			require.NoError(t, err)
		}
		require.NoError(t, c.Revive(i))
	}
	require.NotZero(t, b.Take("k", 3, 0.001))
}

// Nobody waits for an Olric that does not answer, above all not everybody each time.
func TestNobodyWaitsForASlowOlric(t *testing.T) {
	ticks := &clock{t: time.Now()}
	c := standIn(t, 2)
	g := openOlric(t, cache.Options{Addresses: c.Addresses(), Now: ticks.now})
	require.Zero(t, g.Take("k", 100, 1))
	c.Hang(true)
	begun := time.Now()
	for range 50 {
		require.Zero(t, g.Take("k", 100, 1))
	}
	require.Less(t, time.Since(begun), time.Second, "two waits of 50 ms, not fifty")
	c.Hang(false)
	ticks.pass(2 * time.Second)
	require.NoError(t, g.Check(t.Context()))
}

func TestACallEndsWithItsContext(t *testing.T) {
	c := standIn(t, 2)
	g := openOlric(t, cache.Options{Addresses: c.Addresses()})
	c.Hang(true)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := g.Get(ctx, "k")
		if orama.KindOf(err) != orama.KindUnavailable {
			t.Errorf("it gave %v", err)
		}
	})
	cancel()
	wg.Wait()
	c.Hang(false)
	require.NoError(t, g.Put(t.Context(), "k", "v", time.Second), "who gave up said nothing about the members")
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	t.Run("the password", func(t *testing.T) {
		c := standIn(t, 1)
		c.Password = "right"
		err := openOlric(t, cache.Options{Addresses: c.Addresses(), Password: "not this"}).Check(t.Context())
		require.ErrorContains(t, err, "WRONGPASS")
		require.NotContains(t, err.Error(), "not this")
	})
	t.Run("a version without compare-and-set", func(t *testing.T) {
		c := standIn(t, 1)
		c.Without = "dm.cas"
		g := openOlric(t, cache.Options{Addresses: c.Addresses()})
		require.ErrorContains(t, g.Check(t.Context()), "DM.CAS")
		require.Zero(t, g.Take("k", 1, 0.001))
		require.NotZero(t, g.Take("k", 1, 0.001), "it counts alone")
	})
	t.Run("members apart", func(t *testing.T) {
		c := standIn(t, 3)
		c.Split(2)
		err := openOlric(t, cache.Options{Addresses: c.Addresses()}).Check(t.Context())
		require.ErrorContains(t, err, c.Addresses()[2])
		require.ErrorContains(t, err, "not one cluster")
	})
	t.Run("one of three away is nothing wrong", func(t *testing.T) {
		c := standIn(t, 3)
		c.Kill(0)
		require.NoError(t, openOlric(t, cache.Options{Addresses: c.Addresses()}).Check(t.Context()))
	})
}

func TestOlricConfig(t *testing.T) {
	at := func(ip string, port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(ip), port) }
	peers := []netip.AddrPort{at("10.0.0.1", cache.OlricGossipPort), at("10.0.0.2", cache.OlricGossipPort), at("10.0.0.3", cache.OlricGossipPort)}
	text := cache.OlricConfig(cache.Olric{Address: at("10.0.0.2", cache.OlricPort), Gossip: peers[1], Peers: peers, Password: "p: \"'#\n%s"})
	var got struct {
		Server struct {
			BindAddr     string `yaml:"bindAddr"`
			BindPort     int    `yaml:"bindPort"`
			ReplicaCount int    `yaml:"replicaCount"`
		}
		Authentication struct{ Password string }
		Memberlist     struct {
			BindAddr string `yaml:"bindAddr"`
			BindPort int    `yaml:"bindPort"`
			Peers    []string
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &got))
	require.Equal(t, "10.0.0.2", got.Server.BindAddr)
	require.Equal(t, 3320, got.Server.BindPort)
	require.Equal(t, 2, got.Server.ReplicaCount)
	require.Equal(t, "p: \"'#\n%s", got.Authentication.Password)
	require.Equal(t, 3322, got.Memberlist.BindPort)
	require.Equal(t, []string{"10.0.0.1:3322", "10.0.0.3:3322"}, got.Memberlist.Peers, "a member that names itself does not start")

	alone := cache.OlricConfig(cache.Olric{Address: at("10.0.0.2", 1), Gossip: peers[1], Peers: peers[1:2]})
	require.NoError(t, yaml.Unmarshal(alone, &got))
	require.Equal(t, 1, got.Server.ReplicaCount)
	require.Empty(t, got.Memberlist.Peers)
	require.NotContains(t, string(alone), "password")
}
