package sfu

import (
	"time"

	"orama.network/orama/internal/signal"
)

const (
	// silentAfter is how long no packet may come before media counts as lost.
	silentAfter = 15 * time.Second
	// restartWithin is how long a peer with a living socket may then take to restart ICE.
	restartWithin = 60 * time.Second
)

// lifeline decides when a peer has been gone for too long (docs/protocol.md, "A lost socket" and
// "Media lost, socket alive"). It is pure; the peer's loop owns it.
type lifeline struct {
	connected  bool      // media has flowed at least once
	socketLost time.Time // zero while a socket is attached
	mediaLost  time.Time // when the last packet came; zero while packets flow
	ended      bool      // the client ended the media session itself
}

func (l *lifeline) mediaFlows() {
	l.connected, l.mediaLost = true, time.Time{}
}

// mediaSilent notes that the last packet came silentAfter ago.
func (l *lifeline) mediaSilent(now time.Time) {
	if l.connected && l.mediaLost.IsZero() {
		l.mediaLost = now.Add(-silentAfter)
	}
}

// over reports whether the peer is to be removed.
func (l *lifeline) over(now time.Time) bool {
	if l.socketLost.IsZero() {
		return !l.mediaLost.IsZero() && now.Sub(l.mediaLost) >= silentAfter+restartWithin
	}
	if l.ended || now.Sub(l.socketLost) >= signal.ResumeWithin {
		return true
	}
	if !l.connected {
		return now.Sub(l.socketLost) >= silentAfter
	}
	return !l.mediaLost.IsZero() && now.Sub(l.mediaLost) >= silentAfter
}
