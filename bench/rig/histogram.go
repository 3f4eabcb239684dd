package rig

import (
	"math/bits"
	"slices"
)

// Histogram counts durations in nanoseconds. A bucket is at most 1/64 of its value wide.
type Histogram struct {
	counts [64 * 36]uint32
	Total  uint64
}

func bucket(ns uint64) int {
	if ns < 128 {
		return int(ns)
	}
	e := bits.Len64(ns) - 7
	return e*64 + int(ns>>e)
}

// lowest is the smallest value of a bucket.
func lowest(b int) uint64 {
	if b < 128 {
		return uint64(b)
	}
	e := b/64 - 1
	return uint64(b-e*64) << e
}

// Add counts one.
func (h *Histogram) Add(ns int64) {
	b := bucket(uint64(max(ns, 0)))
	h.counts[min(b, len(h.counts)-1)]++
	h.Total++
}

// Reset forgets all.
func (h *Histogram) Reset() { *h = Histogram{} }

// Percentile is the value that p of 1 of all are not above, in nanoseconds; 0 of nothing.
func (h *Histogram) Percentile(p float64) uint64 {
	if h.Total == 0 {
		return 0
	}
	rank := uint64(p * float64(h.Total))
	if float64(rank) < p*float64(h.Total) || rank == 0 {
		rank++
	}
	var seen uint64
	for b, n := range h.counts {
		if seen += uint64(n); seen >= rank {
			return lowest(b)
		}
	}
	return lowest(len(h.counts) - 1)
}

// Median is the middle of the values, or between the two middle ones; 0 of none.
func Median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
