package load

import (
	"math/bits"
	"time"
)

// Buckets of a histogram: 32 to each doubling of microseconds, so a value is off by 3 % at most. The last holds
// everything from 67 s on.
const (
	subBits = 5
	buckets = 22 << subBits
)

// histogram counts durations. The zero value is empty.
type histogram struct {
	count   uint64
	largest time.Duration
	bucket  [buckets]uint32
}

// bucketOf finds a duration's bucket; floorOf is the smallest duration of one.
func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0)) //nolint:gosec // not negative
	shift := max(bits.Len64(us)-subBits-1, 0)
	return min(shift<<subBits+int(us>>shift), buckets-1) //nolint:gosec // below 64 after the shift
}

func floorOf(i int) time.Duration {
	shift := max(i>>subBits-1, 0)
	return time.Duration(i-shift<<subBits) << shift * time.Microsecond
}

func (h *histogram) add(d time.Duration) {
	h.count++
	h.largest = max(h.largest, d)
	h.bucket[bucketOf(d)]++
}

func (h *histogram) merge(o *histogram) {
	h.count += o.count
	h.largest = max(h.largest, o.largest)
	for i, n := range o.bucket {
		h.bucket[i] += n
	}
}

// quantile is the duration that the share q, 0 to 1, of those counted do not exceed; 0 of none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.count))
	var seen uint64
	for i, n := range h.bucket {
		if seen += uint64(n); n > 0 && seen > rank || seen == h.count && n > 0 {
			return min(floorOf(i+1), h.largest)
		}
	}
	return 0
}
