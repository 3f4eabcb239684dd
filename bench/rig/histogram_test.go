package rig

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBucketsAreNarrow(t *testing.T) {
	last := -1
	for _, ns := range []uint64{0, 1, 127, 128, 129, 255, 256, 1000, 4095, 4096, 1e6, 123456789, 1e10} {
		b := bucket(ns)
		require.GreaterOrEqual(t, b, last)
		last = b
		require.LessOrEqual(t, lowest(b), ns)
		require.Greater(t, lowest(b+1), ns)
		require.LessOrEqual(t, float64(lowest(b+1)-lowest(b)), math.Max(1, float64(ns)/64))
	}
}

func TestPercentile(t *testing.T) {
	var h Histogram
	require.Zero(t, h.Percentile(0.99))
	for ns := range int64(100) {
		h.Add(ns + 1)
	}
	require.EqualValues(t, 50, h.Percentile(0.50))
	require.EqualValues(t, 99, h.Percentile(0.99))
	require.EqualValues(t, 100, h.Percentile(1))
	require.EqualValues(t, 1, h.Percentile(0))
	h.Add(-5) // clocks
	h.Add(math.MaxInt64)
	require.EqualValues(t, 102, h.Total)
	h.Reset()
	require.Zero(t, h.Percentile(0.5))
}

func TestMedian(t *testing.T) {
	require.Zero(t, Median(nil))
	require.InDelta(t, 2, Median([]float64{3, 1, 2}), 0)
	require.InDelta(t, 2.5, Median([]float64{4, 1, 2, 3}), 0)
}
