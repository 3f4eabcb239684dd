package turn

import (
	"sync/atomic"
	"time"
)

// quota limits bytes a second, with a burst. Its users share no lock: it is the generic cell rate algorithm, whose state
// is one time. nil limits nothing.
type quota struct {
	perByte float64 // ns
	burst   int64   // ns
	full    atomic.Int64
}

// newQuota makes a limit; nil for none. A burst of 0 is what goes through in a quarter of a second.
func newQuota(bytesPerSecond, burst int64) *quota {
	if bytesPerSecond <= 0 {
		return nil
	}
	b := &quota{perByte: float64(time.Second) / float64(bytesPerSecond), burst: int64(time.Second) / 4}
	if burst > 0 {
		b.burst = int64(float64(burst) * b.perByte)
	}
	return b
}

// take reports whether size bytes may pass at now, in Unix ns.
func (b *quota) take(size int, now int64) bool {
	if b == nil {
		return true
	}
	for {
		full := b.full.Load()
		next := max(full, now) + int64(float64(size)*b.perByte)
		if next-now > b.burst {
			return false
		}
		if b.full.CompareAndSwap(full, next) {
			return true
		}
	}
}
