package turn

import (
	"context"
	"sync"
	"time"
)

// head counts who is there and lets others wait until nobody is.
type head struct {
	mu    sync.Mutex
	n     int
	empty chan struct{} // closed when n falls to 0; nil while nobody waits
}

func (h *head) join() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n++
}

func (h *head) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n--; h.n == 0 && h.empty != nil {
		close(h.empty)
		h.empty = nil
	}
}

func (h *head) none() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n == 0
}

// wait returns when nobody is there or ctx has ended.
func (h *head) wait(ctx context.Context) {
	h.mu.Lock()
	if h.n == 0 {
		h.mu.Unlock()
		return
	}
	if h.empty == nil {
		h.empty = make(chan struct{})
	}
	empty := h.empty
	h.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	}
}

// Log lines that strangers can cause: for each reason a burst, then one for every lineEvery.
const (
	lineBurst = 20
	lineEvery = time.Second
)

// lineLimit bounds such lines and counts those left out. Reasons are constants, so it is small.
type lineLimit struct {
	mu      sync.Mutex
	reasons map[string]*lineBudget
}

type lineBudget struct {
	left   int
	at     time.Time // of the last line given back
	unsaid int
}

func newLineLimit() *lineLimit { return &lineLimit{reasons: map[string]*lineBudget{}} }

// allow reports whether a line may be written now, and how many of its kind were not since the last.
func (l *lineLimit) allow(reason string, now time.Time) (ok bool, unsaid int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.reasons[reason]
	if b == nil {
		b = &lineBudget{left: lineBurst, at: now}
		l.reasons[reason] = b
	}
	if back := int(now.Sub(b.at) / lineEvery); back > 0 {
		b.left, b.at = min(lineBurst, b.left+back), now
	}
	if b.left == 0 {
		b.unsaid++
		return false, 0
	}
	b.left--
	unsaid, b.unsaid = b.unsaid, 0
	return true, unsaid
}
