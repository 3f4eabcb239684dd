package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSpread(t *testing.T) {
	for _, x := range []struct {
		level float64
		rooms int
	}{{0.25, 1}, {1, 1}, {1.01, 2}, {2.5, 3}, {14, 14}} {
		rooms, scale := spread(x.level)
		require.Equal(t, x.rooms, rooms)
		require.InDelta(t, x.level, scale*float64(rooms), 1e-9)
		require.LessOrEqual(t, scale, 1.0)
	}
}

func TestTurns(t *testing.T) {
	all := contenders(wayDirect, false)
	require.Equal(t, []*contender{all[0], all[1]}, turns(all, 0))
	require.Equal(t, []*contender{all[1], all[0]}, turns(all, 1))
}

func TestVerdict(t *testing.T) {
	most, least := bar{limit: 0.65}, bar{limit: 1.6, least: true}
	require.Equal(t, "ok", most.verdict(0.65))
	require.Equal(t, "ok", most.verdict(0.1))
	require.Equal(t, "short", most.verdict(0.66))
	require.Equal(t, "ok", least.verdict(1.6))
	require.Equal(t, "ok", least.verdict(3))
	require.Equal(t, "short", least.verdict(1.5))
}

// The ratio is the rounds' median, not that of medians; what is not measured is not met.
func TestResults(t *testing.T) {
	r := newResults(settings{rounds: 3, window: time.Second}, 1)
	x := r.row(cells[0], wayRelay, []*contender{{name: nameStock}, {name: nameOurs}})
	for i, stock := range []float64{10, 20, 40} {
		x.add(nameStock, keyCPU, stock)
		x.add(nameOurs, keyCPU, []float64{6, 15, 10}[i])
	}
	x.add(nameOurs, keyMemory, 500)
	x.add(nameOurs, keyJoin, 100)
	middle, low, high, ok := x.ratio(keyCPU, nameStock)
	require.True(t, ok)
	require.Equal(t, []float64{0.6, 0.25, 0.75}, []float64{middle, low, high})
	_, _, _, ok = x.ratio(keyRate, nameStock)
	require.False(t, ok)
	var out strings.Builder
	require.NoError(t, r.print(&out, false))
	for _, want := range []string{"≤0.65 of stock: ok", "≤400: short", "≤150: ok", "≥1.6 of stock: not measured", "2 of 5 bars are met", "5 more are of who was not beside us"} {
		require.Contains(t, out.String(), want)
	}
}

func TestChoose(t *testing.T) {
	s, err := parse([]string{"--only", "50/relay,300"})
	require.NoError(t, err)
	require.True(t, s.wants("50", wayRelay))
	require.False(t, s.wants("50", wayDirect))
	require.True(t, s.wants("300", wayDirect))
	require.False(t, s.wants("conference", wayRelay))
	for _, bad := range [][]string{{"--only", "51"}, {"--only", "50/air"}, {"--rounds", "0"}, {"--window", "1ms"}} {
		_, err := parse(bad)
		require.Error(t, err, bad)
	}
}

func TestArrivals(t *testing.T) {
	var a arrivals
	_, ok := a.of(0)
	require.False(t, ok)
	a.put(0, 5)
	at, ok := a.of(0)
	require.True(t, ok)
	require.EqualValues(t, 5, at)
	a.put(4096, 6)
	_, ok = a.of(0)
	require.False(t, ok, "another has its place")
}

// What was sent before the window, or after it, is not its latency.
func TestMeter(t *testing.T) {
	var m meter
	m.begin(time.Hour)
	m.add(m.from-1, m.from+int64(time.Second))
	m.add(m.to, m.to+int64(time.Second))
	require.Zero(t, m.counted.Total)
	m.add(m.from, m.from+int64(2*time.Millisecond))
	p50, p99 := m.percentiles()
	require.InDelta(t, 2, p50, 0.05)
	require.InDelta(t, 2, p99, 0.05)
}

// LiveKit's bars are held where it takes part, and only there.
func TestLiveKitsBars(t *testing.T) {
	r := newResults(settings{rounds: 1, window: time.Second}, 1)
	x := r.row(cells[0], wayDirect, contenders(wayDirect, true))
	for name, cpu := range map[string]float64{nameStock: 20, nameOurs: 10, nameLiveKit: 21} {
		x.add(name, keyCPU, cpu)
	}
	var out strings.Builder
	require.NoError(t, r.print(&out, false))
	for _, want := range []string{"≤0.65 of stock: ok; ≤0.45 of livekit: short", "0.48 (0.48 to 0.48)", "50/direct: SFU's CPU, equal load, µs a packet: ≤0.45 of livekit: short"} {
		require.Contains(t, out.String(), want)
	}
	require.NotContains(t, out.String(), "not beside us")
}
