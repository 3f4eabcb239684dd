package role

import (
	"context"
	"maps"
	"sync"
	"time"
)

const (
	// checkEvery is how often a node looks at its own parts; its heartbeat carries what was seen last.
	checkEvery  = 2 * time.Second
	checkWithin = 2 * time.Second
)

// checks looks at the parts of a node again and again, so that a heartbeat never waits for a slow one.
type checks struct {
	of map[string]func(context.Context) error

	mu   sync.Mutex
	seen map[string]string // guarded by mu: "" serves, else why not; a part that was not looked at yet is missing
}

func newChecks(of map[string]func(context.Context) error) *checks {
	return &checks{of: of, seen: map[string]string{}}
}

// snapshot gives what was seen last.
func (c *checks) snapshot() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.seen)
}

// run looks until ctx ends. A part that hangs delays the others by checkWithin at most.
func (c *checks) run(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		c.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *checks) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	var all sync.WaitGroup
	for name, check := range c.of {
		all.Go(func() {
			said := ""
			if err := check(ctx); err != nil {
				said = err.Error()
			}
			c.mu.Lock()
			c.seen[name] = said
			c.mu.Unlock()
		})
	}
	all.Wait()
}
