package sfu

import "time"

// keyframeEvery is the least time between two keyframe requests to one publisher. A keyframe
// costs ten or more ordinary frames; half a second is what other SFUs settled on.
const keyframeEvery = 500 * time.Millisecond

// keyframes joins the requests of many subscribers into few: the first goes out at once, those
// of the next keyframeEvery become one at its end. Its owner guards it.
type keyframes struct {
	last    time.Time // when the last request went out
	pending bool      // one is to go out at last + keyframeEvery
}

// ask notes that somebody wants a keyframe. It says whether to send a request now, and otherwise,
// when after is positive, to call due after that time.
func (k *keyframes) ask(now time.Time) (send bool, after time.Duration) {
	if k.pending {
		return false, 0
	}
	if wait := k.last.Add(keyframeEvery).Sub(now); !k.last.IsZero() && wait > 0 {
		k.pending = true
		return false, wait
	}
	k.last = now
	return true, 0
}

// due ends the wait that ask began; it reports whether a request is to be sent.
func (k *keyframes) due(now time.Time) bool {
	if !k.pending {
		return false
	}
	k.pending = false
	k.last = now
	return true
}
