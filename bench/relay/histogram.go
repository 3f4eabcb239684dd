package main

import (
	"math/bits"
	"slices"
)

// histogram counts durations in nanoseconds. A bucket is at most 1/64 of its value wide.
type histogram struct {
	counts [64 * 36]uint32
	total  uint64
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

func (h *histogram) add(ns int64) {
	b := bucket(uint64(max(ns, 0)))
	h.counts[min(b, len(h.counts)-1)]++
	h.total++
}

func (h *histogram) reset() { *h = histogram{} }

// percentile is the value that p of 1 of all are not above, in nanoseconds; 0 of nothing.
func (h *histogram) percentile(p float64) uint64 {
	if h.total == 0 {
		return 0
	}
	rank := uint64(p * float64(h.total))
	if float64(rank) < p*float64(h.total) || rank == 0 {
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

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
