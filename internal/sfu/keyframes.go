package sfu

import (
	"strings"
	"time"

	"github.com/pion/webrtc/v4"
)

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

// keyframeStart reports whether an RTP payload begins a picture that a decoder can start with. A
// payload that it cannot read is none.
func keyframeStart(mime string, b []byte) bool {
	switch {
	case strings.EqualFold(mime, webrtc.MimeTypeVP8):
		return vp8Keyframe(b)
	case strings.EqualFold(mime, webrtc.MimeTypeVP9):
		// RFC 9628 section 4.2: I P L F B E V Z. Not predicted, and the beginning of a frame.
		return len(b) > 0 && b[0]&0x40 == 0 && b[0]&0x08 != 0
	case strings.EqualFold(mime, webrtc.MimeTypeH264):
		return h264Keyframe(b)
	case strings.EqualFold(mime, webrtc.MimeTypeAV1):
		// AV1 RTP section 4.4: Z Y W W N. N begins a coded video sequence.
		return len(b) > 0 && b[0]&0x08 != 0
	}
	return false
}

// vp8Keyframe reads the payload descriptor (RFC 7741 section 4.2) and the frame header behind it.
func vp8Keyframe(b []byte) bool {
	if len(b) < 2 || b[0]&0x1f&^0x08 != 0x10 { // S = 1 and PID = 0: the start of the first partition
		return false
	}
	at := 1
	if b[0]&0x80 != 0 { // X
		x := b[1]
		at = 2
		if x&0x80 != 0 { // I: a picture id of 7 or 15 bits
			if at >= len(b) {
				return false
			}
			at += 1 + int(b[at]>>7)
		}
		if x&0x40 != 0 { // L
			at++
		}
		if x&0x30 != 0 { // T or K
			at++
		}
	}
	return at < len(b) && b[at]&1 == 0 // P = 0 (RFC 6386 section 9.1)
}

// h264Keyframe looks for an IDR slice or a sequence parameter set (RFC 6184 section 5.2).
func h264Keyframe(b []byte) bool {
	const idr, sps, stapA, fuA = 5, 7, 24, 28
	if len(b) < 2 {
		return false
	}
	switch t := b[0] & 0x1f; t {
	case idr, sps:
		return true
	case fuA:
		return b[1]&0x80 != 0 && b[1]&0x1f == idr
	case stapA:
		for b = b[1:]; len(b) > 2; {
			if t := b[2] & 0x1f; t == idr || t == sps {
				return true
			}
			b = b[min(len(b), 2+(int(b[0])<<8|int(b[1]))):]
		}
	}
	return false
}
