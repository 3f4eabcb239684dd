package signal

import "time"

// Limiter holds one socket to the protocol's frame rate: FrameBurst at once, FramesPerSecond
// after that. It is a token bucket that takes its time from the caller. The zero value is a full
// bucket. It belongs to one goroutine.
type Limiter struct {
	spent float64   // tokens taken from the full bucket, 0 to FrameBurst
	last  time.Time // of the last Allow
}

// Allow takes one frame's token, and reports whether there was one.
func (l *Limiter) Allow(now time.Time) bool {
	if passed := now.Sub(l.last); !l.last.IsZero() && passed > 0 {
		l.spent = max(0, l.spent-passed.Seconds()*FramesPerSecond)
	}
	l.last = now
	if l.spent+1 > FrameBurst {
		return false
	}
	l.spent++
	return true
}
