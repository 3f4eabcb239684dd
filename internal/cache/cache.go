package cache

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"orama.network/orama"
)

// Options say where the state is.
type Options struct {
	Engine    string           // "memory" (as for ""), or "olric"
	Addresses []string         // of Olric's Redis protocol, host:port; the same set at every gateway
	Password  string           // of Olric; "": none
	Keys      int              // counters, and values, that are kept in memory; 0: DefaultKeys
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: nothing is logged. Told once when Olric cannot be reached, and once when it can again
}

// Bounds of a value that is kept.
const (
	maxKey   = 256       // bytes
	maxValue = 64 << 10  // bytes
	maxTTL   = time.Hour // so that nothing becomes a record
)

// Cache counts events and keeps values for a short time. Its methods may be called from any goroutine.
type Cache struct {
	local  *Rates
	values *values
	shared *olric // nil: memory
}

// Open makes a cache. It does not connect: an Olric that cannot be reached is no error, now or later; limits are then this
// process's own.
func Open(o Options) (*Cache, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{local: NewRates(o.Keys, o.Now), values: newValues(o.Keys, o.Now)}
	switch o.Engine {
	case "", "memory":
		return c, nil
	case "olric":
		var err error
		c.shared, err = newOlric(o)
		return c, err
	}
	return nil, fmt.Errorf("cache engine %q is neither memory nor olric", o.Engine)
}

// Close ends the connections.
func (c *Cache) Close() error {
	if c.shared == nil {
		return nil
	}
	return c.shared.close()
}

// Take counts one event of key, of which burst may come at once and perSecond (above 0) for ever. It returns 0, or how long
// to wait until one is free; then nothing was counted. It takes at most 50 ms.
func (c *Cache) Take(key string, burst int, perSecond float64) time.Duration {
	if c.shared != nil {
		if wait, ok := c.shared.take(key, burst, perSecond, true); ok {
			if wait == 0 {
				c.local.Take(key, burst, perSecond) // so that it is known here when Olric is not
			}
			return wait
		}
	}
	return c.local.Take(key, burst, perSecond)
}

// Wait is what Take would return, without counting.
func (c *Cache) Wait(key string, burst int, perSecond float64) time.Duration {
	if c.shared != nil {
		if wait, ok := c.shared.take(key, burst, perSecond, false); ok {
			return wait
		}
	}
	return c.local.Wait(key, burst, perSecond)
}

// Put keeps a value of at most 64 KiB for a time of at most an hour, instead of the one that was there.
func (c *Cache) Put(ctx context.Context, key, value string, ttl time.Duration) error {
	switch {
	case key == "" || len(key) > maxKey:
		return orama.Errorf(orama.KindInvalid, "invalid_key", "a key of 1 to %d bytes is needed", maxKey)
	case len(value) > maxValue:
		return orama.Errorf(orama.KindInvalid, "value_too_long", "a value has at most %d bytes", maxValue)
	case ttl < time.Millisecond || ttl > maxTTL:
		return orama.Errorf(orama.KindInvalid, "invalid_ttl", "a value is kept for 1 ms to %s", maxTTL)
	}
	if c.shared != nil {
		return c.shared.put(ctx, key, value, ttl)
	}
	c.values.put(key, value, ttl)
	return nil
}

// Get gives a value, or orama.ErrNotFound.
func (c *Cache) Get(ctx context.Context, key string) (string, error) {
	if c.shared != nil {
		return c.shared.get(ctx, key)
	}
	return c.values.get(key)
}

// Delete removes a value; one that is not there is none the less gone.
func (c *Cache) Delete(ctx context.Context, key string) error {
	if c.shared != nil {
		return c.shared.remove(ctx, key)
	}
	c.values.remove(key)
	return nil
}

// Check is nil when the cache does what is asked of it; else it says what is wrong. With Olric: at least one member answers, knows
// the commands, and whatever it is given is read from all others that answer.
func (c *Cache) Check(ctx context.Context) error {
	if c.shared == nil {
		return nil
	}
	return c.shared.check(ctx)
}

func unavailable(err error) error {
	return &orama.Error{Kind: orama.KindUnavailable, Code: "cache_unavailable", Message: "the cluster's cache cannot be reached now; try again", Err: err}
}
