package sfu

import "time"

const (
	// keyframeEvery is the least time between two keyframe requests to one publisher. A keyframe
	// costs ten or more ordinary frames; half a second is what other SFUs settled on.
	keyframeEvery = 500 * time.Millisecond
	// keyframeAgain is when a request that no keyframe followed is repeated: above most round
	// trips. A publisher may be changing its path as well, and the request gone with the old one.
	keyframeAgain = time.Second
	// keyframeTries bounds that: a publisher that sends nothing at the moment answers nothing.
	keyframeTries = 5
)

// keyframes joins the requests of many subscribers into few, and repeats them until a keyframe
// comes: the first goes out at once, those of the next keyframeEvery become one at its end. It is
// pure; its owner guards it and keeps the one timer.
type keyframes struct {
	open  bool      // somebody waits for a keyframe
	tries int       // requests since the last wish
	last  time.Time // when the last request went out
	at    time.Time // when due will be called; zero: it will not
}

// ask notes that somebody wants a keyframe. It says whether to send a request now, and when after
// is positive, to call due after that time instead of at any time said before.
func (k *keyframes) ask(now time.Time) (send bool, after time.Duration) {
	k.open, k.tries = true, 0
	if wait := k.last.Add(keyframeEvery).Sub(now); !k.last.IsZero() && wait > 0 {
		return false, k.callAt(now, wait)
	}
	k.last, k.tries = now, 1
	return true, k.callAt(now, keyframeAgain)
}

// due is the end of a wait. It answers as ask does.
func (k *keyframes) due(now time.Time) (send bool, after time.Duration) {
	k.at = time.Time{}
	if !k.open || k.tries >= keyframeTries {
		k.open = false
		return false, 0
	}
	if wait := k.last.Add(keyframeEvery).Sub(now); wait > 0 { // a request went out meanwhile
		return false, k.callAt(now, wait)
	}
	k.last = now
	k.tries++
	return true, k.callAt(now, keyframeAgain)
}

// callAt gives wait, or 0 when due will be called before its end anyhow.
func (k *keyframes) callAt(now time.Time, wait time.Duration) time.Duration {
	at := now.Add(wait)
	if !k.at.IsZero() && !at.Before(k.at) {
		return 0
	}
	k.at = at
	return wait
}

// seen notes that a keyframe has begun: everybody who asked before gets it.
func (k *keyframes) seen() { k.open, k.tries = false, 0 }
