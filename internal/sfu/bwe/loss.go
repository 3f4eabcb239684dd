package bwe

import (
	"math"
	"time"
)

// lossControl tells loss that a lower rate would cure from loss that the path has at any rate.
type lossControl struct {
	got, lost int
	since     time.Time

	recent   float64 // of the last window
	inherent float64 // loss that did not go when the rate went down
	cut      float64 // loss when the rate was last cut for it; 0: not cut
}

const (
	lossWindow = 500 * time.Millisecond
	lossFew    = 20   // packets that say something
	lossMuch   = 0.10 // draft-ietf-rmcat-gcc
	lossFull   = 0.02 // where packets are seen to wait, and more is sent than gets through
)

func (l *lossControl) count(received bool) {
	if received {
		l.got++
	} else {
		l.lost++
	}
}

// forget begins a new window.
func (l *lossControl) forget(now time.Time) { l.got, l.lost, l.since, l.recent = 0, 0, now, l.inherent }

// rests reports whether more is lost than the path's own, so that the rate had better stay.
func (l *lossControl) rests() bool { return l.recent > l.inherent*1.5+lossFull*2 }

// found takes a loss back.
func (l *lossControl) found() {
	l.got++
	l.lost = max(l.lost-1, 0)
}

// holds reports whether there is too much loss, beyond the path's own, to try for more.
func (l *lossControl) holds() bool { return l.recent > l.inherent*1.5+lossMuch*1.5 }

// check ends a window when it is time, and says whether the rate must fall, and to what. full is what the
// path was seen to carry when packets waited, or 0; idle: none wait now.
func (l *lossControl) check(now time.Time, delivered, target, full float64, idle bool) (bool, float64) {
	n := l.got + l.lost
	if l.since.IsZero() {
		l.since = now
	}
	if now.Sub(l.since) < lossWindow || n < lossFew {
		return false, 0
	}
	p := float64(l.lost) / float64(n)
	sure := p - 2*math.Sqrt(p*(1-p)/float64(n)) // what chance does not explain
	l.got, l.lost, l.since, l.recent = 0, 0, now, p
	switch {
	case l.cut > 0 && p > 0.7*l.cut: // less was sent, and no less was lost
		l.inherent, l.cut = max(l.inherent, p), 0
		return false, 0
	case sure > l.inherent+lossMuch:
		l.cut = p
		return true, min(delivered, target*0.95) / (1 - min(l.inherent, 0.5))
	case full > 0 && target > 1.1*full && sure > l.inherent+lossFull:
		return true, full
	case p < l.inherent || idle && p < 1.5*lossMuch:
		l.inherent += (p - l.inherent) / 8
	}
	l.cut = 0
	return false, 0
}
