package receive

import (
	"slices"
	"time"
)

const (
	// Window is how far behind the newest packet one may be missed. A path that was dead for two seconds leaves hundreds missing; asking for all of
	// them would keep the keyframe that makes up for them waiting.
	Window = 256
	// settle is how long a packet may be overtaken before it is asked for. It also puts what a burst has lost into one request.
	settle = 10 * time.Millisecond
	// tries is how often one is asked for.
	tries = 10
	// unknown is how long the answer to a request is awaited while the round trip is not known.
	unknown = 100 * time.Millisecond
	// soonest and latest bound that for any round trip.
	soonest, latest = 20 * time.Millisecond, 500 * time.Millisecond
	// jump is a distance between two sequence numbers that is no loss but another beginning.
	jump = 3000
)

// Losses knows which packets of one stream are missing, and when they are to be asked for. The zero value has seen none.
type Losses struct {
	begun   bool
	newest  uint16
	missing []missed // in the order of their numbers
}

type missed struct {
	seq   uint16
	due   time.Time // when it is to be asked for next
	asked int
}

// Note takes the number of a packet that has come, first or again. It reports whether others were left out before it.
func (l *Losses) Note(seq uint16, now time.Time) (left bool) {
	ahead := seq - l.newest
	switch {
	case !l.begun, ahead >= jump && ahead < 1<<16-jump:
		l.begun, l.newest, l.missing = true, seq, l.missing[:0]
		return false
	case ahead == 0:
		return false
	case ahead >= jump: // it lies behind
		if i := slices.IndexFunc(l.missing, func(m missed) bool { return m.seq == seq }); i >= 0 {
			l.missing = slices.Delete(l.missing, i, i+1)
		}
		return false
	}
	for n := seq - min(Window, ahead-1); n != seq; n++ {
		l.missing = append(l.missing, missed{seq: n, due: now.Add(settle)})
	}
	l.newest = seq
	l.missing = slices.DeleteFunc(l.missing, func(m missed) bool { return seq-m.seq > Window })
	return ahead > 1
}

// Due appends the numbers that are to be asked for now, and says after what time to look again; 0: nothing is missing. rtt is the round trip to the publisher; 0: it
// is not known.
func (l *Losses) Due(list []uint16, now time.Time, rtt time.Duration) (due []uint16, after time.Duration) {
	wait := unknown
	if rtt > 0 {
		wait = min(max(rtt+rtt/4, soonest), latest)
	}
	l.missing = slices.DeleteFunc(l.missing, func(m missed) bool { return m.asked >= tries && !now.Before(m.due) })
	for i := range l.missing {
		m := &l.missing[i]
		if m.asked < tries && !now.Before(m.due) {
			list, m.asked, m.due = append(list, m.seq), m.asked+1, now.Add(wait)
		}
		if left := m.due.Sub(now); after == 0 || left < after {
			after = left
		}
	}
	return list, after
}
