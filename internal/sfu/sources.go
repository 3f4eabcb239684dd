package sfu

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/webrtc/v4"

	"orama.network/orama/internal/signal"
)

// sourceOffAfter is how long nobody has to want an encoding before its publisher is told: who looks away for a moment would otherwise wait for an
// encoder to start.
const sourceOffAfter = 3 * time.Second

// asks are what subscribers say that they show of a track, whether or not their paths carry it. Preferences count and not what is sent,
// so a path that has become too narrow switches off nothing: what is smaller is there at once, and what is larger to be measured.
type asks struct {
	changed func() // tells the publisher's loop; it does not block
	posted  atomic.Bool

	mu sync.Mutex
	by map[*want]int // guarded by mu; the most pixels across, 0: any
}

// set notes what w asks for: width pixels across, 0 for as many as there are, and nothing when shown is false. Safe for any goroutine.
func (a *asks) set(w *want, shown bool, width int) {
	a.mu.Lock()
	was, asked := a.by[w]
	switch {
	case !shown:
		delete(a.by, w)
	case a.by == nil:
		a.by = map[*want]int{w: width}
	default:
		a.by[w] = width
	}
	a.mu.Unlock()
	if (asked != shown || was != width) && a.changed != nil && a.posted.CompareAndSwap(false, true) {
		a.changed()
	}
}

// widest gives the most that anybody asks for, 0 for as much as there is; none is true when nobody asks.
func (a *asks) widest() (width int, none bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.by {
		if w == 0 {
			return 0, false
		}
		width = max(width, w)
	}
	return width, len(a.by) == 0
}

// ask tells the track's publisher what the subscription shows.
func (w *want) ask() {
	if w.up.kind == webrtc.RTPCodecTypeVideo {
		w.up.asks.set(w, w.down != nil && !w.paused && !w.held, w.width)
	}
}

// forget tells it that the subscription is over.
func (w *want) forget() { w.up.asks.set(w, false, 0) }

// upTo gives how many encodings are of use, counted from the smallest: those up to the largest that is no wider than width, 0 for any, and at
// least one. widths are what is known of each, 0 for nothing: then each is twice the one before.
func upTo(widths []int, width int) int {
	n := len(widths)
	for n > 1 && width > 0 && widthAt(widths, n-1) > width {
		n--
	}
	return n
}

// widthAt gives the width of an encoding, or works it out from the nearest that is known.
func widthAt(widths []int, i int) int {
	for off := range widths {
		if k := i - off; k >= 0 && widths[k] > 0 {
			return widths[k] << off
		}
		if k := i + off; k < len(widths) && widths[k] > 0 {
			return widths[k] >> off
		}
	}
	return 1280 >> (len(widths) - 1 - i)
}

// switches say which encodings of a track are wanted. The publisher's loop owns it.
type switches struct {
	used []time.Time // by encoding: when it was wanted last
	on   []bool
}

// update notes that the smallest n of all encodings are wanted, and has those off that were not for a while. It begins with all on.
func (s *switches) update(n, all int, now time.Time) {
	for len(s.on) < all {
		s.on, s.used = append(s.on, true), append(s.used, now)
	}
	for i := range s.on {
		if i < n {
			s.on[i], s.used[i] = true, now
		} else if now.Sub(s.used[i]) >= sourceOffAfter {
			s.on[i] = false
		}
	}
}

// widths gives what is known of the encodings that u was announced with.
func (u *up) widths() []int {
	out := make([]int, len(u.rids))
	for _, l := range *u.layers.Load() {
		if i := slices.Index(u.rids, l.rid); i >= 0 {
			out[i] = l.width()
		}
	}
	return out
}

// wantedOf looks at who wants what of u, and gives the encodings that are of use; all is true when nothing is to be switched off.
func (u *up) wantedOf(now time.Time) (rids []string, all bool) {
	n := 0
	if width, none := u.asks.widest(); !none {
		n = upTo(u.widths(), width)
	}
	u.switches.update(n, len(u.rids), now)
	rids = []string{}
	for i, rid := range u.rids {
		if u.switches.on[i] {
			rids = append(rids, rid)
		}
	}
	return rids, len(rids) == len(u.rids)
}

// tellWanted tells the client which of its encodings somebody wants, if that has changed. It is called every second, and when somebody wants
// something else.
func (p *peer) tellWanted(now time.Time) {
	tracks := []signal.WantedTrack{}
	for _, u := range p.ups {
		if u.kind != webrtc.RTPCodecTypeVideo {
			continue
		}
		u.asks.posted.Store(false) // before it is read: what changes from here on calls again
		if rids, all := u.wantedOf(now); !all {
			tracks = append(tracks, signal.WantedTrack{Mid: u.mid, RIDs: rids})
		}
	}
	slices.SortFunc(tracks, func(a, b signal.WantedTrack) int { return cmp.Compare(a.Mid, b.Mid) })
	same := slices.EqualFunc(tracks, p.wanted, func(a, b signal.WantedTrack) bool { return a.Mid == b.Mid && slices.Equal(a.RIDs, b.RIDs) })
	if same {
		return
	}
	p.wanted = tracks
	p.repeatWanted()
}

// repeatWanted tells it again, at a new socket: the old one may have lost it.
func (p *peer) repeatWanted() {
	if p.wanted != nil {
		p.send(&signal.Wanted{Tracks: p.wanted})
	}
}
