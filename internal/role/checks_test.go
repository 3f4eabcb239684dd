package role

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// One part hangs and one is broken: the others are seen all the same, and what heals is seen to.
func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var healed atomic.Bool
		c := newChecks(map[string]func(context.Context) error{
			"gateway": func(context.Context) error { return nil },
			"store": func(context.Context) error {
				if healed.Load() {
					return nil
				}
				return errors.New("no leader")
			},
			"cache": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		})
		require.Empty(t, c.snapshot(), "nothing is said of what was not looked at")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.run(ctx) }()
		time.Sleep(checkWithin + time.Millisecond)
		synctest.Wait()
		require.Equal(t, map[string]string{"gateway": "", "store": "no leader", "cache": "context deadline exceeded"}, c.snapshot())
		healed.Store(true)
		time.Sleep(checkEvery + checkWithin)
		synctest.Wait()
		require.Empty(t, c.snapshot()["store"])
		cancel()
		require.NoError(t, <-done)
	})
}
