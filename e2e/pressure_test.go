//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// pressure is the test run's memory of how short of CPU this machine was; the zero value remembers nothing.
type pressure struct {
	mu    sync.Mutex
	looks []look // guarded by mu; oldest first
}

// look is what the kernel said at a moment.
type look struct {
	at      time.Time
	percent float64 // of the ten seconds before in which somebody waited for a CPU
}

const (
	lookEvery = 2 * time.Second
	maxLooks  = 1024 // half an hour
)

var pressures pressure

// keep looks until ctx ends.
func (p *pressure) keep(ctx context.Context) {
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		p.note(look{time.Now(), pressed()})
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (p *pressure) note(l look) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.looks = append(p.looks, l); len(p.looks) > maxLooks {
		p.looks = p.looks[1:]
	}
}

// most is the highest percentage seen since a moment, now included.
func (p *pressure) most(since time.Time) float64 {
	p.note(look{time.Now(), pressed()})
	p.mu.Lock()
	defer p.mu.Unlock()
	var most float64
	for _, l := range p.looks {
		if !l.at.Before(since) {
			most = max(most, l.percent)
		}
	}
	return most
}

// pressed is how many percent of the last ten seconds somebody waited for a CPU of this machine (the kernel's
// /proc/pressure/cpu); 0 where that is not told.
func pressed() (percent float64) {
	raw, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	fmt.Sscanf(string(raw), "some avg10=%f", &percent) //nolint:errcheck // 0 then
	return percent
}

// held is the limit that a browser's part in a call is held to, for what lasted from a moment until now. A machine that is short of
// CPU for most of the time makes browsers wait for it, not for us: there it is four times as long, and the log says so.
func held(t testing.TB, limit time.Duration, since time.Time) time.Duration {
	t.Helper()
	const most = 40
	p := pressures.most(since)
	if p < most {
		return limit
	}
	t.Logf("this machine was short of CPU for %.0f %% of 10 s: %s is held instead of %s", p, 4*limit, limit)
	return 4 * limit
}
