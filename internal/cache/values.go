package cache

import (
	"sync"
	"time"

	"orama.network/orama"
)

// values keeps values in memory, a bounded number of them.
type values struct {
	now func() time.Time
	max int

	mu   sync.Mutex
	kept map[string]value // guarded by mu
}

type value struct {
	text  string
	until time.Time
}

func newValues(max int, now func() time.Time) *values {
	if max <= 0 {
		max = DefaultKeys
	}
	return &values{now: now, max: max, kept: map[string]value{}}
}

func (v *values) put(key, text string, ttl time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.now()
	if _, known := v.kept[key]; !known && len(v.kept) >= v.max {
		v.forgetLocked(now)
	}
	v.kept[key] = value{text, now.Add(ttl)}
}

// forgetLocked makes room for one key: of a few that it looks at, those that are over, or the next to be.
func (v *values) forgetLocked(now time.Time) {
	const sample = 16
	var nearest string
	var at time.Time
	n := 0
	for key, val := range v.kept {
		if !now.Before(val.until) {
			delete(v.kept, key)
		} else if nearest == "" || val.until.Before(at) {
			nearest, at = key, val.until
		}
		if n++; n == sample {
			break
		}
	}
	if len(v.kept) >= v.max {
		delete(v.kept, nearest)
	}
}

func (v *values) get(key string) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	val, known := v.kept[key]
	if !known || !v.now().Before(val.until) {
		delete(v.kept, key)
		return "", orama.ErrNotFound
	}
	return val.text, nil
}

func (v *values) remove(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.kept, key)
}
