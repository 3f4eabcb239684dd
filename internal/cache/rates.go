package cache

import (
	"sync"
	"time"
)

// DefaultKeys bounds how many counters are kept: at about 150 bytes each, some 10 MB.
const DefaultKeys = 1 << 16

// Rates counts events per key in token buckets, in memory. Safe for concurrent use. Memory is
// bounded: beyond its size the counter nearest to being full, thus nearest to saying nothing, goes.
type Rates struct {
	now func() time.Time
	max int

	mu      sync.Mutex
	buckets map[string]bucket // guarded by mu
}

// bucket is what is left for a key.
type bucket struct {
	tokens float64
	at     time.Time // when tokens was right
	full   time.Time // when it will have refilled, and may be forgotten
}

// NewRates makes counters for at most max keys; 0 means DefaultKeys.
func NewRates(max int, now func() time.Time) *Rates {
	if max <= 0 {
		max = DefaultKeys
	}
	return &Rates{now: now, max: max, buckets: map[string]bucket{}}
}

// Take counts one event of key, of which burst may come at once and perSecond (above 0) for ever. It
// returns 0, or how long to wait until one is free; then nothing was counted.
func (r *Rates) Take(key string, burst int, perSecond float64) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	tokens := r.tokensLocked(key, burst, perSecond, now)
	if tokens < 1 {
		return wait(tokens, perSecond)
	}
	tokens--
	if _, known := r.buckets[key]; !known && len(r.buckets) >= r.max {
		r.forgetLocked(now)
	}
	full := now.Add(time.Duration((float64(burst) - tokens) / perSecond * float64(time.Second)))
	r.buckets[key] = bucket{tokens: tokens, at: now, full: full}
	return 0
}

// Wait is what Take would return, without counting.
func (r *Rates) Wait(key string, burst int, perSecond float64) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if tokens := r.tokensLocked(key, burst, perSecond, r.now()); tokens < 1 {
		return wait(tokens, perSecond)
	}
	return 0
}

func (r *Rates) tokensLocked(key string, burst int, perSecond float64, now time.Time) float64 {
	b, known := r.buckets[key]
	if !known {
		return float64(burst)
	}
	return min(float64(burst), b.tokens+max(0, now.Sub(b.at).Seconds())*perSecond)
}

func wait(tokens, perSecond float64) time.Duration {
	return max(time.Millisecond, time.Duration((1-tokens)/perSecond*float64(time.Second)))
}

// forgetLocked makes room for one key. It looks at a few keys only (map order is random), so that
// a flood of new keys costs each of them the same.
func (r *Rates) forgetLocked(now time.Time) {
	const sample = 16
	var nearest string
	var at time.Time
	n := 0
	for key, b := range r.buckets {
		if !now.Before(b.full) {
			delete(r.buckets, key)
		} else if nearest == "" || b.full.Before(at) {
			nearest, at = key, b.full
		}
		if n++; n == sample {
			break
		}
	}
	if len(r.buckets) >= r.max {
		delete(r.buckets, nearest)
	}
}
